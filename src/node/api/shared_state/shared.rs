//! Typed sync handles.

use core::marker::PhantomData;
use core::mem::{ManuallyDrop, size_of};
use core::ops::{Deref, DerefMut};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{SyncHandle, ValueStatus};
use crate::error::{Error, Invalid};
use crate::invariant::OrBroken;
use crate::node::rpc::{Limits, Polled};
use crate::node::{Node, Wait};
use crate::pal::Pal;
use crate::shared_state::Client;
use crate::wire::SyncState;

/// Both forms of [`Shared::wait_for`]: `$read` acquires the value, `$changed` waits for its change.
macro_rules! wait_for {
    ($self:ident, $is_it:ident, ($limits:ident, $seen:ident), $begin:expr, $read:expr, $changed:expr) => {{
        let $limits = $begin;
        let (_, reported) = $self.node.sync_owner_deaths($self.handle)?;
        let mut change = SeenChange {
            shared: $self,
            is_seen: false,
        };
        loop {
            let $seen = $self.node.sync_changes($self.handle)?;
            let mut reader = $read?;
            change.is_seen |= reader.status.changed;
            reader.status.changed = change.is_seen;
            let is_new_death = reader.status.owner_died
                && $self.node.sync_owner_deaths($self.handle)?.0 != reported;
            if is_new_death || $is_it(&reader) {
                change.is_seen = false;
                return Ok(reader);
            }
            drop(reader);
            $changed?;
        }
    }};
}

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
            return Err(Error::Invalid(Invalid::ValueLength));
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
        let acquired =
            self.node
                .acquire_sync(self.handle, SyncState::Shared, false, wait, read_value)?;
        let (value, status) = self.checked(SyncState::Shared, acquired)?;
        Ok(Reader {
            shared: self,
            value,
            status,
        })
    }

    /// As [`Shared::read`]; the future has the value when it returns, not before.
    ///
    /// # Errors
    /// As [`Shared::read`].
    pub async fn read_async(&self, wait: Wait<'_>) -> Result<Reader<'_, 'n, 'm, P, T>, Error> {
        let state = SyncState::Shared;
        let node = Polled(self.node);
        let acquired = node.acquire_sync_in(self.handle, state, wait, read_value);
        let (value, status) = self.checked(state, acquired.await?)?;
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
        let acquired =
            self.node
                .acquire_sync(self.handle, SyncState::Exclusive, false, wait, read_value)?;
        let (value, status) = self.checked(SyncState::Exclusive, acquired)?;
        Ok(Writer {
            shared: self,
            value,
            status,
            is_changed: false,
        })
    }

    /// As [`Shared::write`]; the future has the value when it returns, not before.
    ///
    /// # Errors
    /// As [`Shared::read`].
    pub async fn write_async(&self, wait: Wait<'_>) -> Result<Writer<'_, 'n, 'm, P, T>, Error> {
        let state = SyncState::Exclusive;
        let node = Polled(self.node);
        let acquired = node.acquire_sync_in(self.handle, state, wait, read_value);
        let (value, status) = self.checked(state, acquired.await?)?;
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
        wait_for!(
            self,
            is_it,
            (limits, seen),
            Limits::of(wait, &self.node.pal),
            self.read(limits.wait()),
            self.node.wait_sync(self.handle, seen, limits.wait())
        )
    }

    /// As [`Shared::wait_for`]. The status is kept for the next call also if the future is dropped.
    ///
    /// # Errors
    /// As [`Shared::read`].
    pub async fn wait_for_async(
        &self,
        wait: Wait<'_>,
        mut is_it: impl FnMut(&T) -> bool,
    ) -> Result<Reader<'_, 'n, 'm, P, T>, Error> {
        wait_for!(
            self,
            is_it,
            (limits, seen),
            Limits::of(wait, &self.node.pal),
            self.read_async(limits.wait()).await,
            self.node
                .wait_sync_async(self.handle, seen, limits.wait())
                .await
        )
    }

    /// Checks that the value which was acquired has the size of the type; else releases it.
    #[inline]
    fn checked(
        &self,
        state: SyncState,
        (value, status): (Option<T>, ValueStatus),
    ) -> Result<(T, ValueStatus), Error> {
        let Some(value) = value else {
            self.node.release_sync(self.handle, state, |client| {
                client.restore_status((status.changed, status.owner_died));
            })?;
            return Err(Error::Invalid(Invalid::ValueSize));
        };
        Ok((value, status))
    }
}

/// Reads the value of a handle that was acquired; none if it has another size.
#[inline]
fn read_value<T: FromBytes>(client: &mut Client<'_>) -> (Option<T>, ValueStatus) {
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

/// A change that a waiting call has seen. It is kept for the next call if this one fails.
struct SeenChange<'s, 'n, 'm, P: Pal, T> {
    shared: &'s Shared<'n, 'm, P, T>,
    is_seen: bool,
}

impl<P: Pal, T> Drop for SeenChange<'_, '_, '_, P, T> {
    fn drop(&mut self) {
        if self.is_seen {
            let shared = self.shared;
            shared.node.restore_sync_change(shared.handle, true);
        }
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
        match self.shared.node.upgrade_sync(self.shared.handle, wait) {
            Ok(()) => Ok(self.upgraded()),
            Err(error) => Err((self, error)),
        }
    }

    /// As [`Reader::upgrade`]. Dropping the future drops the reader.
    ///
    /// # Errors
    /// As [`Reader::upgrade`].
    pub async fn upgrade_async(
        self,
        wait: Wait<'_>,
    ) -> Result<Writer<'s, 'n, 'm, P, T>, (Self, Error)> {
        let (node, handle) = (self.shared.node, self.shared.handle);
        match Polled(node).upgrade_sync_in(handle, wait).await {
            Ok(()) => Ok(self.upgraded()),
            Err(error) => Err((self, error)),
        }
    }

    /// Returns the writer, after the handle was upgraded.
    fn upgraded(self) -> Writer<'s, 'n, 'm, P, T> {
        let this = ManuallyDrop::new(self);
        let value = T::read_from_bytes(this.value.as_bytes());
        Writer {
            shared: this.shared,
            value: value.or_broken(T::new_zeroed()),
            status: this.status,
            is_changed: false,
        }
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
