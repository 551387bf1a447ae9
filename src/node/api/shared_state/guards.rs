//! The guards of a typed value: while one lives, its process holds the value.

use core::mem::{ManuallyDrop, size_of};
use core::ops::{Deref, DerefMut};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Shared, ValueStatus};
use crate::error::Error;
use crate::invariant::OrBroken;
use crate::node::Wait;
use crate::node::rpc::Polled;
use crate::pal::Pal;
use crate::wire::SyncState;

/// A value held to read. No process changes it until this is dropped.
#[must_use = "it is given back at once"]
pub struct Reader<'s, 'n, 'm, P: Pal, T> {
    shared: &'s Shared<'n, 'm, P, T>,
    value: T,
    status: ValueStatus,
}

/// A value held to change. No other thread or process sees it until this is dropped.
#[must_use = "it is given back at once"]
pub struct Writer<'s, 'n, 'm, P: Pal, T: IntoBytes + Immutable> {
    shared: &'s Shared<'n, 'm, P, T>,
    value: T,
    status: ValueStatus,
    is_changed: bool,
}

impl<'s, 'n, 'm, P: Pal, T> Reader<'s, 'n, 'm, P, T>
where
    T: FromBytes + IntoBytes + Immutable + KnownLayout,
{
    /// Returns the guard of a value that was acquired to read.
    #[inline]
    pub(super) fn new(shared: &'s Shared<'n, 'm, P, T>, (value, status): (T, ValueStatus)) -> Self {
        Reader {
            shared,
            value,
            status,
        }
    }

    /// Returns whether another process has changed the value since this one last used it, and whether a
    /// process died while it held the value to change it.
    pub fn status(&self) -> ValueStatus {
        self.status
    }

    /// Becomes the writer; no other thread or process changes the value in between. Blocks as
    /// [`Node::upgrade_sync`](crate::Node::upgrade_sync).
    ///
    /// # Errors
    /// As [`Node::upgrade_sync`](crate::Node::upgrade_sync), with the reader. If the error is `EDEADLK`, another process waits
    /// for the caller to drop the reader.
    pub fn upgrade(self, wait: Wait<'_>) -> Result<Writer<'s, 'n, 'm, P, T>, (Self, Error)> {
        match self
            .shared
            .node
            .upgrade_sync(self.shared.opened.handle, wait)
        {
            Ok(()) => Ok(self.upgraded()),
            Err(error) => Err((self, error)),
        }
    }

    /// Like [`Reader::upgrade`]. Dropping the future drops the reader.
    ///
    /// # Errors
    /// As [`Reader::upgrade`].
    pub async fn upgrade_async(
        self,
        wait: Wait<'_>,
    ) -> Result<Writer<'s, 'n, 'm, P, T>, (Self, Error)> {
        let (node, handle) = (self.shared.node, self.shared.opened.handle);
        match Polled(node).upgrade_sync_in(handle, wait).await {
            Ok(()) => Ok(self.upgraded()),
            Err(error) => Err((self, error)),
        }
    }

    /// Returns the writer, after the handle was upgraded.
    fn upgraded(self) -> Writer<'s, 'n, 'm, P, T> {
        let this = ManuallyDrop::new(self);
        let value = T::read_from_bytes(this.value.as_bytes());
        Writer::new(this.shared, (value.or_broken(T::new_zeroed()), this.status))
    }
}

impl<P: Pal, T> Deref for Reader<'_, '_, '_, P, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<P: Pal, T> Drop for Reader<'_, '_, '_, P, T> {
    #[inline]
    fn drop(&mut self) {
        let shared = self.shared;
        let _ = shared
            .node
            .release_sync(&shared.opened, SyncState::Shared, |_| ());
    }
}

impl<'s, 'n, 'm, P: Pal, T: IntoBytes + Immutable> Writer<'s, 'n, 'm, P, T> {
    /// Returns the guard of a value that was acquired to change it.
    #[inline]
    pub(super) fn new(shared: &'s Shared<'n, 'm, P, T>, (value, status): (T, ValueStatus)) -> Self {
        Writer {
            shared,
            value,
            status,
            is_changed: false,
        }
    }

    /// Returns the value that the guard holds.
    pub(in crate::node) const fn shared(&self) -> &'s Shared<'n, 'm, P, T> {
        self.shared
    }

    /// Returns whether another process has changed the value since this one last used it, and whether a
    /// process died while it held the value to change it.
    pub fn status(&self) -> ValueStatus {
        self.status
    }
}

impl<P: Pal, T: IntoBytes + Immutable> Writer<'_, '_, '_, P, T> {
    /// Returns a fencing number, as [`Node::sync_fencing_number`](crate::Node::sync_fencing_number).
    ///
    /// # Errors
    /// As [`Node::sync_fencing_number`](crate::Node::sync_fencing_number).
    pub fn fencing_number(&self, wait: Wait<'_>) -> Result<Option<u64>, Error> {
        let shared = self.shared;
        shared.node.sync_fencing_number(shared.opened.handle, wait)
    }

    /// [`Writer::fencing_number`] as a future.
    ///
    /// # Errors
    /// As [`Writer::fencing_number`].
    pub async fn fencing_number_async(&self, wait: Wait<'_>) -> Result<Option<u64>, Error> {
        let shared = self.shared;
        let number = shared
            .node
            .sync_fencing_number_async(shared.opened.handle, wait);
        number.await
    }
}

impl<P: Pal, T: IntoBytes + Immutable> Deref for Writer<'_, '_, '_, P, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<P: Pal, T: IntoBytes + Immutable> DerefMut for Writer<'_, '_, '_, P, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.is_changed = true;
        &mut self.value
    }
}

impl<P: Pal, T: IntoBytes + Immutable> Drop for Writer<'_, '_, '_, P, T> {
    #[inline]
    fn drop(&mut self) {
        let shared = self.shared;
        let state = SyncState::Exclusive;
        let _ = shared.node.release_sync(&shared.opened, state, |client| {
            if self.is_changed {
                // `Node::share` has checked that there is room.
                let _ = self.value.write_to(client.data_mut(size_of::<T>()));
            }
        });
    }
}
