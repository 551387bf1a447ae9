//! The queue of requests that wait for a lock, or for the return of a delegated file.

use super::{LockTable, Owner, Range, SpaceKind};
use crate::Vmid;
use crate::error::{Error, errno};
use crate::store::{Arena, NONE, SlotAllocator, Table, bytes_for};
use crate::wire::{Answer, FileLock, LockAnswer, LockKind};

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
    pub(super) prev: u32,
    pub(super) next: u32,
    /// The number of the last deadlock search that visited the request.
    pub(super) visited_by: u32,
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
    pub(super) fn answer(self, result: Result<(), i32>) -> Answer<'static> {
        let status = result.err().map_or(0, i32::saturating_neg);
        match self {
            Operation::Set { .. } => Answer::Status(status),
            Operation::Get { .. } => Answer::Lock(LockAnswer::from_status(status)),
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
    pub(super) last_search: u32,
    /// The requests that a deadlock search has still to visit.
    pub(super) pending_visits: Table<'m, u32>,
    /// One bit for each owner that waits, chosen by a hash. Bits are cleared when nobody waits.
    waiting_owners: u64,
    /// An owner that waits has been granted a lock since bits were cleared: requests that waited
    /// before may be in a cycle now.
    pub(super) may_have_cycle: bool,
}

impl<'m> WaitQueue<'m> {
    pub(super) const fn bytes(capacity: usize) -> usize {
        bytes_for::<WaitingRequest>(capacity)
            .saturating_add(SlotAllocator::bytes(capacity))
            .saturating_add(bytes_for::<u32>(capacity))
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        Ok(WaitQueue {
            waiting: arena.alloc_table(capacity, |_| Ok(FREE))?,
            slots: SlotAllocator::new(arena, capacity)?,
            first_completed: NONE,
            last_completed: NONE,
            last_search: 0,
            pending_visits: arena.alloc_table(capacity, |_| Ok(NONE))?,
            waiting_owners: 0,
            may_have_cycle: false,
        })
    }

    /// Records that the owner waits.
    fn record_waiting(&mut self, owner: Owner) {
        if self.slots.in_use() <= 1 {
            self.waiting_owners = 0;
            self.may_have_cycle = false;
        }
        self.waiting_owners |= owner_bit(owner);
    }

    /// Records that the owner is granted a lock. If the owner also waits, in another thread of the
    /// process, that may close a cycle among requests that wait already.
    pub(super) fn record_granted(&mut self, owner: Owner) {
        let is_process = matches!(owner, Owner::Process { .. });
        self.may_have_cycle |= is_process && self.waiting_owners & owner_bit(owner) != 0;
    }

    pub(super) fn at(&self, slot: u32) -> &WaitingRequest {
        self.waiting.get(slot as usize).unwrap_or(&FREE)
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

/// The owner's bit of a set of 64: the upper six bits of its hash.
fn owner_bit(owner: Owner) -> u64 {
    1 << (owner.hash() >> 58)
}

pub(super) const FREE: WaitingRequest = WaitingRequest {
    from: Vmid::LEADER,
    seq: 0,
    owner: Owner::Open(0),
    file: NONE,
    range: (0, 0),
    operation: Operation::Get { write: false },
    state: State::Free,
    prev: NONE,
    next: NONE,
    visited_by: 0,
};

impl WaitingRequest {
    /// The open file that the request keeps in use. A query keeps none.
    fn kept_open_file(&self) -> Option<u64> {
        match (self.owner, self.operation) {
            (Owner::Open(open_file) | Owner::Flock(open_file), Operation::Set { .. }) => {
                Some(open_file)
            }
            _ => None,
        }
    }

    /// The queue that the request is in.
    fn queue_kind(&self) -> SpaceKind {
        if self.state == State::Deferred {
            SpaceKind::Deferred
        } else {
            self.owner.space()
        }
    }
}

impl LockTable<'_> {
    /// Adds a request at the end of its queue.
    pub(super) fn enqueue(&mut self, waiting: WaitingRequest) -> Result<u32, i32> {
        let slot = self.waits.slots.alloc().ok_or(errno::ENOLCK)?;
        self.waits.record_waiting(waiting.owner);
        let (file, queue) = (waiting.file, waiting.queue_kind());
        let last = self.space(file, queue).last_waiting;
        self.waits.change(slot, |free| {
            *free = WaitingRequest {
                prev: last,
                ..waiting
            };
        });
        self.waits.change(last, |last| last.next = slot);
        self.change_space(file, queue, |space| {
            if last == NONE {
                space.first_waiting = slot;
            }
            space.last_waiting = slot;
        });
        self.adjust_ref_count(file, 1);
        if let Some(open_file) = waiting.kept_open_file() {
            self.open_files.request_waits(open_file, waiting.from);
        }
        Ok(slot)
    }

    /// Removes the request from the queue of its file.
    pub(super) fn unlink(&mut self, slot: u32) {
        let waiting = *self.waits.at(slot);
        let WaitingRequest {
            file, prev, next, ..
        } = waiting;
        self.waits.change(prev, |prev| prev.next = next);
        self.waits.change(next, |next| next.prev = prev);
        self.change_space(file, waiting.queue_kind(), |space| {
            if prev == NONE {
                space.first_waiting = next;
            }
            if next == NONE {
                space.last_waiting = prev;
            }
        });
        self.waits
            .change(slot, |waiting| waiting.state = State::Free);
        self.adjust_ref_count(file, -1);
        if let Some(open_file) = waiting.kept_open_file() {
            self.open_files.request_ended(open_file, waiting.from);
        }
    }

    /// Records the result of a request, which [`LockTable::take_completion`] returns later.
    pub(super) fn complete(&mut self, slot: u32, result: Result<(), i32>) {
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

    /// Whether the leader has completions or recalls to send.
    pub fn has_output(&self) -> bool {
        self.has_completions() || self.has_recalls()
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
        self.waits.slots.free(slot);
        Some(decided)
    }

    /// Ends the matching requests with that error.
    pub(super) fn cancel_matching(&mut self, errno: i32, fits: impl Fn(&WaitingRequest) -> bool) {
        for slot in 0..self.waits.slots.high_water() {
            let waiting = *self.waits.at(slot);
            let waits = matches!(waiting.state, State::Waiting | State::Deferred);
            if waits && fits(&waiting) {
                self.complete(slot, Err(errno));
                self.drop_file_if_unused(waiting.file);
            }
        }
    }

    /// Drops the requests of a member that is gone, without a completion.
    pub(super) fn drop_requests_of(&mut self, vmid: Vmid) {
        for slot in 0..self.waits.slots.high_water() {
            let waiting = *self.waits.at(slot);
            let waits = matches!(waiting.state, State::Waiting | State::Deferred);
            if waits && waiting.from == vmid {
                self.unlink(slot);
                self.waits.slots.free(slot);
                self.drop_file_if_unused(waiting.file);
            }
        }
    }
}
