//! Counting semaphores.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::super::shared_state::{Shared, Writer};
use crate::error::{Error, Invalid};
use crate::node::{Node, Wait};
use crate::pal::Pal;

/// The value of a semaphore. All zero, it has not been used.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Permits {
    /// 1 after the first use.
    is_used: u32,
    free: u32,
}

/// A counting semaphore that several processes share, as `sem_overview(7)`.
///
/// The first call on it, by whatever process, sets the number of free permits to the one with which
/// that process has opened it. The semaphore lives until all processes have dropped it.
///
/// # Order
/// A free permit goes to the process whose request reaches the leader first. A thread that waits is
/// not served before others that arrive later, but a woken process always requests at once, and the
/// leader serves requests in order: no process waits for ever while others acquire and release.
///
/// # Death
/// A call has its whole effect or none, also if its process dies in it. A process that is
/// killed takes with it what it has changed since another process last used the semaphore,
/// and [`Semaphore::owner_deaths`] grows in the next that uses it. A permit that others know to be
/// taken is not released by the death, as with `sem_post(3)`: the process that waits for it may
/// release it. For mutual exclusion that survives a death use
/// [`Shared::write`](crate::Shared::write), which reports
/// [`ValueStatus::owner_died`](crate::ValueStatus::owner_died).
///
/// # Cost
/// No message while this process alone uses it. A release that wakes a thread of another process
/// moves the value there and back: two hand-overs of a shared value.
///
/// ```no_run
/// # use libos_ipc::{Error, Wait};
/// # fn example(node: &libos_ipc::host::HostNode) -> Result<(), Error> {
/// let slots = node.open_semaphore(Some(12), 4)?;
/// slots.acquire(Wait::FOREVER)?;
/// // At most four processes are here at a time.
/// slots.release(Wait::FOREVER)?;
/// # Ok(())
/// # }
/// ```
pub struct Semaphore<'n, 'm, P: Pal> {
    permits: Shared<'n, 'm, P, Permits>,
    initial: u32,
}

/// # Shared values: semaphores
impl<'m, P: Pal> Node<'m, P> {
    /// Opens a semaphore: the one with that number, or a new one (`None`). If it has never been
    /// used, it has `permits` free ones. It never blocks.
    ///
    /// # Errors
    /// As [`Node::share`].
    pub fn open_semaphore(
        &self,
        id: Option<u64>,
        permits: u32,
    ) -> Result<Semaphore<'_, 'm, P>, Error> {
        Ok(Semaphore {
            permits: self.share(id)?,
            initial: permits,
        })
    }
}

impl<P: Pal> Semaphore<'_, '_, P> {
    /// Returns the number by which other processes open it.
    pub fn id(&self) -> u64 {
        self.permits.id()
    }

    /// Like [`Shared::owner_deaths`](crate::Shared::owner_deaths).
    ///
    /// # Errors
    /// As [`Shared::owner_deaths`](crate::Shared::owner_deaths).
    pub fn owner_deaths(&self) -> Result<u32, Error> {
        self.permits.owner_deaths()
    }

    /// Waits for a free permit, and takes it: `sem_wait(3)`.
    ///
    /// # Errors
    /// As [`Shared::write_when`](crate::Shared::write_when). No permit is taken then.
    pub fn acquire(&self, wait: Wait<'_>) -> Result<(), Error> {
        let wait = self.permits.node.begin(wait);
        loop {
            let permits = self
                .permits
                .write_when(wait, |permits| self.free(*permits) > 0)?;
            if self.take(permits) {
                return Ok(());
            }
        }
    }

    /// Like [`Semaphore::acquire`]. A dropped future has taken no permit.
    ///
    /// # Errors
    /// As [`Semaphore::acquire`].
    pub async fn acquire_async(&self, wait: Wait<'_>) -> Result<(), Error> {
        let wait = self.permits.node.begin(wait);
        loop {
            let is_free = |permits: &Permits| self.free(*permits) > 0;
            if self.take(self.permits.write_when_async(wait, is_free).await?) {
                return Ok(());
            }
        }
    }

    /// Takes a permit if one is free: `sem_trywait(3)`. Waits for no permit; `wait` limits the time
    /// until the state is here, if another process has it.
    ///
    /// # Errors
    /// As [`Shared::write`](crate::Shared::write). No permit is taken then.
    pub fn try_acquire(&self, wait: Wait<'_>) -> Result<bool, Error> {
        Ok(self.take(self.permits.write(wait)?))
    }

    /// Like [`Semaphore::try_acquire`]. A dropped future has taken no permit.
    ///
    /// # Errors
    /// As [`Semaphore::try_acquire`].
    pub async fn try_acquire_async(&self, wait: Wait<'_>) -> Result<bool, Error> {
        Ok(self.take(self.permits.write_async(wait).await?))
    }

    /// Releases a permit, which need not have been acquired: `sem_post(3)`. Waits only until the
    /// state is here.
    ///
    /// # Errors
    /// As [`Shared::write`](crate::Shared::write); [`Error::Invalid`] ([`Invalid::Permits`],
    /// `EOVERFLOW`) at 2³² − 1 free permits. No permit is released then.
    pub fn release(&self, wait: Wait<'_>) -> Result<(), Error> {
        self.give(self.permits.write(wait)?)
    }

    /// Like [`Semaphore::release`]. A dropped future has released nothing.
    ///
    /// # Errors
    /// As [`Semaphore::release`].
    pub async fn release_async(&self, wait: Wait<'_>) -> Result<(), Error> {
        self.give(self.permits.write_async(wait).await?)
    }

    /// Returns the number of free permits, which may have changed when the call returns:
    /// `sem_getvalue(3)`.
    ///
    /// # Errors
    /// As [`Shared::read`](crate::Shared::read).
    pub fn permits(&self, wait: Wait<'_>) -> Result<u32, Error> {
        Ok(self.free(*self.permits.read(wait)?))
    }

    /// [`Semaphore::permits`] as a future.
    ///
    /// # Errors
    /// As [`Semaphore::permits`].
    pub async fn permits_async(&self, wait: Wait<'_>) -> Result<u32, Error> {
        Ok(self.free(*self.permits.read_async(wait).await?))
    }

    const fn free(&self, permits: Permits) -> u32 {
        if permits.is_used == 0 {
            self.initial
        } else {
            permits.free
        }
    }

    /// Takes a permit, if there is a free one: the death of an owner ends a wait, too.
    fn take(&self, mut permits: Writer<'_, '_, '_, P, Permits>) -> bool {
        let left = self.free(*permits).checked_sub(1);
        if let Some(free) = left {
            *permits = Permits { is_used: 1, free };
        }
        left.is_some()
    }

    fn give(&self, mut permits: Writer<'_, '_, '_, P, Permits>) -> Result<(), Error> {
        let free = self.free(*permits).checked_add(1);
        let free = free.ok_or(Error::Invalid(Invalid::Permits))?;
        *permits = Permits { is_used: 1, free };
        Ok(())
    }
}
