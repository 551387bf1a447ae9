//! The lease of this process: its request, and its return.

use super::{Client, ClientPhase};
use crate::fencing::Numbers;
use crate::invariant::Count;
use crate::shared_state::strength;
use crate::wire::SyncState;

impl Client<'_> {
    pub(super) fn request(&mut self, state: SyncState) {
        if !self.is_extended && !self.can_request_from_c(state) {
            return;
        }
        if strength(self.requested) < strength(state) {
            self.requested = state;
            if strength(self.max_grant) < strength(state) {
                self.max_grant = state;
            }
            self.out_upgrade = Some(state);
            self.has_release_work = true;
        }
    }

    /// Returns true if the client can request that lease from a server in C now. Such a server
    /// expects a client that requests a stronger lease to return the one it holds, and takes a
    /// return that arrives then for the return of the lease it has just granted. So a client
    /// requests nothing from it before the last request was granted, and returns the lease it holds
    /// before it requests a stronger one.
    fn can_request_from_c(&mut self, state: SyncState) -> bool {
        if strength(self.requested) > 0 || self.readers > 0 {
            return false;
        }
        if state == SyncState::Exclusive && self.current == SyncState::Shared {
            self.downgrade_to(SyncState::Invalid);
            self.revoke_to = None;
            self.is_grant_unused = false;
        }
        true
    }

    /// Reduces the request to the strongest lease that a call still waits for, so that other
    /// processes may have it meanwhile.
    pub(super) fn reduce_request(&mut self) {
        let [readers, writers] = self.waiting;
        let needed = if writers > 0 || self.is_upgrading {
            SyncState::Exclusive
        } else if readers > 0 && strength(self.current) == 0 {
            SyncState::Shared
        } else {
            SyncState::Invalid
        };
        if strength(needed) >= strength(self.requested) {
            return;
        }
        if !self.is_known_to_server {
            // The request was not sent yet.
            self.requested = needed;
            self.out_upgrade = Some(needed).filter(|needed| strength(*needed) > 0);
        } else if self.is_extended {
            self.requested = needed;
            self.out_upgrade = Some(needed);
            self.has_release_work = true;
        }
    }

    /// Returns what the server has revoked, as far as no thread of this process uses it.
    pub(super) fn return_revoked(&mut self) {
        let Some(revoke_to) = self.revoke_to else {
            return;
        };
        if self.phase != ClientPhase::Open {
            return;
        }
        let used = if self.has_writer || self.is_grant_unused {
            strength(self.current)
        } else {
            u8::from(self.readers > 0)
        };
        let target = if used > strength(revoke_to) {
            SyncState::Shared
        } else {
            revoke_to
        };
        if used <= strength(target) && strength(target) < strength(self.current) {
            self.quick_revocations.increment();
            self.uses_since_grant = 0;
            self.downgrade_to(target);
        }
        if strength(self.current) <= strength(revoke_to) {
            self.revoke_to = None;
        } else if self.is_upgrading && self.current == SyncState::Shared && !self.upgrade_deadlock {
            // The upgrading reader uses the revoked lease, and waits for a stronger one that the
            // server cannot grant before. A reader that has got the stronger lease returns it after
            // its change.
            self.upgrade_deadlock = true;
            self.change_count = self.change_count.wrapping_add(1);
        }
    }

    /// Returns what the lease allows beyond `target`.
    fn downgrade_to(&mut self, target: SyncState) {
        let had = self.out_downgrade.is_some_and(|(_, with_data)| with_data);
        let with_data = had || self.current == SyncState::Exclusive;
        self.forward_owner_death();
        self.fencing = Numbers::NONE;
        self.current = target;
        if target == SyncState::Invalid {
            // The server reports the death again with the next lease.
            self.owner_died = false;
        }
        self.has_release_work = true;
        self.out_downgrade = Some((target, with_data));
        self.change_count = self.change_count.wrapping_add(1);
    }

    /// Called when a lease to change the value is returned. The server assumes that its holder has
    /// handled the death of the previous owner. If no thread has done so, the client reports the
    /// death to the server, for the next holder.
    pub(super) fn forward_owner_death(&mut self) {
        let unseen = self.owner_died && self.current == SyncState::Exclusive;
        self.out_owner_died |= unseen && self.is_extended;
    }
}
