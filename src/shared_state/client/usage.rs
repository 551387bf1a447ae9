//! The callers of this process that use the handle, and those that wait for it.

use super::{Acquisition, Client, ClientPhase};
use crate::shared_state::strength;
use crate::wire::SyncState;

impl Client<'_> {
    /// Whether a caller that comes now may use the handle before those that wait: a reader passes
    /// readers, which it keeps from nothing, and nobody passes a writer.
    #[inline]
    pub fn may_overtake(&self, state: SyncState) -> bool {
        let [readers, writers] = self.waiting;
        writers == 0 && (readers == 0 || state == SyncState::Shared)
    }

    /// Uses the handle, to read or to change it, if that can be done now; asks for the lease if not.
    /// It is the caller's turn: nobody has come before it. A caller that then waits says so with
    /// [`Client::change_waiters`].
    #[inline]
    pub fn acquire(&mut self, state: SyncState) -> Acquisition {
        self.acquire_in_turn(state, true)
    }

    /// As [`Client::acquire`]; but a caller that does not have its turn only asks for the lease.
    #[inline]
    pub fn acquire_in_turn(&mut self, state: SyncState, has_turn: bool) -> Acquisition {
        if self.phase != ClientPhase::Open {
            return Acquisition::Closed;
        }
        let write = state == SyncState::Exclusive;
        // A reader that is to become the writer waits for the other readers: no more of them come.
        let is_free =
            !self.has_writer && !self.is_upgrading && (!write || self.readers == 0) && has_turn;
        let is_revoked = self
            .revoke_to
            .is_some_and(|revoke_to| strength(revoke_to) < strength(state));
        if is_free
            && strength(self.current) >= strength(state)
            && (!is_revoked || self.is_grant_unused)
        {
            self.has_writer = write;
            self.owner_died_at_acquire = self.owner_died;
            self.owner_died &= !write;
            self.readers = self.readers.saturating_add(u32::from(!write));
            self.is_grant_unused = false;
            return Acquisition::Acquired;
        }
        if core::mem::take(&mut self.no_room) {
            return Acquisition::NoRoom;
        }
        if strength(self.current) < strength(state) {
            self.request(state);
        }
        Acquisition::Pending
    }

    /// Somebody waits to use it, or (with -1) no more.
    pub fn change_waiters(&mut self, state: SyncState, change: i32) {
        let [readers, writers] = &mut self.waiting;
        let count = if state == SyncState::Exclusive {
            writers
        } else {
            readers
        };
        *count = count.saturating_add_signed(change);
        if change < 0 {
            self.reduce_request();
            self.is_grant_unused &= self.can_serve();
            self.return_revoked();
        }
    }

    /// The only reader becomes the writer, if that can be done now; asks for the lease if not. It
    /// keeps on trying, or ends with [`Client::cancel_upgrade`].
    pub fn upgrade(&mut self, is_first: bool) -> Acquisition {
        if !self.is_extended && self.current != SyncState::Exclusive {
            return Acquisition::Unsupported;
        }
        if is_first {
            // Two that wait for each other to let go would do so for ever.
            let invalid = self.revoke_to == Some(SyncState::Invalid);
            if self.is_upgrading || invalid {
                return Acquisition::UpgradeDeadlock;
            }
            self.is_upgrading = true;
            self.upgrade_deadlock = false;
        }
        if self.upgrade_deadlock {
            return Acquisition::UpgradeDeadlock;
        }
        if self.current == SyncState::Exclusive && self.readers == 1 {
            self.readers = 0;
            self.has_writer = true;
            self.owner_died = false;
            self.is_upgrading = false;
            self.is_grant_unused = false;
            return Acquisition::Acquired;
        }
        if core::mem::take(&mut self.no_room) {
            return Acquisition::NoRoom;
        }
        if self.current != SyncState::Exclusive {
            self.request(SyncState::Exclusive);
        }
        Acquisition::Pending
    }

    /// The reader stays one.
    pub fn cancel_upgrade(&mut self) {
        self.is_upgrading = false;
        self.upgrade_deadlock = false;
        self.reduce_request();
        self.is_grant_unused &= self.can_serve();
        self.return_revoked();
    }

    /// What the first of those wants who stand in line, `None` if nobody does. Others may wait who do
    /// not stand there yet.
    pub fn set_head_request(&mut self, head: Option<SyncState>) {
        self.head_request = head;
    }

    /// Whether the next who is to use it waits for no more than this process has.
    pub(super) fn can_serve(&self) -> bool {
        let [readers, writers] = self.waiting;
        if self.is_upgrading {
            return self.current == SyncState::Exclusive;
        }
        match (self.current, self.head_request) {
            (current, Some(head)) => strength(current) >= strength(head),
            (SyncState::Exclusive, None) => readers > 0 || writers > 0,
            (SyncState::Shared, None) => readers > 0,
            (SyncState::Invalid | SyncState::None, None) => false,
        }
    }

    /// Whether this process has what it takes to use it in that state.
    pub fn has_lease(&self, state: SyncState) -> bool {
        strength(self.current) >= strength(state)
    }

    /// Whether somebody here has taken it in that state, and can give it back: a reader that waits to
    /// become the writer can't.
    #[inline]
    pub fn is_held(&self, state: SyncState) -> bool {
        match state {
            SyncState::Exclusive => self.has_writer,
            SyncState::Shared => self.readers > u32::from(self.is_upgrading),
            SyncState::Invalid | SyncState::None => false,
        }
    }

    /// The data, to be changed by who has taken it for that. It is that long from now on; not at all
    /// if that is longer than there is room for.
    #[inline]
    pub fn data_mut(&mut self, length: usize) -> &mut [u8] {
        self.change_count = self.change_count.wrapping_add(1);
        let fits = length <= self.data.capacity();
        let data = self.data.first(if fits { length } else { 0 });
        self.length = data.len();
        data
    }

    /// The caller uses it no more.
    #[inline]
    pub fn release(&mut self, state: SyncState) {
        if state == SyncState::Exclusive {
            self.has_writer = false;
        } else {
            self.readers = self.readers.saturating_sub(1);
        }
        if self.revoke_to.is_some() {
            self.return_revoked();
        }
    }
}
