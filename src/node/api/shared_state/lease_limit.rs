//! The time limit of a revoked lease that another process waits for.

use crate::leader::Leader;
use crate::node::Node;
use crate::pal::{Deadline, Pal};

impl<P: Pal> Node<'_, P> {
    /// As the leader, after each operation that may revoke leases: has the worker enforce their limit.
    pub(in crate::node) fn note_revocations(&self, leader: &Leader<'_>) {
        if self.config.lease_limit.is_some() && leader.leases().first_revocation().is_some() {
            self.enforce(&self.leader_limits.revocations);
        }
    }

    /// As the leader: closes the connection of a member that has not returned a lease in time. Returns
    /// when to run again, if before `until`.
    pub(crate) fn poll_revocations(&self, until: Deadline) -> Deadline {
        let Some(limit) = self.config.lease_limit else {
            return until;
        };
        self.disconnect_late(&self.leader_limits.revocations, limit, until, |leader| {
            let leases = leader.leases();
            (leases.first_revocation(), leases.last_revocation())
        })
    }
}
