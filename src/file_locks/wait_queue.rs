//! The queue of requests that wait for a lock, or for the return of a delegated file.

use super::Owner;
use super::waiting_request::{FREE, WaitingRequest};
use crate::Vmid;
use core::hash::Hash;

use crate::store::{
    Arena, Digest, HashIndex, NONE, SlotAllocator, Steps, Table, bytes_for, hash64, image,
    list_length, memory_sum,
};

/// A fixed number of waiting requests.
pub(super) struct WaitQueue<'m> {
    pub(super) waiting: Table<'m, WaitingRequest>,
    pub(super) slots: SlotAllocator<'m>,
    /// The completed requests, in the order of completion, linked by `next`.
    pub(super) first_completed: u32,
    pub(super) last_completed: u32,
    /// The first waiting request of each owner.
    by_owner: HashIndex<'m>,
    by_sender: HashIndex<'m>,
    /// The number of the last request in the order of arrival.
    pub(super) last_arrival: u64,
    /// A waiting owner was granted a lock since the queue was last empty: requests that waited before
    /// may be in a cycle now.
    pub(super) may_have_cycle: bool,
    steps: Steps,
}

image!(WaitQueue<'_> {
    fields { first_completed, last_completed, last_arrival, may_have_cycle }
    tables { waiting: slots.high_water() as usize => FREE }
    parts { slots }
    omitted { by_owner, by_sender, steps }
});

impl<'m> WaitQueue<'m> {
    pub(super) const fn bytes(capacity: usize) -> usize {
        memory_sum!(
            bytes_for::<WaitingRequest>(capacity),
            SlotAllocator::bytes(capacity),
            HashIndex::bytes(capacity),
            HashIndex::bytes(capacity),
        )
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize) -> Self {
        WaitQueue {
            waiting: arena.alloc_filled(capacity, &FREE),
            slots: SlotAllocator::new(arena, capacity),
            first_completed: NONE,
            last_completed: NONE,
            by_owner: HashIndex::new(arena, capacity),
            by_sender: HashIndex::new(arena, capacity),
            last_arrival: 0,
            may_have_cycle: false,
            steps: Steps::default(),
        }
    }

    pub(super) fn digest(&self, digest: &mut Digest) {
        self.slots.digest(digest);
        digest.add_all(self.waiting.iter().take(self.slots.high_water() as usize));
        (self.first_completed, self.last_completed).hash(digest);
        (self.last_arrival, self.may_have_cycle).hash(digest);
    }

    /// Returns the number of entries that were visited.
    #[cfg(debug_assertions)]
    pub(super) fn steps(&self) -> u64 {
        let indexes = self.by_owner.steps().wrapping_add(self.by_sender.steps());
        self.steps.get().wrapping_add(indexes)
    }

    /// Makes what is not in an image. Returns false if the image was none.
    pub(super) fn complete_image(&mut self) -> bool {
        self.by_owner.clear();
        self.by_sender.clear();
        if !self.slots.is_valid() || !self.has_valid_lists() {
            return false;
        }
        for slot in 0..self.slots.high_water() {
            let request = *self.at(slot);
            if !request.is_queued() {
                continue;
            }
            if request.prev_of_owner == NONE {
                self.insert_first_of(request.owner, slot);
            }
            self.insert_by_sender(slot);
        }
        true
    }

    /// Returns true if the neighbours in all lists agree, for entries that may be wrong.
    fn has_valid_lists(&self) -> bool {
        let next = |slot: u32| self.waiting.get(slot as usize).map(|request| request.next);
        let completed = list_length(self.first_completed, self.waiting.len(), next);
        let is_right = |(slot, request): (u32, &WaitingRequest)| {
            let has_prev = |next: u32, prev_of: fn(&WaitingRequest) -> u32| {
                next == NONE || prev_of(self.at(next)) == slot && self.at(next).is_queued()
            };
            !request.is_queued()
                || has_prev(request.next, |next| next.prev)
                    && has_prev(request.next_of_owner, |next| next.prev_of_owner)
        };
        let queued = self.waiting.iter().filter(|request| request.is_queued());
        let queued = queued.count();
        // No list is a ring: all requests are reached from those that are the first of a list.
        let are_reached = |prev_of: fn(&WaitingRequest) -> u32,
                           next_of: fn(&WaitingRequest) -> u32| {
            let slots = (0..).zip(self.waiting.iter());
            let firsts =
                slots.filter(|(_, request)| request.is_queued() && prev_of(request) == NONE);
            let next = |slot: u32| self.waiting.get(slot as usize).map(next_of);
            let lengths = firsts.map(|(slot, _)| list_length(slot, queued, next));
            lengths.sum::<Option<usize>>() == Some(queued)
        };
        completed.is_some()
            && (0..).zip(self.waiting.iter()).all(is_right)
            && are_reached(|request| request.prev, |request| request.next)
            && are_reached(
                |request| request.prev_of_owner,
                |request| request.next_of_owner,
            )
    }

    /// Returns true if that is the first one of a list, or [`NONE`].
    pub(super) fn is_first(&self, slot: u32) -> bool {
        let first = self.waiting.get(slot as usize);
        slot == NONE || first.is_some_and(|first| first.is_queued() && first.prev == NONE)
    }

    /// Returns the first of the owner's requests that wait; [`WaitingRequest::next_of_owner`] leads
    /// on.
    pub(super) fn first_of(&self, owner: Owner) -> Option<u32> {
        self.by_owner.find(owner.hash(), |slot| {
            self.at(slot).owner.key().cmp(&owner.key())
        })
    }

    pub(super) fn find_request(&self, from: Vmid, seq: u64) -> Option<u32> {
        self.by_sender.find_first(hash_sender(from, seq), |slot| {
            let waiting = self.at(slot);
            (waiting.from, waiting.seq).cmp(&(from, seq))
        })
    }

    /// Adds the request to the indexes.
    pub(super) fn add_to_indexes(&mut self, slot: u32) {
        let owner = self.at(slot).owner;
        if self.slots.in_use() <= 1 {
            self.may_have_cycle = false;
        }
        self.insert_by_sender(slot);
        let Some(first) = self.first_of(owner) else {
            self.insert_first_of(owner, slot);
            return;
        };
        let second = self.at(first).next_of_owner;
        self.change(slot, |waiting| {
            (waiting.prev_of_owner, waiting.next_of_owner) = (first, second);
        });
        self.change(first, |first| first.next_of_owner = slot);
        self.change(second, |second| second.prev_of_owner = slot);
    }

    /// Removes the request from the indexes.
    pub(super) fn remove_from_indexes(&mut self, slot: u32) {
        let WaitingRequest {
            owner,
            from,
            seq,
            prev_of_owner: prev,
            next_of_owner: next,
            ..
        } = *self.at(slot);
        let key = self.at(slot).by_sender();
        let waiting = &self.waiting;
        self.by_sender
            .remove(hash_sender(from, seq), slot, &|other| {
                request_in(waiting, other).by_sender().cmp(&key)
            });
        self.change(prev, |prev| prev.next_of_owner = next);
        self.change(next, |next| next.prev_of_owner = prev);
        if prev == NONE {
            let waiting = &self.waiting;
            self.by_owner.remove(owner.hash(), slot, &|other| {
                request_in(waiting, other).owner.key().cmp(&owner.key())
            });
            if next != NONE {
                self.insert_first_of(owner, next);
            }
        }
    }

    fn insert_by_sender(&mut self, slot: u32) {
        let key = self.at(slot).by_sender();
        let hash = hash_sender(key.0, key.1);
        let waiting = &self.waiting;
        self.by_sender.insert(hash, slot, &|other| {
            request_in(waiting, other).by_sender().cmp(&key)
        });
    }

    fn insert_first_of(&mut self, owner: Owner, slot: u32) {
        let waiting = &self.waiting;
        self.by_owner.insert(owner.hash(), slot, &|other| {
            request_in(waiting, other).owner.key().cmp(&owner.key())
        });
    }

    /// Records that the owner is granted a lock. If the owner also waits, in another thread of the
    /// process, that may close a cycle among requests that wait already.
    pub(super) fn record_granted(&mut self, owner: Owner) {
        let is_process = matches!(owner, Owner::Process { .. });
        let may_wait = is_process && self.slots.in_use() > 0;
        self.may_have_cycle |= may_wait && self.first_of(owner).is_some();
    }

    #[inline]
    pub(super) fn at(&self, slot: u32) -> &WaitingRequest {
        self.steps.count();
        request_in(&self.waiting, slot)
    }

    pub(super) fn change(&mut self, slot: u32, change: impl FnOnce(&mut WaitingRequest)) {
        if let Some(waiting) = self.waiting.get_mut(slot as usize) {
            change(waiting);
        }
    }

    pub(super) fn usage(&self) -> (usize, usize) {
        (self.slots.in_use(), self.slots.peak())
    }

    pub(super) fn is_full(&self) -> bool {
        self.slots.remaining() == 0
    }
}

#[cfg_attr(static_library, inline(never))]
fn request_in<'t>(waiting: &'t Table<'_, WaitingRequest>, slot: u32) -> &'t WaitingRequest {
    waiting.get(slot as usize).unwrap_or(&FREE)
}

fn hash_sender(from: Vmid, seq: u64) -> u64 {
    hash64(seq ^ u64::from(from.get()).rotate_left(32))
}
