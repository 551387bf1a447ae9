//! The shared value.

use std::time::Duration;

use libos_ipc::Wait;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The greatest number of workers.
pub(crate) const MAX_WORKERS: usize = 32;

/// The number of entries in the ring.
const RING_LENGTH: usize = 32;

/// The limit of every wait: a wait that takes longer is a fault.
pub(crate) const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(20));

/// The number of the value's sync handle in all processes.
pub(crate) const HANDLE: u64 = 1;

/// An increment in the ring.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Entry {
    worker: u64,
    /// The number of increments by this worker, this one included.
    number: u64,
}

/// The shared value.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Value {
    /// The number of increments by all workers.
    pub(crate) counter: u64,
    /// The number of increments by each worker.
    pub(crate) by_worker: [u64; MAX_WORKERS],
    /// The last increments.
    ring: [Entry; RING_LENGTH],
}

impl Value {
    pub(crate) fn increment(&mut self, worker: usize) {
        self.counter += 1;
        self.by_worker[worker] += 1;
        self.ring[ring_index(self.counter)] = Entry {
            worker: worker as u64,
            number: self.by_worker[worker],
        };
    }

    /// Returns the fault of the value, if it has one.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        if self.counter != self.by_worker.iter().sum::<u64>() {
            return Some("the counter is not the sum of the workers' increments");
        }
        // From the last entry to the first, the numbers of each worker count backwards.
        let mut expected = self.by_worker;
        let in_ring = self.counter.min(RING_LENGTH as u64);
        for number in (self.counter - in_ring + 1..=self.counter).rev() {
            let entry = self.ring[ring_index(number)];
            let worker = usize::try_from(entry.worker).unwrap_or(usize::MAX);
            let Some(expected_number) = expected.get_mut(worker) else {
                return Some("the ring names a worker that does not exist");
            };
            if entry.number != *expected_number {
                return Some("the ring is out of order");
            }
            *expected_number -= 1;
        }
        None
    }
}

/// Returns the index in the ring of the increment with that number.
fn ring_index(number: u64) -> usize {
    usize::try_from(number % RING_LENGTH as u64).unwrap_or(0)
}
