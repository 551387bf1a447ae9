//! The peers that the worker must serve, each at most once.

use crate::invariant::Count;
use crate::store::{Arena, Table};

/// A ring of the slots of peers.
pub(super) struct WorkQueue<'m> {
    ring: Table<'m, u32>,
    first: usize,
    count: usize,
}

impl<'m> WorkQueue<'m> {
    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize) -> Self {
        WorkQueue {
            ring: arena.alloc_filled(capacity, &0),
            first: 0,
            count: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Adds a peer that is not in the queue.
    pub(super) fn push(&mut self, peer: u32) {
        let next = self.first.wrapping_add(self.count);
        let length = self.ring.len();
        if let Some(slot) = next
            .checked_rem(length)
            .and_then(|at| self.ring.get_mut(at))
        {
            *slot = peer;
            self.count.increment();
        }
    }

    pub(super) fn pop(&mut self) -> Option<u32> {
        self.count = self.count.checked_sub(1)?;
        let first = self.first;
        let peer = *self.ring.get(first)?;
        self.first = first.wrapping_add(1).checked_rem(self.ring.len())?;
        Some(peer)
    }
}
