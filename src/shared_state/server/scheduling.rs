//! Who has its turn: what can be granted, and who is to give back for it.

use super::{Client, Server};
use crate::shared_state::rank;
use crate::store::NONE;
use crate::wire::SyncState;

impl Server<'_> {
    /// Grants what can be granted, and asks for what is needed for the next.
    pub(super) fn serve(&mut self, at: u32) {
        loop {
            let Some(handle) = self.handle(at) else {
                return;
            };
            let (place, readers, writer) = (handle.first_asking, handle.readers, handle.writer);
            let client = *self.client(place);
            let Some(asked) = client.asked else { return };
            // What it gives back would be taken for what it gets now.
            if client.wanted_back.is_some() && !client.keeps_shared {
                return;
            }
            if asked == SyncState::Shared {
                if writer != NONE {
                    return self.want_back(writer, SyncState::Shared);
                }
            } else {
                let own = u32::from(client.current == SyncState::Shared);
                if writer != NONE {
                    return self.want_back(writer, SyncState::Invalid);
                }
                if readers > own {
                    return self.want_all_back(at, place);
                }
            }
            let owner_died = handle.owner_died;
            if asked == SyncState::Exclusive {
                self.with_handle(at, |handle| handle.owner_died = false);
            }
            self.stop_asking(place);
            self.set_current(place, asked);
            self.change(place, |client| {
                client.gives_back_late = client.wanted_back.is_some();
                client.got_orphan = owner_died && asked == SyncState::Exclusive;
                client.out_owner_died = owner_died;
                client.out_confirm = Some(asked);
            });
            self.list(place);
        }
    }

    /// Has every other reader give back.
    fn want_all_back(&mut self, at: u32, but: u32) {
        let mut place = self.handle(at).map_or(NONE, |handle| handle.clients);
        while place != NONE {
            let next = self.client(place).next;
            if place != but && self.client(place).current == SyncState::Shared {
                self.want_back(place, SyncState::Invalid);
            }
            place = next;
        }
    }

    fn want_back(&mut self, place: u32, state: SyncState) {
        let wanted = self.client(place).wanted_back;
        if wanted.is_some_and(|wanted| rank(wanted) <= rank(state)) {
            return;
        }
        self.change(place, |client| {
            client.wanted_back = Some(state);
            client.out_downgrade = Some(state);
        });
        self.list(place);
    }

    pub(super) fn set_current(&mut self, place: u32, state: SyncState) {
        let client = *self.client(place);
        self.change(place, |client| {
            client.current = state;
            client.got_orphan = false;
        });
        self.with_handle(client.handle, |handle| {
            match client.current {
                SyncState::Shared => handle.readers = handle.readers.saturating_sub(1),
                SyncState::Exclusive => handle.writer = NONE,
                SyncState::Invalid | SyncState::None => {}
            }
            match state {
                SyncState::Shared => handle.readers = handle.readers.saturating_add(1),
                SyncState::Exclusive => handle.writer = place,
                SyncState::Invalid | SyncState::None => {}
            }
        });
    }

    /// Puts a request before all others but those of the same kind that came before it.
    pub(super) fn queue_first(&mut self, place: u32) {
        let at = self.client(place).handle;
        let mut before = NONE;
        let mut behind = self.handle(at).map_or(NONE, |handle| handle.first_asking);
        while self.client(behind).keeps_shared {
            before = behind;
            behind = self.client(behind).behind;
        }
        self.change(place, |client| {
            (client.before, client.behind) = (before, behind);
        });
        self.change(before, |before| before.behind = place);
        self.change(behind, |behind| behind.before = place);
        self.with_handle(at, |handle| {
            if before == NONE {
                handle.first_asking = place;
            }
            if behind == NONE {
                handle.last_asking = place;
            }
        });
    }

    pub(super) fn stop_asking(&mut self, place: u32) {
        let Client {
            handle,
            before,
            behind,
            asked,
            ..
        } = *self.client(place);
        if asked.is_none() {
            return;
        }
        self.change(place, |client| {
            client.asked = None;
            client.keeps_shared = false;
        });
        self.change(before, |before| before.behind = behind);
        self.change(behind, |behind| behind.before = before);
        self.with_handle(handle, |handle| {
            if before == NONE {
                handle.first_asking = behind;
            }
            if behind == NONE {
                handle.last_asking = before;
            }
        });
    }

    /// The client has nothing any more, asks for nothing, and is not the handle's.
    pub(super) fn forget(&mut self, place: u32) {
        self.stop_asking(place);
        self.set_current(place, SyncState::Invalid);
        self.change(place, |client| client.wanted_back = None);
    }
}
