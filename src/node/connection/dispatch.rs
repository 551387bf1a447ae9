//! The dispatcher: from a frame to the operation that it requests.

use crate::sync::Ordering;

use super::peer_share::FRAMES;
use super::poll_loop::Retry;
#[cfg(feature = "capi")]
use crate::Vmid;
use crate::counters::Refusal;
use crate::error::Errno;
#[cfg(feature = "capi")]
use crate::error::{Error, Invalid};
use crate::leader::{Op, Outcome, Signals, is_signal};
use crate::node::{Delivery, LeaderTables, Node, PeerRef, Signal, SignalReply, Upcall};
use crate::pal::Pal;
use crate::wire::{Answer, Expected, FileLock, Frame, KillTarget, Message, PidKill, codes};

use crate::{Id, parts};

impl<'m, P: Pal> Node<'m, P> {
    /// Executes a message, or delivers an answer to its waiter.
    // Its state must not become part of the stack frame of a call that reads its answer.
    #[inline(never)]
    pub(super) fn handle_frame(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        frame: &Frame<'_>,
    ) -> Result<Retry, Refusal> {
        self.note_leader_frame(peer);
        // A process that has no leader yet asks this before it says HELLO to its leader.
        let is_early = frame.code == codes::WHO_LEADS && self.follows();
        if parts::PROCESSES && frame.code != codes::HELLO && !is_early && !peer.is_extended() {
            self.note_without_hello(peer);
        }
        if frame.code == codes::RESP {
            self.handle_answer(peer, frame.seq, frame.payload)?;
            return Ok(Retry::No);
        }
        // A peer whose process has ended only sends these, to learn whether the leader, or its successor,
        // knows of the end.
        let is_question = frame.code == codes::GET_ID_OWNER || frame.code == codes::REJOIN;
        if peer.member.ended.load(Ordering::SeqCst) && !is_question {
            return Ok(Retry::No);
        }
        // A message is large: it stays where it was decoded.
        let decoded = frame.message();
        // The codes of extensions have no meaning from a peer that has not sent HELLO.
        let is_known = frame.code <= codes::HELLO || is_early || peer.is_extended();
        let message = match &decoded {
            Ok(message) if is_known && !matches!(message, Message::Unknown(_)) => message,
            Err(malformed) if is_known && frame.code != codes::HELLO => {
                return Err(Refusal::Malformed(*malformed));
            }
            _ => {
                self.counters.unknown_codes.add(1);
                return Ok(Retry::No);
            }
        };
        if self.follows()
            && let Some(retry) = self.drop_or_defer(peer, frame, message)?
        {
            return Ok(retry);
        }
        if let Some(leader) = self.leading() {
            if Op::is_change(message) {
                return self.handle_change(leader, peer, frame, message);
            }
            let answer = leader.lock().look_up(peer.vmid(), message);
            if let Some(answer) = answer {
                self.answer(peer, frame.seq, &answer);
                return Ok(Retry::No);
            }
            if let Message::PidKill(kill) = message
                && kill.target == KillTarget::All
            {
                return Ok(self.handle_kill_all(leader, peer, frame.seq, kill));
            }
        }
        self.handle_as_member(peer, frame, message)
    }

    /// Returns how the worker goes on with a message that is not executed because the leader changes: it drops a void
    /// message, and handles a deferred one again later. None for a message that is executed now.
    #[inline(never)]
    fn drop_or_defer(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        frame: &Frame<'_>,
        message: &Message<'_>,
    ) -> Result<Option<Retry>, Refusal> {
        if self.is_void(peer, frame) {
            return Ok(Some(Retry::No));
        }
        Ok(self.is_deferred(peer, message)?.then_some(Retry::Soon))
    }

    /// As the leader: executes a message that changes the tables, or goes on with it.
    // Its state must not become part of the stack frame of a look-up.
    #[inline(never)]
    fn handle_change(
        &self,
        leader: &LeaderTables<'m>,
        peer: &PeerRef<'_, 'm, P::Stream>,
        frame: &Frame<'_>,
        message: &Message<'_>,
    ) -> Result<Retry, Refusal> {
        if peer.member.is_applied.load(Ordering::Relaxed) {
            return self.handle_as_member(peer, frame, message);
        }
        let plain;
        let message = match message {
            // A delegation is not granted if a frame of this process can't hold its return, or if the peer
            // returns files late.
            Message::FileLockDelegate(lock)
                if !self.config.capacities.fits_delegation()
                    || !peer.member.recall_debt.allows_delegation(self.now()) =>
            {
                plain = Message::FileLockSet(FileLock { handle: 0, ..*lock });
                &plain
            }
            message => message,
        };
        // The resources of a member that ends are free before its parent learns of the end.
        if let Message::ChildExit(exit) = message
            && self.is_last_exit(peer, exit.pid)
            && !self.reclaim_resources_of(peer)
        {
            return Ok(Retry::Now);
        }
        if let Message::ProcessReap(pid) = message
            && !self.reclaim_abandoned(leader, peer, *pid)
        {
            return Ok(Retry::Now);
        }
        match self.apply_request(leader, peer, frame.seq, message) {
            Outcome::Answer(answer) => {
                self.answer(peer, frame.seq, &answer);
                Ok(Retry::No)
            }
            Outcome::NotForLeader => self.handle_as_member(peer, frame, message),
            // Others are served before the frame is handled again.
            Outcome::Remaining(_) => Ok(Retry::Now),
            _ => Ok(Retry::No),
        }
    }

    /// Executes a message that is not for the leader's tables, or was applied to them.
    fn handle_as_member(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        frame: &Frame<'_>,
        message: &Message<'_>,
    ) -> Result<Retry, Refusal> {
        let retry = self.handle_member_message(peer, frame.seq, message)?;
        if Op::is_change(message) {
            peer.member
                .is_applied
                .store(retry != Retry::No, Ordering::Relaxed);
        }
        if retry == Retry::No {
            self.count_received(peer, frame.code, frame.seq);
            if let Message::ChildExit(exit) = *message {
                self.process_ended(peer, exit.pid);
            }
        }
        Ok(retry)
    }

    /// As the leader: handles a member's announcement that its process ends. A member that has sent HELLO has
    /// ended with this message; a process in C ends when it closes its streams.
    fn process_ended(&self, peer: &PeerRef<'_, 'm, P::Stream>, pid: Id) {
        if self.is_last_exit(peer, pid) {
            peer.member.ended.store(true, Ordering::SeqCst);
            self.note_end_of(peer.vmid());
            while !self.reclaim_all_of(peer) {}
        }
    }

    /// As the leader: returns true if the member, which has sent HELLO, ends with that process.
    fn is_last_exit(&self, peer: &PeerRef<'_, 'm, P::Stream>, pid: Id) -> bool {
        self.leading().is_some_and(|leader| {
            peer.is_extended() && leader.lock().processes().is_running(peer.vmid(), pid)
        })
    }

    /// As the leader: records that the first frame of the peer was no HELLO. So it is a process in C, which
    /// never announces that it runs.
    fn note_without_hello(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        let Some(leader) = self.leading() else { return };
        if !peer.lacks_hello.swap(true, Ordering::SeqCst) {
            leader.lock().apply(&Op::RunUnjoined(peer.vmid()));
        }
    }

    /// Handles a frame as if it had just come from the peer, which loses its connection if the
    /// frame is invalid.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if it is not connected, [`Error::Invalid`] for a bad one,
    /// [`Error::NoIds`] (`EAGAIN`) if there is no room for it now.
    #[cfg(feature = "capi")]
    pub(crate) fn inject_frame(&self, from: Vmid, frame: &Frame<'_>) -> Result<(), Error> {
        let peer = self.peers.find(from).ok_or(Error::NoSuchProcess)?;
        if Expected::of(frame.code).is_some() && !peer.has_room() {
            return Err(Error::NoIds);
        }
        let taken = self.handle_frame(&peer, frame);
        self.flush(&peer);
        self.wake();
        match taken {
            Ok(Retry::No) => Ok(()),
            Ok(_) => Err(Error::NoIds),
            Err(refusal) => {
                self.fault(&peer, refusal);
                Err(Error::Invalid(Invalid::Message))
            }
        }
    }

    /// As the leader: handles a signal for all processes but the sender.
    fn handle_kill_all(
        &self,
        leader: &LeaderTables<'m>,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        kill: &PidKill,
    ) -> Retry {
        let from = peer.vmid();
        let result = if is_signal(kill.signal) {
            // Each costs time for every member, so the worker handles one in a poll iteration.
            let iteration = self.iteration();
            let last = &self.leader_limits.broadcast_iteration;
            if last.load(Ordering::Relaxed) == iteration {
                return Retry::Now;
            }
            let reply = SignalReply { to: from, seq: 0 };
            let is_for_us = kill.signal != 0 && !self.has_own_process_ended();
            if is_for_us
                && let Ok(signal) = Signal::read(from, kill)
                && !self.try_enqueue_upcall(Upcall::Signal(signal, reply))
            {
                return Retry::Now;
            }
            last.store(iteration, Ordering::Relaxed);
            peer.charge.store(FRAMES, Ordering::Relaxed);
            self.forward_to_all((from, seq), kill)
        } else {
            let errno = Errno::EINVAL;
            let refusal = Op::SignalAllRefused { from, seq, errno };
            leader.lock().apply(&refusal);
            Err(errno)
        };
        if seq != 0 {
            self.answer(peer, seq, &Answer::Status(result.map(|()| 0)));
        }
        Retry::No
    }

    /// Delivers an answer to its waiter.
    fn handle_answer(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        if self.leads() && Signals::is_forwarded(seq) {
            return self.handle_signal_answer(peer, seq, payload);
        }
        if let Some(following) = self.following()
            && self.handle_answer_as_follower(following, peer, seq, payload)?
        {
            return Ok(());
        }
        match self.waiters.answer(peer.vmid(), seq, payload) {
            Delivery::Done => {}
            Delivery::Wrong => return Err(Refusal::WrongAnswer),
            delivery => self.finish_delivery(&delivery),
        }
        Ok(())
    }

    /// As the leader: handles the answer of a member to a forwarded signal.
    fn handle_signal_answer(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        let Ok(Answer::Status(result)) = Answer::decode(Expected::Status, payload) else {
            return Err(Refusal::WrongAnswer);
        };
        // The numbers of a success are reserved for the leader.
        if !self.signal_answered(peer.vmid(), seq, result.map(drop)) {
            self.counters.late_answers.add(1);
        }
        Ok(())
    }
}
