//! Which handles there are, and who uses them.

use super::{Client, Handle, NOBODY, Server};
use crate::Vmid;
use crate::store::{NONE, mix};

impl<'m> Server<'m> {
    pub(super) fn find(&self, vmid: Vmid, id: u64) -> Option<u32> {
        self.by_client.find(key(vmid, id), |place| {
            let client = self.client(place);
            client.vmid == Some(vmid) && self.handle(client.handle).is_some_and(|of| of.id == id)
        })
    }

    pub(super) fn add(&mut self, vmid: Vmid, id: u64) -> Option<u32> {
        let known = self.by_id.find(mix(id), |place| {
            self.handle(place).is_some_and(|of| of.id == id)
        });
        if self.client_places.left() == 0 {
            return None;
        }
        let at = if let Some(at) = known {
            at
        } else {
            let at = self.handle_places.take()?;
            self.with_handle(at, |handle| {
                handle.id = id;
                handle.clients = NONE;
                handle.first_asking = NONE;
                handle.last_asking = NONE;
                handle.readers = 0;
                handle.writer = NONE;
                handle.owner_died = false;
                handle.length = 0;
            });
            self.by_id.insert(mix(id), at);
            at
        };
        let place = self.client_places.take()?;
        let next = self.handle(at)?.clients;
        self.change(place, |client| {
            *client = Client {
                vmid: Some(vmid),
                handle: at,
                next,
                ..NOBODY
            };
        });
        self.with_handle(at, |handle| handle.clients = place);
        self.by_client.insert(key(vmid, id), place);
        Some(place)
    }

    pub(super) fn drop_client(&mut self, place: u32) {
        self.unlist(place);
        let client = *self.client(place);
        let Some(vmid) = client.vmid else { return };
        let (id, mut at) = match self.handle(client.handle) {
            Some(handle) => (handle.id, handle.clients),
            None => return,
        };
        if at == place {
            self.with_handle(client.handle, |handle| handle.clients = client.next);
        } else {
            while at != NONE && self.client(at).next != place {
                at = self.client(at).next;
            }
            self.change(at, |before| before.next = client.next);
        }
        self.by_client.remove(key(vmid, id), place);
        self.change(place, |client| *client = NOBODY);
        self.client_places.give(place);
    }

    pub(super) fn drop_unused(&mut self, at: u32) {
        let Some(handle) = self.handle(at).filter(|handle| handle.clients == NONE) else {
            return;
        };
        let id = handle.id;
        self.by_id.remove(mix(id), at);
        self.handle_places.give(at);
    }

    pub(super) fn client(&self, place: u32) -> &Client {
        static NOWHERE: Client = NOBODY;
        self.clients.get(place as usize).unwrap_or(&NOWHERE)
    }

    pub(super) fn change(&mut self, place: u32, change: impl FnOnce(&mut Client)) {
        if let Some(client) = self.clients.get_mut(place as usize) {
            change(client);
        }
    }

    pub(super) fn handle(&self, at: u32) -> Option<&Handle<'m>> {
        self.handles.get(at as usize)
    }

    pub(super) fn with_handle(&mut self, at: u32, change: impl FnOnce(&mut Handle<'m>)) {
        if let Some(handle) = self.handles.get_mut(at as usize) {
            change(handle);
        }
    }
}

fn key(vmid: Vmid, id: u64) -> u64 {
    mix(id.rotate_left(32) ^ u64::from(vmid.get()))
}
