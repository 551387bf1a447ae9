//! The leader's node reclaims what a process had that is gone, in portions: between them the leader's
//! tables are free, and the worker serves others.

use crate::Vmid;
use crate::leader::{Op, Outcome};
use crate::node::{LeaderTables, Node, PeerRef, Phase, Sender};
use crate::pal::Pal;
use crate::sync::{AtomicU64, Ordering};

/// What is left to do to reclaim the resources of a process: first its file locks, then its leases,
/// then its children. The step is in the upper bits, the rest of that step in the lower ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::node) struct Reclaim(u64);

impl Reclaim {
    const SHIFT: u32 = 60;
    const REST: u64 = (1 << Reclaim::SHIFT) - 1;
    const LEASES: u64 = 2;
    const LOCKS: u64 = 3;

    pub(in crate::node) const START: Reclaim = Reclaim::step(Reclaim::LOCKS);
    const DONE: Reclaim = Reclaim(0);

    /// The beginning of a step.
    const fn step(step: u64) -> Reclaim {
        Reclaim((step << Reclaim::SHIFT) | Reclaim::REST)
    }

    pub(in crate::node) fn is_done(self) -> bool {
        self == Reclaim::DONE
    }

    fn is_same_step(self, other: Reclaim) -> bool {
        self.0 >> Reclaim::SHIFT == other.0 >> Reclaim::SHIFT
    }

    fn has_locks(self) -> bool {
        self.0 >> Reclaim::SHIFT == Reclaim::LOCKS
    }

    /// The operation that reclaims the next portion.
    fn op(self, owner: Vmid) -> Op<'static> {
        let left = self.0 & Reclaim::REST;
        match self.0 >> Reclaim::SHIFT {
            Reclaim::LOCKS => Op::ReclaimLocks { owner, left },
            Reclaim::LEASES => Op::ReclaimLeases { owner, left },
            _ => Op::ReclaimChildren { owner, left },
        }
    }

    /// What is left after a portion of which `rest` is left.
    fn after(self, rest: u64) -> Reclaim {
        let step = self.0 >> Reclaim::SHIFT;
        match step.checked_sub(1) {
            _ if rest > 0 => Reclaim((step << Reclaim::SHIFT) | rest),
            Some(next) if next > 0 => Reclaim::step(next),
            _ => Reclaim::DONE,
        }
    }
}

/// A [`Reclaim`] that only the worker changes.
pub(crate) struct AtomicReclaim(AtomicU64);

impl AtomicReclaim {
    pub(in crate::node) fn new() -> AtomicReclaim {
        AtomicReclaim(AtomicU64::new(Reclaim::START.0))
    }

    fn load(&self) -> Reclaim {
        Reclaim(self.0.load(Ordering::SeqCst))
    }

    pub(in crate::node) fn store(&self, left: Reclaim) {
        self.0.store(left.0, Ordering::SeqCst);
    }
}

/// What is left after an operation that did a portion.
pub(in crate::node) fn remaining(outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Remaining(left) => left,
        _ => 0,
    }
}

impl<'m, P: Pal> Node<'m, P> {
    /// On the leader: reclaims a portion of what a member had that is gone. Returns what is left.
    pub(in crate::node) fn reclaim_portion(
        &self,
        leader: &LeaderTables<'m>,
        vmid: Vmid,
        left: Reclaim,
    ) -> Reclaim {
        let outcome = {
            let mut leader = leader.lock();
            let outcome = leader.apply(&left.op(vmid));
            self.note_revocations(&leader);
            outcome
        };
        self.send_output(Sender::Call);
        left.after(remaining(outcome))
    }

    /// On the leader: releases a portion of the file locks of a peer whose process has ended.
    /// Returns whether that was all; the worker serves others before it calls again.
    pub(in crate::node) fn reclaim_locks_of(&self, peer: &PeerRef<'_, 'm, P::Stream>) -> bool {
        self.reclaim_of(peer, |left| !left.has_locks())
    }

    /// As [`Node::reclaim_locks_of`], for all that a peer had which is gone.
    pub(in crate::node) fn reclaim_all_of(&self, peer: &PeerRef<'_, 'm, P::Stream>) -> bool {
        self.reclaim_of(peer, Reclaim::is_done)
    }

    fn reclaim_of(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        is_enough: fn(Reclaim) -> bool,
    ) -> bool {
        let Some(leader) = self.leading() else {
            return true;
        };
        let mut left = peer.reclaim_left.load();
        if self.phase() >= Phase::Closing {
            return true;
        }
        // A step that one portion completes is followed by the next one at once.
        while !is_enough(left) {
            let next = self.reclaim_portion(leader, peer.vmid(), left);
            peer.reclaim_left.store(next);
            if next.is_same_step(left) {
                return false;
            }
            left = next;
        }
        true
    }
}
