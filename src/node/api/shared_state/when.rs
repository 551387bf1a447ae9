//! Waiting until a value fulfils a condition, without polling it.
//!
//! A call that waits keeps a lease to read. So a process that is to change the value has to have the
//! lease revoked first, and that wakes the call. No message is sent while nothing changes.

use super::Opened;
use super::guards::{Reader, Writer};
use super::{Shared, ValueStatus};
use crate::error::{Error, Invalid};
use crate::invariant::Count;
use crate::node::rpc::{Limits, Polled, Undo};
use crate::node::{Node, Wait};
use crate::pal::Pal;
use crate::shared_state::Client;
use crate::wire::SyncState;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How often a call that wants to change the value acquires it without having read it before: at
/// first, and when it is woken for the first time. If only one process waits, this saves it a
/// request. Calls that went on so would wake each other for ever.
const ATTEMPTS_WITHOUT_READING: u32 = 2;

calls! {
    /// Acquires the handle in the state `wanted` when `accepts` says so of what `read` has copied
    /// from the value. `accepts` is called without a lock, while the handle is held in the given
    /// state.
    fn acquire_when<C>(
        &self,
        opened: &Opened<'_, 'm>,
        wanted: SyncState,
        wait: Wait<'_>,
        mut read: impl FnMut(&mut Client<'m>) -> C,
        mut accepts: impl FnMut(&C, SyncState) -> bool,
    ) -> Result<C, Error> {
        let limits = Limits::of(wait, &self.pal);
        let mut attempts = ATTEMPTS_WITHOUT_READING;
        loop {
            let state = if attempts > 0 { wanted } else { SyncState::Shared };
            // The count is read together with the value, so no change after it is missed.
            let read_with_count = |client: &mut Client<'m>| (read(client), client.change_count());
            let acquired = self.acquire_sync_in(opened, state, limits.wait(), read_with_count);
            let (copy, seen) = wait!(acquired)?;
            let held = Undo::new(|| {
                let _ = self.release_sync(opened, state, |_| ());
            });
            let is_accepted = accepts(&copy, state);
            if is_accepted && state == wanted {
                held.keep();
                return Ok(copy);
            }
            drop(held);
            if is_accepted {
                attempts = 1;
                continue;
            }
            attempts = attempts.minus(u32::from(attempts > 0));
            wait!(self.wait_sync_in(opened.handle, seen, limits.wait()))?;
        }
    }
}

/// A call that waits for a value.
struct ValueWait<'s, 'n, 'm, P: Pal, T> {
    shared: &'s Shared<'n, 'm, P, T>,
    /// The number of deaths that were reported before the call.
    reported: u32,
    /// The call has seen a change. It is kept for the next call if this one fails.
    has_seen_change: bool,
}

impl<'s, 'n, 'm, P: Pal, T> ValueWait<'s, 'n, 'm, P, T> {
    fn begin(shared: &'s Shared<'n, 'm, P, T>) -> Result<Self, Error> {
        Ok(ValueWait {
            shared,
            reported: shared.node.sync_owner_deaths(shared.opened.handle)?.1,
            has_seen_change: false,
        })
    }

    /// Returns true if the wait ends with what was acquired: a value that the predicate accepts,
    /// one of another size, or the report of a death. A caller that may change the value is the
    /// last to get that report.
    fn accepts(
        &mut self,
        (value, status): &(Option<T>, ValueStatus),
        state: SyncState,
        predicate: &mut impl FnMut(&T) -> bool,
    ) -> bool {
        self.has_seen_change |= status.changed;
        let is_reported = || {
            let deaths = self
                .shared
                .node
                .sync_owner_deaths(self.shared.opened.handle);
            deaths.is_ok_and(|(deaths, _)| deaths == self.reported)
        };
        if status.owner_died && (state == SyncState::Exclusive || !is_reported()) {
            return true;
        }
        value.as_ref().is_none_or(predicate)
    }

    /// Ends the wait with the value, whose status contains all that the call has seen.
    fn end(
        mut self,
        state: SyncState,
        (value, mut status): (Option<T>, ValueStatus),
    ) -> Result<(T, ValueStatus), Error>
    where
        T: FromBytes + IntoBytes + Immutable + KnownLayout,
    {
        status.changed = core::mem::take(&mut self.has_seen_change);
        self.shared
            .checked(state, (value, status), Invalid::ValueSize)
    }
}

impl<P: Pal, T> Drop for ValueWait<'_, '_, '_, P, T> {
    fn drop(&mut self) {
        if self.has_seen_change {
            let shared = self.shared;
            shared.node.restore_sync_change(shared.opened.handle, true);
        }
    }
}

/// The body of each call and of its future: `$acquire` runs [`Node::acquire_when`] with the two closures.
macro_rules! when {
    ($self:ident, $state:expr, $predicate:ident, |$read:ident, $accepts:ident| $acquire:expr) => {{
        let mut value_wait = ValueWait::begin($self)?;
        let $read = super::shared::read_value;
        let $accepts = |copy: &_, state| value_wait.accepts(copy, state, &mut $predicate);
        let acquired = $acquire?;
        value_wait.end($state, acquired)
    }};
}

impl<'n, 'm, P: Pal, T> Shared<'n, 'm, P, T>
where
    T: FromBytes + IntoBytes + Immutable + KnownLayout,
{
    /// Waits until `predicate` accepts the value, and acquires it to read. The call
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
        mut predicate: impl FnMut(&T) -> bool,
    ) -> Result<Reader<'_, 'n, 'm, P, T>, Error> {
        let (node, opened, state) = (self.node, &self.opened, SyncState::Shared);
        let acquired = when!(self, state, predicate, |read, accepts| node
            .acquire_when(opened, state, wait, read, accepts));
        Ok(Reader::new(self, acquired?))
    }

    /// Like [`Shared::wait_for`]. The status is kept for the next call also if the future is
    /// dropped.
    ///
    /// # Errors
    /// As [`Shared::read`].
    pub async fn wait_for_async(
        &self,
        wait: Wait<'_>,
        mut predicate: impl FnMut(&T) -> bool,
    ) -> Result<Reader<'_, 'n, 'm, P, T>, Error> {
        let (node, opened, state) = (Polled(self.node), &self.opened, SyncState::Shared);
        let acquired = when!(self, state, predicate, |read, accepts| node
            .acquire_when(opened, state, wait, read, accepts)
            .await);
        Ok(Reader::new(self, acquired?))
    }

    /// Waits until `predicate` accepts the value, and acquires it to change it, with the
    /// value that the predicate has accepted: a monitor, as a mutex with a condition variable. The
    /// call sleeps as [`Shared::wait_for`], and misses no value that stays.
    ///
    /// The death of an owner ends the wait, too, as in [`Shared::wait_for`], until a caller has acquired the value to
    /// change it after the death.
    ///
    /// If several processes wait, a change wakes them all; they get the value in the order in which
    /// their requests arrive at the leader, and those whose predicate is not fulfilled any more
    /// sleep again.
    ///
    /// # Errors
    /// As [`Shared::wait_for`].
    pub fn write_when(
        &self,
        wait: Wait<'_>,
        mut predicate: impl FnMut(&T) -> bool,
    ) -> Result<Writer<'_, 'n, 'm, P, T>, Error> {
        let (node, opened, state) = (self.node, &self.opened, SyncState::Exclusive);
        let acquired = when!(self, state, predicate, |read, accepts| node
            .acquire_when(opened, state, wait, read, accepts));
        Ok(Writer::new(self, acquired?))
    }

    /// Like [`Shared::write_when`]. The status is kept for the next call also if the future is
    /// dropped.
    ///
    /// # Errors
    /// As [`Shared::wait_for`].
    pub async fn write_when_async(
        &self,
        wait: Wait<'_>,
        mut predicate: impl FnMut(&T) -> bool,
    ) -> Result<Writer<'_, 'n, 'm, P, T>, Error> {
        let (node, opened, state) = (Polled(self.node), &self.opened, SyncState::Exclusive);
        let acquired = when!(self, state, predicate, |read, accepts| node
            .acquire_when(opened, state, wait, read, accepts)
            .await);
        Ok(Writer::new(self, acquired?))
    }
}
