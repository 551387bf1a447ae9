//! Typed sync handles.

use core::marker::PhantomData;
use core::mem::size_of;
use core::time::Duration;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::guards::{Reader, Writer};
use super::{Opened, ValueStatus};
use crate::error::{Error, Invalid};
use crate::node::rpc::Polled;
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
pub struct Shared<'n, 'm, P: Pal, T: ?Sized> {
    pub(in crate::node) node: &'n Node<'m, P>,
    pub(in crate::node) opened: Opened<'n, 'm>,
    value: PhantomData<T>,
}

/// # Shared values: typed
impl<'m, P: Pal> Node<'m, P> {
    /// Opens a sync handle as a value of type `T`, as [`Node::open_sync`]. A process may open the
    /// same number several times, as with `sem_open(3)`: the value closes when all are dropped.
    ///
    /// # Errors
    /// As [`Node::open_sync`], but a number that is open or being closed is no error; [`Error::Invalid`] if the type is longer than
    /// [`Capacities::sync_data`](crate::Capacities::sync_data).
    pub fn share<T>(&self, id: Option<u64>) -> Result<Shared<'_, 'm, P, T>, Error>
    where
        T: FromBytes + IntoBytes + Immutable + KnownLayout,
    {
        if size_of::<T>() > self.config.capacities.sync_data {
            return Err(Error::Invalid(Invalid::ValueLength));
        }
        self.open_shared(id)
    }

    /// Opens a sync handle, perhaps once more.
    pub(in crate::node) fn open_shared<T: ?Sized>(
        &self,
        id: Option<u64>,
    ) -> Result<Shared<'_, 'm, P, T>, Error> {
        Ok(Shared {
            node: self,
            opened: self.opened(self.open_handle(id, true)?)?,
            value: PhantomData,
        })
    }
}

impl<P: Pal, T: ?Sized> Shared<'_, '_, P, T> {
    /// Returns the handle's number, by which other processes open it.
    pub fn id(&self) -> u64 {
        self.opened.handle.id()
    }

    /// Returns the number of processes that this one knows to have died while they had the lease to
    /// change the value. What such a process changed since another one last used the value is undone.
    /// A process learns of a death when it acquires the value, at the latest: a caller that compares
    /// the number before and after a call knows whether the value may be an older one.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the handle was closed by [`Node::close_all_syncs`].
    pub fn owner_deaths(&self) -> Result<u32, Error> {
        Ok(self.node.sync_owner_deaths(self.opened.handle)?.0)
    }

    /// Checks that the value which was acquired could be read: that it has the size of the type; else releases it.
    #[inline]
    pub(super) fn checked<V>(
        &self,
        state: SyncState,
        (value, status): (Option<V>, ValueStatus),
        cause: Invalid,
    ) -> Result<(V, ValueStatus), Error> {
        match value {
            Some(value) => Ok((value, status)),
            None => Err(self.release_unread(state, status, cause)),
        }
    }

    /// Releases the value, which could not be read. Returns the error of the call.
    // Apart, so that the value of the caller stays in registers.
    #[cold]
    fn release_unread(&self, state: SyncState, status: ValueStatus, cause: Invalid) -> Error {
        let released = self.node.release_sync(&self.opened, state, |client| {
            client.restore_status((status.changed, status.owner_died));
        });
        match released {
            Ok(()) => Error::Invalid(cause),
            Err(error) => error,
        }
    }
}

impl<'n, 'm, P: Pal, T> Shared<'n, 'm, P, T>
where
    T: FromBytes + IntoBytes + Immutable + KnownLayout,
{
    /// Acquires the value to read it. Blocks as [`Node::lock_sync`].
    ///
    /// # Errors
    /// As [`Node::lock_sync`]; [`Error::Invalid`] if the value has another size.
    #[inline]
    pub fn read(&self, wait: Wait<'_>) -> Result<Reader<'_, 'n, 'm, P, T>, Error> {
        let acquired = self.acquire(SyncState::Shared, wait)?;
        Ok(Reader::new(self, acquired))
    }

    /// Acquires the value and reads it.
    #[allow(
        clippy::inline_always,
        reason = "a stop in memory on the way costs as much as the rest"
    )]
    #[inline(always)]
    fn acquire(&self, state: SyncState, wait: Wait<'_>) -> Result<(T, ValueStatus), Error> {
        let acquired = self
            .node
            .acquire_with_status(&self.opened, state, wait, read_value)?;
        self.checked(state, acquired, Invalid::ValueSize)
    }

    /// Like [`Shared::read`]; the future has the value when it returns, not before.
    ///
    /// # Errors
    /// As [`Shared::read`].
    pub async fn read_async(&self, wait: Wait<'_>) -> Result<Reader<'_, 'n, 'm, P, T>, Error> {
        let state = SyncState::Shared;
        let node = Polled(self.node);
        let acquired = node.acquire_sync_in(&self.opened, state, wait, read_value);
        let acquired = self.checked(state, acquired.await?, Invalid::ValueSize);
        Ok(Reader::new(self, acquired?))
    }

    /// Acquires the value to change it. Blocks as [`Node::lock_sync`].
    ///
    /// # Errors
    /// As [`Shared::read`].
    #[inline]
    pub fn write(&self, wait: Wait<'_>) -> Result<Writer<'_, 'n, 'm, P, T>, Error> {
        let acquired = self.acquire(SyncState::Exclusive, wait)?;
        Ok(Writer::new(self, acquired))
    }

    /// Like [`Shared::write`]; the future has the value when it returns, not before.
    ///
    /// # Errors
    /// As [`Shared::read`].
    pub async fn write_async(&self, wait: Wait<'_>) -> Result<Writer<'_, 'n, 'm, P, T>, Error> {
        let state = SyncState::Exclusive;
        let node = Polled(self.node);
        let acquired = node.acquire_sync_in(&self.opened, state, wait, read_value);
        let acquired = self.checked(state, acquired.await?, Invalid::ValueSize);
        Ok(Writer::new(self, acquired?))
    }

    /// Acquires the value to read it, if that needs neither a wait nor a message. `None` if a thread
    /// of this process is about to change it, or if another process was the last to change it; the
    /// lease is requested then, so that a later call may succeed.
    ///
    /// # Errors
    /// As [`Shared::read`], without those of the wait.
    pub fn try_read(&self) -> Result<Option<Reader<'_, 'n, 'm, P, T>>, Error> {
        unless_it_waits(self.read(Wait::at_most(Duration::ZERO)))
    }

    /// Acquires the value to change it, if that needs neither a wait nor a message: as
    /// [`Shared::try_read`]. `None` also if another process reads it, or has read it last.
    ///
    /// # Errors
    /// As [`Shared::read`], without those of the wait.
    pub fn try_write(&self) -> Result<Option<Writer<'_, 'n, 'm, P, T>>, Error> {
        unless_it_waits(self.write(Wait::at_most(Duration::ZERO)))
    }
}

/// Reads the value of a handle that was acquired; none if it has another size.
#[inline]
pub(super) fn read_value<T: FromBytes>(client: &mut Client<'_>) -> (Option<T>, ValueStatus) {
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
}

/// Turns the time-out of a call that may not wait into `None`.
pub(super) fn unless_it_waits<G>(acquired: Result<G, Error>) -> Result<Option<G>, Error> {
    match acquired {
        Ok(guard) => Ok(Some(guard)),
        Err(Error::TimedOut) => Ok(None),
        Err(error) => Err(error),
    }
}

impl<P: Pal, T: ?Sized> Drop for Shared<'_, '_, P, T> {
    fn drop(&mut self) {
        // The handle is closed even if the message cannot be sent.
        let now = Wait::at_most(Duration::ZERO);
        let _ = self.node.close_sync(self.opened.handle, now);
    }
}
