//! On the leader: the signals that members send through it.

use crate::Vmid;
use crate::error::Errno;
use crate::leader::{Op, Outcome, OutgoingSignal};
use crate::node::connection::Retry;
use crate::node::upcall::{Signal, SignalReply, Upcall};
use crate::node::{ANSWER_RESERVE, Node, PeerRef};
use crate::pal::Pal;
use crate::store::total;
use crate::sync::Ordering;
use crate::wire::{Answer, Message, PidKill};

impl<'m, P: Pal> Node<'m, P> {
    /// Whether the leader's own process has ended: it gets no more signals for all processes.
    pub(crate) fn first_has_left(&self) -> bool {
        let leader = self.leader.as_ref();
        leader.is_some_and(|leader| leader.lock().processes().first_has_left())
    }

    /// Forwards a signal to every member but the sender. False if there is none.
    pub(crate) fn forward_to_all(&self, from: Vmid, kill: &PidKill) -> bool {
        let Some(leader) = &self.leader else {
            return false;
        };
        let us = self.identity.vmid;
        let mut is_any_there = false;
        {
            // Under one lock, so that a process that joins at this moment gets the signal exactly
            // once.
            let mut leader = leader.lock();
            let is_first_there = from != us && !leader.processes().first_has_left();
            is_any_there |= is_first_there || leader.processes().has_any_except(from);
            leader.apply(&Op::SignalStarting { from, kill: *kill });
            for peer in self.peers.all() {
                let to = peer.vmid();
                let is_here = !peer.lacks_inbound() && !peer.ended.load(Ordering::SeqCst);
                if to == from || !is_here || leader.processes().is_starting(to) {
                    continue;
                }
                is_any_there = true;
                leader.apply(&Op::Signal(to, *kill));
                peer.has_pending_signals.store(true, Ordering::SeqCst);
            }
        }
        if self.send_all_pending_signals() != Retry::No {
            self.wake();
        }
        self.send_signal_answers();
        is_any_there
    }

    /// Queues the pending signals for the peer, as far as there is room; the worker sends the
    /// others when there is.
    pub(crate) fn send_pending_signals(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        let Some(leader) = &self.leader else { return };
        let to = peer.vmid();
        // Usually there are none, and no lock is taken.
        while peer.has_pending_signals.load(Ordering::SeqCst) {
            let mut leader = leader.lock();
            let processes = leader.processes();
            let next = processes.signals.next(to);
            let Some(next) = next.filter(|_| !processes.is_starting(to)) else {
                peer.has_pending_signals.store(false, Ordering::SeqCst);
                return;
            };
            let is_answered = peer.extended.load(Ordering::SeqCst);
            let (seq, message) = frame_of(&next, is_answered);
            let mut queue = peer.queue.lock();
            if queue.closed || queue.room() < total!(message.length(), ANSWER_RESERVE) {
                return;
            }
            if queue.filling.push(seq, &message).is_ok() {
                queue.record_push();
                self.trace_tx(to, seq, &message);
            }
            leader.apply(&Op::SignalSent { to, is_answered });
        }
    }

    /// Sends the signals that have become pending: those for all, those of the system itself, and
    /// those for processes that have joined. It sends to a limited number of peers; the worker goes
    /// on with the others in its next turn. Returns when there is more to do.
    pub(crate) fn send_all_pending_signals(&self) -> Retry {
        let Some(leader) = &self.leader else {
            return Retry::No;
        };
        let raised = leader.lock().processes().signals.ready_count();
        // The lock is a token: the thread that holds it sends.
        let Some(mut pass) = self.leader_limits.signal_pass.try_lock() else {
            return Retry::Soon;
        };
        if pass.last.is_none() {
            if raised == pass.sent {
                return Retry::No;
            }
            pass.begin(raised);
        }
        while pass.take_process(self.turn()) {
            let next = leader.lock().processes().signals.next_target(pass.last);
            let Some(to) = next else {
                return pass.end(raised);
            };
            pass.last = next;
            if to == self.identity.vmid {
                pass.is_complete &= self.queue_own_signals();
            } else if let Some(peer) = self.peers.find(to) {
                peer.has_pending_signals.store(true, Ordering::SeqCst);
                self.send_pending_signals(&peer);
                self.flush(&peer);
            }
        }
        Retry::Now
    }

    /// Queues the system's signals for this process for the embedder. False if there is no room.
    fn queue_own_signals(&self) -> bool {
        let (us, Some(leader)) = (self.identity.vmid, &self.leader) else {
            return true;
        };
        loop {
            let mut leader = leader.lock();
            let Some(next) = leader.processes().signals.next(us) else {
                return true;
            };
            let reply = SignalReply { to: us, seq: 0 };
            if !self.try_enqueue_upcall(Upcall::Signal(Signal::read(us, &next.kill), reply)) {
                return false;
            }
            leader.apply(&Op::SignalSent {
                to: us,
                is_answered: false,
            });
        }
    }

    /// Handles the answer of a member to a forwarded signal. False if no such signal was sent to
    /// it.
    pub(crate) fn signal_answered(&self, from: Vmid, seq: u64, result: Result<(), Errno>) -> bool {
        let Some(leader) = &self.leader else {
            return false;
        };
        let answered = leader
            .lock()
            .apply(&Op::SignalAnswered { from, seq, result });
        self.send_signal_answers();
        answered == Outcome::Done
    }

    /// Sends the answers to forwarded signals whose outcome is known.
    pub(crate) fn send_signal_answers(&self) {
        let Some(leader) = &self.leader else { return };
        loop {
            let next = {
                let mut leader = leader.lock();
                let next = leader.processes().signals.next_answer();
                if next.is_some() {
                    leader.apply(&Op::SignalAnswerTaken);
                }
                next
            };
            let Some(answer) = next else { return };
            let status = Answer::Status(answer.result.map(|()| 0));
            // A peer that is gone needs no answer.
            let _ = self.reply(answer.to, answer.seq, &status, SignalReply::ROOM);
        }
    }
}

/// Returns the message that carries the signal to its target, and its sequence number.
fn frame_of(signal: &OutgoingSignal, is_answered: bool) -> (u64, Message<'static>) {
    match (signal.is_awaited, is_answered) {
        (true, _) => (signal.seq, Message::PidKill(signal.kill)),
        (false, true) => (signal.seq, Message::KillPassed(signal.kill)),
        // A process in C answers no signal for all.
        (false, false) => (0, Message::PidKill(signal.kill)),
    }
}
