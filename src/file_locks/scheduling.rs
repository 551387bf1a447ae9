//! The order in which waiting requests are served.
//!
//! As in the kernel, a request conflicts with locks that are held, and never with requests that
//! wait: a read lock does not wait for a write lock that only waits, and a holder may take further
//! free locks. Waiting requests are tried in the order of their arrival.

use super::wait_queue::{FREE, Operation, State, WaitingRequest};
use super::{LockTable, Owner, Range, SetOutcome, SpaceKind};
use crate::Vmid;
use crate::error::errno;
use crate::store::NONE;
use crate::wire::{Answer, LockKind};

/// How many requests that stay blocked one pass over a queue searches for a deadlock. The kernel
/// searches for each request that it wakes in vain; here the rest waits for the next pass.
const SEARCHES: u32 = 4;

impl LockTable<'_> {
    /// Queues the request until its lock can be granted.
    pub(super) fn wait_for_lock(
        &mut self,
        file: u32,
        owner: Owner,
        range: Range,
        operation: Operation,
        (from, seq): (Vmid, u64),
    ) -> Result<(), i32> {
        let waiting = WaitingRequest {
            from,
            seq,
            owner,
            file,
            range,
            operation,
            state: State::Waiting,
            ..FREE
        };
        let slot = self.enqueue(waiting)?;
        // The search follows waits of processes only: the table does not know which processes use
        // an open file.
        let is_process = matches!(owner, Owner::Process { .. });
        if is_process && self.would_deadlock(slot) {
            self.unlink(slot);
            self.waits.slots.free(slot);
            return Err(errno::EDEADLK);
        }
        Ok(())
    }

    /// Queues the request until the delegated file is returned, and recalls the file.
    pub(super) fn defer(
        &mut self,
        file: u32,
        owner: Owner,
        range: Range,
        (from, seq): (Vmid, u64),
        operation: Operation,
    ) -> Result<SetOutcome, i32> {
        self.enqueue(WaitingRequest {
            from,
            seq,
            owner,
            file,
            range,
            operation,
            state: State::Deferred,
            ..FREE
        })?;
        self.recall(file, from);
        Ok(SetOutcome::Queued)
    }

    /// Handles the deferred requests of a file that has been returned.
    pub(super) fn resume_deferred(&mut self, file: u32) {
        loop {
            let slot = self.space(file, SpaceKind::Deferred).first_waiting;
            if slot == NONE {
                return;
            }
            let WaitingRequest {
                from,
                seq,
                owner,
                range,
                operation,
                ..
            } = *self.waits.at(slot);
            self.unlink(slot);
            self.waits.slots.free(slot);
            let answer = match operation {
                Operation::Get { write } => {
                    Answer::Lock(self.held(file, owner, range, write).into())
                }
                Operation::Set {
                    kind: LockKind::Unlock,
                    ..
                } => operation.answer(self.unlock(file, owner, range)),
                Operation::Set { .. } => {
                    match self.set_on(file, owner, range, (from, seq), operation) {
                        Ok(SetOutcome::Queued) => continue,
                        done => operation.answer(done.map(drop)),
                    }
                }
            };
            // The slot that was freed above is still free: no other request has been queued since.
            if let Some(slot) = self.waits.slots.alloc() {
                self.waits.change(slot, |free| {
                    *free = WaitingRequest { from, seq, ..FREE };
                });
                self.enqueue_completion(slot, answer);
            }
        }
    }

    /// Serves the requests that wait on the file, in order, as far as no held lock conflicts with
    /// them. The file may be unused afterwards; the caller frees it then.
    pub(super) fn grant_waiting(&mut self, file: u32, kind: SpaceKind) {
        let mut searches = SEARCHES;
        loop {
            let mut has_released = false;
            let mut at = self.space(file, kind).first_waiting;
            while at != NONE {
                let next = self.waits.at(at).next;
                has_released |= self.try_grant(at, &mut searches);
                at = next;
            }
            // A waiter that converts its write lock to a read lock can unblock requests earlier in
            // the queue, so the loop runs again.
            if !has_released {
                return;
            }
        }
    }

    /// Serves a waiting request if no held lock conflicts with it. Refuses it if it is in a cycle
    /// that another lock has closed since the request was queued, as the kernel does when it wakes a
    /// request that is blocked again. Returns whether other requests may succeed now that were
    /// blocked before.
    fn try_grant(&mut self, slot: u32, searches: &mut u32) -> bool {
        if self.is_blocked(slot) {
            let is_process = matches!(self.waits.at(slot).owner, Owner::Process { .. });
            if self.waits.may_have_cycle && is_process && *searches > 0 {
                *searches = searches.saturating_sub(1);
                if self.would_deadlock(slot) {
                    self.complete(slot, Err(errno::EDEADLK));
                }
            }
            return false;
        }
        let WaitingRequest {
            file,
            owner,
            range,
            operation,
            ..
        } = *self.waits.at(slot);
        let locked = self.grant(file, owner, range, operation.is_write());
        self.complete(slot, locked.map(drop));
        locked == Ok(true)
    }

    /// Whether a held lock conflicts with the request.
    pub(super) fn is_blocked(&self, slot: u32) -> bool {
        let WaitingRequest {
            file,
            owner,
            range,
            operation,
            ..
        } = *self.waits.at(slot);
        let mine = self.find_holder(owner, file).unwrap_or(NONE);
        self.find_conflict(file, owner.space(), range, operation.is_write(), mine)
            .is_some()
    }
}
