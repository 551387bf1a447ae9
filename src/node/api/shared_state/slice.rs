//! Shared values whose length changes: slices of records.

use core::mem::size_of;
use core::ops::{Deref, DerefMut};
use core::time::Duration;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::shared::unless_it_waits;
use super::{Shared, ValueStatus};
use crate::error::{Error, Invalid};
use crate::invariant::OrBroken;
use crate::node::rpc::Polled;
use crate::node::{Node, Wait};
use crate::pal::Pal;
use crate::shared_state::Client;
use crate::store::copy;
use crate::wire::SyncState;

/// A slice held to read, in the buffer of the caller. No process changes it until this is dropped.
#[must_use = "it is given back at once"]
pub struct SliceReader<'s, 'b, 'n, 'm, P: Pal, T> {
    shared: &'s Shared<'n, 'm, P, [T]>,
    items: &'b [T],
    status: ValueStatus,
}

/// A slice held to change, in the buffer of the caller. No other thread or process sees it until
/// this is dropped.
#[must_use = "it is given back at once"]
pub struct SliceWriter<'s, 'b, 'n, 'm, P: Pal, T: IntoBytes + Immutable> {
    shared: &'s Shared<'n, 'm, P, [T]>,
    buffer: &'b mut [T],
    length: usize,
    status: ValueStatus,
    is_changed: bool,
}

/// # Shared values: slices
impl<'m, P: Pal> Node<'m, P> {
    /// Opens a sync handle as a slice of records, as [`Node::share`]. Its length may change: it is 0
    /// until a process changes it, and at most [`Shared::most_items`]. Only the records that the
    /// slice has are sent between processes.
    ///
    /// ```no_run
    /// # use libos_ipc::{Error, Wait};
    /// # fn example(node: &libos_ipc::host::HostNode) -> Result<(), Error> {
    /// let line = node.share_slice::<u8>(Some(7))?;
    /// let mut buffer = [0; 80];
    /// let mut writer = line.write_to(&mut buffer, Wait::FOREVER)?;
    /// writer.set(b"a line of any length")?;
    /// drop(writer);
    /// assert_eq!(&*line.read_to(&mut buffer, Wait::FOREVER)?, b"a line of any length");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Node::share`]; [`Error::Invalid`] if the type has no bytes.
    pub fn share_slice<T>(&self, id: Option<u64>) -> Result<Shared<'_, 'm, P, [T]>, Error>
    where
        T: FromBytes + IntoBytes + Immutable + KnownLayout,
    {
        let size = size_of::<T>();
        if size == 0 || size > self.config.capacities.sync_data {
            return Err(Error::Invalid(Invalid::ValueLength));
        }
        self.open_shared(id)
    }
}

/// Copies the value to the buffer. Returns the number of its items; `None` if it has part of an
/// item, or if the buffer is too short.
fn read_items<T: FromBytes + IntoBytes>(
    client: &mut Client<'_>,
    buffer: &mut [T],
) -> (Option<usize>, ValueStatus) {
    let (changed, owner_died) = client.take_status();
    let status = ValueStatus {
        changed,
        owner_died,
    };
    let data = client.data();
    let whole = data.len().is_multiple_of(size_of::<T>());
    let length = data.len().checked_div(size_of::<T>()).filter(|_| whole);
    let room = length.and_then(|length| buffer.get_mut(..length));
    if let Some(room) = room {
        copy(room.as_mut_bytes(), data);
        return (length, status);
    }
    (None, status)
}

impl<'n, 'm, P: Pal, T> Shared<'n, 'm, P, [T]>
where
    T: FromBytes + IntoBytes + Immutable + KnownLayout,
{
    /// Returns the largest number of items that the slice may have.
    pub fn most_items(&self) -> usize {
        let limit = self.node.config.capacities.sync_data;
        limit.checked_div(size_of::<T>()).or_broken(0)
    }

    /// Acquires the slice to read it, and copies it to the buffer. Blocks as [`Node::lock_sync`].
    ///
    /// # Errors
    /// As [`Node::lock_sync`]; [`Error::Invalid`] if the buffer is shorter than the slice
    /// ([`Shared::most_items`] always suffices), or if the value does not consist of whole items.
    pub fn read_to<'s, 'b>(
        &'s self,
        buffer: &'b mut [T],
        wait: Wait<'_>,
    ) -> Result<SliceReader<'s, 'b, 'n, 'm, P, T>, Error> {
        let read = |client: &mut Client<'_>| read_items(client, buffer);
        let (node, state) = (self.node, SyncState::Shared);
        let acquired = node.acquire_with_status(&self.opened, state, wait, read)?;
        self.reader(buffer, acquired)
    }

    /// Like [`Shared::read_to`]; the future has the slice when it returns, not before.
    ///
    /// # Errors
    /// As [`Shared::read_to`].
    pub async fn read_to_async<'s, 'b>(
        &'s self,
        buffer: &'b mut [T],
        wait: Wait<'_>,
    ) -> Result<SliceReader<'s, 'b, 'n, 'm, P, T>, Error> {
        let read = |client: &mut Client<'_>| read_items(client, buffer);
        let (node, state) = (Polled(self.node), SyncState::Shared);
        let acquired = node
            .acquire_sync_in(&self.opened, state, wait, read)
            .await?;
        self.reader(buffer, acquired)
    }

    /// Acquires the slice to change it, and copies it to the buffer, which limits its new length.
    /// Blocks as [`Node::lock_sync`].
    ///
    /// # Errors
    /// As [`Shared::read_to`].
    pub fn write_to<'s, 'b>(
        &'s self,
        buffer: &'b mut [T],
        wait: Wait<'_>,
    ) -> Result<SliceWriter<'s, 'b, 'n, 'm, P, T>, Error> {
        let read = |client: &mut Client<'_>| read_items(client, buffer);
        let (node, state) = (self.node, SyncState::Exclusive);
        let acquired = node.acquire_with_status(&self.opened, state, wait, read)?;
        self.writer(buffer, acquired)
    }

    /// Like [`Shared::write_to`]; the future has the slice when it returns, not before.
    ///
    /// # Errors
    /// As [`Shared::read_to`].
    pub async fn write_to_async<'s, 'b>(
        &'s self,
        buffer: &'b mut [T],
        wait: Wait<'_>,
    ) -> Result<SliceWriter<'s, 'b, 'n, 'm, P, T>, Error> {
        let read = |client: &mut Client<'_>| read_items(client, buffer);
        let (node, state) = (Polled(self.node), SyncState::Exclusive);
        let acquired = node
            .acquire_sync_in(&self.opened, state, wait, read)
            .await?;
        self.writer(buffer, acquired)
    }

    /// Acquires the slice to read it, as [`Shared::try_read`].
    ///
    /// # Errors
    /// As [`Shared::read_to`], without those of the wait.
    pub fn try_read_to<'s, 'b>(
        &'s self,
        buffer: &'b mut [T],
    ) -> Result<Option<SliceReader<'s, 'b, 'n, 'm, P, T>>, Error> {
        unless_it_waits(self.read_to(buffer, Wait::at_most(Duration::ZERO)))
    }

    /// Acquires the slice to change it, as [`Shared::try_write`].
    ///
    /// # Errors
    /// As [`Shared::read_to`], without those of the wait.
    pub fn try_write_to<'s, 'b>(
        &'s self,
        buffer: &'b mut [T],
    ) -> Result<Option<SliceWriter<'s, 'b, 'n, 'm, P, T>>, Error> {
        unless_it_waits(self.write_to(buffer, Wait::at_most(Duration::ZERO)))
    }

    fn reader<'s, 'b>(
        &'s self,
        buffer: &'b mut [T],
        acquired: (Option<usize>, ValueStatus),
    ) -> Result<SliceReader<'s, 'b, 'n, 'm, P, T>, Error> {
        let (length, status) = self.checked(SyncState::Shared, acquired, Invalid::BufferLength)?;
        Ok(SliceReader {
            shared: self,
            items: buffer.get(..length).or_broken(&[]),
            status,
        })
    }

    fn writer<'s, 'b>(
        &'s self,
        buffer: &'b mut [T],
        acquired: (Option<usize>, ValueStatus),
    ) -> Result<SliceWriter<'s, 'b, 'n, 'm, P, T>, Error> {
        let (length, status) =
            self.checked(SyncState::Exclusive, acquired, Invalid::BufferLength)?;
        Ok(SliceWriter {
            shared: self,
            buffer,
            length,
            status,
            is_changed: false,
        })
    }
}

impl<P: Pal, T> SliceReader<'_, '_, '_, '_, P, T> {
    /// Like [`Reader::status`](crate::Reader::status).
    pub fn status(&self) -> ValueStatus {
        self.status
    }
}

impl<P: Pal, T> Deref for SliceReader<'_, '_, '_, '_, P, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.items
    }
}

impl<P: Pal, T> Drop for SliceReader<'_, '_, '_, '_, P, T> {
    fn drop(&mut self) {
        let shared = self.shared;
        let state = SyncState::Shared;
        let _ = shared.node.release_sync(&shared.opened, state, |_| ());
    }
}

impl<P: Pal, T: FromBytes + IntoBytes + Immutable> SliceWriter<'_, '_, '_, '_, P, T> {
    /// Like [`Writer::status`](crate::Writer::status).
    pub fn status(&self) -> ValueStatus {
        self.status
    }

    /// Sets the number of items. New items are zero.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the buffer or the value has no room for as many; the slice is as
    /// before then.
    pub fn resize(&mut self, length: usize) -> Result<(), Error> {
        let limit = self.shared.node.config.capacities.sync_data;
        let fits = length
            .checked_mul(size_of::<T>())
            .is_some_and(|bytes| bytes <= limit);
        if !fits || length > self.buffer.len() {
            return Err(Error::Invalid(Invalid::BufferLength));
        }
        if let Some(new) = self.buffer.get_mut(self.length..length) {
            new.as_mut_bytes().fill(0);
        }
        self.length = length;
        self.is_changed = true;
        Ok(())
    }

    /// Replaces the slice by these items.
    ///
    /// # Errors
    /// As [`SliceWriter::resize`].
    pub fn set(&mut self, items: &[T]) -> Result<(), Error> {
        self.resize(items.len())?;
        copy(self.as_mut_bytes(), items.as_bytes());
        Ok(())
    }
}

impl<P: Pal, T: IntoBytes + Immutable> Deref for SliceWriter<'_, '_, '_, '_, P, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.buffer.get(..self.length).or_broken(&[])
    }
}

impl<P: Pal, T: IntoBytes + Immutable> DerefMut for SliceWriter<'_, '_, '_, '_, P, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.is_changed = true;
        self.buffer.get_mut(..self.length).or_broken(&mut [])
    }
}

impl<P: Pal, T: IntoBytes + Immutable> Drop for SliceWriter<'_, '_, '_, '_, P, T> {
    fn drop(&mut self) {
        let shared = self.shared;
        let state = SyncState::Exclusive;
        let _ = shared.node.release_sync(&shared.opened, state, |client| {
            if self.is_changed {
                let bytes = self.as_bytes();
                copy(client.data_mut(bytes.len()), bytes);
            }
        });
    }
}
