//! Frees the resources of members that have left, and confirms the grants to members that have connected.

use super::Leader;
use crate::{Id, Vmid};

/// The greatest number of IDs that one call reclaims.
const GRANTS_PER_STEP: usize = 64;

impl Leader<'_> {
    /// Forgets that a process with this VMID has left: another process uses the VMID from now on.
    pub(super) fn clear_departed(&mut self, vmid: Vmid) {
        self.departed.remove(vmid);
    }

    pub(super) fn mark_departed(&mut self, vmid: Vmid) {
        if !self.departed.contains(vmid) {
            self.departed.add(vmid);
        }
    }

    /// Reclaims a portion of the file locks of a member that left. Returns what is left to do.
    pub(super) fn reclaim_locks(&mut self, vmid: Vmid, left: u64) -> u64 {
        // From now on nobody gives it anything, so the portions find all that it has.
        self.mark_departed(vmid);
        if !self.pending_grants.confirm(vmid, GRANTS_PER_STEP, |_| ()) {
            return left;
        }
        let processes = &self.processes;
        // A child that may still connect keeps the open files that it was given.
        self.locks
            .reclaim_portion(vmid, left, &|child| !processes.is_starting(child))
    }

    /// Reclaims a portion of the ranges of a process that left. Its pid stays, for [`Leader::reclaim_process`].
    /// Returns what is left to do.
    pub(super) fn reclaim_ranges(&mut self, owner: Vmid, left: u64) -> u64 {
        let processes = &self.processes;
        let keep = |id| processes.owner_of_pid(id, owner);
        self.ranges.reclaim_portion_but(owner, left, &keep)
    }

    /// Returns the child of `parent` that has or gets that pid and has not joined. A parent that reaps it abandons it.
    pub(crate) fn starting_child(&self, parent: Vmid, pid: Id) -> Option<Vmid> {
        if self.processes.is_pid_in_use(pid) {
            return self.processes.find_starting_child(parent, pid);
        }
        // The parent has not started it yet, but it owns its pid already.
        self.pending_grants.recipient(parent, pid)
    }

    /// Records that a member left. Its process is dead, and its pid stays in use as long as necessary; the
    /// caller has reclaimed its other ranges and the IDs that it gave to others.
    pub(super) fn reclaim_process(&mut self, vmid: Vmid) {
        self.processes.on_death(vmid, &mut self.ranges);
        self.ranges.on_left(vmid);
        self.pending_grants.on_left(vmid);
        self.locks.on_left(vmid);
        self.mark_departed(vmid);
        self.roster.remove(vmid);
    }

    /// Confirms a portion of the IDs and open files that were given to that process, since it is connected.
    /// Returns what is left to do.
    pub(super) fn confirm_grants(&mut self, to: Vmid, left: u64, allows_notices: bool) -> u64 {
        if allows_notices {
            self.roster.mark_extended(to);
        }
        if !self.confirm_ids(to) {
            return left;
        }
        self.locks.confirm_portion(to, left, allows_notices)
    }

    /// Confirms a portion of the IDs that were given to that process, since it is connected. True when that
    /// was all.
    pub(super) fn confirm_ids(&mut self, to: Vmid) -> bool {
        let ranges = &mut self.ranges;
        let charge = |id| ranges.charge_receiver(id, to);
        self.pending_grants.confirm(to, GRANTS_PER_STEP, charge)
    }

    /// Reclaims a portion of the IDs that a member that left had given to processes which have not
    /// connected, unless another process starts them: a portion, since the table is behind a
    /// spinlock. True when that was all.
    pub(super) fn revoke_grants(&mut self, giver: Vmid) -> bool {
        // Its own VMID is none of those that it has asked for and that are not used yet.
        self.vmids.on_left(giver);
        if !self.vmids.release(giver, GRANTS_PER_STEP) {
            return false;
        }
        let (ranges, processes) = (&mut self.ranges, &self.processes);
        self.pending_grants
            .revoke(giver, GRANTS_PER_STEP, |id, to| {
                let starter = processes.find_starter(to);
                match starter {
                    Some(starter) => ranges.charge_single(id, starter),
                    None if ranges.is_single(id, to) => ranges.free_single(id),
                    None => {}
                }
                starter
            })
    }
}
