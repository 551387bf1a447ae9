//! The order in which waiting requests are served.
//!
//! As in the kernel, a request conflicts with locks that are held, and never with requests that
//! wait: a read lock does not wait for a write lock that only waits, and a holder may take further
//! free locks. Waiting requests are tried in the order of their arrival.

use super::quotas::{Charge, WAITING};
use super::waiting_request::{FREE, LockCommand, RequestState, WaitingRequest};
use super::{LockTable, Owner, Range, SetOutcome};
use crate::Vmid;
use crate::error::Errno;
use crate::store::{NONE, Portion};
use crate::wire::{Answer, LockKind};

impl LockTable<'_> {
    /// Queues the request, which the held lock `blocker` conflicts with, until it can be granted.
    pub(super) fn wait_for_lock(
        &mut self,
        waiting: WaitingRequest,
        blocker: u32,
    ) -> Result<(), Errno> {
        let slot = self.enqueue_blocked(waiting, blocker)?;
        // The search does not follow requests that are still to be tried.
        self.waits.may_have_cycle |= self.is_serving;
        if self.would_deadlock(slot) {
            self.unlink(slot);
            self.free_request(slot);
            return Err(Errno::EDEADLK);
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
        command: LockCommand,
    ) -> Result<SetOutcome, Errno> {
        if !self.may_add_request(from) {
            return Err(Errno::ENOLCK);
        }
        self.enqueue_deferred(WaitingRequest {
            from,
            seq,
            owner,
            file,
            range,
            command,
            state: RequestState::Deferred,
            ..FREE
        })?;
        self.recall(file, from);
        Ok(SetOutcome::Queued)
    }

    /// Handles a portion of the deferred requests of a file that has been returned. Returns whether these
    /// were all.
    pub(super) fn resume_deferred(&mut self, file: u32, portion: &mut Portion) -> bool {
        loop {
            let slot = self.file_at(file).first_deferred;
            if slot == NONE {
                return true;
            }
            if !portion.take_entry() {
                return false;
            }
            let WaitingRequest {
                from,
                seq,
                owner,
                range,
                command,
                ..
            } = *self.waits.at(slot);
            self.unlink(slot);
            self.free_request(slot);
            let answer = match command {
                LockCommand::Get { write } => {
                    Answer::Lock(Ok(self.held(file, owner, range, write)))
                }
                LockCommand::Set {
                    kind: LockKind::Unlock,
                    ..
                } => command.answer(self.unlock(file, owner, range)),
                LockCommand::Set { .. } => {
                    match self.set_on(file, owner, range, (from, seq), (command, true)) {
                        Ok(SetOutcome::Queued) => continue,
                        done => command.answer(done.map(drop)),
                    }
                }
            };
            // The slot that was freed above is still free: no other request has been queued since.
            if let Some(slot) = self.waits.slots.alloc() {
                let payer = self.quotas.charge(from, WAITING, 1);
                self.waits.change(slot, |free| {
                    *free = WaitingRequest {
                        from,
                        seq,
                        payer,
                        ..FREE
                    };
                });
                self.enqueue_completion(slot, answer);
            }
        }
    }

    /// Serves the requests whose blocker was removed, in the order of their arrival, as far as no
    /// other held lock conflicts with them. All other waiting requests are still blocked. The
    /// file may be unused afterwards; the caller frees it then. If there are many, the rest follows with
    /// [`LockTable::release_portion`].
    pub(super) fn serve_unblocked(&mut self) {
        self.is_serving = self.first_candidate().is_some();
        while self.is_serving && self.search.take_try() {
            if let Some(slot) = self.next_candidate() {
                self.try_grant(slot);
            }
            self.is_serving = self.has_candidates();
        }
    }

    /// Serves a portion of the requests that are left.
    pub(super) fn serve_portion(&mut self) {
        while self.is_serving && self.search.take_try() {
            if let Some(slot) = self.next_candidate() {
                let file = self.waits.at(slot).file;
                self.try_grant(slot);
                self.drop_file_if_unused(file);
            }
            self.is_serving = self.has_candidates();
        }
    }

    /// Serves a waiting request if no held lock conflicts with it. Refuses it if it is in a cycle
    /// that another lock has closed since the request was queued, as the kernel does when it wakes a
    /// request that is blocked again.
    fn try_grant(&mut self, slot: u32) {
        if let Some(blocker) = self.find_blocker(slot) {
            self.block(slot, blocker);
            if self.waits.may_have_cycle && self.would_deadlock(slot) {
                self.complete(slot, Err(Errno::EDEADLK));
            }
            return;
        }
        let WaitingRequest {
            from,
            file,
            owner,
            range,
            command,
            ..
        } = *self.waits.at(slot);
        let grantee = (owner, Charge::to(from));
        let locked = self.grant(file, grantee, range, command.is_write());
        self.complete(slot, locked);
    }

    /// Returns a held lock that conflicts with the request.
    pub(super) fn find_blocker(&self, slot: u32) -> Option<u32> {
        let WaitingRequest {
            file,
            owner,
            range,
            command,
            ..
        } = *self.waits.at(slot);
        let mine = self.find_holder(owner, file).unwrap_or(NONE);
        self.find_conflict(file, owner.space(), range, command.is_write(), mine)
    }
}
