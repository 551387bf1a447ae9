//! Bounded queues.

use core::marker::PhantomData;
use core::mem::size_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::super::SyncHandle;
use super::super::shared_state::Shared;
use crate::error::{Error, Invalid};
use crate::invariant::OrBroken;
use crate::node::rpc::Polled;
use crate::node::{Node, Wait};
use crate::pal::Pal;
use crate::shared_state::Client;
use crate::store::copy;
use crate::wire::SyncState;

/// The begin of the value: the items follow, in a ring.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(in crate::node) struct Ring {
    /// The largest number of items, and the size of each: all processes must agree.
    capacity: u32,
    size: u32,
    /// The place of the first item.
    first: u32,
    length: u32,
}

/// A change of the queue: the ring after it, and the place of the item.
pub(in crate::node) struct Step {
    ring: Ring,
    at: usize,
}

impl Ring {
    /// The ring of a value; `None` if the value is that of another kind of queue, or of none.
    fn of(client: &Client<'_>, empty: Ring) -> Option<Ring> {
        let data = client.data();
        if data.is_empty() {
            return Some(empty);
        }
        let (ring, _) = Ring::read_from_prefix(data).ok()?;
        let is_same = ring.capacity == empty.capacity && ring.size == empty.size;
        let is_whole = empty.bytes() == Some(data.len());
        let is_sound = ring.first < ring.capacity && ring.length <= ring.capacity;
        (is_same && is_whole && is_sound).then_some(ring)
    }

    /// The length of the value in bytes.
    fn bytes(&self) -> Option<usize> {
        self.offset(self.capacity)
    }

    /// The offset of the item at a place.
    fn offset(&self, place: u32) -> Option<usize> {
        let items = usize::try_from(place.checked_mul(self.size)?).ok()?;
        items.checked_add(size_of::<Ring>())
    }

    /// Adds an item; `None` if the queue is full.
    fn push(mut self) -> Option<Step> {
        let place = self.first.checked_add(self.length)?;
        let place = place.checked_rem(self.capacity)?;
        let at = self.offset(place).filter(|_| self.length < self.capacity)?;
        self.length = self.length.checked_add(1)?;
        Some(Step { ring: self, at })
    }

    /// Removes the first item; `None` if the queue is empty.
    fn pop(mut self) -> Option<Step> {
        self.length = self.length.checked_sub(1)?;
        let at = self.offset(self.first)?;
        self.first = self.first.checked_add(1)?.checked_rem(self.capacity)?;
        Some(Step { ring: self, at })
    }
}

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
    /// Opens a queue for so many items: the one with that number, or a new one (`None`). Never
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
        let empty = Ring {
            capacity,
            size: u32::try_from(size_of::<T>()).map_err(|_| Error::Invalid(Invalid::QueueShape))?,
            first: 0,
            length: 0,
        };
        let limit = self.config.capacities.sync_data;
        if capacity == 0 || empty.bytes().is_none_or(|bytes| bytes > limit) {
            return Err(Error::Invalid(Invalid::QueueShape));
        }
        Ok(Queue {
            value: self.open_shared(id)?,
            empty,
            items: PhantomData,
        })
    }
}

calls! {
    /// Takes a step on the ring of a queue: pushes or pops an item, whose bytes `with` gets in place.
    /// `empty` is the ring of that queue without items. A call that `waits` does so until the step
    /// can be taken. Returns whether it was.
    fn step_queue(
        &self,
        handle: SyncHandle,
        empty: Ring,
        waits: bool,
        wait: Wait<'_>,
        step: fn(Ring) -> Option<Step>,
        mut with: impl FnMut(&mut [u8]),
    ) -> Result<bool, Error> {
        let state = SyncState::Exclusive;
        let read = |client: &mut Client<'m>| Ring::of(client, empty);
        // The value of another kind of queue ends the wait.
        let accepts = |ring: &Option<Ring>, _| {
            !waits || ring.is_none_or(|ring| step(ring).is_some())
        };
        let ring = wait!(self.acquire_when(handle, state, wait, read, accepts))?;
        let taken = ring.and_then(step).zip(empty.bytes());
        self.release_sync(handle, state, |client| {
            let Some((step, bytes)) = &taken else { return };
            let data = client.data_mut(*bytes);
            copy(data, step.ring.as_bytes());
            let items = data.get_mut(step.at..).or_broken(&mut []);
            with(items.get_mut(..empty.size as usize).or_broken(&mut []));
        })?;
        self.check_contact()?;
        if ring.is_some() {
            Ok(taken.is_some())
        } else {
            Err(Error::Invalid(Invalid::QueueShape))
        }
    }
}

impl<P: Pal, T> Queue<'_, '_, P, T>
where
    T: FromBytes + IntoBytes + Immutable + KnownLayout,
{
    /// The number by which other processes open it.
    pub fn id(&self) -> u64 {
        self.value.id()
    }

    /// The largest number of items.
    pub const fn capacity(&self) -> u32 {
        self.empty.capacity
    }

    /// As [`Shared::owner_deaths`](crate::Shared::owner_deaths).
    ///
    /// # Errors
    /// As there.
    pub fn owner_deaths(&self) -> Result<u32, Error> {
        self.value.owner_deaths()
    }

    /// Waits until there is room, and adds the item at the end.
    ///
    /// # Errors
    /// As [`Node::lock_sync`]; [`Error::Invalid`] if the queue was opened with another capacity or
    /// size of items. Nothing is added then.
    pub fn push(&self, item: &T, wait: Wait<'_>) -> Result<(), Error> {
        self.push_if(item, true, wait).map(|_| ())
    }

    /// As [`Queue::push`]. A dropped future has added nothing.
    ///
    /// # Errors
    /// As [`Queue::push`].
    pub async fn push_async(&self, item: &T, wait: Wait<'_>) -> Result<(), Error> {
        self.push_if_async(item, true, wait).await.map(|_| ())
    }

    /// Adds the item at the end if there is room, and returns whether there was. `wait` limits the
    /// time until the queue is here, if another process has it.
    ///
    /// # Errors
    /// As [`Queue::push`].
    pub fn try_push(&self, item: &T, wait: Wait<'_>) -> Result<bool, Error> {
        self.push_if(item, false, wait)
    }

    /// As [`Queue::try_push`]. A dropped future has added nothing.
    ///
    /// # Errors
    /// As [`Queue::push`].
    pub async fn try_push_async(&self, item: &T, wait: Wait<'_>) -> Result<bool, Error> {
        self.push_if_async(item, false, wait).await
    }

    /// Waits for an item, and removes the first one.
    ///
    /// # Errors
    /// As [`Queue::push`]. Nothing is removed then.
    pub fn pop(&self, wait: Wait<'_>) -> Result<T, Error> {
        let item = self.pop_if(true, wait)?;
        Ok(item.or_broken(T::new_zeroed()))
    }

    /// As [`Queue::pop`]. A dropped future has removed nothing.
    ///
    /// # Errors
    /// As [`Queue::pop`].
    pub async fn pop_async(&self, wait: Wait<'_>) -> Result<T, Error> {
        let item = self.pop_if_async(true, wait).await?;
        Ok(item.or_broken(T::new_zeroed()))
    }

    /// Removes the first item; `None` if there is none. `wait` limits the time until the queue is
    /// here, if another process has it.
    ///
    /// # Errors
    /// As [`Queue::pop`].
    pub fn try_pop(&self, wait: Wait<'_>) -> Result<Option<T>, Error> {
        self.pop_if(false, wait)
    }

    /// As [`Queue::try_pop`]. A dropped future has removed nothing.
    ///
    /// # Errors
    /// As [`Queue::pop`].
    pub async fn try_pop_async(&self, wait: Wait<'_>) -> Result<Option<T>, Error> {
        self.pop_if_async(false, wait).await
    }

    fn push_if(&self, item: &T, waits: bool, wait: Wait<'_>) -> Result<bool, Error> {
        let (handle, push) = (self.value.handle, Ring::push);
        let with = |place: &mut [u8]| copy(place, item.as_bytes());
        let node = self.value.node;
        node.step_queue(handle, self.empty, waits, wait, push, with)
    }

    async fn push_if_async(&self, item: &T, waits: bool, wait: Wait<'_>) -> Result<bool, Error> {
        let (handle, push) = (self.value.handle, Ring::push);
        let with = |place: &mut [u8]| copy(place, item.as_bytes());
        let node = Polled(self.value.node);
        node.step_queue(handle, self.empty, waits, wait, push, with)
            .await
    }

    fn pop_if(&self, waits: bool, wait: Wait<'_>) -> Result<Option<T>, Error> {
        let (handle, pop, mut item) = (self.value.handle, Ring::pop, T::new_zeroed());
        let with = |place: &mut [u8]| copy(item.as_mut_bytes(), place);
        let node = self.value.node;
        let popped = node.step_queue(handle, self.empty, waits, wait, pop, with)?;
        Ok(popped.then_some(item))
    }

    async fn pop_if_async(&self, waits: bool, wait: Wait<'_>) -> Result<Option<T>, Error> {
        let (handle, pop, mut item) = (self.value.handle, Ring::pop, T::new_zeroed());
        let with = |place: &mut [u8]| copy(item.as_mut_bytes(), place);
        let node = Polled(self.value.node);
        let popped = node.step_queue(handle, self.empty, waits, wait, pop, with);
        Ok(popped.await?.then_some(item))
    }
}
