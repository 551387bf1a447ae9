//! Barriers.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::super::shared_state::{Shared, Writer};
use crate::error::{Error, Invalid};
use crate::node::{Node, Wait};
use crate::pal::Pal;

/// The value of a barrier.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct State {
    /// The number of parties with which it was first used; 0 before.
    parties: u32,
    /// The number of those that were removed since.
    removed: u32,
    arrived: u32,
    /// The number of times that it has opened.
    opened: u32,
}

impl State {
    /// Counts a party that is removed or that arrives, and opens the barrier if no party is left to arrive. `None` if
    /// that cannot be: other processes have written the state.
    fn count(mut self, parties: u32, removed: u32, arrived: u32) -> Option<State> {
        if self.parties == 0 {
            self.parties = parties;
        }
        self.removed = self.removed.checked_add(removed)?;
        self.arrived = self.arrived.checked_add(arrived)?;
        let needed = parties.checked_sub(self.removed)?;
        let missing = needed.checked_sub(self.arrived)?;
        if missing == 0 && self.arrived > 0 {
            self.arrived = 0;
            self.opened = self.opened.wrapping_add(1);
        }
        (self.parties == parties).then_some(self)
    }
}

/// A barrier that several processes share: it opens when a given number of parties has arrived, and
/// closes behind them for the next time. As `pthread_barrier_wait(3)`; arrival and wait are also
/// separate calls, as those of `std::barrier` in C++.
///
/// # Death
/// A call has its whole effect or none. An arrival is lost with its process if that dies before
/// another process has used the barrier. A party that dies before it arrives never arrives, and the
/// others wait until their limits. A process that learns of the death calls [`Barrier::remove_party`].
///
/// # Cost
/// An arrival is one hand-over of a shared value. The one that opens the barrier has the leases of
/// all that wait revoked, and each of them reads the value once.
pub struct Barrier<'n, 'm, P: Pal> {
    state: Shared<'n, 'm, P, State>,
    parties: u32,
}

/// The arrival of a party at a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the party has arrived, but it has not waited for the others"]
pub struct Arrival {
    opened: u32,
    is_last: bool,
}

impl Arrival {
    /// Returns true if this party was the last one, and has opened the barrier:
    /// `PTHREAD_BARRIER_SERIAL_THREAD`.
    pub const fn is_last(&self) -> bool {
        self.is_last
    }
}

/// # Shared values: barriers
impl<'m, P: Pal> Node<'m, P> {
    /// Opens a barrier of so many parties: the one with that number, or a new one (`None`). It
    /// never blocks.
    ///
    /// # Errors
    /// As [`Node::share`]; [`Error::Invalid`] for no parties.
    pub fn open_barrier(&self, id: Option<u64>, parties: u32) -> Result<Barrier<'_, 'm, P>, Error> {
        if parties == 0 {
            return Err(Error::Invalid(Invalid::Parties));
        }
        Ok(Barrier {
            state: self.share(id)?,
            parties,
        })
    }
}

impl<P: Pal> Barrier<'_, '_, P> {
    /// Returns the number by which other processes open it.
    pub fn id(&self) -> u64 {
        self.state.id()
    }

    /// Like [`Shared::owner_deaths`](crate::Shared::owner_deaths).
    ///
    /// # Errors
    /// As [`Shared::owner_deaths`](crate::Shared::owner_deaths).
    pub fn owner_deaths(&self) -> Result<u32, Error> {
        self.state.owner_deaths()
    }

    /// Arrives, and waits until all parties have arrived. Returns whether this party was the last.
    /// `wait` limits both steps together.
    ///
    /// # Errors
    /// As [`Barrier::arrive`] and [`Barrier::pass`]. A caller that goes on after an error must know
    /// whether it has arrived, so it uses these two calls.
    pub fn wait(&self, wait: Wait<'_>) -> Result<bool, Error> {
        let wait = self.state.node.begin(wait);
        let arrival = self.arrive(wait)?;
        self.pass(arrival, wait)?;
        Ok(arrival.is_last)
    }

    /// Like [`Barrier::wait`]. A dropped future may have arrived.
    ///
    /// # Errors
    /// As [`Barrier::wait`].
    pub async fn wait_async(&self, wait: Wait<'_>) -> Result<bool, Error> {
        let wait = self.state.node.begin(wait);
        let arrival = self.arrive_async(wait).await?;
        self.pass_async(arrival, wait).await?;
        Ok(arrival.is_last)
    }

    /// Arrives without waiting for the others. A party arrives once each time.
    ///
    /// # Errors
    /// As [`Shared::write`](crate::Shared::write); [`Error::Invalid`] if the barrier was opened with
    /// another number of parties, or all were removed. The party has not arrived then.
    pub fn arrive(&self, wait: Wait<'_>) -> Result<Arrival, Error> {
        self.count(self.state.write(wait)?, 0, 1)
    }

    /// Like [`Barrier::arrive`]. A dropped future has not arrived.
    ///
    /// # Errors
    /// As [`Barrier::arrive`].
    pub async fn arrive_async(&self, wait: Wait<'_>) -> Result<Arrival, Error> {
        self.count(self.state.write_async(wait).await?, 0, 1)
    }

    /// Waits until all parties have arrived. After a failure the caller may call it again with the
    /// same arrival.
    ///
    /// # Errors
    /// As [`Shared::wait_for`](crate::Shared::wait_for).
    pub fn pass(&self, arrival: Arrival, wait: Wait<'_>) -> Result<(), Error> {
        let wait = self.state.node.begin(wait);
        let is_open = |state: &State| state.opened != arrival.opened;
        // The death of an owner ends a wait, too.
        while !is_open(&*self.state.wait_for(wait, is_open)?) {}
        Ok(())
    }

    /// Like [`Barrier::pass`].
    ///
    /// # Errors
    /// As [`Barrier::pass`].
    pub async fn pass_async(&self, arrival: Arrival, wait: Wait<'_>) -> Result<(), Error> {
        let wait = self.state.node.begin(wait);
        let is_open = |state: &State| state.opened != arrival.opened;
        while !is_open(&*self.state.wait_for_async(wait, is_open).await?) {}
        Ok(())
    }

    /// Removes a party that has not arrived this time, for instance because it has died: from now
    /// on one party less is needed. Opens the barrier if the others have arrived.
    ///
    /// # Errors
    /// As [`Barrier::arrive`]. No party is removed then.
    pub fn remove_party(&self, wait: Wait<'_>) -> Result<(), Error> {
        self.count(self.state.write(wait)?, 1, 0).map(drop)
    }

    /// Like [`Barrier::remove_party`]. A dropped future has removed no party.
    ///
    /// # Errors
    /// As [`Barrier::remove_party`].
    pub async fn remove_party_async(&self, wait: Wait<'_>) -> Result<(), Error> {
        self.count(self.state.write_async(wait).await?, 1, 0)
            .map(drop)
    }

    fn count(
        &self,
        mut state: Writer<'_, '_, '_, P, State>,
        removed: u32,
        arrived: u32,
    ) -> Result<Arrival, Error> {
        let (now, opened) = (*state, state.opened);
        let next = now.count(self.parties, removed, arrived);
        *state = next.ok_or(Error::Invalid(Invalid::Parties))?;
        let is_last = state.opened != opened;
        Ok(Arrival { opened, is_last })
    }
}
