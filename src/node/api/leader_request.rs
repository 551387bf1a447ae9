//! Requests to the leader: those of a member, and those of the leader's own process.

use crate::Vmid;
use crate::error::Error;
use crate::invariant::OrBroken;
use crate::leader::{Op, Outcome, Presence};
use crate::node::{LeaderTables, Node, PeerRef, Sender};
use crate::pal::Pal;
use crate::sync::Ordering;
use crate::wire::{Answer, Message};

impl<'m, P: Pal> Node<'m, P> {
    /// As the leader: applies a request of a member that changes the tables, and sends at once all messages that follow
    /// from it. The answer gets the sequence number `seq`, 0 for none.
    pub(in crate::node) fn apply_request(
        &self,
        leader: &LeaderTables<'m>,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        message: &Message<'_>,
    ) -> Outcome {
        let from = peer.vmid();
        let mut tables = leader.lock();
        let awaited_by = match message {
            Message::FileLockReturn { delegation, .. } => {
                tables.locks().awaited_by(from, *delegation)
            }
            _ => None,
        };
        let removed = tables.locks().removed();
        let other = tables.other(message);
        let outcome = tables.apply(&Op::Request {
            from,
            seq,
            message,
            other: self.presence(other, message),
        });
        charge_for_locks(peer, tables.locks().removed().wrapping_sub(removed));
        // This comes before any answer to another process.
        if seq != 0 && matches!(outcome, Outcome::Later) {
            peer.reserve_reply(room_for_later(message));
        }
        drop(tables);
        if let Some(awaited_by) = awaited_by {
            peer.member.recall_debt.note_return(self.now(), awaited_by);
        }
        self.follow_change(leader, message, other, &outcome);
        outcome
    }

    /// As the leader: applies a request of this process itself, and sends at once all messages that follow from it. The
    /// answer gets the sequence number `seq`, 0 for none.
    ///
    /// # Errors
    /// As [`Node::check_running`] and [`Node::check_length`].
    #[inline]
    pub(in crate::node) fn apply_own_request(
        &self,
        leader: &LeaderTables<'m>,
        seq: u64,
        message: &Message<'_>,
    ) -> Result<Outcome, Error> {
        if Op::is_change(message) {
            return self.apply_own_change(leader, seq, message);
        }
        let mut tables = leader.lock();
        self.check_own_change()?;
        let answer = tables.look_up(self.identity.vmid, message);
        Ok(answer.map_or(Outcome::NotForLeader, Outcome::Answer))
    }

    /// Like [`Node::apply_own_request`], for a request that changes the tables.
    #[inline(never)]
    fn apply_own_change(
        &self,
        leader: &LeaderTables<'m>,
        seq: u64,
        message: &Message<'_>,
    ) -> Result<Outcome, Error> {
        loop {
            let mut tables = leader.lock();
            self.check_own_change()?;
            // Every frame can hold a message that changes nothing.
            self.check_length(message)?;
            let other = tables.other(message);
            let in_order = self.in_order(message, other);
            let message = in_order.as_ref().map_or(message, |message| message);
            let outcome = tables.apply(&Op::Request {
                from: self.identity.vmid,
                seq,
                message,
                other: self.presence(other, message),
            });
            drop(tables);
            // Other requests are served between the portions.
            if !matches!(outcome, Outcome::Remaining(_)) {
                self.follow_change(leader, message, other, &outcome);
                return Ok(outcome);
            }
        }
    }

    /// Returns the request that replaces one for a signal, if the signal is for a member that has not rejoined: earlier
    /// signals for the member wait at the leader, so this one must be queued behind them.
    fn in_order<'a>(&self, message: &Message<'a>, to: Option<Vmid>) -> Option<Message<'a>> {
        let Message::KillOrdered { kill, .. } = *message else {
            return None;
        };
        let peer = to.and_then(|to| self.peers.find(to))?;
        let always = peer.awaits_rejoin();
        always.then_some(Message::KillOrdered { kill, always })
    }

    /// Checks, under the lock of the tables, that this process may change them: its resources are reclaimed once, when it
    /// ends.
    ///
    /// # Errors
    /// As [`Node::check_running`].
    #[inline]
    fn check_own_change(&self) -> Result<(), Error> {
        let checked = self.check_running();
        if checked.is_err() && self.executes_kept_frames() {
            return Ok(());
        }
        checked
    }

    /// As the leader: sends the messages of a request that has changed the tables, and does the rest of its work. The
    /// tables are unlocked. `other` is the process that the request is about.
    #[inline]
    fn follow_change(
        &self,
        leader: &LeaderTables<'m>,
        message: &Message<'_>,
        other: Option<Vmid>,
        outcome: &Outcome,
    ) {
        if let Message::FileHandle {
            handle, held: true, ..
        } = message
            && matches!(
                outcome,
                Outcome::Done | Outcome::Answer(Answer::Status(Ok(_)))
            )
            && other == Some(self.identity.vmid)
        {
            self.used_locks.record_open_file(*handle);
        }
        // This comes before the answer, which may assume that another process knows of the change.
        self.send_leader_output(leader, Sender::Call);
        match outcome {
            Outcome::Abandoned(vmid) if !self.is_connected(*vmid) => self.reclaim_absent(*vmid),
            Outcome::Rejected => self.counters.rejected_oneway.add(1),
            _ => {}
        }
    }

    /// As the leader: returns how the process `other`, which a request is about, is connected with this one. A
    /// request about no process has `None`.
    #[inline]
    fn presence(&self, other: Option<Vmid>, message: &Message<'_>) -> Presence {
        other.map_or(Presence::Absent, |other| self.presence_of(other, message))
    }

    fn presence_of(&self, vmid: Vmid, message: &Message<'_>) -> Presence {
        if vmid == self.identity.vmid {
            return Presence::Connected;
        }
        // A VMID is not given out if a process has chosen it itself, which this one may only be about to
        // connect with.
        let is_chosen = matches!(message, Message::GetNewVmid);
        let peer = self.peers.find(vmid);
        match peer.filter(|peer| is_chosen || peer.is_member()) {
            None => Presence::Absent,
            Some(peer) if peer.is_extended() => Presence::Extended,
            Some(_) => Presence::Connected,
        }
    }
}

/// Returns the length of an answer that is sent later.
const fn room_for_later(message: &Message<'_>) -> usize {
    match message {
        Message::FileLockGet(_) => Answer::Lock(Ok(None)).length(),
        _ => Answer::DONE.length(),
    }
}

/// The number of locks that one request may remove and count as one frame.
const LOCKS_PER_FRAME: u64 = 64;

/// Charges the sender of a request that has removed many locks: each lock beyond the first 64 counts as
/// a frame of the sender's share in a poll iteration.
fn charge_for_locks<S>(peer: &PeerRef<'_, '_, S>, removed: u64) {
    if let Some(more) = removed.checked_sub(LOCKS_PER_FRAME) {
        let frames = u32::try_from(more).or_broken(u32::MAX);
        peer.charge.store(frames, Ordering::Relaxed);
    }
}
