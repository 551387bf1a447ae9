//! Requests to the leader: one path for those of a member and those of the leader's own process.

use crate::Vmid;
use crate::error::Error;
use crate::invariant::OrBroken;
use crate::leader::{Op, Outcome, Presence};
use crate::node::{LeaderGuard, LeaderTables, Node, PeerRef, Sender};
use crate::pal::Pal;
use crate::sync::Ordering;
use crate::wire::{Answer, Message};

impl<'m, P: Pal> Node<'m, P> {
    /// As the leader: applies a request of a member, whose connection is `peer`, or of this
    /// process, and sends at once all messages that follow from it. The answer gets the sequence
    /// number `seq`, 0 for none.
    ///
    /// # Errors
    /// As [`Node::check_running`] and [`Node::check_length`], for this process's own requests.
    #[inline]
    pub(crate) fn apply_request(
        &self,
        leader: &LeaderTables<'m>,
        (from, seq): (Vmid, u64),
        message: &Message<'_>,
        peer: Option<&PeerRef<'_, 'm, P::Stream>>,
    ) -> Result<Outcome, Error> {
        let mut tables = leader.lock();
        if peer.is_none() {
            self.check_own_change()?;
        }
        if let Some(answer) = tables.look_up(from, message) {
            return Ok(Outcome::Answer(answer));
        }
        if !Op::is_change(message) {
            return Ok(Outcome::NotForLeader);
        }
        self.apply_change(leader, tables, (from, seq), message, peer)
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

    /// As [`Node::apply_request`], for a request that changes the tables, which are locked.
    // Its state must not become part of the stack frame of a look-up.
    #[inline(never)]
    fn apply_change<'a>(
        &self,
        leader: &'a LeaderTables<'m>,
        mut tables: LeaderGuard<'a, 'm>,
        (from, seq): (Vmid, u64),
        message: &Message<'_>,
        peer: Option<&PeerRef<'_, 'm, P::Stream>>,
    ) -> Result<Outcome, Error> {
        if peer.is_none() {
            // Every frame can hold a message that changes nothing.
            self.check_length(message)?;
        }
        let returns_recalled = match message {
            Message::FileLockReturn { delegation, .. } => {
                peer.filter(|_| tables.locks().is_recalled(from, *delegation))
            }
            _ => None,
        };
        let (outcome, other) = loop {
            let other = tables.other(message);
            let removed = tables.locks().removed();
            let outcome = tables.apply(&Op::Request {
                from,
                seq,
                message: *message,
                other: other.map_or(Presence::Absent, |other| self.presence(other, message)),
            });
            // Other requests are served between the portions.
            if peer.is_none() && matches!(outcome, Outcome::Remaining(_)) {
                drop(tables);
                tables = leader.lock();
                self.check_own_change()?;
                continue;
            }
            if let Some(peer) = peer {
                let removed = tables.locks().removed().wrapping_sub(removed);
                charge_for_locks(peer, removed);
            }
            // This comes before any answer to another process.
            if matches!(outcome, Outcome::Later)
                && seq != 0
                && let Some(peer) = peer
            {
                peer.reserve_reply(room_for_later(message));
            }
            drop(tables);
            break (outcome, other);
        };
        if let Some(peer) = returns_recalled {
            peer.recall_debt.note_return(self.now());
        }
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
        self.send_output(Sender::Call);
        match outcome {
            Outcome::Abandoned(vmid) if !self.is_connected(vmid) => self.reclaim_absent(vmid),
            Outcome::Rejected => self.counters.rejected_oneway.add(1),
            _ => {}
        }
        Ok(outcome)
    }

    /// As the leader: returns how a process is connected with this one, for a request that is about it.
    fn presence(&self, vmid: Vmid, message: &Message<'_>) -> Presence {
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
/// a frame of the sender's share in a turn.
fn charge_for_locks<S>(peer: &PeerRef<'_, '_, S>, removed: u64) {
    if let Some(more) = removed.checked_sub(LOCKS_PER_FRAME) {
        let frames = u32::try_from(more).or_broken(u32::MAX);
        peer.charge.store(frames, Ordering::Relaxed);
    }
}
