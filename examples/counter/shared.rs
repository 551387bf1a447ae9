//! The shared value.

use std::time::Duration;

use libos_ipc::Wait;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The largest number of workers.
pub(crate) const WORKERS: usize = 32;

/// The number of increments in the ring.
const RING: usize = 32;

/// The limit of every wait: a wait that takes longer is a fault.
pub(crate) const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(20));

/// The handle's number in all processes.
pub(crate) const HANDLE: u64 = 1;

/// An increment: the worker, and its own count.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Entry {
    worker: u64,
    number: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Value {
    pub(crate) counter: u64,
    /// The increments of each worker.
    pub(crate) by_worker: [u64; WORKERS],
    ring: [Entry; RING],
}

impl Value {
    pub(crate) fn increment(&mut self, worker: usize) {
        self.counter += 1;
        self.by_worker[worker] += 1;
        self.ring[place(self.counter)] = Entry {
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
        let remembered = self.counter.min(RING as u64);
        for at in (self.counter - remembered + 1..=self.counter).rev() {
            let entry = self.ring[place(at)];
            let worker = usize::try_from(entry.worker).unwrap_or(usize::MAX);
            let Some(number) = expected.get_mut(worker) else {
                return Some("the ring names a worker that does not exist");
            };
            if entry.number != *number {
                return Some("the ring is out of order");
            }
            *number -= 1;
        }
        None
    }
}

/// Returns the place of an increment in the ring.
fn place(number: u64) -> usize {
    usize::try_from(number % RING as u64).unwrap_or(0)
}
