//! The order of the requests: which of them can be granted, and which leases are revoked for that.

use super::{ClientRecord, Server};
use crate::invariant::Count;
use crate::shared_state::strength;
use crate::store::NONE;
use crate::wire::SyncState;

impl Server<'_> {
    /// Grants all requests of a handle that can be granted, and revokes the leases that exclude the
    /// next.
    pub(super) fn grant_next(&mut self, handle_index: u32) {
        loop {
            let Some(handle) = self.handle(handle_index) else {
                return;
            };
            let (index, readers, writer) = (handle.queue_head, handle.readers, handle.writer);
            let client = *self.client(index);
            let Some(requested) = client.requested else {
                return;
            };
            // The server could not tell the lease that the client returns from the one it would
            // get now.
            if client.revoke_to.is_some() && !client.upgrades_in_place {
                if client.next != NONE {
                    self.list_revocation(index);
                }
                return;
            }
            if requested == SyncState::Shared {
                if writer != NONE {
                    return self.revoke(writer, SyncState::Shared);
                }
            } else {
                let own = u32::from(client.current == SyncState::Shared);
                if writer != NONE {
                    return self.revoke(writer, SyncState::Invalid);
                }
                if readers > own {
                    return self.revoke_readers(handle_index, index);
                }
            }
            let owner_died = handle.owner_died;
            if requested == SyncState::Exclusive {
                self.update_handle(handle_index, |handle| handle.owner_died = false);
            }
            self.dequeue_request(index);
            self.set_current(index, requested);
            self.update_client(index, |client| {
                client.expects_stale_downgrade = client.revoke_to.is_some();
                client.owner_died_unacked = owner_died && requested == SyncState::Exclusive;
                client.out_owner_died = owner_died;
                client.out_confirm = Some(requested);
            });
            self.outbox.push(index);
        }
    }

    /// Revokes the leases of all readers but one.
    fn revoke_readers(&mut self, handle_index: u32, but: u32) {
        let mut index = self
            .handle(handle_index)
            .map_or(NONE, |handle| handle.clients);
        while index != NONE {
            let next_of_handle = self.client(index).next_of_handle;
            if index != but && self.client(index).current == SyncState::Shared {
                self.revoke(index, SyncState::Invalid);
            }
            index = next_of_handle;
        }
    }

    fn revoke(&mut self, index: u32, state: SyncState) {
        let revoke_to = self.client(index).revoke_to;
        self.list_revocation(index);
        if revoke_to.is_some_and(|revoke_to| strength(revoke_to) <= strength(state)) {
            return;
        }
        self.update_client(index, |client| {
            client.revoke_to = Some(state);
            client.out_downgrade = Some(state);
        });
        self.outbox.push(index);
    }

    pub(super) fn set_current(&mut self, index: u32, state: SyncState) {
        let client = *self.client(index);
        self.update_client(index, |client| {
            client.current = state;
            client.owner_died_unacked = false;
        });
        self.update_handle(client.handle, |handle| {
            match client.current {
                SyncState::Shared => handle.readers.decrement(),
                SyncState::Exclusive => handle.writer = NONE,
                SyncState::Invalid | SyncState::None => {}
            }
            match state {
                SyncState::Shared => handle.readers.increment(),
                SyncState::Exclusive => handle.writer = index,
                SyncState::Invalid | SyncState::None => {}
            }
        });
    }

    /// Queues the request of a client that upgrades in place before all others except earlier ones
    /// of its kind.
    pub(super) fn enqueue_upgrade(&mut self, index: u32) {
        let handle_index = self.client(index).handle;
        let mut prev = NONE;
        let mut next = self
            .handle(handle_index)
            .map_or(NONE, |handle| handle.queue_head);
        while self.client(next).upgrades_in_place {
            prev = next;
            next = self.client(next).next;
        }
        self.update_client(index, |client| {
            (client.prev, client.next) = (prev, next);
        });
        self.update_client(prev, |prev| prev.next = index);
        self.update_client(next, |next| next.prev = index);
        self.update_handle(handle_index, |handle| {
            if prev == NONE {
                handle.queue_head = index;
            }
            if next == NONE {
                handle.queue_tail = index;
            }
        });
    }

    pub(super) fn dequeue_request(&mut self, index: u32) {
        let ClientRecord {
            handle,
            prev,
            next,
            requested,
            ..
        } = *self.client(index);
        if requested.is_none() {
            return;
        }
        self.update_client(index, |client| {
            client.requested = None;
            client.upgrades_in_place = false;
        });
        self.update_client(prev, |prev| prev.next = next);
        self.update_client(next, |next| next.prev = prev);
        self.update_handle(handle, |handle| {
            if prev == NONE {
                handle.queue_head = next;
            }
            if next == NONE {
                handle.queue_tail = prev;
            }
        });
        self.unlist_unwanted(handle);
    }

    /// Takes the client's lease and its request away, and drops any revocation.
    pub(super) fn release_lease(&mut self, index: u32) {
        self.dequeue_request(index);
        self.set_current(index, SyncState::Invalid);
        self.end_revocation(index);
    }
}
