//! Condition variables.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::super::shared_state::{Shared, Writer};
use crate::error::Error;
use crate::node::{Node, Wait};
use crate::pal::Pal;

/// A condition variable that several processes share, for use with a [`Shared`] value as its mutex:
/// `pthread_cond_wait(3)` with `PTHREAD_PROCESS_SHARED`.
///
/// If the condition depends on the value alone, [`Shared::write_when`] needs no condition variable
/// and half the messages. One is needed if not every change of the value is to wake a waiter, or
/// if the waiters of one value wait for different events.
///
/// # Order
/// A notification wakes all waiters; they get the value in the order in which their requests reach
/// the leader. There is no way to wake only one, because the shared state behind it has to be taken
/// from all that wait. A notification between the beginning of a wait and its sleep is not lost. A wait
/// may end without a notification, as with `pthread_cond_wait`, so callers check the condition again.
///
/// # Death
/// A process that dies in a notification wakes the waiters. If it dies before, they are not woken: a
/// waiter that must see that sets a limit, or uses [`Shared::write_when`]. The guard says in its
/// status whether the last owner of the value died.
///
/// # Cost
/// No message while this process alone uses it and the value. A notification that wakes a thread of another process costs
/// three hand-overs of a shared value, of four messages each: the number of notifications goes there and back, and the value
/// goes there. With [`Shared::write_when`] only the value moves.
pub struct Condvar<'n, 'm, P: Pal> {
    /// The number of notifications.
    count: Shared<'n, 'm, P, u64>,
}

/// # Shared values: condition variables
impl<'m, P: Pal> Node<'m, P> {
    /// Opens a condition variable: the one with that number, or a new one (`None`). It never
    /// blocks.
    ///
    /// # Errors
    /// As [`Node::share`].
    pub fn open_condvar(&self, id: Option<u64>) -> Result<Condvar<'_, 'm, P>, Error> {
        Ok(Condvar {
            count: self.share(id)?,
        })
    }
}

impl<P: Pal> Condvar<'_, '_, P> {
    /// Returns the number by which other processes open it.
    pub fn id(&self) -> u64 {
        self.count.id()
    }

    /// Gives the value back, sleeps until a notification, and acquires the value again. All
    /// notifications count that are made after the caller has acquired the value.
    ///
    /// # Errors
    /// As [`Shared::write`]. The value is given back then: unlike `pthread_cond_timedwait`, a call
    /// that has failed does not hold the value.
    pub fn wait<'s, 'n, 'm, T>(
        &self,
        guard: Writer<'s, 'n, 'm, P, T>,
        wait: Wait<'_>,
    ) -> Result<Writer<'s, 'n, 'm, P, T>, Error>
    where
        T: FromBytes + IntoBytes + Immutable + KnownLayout,
    {
        let (value, wait) = (guard.shared(), self.count.node.begin(wait));
        let seen = *self.count.read(wait)?;
        drop(guard);
        drop(self.count.wait_for(wait, |count| *count != seen)?);
        value.write(wait)
    }

    /// Like [`Condvar::wait`]. A dropped future gives the value back.
    ///
    /// # Errors
    /// As [`Condvar::wait`].
    pub async fn wait_async<'s, 'n, 'm, T>(
        &self,
        guard: Writer<'s, 'n, 'm, P, T>,
        wait: Wait<'_>,
    ) -> Result<Writer<'s, 'n, 'm, P, T>, Error>
    where
        T: FromBytes + IntoBytes + Immutable + KnownLayout,
    {
        let (value, wait) = (guard.shared(), self.count.node.begin(wait));
        let seen = *self.count.read_async(wait).await?;
        drop(guard);
        let changed = |count: &u64| *count != seen;
        drop(self.count.wait_for_async(wait, changed).await?);
        value.write_async(wait).await
    }

    /// Waits while `condition` is true of the value, as `std::sync::Condvar::wait_while`.
    ///
    /// # Errors
    /// As [`Condvar::wait`].
    pub fn wait_while<'s, 'n, 'm, T>(
        &self,
        mut guard: Writer<'s, 'n, 'm, P, T>,
        wait: Wait<'_>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> Result<Writer<'s, 'n, 'm, P, T>, Error>
    where
        T: FromBytes + IntoBytes + Immutable + KnownLayout,
    {
        let wait = self.count.node.begin(wait);
        while condition(&mut guard) {
            guard = self.wait(guard, wait)?;
        }
        Ok(guard)
    }

    /// Like [`Condvar::wait_while`]. A dropped future gives the value back.
    ///
    /// # Errors
    /// As [`Condvar::wait`].
    pub async fn wait_while_async<'s, 'n, 'm, T>(
        &self,
        mut guard: Writer<'s, 'n, 'm, P, T>,
        wait: Wait<'_>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> Result<Writer<'s, 'n, 'm, P, T>, Error>
    where
        T: FromBytes + IntoBytes + Immutable + KnownLayout,
    {
        let wait = self.count.node.begin(wait);
        while condition(&mut guard) {
            guard = self.wait_async(guard, wait).await?;
        }
        Ok(guard)
    }

    /// Wakes all threads of all processes that wait. A caller that holds the value meanwhile delays
    /// them until it gives the value back.
    ///
    /// # Errors
    /// As [`Shared::write`]. Nobody is woken then.
    pub fn notify_all(&self, wait: Wait<'_>) -> Result<(), Error> {
        let mut count = self.count.write(wait)?;
        *count = count.wrapping_add(1);
        Ok(())
    }

    /// Like [`Condvar::notify_all`]. A dropped future has woken nobody.
    ///
    /// # Errors
    /// As [`Condvar::notify_all`].
    pub async fn notify_all_async(&self, wait: Wait<'_>) -> Result<(), Error> {
        let mut count = self.count.write_async(wait).await?;
        *count = count.wrapping_add(1);
        Ok(())
    }
}
