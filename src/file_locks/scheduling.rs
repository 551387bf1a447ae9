//! Which requests wait, and when each is served.
//!
//! As in the kernel a request conflicts with locks that are held, and never with requests that wait: a
//! reader does not wait for a writer that only waits, and a holder may take more that is free. Requests
//! that wait are tried in the order in which they came.

use super::wait_queue::{FREE, Operation, State, WaitingRequest};
use super::{LockTable, Owner, Range, SetOutcome, SpaceKind};
use crate::Vmid;
use crate::error::errno;
use crate::store::NONE;
use crate::wire::{Answer, LockKind};

impl LockTable<'_> {
    /// Has the request wait for its lock.
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
        let place = self.enqueue(waiting)?;
        // Only processes are known to wait with all they hold: not who has an open file.
        let is_process = matches!(owner, Owner::Process { .. });
        if is_process && self.would_deadlock(place) {
            self.unlink(place);
            self.waits.places.free(place);
            return Err(errno::EDEADLK);
        }
        Ok(())
    }

    /// Has the request wait until the file that is lent has come back, and recalls that.
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

    /// Has those who were held up go on: the file is here again.
    pub(super) fn resume_deferred(&mut self, file: u32) {
        loop {
            let place = self.space(file, SpaceKind::Deferred).first_waiting;
            if place == NONE {
                return;
            }
            let WaitingRequest {
                from,
                seq,
                owner,
                range,
                operation,
                ..
            } = *self.waits.at(place);
            self.unlink(place);
            self.waits.places.free(place);
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
            // The place that was given back is there yet: nobody else waits for anything now.
            if let Some(place) = self.waits.places.alloc() {
                self.waits.change(place, |free| {
                    *free = WaitingRequest { from, seq, ..FREE };
                });
                self.enqueue_completion(place, answer);
            }
        }
    }

    /// Serves the requests that wait on that file, in order, as far as no lock conflicts with them any
    /// more. The file may be unused then, and is to be dropped by the caller.
    pub(super) fn grant_waiting(&mut self, file: u32, kind: SpaceKind) {
        loop {
            let mut has_released = false;
            let mut at = self.space(file, kind).first_waiting;
            while at != NONE {
                let next = self.waits.at(at).next;
                has_released |= self.try_grant(at);
                at = next;
            }
            // An owner that had a lock to write and now has one to read lets earlier requests in, too.
            if !has_released {
                return;
            }
        }
    }

    /// Serves a request that waits, if no lock conflicts with it. Returns whether others may have more
    /// than before.
    fn try_grant(&mut self, place: u32) -> bool {
        if self.is_blocked(place) {
            return false;
        }
        let WaitingRequest {
            file,
            owner,
            range,
            operation,
            ..
        } = *self.waits.at(place);
        let locked = self.grant(file, owner, range, operation.is_write());
        self.complete(place, locked.map(drop));
        locked == Ok(true)
    }

    /// Whether a lock that is held conflicts with the request.
    pub(super) fn is_blocked(&self, place: u32) -> bool {
        let WaitingRequest {
            file,
            owner,
            range,
            operation,
            ..
        } = *self.waits.at(place);
        let mine = self.find_holder(owner, file).unwrap_or(NONE);
        self.find_conflict(file, owner.space(), range, operation.is_write(), mine)
            .is_some()
    }
}
