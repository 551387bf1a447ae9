//! Requests begin to wait, are completed, and are cancelled.

use super::quotas::WAITING;
use super::waiting_request::{RequestState, WaitingRequest};
use super::{LockTable, Owner};
use crate::Vmid;
use crate::error::Errno;
use crate::store::{NONE, Portion};
use crate::wire::Answer;

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

impl LockTable<'_> {
    /// Returns true if the member may have one more request that waits.
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
        if matches!(waiting.state, RequestState::Deferred) {
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
            .change(slot, |waiting| waiting.state = RequestState::Free);
        self.adjust_ref_count(file, -1);
        self.recharge_file(file, waiting.payer);
        if let Some(open_file) = waiting.kept_open_file() {
            self.open_files.request_ended(open_file, waiting.from);
        }
    }

    /// Records the result of a request, which [`LockTable::take_completion`] returns later.
    pub(super) fn complete(&mut self, slot: u32, result: Result<(), Errno>) {
        let answer = self.waits.at(slot).command.answer(result);
        self.unlink(slot);
        self.enqueue_completion(slot, answer);
    }

    pub(super) fn enqueue_completion(&mut self, slot: u32, answer: Answer<'static>) {
        let last = self.waits.last_completed;
        self.waits.change(slot, |waiting| {
            waiting.state = RequestState::Completed(answer);
            waiting.next = NONE;
        });
        self.waits.change(last, |last| last.next = slot);
        if last == NONE {
            self.waits.first_completed = slot;
        }
        self.waits.last_completed = slot;
    }

    /// Returns true if [`LockTable::take_completion`] has a result to return.
    pub fn has_completions(&self) -> bool {
        self.waits.first_completed != NONE
    }

    /// Returns the oldest completed request. It stays until [`LockTable::take_completion`].
    pub fn next_completion(&self) -> Option<Completion> {
        let waiting = self.waits.at(self.waits.first_completed);
        let RequestState::Completed(answer) = waiting.state else {
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
        let completion = self.next_completion()?;
        let slot = self.waits.first_completed;
        let next = self.waits.at(slot).next;
        self.waits.first_completed = next;
        if next == NONE {
            self.waits.last_completed = NONE;
        }
        self.waits
            .change(slot, |waiting| waiting.state = RequestState::Free);
        self.free_request(slot);
        Some(completion)
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
