//! What always holds of the server's tables.

use super::{Handle, Server};
use crate::store::NONE;
use crate::wire::SyncState;

impl Server<'_> {
    /// Whether nobody has what excludes another, and nobody waits who could be served. Slow: for
    /// tests.
    pub fn is_sound(&self) -> bool {
        (0..self.handle_places.used()).all(|at| {
            let Some(handle) = self.handle(at) else {
                return false;
            };
            let (mut readers, mut writers) = (0_u32, 0_u32);
            let mut place = handle.clients;
            while place != NONE {
                let client = self.client(place);
                readers = readers.saturating_add(u32::from(client.current == SyncState::Shared));
                writers = writers.saturating_add(u32::from(client.current == SyncState::Exclusive));
                place = client.next;
            }
            !self.could_serve(handle)
                && readers == handle.readers
                && writers == u32::from(handle.writer != NONE)
                && (writers == 0 || readers == 0)
        })
    }

    fn could_serve(&self, handle: &Handle<'_>) -> bool {
        let head = self.client(handle.first_asking);
        match head.asked {
            _ if head.wanted_back.is_some() && !head.keeps_shared => false,
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

    fn vmid(who: u32) -> Vmid {
        Vmid::new(who).unwrap()
    }

    /// Whether that is noticed, after these have asked.
    fn is_noticed(asked: &[(u32, SyncState)], wrong: impl FnOnce(&mut Server<'_>)) -> bool {
        let limits = LeaseLimits {
            handles: 1,
            clients: 3,
        };
        let mut memory = Box::new_uninit_slice(Server::bytes(&limits, 0));
        let mut server = Server::new(&mut Arena::new(&mut memory), &limits, 0).unwrap();
        for &(who, state) in asked {
            let (id, data) = (ID, &[][..]);
            let sync = Sync { id, state, data };
            server
                .hear(vmid(who), SyncCode::RequestUpgrade, &sync)
                .unwrap();
            assert!(server.is_sound());
        }
        wrong(&mut server);
        !server.is_sound()
    }

    fn place(server: &Server<'_>, who: u32) -> u32 {
        server.find(vmid(who), ID).unwrap()
    }

    #[test]
    fn one_who_waits_for_nothing_is_noticed() {
        for asked in [
            &[(2, WRITE), (3, READ)][..],
            &[(2, READ), (3, WRITE)],
            &[(2, READ), (3, READ), (3, WRITE)],
        ] {
            assert!(is_noticed(asked, |server| {
                server.set_current(place(server, 2), SyncState::Invalid);
            }));
        }
        // It could read together with another.
        let asked = [(2, READ), (3, WRITE), (4, READ)];
        assert!(is_noticed(&asked, |server| {
            server.stop_asking(place(server, 3));
        }));
    }

    #[test]
    fn what_excludes_another_is_noticed() {
        assert!(is_noticed(&[(2, READ), (3, READ)], |server| {
            server.set_current(place(server, 3), WRITE);
        }));
        assert!(is_noticed(&[(2, WRITE), (3, WRITE)], |server| {
            let second = place(server, 3);
            server.stop_asking(second);
            server.set_current(second, WRITE);
        }));
    }

    #[test]
    fn a_wrong_count_is_noticed() {
        for (state, readers) in [(READ, 0), (READ, 2), (WRITE, 1)] {
            assert!(is_noticed(&[(2, state)], |server| {
                server.with_handle(0, |handle| handle.readers = readers);
            }));
        }
        assert!(is_noticed(&[(2, WRITE)], |server| {
            server.with_handle(0, |handle| handle.writer = NONE);
        }));
    }
}
