//! Releasing sync handles.

use super::Opened;
use super::{SyncHandle, misuse};
use crate::error::{Error, Invalid};
use crate::node::Node;
use crate::pal::Pal;
use crate::shared_state::Client;
use crate::store::copy;
use crate::wire::SyncState;

/// # Shared values: release
impl<'m, P: Pal> Node<'m, P> {
    /// Releases a handle that was acquired in that state, and stores `data` as the new value if it
    /// is given (after [`SyncState::Exclusive`] only; at most
    /// [`Capacities::sync_data`](crate::Capacities::sync_data) bytes). It never blocks: the lease
    /// stays in this process until another one requests it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the handle is closed, if no thread of this process holds it in that state, if the data is too long, or if the caller may not change the value; the handle and the value stay as they are then. [`Error::CutOff`] if no other process sees the new value, since this
    /// one was cut off from the leader; the handle is released all the same.
    #[inline]
    pub fn unlock_sync(
        &self,
        handle: SyncHandle,
        state: SyncState,
        data: Option<&[u8]>,
    ) -> Result<(), Error> {
        let length = data.map(<[u8]>::len);
        let fill = |room: &mut [u8]| copy(room, data.unwrap_or(&[]));
        self.unlock_sync_with(handle, state, length, fill)
    }

    /// Like [`Node::unlock_sync`]. The new value has `length` bytes, and `fill` writes it in place,
    /// once its length is known to fit.
    #[inline]
    pub(crate) fn unlock_sync_with(
        &self,
        handle: SyncHandle,
        state: SyncState,
        length: Option<usize>,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), Error> {
        self.check_running()?;
        let limit = self.config.capacities.sync_data;
        if let Some(length) = length {
            if state != SyncState::Exclusive {
                return Err(Error::Invalid(Invalid::ReadOnly));
            }
            if length > limit {
                return Err(Error::Invalid(Invalid::ValueLength));
            }
        }
        self.release_sync(&self.opened(handle)?, state, |client| {
            if let Some(length) = length {
                fill(client.data_mut(length));
            }
        })?;
        self.check_contact()
    }

    #[inline]
    pub(in crate::node) fn release_sync(
        &self,
        opened: &Opened<'_, 'm>,
        state: SyncState,
        change: impl FnOnce(&mut Client<'m>),
    ) -> Result<(), Error> {
        let Opened { handle, slot } = opened;
        let (is_wanted, has_changed) = {
            let mut client = slot.client.lock();
            if client.generation() != handle.generation || !client.is_held(state) {
                return Err(misuse(&client, *handle, Invalid::NotHeld));
            }
            let changes = client.change_count();
            change(&mut client);
            client.release(state);
            let is_wanted = client.has_release_work() || slot.call_queue.has_waiters();
            (is_wanted, client.change_count() != changes)
        };
        if is_wanted {
            self.wake_after_release(opened, has_changed);
        }
        Ok(())
    }

    /// Wakes the calls that may proceed after a release, and sends what the release has queued.
    #[cold]
    fn wake_after_release(&self, opened: &Opened<'_, 'm>, has_changed: bool) {
        let Opened { handle, slot } = opened;
        let (has_output, yields, wakes) = {
            let mut client = slot.client.lock();
            let yields = client.is_contended() && client.should_yield();
            client.update_release_work();
            let mut wakes = slot.call_queue.wakes();
            if client.is_in_use() {
                // The first call in the queue waits for the last user.
                wakes.first = 0;
            }
            wakes.observers &= has_changed;
            (client.poll_transmit().is_some(), yields, wakes)
        };
        if has_output {
            self.send_client_messages(handle.slot_index);
        }
        self.wake_set(slot, wakes);
        if yields {
            P::contended(0);
        }
    }
}
