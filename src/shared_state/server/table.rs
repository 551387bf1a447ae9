//! The tables of handles and clients.

use super::quotas::{CLIENTS, HANDLES};
use super::{ClientRecord, EMPTY, HandleRecord, Server};
use crate::Vmid;
use crate::store::{NONE, Table, hash64};
use crate::wire::SyncState;

impl<'m> Server<'m> {
    pub(super) fn find_client(&self, vmid: Vmid, id: u64) -> Option<u32> {
        self.by_client.find(hash_client(vmid, id), |index| {
            client_key(&self.clients, &self.handles, index).cmp(&(Some(vmid), id))
        })
    }

    /// Returns true if the client holds the lease to change the value.
    pub fn has_exclusive(&self, vmid: Vmid, id: u64) -> bool {
        let client = self.find_client(vmid, id);
        client.is_some_and(|client| self.client(client).current == SyncState::Exclusive)
    }

    pub(super) fn find_handle(&self, id: u64) -> Option<u32> {
        self.by_id
            .find(hash64(id), |index| handle_id(&self.handles, index).cmp(&id))
    }

    pub(super) fn add_client(&mut self, vmid: Vmid, id: u64) -> Option<u32> {
        let known = self.find_handle(id);
        if self.client_slots.remaining() == 0
            || known.is_none() && self.handle_slots.remaining() == 0
            || !self.may_add_client(vmid, known.is_none())
        {
            return None;
        }
        let handle_index = if let Some(handle_index) = known {
            handle_index
        } else {
            let handle_index = self.handle_slots.alloc()?;
            let payer = self.quotas.charge_allowed(vmid, HANDLES, 1);
            self.update_handle(handle_index, |handle| {
                handle.id = id;
                handle.clients = NONE;
                handle.queue_head = NONE;
                handle.queue_tail = NONE;
                handle.readers = 0;
                handle.writer = NONE;
                handle.revocations = 0;
                handle.owner_died = false;
                handle.payer = payer;
                handle.value.length = 0;
            });
            let handles = &self.handles;
            self.by_id.insert(hash64(id), handle_index, &|other| {
                handle_id(handles, other).cmp(&id)
            });
            handle_index
        };
        let index = self.client_slots.alloc()?;
        let next_of_handle = self.handle(handle_index)?.clients;
        let payer = self.quotas.charge_allowed(vmid, CLIENTS, 1);
        self.update_client(index, |client| {
            *client = ClientRecord {
                vmid: Some(vmid),
                handle: handle_index,
                next_of_handle,
                payer,
                ..EMPTY
            };
        });
        self.update_client(next_of_handle, |next| next.prev_of_handle = index);
        self.update_handle(handle_index, |handle| handle.clients = index);
        let (clients, handles) = (&self.clients, &self.handles);
        self.by_client
            .insert(hash_client(vmid, id), index, &|other| {
                client_key(clients, handles, other).cmp(&(Some(vmid), id))
            });
        Some(index)
    }

    pub(super) fn remove_client(&mut self, index: u32) {
        self.outbox.remove(index);
        let client = *self.client(index);
        let Some(vmid) = client.vmid else { return };
        let Some(id) = self.handle(client.handle).map(|handle| handle.id) else {
            return;
        };
        self.unlist_revocation(index);
        if client.prev_of_handle == NONE {
            self.update_handle(client.handle, |handle| {
                handle.clients = client.next_of_handle;
            });
        }
        self.update_client(client.prev_of_handle, |prev| {
            prev.next_of_handle = client.next_of_handle;
        });
        self.update_client(client.next_of_handle, |next| {
            next.prev_of_handle = client.prev_of_handle;
        });
        let (clients, handles) = (&self.clients, &self.handles);
        self.by_client
            .remove(hash_client(vmid, id), index, &|other| {
                client_key(clients, handles, other).cmp(&(Some(vmid), id))
            });
        self.update_client(index, |client| *client = EMPTY);
        self.client_slots.free(index);
        self.recharge_handle(client.handle, client.payer);
        self.quotas.release(client.payer, CLIENTS, 1);
    }

    pub(super) fn remove_if_unused(&mut self, handle_index: u32) {
        let Some(handle) = self
            .handle(handle_index)
            .filter(|handle| handle.clients == NONE)
        else {
            return;
        };
        let (id, payer) = (handle.id, handle.payer);
        let handles = &self.handles;
        self.by_id.remove(hash64(id), handle_index, &|other| {
            handle_id(handles, other).cmp(&id)
        });
        self.handle_slots.free(handle_index);
        self.quotas.release(payer, HANDLES, 1);
    }

    #[cfg_attr(static_library, inline(never))]
    pub(super) fn client(&self, index: u32) -> &ClientRecord {
        static NOWHERE: ClientRecord = EMPTY;
        self.steps.count();
        self.clients.get(index as usize).unwrap_or(&NOWHERE)
    }

    pub(super) fn update_client(&mut self, index: u32, update: impl FnOnce(&mut ClientRecord)) {
        if let Some(client) = self.clients.get_mut(index as usize) {
            update(client);
        }
    }

    pub(super) fn handle(&self, handle_index: u32) -> Option<&HandleRecord<'m>> {
        self.handles.get(handle_index as usize)
    }

    pub(super) fn update_handle(
        &mut self,
        handle_index: u32,
        update: impl FnOnce(&mut HandleRecord<'m>),
    ) {
        if let Some(handle) = self.handles.get_mut(handle_index as usize) {
            update(handle);
        }
    }
}

pub(super) fn handle_id(handles: &Table<'_, HandleRecord<'_>>, handle: u32) -> u64 {
    handles.get(handle as usize).map_or(0, |handle| handle.id)
}

/// Returns the key of a client: its process, and the number of the handle.
pub(super) fn client_key(
    clients: &Table<'_, ClientRecord>,
    handles: &Table<'_, HandleRecord<'_>>,
    client: u32,
) -> (Option<Vmid>, u64) {
    let client = clients.get(client as usize).unwrap_or(&EMPTY);
    (client.vmid, handle_id(handles, client.handle))
}

pub(super) fn hash_client(vmid: Vmid, id: u64) -> u64 {
    hash64(id.rotate_left(32) ^ u64::from(vmid.get()))
}
