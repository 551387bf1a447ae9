//! Bounded queues.

use core::marker::PhantomData;
use core::mem::size_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::super::shared_state::{Opened, Shared};
use super::ring::{Ring, RingStep};
use crate::error::{Error, Invalid};
use crate::node::rpc::Polled;
use crate::node::{Node, Wait};
use crate::pal::Pal;
use crate::shared_state::Client;
use crate::wire::SyncState;

/// A bounded queue of items that several processes share: any may push and pop.
///
/// All must open it with the same capacity and type. It lives until all processes have dropped it.
///
/// # Order
/// Items are popped in the order of their pushes. Among the callers that wait there is no strict
/// order, but none waits for ever while others push and pop, as with a
/// [`Semaphore`](crate::Semaphore).
///
/// # Death
/// A call has its whole effect or none, also if its process dies in it: an item is never half
/// written. A process that is killed takes with it what it has changed since
/// another process last used the queue: its last items are lost, and those that it has popped may be
/// popped again. [`Queue::owner_deaths`] grows then in the next process that uses the queue. An item
/// whose pop another process has seen is gone, even if the process that has it dies.
///
/// # Cost
/// The whole queue is one shared value, of `capacity` times the size of an item and 16 bytes: it
/// moves to each process that uses it. No message while one process alone uses it; an item that
/// wakes a thread of another process costs two hand-overs.
///
/// ```no_run
/// # use libos_ipc::{Error, Wait};
/// # fn example(node: &libos_ipc::host::HostNode) -> Result<(), Error> {
/// let jobs = node.open_queue::<u64>(Some(9), 32)?;
/// jobs.push(&17, Wait::FOREVER)?;
/// assert_eq!(jobs.pop(Wait::FOREVER)?, 17);
/// # Ok(())
/// # }
/// ```
pub struct Queue<'n, 'm, P: Pal, T> {
    value: Shared<'n, 'm, P, [u8]>,
    empty: Ring,
    items: PhantomData<T>,
}

/// # Shared values: queues
impl<'m, P: Pal> Node<'m, P> {
    /// Opens a queue for so many items: the one with that number, or a new one (`None`). It never
    /// blocks.
    ///
    /// # Errors
    /// As [`Node::share`]; [`Error::Invalid`] for no capacity, or if the queue is longer than
    /// [`Capacities::sync_data`](crate::Capacities::sync_data).
    pub fn open_queue<T>(
        &self,
        id: Option<u64>,
        capacity: u32,
    ) -> Result<Queue<'_, 'm, P, T>, Error>
    where
        T: FromBytes + IntoBytes + Immutable + KnownLayout,
    {
        let limit = self.config.capacities.sync_data;
        let empty = Ring::new(capacity, size_of::<T>(), limit);
        Ok(Queue {
            empty: empty.ok_or(Error::Invalid(Invalid::QueueShape))?,
            value: self.open_shared(id)?,
            items: PhantomData,
        })
    }
}

calls! {
    /// Takes a step on the ring of a queue, whose ring without items is `empty`. A call that `waits` does so until
    /// the step can be taken. Returns whether it was.
    fn step_queue(
        &self,
        opened: &Opened<'_, 'm>,
        empty: Ring,
        mut step: RingStep<'_>,
        waits: bool,
        wait: Wait<'_>,
    ) -> Result<bool, Error> {
        let state = SyncState::Exclusive;
        let read = |client: &mut Client<'m>| empty.read(client.data());
        // The value of another kind of queue ends the wait.
        let accepts = |ring: &Option<Ring>, _| {
            !waits || ring.is_none_or(|ring| step.on(ring).is_some())
        };
        let ring = wait!(self.acquire_when(opened, state, wait, read, accepts))?;
        let taken = ring.and_then(|ring| step.on(ring));
        self.release_sync(opened, state, |client| {
            if let Some((ring, place)) = taken {
                step.copy(ring.write(client, place));
            }
        })?;
        self.check_contact()?;
        let ring = ring.ok_or(Error::Invalid(Invalid::QueueShape));
        ring.map(|_| taken.is_some())
    }
}

impl<P: Pal, T> Queue<'_, '_, P, T>
where
    T: FromBytes + IntoBytes + Immutable + KnownLayout,
{
    /// Returns the number by which other processes open it.
    pub fn id(&self) -> u64 {
        self.value.id()
    }

    /// Returns the largest number of items.
    pub const fn capacity(&self) -> u32 {
        self.empty.capacity
    }

    /// Like [`Shared::owner_deaths`](crate::Shared::owner_deaths).
    ///
    /// # Errors
    /// As [`Shared::owner_deaths`](crate::Shared::owner_deaths).
    pub fn owner_deaths(&self) -> Result<u32, Error> {
        self.value.owner_deaths()
    }

    /// Waits until there is room, and adds the item at the end.
    ///
    /// # Errors
    /// As [`Node::lock_sync`]; [`Error::Invalid`] if the queue was opened with another capacity or
    /// size of items. Nothing is added then.
    pub fn push(&self, item: &T, wait: Wait<'_>) -> Result<(), Error> {
        self.step(RingStep::Push(item.as_bytes()), true, wait)
            .map(drop)
    }

    /// Like [`Queue::push`]. A dropped future has added nothing.
    ///
    /// # Errors
    /// As [`Queue::push`].
    pub async fn push_async(&self, item: &T, wait: Wait<'_>) -> Result<(), Error> {
        let push = RingStep::Push(item.as_bytes());
        self.step_async(push, true, wait).await.map(drop)
    }

    /// Adds the item at the end if there is room, and returns whether there was. `wait` limits the
    /// time until the queue is here, if another process has it.
    ///
    /// # Errors
    /// As [`Queue::push`].
    pub fn try_push(&self, item: &T, wait: Wait<'_>) -> Result<bool, Error> {
        self.step(RingStep::Push(item.as_bytes()), false, wait)
    }

    /// Like [`Queue::try_push`]. A dropped future has added nothing.
    ///
    /// # Errors
    /// As [`Queue::push`].
    pub async fn try_push_async(&self, item: &T, wait: Wait<'_>) -> Result<bool, Error> {
        let push = RingStep::Push(item.as_bytes());
        self.step_async(push, false, wait).await
    }

    /// Waits for an item, and removes the first one.
    ///
    /// # Errors
    /// As [`Queue::push`]. Nothing is removed then.
    pub fn pop(&self, wait: Wait<'_>) -> Result<T, Error> {
        let mut item = T::new_zeroed();
        self.step(RingStep::Pop(item.as_mut_bytes()), true, wait)?;
        Ok(item)
    }

    /// Like [`Queue::pop`]. A dropped future has removed nothing.
    ///
    /// # Errors
    /// As [`Queue::pop`].
    pub async fn pop_async(&self, wait: Wait<'_>) -> Result<T, Error> {
        let mut item = T::new_zeroed();
        let pop = RingStep::Pop(item.as_mut_bytes());
        self.step_async(pop, true, wait).await?;
        Ok(item)
    }

    /// Removes the first item; `None` if there is none. `wait` limits the time until the queue is
    /// here, if another process has it.
    ///
    /// # Errors
    /// As [`Queue::pop`].
    pub fn try_pop(&self, wait: Wait<'_>) -> Result<Option<T>, Error> {
        let mut item = T::new_zeroed();
        let popped = self.step(RingStep::Pop(item.as_mut_bytes()), false, wait)?;
        Ok(popped.then_some(item))
    }

    /// Like [`Queue::try_pop`]. A dropped future has removed nothing.
    ///
    /// # Errors
    /// As [`Queue::pop`].
    pub async fn try_pop_async(&self, wait: Wait<'_>) -> Result<Option<T>, Error> {
        let mut item = T::new_zeroed();
        let pop = RingStep::Pop(item.as_mut_bytes());
        let popped = self.step_async(pop, false, wait).await?;
        Ok(popped.then_some(item))
    }

    fn step(&self, step: RingStep<'_>, waits: bool, wait: Wait<'_>) -> Result<bool, Error> {
        let (node, opened) = (self.value.node, &self.value.opened);
        node.step_queue(opened, self.empty, step, waits, wait)
    }

    async fn step_async(
        &self,
        step: RingStep<'_>,
        waits: bool,
        wait: Wait<'_>,
    ) -> Result<bool, Error> {
        let (node, opened) = (Polled(self.value.node), &self.value.opened);
        node.step_queue(opened, self.empty, step, waits, wait).await
    }
}
