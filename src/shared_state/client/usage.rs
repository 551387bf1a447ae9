//! The calls of this process that use the handle, and those that wait for it.

use super::{Acquisition, Client, ClientPhase};
use crate::invariant::{Count, OrBroken};
use crate::shared_state::strength;
use crate::wire::SyncState;

impl Client<'_> {
    /// Returns true if a new call may use the handle before those that wait: a reader may overtake
    /// readers, which it does not delay, and no call overtakes a writer.
    #[inline]
    pub fn may_overtake(&self, state: SyncState) -> bool {
        let [readers, writers] = self.waiting;
        writers == 0 && (readers == 0 || state == SyncState::Shared)
    }

    /// Acquires the handle to read or to change the value, if that is possible now; else requests
    /// the lease. A call has its turn if no other call precedes it in the queue. A call that waits
    /// then is counted with [`Client::change_waiters`].
    ///
    /// A call that does not have its turn only requests the lease.
    #[inline]
    pub fn acquire(&mut self, state: SyncState, has_turn: bool) -> Acquisition {
        match self.phase {
            ClientPhase::Open => {}
            // The request follows when the handle is new.
            ClientPhase::Reopening => return Acquisition::Pending,
            ClientPhase::Free | ClientPhase::Closing => return Acquisition::Closed,
        }
        let write = state == SyncState::Exclusive;
        // An upgrading reader waits for the other readers, so no new ones are admitted.
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
            self.readers = self.readers.plus(u32::from(!write));
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

    /// Counts a call that begins to wait (1), or that ends its wait (-1).
    pub fn change_waiters(&mut self, state: SyncState, change: i32) {
        let [readers, writers] = &mut self.waiting;
        let count = if state == SyncState::Exclusive {
            writers
        } else {
            readers
        };
        *count = count.checked_add_signed(change).or_broken(*count);
        if change < 0 && self.phase != ClientPhase::Reopening {
            self.reduce_request();
            self.is_grant_unused &= self.can_serve();
            self.return_revoked();
        }
    }

    /// Makes the only reader the writer, if that is possible now; else requests the lease. The
    /// caller repeats the call, or ends it with [`Client::cancel_upgrade`].
    pub fn upgrade(&mut self, is_first: bool) -> Acquisition {
        if !self.is_extended && self.current != SyncState::Exclusive {
            return Acquisition::Unsupported;
        }
        if is_first {
            // Two upgrading readers would wait for each other for ever.
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

    /// Ends the upgrade; the reader stays one.
    pub fn cancel_upgrade(&mut self) {
        self.is_upgrading = false;
        self.upgrade_deadlock = false;
        self.reduce_request();
        self.is_grant_unused &= self.can_serve();
        self.return_revoked();
    }

    /// Sets the access that the first queued call wants; `None` if the queue is empty. Calls that
    /// are not queued yet may wait besides.
    pub fn set_head_request(&mut self, head: Option<SyncState>) {
        self.head_request = head;
    }

    /// Returns true if the lease of this process suffices for the next call.
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

    /// Returns true if this process holds a lease that allows use in that state.
    pub fn has_lease(&self, state: SyncState) -> bool {
        strength(self.current) >= strength(state)
    }

    /// Returns true if a thread of this process holds the handle in that state and can release it.
    /// An upgrading reader cannot.
    #[inline]
    pub fn is_held(&self, state: SyncState) -> bool {
        match state {
            SyncState::Exclusive => self.has_writer,
            SyncState::Shared => self.readers > u32::from(self.is_upgrading),
            SyncState::Invalid | SyncState::None => false,
        }
    }

    /// Returns the value, for the holder that may change it. It has `length` bytes from now on, or
    /// none if there is no room for that many.
    #[inline]
    pub fn data_mut(&mut self, length: usize) -> &mut [u8] {
        self.change_count = self.change_count.wrapping_add(1);
        let data = self.data.prefix_mut(length);
        let data = if data.len() == length { data } else { &mut [] };
        self.length = data.len();
        data
    }

    /// Releases the handle.
    #[inline]
    pub fn release(&mut self, state: SyncState) {
        if state == SyncState::Exclusive {
            self.has_writer = false;
        } else {
            self.readers.decrement();
        }
        if self.revoke_to.is_some() {
            self.return_revoked();
        }
    }
}
