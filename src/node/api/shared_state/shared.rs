//! Typed sync handles.

use core::marker::PhantomData;
use core::mem::{ManuallyDrop, size_of};
use core::ops::{Deref, DerefMut};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{SyncHandle, ValueStatus};
use crate::error::Error;
use crate::invariant::OrBroken;
use crate::node::rpc::Limits;
use crate::node::{Node, Wait};
use crate::pal::Pal;
use crate::shared_state::Client;
use crate::wire::SyncState;

/// A value that several processes share, guarded by a readers-writer lock of the whole family: many
/// may read it, or one may change it.
///
/// Threads of one process get it in the order in which they called ([`Node::lock_sync`]).
///
/// All its bytes are zero until a process changes it. Dropping it closes the handle. The value
/// lives until all processes that used it have closed it.
///
/// ```no_run
/// # use libos_ipc::{Error, Wait};
/// # fn example(node: &libos_ipc::host::HostNode) -> Result<(), Error> {
/// let counter = node.share::<u64>(None)?;
/// *counter.write(Wait::FOREVER)? += 1;
/// println!("handle {}: {}", counter.id(), *counter.read(Wait::FOREVER)?);
/// # Ok(())
/// # }
/// ```
pub struct Shared<'n, 'm, P: Pal, T> {
    node: &'n Node<'m, P>,
    handle: SyncHandle,
    value: PhantomData<T>,
}

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

/// # Shared values: typed
impl<'m, P: Pal> Node<'m, P> {
    /// Opens a sync handle as a value of type `T`, as [`Node::open_sync`].
    ///
    /// # Errors
    /// As [`Node::open_sync`]; [`Error::Invalid`] if the type is longer than
    /// [`Capacities::sync_data`](crate::Capacities::sync_data).
    pub fn share<T>(&self, id: Option<u64>) -> Result<Shared<'_, 'm, P, T>, Error>
    where
        T: FromBytes + IntoBytes + Immutable + KnownLayout,
    {
        if size_of::<T>() > self.config.capacities.sync_data {
            return Err(Error::Invalid);
        }
        Ok(Shared {
            node: self,
            handle: self.open_sync(id)?,
            value: PhantomData,
        })
    }
}

impl<'n, 'm, P: Pal, T> Shared<'n, 'm, P, T>
where
    T: FromBytes + IntoBytes + Immutable + KnownLayout,
{
    /// The handle's number, by which other processes open it.
    pub fn id(&self) -> u64 {
        self.handle.id()
    }

    /// Acquires the value to read it. Blocks as [`Node::lock_sync`].
    ///
    /// # Errors
    /// As [`Node::lock_sync`]; [`Error::Invalid`] if the value has another size.
    #[inline]
    pub fn read(&self, wait: Wait<'_>) -> Result<Reader<'_, 'n, 'm, P, T>, Error> {
        let (value, status) = self.acquire(SyncState::Shared, wait)?;
        Ok(Reader {
            shared: self,
            value,
            status,
        })
    }

    /// Acquires the value to change it. Blocks as [`Node::lock_sync`].
    ///
    /// # Errors
    /// As [`Shared::read`].
    #[inline]
    pub fn write(&self, wait: Wait<'_>) -> Result<Writer<'_, 'n, 'm, P, T>, Error> {
        let (value, status) = self.acquire(SyncState::Exclusive, wait)?;
        Ok(Writer {
            shared: self,
            value,
            status,
            is_changed: false,
        })
    }

    /// Waits until the predicate `is_it` accepts the value, and acquires it to read. The call
    /// sleeps, and evaluates the predicate whenever a process has released the value after changing
    /// it; so it may miss a value that is soon changed again.
    ///
    /// The death of a process that held the value to change it ends the wait, too, whatever the
    /// value is: [`ValueStatus::owner_died`] is set then, and the value is the last one that was
    /// given back. Only a death that this process has not reported to a caller before ends the
    /// wait, so a second call waits on.
    ///
    /// # Errors
    /// As [`Shared::read`]. The status is kept for the next call then.
    pub fn wait_for(
        &self,
        wait: Wait<'_>,
        mut is_it: impl FnMut(&T) -> bool,
    ) -> Result<Reader<'_, 'n, 'm, P, T>, Error> {
        let limits = Limits::of(wait, &self.node.pal);
        let (_, reported) = self.node.sync_owner_deaths(self.handle)?;
        let mut changed = false;
        let error = loop {
            let seen = match self.node.sync_changes(self.handle) {
                Ok(seen) => seen,
                Err(error) => break error,
            };
            let mut reader = match self.read(limits.wait()) {
                Ok(reader) => reader,
                Err(error) => break error,
            };
            changed |= reader.status.changed;
            reader.status.changed = changed;
            let is_new_death =
                reader.status.owner_died && self.node.sync_owner_deaths(self.handle)?.0 != reported;
            if is_new_death || is_it(&reader) {
                return Ok(reader);
            }
            drop(reader);
            if let Err(error) = self.node.wait_sync(self.handle, seen, limits.wait()) {
                break error;
            }
        };
        self.node.restore_sync_change(self.handle, changed);
        Err(error)
    }

    #[allow(
        clippy::inline_always,
        reason = "a stop in memory on the way costs as much as the rest"
    )]
    #[inline(always)]
    fn acquire(&self, state: SyncState, wait: Wait<'_>) -> Result<(T, ValueStatus), Error> {
        let read = |client: &mut Client<'m>| {
            let (changed, owner_died) = client.take_status();
            let status = ValueStatus {
                changed,
                owner_died,
            };
            let value = match client.data() {
                [] => Some(T::new_zeroed()),
                data => T::read_from_bytes(data).ok(),
            };
            (value, status)
        };
        let (value, status) = self
            .node
            .acquire_sync(self.handle, state, false, wait, read)?;
        let Some(value) = value else {
            self.node.release_sync(self.handle, state, |client| {
                client.restore_status((status.changed, status.owner_died));
            })?;
            return Err(Error::Invalid);
        };
        Ok((value, status))
    }
}

impl<P: Pal, T> Drop for Shared<'_, '_, P, T> {
    fn drop(&mut self) {
        // The handle is closed even if the message cannot be sent.
        let now = Wait::at_most(core::time::Duration::ZERO);
        let _ = self.node.close_sync(self.handle, now);
    }
}

impl<'s, 'n, 'm, P: Pal, T> Reader<'s, 'n, 'm, P, T>
where
    T: FromBytes + IntoBytes + Immutable + KnownLayout,
{
    /// Whether another process has changed the value since this one last used it, and whether one
    /// died while it held it to change.
    pub fn status(&self) -> ValueStatus {
        self.status
    }

    /// Becomes the writer; no other thread or process changes the value in between. Blocks as
    /// [`Node::upgrade_sync`].
    ///
    /// # Errors
    /// As [`Node::upgrade_sync`], with the reader. If the error is `EDEADLK`, another process waits
    /// for the caller to drop the reader.
    pub fn upgrade(self, wait: Wait<'_>) -> Result<Writer<'s, 'n, 'm, P, T>, (Self, Error)> {
        if let Err(error) = self.shared.node.upgrade_sync(self.shared.handle, wait) {
            return Err((self, error));
        }
        let this = ManuallyDrop::new(self);
        let value = T::read_from_bytes(this.value.as_bytes());
        Ok(Writer {
            shared: this.shared,
            value: value.or_broken(T::new_zeroed()),
            status: this.status,
            is_changed: false,
        })
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
            .release_sync(shared.handle, SyncState::Shared, |_| ());
    }
}

impl<P: Pal, T: IntoBytes + Immutable> Writer<'_, '_, '_, P, T> {
    /// Whether another process has changed the value since this one last used it, and whether one
    /// died while it held it to change.
    pub fn status(&self) -> ValueStatus {
        self.status
    }
}

impl<P: Pal, T: IntoBytes + Immutable> Writer<'_, '_, '_, P, T> {
    /// Returns a fencing number, as [`Node::sync_fencing_number`].
    ///
    /// # Errors
    /// As there.
    pub fn fencing_number(&self, wait: Wait<'_>) -> Result<Option<u64>, Error> {
        let shared = self.shared;
        shared.node.sync_fencing_number(shared.handle, wait)
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
        let _ = shared.node.release_sync(shared.handle, state, |client| {
            if self.is_changed {
                // `Node::share` has checked that there is room.
                let _ = self.value.write_to(client.data_mut(size_of::<T>()));
            }
        });
    }
}
