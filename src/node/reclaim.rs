//! The leader's node reclaims what a process had that is gone, in portions: between them the leader's
//! tables are free, and the worker serves others.

use crate::leader::{Leader, Op, Outcome};
use crate::node::{LeaderTables, Node, PeerRef, Phase, Sender};
use crate::pal::Pal;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::{Id, Vmid};

/// The work that is left to reclaim the resources of a process: first its file locks, then its leases, its
/// children, the IDs that it gave away and its own ones. The last step is its end itself: it is reported
/// when all that the process had is free. The step is in the upper bits, the rest of that step in the lower ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Reclaim(u64);

impl Reclaim {
    const SHIFT: u32 = 60;
    const REST: u64 = (1 << Reclaim::SHIFT) - 1;
    const LEFT: u64 = 1;
    const RANGES: u64 = 2;
    const GRANTS: u64 = 3;
    const CHILDREN: u64 = 4;
    const LEASES: u64 = 5;
    const LOCKS: u64 = 6;

    const START: Reclaim = Reclaim::step(Reclaim::LOCKS);
    const DONE: Reclaim = Reclaim(0);

    /// Returns the beginning of a step.
    const fn step(step: u64) -> Reclaim {
        Reclaim((step << Reclaim::SHIFT) | Reclaim::REST)
    }

    fn is_same_step(self, other: Reclaim) -> bool {
        self.0 >> Reclaim::SHIFT == other.0 >> Reclaim::SHIFT
    }

    /// Returns true if only the end itself is left.
    fn has_nothing(self) -> bool {
        self <= Reclaim::step(Reclaim::LEFT)
    }

    /// Returns the operation that reclaims the next portion.
    fn op(self, owner: Vmid, leader: &mut Leader<'_>) -> Op<'static> {
        let left = self.0 & Reclaim::REST;
        match self.0 >> Reclaim::SHIFT {
            Reclaim::LOCKS => Op::ReclaimLocks { owner, left },
            Reclaim::LEASES => Op::ReclaimLeases { owner, left },
            Reclaim::CHILDREN => Op::ReclaimChildren { owner, left },
            Reclaim::GRANTS => Op::RevokeGrants(owner),
            Reclaim::RANGES => Op::ReclaimRanges {
                owner,
                left: match left {
                    Reclaim::REST => leader.ranges_to_reclaim(owner),
                    left => left,
                },
            },
            _ => Op::Left(owner),
        }
    }

    /// Returns the work that is left after a portion with this `rest`.
    fn after(self, rest: u64) -> Reclaim {
        let step = self.0 >> Reclaim::SHIFT;
        match step.checked_sub(1) {
            _ if rest > 0 => Reclaim((step << Reclaim::SHIFT) | rest),
            Some(next) if next > 0 => Reclaim::step(next),
            _ => Reclaim::DONE,
        }
    }
}

/// The work that is left to reclaim the resources of one process. Only the worker changes it.
pub(crate) struct AtomicReclaim {
    /// The VMID of the process; 0 if nothing was begun.
    of: AtomicU32,
    left: AtomicU64,
}

impl AtomicReclaim {
    pub(in crate::node) fn new() -> AtomicReclaim {
        AtomicReclaim {
            of: AtomicU32::new(0),
            left: AtomicU64::new(0),
        }
    }

    fn load(&self, vmid: Vmid) -> Reclaim {
        if self.of.load(Ordering::SeqCst) == vmid.get() {
            Reclaim(self.left.load(Ordering::SeqCst))
        } else {
            Reclaim::START
        }
    }

    fn store(&self, vmid: Vmid, left: Reclaim) {
        self.of.store(vmid.get(), Ordering::SeqCst);
        self.left.store(left.0, Ordering::SeqCst);
    }

    /// Forgets the process.
    pub(in crate::node) fn clear(&self) {
        self.of.store(0, Ordering::SeqCst);
    }
}

/// Returns the work that is left after an operation that did a portion.
pub(in crate::node) fn remaining(outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Remaining(left) => left,
        _ => 0,
    }
}

impl<'m, P: Pal> Node<'m, P> {
    /// On the leader: reclaims a portion of what a process had that is gone. Returns what is left.
    fn reclaim_portion(&self, leader: &LeaderTables<'m>, vmid: Vmid, left: Reclaim) -> Reclaim {
        let (outcome, has_orphans) = {
            let mut leader = leader.lock();
            let portion = left.op(vmid, &mut leader);
            let outcome = leader.apply(&portion);
            self.note_revocations(&leader);
            let has_left = matches!(portion, Op::Left(_));
            let has_orphans = has_left && leader.processes().has_orphaned_starts();
            (outcome, has_orphans)
        };
        if has_orphans {
            self.enforce(&self.leader_limits.starts);
        }
        self.send_output(Sender::Call);
        let next = left.after(remaining(outcome));
        if self.config.keep_ranges_of_dead && next == Reclaim::step(Reclaim::RANGES) {
            return Reclaim::step(Reclaim::LEFT);
        }
        next
    }

    /// On the leader: reclaims all that a process had which is gone, portion by portion.
    pub(in crate::node) fn reclaim_process(&self, leader: &LeaderTables<'m>, vmid: Vmid) {
        let mut left = Reclaim::START;
        while left != Reclaim::DONE {
            left = self.reclaim_portion(leader, vmid, left);
        }
    }

    /// On the leader: reclaims all that a process had which has ended without a connection.
    pub(crate) fn reclaim_absent(&self, vmid: Vmid) {
        // If the leader itself closes, the others live on, so nothing is released.
        if let Some(leader) = self.leading()
            && self.phase() < Phase::Closing
        {
            self.reclaim_process(leader, vmid);
        }
    }

    /// On the leader: reclaims a portion of all that a peer had whose process has ended, before its end is
    /// reported. Returns whether that was all; the worker serves others before it calls again.
    pub(in crate::node) fn reclaim_possessions_of(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
    ) -> bool {
        self.reclaim_until(peer.vmid(), &peer.reclaim_left, Reclaim::has_nothing)
    }

    /// Like [`Node::reclaim_possessions_of`], and then the end of the process is reported.
    pub(in crate::node) fn reclaim_all_of(&self, peer: &PeerRef<'_, 'm, P::Stream>) -> bool {
        self.reclaim_all(peer.vmid(), &peer.reclaim_left)
    }

    /// Like [`Node::reclaim_all_of`], for a process that may have no connection.
    pub(in crate::node) fn reclaim_all(&self, vmid: Vmid, state: &AtomicReclaim) -> bool {
        self.reclaim_until(vmid, state, |left| left == Reclaim::DONE)
    }

    /// As the leader: reclaims a portion of what a child had that the peer abandons before it has connected. Returns
    /// whether that was all; the end of the child is not reported yet.
    pub(in crate::node) fn reclaim_abandoned(
        &self,
        leader: &LeaderTables<'m>,
        peer: &PeerRef<'_, 'm, P::Stream>,
        pid: Id,
    ) -> bool {
        let child = leader.lock().starting_child(peer.vmid(), pid);
        child.is_none_or(|child| {
            self.is_connected(child)
                || self.reclaim_until(child, &peer.reclaim_child, Reclaim::has_nothing)
        })
    }

    fn reclaim_until(
        &self,
        vmid: Vmid,
        state: &AtomicReclaim,
        is_enough: fn(Reclaim) -> bool,
    ) -> bool {
        let Some(leader) = self.leading() else {
            return true;
        };
        let mut left = state.load(vmid);
        if self.phase() >= Phase::Closing {
            return true;
        }
        // A step that one portion completes is followed by the next one at once.
        while !is_enough(left) {
            let next = self.reclaim_portion(leader, vmid, left);
            state.store(vmid, next);
            if next.is_same_step(left) {
                return false;
            }
            left = next;
        }
        true
    }
}
