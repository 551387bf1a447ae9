//! The leader's side of all handles: who may have a lease, and in which order.
//!
//! Requests for a handle are served in the order they came. Those to read that stand together at
//! the head are served together; one to change waits until all others have given back, and those
//! that came after it wait for it.

mod invariants;
mod outbox;
mod scheduling;
mod table;

use super::{LeaseLimits, Unfitting, rank};
use crate::Vmid;
use crate::error::Error;
use crate::store::{Arena, Buckets, Buffer, NONE, Places, Table, bytes_for, copy, mix};
use crate::wire::{Sync, SyncCode, SyncState};
pub use outbox::Told;

struct Handle<'m> {
    id: u64,
    /// Its clients, linked by `next`.
    clients: u32,
    /// Its requests in their order, linked by `behind`.
    first_asking: u32,
    last_asking: u32,
    /// Clients that read.
    readers: u32,
    /// The client that changes.
    writer: u32,
    /// A process died that could change the data, and nobody else has done so since.
    owner_died: bool,
    length: usize,
    data: Buffer<'m>,
}

/// A process that uses a handle.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Copy)]
struct Client {
    vmid: Option<Vmid>,
    handle: u32,
    current: SyncState,
    /// What it asks for.
    asked: Option<SyncState>,
    /// What it was told to give back to.
    wanted_back: Option<SyncState>,
    /// It is a client in C that reads and asks to change the data: it keeps what it has until then, so
    /// nobody else can be served before.
    keeps_shared: bool,
    /// It was given more though it had been asked to give back what it read: that may come yet.
    gives_back_late: bool,
    /// It can change the data, and is the first after a process died that could.
    got_orphan: bool,
    /// Of the handle's clients.
    next: u32,
    before: u32,
    behind: u32,
    out_owner_died: bool,
    out_confirm: Option<SyncState>,
    out_downgrade: Option<SyncState>,
    out_close: bool,
    /// It is among those to whom something is to be said.
    is_listed: bool,
    next_listed: u32,
}

const NOBODY: Client = Client {
    vmid: None,
    handle: NONE,
    current: SyncState::Invalid,
    asked: None,
    wanted_back: None,
    keeps_shared: false,
    gives_back_late: false,
    got_orphan: false,
    next: NONE,
    before: NONE,
    behind: NONE,
    out_owner_died: false,
    out_confirm: None,
    out_downgrade: None,
    out_close: false,
    is_listed: false,
    next_listed: NONE,
};

/// Why a message came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It does not fit.
    Unfitting,
    /// There is no room for the handle or for one more client.
    NoRoom,
    /// It is closed already, for it never found room: to be confirmed all the same.
    Closed,
}

impl From<Unfitting> for Refused {
    fn from(Unfitting: Unfitting) -> Refused {
        Refused::Unfitting
    }
}

/// All handles of the family.
pub struct Server<'m> {
    handles: Table<'m, Handle<'m>>,
    handle_places: Places<'m>,
    by_id: Buckets<'m>,
    clients: Table<'m, Client>,
    client_places: Places<'m>,
    by_client: Buckets<'m>,
    first_listed: u32,
    last_listed: u32,
}

impl<'m> Server<'m> {
    /// The memory it takes, with that much data for each handle.
    pub const fn bytes(limits: &LeaseLimits, data: usize) -> usize {
        bytes_for::<Handle<'m>>(limits.handles)
            .saturating_add(limits.handles.saturating_mul(data))
            .saturating_add(Places::bytes(limits.handles))
            .saturating_add(Buckets::bytes(limits.handles))
            .saturating_add(bytes_for::<Client>(limits.clients))
            .saturating_add(Places::bytes(limits.clients))
            .saturating_add(Buckets::bytes(limits.clients))
    }

    /// Without handles, cut from `arena`.
    ///
    /// # Errors
    /// [`Error::Full`] if the arena is too small.
    pub fn new(arena: &mut Arena<'m>, limits: &LeaseLimits, data: usize) -> Result<Self, Error> {
        let mut memory = arena.split_off(limits.handles.saturating_mul(data))?;
        Ok(Server {
            handles: arena.table(limits.handles, |_| {
                Ok(Handle {
                    id: 0,
                    clients: NONE,
                    first_asking: NONE,
                    last_asking: NONE,
                    readers: 0,
                    writer: NONE,
                    owner_died: false,
                    length: 0,
                    data: memory.buffer(data)?,
                })
            })?,
            handle_places: Places::new(arena, limits.handles)?,
            by_id: Buckets::new(arena, limits.handles)?,
            clients: arena.table(limits.clients, |_| Ok(NOBODY))?,
            client_places: Places::new(arena, limits.clients)?,
            by_client: Buckets::new(arena, limits.clients)?,
            first_listed: NONE,
            last_listed: NONE,
        })
    }

    /// A client says something. What there is to say then comes from [`Server::next`].
    ///
    /// # Errors
    /// [`Refused::Unfitting`] if an honest one would not say that as things stand,
    /// [`Refused::NoRoom`] if a table is full, [`Refused::Closed`] for a close of what found no room:
    /// then nothing has changed.
    pub fn hear(&mut self, from: Vmid, code: SyncCode, sync: &Sync<'_>) -> Result<(), Refused> {
        match code {
            SyncCode::RequestUpgrade => self.asked(from, sync.id, sync.state),
            SyncCode::ConfirmDowngrade => Ok(self.gave_back(from, sync)?),
            SyncCode::RequestClose => self.closed(from, sync),
            _ => Err(Refused::Unfitting),
        }
    }

    /// As [`Server::hear`], from a client that has not said HELLO. One in C that goes on from reading to
    /// changing the data does not give back what it has before that, whatever it is asked: it is served
    /// first, and others that want the same let go.
    ///
    /// # Errors
    /// As [`Server::hear`].
    pub fn hear_from_c(
        &mut self,
        from: Vmid,
        code: SyncCode,
        sync: &Sync<'_>,
    ) -> Result<(), Refused> {
        let is_upgrade = code == SyncCode::RequestUpgrade && sync.state == SyncState::Exclusive;
        let place = self.find(from, sync.id).filter(|_| is_upgrade);
        let keeps = place.is_some_and(|place| {
            let client = self.client(place);
            client.current == SyncState::Shared && !client.out_close
        });
        let (Some(place), true) = (place, keeps) else {
            return self.hear(from, code, sync);
        };
        self.stop_asking(place);
        self.change(place, |client| {
            client.asked = Some(SyncState::Exclusive);
            client.keeps_shared = true;
        });
        self.queue_first(place);
        self.serve(self.client(place).handle);
        Ok(())
    }

    fn asked(&mut self, from: Vmid, id: u64, state: SyncState) -> Result<(), Refused> {
        if state == SyncState::None {
            return Err(Refused::Unfitting);
        }
        let place = match self.find(from, id) {
            Some(place) => place,
            None if state == SyncState::Invalid => return Ok(()),
            None => self.add(from, id).ok_or(Refused::NoRoom)?,
        };
        let client = *self.client(place);
        if client.out_close {
            return Err(Refused::Unfitting);
        }
        if rank(state) <= rank(client.current) {
            // It asks for nothing more. What it has got by now it keeps.
            self.stop_asking(place);
            self.serve(client.handle);
            return Ok(());
        }
        // One that asks for more, or less, than before keeps its turn.
        if client.asked.is_none() {
            let last = self.handle(client.handle).map_or(NONE, |of| of.last_asking);
            self.change(place, |client| {
                client.before = last;
                client.behind = NONE;
            });
            self.change(last, |last| last.behind = place);
            self.with_handle(client.handle, |handle| {
                if last == NONE {
                    handle.first_asking = place;
                }
                handle.last_asking = place;
            });
        }
        self.change(place, |client| client.asked = Some(state));
        self.serve(client.handle);
        Ok(())
    }

    fn gave_back(&mut self, from: Vmid, sync: &Sync<'_>) -> Result<(), Unfitting> {
        let place = self.find(from, sync.id).ok_or(Unfitting)?;
        let client = *self.client(place);
        let was_asked = client
            .wanted_back
            .is_some_and(|wanted| rank(wanted) <= rank(sync.state));
        let is_less = rank(sync.state) < rank(client.current) && sync.state != SyncState::None;
        if client.out_close || !was_asked || !is_less {
            return Err(Unfitting);
        }
        let has_data = self.handle(client.handle).is_some_and(|of| of.length > 0);
        self.change(place, |client| client.gives_back_late = false);
        if client.gives_back_late && has_data && sync.data.is_empty() {
            // It gave back what it read, and did not know yet that it can change the data.
            self.change(place, |client| client.wanted_back = None);
            self.serve(client.handle);
            return Ok(());
        }
        self.take_data(&client, sync)?;
        self.set_current(place, sync.state);
        if client
            .wanted_back
            .is_some_and(|wanted| rank(sync.state) <= rank(wanted))
        {
            self.change(place, |client| client.wanted_back = None);
        }
        self.serve(client.handle);
        Ok(())
    }

    fn closed(&mut self, from: Vmid, sync: &Sync<'_>) -> Result<(), Refused> {
        let Some(place) = self.find(from, sync.id) else {
            let has_nothing = rank(sync.state) == 0 && sync.data.is_empty();
            return Err(if has_nothing {
                Refused::Closed
            } else {
                Refused::Unfitting
            });
        };
        let client = *self.client(place);
        if client.out_close {
            return Err(Refused::Unfitting);
        }
        // It may not have heard yet that it can change the data.
        if sync.state == SyncState::Exclusive {
            self.take_data(&client, sync)?;
        } else if client.got_orphan {
            // Nor has it seen to what a dead process left.
            self.with_handle(client.handle, |handle| handle.owner_died = true);
        }
        self.forget(place);
        self.change(place, |client| {
            client.out_owner_died = false;
            client.out_confirm = None;
            client.out_downgrade = None;
            client.out_close = true;
        });
        self.list(place);
        self.serve(client.handle);
        Ok(())
    }

    /// A client that is about to give back what it got to change has not used it: the next is to be
    /// told, too, that the owner died.
    ///
    /// # Errors
    /// [`Refused::Unfitting`] if it got no such thing.
    pub fn hear_owner_died(&mut self, from: Vmid, id: u64) -> Result<(), Refused> {
        let place = self.find(from, id).ok_or(Unfitting)?;
        let client = *self.client(place);
        if client.out_close || !client.got_orphan {
            return Err(Refused::Unfitting);
        }
        self.with_handle(client.handle, |handle| handle.owner_died = true);
        Ok(())
    }

    /// The data that comes from who could change it.
    fn take_data(&mut self, client: &Client, sync: &Sync<'_>) -> Result<(), Unfitting> {
        if client.current != SyncState::Exclusive {
            return Ok(());
        }
        let handle = self
            .handles
            .get_mut(client.handle as usize)
            .ok_or(Unfitting)?;
        let length = sync.data.len();
        if length > handle.data.capacity() {
            return Err(Unfitting);
        }
        copy(handle.data.first(length), sync.data);
        handle.length = length;
        Ok(())
    }

    /// A process is gone, and so is what it had.
    pub fn left(&mut self, vmid: Vmid) {
        for place in 0..self.client_places.used() {
            let client = *self.client(place);
            if client.vmid != Some(vmid) {
                continue;
            }
            if client.current == SyncState::Exclusive {
                self.with_handle(client.handle, |handle| handle.owner_died = true);
            }
            if !client.out_close {
                self.forget(place);
            }
            self.drop_client(place);
            self.serve(client.handle);
            self.drop_unused(client.handle);
        }
    }

    /// Whether any process uses the handle.
    pub fn is_used(&self, id: u64) -> bool {
        let is_it = |place| self.handle(place).is_some_and(|of| of.id == id);
        self.by_id.find(mix(id), is_it).is_some()
    }

    /// Handles that are in use now, and the most ever.
    pub fn fill(&self) -> (usize, usize) {
        (self.handle_places.taken(), self.handle_places.most())
    }

    /// Clients that use one now, and the most ever.
    pub fn clients_fill(&self) -> (usize, usize) {
        (self.client_places.taken(), self.client_places.most())
    }
}
