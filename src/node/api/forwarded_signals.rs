//! As the leader: signals that members send through here.

use super::signals::{KEPT, NOT_NEEDED};
use crate::Vmid;
use crate::error::errno;
use crate::leader::{Outgoing, Receiver, is_signal};
use crate::node::upcall::{Signal, SignalReply, Upcall};
use crate::node::{ANSWER_RESERVE, Node, PeerRef};
use crate::pal::Pal;
use crate::sync::Ordering;
use crate::wire::{Answer, Message, PidKill};

impl<'m, P: Pal> Node<'m, P> {
    /// Whether the first process has ended: signals for all are not for it any more.
    pub(crate) fn first_has_left(&self) -> bool {
        let leader = self.leader.as_ref();
        leader.is_some_and(|leader| leader.lock().processes().first_has_left())
    }

    /// Passes a signal on to every member but the sender. False if there is none.
    pub(crate) fn pass_on(&self, from: Vmid, kill: &PidKill) -> bool {
        let Some(leader) = &self.leader else {
            return false;
        };
        let us = self.identity.vmid;
        let mut is_any_there = false;
        {
            // In one step: who joins just now gets it by one way or the other.
            let mut leader = leader.lock();
            let processes = leader.processes();
            let is_first_there = from != us && !processes.first_has_left();
            is_any_there |= is_first_there || processes.is_any_there_but(from);
            processes.keep_for_starting(from, kill);
            for peer in self.peers.all() {
                let to = peer.vmid();
                let is_here = !peer.is_silent() && !peer.ended.load(Ordering::SeqCst);
                if to == from || !is_here || processes.is_starting(to) {
                    continue;
                }
                is_any_there = true;
                // One for all is never refused.
                let _ = processes.signals.keep(to, kill);
                peer.signals_wait.store(true, Ordering::SeqCst);
            }
        }
        for peer in self.peers.all() {
            self.send_passed(&peer);
            self.flush(&peer);
        }
        self.give_signal_answers();
        is_any_there
    }

    /// A member, or this process, wants a signal sent after those of its own that are under way. Returns
    /// the answer's status, if that is known.
    pub(crate) fn kill_ordered(
        &self,
        from: Vmid,
        seq: u64,
        kill: &PidKill,
        always: bool,
    ) -> Option<i32> {
        if !is_signal(kill.signal) {
            return Some(-errno::EINVAL);
        }
        let (to, status) = self.queue_signal(from, seq, kill, always);
        if let Some(peer) = to.and_then(|to| self.peers.find(to)) {
            peer.signals_wait.store(true, Ordering::SeqCst);
            self.send_passed(&peer);
            self.flush(&peer);
        }
        self.give_signal_answers();
        status
    }

    /// Whom the signal goes to through here, if so, and the answer's status, if that is known.
    fn queue_signal(
        &self,
        from: Vmid,
        seq: u64,
        kill: &PidKill,
        always: bool,
    ) -> (Option<Vmid>, Option<i32>) {
        let nobody = (None, Some(-errno::ESRCH));
        let Some(leader) = &self.leader else {
            return nobody;
        };
        let us = self.identity.vmid;
        let mut leader = leader.lock();
        let receiver = leader.processes().receiver(kill.pid);
        let is_process = leader.processes().is_there(kill.pid);
        let owner = leader.ranges().owner_of(kill.pid);
        let signals = &mut leader.processes().signals;
        let keep = |signals: &mut crate::leader::Signals<'m>, to| match signals.keep(to, kill) {
            Ok(()) if kill.signal == 0 => Some(0),
            Ok(()) => Some(KEPT),
            Err(errno) => Some(errno.saturating_neg()),
        };
        let to = match (receiver, owner) {
            // The library OS that knows its other threads is not there.
            (Receiver::Starting(_) | Receiver::Zombie, _) if !kill.is_for_main_thread() => {
                return nobody;
            }
            (Receiver::Starting(to), _) => return (None, keep(signals, to)),
            (Receiver::Zombie, _) => return (None, Some(0)),
            (Receiver::Owner, Some(to)) => to,
            (Receiver::Nobody, _) | (Receiver::Owner, None) => return nobody,
        };
        if to == us || to == from {
            // What comes from the asker comes in order there.
            return (None, Some(NOT_NEEDED));
        }
        let Some(peer) = self.peers.find(to).filter(|peer| !peer.is_silent()) else {
            // A process whose connection has just ended can be signalled until it is reaped.
            let is_ending = is_process && kill.is_for_main_thread();
            return (None, Some(if is_ending { 0 } else { -errno::ESRCH }));
        };
        let is_clear = if from == us {
            // What was sent is on the same stream.
            !signals.is_waiting(to)
        } else {
            // Nobody knows when a process in C has taken what it was sent.
            signals.is_clear(to) && peer.extended.load(Ordering::SeqCst)
        };
        if is_clear && !always {
            return (None, Some(NOT_NEEDED));
        }
        if seq == 0 || !signals.ask(to, kill, from, seq) {
            return (Some(to), keep(signals, to));
        }
        // Before anybody else can answer.
        if let Some(asker) = self.peers.find(from) {
            asker.keep_room(SignalReply::ROOM);
        }
        (Some(to), None)
    }

    /// Queues the signals that wait for the peer, as far as there is room; the others go when there is.
    pub(crate) fn send_passed(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        let Some(leader) = &self.leader else { return };
        let to = peer.vmid();
        // Most of the time, without the lock.
        while peer.signals_wait.load(Ordering::SeqCst) {
            let mut leader = leader.lock();
            let processes = leader.processes();
            let next = processes.signals.next(to);
            let Some(next) = next.filter(|_| !processes.is_starting(to)) else {
                peer.signals_wait.store(false, Ordering::SeqCst);
                return;
            };
            let is_answered = peer.extended.load(Ordering::SeqCst);
            let (seq, message) = frame_of(&next, is_answered);
            let mut queue = peer.queue.lock();
            if queue.closed || queue.room() < message.length().saturating_add(ANSWER_RESERVE) {
                return;
            }
            if queue.filling.push(seq, &message).is_ok() {
                queue.note();
                self.note_out(to, seq, &message);
            }
            processes.signals.sent(to, &next, is_answered);
        }
    }

    /// Sends what waits since somebody last looked: signals of the system itself, and those for processes
    /// that have joined. False if some for this process itself found no room.
    pub(crate) fn send_all_passed(&self) -> bool {
        let Some(leader) = &self.leader else {
            return true;
        };
        let is_due = {
            let mut leader = leader.lock();
            core::mem::take(&mut leader.processes().signals.is_due)
        };
        if !is_due {
            return true;
        }
        let mut done = true;
        let mut last = None;
        loop {
            let next = leader.lock().processes().signals.next_target(last);
            let Some(to) = next else { break };
            last = next;
            if to == self.identity.vmid {
                done &= self.take_own_signals();
            } else if let Some(peer) = self.peers.find(to) {
                peer.signals_wait.store(true, Ordering::SeqCst);
                self.send_passed(&peer);
                self.flush(&peer);
            }
        }
        if !done {
            leader.lock().processes().signals.is_due = true;
        }
        done
    }

    /// Puts aside for the embedder what the system has for this process. False if there is no room.
    fn take_own_signals(&self) -> bool {
        let (us, Some(leader)) = (self.identity.vmid, &self.leader) else {
            return true;
        };
        loop {
            let mut leader = leader.lock();
            let signals = &mut leader.processes().signals;
            let Some(next) = signals.next(us) else {
                return true;
            };
            let reply = SignalReply { to: us, seq: 0 };
            if !self.tell(Upcall::Signal(Signal::read(us, &next.kill), reply)) {
                return false;
            }
            signals.sent(us, &next, false);
        }
    }

    /// A member answers a signal that came through here. False if it was sent none such.
    pub(crate) fn signal_answered(&self, from: Vmid, seq: u64, status: i32) -> bool {
        let Some(leader) = &self.leader else {
            return false;
        };
        // What is positive is for the leader alone to say.
        let status = status.min(0);
        let was_sent = {
            let mut leader = leader.lock();
            leader.processes().signals.answered(from, seq, status)
        };
        self.give_signal_answers();
        was_sent
    }

    /// Answers those whose signals have come to something.
    pub(crate) fn give_signal_answers(&self) {
        let Some(leader) = &self.leader else { return };
        loop {
            let next = leader.lock().processes().signals.next_answer();
            let Some(answer) = next else { return };
            let status = Answer::Status(answer.status);
            // An asker that is gone needs no answer.
            let _ = self.reply(answer.to, answer.seq, &status, SignalReply::ROOM);
        }
    }
}

/// The message that a signal goes to its target in, and its sequence number.
fn frame_of(signal: &Outgoing, is_answered: bool) -> (u64, Message<'static>) {
    match (signal.is_asked, is_answered) {
        (true, _) => (signal.seq, Message::PidKill(signal.kill)),
        (false, true) => (signal.seq, Message::KillPassed(signal.kill)),
        // A process in C answers no signal for all.
        (false, false) => (0, Message::PidKill(signal.kill)),
    }
}
