//! Deadlock detection.
//!
//! A request waits for the holders of the locks that conflict with it, so a deadlock is a cycle of
//! holders. The search goes from a new request to the holders of the locks that conflict with it,
//! and on through the requests of these holders.

use super::wait_queue::State;
use super::{LockTable, Owner};
use crate::store::NONE;

impl LockTable<'_> {
    /// Whether the request waits for its own owner, through other processes that wait.
    pub(super) fn would_deadlock(&mut self, from: u32) -> bool {
        let owner = self.waits.at(from).owner;
        self.waits.last_search = self.waits.last_search.wrapping_add(1);
        let search = self.waits.last_search;
        let mut remaining = 0;
        self.visit(from, search, &mut remaining);
        while remaining > 0 {
            remaining = remaining.saturating_sub(1);
            let Some(slot) = self.waits.pending_visits.get(remaining).copied() else {
                break;
            };
            let waiting = *self.waits.at(slot);
            let space = self.space(waiting.file, waiting.owner.space());
            let mine = self
                .find_holder(waiting.owner, waiting.file)
                .unwrap_or(NONE);
            let reads = if waiting.operation.is_write() {
                space.reads
            } else {
                NONE
            };
            for root in [space.writes, reads] {
                let mut after = NONE;
                while let Some(lock) = self
                    .trees
                    .next_overlapping(root, waiting.range, mine, after)
                {
                    after = lock;
                    let holder = self.holder_at(self.trees.at(lock).holder).owner;
                    if holder == owner {
                        return true;
                    }
                    if matches!(holder, Owner::Process { .. }) {
                        self.visit_requests_of(holder, search, &mut remaining);
                    }
                }
            }
        }
        false
    }

    fn visit_requests_of(&mut self, owner: Owner, search: u32, remaining: &mut usize) {
        for slot in 0..self.waits.slots.high_water() {
            let waiting = self.waits.at(slot);
            if waiting.state == State::Waiting && waiting.owner == owner {
                self.visit(slot, search, remaining);
            }
        }
    }

    /// Adds a request to those that the search has still to visit, at most once for each search.
    fn visit(&mut self, slot: u32, search: u32, remaining: &mut usize) {
        if self.waits.at(slot).visited_by == search {
            return;
        }
        self.waits
            .change(slot, |waiting| waiting.visited_by = search);
        if let Some(next) = self.waits.pending_visits.get_mut(*remaining) {
            *next = slot;
            *remaining = remaining.saturating_add(1);
        }
    }
}
