//! Which wait would never end.
//!
//! Each wait is for a holder, so a wait that never ends is a cycle of holders. The search goes from a new
//! request to the holders of the locks that conflict with it, and on through what these wait for.

use super::wait_queue::State;
use super::{Locks, Owner};
use crate::store::NONE;

impl Locks<'_> {
    /// Whether the request waits for its own owner, through other processes that wait.
    pub(super) fn closes_cycle(&mut self, from: u32) -> bool {
        let owner = self.waits.at(from).owner;
        self.waits.search = self.waits.search.wrapping_add(1);
        let search = self.waits.search;
        let mut left = 0;
        self.visit(from, search, &mut left);
        while left > 0 {
            left = left.saturating_sub(1);
            let Some(place) = self.waits.to_visit.get(left).copied() else {
                break;
            };
            let waiting = *self.waits.at(place);
            let space = self.space(waiting.file, waiting.owner.space());
            let mine = self.holder(waiting.owner, waiting.file).unwrap_or(NONE);
            let reads = if waiting.asked.write() {
                space.reads
            } else {
                NONE
            };
            for root in [space.writes, reads] {
                let mut after = NONE;
                while let Some(lock) = self.trees.next_touching(root, waiting.range, mine, after) {
                    after = lock;
                    let holder = self.holder_at(self.trees.at(lock).holder).owner;
                    if holder == owner {
                        return true;
                    }
                    if matches!(holder, Owner::Process { .. }) {
                        self.visit_waiting_of(holder, search, &mut left);
                    }
                }
            }
        }
        false
    }

    fn visit_waiting_of(&mut self, owner: Owner, search: u32, left: &mut usize) {
        for place in 0..self.waits.places.high_water() {
            let waiting = self.waits.at(place);
            if waiting.state == State::Waiting && waiting.owner == owner {
                self.visit(place, search, left);
            }
        }
    }

    /// Puts a request among those a search has still to look at, once.
    fn visit(&mut self, place: u32, search: u32, left: &mut usize) {
        if self.waits.at(place).seen == search {
            return;
        }
        self.waits.change(place, |waiting| waiting.seen = search);
        if let Some(next) = self.waits.to_visit.get_mut(*left) {
            *next = place;
            *left = left.saturating_add(1);
        }
    }
}
