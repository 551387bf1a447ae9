//! The image of the server's tables. Each handle has its own memory for its value, which may be longer than a slice.

use super::table::{client_key, handle_id, hash_client};
use super::{ClientRecord, EMPTY, HandleRecord, Server, Value};
use crate::store::{
    Image, ImageEntry, ImageReader, ImageWriter, Loader, MalformedImage, NONE, Payer, Saver,
    hash64, list_length, memory_sum,
};

/// The size of a handle without its value.
const HANDLE: usize = memory_sum!(8_usize, 6 * 4, 1, Payer::SIZE, 8);

impl HandleRecord<'_> {
    fn save(&self, to: &mut ImageWriter<'_>) {
        let HandleRecord {
            id,
            clients,
            queue_head,
            queue_tail,
            readers,
            writer,
            revocations,
            owner_died,
            payer,
            value,
        } = self;
        id.save(to);
        let numbers = [
            *clients,
            *queue_head,
            *queue_tail,
            *readers,
            *writer,
            *revocations,
        ];
        numbers.save(to);
        ((*owner_died, *payer), value.length).save(to);
    }

    fn load(&mut self, from: &mut ImageReader<'_>) -> Result<(), MalformedImage> {
        self.id = ImageEntry::load(from)?;
        let numbers: [u32; 6] = ImageEntry::load(from)?;
        [
            self.clients,
            self.queue_head,
            self.queue_tail,
            self.readers,
            self.writer,
            self.revocations,
        ] = numbers;
        ((self.owner_died, self.payer), self.value.length) = ImageEntry::load(from)?;
        let length = self.value.length;
        if self.value.bytes_mut(0, length).is_none() {
            self.value.length = 0;
            return Err(MalformedImage);
        }
        Ok(())
    }
}

impl Value<'_> {
    fn bytes_mut(&mut self, start: usize, length: usize) -> Option<&mut [u8]> {
        let end = start.checked_add(length)?;
        let end = Some(end).filter(|end| *end <= self.buffer.capacity())?;
        self.buffer.prefix_mut(end).get_mut(start..)
    }
}

impl Image for Server<'_> {
    fn save(&self, out: &mut Saver<'_>) {
        let Server {
            handles,
            handle_slots,
            by_id: _,
            clients,
            client_slots,
            by_client: _,
            outbox,
            first_revoked,
            last_revoked,
            last_revocation,
            steps: _,
            quotas,
        } = self;
        let numbers = ((*first_revoked, *last_revoked), *last_revocation);
        out.entries(<((u32, u32), u64)>::SIZE, (1, 1), &|_, to| numbers.save(to));
        handle_slots.save(out);
        let used = (handles.len(), handle_slots.high_water() as usize);
        out.entries(HANDLE, used, &|index, to| {
            if let Some(handle) = handles.get(index) {
                handle.save(to);
            }
        });
        let longest = handles
            .first()
            .map_or(0, |handle| handle.value.buffer.capacity());
        out.bytes(longest, used, &|index| {
            handles
                .get(index)
                .map_or(&[][..], |handle| handle.value.bytes())
        });
        client_slots.save(out);
        out.table(clients, client_slots.high_water() as usize);
        outbox.save(out);
        quotas.save(out);
    }

    fn load(&mut self, from: &mut Loader<'_>) -> Result<(), MalformedImage> {
        from.entries(<((u32, u32), u64)>::SIZE, 1, &mut |_, from| {
            let numbers: ((u32, u32), u64) = ImageEntry::load(from)?;
            (
                (self.first_revoked, self.last_revoked),
                self.last_revocation,
            ) = numbers;
            Ok(())
        })?;
        self.handle_slots.load(from)?;
        let handles = &mut self.handles;
        from.entries(HANDLE, handles.len(), &mut |index, from| {
            handles.get_mut(index).ok_or(MalformedImage)?.load(from)
        })?;
        from.bytes(|index, offset, length| {
            handles.get_mut(index)?.value.bytes_mut(offset, length)
        })?;
        self.client_slots.load(from)?;
        from.table(&mut self.clients)?;
        self.outbox.load(from)?;
        self.quotas.load(from)
    }

    fn clear_unused(&mut self) {
        // A new handle is written as a whole.
        self.handle_slots.clear_unused();
        self.client_slots.clear_unused();
        let used = self.client_slots.high_water() as usize;
        if let Some(unused) = self.clients.get_mut(used..) {
            unused.fill(EMPTY);
        }
        self.outbox.clear_unused();
        self.quotas.clear_unused();
    }
}

impl Server<'_> {
    /// Makes what is not in an image. Returns false if the image was none.
    pub(crate) fn complete_image(&mut self) -> bool {
        let is_valid = self.handle_slots.is_valid()
            && self.client_slots.is_valid()
            && self.has_valid_lists()
            && self.outbox.is_valid();
        if is_valid {
            self.index();
        }
        is_valid && self.quotas.complete_image()
    }

    /// Returns true if the neighbours in all lists agree, for entries that may be wrong.
    fn has_valid_lists(&self) -> bool {
        // A client without a request keeps the neighbours of its last one.
        let queued_prev = |client: &ClientRecord| client.requested.map(|_| client.prev);
        let first = |index: u32, prev_of: fn(&ClientRecord) -> Option<u32>| {
            let client = self.clients.get(index as usize);
            index == NONE || client.is_some_and(|client| prev_of(client) == Some(NONE))
        };
        let next = |index: u32| Some(self.clients.get(index as usize)?.next_revoked);
        let revoked = list_length(self.first_revoked, self.clients.len(), next);
        let is_right = |(index, client): (u32, &ClientRecord)| {
            let follows = |next: u32, prev_of: fn(&ClientRecord) -> Option<u32>| {
                let next_client = self.clients.get(next as usize);
                next == NONE || next_client.is_some_and(|next| prev_of(next) == Some(index))
            };
            follows(client.next_of_handle, |next| Some(next.prev_of_handle))
                && (client.requested.is_none() || follows(client.next, queued_prev))
        };
        let handles = self.handles.iter();
        let mut handles = handles.take(self.handle_slots.high_water() as usize);
        revoked.is_some()
            && (0..).zip(self.clients.iter()).all(is_right)
            && handles.all(|handle| {
                first(handle.clients, |client| Some(client.prev_of_handle))
                    && first(handle.queue_head, queued_prev)
            })
    }

    fn index(&mut self) {
        self.by_id.clear();
        self.by_client.clear();
        let (clients, handles) = (&self.clients, &self.handles);
        for (slot, handle) in (0..self.handle_slots.high_water()).zip(handles.iter()) {
            if handle.clients != NONE {
                self.by_id.insert(hash64(handle.id), slot, &|other| {
                    handle_id(handles, other).cmp(&handle.id)
                });
            }
        }
        for (slot, client) in (0..self.client_slots.high_water()).zip(clients.iter()) {
            if let Some(vmid) = client.vmid {
                let key = client_key(clients, handles, slot);
                self.by_client
                    .insert(hash_client(vmid, key.1), slot, &|other| {
                        client_key(clients, handles, other).cmp(&key)
                    });
            }
        }
    }
}
