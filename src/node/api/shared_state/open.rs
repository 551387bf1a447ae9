//! Opening and closing sync handles.

use super::Opened;
use super::SyncHandle;
use super::call_queue::WaitKind;
use super::slots::Slot;
use crate::error::{Error, Invalid, Resource};
use crate::node::rpc::Limits;
use crate::node::{Node, Wait};
use crate::pal::Pal;
use crate::shared_state::Client;
use crate::store::SpinLockGuard;
use crate::sync::Ordering;

/// # Shared values: open and close
impl<'m, P: Pal> Node<'m, P> {
    /// Opens a sync handle: the one with the given number, or one with a fresh number (`None`). A
    /// fresh number has its highest bit set and contains this process's VMID, so no other process
    /// of the family ever gets it. Numbers that programs choose should leave that bit clear. It
    /// never blocks and sends nothing: the leader learns of the handle at its first use.
    ///
    /// # Errors
    /// [`Error::Full`] ([`Resource::SyncHandles`]) at the limit, or if this process has used up its fresh numbers (2^29 at least); [`Error::Invalid`] if this process has that number open, or has not finished closing it.
    pub fn open_sync(&self, id: Option<u64>) -> Result<SyncHandle, Error> {
        self.open_handle(id, false)
    }

    /// Like [`Node::open_sync`]. If `shares` says so, a handle that this process has open is opened
    /// once more, and closes when all its openings are closed; one that is being closed is opened
    /// anew, and its first use waits for the end of the close.
    pub(super) fn open_handle(&self, id: Option<u64>, shares: bool) -> Result<SyncHandle, Error> {
        self.check_running()?;
        let mut directory = self.sync_handles.directory.lock();
        let open = id.and_then(|id| Some((id, directory.find(id)?)));
        if let Some((id, slot_index)) = open {
            let slot = self.sync_handles.slots.get(slot_index as usize);
            let opened = slot.filter(|_| shares);
            let opened = opened.and_then(|slot| slot.client.lock().open_again());
            if let Some(generation) = opened {
                return Ok(SyncHandle {
                    slot_index,
                    id,
                    generation,
                });
            }
            let is_free = slot.is_some_and(|slot| slot.client.lock().is_free());
            if !shares || !is_free {
                return Err(Error::Invalid(Invalid::HandleOpen));
            }
            // Its close has ended, and the thread that handles that has not freed the slot yet.
            directory.remove(id, slot_index);
            directory.slot_allocator.free(slot_index);
        }
        let id = match id {
            Some(id) => id,
            None => directory
                .fresh_id(self.identity.vmid)
                .ok_or(Error::Full(Resource::SyncHandles))?,
        };
        let slot_index = directory
            .slot_allocator
            .alloc()
            .ok_or(Error::Full(Resource::SyncHandles))?;
        directory.insert(id, slot_index);
        let slot = self.sync_handles.slots.get(slot_index as usize);
        let generation = slot.map_or(0, |slot| {
            let mut client = slot.client.lock();
            // `has_extensions` is read under the client's lock: a HELLO that arrives at this moment
            // either finds the handle or is seen here.
            let is_extended = self.has_extensions();
            client.open(id, is_extended)
        });
        Ok(SyncHandle {
            slot_index,
            id,
            generation,
        })
    }

    /// Returns the handle that is open in that slot, if its generation matches.
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

    /// Closes a handle that no thread of this process holds. A handle that is open several times in
    /// this process, since [`Node::share`] opened it again, stays open for the others. The value lives until all processes
    /// that used it have closed it. Blocks until the leader has confirmed the close, at most as
    /// long as `wait` allows, and not at all if other threads use all
    /// [`Capacities::waiters`](crate::Capacities::waiters); a later confirmation frees the slot as well.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the handle is in use or closed; [`Error::TimedOut`] and [`Error::Interrupted`] as `wait` says: the handle is closed in these cases, too.
    pub fn close_sync(&self, handle: SyncHandle, wait: Wait<'_>) -> Result<(), Error> {
        self.close_sync_in(handle, wait)
    }

    /// Closes all handles of this process that no thread holds. Blocks as [`Node::close_sync`];
    /// `wait` limits the whole call.
    ///
    /// # Errors
    /// The first error of [`Node::close_sync`]; [`Error::Invalid`] if some handles are in use. The
    /// other handles are closed in any case.
    pub fn close_all_syncs(&self, wait: Wait<'_>) -> Result<(), Error> {
        self.close_all_syncs_in(wait)
    }

    /// Returns true if a connected leader in C has not confirmed a close.
    pub(in crate::node) fn awaits_c_server(&self) -> bool {
        let mut slots = self.sync_handles.slots.iter();
        !self.leader_gone.load(Ordering::SeqCst)
            && slots.any(|slot| slot.client.lock().awaits_c_server())
    }

    /// Closes the handles that no thread holds, without waiting; with a leader in C also the
    /// others.
    pub(in crate::node) fn close_unused_syncs(&self) {
        for (slot_index, slot) in (0..).zip(self.sync_handles.slots.iter()) {
            let is_closing = slot.client.lock().close_at_exit();
            if is_closing {
                self.send_client_messages(slot_index);
                self.sync_handles.free_if_closed(slot_index);
            }
        }
    }

    /// Locks the client of a handle.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the handle is closed.
    #[inline]
    pub(in crate::node) fn sync_client(
        &self,
        handle: SyncHandle,
    ) -> Result<SpinLockGuard<'_, Client<'m>>, Error> {
        let client = self.slot(handle)?.client.lock();
        if client.generation() == handle.generation {
            Ok(client)
        } else {
            Err(Error::Invalid(Invalid::HandleClosed))
        }
    }

    /// Returns the handle with its slot.
    pub(super) fn opened(&self, handle: SyncHandle) -> Result<Opened<'_, 'm>, Error> {
        let slot = self.slot(handle)?;
        Ok(Opened { handle, slot })
    }

    pub(super) fn slot(&self, handle: SyncHandle) -> Result<&Slot<'m>, Error> {
        self.sync_handles
            .slots
            .get(handle.slot_index as usize)
            .ok_or(Error::Invalid(Invalid::HandleClosed))
    }
}

/// Returns the error of a call that a client does not allow: that the handle is closed, or else `cause`.
#[cold]
pub(in crate::node::api) fn misuse(
    client: &Client<'_>,
    handle: SyncHandle,
    cause: Invalid,
) -> Error {
    let is_open = client.generation() == handle.generation && client.is_open();
    Error::Invalid(if is_open {
        cause
    } else {
        Invalid::HandleClosed
    })
}

calls! {
    fn close_sync_in(&self, handle: SyncHandle, wait: Wait<'_>) -> Result<(), Error> {
        self.check_running()?;
        let opened = self.opened(handle)?;
        let slot = opened.slot;
        let is_free = {
            let mut client = slot.client.lock();
            if client.generation() != handle.generation {
                return Err(Error::Invalid(Invalid::HandleClosed));
            }
            if client.close_one() {
                return Ok(());
            }
            if !client.close() {
                return Err(misuse(&client, handle, Invalid::HandleInUse));
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
        let never = |_: &mut Client<'m>, _| None;
        let closed = self.wait_for_slot(&opened, WaitKind::Close, limits, never);
        match wait!(closed) {
            // The slot is free, or holds a later handle. The thread that handled the confirmation
            // may not have freed it yet.
            Err(Error::Invalid(_)) => {
                self.sync_handles.free_if_closed(handle.slot_index);
                Ok(())
            }
            // All waiters are in use by other threads: the confirmation frees the slot later.
            Err(Error::Full(_)) => Ok(()),
            // No leader can confirm it.
            Err(Error::LeaderGone | Error::CutOff | Error::LimitsDiffer { .. }) => {
                slot.client.lock().abandon();
                self.sync_handles.free_if_closed(handle.slot_index);
                Ok(())
            }
            other => other,
        }
    }

    fn close_all_syncs_in(&self, wait: Wait<'_>) -> Result<(), Error> {
        self.check_running()?;
        let wait = self.begin(wait);
        let mut outcome = Ok(());
        for (slot_index, slot) in (0..).zip(self.sync_handles.slots.iter()) {
            let (handle, is_open, is_in_use) = {
                let mut client = slot.client.lock();
                client.join_openings();
                let (id, generation) = (client.id(), client.generation());
                let handle = SyncHandle {
                    slot_index,
                    id,
                    generation,
                };
                (handle, client.is_open(), client.is_in_use())
            };
            if is_in_use {
                outcome = outcome.and(Err(Error::Invalid(Invalid::HandleInUse)));
            } else if is_open {
                outcome = outcome.and(wait!(self.close_sync_in(handle, wait)));
            }
        }
        outcome
    }
}
