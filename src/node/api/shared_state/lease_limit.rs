//! The time limit of a revoked lease that another process waits for.

use crate::leader::Leader;
use crate::node::Node;
use crate::pal::{Deadline, Pal};
use crate::sync::Ordering;

impl<P: Pal> Node<'_, P> {
    /// At the leader, after each operation that may revoke leases: has the worker enforce their limit.
    pub(in crate::node) fn note_revocations(&self, leader: &Leader<'_>) {
        if self.config.lease_limit.is_some()
            && leader.leases().first_revocation().is_some()
            && !self.leader_limits.revoking.swap(true, Ordering::SeqCst)
        {
            self.wake();
        }
    }

    /// At the leader: closes the connection of a member that has not returned a lease in time. Returns
    /// when to run again, if before `until`.
    pub(crate) fn poll_revocations(&self, until: Deadline) -> Deadline {
        let (Some(leader), Some(limit)) = (&self.leader, self.config.lease_limit) else {
            return until;
        };
        if !self.leader_limits.revoking.load(Ordering::SeqCst) {
            return until;
        }
        let now = self.pal.now();
        let (first, last) = {
            let leader = leader.lock();
            let leases = leader.leases();
            let first = leases.first_revocation();
            if first.is_none() {
                self.leader_limits.revoking.store(false, Ordering::SeqCst);
            }
            (first, leases.last_revocation())
        };
        let Some((first, vmid)) = first else {
            return until;
        };
        let deadlines = &self.leader_limits.revocations;
        let then = deadlines.lock().of(first, last, now, limit);
        if then > now {
            return until.min(Deadline::At(then));
        }
        match self.peers.find(vmid) {
            Some(peer) => self.disconnect_overdue(&peer),
            None => self.reclaim_ids(vmid),
        }
        until
    }
}
