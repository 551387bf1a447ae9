//! The lease of this process: asking the server for it, and giving it back.

use super::{Client, ClientPhase};
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

    /// Whether a server in C can be asked for that now. It has a client that asks for more give back what
    /// that has, and takes what comes then for what it has just granted. So a client asks it for
    /// nothing before the last request was granted, and lets go of what it has before it asks for more.
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

    /// Asks for no more than somebody here still waits for: others may have it meanwhile.
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
            // Nothing of that was said yet.
            self.requested = needed;
            self.out_upgrade = Some(needed).filter(|needed| strength(*needed) > 0);
        } else if self.is_extended {
            self.requested = needed;
            self.out_upgrade = Some(needed);
            self.has_release_work = true;
        }
    }

    /// Gives back what the server wants, as far as nobody here uses it.
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
            self.quick_revocations = self.quick_revocations.saturating_add(1);
            self.uses_since_grant = 0;
            self.downgrade_to(target);
        }
        if strength(self.current) <= strength(revoke_to) {
            self.revoke_to = None;
        } else if self.is_upgrading && self.current == SyncState::Shared && !self.upgrade_deadlock {
            // It reads what is wanted back, and waits for more, which is not to be had before that. One
            // that has got it lets go when it has changed the data.
            self.upgrade_deadlock = true;
            self.change_count = self.change_count.wrapping_add(1);
        }
    }

    /// Gives back what it has beyond that.
    fn downgrade_to(&mut self, target: SyncState) {
        let had = self.out_downgrade.is_some_and(|(_, with_data)| with_data);
        let with_data = had || self.current == SyncState::Exclusive;
        self.forward_owner_death();
        self.current = target;
        if target == SyncState::Invalid {
            // It comes with the lease again.
            self.owner_died = false;
        }
        self.has_release_work = true;
        self.out_downgrade = Some((target, with_data));
        self.change_count = self.change_count.wrapping_add(1);
    }

    /// A lease to change the data is given back. The server takes it that who got it has seen to what
    /// a dead process left; here nobody has.
    pub(super) fn forward_owner_death(&mut self) {
        let unseen = self.owner_died && self.current == SyncState::Exclusive;
        self.out_owner_died |= unseen && self.is_extended;
    }
}
