//! The revoked leases that other clients wait for, in the order of their revocations: the node limits how
//! long a client may keep such a lease.

use super::Server;
use crate::Vmid;
use crate::invariant::Count;
use crate::store::NONE;

impl Server<'_> {
    /// Returns the number of the last revocation. Later ones have higher numbers.
    pub fn last_revocation(&self) -> u64 {
        self.last_revocation
    }

    /// Returns the oldest revocation of a lease that was not returned and that another client waits for:
    /// its number, and the process that holds the lease. Only a process that knows the extensions, and not
    /// the leader's own.
    pub fn first_revocation(&self) -> Option<(u64, Vmid)> {
        let client = self.client(self.first_revoked);
        Some((client.revocation, client.vmid?))
    }

    /// Appends the client, whose lease is revoked because another client waits for it, to the list, unless
    /// the list has it already.
    pub(super) fn list_revocation(&mut self, index: u32) {
        let client = *self.client(index);
        if !client.has_limit || client.revocation != 0 {
            return;
        }
        let number = self.last_revocation.plus(1);
        let last = self.last_revoked;
        self.last_revocation = number;
        self.update_client(index, |client| {
            client.revocation = number;
            client.prev_revoked = last;
            client.next_revoked = NONE;
        });
        self.update_client(last, |last| last.next_revoked = index);
        if last == NONE {
            self.first_revoked = index;
        }
        self.last_revoked = index;
        self.update_handle(client.handle, |handle| handle.revocations.increment());
    }

    /// Removes the client from the list, if it is there.
    pub(super) fn unlist_revocation(&mut self, index: u32) {
        let client = *self.client(index);
        if client.revocation == 0 {
            return;
        }
        let (prev, next) = (client.prev_revoked, client.next_revoked);
        self.update_client(prev, |prev| prev.next_revoked = next);
        self.update_client(next, |next| next.prev_revoked = prev);
        if prev == NONE {
            self.first_revoked = next;
        }
        if next == NONE {
            self.last_revoked = prev;
        }
        self.update_client(index, |client| {
            client.revocation = 0;
            (client.prev_revoked, client.next_revoked) = (NONE, NONE);
        });
        self.update_handle(client.handle, |handle| handle.revocations.decrement());
    }

    /// Removes those clients of the handle from the list that no other client waits for any more: all if no
    /// request is left, and the only client with a request.
    pub(super) fn unlist_unwanted(&mut self, handle_index: u32) {
        let Some(handle) = self.handle(handle_index) else {
            return;
        };
        let (head, tail, clients) = (handle.queue_head, handle.queue_tail, handle.clients);
        if handle.revocations == 0 {
            return;
        }
        if head != NONE {
            if head == tail {
                self.unlist_revocation(head);
            }
            return;
        }
        let mut index = clients;
        while index != NONE {
            let next_of_handle = self.client(index).next_of_handle;
            self.unlist_revocation(index);
            index = next_of_handle;
        }
    }

    /// Ends the limits of the leases of a process that leads from now on.
    pub(crate) fn end_limits_of(&mut self, vmid: Vmid) {
        for index in 0..self.client_slots.high_water() {
            if self.client(index).vmid == Some(vmid) {
                self.unlist_revocation(index);
                self.update_client(index, |client| client.has_limit = false);
            }
        }
    }

    /// Ends the revocation of the client's lease.
    pub(super) fn end_revocation(&mut self, index: u32) {
        self.unlist_revocation(index);
        self.update_client(index, |client| client.revoke_to = None);
    }

    /// Returns true if the list contains exactly the revoked leases that others wait for, in the order
    /// of their numbers. It is slow, and meant for tests.
    pub(super) fn check_revocations(&self) -> bool {
        let mut listed = 0_usize;
        let (mut index, mut prev, mut number) = (self.first_revoked, NONE, 0);
        while index != NONE {
            let client = self.client(index);
            if client.prev_revoked != prev || client.revocation <= number {
                return false;
            }
            listed.increment();
            (prev, number, index) = (index, client.revocation, client.next_revoked);
        }
        let is_listed = |client: &&super::ClientRecord| client.revocation != 0;
        let is_right = |client: &super::ClientRecord| {
            let handle = self.handle(client.handle);
            let is_awaited = handle.is_some_and(|handle| {
                let head = handle.queue_head;
                head != NONE && (head != handle.queue_tail || self.client(head).vmid != client.vmid)
            });
            client.has_limit && client.revoke_to.is_some() && is_awaited
        };
        let slots = self.client_slots.high_water() as usize;
        let clients = || self.clients.iter().take(slots);
        prev == self.last_revoked
            && clients().filter(is_listed).count() == listed
            && clients().filter(is_listed).all(is_right)
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use super::*;
    use crate::shared_state::LeaseLimits;
    use crate::store::Arena;
    use crate::wire::{Sync, SyncCode, SyncState};

    #[test]
    fn process_that_leads_from_now_on_need_not_return_its_leases_in_time() {
        let limits = LeaseLimits {
            handles: 1,
            clients: 2,
        };
        let mut memory = Box::new_uninit_slice(Server::bytes(&limits, 0));
        let mut server = Server::new(&mut Arena::new(&mut memory), &limits, 0).unwrap();
        let (holder, other) = (Vmid::new(2).unwrap(), Vmid::new(3).unwrap());
        let sync = Sync {
            id: 7,
            state: SyncState::Exclusive,
            data: &[],
        };
        for process in [holder, other] {
            server
                .on_message(process, SyncCode::RequestUpgrade, &sync)
                .unwrap();
        }
        assert_eq!(server.first_revocation(), Some((1, holder)));
        server.end_limits_of(holder);
        assert_eq!(server.first_revocation(), None);
        assert!(server.check_invariants());
    }
}
