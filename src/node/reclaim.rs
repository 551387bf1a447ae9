//! The leader's node reclaims the resources of a process that is gone, in portions: between two portions the
//! leader's tables are unlocked, and the worker serves others.

use crate::leader::{Leader, Op, Outcome};
use crate::node::{LeaderTables, Node, PeerRef, Phase, Sender};
use crate::pal::Pal;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::{Id, Vmid};

/// The work that remains to reclaim the resources of a process: first its file locks, then its leases, its
/// children, the IDs that it gave to processes which have not connected, and its own IDs. The last step reports the
/// end of the process, when all its resources are free. The step is in the upper bits, the rest of that step in the
/// lower ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Reclaim(u64);

impl Reclaim {
    const SHIFT: u32 = 60;
    const REST: u64 = (1 << Reclaim::SHIFT) - 1;
    const END: u64 = 1;
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

    /// Returns true if all resources are free, and only the end of the process remains to be reported.
    fn has_freed_all(self) -> bool {
        self <= Reclaim::step(Reclaim::END)
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

    /// Returns the work that remains after a portion that leaves this `rest` of its step.
    fn after(self, rest: u64) -> Reclaim {
        let step = self.0 >> Reclaim::SHIFT;
        match step.checked_sub(1) {
            _ if rest > 0 => Reclaim((step << Reclaim::SHIFT) | rest),
            Some(next) if next > 0 => Reclaim::step(next),
            _ => Reclaim::DONE,
        }
    }
}

/// The work that remains to reclaim the resources of one process. Only the worker changes it.
#[derive(Default)]
pub(crate) struct AtomicReclaim {
    /// The VMID of the process; 0 if nothing was begun.
    of: AtomicU32,
    left: AtomicU64,
}

impl AtomicReclaim {
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

/// Returns the rest of a step after an operation that did a portion of it.
pub(in crate::node) fn remaining(outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Remaining(left) => left,
        _ => 0,
    }
}

impl<'m, P: Pal> Node<'m, P> {
    /// As the leader: reclaims a portion of the resources of a process that is gone. Returns the work that remains.
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
            return Reclaim::step(Reclaim::END);
        }
        next
    }

    /// As the leader: reclaims all resources of a process that is gone, portion by portion.
    pub(in crate::node) fn reclaim_process(&self, leader: &LeaderTables<'m>, vmid: Vmid) {
        let mut left = Reclaim::START;
        while left != Reclaim::DONE {
            left = self.reclaim_portion(leader, vmid, left);
        }
    }

    /// As the leader: reclaims all resources of a process that has no connection and has ended, or never comes.
    pub(crate) fn reclaim_absent(&self, vmid: Vmid) {
        // If the leader itself closes, the members live on, so nothing is released.
        if let Some(leader) = self.leading()
            && self.phase() < Phase::Closing
        {
            self.reclaim_process(leader, vmid);
        }
    }

    /// As the leader: reclaims a portion of the resources of a peer whose process has ended, before the end is
    /// reported. Returns true if all are free; else the worker serves others before it calls this again.
    pub(in crate::node) fn reclaim_resources_of(&self, peer: &PeerRef<'_, 'm, P::Stream>) -> bool {
        self.reclaim_until(
            peer.vmid(),
            &peer.member.reclaim_left,
            Reclaim::has_freed_all,
        )
    }

    /// Like [`Node::reclaim_resources_of`], and then reports the end of the process.
    pub(in crate::node) fn reclaim_all_of(&self, peer: &PeerRef<'_, 'm, P::Stream>) -> bool {
        self.reclaim_all(peer.vmid(), &peer.member.reclaim_left)
    }

    /// Like [`Node::reclaim_all_of`], for a process that may have no connection.
    pub(in crate::node) fn reclaim_all(&self, vmid: Vmid, state: &AtomicReclaim) -> bool {
        self.reclaim_until(vmid, state, |left| left == Reclaim::DONE)
    }

    /// As the leader: reclaims a portion of the resources of a child that the peer abandons before it has connected.
    /// Returns true if all are free; the end of the child is not reported yet.
    pub(in crate::node) fn reclaim_abandoned(
        &self,
        leader: &LeaderTables<'m>,
        peer: &PeerRef<'_, 'm, P::Stream>,
        pid: Id,
    ) -> bool {
        let child = leader.lock().starting_child(peer.vmid(), pid);
        child.is_none_or(|child| {
            self.is_connected(child)
                || self.reclaim_until(child, &peer.member.reclaim_child, Reclaim::has_freed_all)
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
