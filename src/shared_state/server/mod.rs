//! The leader's side of all handles: who may have a lease, and in which order.
//!
//! Requests for a handle are served in the order they came. Those to read that stand together at
//! the head are served together; one to change waits until all others have given back, and those
//! that came after it wait for it.

mod invariants;
mod outbox;
mod scheduling;
mod table;

use super::{LeaseLimits, ProtocolViolation, strength};
use crate::Vmid;
use crate::error::Error;
use crate::store::{Arena, Buckets, Buffer, NONE, Places, Table, bytes_for, copy, mix};
use crate::wire::{Sync, SyncCode, SyncState};
pub use outbox::ServerMessage;

struct HandleRecord<'m> {
    id: u64,
    /// Its clients, linked by `next_of_handle`.
    clients: u32,
    /// Its requests in their order, linked by `next`.
    queue_head: u32,
    queue_tail: u32,
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
struct ClientRecord {
    vmid: Option<Vmid>,
    handle: u32,
    current: SyncState,
    /// What it asks for.
    requested: Option<SyncState>,
    /// What it was told to give back to.
    revoke_to: Option<SyncState>,
    /// It is a client in C that reads and asks to change the data: it keeps what it has until then, so
    /// nobody else can be served before.
    upgrades_in_place: bool,
    /// It was given more though it had been asked to give back what it read: that may come yet.
    expects_stale_downgrade: bool,
    /// It can change the data, and is the first after a process died that could.
    owner_died_unacked: bool,
    /// Of the handle's clients.
    next_of_handle: u32,
    prev: u32,
    next: u32,
    out_owner_died: bool,
    out_confirm: Option<SyncState>,
    out_downgrade: Option<SyncState>,
    out_close: bool,
    /// It is among those to whom something is to be said.
    is_in_outbox: bool,
    outbox_next: u32,
}

const EMPTY: ClientRecord = ClientRecord {
    vmid: None,
    handle: NONE,
    current: SyncState::Invalid,
    requested: None,
    revoke_to: None,
    upgrades_in_place: false,
    expects_stale_downgrade: false,
    owner_died_unacked: false,
    next_of_handle: NONE,
    prev: NONE,
    next: NONE,
    out_owner_died: false,
    out_confirm: None,
    out_downgrade: None,
    out_close: false,
    is_in_outbox: false,
    outbox_next: NONE,
};

/// Why a message came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// It does not fit.
    ProtocolViolation,
    /// There is no room for the handle or for one more client.
    NoRoom,
    /// It is closed already, for it never found room: to be confirmed all the same.
    Closed,
}

impl From<ProtocolViolation> for RequestError {
    fn from(ProtocolViolation: ProtocolViolation) -> RequestError {
        RequestError::ProtocolViolation
    }
}

/// All handles of the family.
pub struct Server<'m> {
    handles: Table<'m, HandleRecord<'m>>,
    handle_slots: Places<'m>,
    by_id: Buckets<'m>,
    clients: Table<'m, ClientRecord>,
    client_slots: Places<'m>,
    by_client: Buckets<'m>,
    outbox_head: u32,
    outbox_tail: u32,
}

impl<'m> Server<'m> {
    /// The memory it takes, with that much data for each handle.
    pub const fn bytes(limits: &LeaseLimits, data: usize) -> usize {
        bytes_for::<HandleRecord<'m>>(limits.handles)
            .saturating_add(limits.handles.saturating_mul(data))
            .saturating_add(Places::bytes(limits.handles))
            .saturating_add(Buckets::bytes(limits.handles))
            .saturating_add(bytes_for::<ClientRecord>(limits.clients))
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
                Ok(HandleRecord {
                    id: 0,
                    clients: NONE,
                    queue_head: NONE,
                    queue_tail: NONE,
                    readers: 0,
                    writer: NONE,
                    owner_died: false,
                    length: 0,
                    data: memory.buffer(data)?,
                })
            })?,
            handle_slots: Places::new(arena, limits.handles)?,
            by_id: Buckets::new(arena, limits.handles)?,
            clients: arena.table(limits.clients, |_| Ok(EMPTY))?,
            client_slots: Places::new(arena, limits.clients)?,
            by_client: Buckets::new(arena, limits.clients)?,
            outbox_head: NONE,
            outbox_tail: NONE,
        })
    }

    /// A client says something. What there is to say then comes from [`Server::next_of_handle`].
    ///
    /// # Errors
    /// [`RequestError::ProtocolViolation`] if an honest one would not say that as things stand,
    /// [`RequestError::NoRoom`] if a table is full, [`RequestError::Closed`] for a close of what found no room:
    /// then nothing has changed.
    pub fn on_message(
        &mut self,
        from: Vmid,
        code: SyncCode,
        sync: &Sync<'_>,
    ) -> Result<(), RequestError> {
        match code {
            SyncCode::RequestUpgrade => self.on_request_upgrade(from, sync.id, sync.state),
            SyncCode::ConfirmDowngrade => Ok(self.on_confirm_downgrade(from, sync)?),
            SyncCode::RequestClose => self.on_request_close(from, sync),
            _ => Err(RequestError::ProtocolViolation),
        }
    }

    /// As [`Server::on_message`], from a client that has not said HELLO. One in C that goes on from reading to
    /// changing the data does not give back what it has before that, whatever it is asked: it is served
    /// first, and others that want the same let go.
    ///
    /// # Errors
    /// As [`Server::on_message`].
    pub fn on_message_from_c(
        &mut self,
        from: Vmid,
        code: SyncCode,
        sync: &Sync<'_>,
    ) -> Result<(), RequestError> {
        let is_upgrade = code == SyncCode::RequestUpgrade && sync.state == SyncState::Exclusive;
        let index = self.find_client(from, sync.id).filter(|_| is_upgrade);
        let upgrades = index.is_some_and(|index| {
            let client = self.client(index);
            client.current == SyncState::Shared && !client.out_close
        });
        let (Some(index), true) = (index, upgrades) else {
            return self.on_message(from, code, sync);
        };
        self.dequeue_request(index);
        self.update_client(index, |client| {
            client.requested = Some(SyncState::Exclusive);
            client.upgrades_in_place = true;
        });
        self.enqueue_upgrade(index);
        self.grant_next(self.client(index).handle);
        Ok(())
    }

    fn on_request_upgrade(
        &mut self,
        from: Vmid,
        id: u64,
        state: SyncState,
    ) -> Result<(), RequestError> {
        if state == SyncState::None {
            return Err(RequestError::ProtocolViolation);
        }
        let index = match self.find_client(from, id) {
            Some(index) => index,
            None if state == SyncState::Invalid => return Ok(()),
            None => self.add_client(from, id).ok_or(RequestError::NoRoom)?,
        };
        let client = *self.client(index);
        if client.out_close {
            return Err(RequestError::ProtocolViolation);
        }
        if strength(state) <= strength(client.current) {
            // It asks for nothing more. What it has got by now it keeps.
            self.dequeue_request(index);
            self.grant_next(client.handle);
            return Ok(());
        }
        // One that asks for more, or less, than before keeps its turn.
        if client.requested.is_none() {
            let last = self.handle(client.handle).map_or(NONE, |of| of.queue_tail);
            self.update_client(index, |client| {
                client.prev = last;
                client.next = NONE;
            });
            self.update_client(last, |last| last.next = index);
            self.update_handle(client.handle, |handle| {
                if last == NONE {
                    handle.queue_head = index;
                }
                handle.queue_tail = index;
            });
        }
        self.update_client(index, |client| client.requested = Some(state));
        self.grant_next(client.handle);
        Ok(())
    }

    fn on_confirm_downgrade(
        &mut self,
        from: Vmid,
        sync: &Sync<'_>,
    ) -> Result<(), ProtocolViolation> {
        let index = self.find_client(from, sync.id).ok_or(ProtocolViolation)?;
        let client = *self.client(index);
        let was_revoked = client
            .revoke_to
            .is_some_and(|revoke_to| strength(revoke_to) <= strength(sync.state));
        let is_less =
            strength(sync.state) < strength(client.current) && sync.state != SyncState::None;
        if client.out_close || !was_revoked || !is_less {
            return Err(ProtocolViolation);
        }
        let has_data = self.handle(client.handle).is_some_and(|of| of.length > 0);
        self.update_client(index, |client| client.expects_stale_downgrade = false);
        if client.expects_stale_downgrade && has_data && sync.data.is_empty() {
            // It gave back what it read, and did not know yet that it can change the data.
            self.update_client(index, |client| client.revoke_to = None);
            self.grant_next(client.handle);
            return Ok(());
        }
        self.store_data(&client, sync)?;
        self.set_current(index, sync.state);
        if client
            .revoke_to
            .is_some_and(|revoke_to| strength(sync.state) <= strength(revoke_to))
        {
            self.update_client(index, |client| client.revoke_to = None);
        }
        self.grant_next(client.handle);
        Ok(())
    }

    fn on_request_close(&mut self, from: Vmid, sync: &Sync<'_>) -> Result<(), RequestError> {
        let Some(index) = self.find_client(from, sync.id) else {
            let has_nothing = strength(sync.state) == 0 && sync.data.is_empty();
            return Err(if has_nothing {
                RequestError::Closed
            } else {
                RequestError::ProtocolViolation
            });
        };
        let client = *self.client(index);
        if client.out_close {
            return Err(RequestError::ProtocolViolation);
        }
        // It may not have heard yet that it can change the data.
        if sync.state == SyncState::Exclusive {
            self.store_data(&client, sync)?;
        } else if client.owner_died_unacked {
            // Nor has it seen to what a dead process left.
            self.update_handle(client.handle, |handle| handle.owner_died = true);
        }
        self.release_lease(index);
        self.update_client(index, |client| {
            client.out_owner_died = false;
            client.out_confirm = None;
            client.out_downgrade = None;
            client.out_close = true;
        });
        self.enqueue_output(index);
        self.grant_next(client.handle);
        Ok(())
    }

    /// A client that is about to give back what it got to change has not used it: the next is to be
    /// told, too, that the owner died.
    ///
    /// # Errors
    /// [`RequestError::ProtocolViolation`] if it got no such thing.
    pub fn on_owner_died(&mut self, from: Vmid, id: u64) -> Result<(), RequestError> {
        let index = self.find_client(from, id).ok_or(ProtocolViolation)?;
        let client = *self.client(index);
        if client.out_close || !client.owner_died_unacked {
            return Err(RequestError::ProtocolViolation);
        }
        self.update_handle(client.handle, |handle| handle.owner_died = true);
        Ok(())
    }

    /// The data that comes from who could change it.
    fn store_data(
        &mut self,
        client: &ClientRecord,
        sync: &Sync<'_>,
    ) -> Result<(), ProtocolViolation> {
        if client.current != SyncState::Exclusive {
            return Ok(());
        }
        let handle = self
            .handles
            .get_mut(client.handle as usize)
            .ok_or(ProtocolViolation)?;
        let length = sync.data.len();
        if length > handle.data.capacity() {
            return Err(ProtocolViolation);
        }
        copy(handle.data.first(length), sync.data);
        handle.length = length;
        Ok(())
    }

    /// A process is gone, and so is what it had.
    pub fn reclaim(&mut self, vmid: Vmid) {
        for index in 0..self.client_slots.used() {
            let client = *self.client(index);
            if client.vmid != Some(vmid) {
                continue;
            }
            if client.current == SyncState::Exclusive {
                self.update_handle(client.handle, |handle| handle.owner_died = true);
            }
            if !client.out_close {
                self.release_lease(index);
            }
            self.remove_client(index);
            self.grant_next(client.handle);
            self.remove_if_unused(client.handle);
        }
    }

    /// Whether any process uses the handle.
    pub fn is_used(&self, id: u64) -> bool {
        let is_it = |index| self.handle(index).is_some_and(|of| of.id == id);
        self.by_id.find(mix(id), is_it).is_some()
    }

    /// Handles that are in use now, and the most ever.
    pub fn handle_usage(&self) -> (usize, usize) {
        (self.handle_slots.taken(), self.handle_slots.most())
    }

    /// Clients that use one now, and the most ever.
    pub fn client_usage(&self) -> (usize, usize) {
        (self.client_slots.taken(), self.client_slots.most())
    }
}
