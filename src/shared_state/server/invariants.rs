//! The invariants of the server's tables.

use super::{HandleRecord, Server};
use crate::invariant::Count;
use crate::store::NONE;
use crate::wire::SyncState;

impl Server<'_> {
    /// Returns true if no lease excludes another, no client waits for a lease that could be
    /// granted, and the counts are right. It visits every client; for tests.
    pub fn check_invariants(&self) -> bool {
        let has_output = |index| self.client(index).has_output();
        self.outbox.check_invariants(has_output)
            && self.check_quotas()
            && self.check_leases()
            && self.check_revocations()
    }

    fn check_leases(&self) -> bool {
        (0..self.handle_slots.high_water()).all(|handle_index| {
            let Some(handle) = self.handle(handle_index) else {
                return false;
            };
            let (mut readers, mut writers) = (0_u32, 0_u32);
            let mut index = handle.clients;
            while index != NONE {
                let client = self.client(index);
                readers = readers.plus(u32::from(client.current == SyncState::Shared));
                writers = writers.plus(u32::from(client.current == SyncState::Exclusive));
                index = client.next_of_handle;
            }
            !self.can_grant(handle)
                && readers == handle.readers
                && writers == u32::from(handle.writer != NONE)
                && (writers == 0 || readers == 0)
        })
    }

    fn can_grant(&self, handle: &HandleRecord<'_>) -> bool {
        let head = self.client(handle.queue_head);
        match head.requested {
            _ if head.revoke_to.is_some() && !head.upgrades_in_place => false,
            Some(SyncState::Shared) => handle.writer == NONE,
            Some(_) => {
                let own = u32::from(head.current == SyncState::Shared);
                handle.writer == NONE && handle.readers <= own
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use super::*;
    use crate::Vmid;
    use crate::shared_state::LeaseLimits;
    use crate::store::Arena;
    use crate::wire::{Sync, SyncCode};

    const READ: SyncState = SyncState::Shared;
    const WRITE: SyncState = SyncState::Exclusive;
    const ID: u64 = 7;

    fn vmid(process: u32) -> Vmid {
        Vmid::new(process).unwrap()
    }

    /// Returns true if the check notices a fault that `wrong` makes after these requests.
    fn is_noticed(asked: &[(u32, SyncState)], wrong: impl FnOnce(&mut Server<'_>)) -> bool {
        let limits = LeaseLimits {
            handles: 1,
            clients: 3,
        };
        let mut memory = Box::new_uninit_slice(Server::bytes(&limits, 0));
        let mut server = Server::new(&mut Arena::new(&mut memory), &limits, 0).unwrap();
        for &(process, state) in asked {
            let (id, data) = (ID, &[][..]);
            let sync = Sync { id, state, data };
            server
                .on_message(vmid(process), SyncCode::RequestUpgrade, &sync)
                .unwrap();
            assert!(server.check_invariants());
        }
        wrong(&mut server);
        !server.check_invariants()
    }

    fn index(server: &Server<'_>, process: u32) -> u32 {
        server.find_client(vmid(process), ID).unwrap()
    }

    #[test]
    fn request_that_could_be_granted_breaks_the_invariants() {
        for requested in [
            &[(2, WRITE), (3, READ)][..],
            &[(2, READ), (3, WRITE)],
            &[(2, READ), (3, READ), (3, WRITE)],
        ] {
            assert!(is_noticed(requested, |server| {
                server.set_current(index(server, 2), SyncState::Invalid);
            }));
        }
        // The third client could read together with the first.
        let requested = [(2, READ), (3, WRITE), (4, READ)];
        assert!(is_noticed(&requested, |server| {
            server.dequeue_request(index(server, 3));
        }));
    }

    #[test]
    fn leases_that_exclude_each_other_break_the_invariants() {
        assert!(is_noticed(&[(2, READ), (3, READ)], |server| {
            server.set_current(index(server, 3), WRITE);
        }));
        assert!(is_noticed(&[(2, WRITE), (3, WRITE)], |server| {
            let second = index(server, 3);
            server.dequeue_request(second);
            server.set_current(second, WRITE);
        }));
    }

    #[test]
    fn wrong_count_breaks_the_invariants() {
        for (state, readers) in [(READ, 0), (READ, 2), (WRITE, 1)] {
            assert!(is_noticed(&[(2, state)], |server| {
                server.update_handle(0, |handle| handle.readers = readers);
            }));
        }
        assert!(is_noticed(&[(2, WRITE)], |server| {
            server.update_handle(0, |handle| handle.writer = NONE);
        }));
    }
}
