//! Deadlock detection.
//!
//! A request waits for the holders of the locks that conflict with it, so a deadlock is a cycle of
//! holders. The search goes from a new request to the holders of the locks that conflict with it,
//! and on through the requests of these holders. It visits the requests of each owner once, and
//! each subtree of locks once: a subtree all of whose locks were visited is marked. A search ends
//! without result when the operation has used up its [`SEARCH_STEPS`], and then the request waits.

use super::interval_tree::{TreeKind, TreeLink};
use super::waiting_request::RequestState;
use super::{LockLimits, LockTable, Owner, Range};
use crate::invariant::Count;
use crate::store::{Arena, NONE, Table, bytes_for, image, memory_sum};

/// How many locks and requests the searches of one operation visit at most.
const SEARCH_STEPS: u32 = 4096;

/// How many waiting requests one operation tries at most.
const TRIES: u32 = 64;

/// The state of the searches. The search follows waits of processes only: the table does not know
/// which processes use an open file.
pub(super) struct DeadlockSearch<'m> {
    /// The number of the last search.
    number: u64,
    /// For each lock the number of the last search that visited all locks of its subtree.
    subtrees: Table<'m, u64>,
    /// The requests that are still to be visited.
    pending: Table<'m, u32>,
    pending_count: u32,
    /// How many steps the searches of this operation may still take.
    steps: u32,
    /// How many waiting requests this operation may still try.
    tries: u32,
}

image!(DeadlockSearch<'_> {
    fields { number, steps, tries }
    omitted { subtrees, pending, pending_count }
});

impl<'m> DeadlockSearch<'m> {
    pub(super) const fn bytes(limits: &LockLimits) -> usize {
        memory_sum!(
            bytes_for::<u64>(limits.locks),
            bytes_for::<u32>(limits.waiting)
        )
    }

    pub(super) fn new(arena: &mut Arena<'m>, limits: &LockLimits) -> Self {
        DeadlockSearch {
            number: 0,
            subtrees: arena.alloc_filled(limits.locks, &0),
            pending: arena.alloc_filled(limits.waiting, &NONE),
            pending_count: 0,
            steps: SEARCH_STEPS,
            tries: TRIES,
        }
    }

    /// Begins an operation.
    pub(super) fn begin(&mut self) {
        self.steps = SEARCH_STEPS;
        self.tries = TRIES;
    }

    /// Returns true if this operation may try one more waiting request.
    pub(super) fn take_try(&mut self) -> bool {
        let is_left = self.tries > 0;
        if is_left {
            self.tries.decrement();
        }
        is_left
    }

    /// Forgets what earlier searches have visited.
    pub(super) fn complete_image(&mut self) {
        self.subtrees.fill(0);
        self.pending_count = 0;
    }

    fn take_step(&mut self) -> Result<(), SearchEnd> {
        self.steps = self.steps.checked_sub(1).ok_or(SearchEnd::OutOfSteps)?;
        Ok(())
    }

    fn push(&mut self, request: u32) {
        if let Some(free) = self.pending.get_mut(self.pending_count as usize) {
            *free = request;
            self.pending_count.increment();
        }
    }

    fn pop(&mut self) -> Option<u32> {
        self.pending_count = self.pending_count.checked_sub(1)?;
        self.pending.get(self.pending_count as usize).copied()
    }
}

/// Why a search ends before it has visited everything.
enum SearchEnd {
    /// The search has reached the owner of the first request again.
    Cycle,
    /// The search has used up its steps.
    OutOfSteps,
}

/// The state of a search: the locks to visit, and the owner of the first request.
struct Visit {
    /// The owner of the first request.
    owner: Owner,
    /// Whether the request that waits for the locks is the first one.
    is_first: bool,
    range: Range,
    /// The holder of the lock that was visited last.
    last_holder: u32,
}

impl LockTable<'_> {
    /// Returns true if the request waits for its own owner, through other processes that wait, as
    /// far as the search gets with the steps that are left of this operation.
    pub(super) fn would_deadlock(&mut self, from: u32) -> bool {
        let owner = self.waits.at(from).owner;
        if !matches!(owner, Owner::Process { .. }) {
            return false;
        }
        self.search.number = self.search.number.wrapping_add(1);
        self.search.pending_count = 0;
        self.search.push(from);
        while let Some(slot) = self.search.pop() {
            let waiting = *self.waits.at(slot);
            let space = self.space(waiting.file, waiting.owner.space());
            let mut visit = Visit {
                owner,
                is_first: slot == from,
                range: waiting.range,
                last_holder: NONE,
            };
            let mut visited = self.visit_locks(space.writes, &mut visit);
            if visited.is_ok() && waiting.command.is_write() {
                visited = self.visit_locks(space.reads, &mut visit);
            }
            if let Err(end) = visited {
                return matches!(end, SearchEnd::Cycle);
            }
        }
        false
    }

    /// Visits the holders of the locks in the range, as far as they are in subtrees that the search
    /// has not visited yet. Returns whether all locks of the subtree are in the range.
    fn visit_locks(&mut self, at: u32, visit: &mut Visit) -> Result<bool, SearchEnd> {
        if at == NONE || self.search.subtrees.get(at as usize) == Some(&self.search.number) {
            return Ok(true);
        }
        self.search.take_step()?;
        let lock = *self.trees.at(at);
        if !lock.reach.extends_to(visit.range.0, NONE) {
            return Ok(false);
        }
        let TreeLink { left, right, .. } = *lock.link(TreeKind::File);
        let mut is_whole = self.visit_locks(left, visit)?;
        if lock.start > visit.range.1 {
            return Ok(false);
        }
        if lock.end >= visit.range.0 {
            self.visit_holder(lock.holder, visit)?;
        } else {
            is_whole = false;
        }
        is_whole &= self.visit_locks(right, visit)?;
        // The owner's own locks do not block its first request, but they may block others.
        if is_whole
            && !visit.is_first
            && let Some(visited_by) = self.search.subtrees.get_mut(at as usize)
        {
            *visited_by = self.search.number;
        }
        Ok(is_whole)
    }

    /// Visits the requests of a holder.
    fn visit_holder(&mut self, holder: u32, visit: &mut Visit) -> Result<(), SearchEnd> {
        if holder == visit.last_holder {
            return Ok(());
        }
        visit.last_holder = holder;
        self.search.take_step()?;
        let owner = self.holder_at(holder).owner;
        if owner == visit.owner {
            return if visit.is_first {
                Ok(())
            } else {
                Err(SearchEnd::Cycle)
            };
        }
        if !matches!(owner, Owner::Process { .. }) {
            return Ok(());
        }
        let mut next = self.waits.first_of(owner);
        while let Some(slot) = next {
            let waiting = *self.waits.at(slot);
            if waiting.visited_by == self.search.number {
                return Ok(());
            }
            self.search.take_step()?;
            let number = self.search.number;
            self.waits
                .change(slot, |waiting| waiting.visited_by = number);
            if matches!(waiting.state, RequestState::Waiting) {
                self.search.push(slot);
            }
            next = Some(waiting.next_of_owner).filter(|next| *next != NONE);
        }
        Ok(())
    }
}
