//! The waiting requests that are to be tried, because the lock that blocked them was removed. They
//! are tried in rounds, each in the order of arrival: a request that becomes a candidate after later
//! ones were tried has its turn in the next round. An operation tries a limited number; the others stay
//! candidates, and are tried in portions.

use super::LockTable;
use crate::invariant::Count;
use crate::store::{Arena, NONE, Table, bytes_for, image};

/// A heap of requests, the next one to try on top.
pub(super) struct Candidates<'m> {
    heap: Table<'m, u32>,
    count: u32,
    /// The round and the arrival of the request that was tried last.
    last_round: u32,
    last_arrival: u64,
}

image!(Candidates<'_> {
    fields { count, last_round, last_arrival }
    tables { heap: *count as usize => NONE }
    valid { *count as usize <= heap.len() }
});

impl<'m> Candidates<'m> {
    pub(super) const fn bytes(capacity: usize) -> usize {
        bytes_for::<u32>(capacity)
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize) -> Self {
        Candidates {
            heap: arena.alloc_filled(capacity, &NONE),
            count: 0,
            last_round: 0,
            last_arrival: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the numbers that determine the order of the requests that come next.
    pub(super) fn rounds(&self) -> (u32, u64) {
        (self.last_round, self.last_arrival)
    }

    /// Returns true if each candidate is at its place, for entries that may be wrong.
    pub(super) fn is_valid(&self, place_of: impl Fn(u32) -> u32) -> bool {
        let heap = self.heap.get(..self.count as usize);
        heap.is_some_and(|heap| {
            let mut places = (0_u32..).zip(heap);
            places.all(|(place, slot)| place_of(*slot) == place)
        })
    }

    fn at(&self, place: u32) -> u32 {
        self.heap.get(place as usize).copied().unwrap_or(NONE)
    }

    fn set(&mut self, place: u32, request: u32) {
        if let Some(entry) = self.heap.get_mut(place as usize) {
            *entry = request;
        }
    }
}

impl LockTable<'_> {
    /// Makes the requests that the lock blocked candidates. The lock is removed.
    pub(super) fn unblock_requests(&mut self, lock: u32) {
        let mut slot = self.trees.at(lock).first_blocked;
        while slot != NONE {
            let next = self.waits.at(slot).next;
            self.add_candidate(slot);
            slot = next;
        }
    }

    fn add_candidate(&mut self, slot: u32) {
        let Candidates {
            last_round: round,
            last_arrival: last,
            ..
        } = self.candidates;
        self.waits.change(slot, |waiting| {
            (waiting.blocker, waiting.prev, waiting.next) = (NONE, NONE, NONE);
            waiting.round = if waiting.arrival > last {
                round
            } else {
                round.plus(1)
            };
        });
        let place = self.candidates.count;
        self.candidates.count = place.plus(1);
        self.sift_up(place, slot);
    }

    /// Puts the request at the place, or above it.
    fn sift_up(&mut self, place: u32, slot: u32) {
        let mut place = place;
        while let Some(above) = place.checked_sub(1) {
            let above = above / 2;
            let parent = self.candidates.at(above);
            if self.turn(parent) < self.turn(slot) {
                break;
            }
            self.place_candidate(place, parent);
            place = above;
        }
        self.place_candidate(place, slot);
    }

    fn place_candidate(&mut self, place: u32, slot: u32) {
        self.candidates.set(place, slot);
        self.waits.change(slot, |waiting| waiting.place = place);
    }

    /// Removes a request from the candidates, if it is one.
    pub(super) fn remove_candidate(&mut self, slot: u32) {
        let place = self.waits.at(slot).place;
        let Some(count) = self
            .candidates
            .count
            .checked_sub(1)
            .filter(|_| place != NONE)
        else {
            return;
        };
        self.candidates.count = count;
        self.waits.change(slot, |waiting| waiting.place = NONE);
        let moved = self.candidates.at(count);
        if moved != slot {
            self.sift_down(place, moved);
            let place = self.waits.at(moved).place;
            self.sift_up(place, moved);
        }
    }

    /// Returns the candidate that is to be tried next.
    pub(super) fn first_candidate(&self) -> Option<u32> {
        (!self.candidates.is_empty()).then(|| self.candidates.at(0))
    }

    /// Returns whether there is a candidate. If there is none, the next candidate begins the first round.
    pub(super) fn has_candidates(&mut self) -> bool {
        let has_any = !self.candidates.is_empty();
        if !has_any {
            (self.candidates.last_round, self.candidates.last_arrival) = (0, 0);
        }
        has_any
    }

    /// Takes out the candidate that is to be tried next.
    pub(super) fn next_candidate(&mut self) -> Option<u32> {
        let first = self.first_candidate()?;
        let turn = self.turn(first);
        self.remove_candidate(first);
        (self.candidates.last_round, self.candidates.last_arrival) = turn;
        Some(first)
    }

    /// Puts the request at the place, or below it.
    fn sift_down(&mut self, place: u32, moved: u32) {
        let count = self.candidates.count;
        let mut place = place;
        loop {
            let left = (place << 1) | 1;
            let right = left.plus(1);
            if left >= count {
                break;
            }
            let (left_slot, right_slot) = (self.candidates.at(left), self.candidates.at(right));
            let (below, child) = if right < count && self.turn(right_slot) < self.turn(left_slot) {
                (right, right_slot)
            } else {
                (left, left_slot)
            };
            if self.turn(moved) < self.turn(child) {
                break;
            }
            self.place_candidate(place, child);
            place = below;
        }
        self.place_candidate(place, moved);
    }

    /// Returns the round and the arrival of a request.
    fn turn(&self, slot: u32) -> (u32, u64) {
        let waiting = self.waits.at(slot);
        (waiting.round, waiting.arrival)
    }
}
