//! Opening and closing sync handles.

use super::SyncHandle;
use super::slots::Slot;
use super::wait_queue::WaitKind;
use crate::error::{Error, Resource};
use crate::node::rpc::Limits;
use crate::node::{Node, Wait};
use crate::pal::Pal;
use crate::store::mix;
use crate::sync::Ordering;

impl<'m, P: Pal> Node<'m, P> {
    /// Opens a sync handle: the one with that number, or a fresh one (`None`). A fresh number has its
    /// highest bit set and belongs to this process's VMID, so no process of the family ever gets it
    /// again. Numbers that programs choose themselves should leave that bit clear. Sends nothing:
    /// the leader learns of the handle when it is first used.
    ///
    /// # Errors
    /// [`Error::Full`] ([`Resource::SyncHandles`]) at the limit, or if this process has used up its
    /// fresh numbers (2^29 at least); [`Error::Invalid`] if this process has that number open, or is
    /// still closing it.
    pub fn open_sync(&self, id: Option<u64>) -> Result<SyncHandle, Error> {
        self.alive()?;
        let mut directory = self.sync_handles.directory.lock();
        let id = match id {
            Some(id) if directory.find(id).is_some() => return Err(Error::Invalid),
            Some(id) => id,
            None => directory
                .fresh_id(self.identity.vmid)
                .ok_or(Error::Full(Resource::SyncHandles))?,
        };
        let slot_index = directory
            .slot_allocator
            .take()
            .ok_or(Error::Full(Resource::SyncHandles))?;
        if let Some(of) = directory.ids.get_mut(slot_index as usize) {
            *of = id;
        }
        directory.by_id.insert(mix(id), slot_index);
        let slot = self.sync_handles.slots.get(slot_index as usize);
        let generation = slot.map_or(0, |slot| {
            let mut client = slot.client.lock();
            // Under the lock: a HELLO that comes just now finds the handle, or is seen here.
            let is_extended = self.has_extensions();
            client.open(id, is_extended)
        });
        Ok(SyncHandle {
            slot_index,
            id,
            generation,
        })
    }

    /// The open handle of that place.
    #[cfg(feature = "capi")]
    pub(crate) fn sync_at(&self, (slot_index, generation): (u32, u32)) -> Option<SyncHandle> {
        let client = self
            .sync_handles
            .slots
            .get(slot_index as usize)?
            .client
            .lock();
        let is_it = client.generation() == generation && client.is_open();
        let id = client.id();
        is_it.then_some(SyncHandle {
            slot_index,
            id,
            generation,
        })
    }

    /// Closes a handle that nobody in this process has taken. Its data lives as long as any process
    /// that has used it has not closed it. Blocks until the leader has said that it knows, as long as `wait` allows; what comes
    /// of it after that frees the place all the same.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is in use or closed; [`Error::TimedOut`] and
    /// [`Error::Interrupted`] as `wait` says: it is closed then, too.
    pub fn close_sync(&self, handle: SyncHandle, wait: Wait<'_>) -> Result<(), Error> {
        self.alive()?;
        let slot = self.slot(handle)?;
        let is_free = {
            let mut client = slot.client.lock();
            if client.generation() != handle.generation || !client.close() {
                return Err(Error::Invalid);
            }
            client.is_free()
        };
        self.wake_slot(slot);
        if is_free {
            self.sync_handles.free_if_closed(handle.slot_index);
            return Ok(());
        }
        self.send_client_messages(handle.slot_index);
        let limits = Limits::of(wait, &self.pal);
        let closed = self.wait_for_slot(handle, slot, WaitKind::Close, limits, |_, _| {
            None::<Result<(), Error>>
        });
        match closed {
            // The place is free, or another's. Who heard that may not have come to say so yet.
            Err(Error::Invalid) => {
                self.sync_handles.free_if_closed(handle.slot_index);
                Ok(())
            }
            // There is nobody who could confirm it.
            Err(Error::LeaderGone | Error::LimitsDiffer { .. }) => {
                slot.client.lock().abandon();
                self.sync_handles.free_if_closed(handle.slot_index);
                Ok(())
            }
            other => other,
        }
    }

    /// Closes all handles of this process that nobody uses. Blocks as [`Node::close_sync`] for each.
    ///
    /// # Errors
    /// The first that [`Node::close_sync`] gives, [`Error::Invalid`] if some are in use; the
    /// others are closed all the same.
    pub fn close_all_syncs(&self, wait: Wait<'_>) -> Result<(), Error> {
        self.alive()?;
        let wait = self.begin(wait);
        let mut outcome = Ok(());
        for (slot_index, slot) in (0..).zip(self.sync_handles.slots.iter()) {
            let (handle, is_open) = {
                let client = slot.client.lock();
                let (id, generation) = (client.id(), client.generation());
                (
                    SyncHandle {
                        slot_index,
                        id,
                        generation,
                    },
                    client.is_open(),
                )
            };
            if is_open {
                outcome = outcome.and(self.close_sync(handle, wait));
            }
        }
        outcome
    }

    /// Whether a leader in C is there and has not confirmed a close.
    pub(in crate::node) fn awaits_c_server(&self) -> bool {
        let mut slots = self.sync_handles.slots.iter();
        !self.leader_gone.load(Ordering::SeqCst)
            && slots.any(|slot| slot.client.lock().awaits_c_server())
    }

    /// Closes what nobody here has taken, without waiting; with a leader in C also what is in use.
    pub(in crate::node) fn close_unused_syncs(&self) {
        for (slot_index, slot) in (0..).zip(self.sync_handles.slots.iter()) {
            let is_closing = slot.client.lock().close_at_exit();
            if is_closing {
                self.send_client_messages(slot_index);
                self.sync_handles.free_if_closed(slot_index);
            }
        }
    }

    #[inline]
    pub(super) fn slot(&self, handle: SyncHandle) -> Result<&Slot<'m>, Error> {
        self.sync_handles
            .slots
            .get(handle.slot_index as usize)
            .ok_or(Error::Invalid)
    }
}
