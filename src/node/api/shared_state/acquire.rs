//! Acquiring and releasing sync handles.

use super::slots::Slot;
use super::wait_queue::{WaitKind, WakeSet};
use super::{SyncHandle, ValueStatus};
use crate::error::{Error, errno};
use crate::node::rpc::Claim;
use crate::node::rpc::Limits;
use crate::node::rpc::Wake;
use crate::node::{Late, Node, Phase, Wait, WaitsFor};
use crate::pal::{Event, Pal, Time};
use crate::shared_state::{Acquisition, Client};
use crate::store::{copy, give_way};
use crate::sync::Ordering;
use crate::wire::SyncState;

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
            return Err(Error::Invalid);
        }
        self.acquire_sync(handle, state, false, wait, |client| {
            let from = client.data();
            for (to, from) in data.iter_mut().zip(from) {
                *to = *from;
            }
            let length = from.len();
            let (changed, owner_died) = client.take_status();
            (
                length,
                ValueStatus {
                    changed,
                    owner_died,
                },
            )
        })
    }

    /// As [`Node::lock_sync`], but only one thread of this process at a time uses the handle, even
    /// to read. Calls `read` with the value if another process has changed it. A caller that cannot
    /// report the death of an owner (`reports_owner_death` is false) leaves it to the next.
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
            return Err(Error::Invalid);
        }
        self.acquire_sync(handle, state, true, wait, |client| {
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

    #[allow(
        clippy::inline_always,
        reason = "a stop in memory on the way costs as much as the rest"
    )]
    #[inline(always)]
    pub(super) fn acquire_sync<T>(
        &self,
        handle: SyncHandle,
        state: SyncState,
        alone: bool,
        wait: Wait<'_>,
        mut read: impl FnMut(&mut Client<'m>) -> T,
    ) -> Result<T, Error> {
        self.alive()?;
        let slot = self.slot(handle)?;
        {
            let mut client = slot.client.lock();
            if client.generation() != handle.generation {
                return Err(Error::Invalid);
            }
            // A call that uses the handle alone neither overtakes others nor is overtaken.
            let passes_as = if alone { SyncState::Exclusive } else { state };
            let has_turn = client.may_overtake(passes_as) && !(alone && client.is_in_use());
            if client.acquire_in_turn(state, has_turn) == Acquisition::Acquired {
                return Ok(read(&mut client));
            }
            client.change_waiters(state, 1);
        }
        self.acquire_sync_slow(handle, slot, state, alone, wait, read)
    }

    /// The slow path: the lease is elsewhere, or the handle is in use.
    #[cold]
    fn acquire_sync_slow<T>(
        &self,
        handle: SyncHandle,
        slot: &Slot<'m>,
        state: SyncState,
        alone: bool,
        wait: Wait<'_>,
        mut read: impl FnMut(&mut Client<'m>) -> T,
    ) -> Result<T, Error> {
        let limits = Limits::of(wait, &self.pal);
        self.wait_for_slot(
            handle,
            slot,
            WaitKind::Use(state),
            limits,
            |client, is_first| {
                let has_turn = is_first && !(alone && client.is_in_use());
                Some(match client.acquire_in_turn(state, has_turn) {
                    Acquisition::Acquired => Ok(read(client)),
                    Acquisition::Pending => return None,
                    other => Err(error_of(other)),
                })
            },
        )
    }

    /// Waits until `poll` returns a result, and calls it whenever the handle changes in a way that
    /// may end the wait. The second argument of `poll` says whether the call is the first in the
    /// queue.
    pub(super) fn wait_for_slot<T>(
        &self,
        handle: SyncHandle,
        slot: &Slot<'m>,
        kind: WaitKind,
        limits: Limits<'_>,
        poll: impl FnMut(&mut Client<'m>, bool) -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        let server = self.identity.leader.unwrap_or(self.identity.vmid);
        let shown = (WaitsFor::Handle(handle.id), self.now());
        let claimed = self.waiters.claim(server, shown, None, Late::Drop);
        let outcome = match claimed {
            Ok(claim) => {
                let outcome = self.wait_queued(handle, slot, kind, (claim, limits), poll);
                self.waiters.give(claim);
                outcome
            }
            Err(error) => Err(error),
        };
        let has_output = {
            let mut client = slot.client.lock();
            // The handle may have been closed meanwhile, and the slot opened again.
            if let WaitKind::Use(state) = kind
                && client.generation() == handle.generation
            {
                client.change_waiters(state, -1);
            }
            client.poll_transmit().is_some()
        };
        if has_output {
            self.send_client_messages(handle.slot_index);
        }
        outcome
    }

    fn wait_queued<T>(
        &self,
        handle: SyncHandle,
        slot: &Slot<'m>,
        kind: WaitKind,
        (claim, limits): (Claim, Limits<'_>),
        mut poll: impl FnMut(&mut Client<'m>, bool) -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        let (name, links) = (claim.name(), &self.sync_handles.links);
        {
            let mut client = slot.client.lock();
            slot.wait_queue.enqueue(links, name, kind);
            client.set_head_request(slot.wait_queue.head_request(links));
        }
        let peer = self
            .identity
            .leader
            .and_then(|leader| self.peers.find(leader));
        let mut reading = None;
        let mut since = None;
        let outcome = loop {
            if let Some(event) = self.waiters.event(claim) {
                event.clear();
            }
            let (found, wake, has_output) = {
                let mut client = slot.client.lock();
                let found = if client.generation() == handle.generation && !client.is_free() {
                    poll(&mut client, slot.wait_queue.is_first(name))
                } else {
                    Some(Err(Error::Invalid))
                };
                let wake = wake_source(&client, kind, slot.wait_queue.is_first(name), limits);
                (found, wake, client.poll_transmit().is_some())
            };
            if has_output {
                self.send_client_messages(handle.slot_index);
            }
            match found {
                // The shutdown has closed the handle.
                Some(Err(Error::Invalid)) if self.phase() != Phase::Running => {
                    break Err(Error::ShuttingDown);
                }
                Some(found) => break found,
                None => {}
            }
            if let Some(Err(error)) = self.waiters.outcome(claim) {
                break Err(error);
            }
            // The leader may have ended before the wait was registered, so that nothing failed the
            // wait.
            if self.leader_gone.load(Ordering::SeqCst) {
                break Err(Error::LeaderGone);
            }
            if self.phase() != Phase::Running {
                break Err(Error::ShuttingDown);
            }
            if let Err(error) = self.check_limits() {
                break Err(error);
            }
            if let Some(error) = limits.reached(&self.pal) {
                break Err(error);
            }
            let (Some(peer), Some(wake)) = (&peer, wake) else {
                if let Some(peer) = &peer {
                    self.give_reading(peer, reading.take());
                }
                self.sleep(claim, limits);
                continue;
            };
            // The call takes over the reading only after its messages are queued: the first poll
            // may succeed without the server.
            if since.is_none() {
                since = Some(self.now());
                reading = self.take_reading(peer, claim);
                continue;
            }
            let goes_on = if let Some(reading) = reading.as_mut() {
                let since = since.unwrap_or(Time(0));
                !peer.broken.load(Ordering::SeqCst)
                    && self.read_answers(peer, reading, claim, limits, (since, wake))
            } else {
                self.sleep(claim, limits);
                true
            };
            if !goes_on {
                self.give_reading(peer, reading.take());
            }
        };
        if let Some(peer) = &peer {
            self.give_reading(peer, reading);
        }
        let next = {
            let mut client = slot.client.lock();
            let was_first = slot.wait_queue.is_first(name);
            slot.wait_queue.dequeue(links, name, kind);
            let wants = slot.wait_queue.head_request(links);
            client.set_head_request(wants);
            // A call that acquired the handle to read lets the readers behind it in; one that gave
            // up lets any call in.
            let can_go = !client.is_in_use()
                || wants == Some(SyncState::Shared) && !client.is_held(SyncState::Exclusive);
            let is_free = (was_first || kind == WaitKind::Upgrade) && can_go;
            if is_free {
                slot.wait_queue.wakes().first
            } else {
                0
            }
        };
        self.waiters.nudge(next);
        outcome
    }

    /// Wakes the calls that wait for the handle.
    pub(super) fn wake_slot(&self, slot: &Slot<'m>) {
        self.wake_set(slot, slot.wait_queue.wakes());
    }

    fn wake_set(&self, slot: &Slot<'m>, wakes: WakeSet) {
        self.waiters.nudge(wakes.first);
        self.waiters.nudge(wakes.upgrader);
        if wakes.observers {
            let what = WaitsFor::Handle(slot.client.lock().id());
            let links = &self.sync_handles.links;
            self.waiters.nudge_all(what, |name| links.is_observer(name));
        }
    }

    /// Releases a handle that was acquired in that state, and stores `data` as the new value if it
    /// is given (after [`SyncState::Exclusive`] only; at most
    /// [`Capacities::sync_data`](crate::Capacities::sync_data) bytes). Never blocks: the lease
    /// stays in this process until another one requests it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the handle is closed, if no thread of this process holds it in that state, if the data is too long, or if the caller may not change the value; the handle and the value stay as they are then.
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

    /// As [`Node::unlock_sync`]. The new value has `length` bytes, and `fill` writes it in place,
    /// once its length is known to fit.
    #[inline]
    pub(crate) fn unlock_sync_with(
        &self,
        handle: SyncHandle,
        state: SyncState,
        length: Option<usize>,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), Error> {
        self.alive()?;
        let limit = self.config.capacities.sync_data;
        let may_change = state == SyncState::Exclusive;
        if length.is_some_and(|length| !may_change || length > limit) {
            return Err(Error::Invalid);
        }
        self.release_sync(handle, state, |client| {
            if let Some(length) = length {
                fill(client.data_mut(length));
            }
        })
    }

    #[inline]
    pub(super) fn release_sync(
        &self,
        handle: SyncHandle,
        state: SyncState,
        change: impl FnOnce(&mut Client<'m>),
    ) -> Result<(), Error> {
        let slot = self.slot(handle)?;
        let (is_wanted, has_changed) = {
            let mut client = slot.client.lock();
            if client.generation() != handle.generation || !client.is_held(state) {
                return Err(Error::Invalid);
            }
            let changes = client.change_count();
            change(&mut client);
            client.release(state);
            let is_wanted = client.has_release_work() || slot.wait_queue.has_waiters();
            (is_wanted, client.change_count() != changes)
        };
        if is_wanted {
            self.wake_after_release(handle, slot, has_changed);
        }
        Ok(())
    }

    /// Wakes the calls that may proceed after a release, and sends what the release has queued.
    #[cold]
    fn wake_after_release(&self, handle: SyncHandle, slot: &Slot<'m>, has_changed: bool) {
        let (has_output, yields, wakes) = {
            let mut client = slot.client.lock();
            let yields = client.is_contended() && client.should_yield();
            client.update_release_work();
            let mut wakes = slot.wait_queue.wakes();
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
            give_way();
        }
    }

    /// Turns a handle that was acquired [`SyncState::Shared`] into [`SyncState::Exclusive`] without
    /// releasing it: no process changes the value meanwhile. Blocks until the other readers of this
    /// process have released it, and other processes have given their leases back; later calls and
    /// queued ones do not delay it.
    ///
    /// # Errors
    /// [`Error::Refused`] (`EDEADLK`) if another thread or process wants to change the value and waits for this reader: it stays `Shared`, and the caller must release it. [`Error::Unsupported`] if the leader is a process in C and this process does not hold the lease to change the value: such a leader cannot keep others from changing it in between. Otherwise as [`Node::lock_sync`]. The handle stays `Shared` after every error.
    pub fn upgrade_sync(&self, handle: SyncHandle, wait: Wait<'_>) -> Result<(), Error> {
        self.alive()?;
        let slot = self.slot(handle)?;
        {
            let mut client = slot.client.lock();
            if client.generation() != handle.generation || !client.is_held(SyncState::Shared) {
                return Err(Error::Invalid);
            }
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
        let limits = Limits::of(wait, &self.pal);
        let upgraded = self.wait_for_slot(handle, slot, WaitKind::Upgrade, limits, |client, _| {
            Some(match client.upgrade(false) {
                Acquisition::Acquired => Ok(()),
                Acquisition::Pending => return None,
                other => Err(error_of(other)),
            })
        });
        if upgraded.is_err() {
            slot.client.lock().cancel_upgrade();
            self.send_client_messages(handle.slot_index);
            // Readers that arrived meanwhile may proceed now.
            self.wake_slot(slot);
        }
        upgraded
    }

    /// Waits until the value of a handle may have changed: a process, or another thread of this
    /// one, was about to change it, or has done so. The caller does not hold the handle. `seen` is
    /// the result of [`Node::sync_changes`] before the caller last looked at the value.
    ///
    /// # Errors
    /// As [`Node::lock_sync`].
    pub fn wait_sync(&self, handle: SyncHandle, seen: u64, wait: Wait<'_>) -> Result<(), Error> {
        self.alive()?;
        let slot = self.slot(handle)?;
        let limits = Limits::of(wait, &self.pal);
        self.wait_for_slot(handle, slot, WaitKind::Change, limits, |client, _| {
            (client.change_count() != seen).then_some(Ok(()))
        })
    }

    /// The number of deaths of owners of the handle that this process knows of, and the number of
    /// those that it has reported to a caller.
    pub(super) fn sync_owner_deaths(&self, handle: SyncHandle) -> Result<(u32, u32), Error> {
        let client = self.slot(handle)?.client.lock();
        if client.generation() == handle.generation {
            Ok((client.owner_deaths(), client.reported_deaths()))
        } else {
            Err(Error::Invalid)
        }
    }

    /// Keeps the information that the value has changed for the next caller, after a call that saw
    /// it has failed.
    pub(super) fn restore_sync_change(&self, handle: SyncHandle, is_changed: bool) {
        if let Ok(slot) = self.slot(handle) {
            let mut client = slot.client.lock();
            if client.generation() == handle.generation {
                client.restore_status((is_changed, false));
            }
        }
    }

    /// A count that grows whenever the value of the handle changes, or may soon change.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the handle is closed.
    pub fn sync_changes(&self, handle: SyncHandle) -> Result<u64, Error> {
        self.alive()?;
        let slot = self.slot(handle)?;
        let client = slot.client.lock();
        if client.generation() == handle.generation && client.is_open() {
            Ok(client.change_count())
        } else {
            Err(Error::Invalid)
        }
    }
}

/// The way in which the server's answer ends the wait; `None` if only other threads of this process
/// can end it.
fn wake_source(
    client: &Client<'_>,
    kind: WaitKind,
    is_first: bool,
    limits: Limits<'_>,
) -> Option<Wake> {
    let needs_server = match kind {
        WaitKind::Use(state) => is_first && !client.has_lease(state),
        WaitKind::Upgrade => !client.has_lease(SyncState::Exclusive),
        WaitKind::Change | WaitKind::Close => true,
    };
    let by_event = limits.interrupt.is_some() || kind == WaitKind::Change || client.is_in_use();
    let wake = if by_event { Wake::Event } else { Wake::Bytes };
    needs_server.then_some(wake)
}

fn error_of(take: Acquisition) -> Error {
    match take {
        Acquisition::UpgradeDeadlock => Error::Refused(errno::EDEADLK),
        Acquisition::NoRoom => Error::Refused(errno::ENOMEM),
        Acquisition::Unsupported => Error::Unsupported,
        Acquisition::Closed | Acquisition::Acquired | Acquisition::Pending => Error::Invalid,
    }
}
