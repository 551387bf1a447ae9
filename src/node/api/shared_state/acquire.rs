//! Acquiring sync handles.
#![allow(
    clippy::inline_always,
    reason = "a stop in memory on the way costs as much as the rest"
)]

use super::Opened;
use super::call_queue::WaitKind;
use super::{SyncHandle, ValueStatus, misuse};
use crate::error::{Errno, Error, Invalid};
use crate::node::rpc::{Limits, Polled, Undo};
use crate::node::{Node, Wait};
use crate::pal::Pal;
use crate::shared_state::{Acquisition, Client};
use crate::wire::SyncState;

/// # Shared values: acquire
impl<'m, P: Pal> Node<'m, P> {
    /// Acquires the handle: [`SyncState::Shared`] to read the value, together with others;
    /// [`SyncState::Exclusive`] to change it, alone. Copies the value to `data` as far as it has
    /// room; returns the value's whole length in bytes, and its status. The caller releases the
    /// handle with [`Node::unlock_sync`].
    ///
    /// Blocks until the handle is available, at most as long as `wait` allows. It does not block if
    /// this process holds the lease and no other thread of it uses the handle or waits for it.
    /// Threads of this process get the handle in the order in which they called: no later call
    /// overtakes one that wants to change the value; only readers overtake one that wants to read.
    /// A thread that holds the handle and calls this again may wait for itself.
    ///
    /// With a limit of no time the call requests the lease as well, so that it may be here next
    /// time.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the handle is closed or the state is neither of the two; [`Error::TimedOut`] and [`Error::Interrupted`] as `wait` says; [`Error::Refused`] (`ENOMEM`) if the leader has no room for the handle; [`Error::LimitsDiffer`] if the leader's values have another length; [`Error::LeaderGone`].
    pub fn lock_sync(
        &self,
        handle: SyncHandle,
        state: SyncState,
        data: &mut [u8],
        wait: Wait<'_>,
    ) -> Result<(usize, ValueStatus), Error> {
        if !matches!(state, SyncState::Shared | SyncState::Exclusive) {
            return Err(Error::Invalid(Invalid::SyncState));
        }
        let read = |client: &mut Client<'m>| copy_value(client, data);
        self.acquire_with_status(&self.opened(handle)?, state, wait, read)
    }

    /// Like [`Node::lock_sync`]; the future has the handle when it returns, not before.
    ///
    /// # Errors
    /// As [`Node::lock_sync`].
    pub async fn lock_sync_async(
        &self,
        handle: SyncHandle,
        state: SyncState,
        data: &mut [u8],
        wait: Wait<'_>,
    ) -> Result<(usize, ValueStatus), Error> {
        if !matches!(state, SyncState::Shared | SyncState::Exclusive) {
            return Err(Error::Invalid(Invalid::SyncState));
        }
        Polled(self)
            .acquire_sync_in(&self.opened(handle)?, state, wait, |client| {
                copy_value(client, data)
            })
            .await
    }

    /// Like [`Node::lock_sync`], but only one thread of this process at a time uses the handle,
    /// even to read. Calls `read` with the value if another process has changed it. A caller that
    /// cannot report the death of an owner (`reports_owner_death` is false) leaves it to the next.
    #[cfg(feature = "capi")]
    pub(crate) fn lock_sync_alone(
        &self,
        handle: SyncHandle,
        state: SyncState,
        reports_owner_death: bool,
        wait: Wait<'_>,
        mut read: impl FnMut(&[u8]),
    ) -> Result<ValueStatus, Error> {
        if !matches!(state, SyncState::Shared | SyncState::Exclusive) {
            return Err(Error::Invalid(Invalid::SyncState));
        }
        self.acquire_sync(&self.opened(handle)?, state, true, wait, |client| {
            let (changed, owner_died) = client.take_status();
            if changed {
                read(client.data());
            }
            if owner_died && !reports_owner_death {
                client.restore_status((false, true));
            }
            ValueStatus {
                changed,
                owner_died,
            }
        })
    }

    #[inline(always)]
    pub(super) fn acquire_sync<T>(
        &self,
        opened: &Opened<'_, 'm>,
        state: SyncState,
        alone: bool,
        wait: Wait<'_>,
        mut read: impl FnMut(&mut Client<'m>) -> T,
    ) -> Result<T, Error> {
        let value = self.acquire_at_once(opened, state, alone, &mut read)?;
        match value {
            Some(value) => Ok(value),
            None => self.acquire_sync_slow(opened, state, alone, wait, read),
        }
    }

    /// Like [`Node::acquire_sync`], for a call that does not use the handle alone.
    pub(super) fn acquire_sync_in<T>(
        &self,
        opened: &Opened<'_, 'm>,
        state: SyncState,
        wait: Wait<'_>,
        read: impl FnMut(&mut Client<'m>) -> T,
    ) -> Result<T, Error> {
        self.acquire_sync(opened, state, false, wait, read)
    }

    /// Like [`Node::acquire_sync_in`]; `read` returns the status of the value as well.
    // The status goes another way than the value: together they would be written in parts and read as a whole, which
    // takes a processor longer than all the rest.
    #[inline(always)]
    pub(super) fn acquire_with_status<T>(
        &self,
        opened: &Opened<'_, 'm>,
        state: SyncState,
        wait: Wait<'_>,
        mut read: impl FnMut(&mut Client<'m>) -> (T, ValueStatus),
    ) -> Result<(T, ValueStatus), Error> {
        let mut status = ValueStatus::default();
        let read = |client: &mut Client<'m>| {
            let value;
            (value, status) = read(client);
            value
        };
        let value = self.acquire_sync(opened, state, false, wait, read)?;
        Ok((value, status))
    }

    /// Acquires the handle if the lease is here and nothing is in the way. Otherwise the call counts
    /// as one that waits.
    #[inline(always)]
    fn acquire_at_once<T>(
        &self,
        opened: &Opened<'_, 'm>,
        state: SyncState,
        alone: bool,
        read: &mut impl FnMut(&mut Client<'m>) -> T,
    ) -> Result<Option<T>, Error> {
        self.check_running()?;
        let mut client = opened.slot.client.lock();
        if client.generation() != opened.handle.generation {
            return Err(Error::Invalid(Invalid::HandleClosed));
        }
        self.check_contact()?;
        // A call that uses the handle alone neither overtakes others nor is overtaken.
        let passes_as = if alone { SyncState::Exclusive } else { state };
        let has_turn = client.may_overtake(passes_as) && !(alone && client.is_in_use());
        if client.acquire(state, has_turn) == Acquisition::Acquired {
            return Ok(Some(read(&mut client)));
        }
        client.change_waiters(state, 1);
        Ok(None)
    }

    /// Turns a handle that was acquired [`SyncState::Shared`] into [`SyncState::Exclusive`] without
    /// releasing it: no process changes the value meanwhile. Blocks until the other readers of this
    /// process have released it, and other processes have given their leases back; later calls and
    /// queued ones do not delay it.
    ///
    /// # Errors
    /// [`Error::Refused`] (`EDEADLK`) if another thread or process wants to change the value and waits for this reader: it stays `Shared`, and the caller must release it. [`Error::Unsupported`] if the leader is a process in C and this process does not hold the lease to change the value: such a leader cannot keep others from changing it in between. Otherwise as [`Node::lock_sync`]. The handle stays `Shared` after every error.
    pub fn upgrade_sync(&self, handle: SyncHandle, wait: Wait<'_>) -> Result<(), Error> {
        self.upgrade_sync_in(handle, wait)
    }

    /// Waits until the value of a handle may have changed: a process, or another thread of this
    /// one, was about to change it, or has done so. The caller does not hold the handle. `seen` is
    /// the result of [`Node::sync_changes`] before the caller last looked at the value.
    ///
    /// # Errors
    /// As [`Node::lock_sync`].
    pub fn wait_sync(&self, handle: SyncHandle, seen: u64, wait: Wait<'_>) -> Result<(), Error> {
        self.wait_sync_in(handle, seen, wait)
    }

    /// Returns the number of deaths of owners of the handle that this process knows of, and the
    /// number of those that it has reported to a caller.
    pub(super) fn sync_owner_deaths(&self, handle: SyncHandle) -> Result<(u32, u32), Error> {
        let client = self.sync_client(handle)?;
        Ok((client.owner_deaths(), client.reported_deaths()))
    }

    /// Keeps the information that the value has changed for the next caller, after a call that saw
    /// it has failed.
    pub(super) fn restore_sync_change(&self, handle: SyncHandle, is_changed: bool) {
        if let Ok(mut client) = self.sync_client(handle) {
            client.restore_status((is_changed, false));
        }
    }

    /// Returns a count that grows whenever the value of the handle changes, or may soon change.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the handle is closed.
    pub fn sync_changes(&self, handle: SyncHandle) -> Result<u64, Error> {
        self.check_running()?;
        let slot = self.slot(handle)?;
        let client = slot.client.lock();
        if client.generation() == handle.generation && client.is_open() {
            Ok(client.change_count())
        } else {
            Err(Error::Invalid(Invalid::HandleClosed))
        }
    }
}

/// Copies the value as far as `data` has room. Returns its length and its status.
#[inline]
fn copy_value(client: &mut Client<'_>, data: &mut [u8]) -> (usize, ValueStatus) {
    let from = client.data();
    for (to, from) in data.iter_mut().zip(from) {
        *to = *from;
    }
    let length = from.len();
    let (changed, owner_died) = client.take_status();
    let status = ValueStatus {
        changed,
        owner_died,
    };
    (length, status)
}

fn error_of(take: Acquisition) -> Error {
    match take {
        Acquisition::UpgradeDeadlock => Error::Refused {
            errno: Errno::EDEADLK,
            by: None,
        },
        Acquisition::NoRoom => Error::Refused {
            errno: Errno::ENOMEM,
            by: None,
        },
        Acquisition::Unsupported => Error::Unsupported,
        Acquisition::Closed | Acquisition::Acquired | Acquisition::Pending => {
            Error::Invalid(Invalid::HandleClosed)
        }
    }
}

impl<'m, P: Pal> Polled<'_, 'm, P> {
    /// Like [`Node::acquire_sync`], for a call that does not use the handle alone.
    pub(super) async fn acquire_sync_in<T>(
        &self,
        opened: &Opened<'_, 'm>,
        state: SyncState,
        wait: Wait<'_>,
        mut read: impl FnMut(&mut Client<'m>) -> T,
    ) -> Result<T, Error> {
        let value = self.acquire_at_once(opened, state, false, &mut read)?;
        match value {
            Some(value) => Ok(value),
            None => {
                self.acquire_sync_slow(opened, state, false, wait, read)
                    .await
            }
        }
    }
}

calls! {
    /// Acquires the handle on the slow path: the lease is elsewhere, or the handle is in use.
    #[cold]
    fn acquire_sync_slow<T>(
        &self,
        opened: &Opened<'_, 'm>,
        state: SyncState,
        alone: bool,
        wait: Wait<'_>,
        mut read: impl FnMut(&mut Client<'m>) -> T,
    ) -> Result<T, Error> {
        let limits = Limits::of(wait, &self.pal);
        let kind = WaitKind::Use(state);
        let poll = |client: &mut Client<'m>, is_first| {
            let has_turn = is_first && !(alone && client.is_in_use());
            if let Err(error) = self.check_contact() {
                return Some(Err(error));
            }
            Some(match client.acquire(state, has_turn) {
                Acquisition::Acquired => Ok(read(client)),
                Acquisition::Pending => return None,
                other => Err(error_of(other)),
            })
        };
        wait!(self.wait_for_slot(opened, kind, limits, poll))
    }

    fn upgrade_sync_in(&self, handle: SyncHandle, wait: Wait<'_>) -> Result<(), Error> {
        self.check_running()?;
        let opened = self.opened(handle)?;
        let slot = opened.slot;
        {
            let mut client = slot.client.lock();
            if client.generation() != handle.generation || !client.is_held(SyncState::Shared) {
                return Err(misuse(&client, handle, Invalid::NotHeld));
            }
            self.check_contact()?;
            match client.upgrade(true) {
                Acquisition::Acquired => return Ok(()),
                Acquisition::Pending => {}
                other => {
                    if !matches!(
                        other,
                        Acquisition::UpgradeDeadlock | Acquisition::Unsupported
                    ) {
                        client.cancel_upgrade();
                    }
                    drop(client);
                    self.wake_slot(slot);
                    return Err(error_of(other));
                }
            }
        }
        let upgrade = Undo::new(|| {
            slot.client.lock().cancel_upgrade();
            self.send_client_messages(handle.slot_index);
            // Readers that arrived meanwhile may proceed now.
            self.wake_slot(slot);
        });
        let limits = Limits::of(wait, &self.pal);
        let poll = |client: &mut Client<'m>, _| {
            if let Err(error) = self.check_contact() {
                return Some(Err(error));
            }
            Some(match client.upgrade(false) {
                Acquisition::Acquired => Ok(()),
                Acquisition::Pending => return None,
                other => Err(error_of(other)),
            })
        };
        wait!(self.wait_for_slot(&opened, WaitKind::Upgrade, limits, poll))?;
        upgrade.keep();
        Ok(())
    }

    fn wait_sync_in(&self, handle: SyncHandle, seen: u64, wait: Wait<'_>) -> Result<(), Error> {
        self.check_running()?;
        let opened = self.opened(handle)?;
        let limits = Limits::of(wait, &self.pal);
        let poll = |client: &mut Client<'m>, _| (client.change_count() != seen).then_some(Ok(()));
        wait!(self.wait_for_slot(&opened, WaitKind::Change, limits, poll))
    }
}
