//! The queue of requests that wait for a lock, or for the return of a delegated file.

use super::quotas::WAITING;
use super::{LockTable, Owner, Range};
use crate::Vmid;
use core::cmp::Reverse;
use core::hash::Hash;

use crate::error::Errno;
use crate::store::{
    Arena, Digest, Entry, HashIndex, Malformed, NONE, Payer, Portion, Reader, SlotAllocator, Steps,
    Table, Writer, bytes_for, entry, hash64, image, list_length, total,
};
use crate::wire::{Answer, FileLock, HeldLock, LockKind};

/// A request that waits, or that is complete while its result has not been taken.
#[derive(Clone, Copy, Hash)]
pub(super) struct WaitingRequest {
    pub(super) from: Vmid,
    pub(super) seq: u64,
    pub(super) owner: Owner,
    pub(super) file: u32,
    pub(super) range: Range,
    pub(super) operation: Operation,
    pub(super) state: State,
    /// The number of the request in the order of arrival.
    pub(super) arrival: u64,
    /// A held lock that conflicts with the request; [`NONE`] if the request is still to be tried.
    pub(super) blocker: u32,
    /// The neighbours among the requests that the same lock blocks, among the deferred requests of
    /// the file, or among the completed requests.
    pub(super) prev: u32,
    pub(super) next: u32,
    /// The neighbours among the waiting requests of the owner.
    pub(super) prev_of_owner: u32,
    pub(super) next_of_owner: u32,
    /// The place among the [candidates](super::candidates); [`NONE`] if it is none.
    pub(super) place: u32,
    /// The round of the [serving](super::candidates) in which the request is tried.
    pub(super) round: u32,
    /// The number of the last deadlock search that visited the request.
    pub(super) visited_by: u64,
    pub(super) payer: Payer,
}

/// The operation that a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    /// Set or release a lock.
    Set { kind: LockKind, wait: bool },
    /// Find the conflicting lock.
    Get { write: bool },
}

impl Operation {
    pub(super) fn from_lock(lock: &FileLock<'_>) -> Operation {
        Operation::Set {
            kind: lock.kind,
            wait: lock.wait,
        }
    }

    pub(super) fn is_write(self) -> bool {
        match self {
            Operation::Set { kind, .. } => kind == LockKind::Write,
            Operation::Get { write } => write,
        }
    }

    pub(super) fn may_wait(self) -> bool {
        matches!(self, Operation::Set { wait: true, .. })
    }

    /// The answer for a result.
    pub(super) fn answer(self, result: Result<(), Errno>) -> Answer<'static> {
        match self {
            Operation::Set { .. } => Answer::Status(result.map(|()| 0)),
            Operation::Get { .. } => Answer::Lock(result.map(|()| None)),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum State {
    Free,
    /// The request waits for a lock.
    Waiting,
    /// The request waits for the return of a delegated file.
    Deferred,
    Completed(Answer<'static>),
}

/// How many requests with one number one cancellation ends at most.
const SAME_NUMBER: usize = 64;

/// The result of a request that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The member that sent the request.
    pub from: Vmid,
    /// The sequence number of the request.
    pub seq: u64,
    /// The answer for the member: status 0 if the lock is held now.
    pub answer: Answer<'static>,
}

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
    last_arrival: u64,
    /// A waiting owner was granted a lock since the queue was last empty: requests that waited before
    /// may be in a cycle now.
    pub(super) may_have_cycle: bool,
    steps: Steps,
}

entry!(WaitingRequest {
    from,
    seq,
    owner,
    file,
    range,
    operation,
    state,
    arrival,
    blocker,
    prev,
    next,
    prev_of_owner,
    next_of_owner,
    place,
    round,
    visited_by,
    payer,
});

impl Entry for Operation {
    const SIZE: usize = 3;

    fn save(&self, to: &mut Writer<'_>) {
        match self {
            Operation::Set { kind, wait } => (0_u8, (*kind, *wait)).save(to),
            Operation::Get { write } => (1_u8, *write).save(to),
        }
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match u8::load(from)? {
            0 => Ok(Operation::Set {
                kind: Entry::load(from)?,
                wait: Entry::load(from)?,
            }),
            1 => Entry::load(from).map(|write| Operation::Get { write }),
            _ => Err(Malformed),
        }
    }
}

impl Entry for State {
    const SIZE: usize = total!(1_usize, <Result<Option<HeldLock>, Errno>>::SIZE);

    fn save(&self, to: &mut Writer<'_>) {
        match self {
            State::Free => 0_u8.save(to),
            State::Waiting => 1_u8.save(to),
            State::Deferred => 2_u8.save(to),
            State::Completed(Answer::Status(status)) => (3_u8, *status).save(to),
            State::Completed(Answer::Lock(lock)) => (4_u8, *lock).save(to),
            // No request for a lock has another answer.
            State::Completed(_) => 5_u8.save(to),
        }
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match u8::load(from)? {
            0 => State::Free,
            1 => State::Waiting,
            2 => State::Deferred,
            3 => State::Completed(Answer::Status(Entry::load(from)?)),
            4 => State::Completed(Answer::Lock(Entry::load(from)?)),
            _ => return Err(Malformed),
        })
    }
}

image!(WaitQueue<'_> {
    fields { first_completed, last_completed, last_arrival, may_have_cycle }
    tables { waiting: slots.high_water() as usize => FREE }
    parts { slots }
    omitted { by_owner, by_sender, steps }
});

impl<'m> WaitQueue<'m> {
    pub(super) const fn bytes(capacity: usize) -> usize {
        total!(
            bytes_for::<WaitingRequest>(capacity),
            SlotAllocator::bytes(capacity),
            HashIndex::bytes(capacity),
            HashIndex::bytes(capacity),
        )
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize) -> Self {
        WaitQueue {
            waiting: arena.alloc_filled(capacity, FREE),
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

    /// The number of entries that were visited.
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

    /// The first of the owner's requests that wait; [`WaitingRequest::next_of_owner`] leads on.
    pub(super) fn first_of(&self, owner: Owner) -> Option<u32> {
        self.by_owner.find(owner.hash(), |slot| {
            self.at(slot).owner.key().cmp(&owner.key())
        })
    }

    fn find_request(&self, from: Vmid, seq: u64) -> Option<u32> {
        self.by_sender.find_first(hash_sender(from, seq), |slot| {
            let waiting = self.at(slot);
            (waiting.from, waiting.seq).cmp(&(from, seq))
        })
    }

    /// Adds the request to the indexes.
    fn add_to_indexes(&mut self, slot: u32) {
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
    fn remove_from_indexes(&mut self, slot: u32) {
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

fn request_in<'t>(waiting: &'t Table<'_, WaitingRequest>, slot: u32) -> &'t WaitingRequest {
    waiting.get(slot as usize).unwrap_or(&FREE)
}

fn hash_sender(from: Vmid, seq: u64) -> u64 {
    hash64(seq ^ u64::from(from.get()).rotate_left(32))
}

pub(super) const FREE: WaitingRequest = WaitingRequest {
    from: Vmid::LEADER,
    seq: 0,
    owner: Owner::Open(0),
    file: NONE,
    range: (0, 0),
    operation: Operation::Get { write: false },
    state: State::Free,
    arrival: 0,
    blocker: NONE,
    prev: NONE,
    next: NONE,
    prev_of_owner: NONE,
    next_of_owner: NONE,
    round: 0,
    place: NONE,
    visited_by: 0,
    payer: Payer::NOBODY,
};

impl WaitingRequest {
    /// The key in the index of senders: of several requests with one number, the newest is the first.
    fn by_sender(&self) -> (Vmid, u64, Reverse<u64>) {
        (self.from, self.seq, Reverse(self.arrival))
    }

    /// Whether the request waits, and is in the indexes.
    fn is_queued(&self) -> bool {
        matches!(self.state, State::Waiting | State::Deferred)
    }

    /// The open file that the request keeps in use. A query and an unlock keep none: their sender need
    /// not have the open file.
    fn kept_open_file(&self) -> Option<u64> {
        match (self.owner, self.operation) {
            (
                _,
                Operation::Get { .. }
                | Operation::Set {
                    kind: LockKind::Unlock,
                    ..
                },
            )
            | (Owner::Process { .. }, _) => None,
            (Owner::Open(open_file) | Owner::Flock(open_file), _) => Some(open_file),
        }
    }
}

impl LockTable<'_> {
    /// Whether the member may have one more request that waits.
    pub(super) fn may_add_request(&mut self, from: Vmid) -> bool {
        !self.waits.is_full() && self.quotas.may_grow(from, WAITING, 1)
    }

    /// Frees the slot of a request that waits no more.
    pub(super) fn free_request(&mut self, slot: u32) {
        let payer = self.waits.at(slot).payer;
        self.quotas.release(payer, WAITING, 1);
        self.waits.slots.free(slot);
    }

    /// Adds a request. The caller has checked that there is room, and gives the reason of the wait.
    fn add_request(&mut self, waiting: WaitingRequest) -> Result<u32, Errno> {
        let slot = self.waits.slots.alloc().ok_or(Errno::ENOLCK)?;
        self.waits.last_arrival = self.waits.last_arrival.wrapping_add(1);
        let arrival = self.waits.last_arrival;
        let payer = self.quotas.charge(waiting.from, WAITING, 1);
        self.waits.change(slot, |free| {
            *free = WaitingRequest {
                arrival,
                payer,
                ..waiting
            };
        });
        self.waits.add_to_indexes(slot);
        self.adjust_ref_count(waiting.file, 1);
        if let Some(open_file) = waiting.kept_open_file() {
            self.open_files.request_waits(open_file, waiting.from);
        }
        Ok(slot)
    }

    /// Adds a request that the held lock `blocker` conflicts with.
    pub(super) fn enqueue_blocked(
        &mut self,
        waiting: WaitingRequest,
        blocker: u32,
    ) -> Result<u32, Errno> {
        let slot = self.add_request(waiting)?;
        self.block(slot, blocker);
        Ok(slot)
    }

    /// Adds a request at the end of the deferred requests of the file.
    pub(super) fn enqueue_deferred(&mut self, waiting: WaitingRequest) -> Result<(), Errno> {
        let slot = self.add_request(waiting)?;
        let last = self.file_at(waiting.file).last_deferred;
        self.waits.change(slot, |waiting| waiting.prev = last);
        self.waits.change(last, |last| last.next = slot);
        self.change_file(waiting.file, |file| {
            if last == NONE {
                file.first_deferred = slot;
            }
            file.last_deferred = slot;
        });
        Ok(())
    }

    /// Records which held lock conflicts with the request.
    pub(super) fn block(&mut self, slot: u32, blocker: u32) {
        let first = self.trees.at(blocker).first_blocked;
        self.waits.change(slot, |waiting| {
            (waiting.blocker, waiting.prev, waiting.next) = (blocker, NONE, first);
        });
        self.waits.change(first, |first| first.prev = slot);
        self.trees.set_first_blocked(blocker, slot);
    }

    /// Removes the request from the list or queue that it is in.
    pub(super) fn unlink(&mut self, slot: u32) {
        self.remove_candidate(slot);
        let waiting = *self.waits.at(slot);
        let WaitingRequest {
            file, prev, next, ..
        } = waiting;
        self.waits.change(prev, |prev| prev.next = next);
        self.waits.change(next, |next| next.prev = prev);
        if waiting.state == State::Deferred {
            self.change_file(file, |file| {
                if prev == NONE {
                    file.first_deferred = next;
                }
                if next == NONE {
                    file.last_deferred = prev;
                }
            });
        } else if prev == NONE {
            self.trees.set_first_blocked(waiting.blocker, next);
        }
        self.waits.remove_from_indexes(slot);
        self.waits
            .change(slot, |waiting| waiting.state = State::Free);
        self.adjust_ref_count(file, -1);
        self.recharge_file(file, waiting.payer);
        if let Some(open_file) = waiting.kept_open_file() {
            self.open_files.request_ended(open_file, waiting.from);
        }
    }

    /// Records the result of a request, which [`LockTable::take_completion`] returns later.
    pub(super) fn complete(&mut self, slot: u32, result: Result<(), Errno>) {
        let answer = self.waits.at(slot).operation.answer(result);
        self.unlink(slot);
        self.enqueue_completion(slot, answer);
    }

    pub(super) fn enqueue_completion(&mut self, slot: u32, answer: Answer<'static>) {
        let last = self.waits.last_completed;
        self.waits.change(slot, |waiting| {
            waiting.state = State::Completed(answer);
            waiting.next = NONE;
        });
        self.waits.change(last, |last| last.next = slot);
        if last == NONE {
            self.waits.first_completed = slot;
        }
        self.waits.last_completed = slot;
    }

    /// Whether [`LockTable::take_completion`] has a result to return.
    pub fn has_completions(&self) -> bool {
        self.waits.first_completed != NONE
    }

    /// The oldest completed request. It stays until [`LockTable::take_completion`].
    pub fn next_completion(&self) -> Option<Completion> {
        let waiting = self.waits.at(self.waits.first_completed);
        let State::Completed(answer) = waiting.state else {
            return None;
        };
        Some(Completion {
            from: waiting.from,
            seq: waiting.seq,
            answer,
        })
    }

    /// Removes and returns the oldest completed request.
    pub fn take_completion(&mut self) -> Option<Completion> {
        let decided = self.next_completion()?;
        let slot = self.waits.first_completed;
        let next = self.waits.at(slot).next;
        self.waits.first_completed = next;
        if next == NONE {
            self.waits.last_completed = NONE;
        }
        self.waits
            .change(slot, |waiting| waiting.state = State::Free);
        self.free_request(slot);
        Some(decided)
    }

    fn end_request(&mut self, slot: u32, errno: Errno) {
        let file = self.waits.at(slot).file;
        self.complete(slot, Err(errno));
        self.drop_file_if_unused(file);
    }

    /// Ends a portion of the waiting requests of the owner with that error. Returns whether that
    /// was all.
    pub(super) fn cancel_requests_of(
        &mut self,
        owner: Owner,
        errno: Errno,
        portion: &mut Portion,
    ) -> bool {
        while let Some(slot) = self.waits.first_of(owner) {
            if !portion.take_entry() {
                return false;
            }
            self.end_request(slot, errno);
        }
        true
    }

    /// Ends the member's waiting request with that number with that error. A member that has given many
    /// requests one number ends the last of them.
    pub(super) fn cancel_request(&mut self, from: Vmid, seq: u64, errno: Errno) {
        for _ in 0..SAME_NUMBER {
            let Some(slot) = self.waits.find_request(from, seq) else {
                return;
            };
            self.end_request(slot, errno);
        }
    }
}
