//! The application of operations, the only way in which the leader's state changes.

use core::hash::Hasher;

use super::op::{Op, Outcome, Presence};
use super::{Alloc, Departed, Leader, PendingGrants, Processes, Roster, UNCONFIRMED, Vmids};
use crate::Vmid;
use crate::error::{Errno, Error};
use crate::file_locks::LockTable;
use crate::parts;
use crate::shared_state::{RequestError, Server};
use crate::store::{Digest, HAS_REPLICAS};
use crate::wire::{
    Answer, EndQuery, IdRange, Message, Process, ProcessNote, ProcessQuery, SyncCode,
};

impl Leader<'_> {
    /// Applies an operation: the only way in which the leader's state changes. Takes a bounded number of
    /// steps.
    pub fn apply(&mut self, op: &Op<'_>) -> Outcome {
        self.ops = self.ops.wrapping_add(1);
        #[cfg(debug_assertions)]
        let before = (self.steps(), self.locks.removed());
        let outcome = self.execute(op);
        #[cfg(debug_assertions)]
        self.assert_bound(op, before);
        self.notify_observers(op, &outcome);
        outcome
    }

    /// Executes an operation, on the fast path if it can take that.
    // A function of its own, so that the outcome is made where the caller of `apply` gets it: it is not copied.
    #[inline]
    fn execute(&mut self, op: &Op<'_>) -> Outcome {
        // Most operations of the leader's own process take the fast path: they change nothing but the lock, make no message,
        // and are not counted.
        if let Op::SetLock { from, lock, hash } = op
            && parts::FAST_PATH
            && self.locks.try_set_fast(*from, lock, *hash)
        {
            return Outcome::Answer(Answer::DONE);
        }
        self.change_and_count(op)
    }

    #[cfg_attr(not(static_library), inline(never))]
    fn change_and_count(&mut self, op: &Op<'_>) -> Outcome {
        let outcome = self.change(op);
        if !self.roster.is_empty() {
            self.count(op, &outcome);
        }
        self.note_broadcast(op);
        self.update_outbox();
        outcome
    }

    /// Calls the observers with an operation that was applied.
    #[inline]
    fn notify_observers(&self, op: &Op<'_>, outcome: &Outcome) {
        for observer in self.observers.iter().flatten() {
            observer.applied(self, op, outcome);
        }
    }

    /// Asserts that the operation has taken a bounded number of steps. `steps` and `removed` are the counts of steps and of
    /// removed locks before it.
    #[cfg(debug_assertions)]
    fn assert_bound(&self, op: &Op<'_>, (steps, removed): (u64, u64)) {
        let steps = self.steps().wrapping_sub(steps);
        let bound = self.bound(op, self.locks.removed().wrapping_sub(removed));
        debug_assert!(
            steps <= bound,
            "{op:?} takes {steps} steps, at most {bound} are allowed"
        );
    }

    /// Returns a digest of the state: two leaders with the same limits that have applied the same operations have
    /// the same one. It goes only through tables that an operation since the last call may have changed.
    pub fn digest(&self) -> u64 {
        self.digest_with(Digest::new())
    }

    /// Returns the same digest, computed anew from all tables: slow, to check that [`Leader::digest`]
    /// misses no change.
    pub fn digest_anew(&self) -> u64 {
        self.digest_with(Digest::anew())
    }

    fn digest_with(&self, mut digest: Digest) -> u64 {
        digest.write_u64(self.ops);
        digest.write_u32(self.epoch);
        self.ranges.digest(&mut digest);
        self.departed.digest(&mut digest, Departed::digest);
        self.roster.digest(&mut digest, Roster::digest);
        self.vmids.digest(&mut digest, Vmids::digest);
        self.pending_grants
            .digest(&mut digest, PendingGrants::digest);
        self.processes.digest(&mut digest, Processes::digest);
        self.locks.digest(&mut digest, LockTable::digest);
        self.leases.digest(&mut digest, Server::digest);
        self.outbox.digest(&mut digest);
        digest.finish()
    }

    /// Returns the number of operations that were applied.
    pub fn ops(&self) -> u64 {
        self.ops
    }

    fn change(&mut self, op: &Op<'_>) -> Outcome {
        match *op {
            Op::Sync {
                from,
                code,
                ref sync,
                is_extended,
            } => {
                return Outcome::Sync(if is_extended {
                    let has_limit = from != self.own();
                    self.leases.on_message_with(from, code, sync, has_limit)
                } else {
                    self.leases.on_message_from_c(from, code, sync)
                });
            }
            Op::OwnerDied(from, id) => {
                return Outcome::Sync(self.leases.on_owner_died(from, id));
            }
            Op::ReleaseLocks => self.locks.release_portion(),
            Op::ReclaimLeases { owner, left } => {
                return Outcome::Remaining(self.leases.reclaim_portion(owner, left));
            }
            Op::ReclaimChildren { owner, left } => {
                let ranges = &mut self.ranges;
                return Outcome::Remaining(self.processes.reclaim_children(owner, left, ranges));
            }
            Op::Request {
                from,
                seq,
                message,
                other,
            } => return self.request(from, seq, message, other),
            Op::SetLock {
                from,
                ref lock,
                hash,
            } => {
                return match self.locks.try_set(from, lock, hash) {
                    Ok(false) => Outcome::Delegated,
                    Ok(true) => Outcome::Answer(status(Ok(()))),
                    Err(errno) => Outcome::Answer(status(Err(errno))),
                };
            }
            Op::Announce(vmid) => {
                if self.vmids.announce(vmid).is_err() {
                    return Outcome::Rejected;
                }
            }
            Op::AllowReturn(vmid) => self.vmids.allow_return(vmid),
            Op::Connected(vmid) => self.on_connected(vmid),
            Op::Join(from, hello) => {
                if self.join(from, &hello).is_err() {
                    return Outcome::Rejected;
                }
            }
            Op::RunUnjoined(vmid) => self.processes.mark_running_unjoined(vmid),
            Op::ReclaimLocks { owner, left } => {
                return Outcome::Remaining(self.reclaim_locks(owner, left));
            }
            Op::Left(vmid) => self.reclaim_process(vmid),
            Op::RevokeGrants(giver) => {
                return Outcome::Remaining((!self.revoke_grants(giver)).into());
            }
            Op::ReclaimRanges { owner, left } => {
                return Outcome::Remaining(self.reclaim_ranges(owner, left));
            }
            Op::DeferStart(vmid) => self.processes.defer_start(vmid),
            Op::AbandonStart(vmid) => self.processes.abandon(vmid),
            Op::NotifyAbandoned(parent) => self.processes.notify_abandoned(parent),
            Op::ConfirmGrants {
                to,
                left,
                allows_notices,
            } => {
                return Outcome::Remaining(self.confirm_grants(to, left, allows_notices));
            }
            // A signal for a process or for all is never refused.
            Op::Signal(to, kill) => drop(self.processes.add_signal(to, &kill)),
            Op::SignalAll { .. } | Op::SignalAllRefused { .. } => return self.signal_all(op),
            Op::SignalAnswered { from, seq, result } => {
                if !self.processes.signals.on_answer(from, seq, result) {
                    return Outcome::Rejected;
                }
            }
            Op::SyncRefused { code, .. } => {
                return Outcome::Sync(match code {
                    SyncCode::RequestUpgrade => Err(RequestError::NoRoom),
                    SyncCode::RequestClose => Err(RequestError::Closed),
                    _ => Ok(()),
                });
            }
            Op::Succeed { to } if HAS_REPLICAS => self.succeed(to),
            Op::Succeed { .. } => {}
            Op::Transmitted { id, is_extended } => self.mark_transmitted(id, is_extended),
            Op::Requeued(id) => self.requeue(id),
            Op::RetryTransmit => self.retry_transmit(),
        }
        Outcome::Done
    }

    /// Counts the frame that the operation has applied, or the message that was queued.
    fn count(&mut self, op: &Op<'_>, outcome: &Outcome) {
        match *op {
            // The request is applied again.
            Op::Request { .. } if matches!(outcome, Outcome::Remaining(_)) => {}
            Op::Request { from, .. }
            | Op::SignalAnswered { from, .. }
            | Op::SignalAll { from, .. }
            | Op::SignalAllRefused { from, .. }
            | Op::OwnerDied(from, _) => self.roster.count_taken(from),
            Op::Sync { from, .. } | Op::SyncRefused { from, .. } => {
                self.roster.count_taken(from);
                if let Outcome::Sync(Err(RequestError::NoRoom | RequestError::Closed)) = outcome {
                    self.roster.count_given(from);
                }
            }
            _ => {}
        }
    }

    /// Returns the other process that a request is about, whose [`Presence`] the operation must
    /// have: the process that is given an ID or an open file, or signalled; and the process whose VMID is
    /// the next one, which is not given out if a process is connected with it.
    #[inline]
    pub fn other(&mut self, message: &Message<'_>) -> Option<Vmid> {
        match *message {
            Message::GetNewVmid => self.vmids.next(),
            Message::ChangeIdOwner { owner, .. } => Vmid::new(owner),
            Message::FileHandle { vmid, .. } if parts::GIVEN_FILES => Vmid::new(vmid),
            Message::KillOrdered { kill, .. } => self.target_of(&kill).ok(),
            _ => None,
        }
    }

    /// Answers a request that changes nothing; none for any other message.
    pub fn look_up(&mut self, from: Vmid, message: &Message<'_>) -> Option<Answer<'static>> {
        match message {
            Message::GetIdOwner(id) => Some(Answer::Owner(self.owner_of(*id).map_or(0, Vmid::get))),
            Message::ProcessQuery(query) if parts::PROCESSES => {
                Some(Answer::Process(self.find_process(query)))
            }
            Message::ProcessEnd(EndQuery { pid, group }) if parts::PROCESSES => {
                let end = self.processes.find_child_exit(from, *pid, *group);
                Some(Answer::End(end))
            }
            _ => None,
        }
    }

    /// Returns the process that a query asks for.
    fn find_process(&mut self, query: &ProcessQuery) -> Result<Process, Errno> {
        self.processes.query(query).or_else(|errno| {
            // The ID of a thread is in a range of its process. Only that process knows whether the ID is a
            // thread's.
            let owner = self.ranges.owner_of(query.pid).ok_or(errno)?;
            self.processes.query_owner(query, owner)
        })
    }

    fn request(&mut self, from: Vmid, seq: u64, message: &Message<'_>, other: Presence) -> Outcome {
        match *message {
            Message::GetNewVmid if other.is_connected() => {
                self.vmids.skip_next();
                Outcome::Remaining(1)
            }
            Message::GetNewVmid => {
                Outcome::Answer(Answer::Vmid(self.new_vmid(from).map_or(0, Vmid::get)))
            }
            Message::AllocIdRange => {
                Outcome::Answer(Answer::IdRange(match self.ranges.alloc(from) {
                    Alloc::Range(range) => range,
                    Alloc::NoneLeft | Alloc::TableFull => IdRange { start: 0, end: 0 },
                }))
            }
            Message::ReleaseIdRange(range) => one_way(self.release(from, range).is_ok()),
            Message::ChangeIdOwner { id, owner } => {
                let Some(owner) = Vmid::new(owner) else {
                    return Outcome::Answer(status(Err(Errno::EINVAL)));
                };
                let changed = self.change_owner(from, id, owner, other);
                if other.is_connected() {
                    self.confirm_ids(owner);
                }
                Outcome::Answer(match changed {
                    Ok(()) => Answer::Empty,
                    Err(error) => status(Err(error.errno())),
                })
            }
            Message::ProcessStart { vmid, pid } if parts::PROCESSES => {
                Outcome::Answer(status(self.start(from, vmid, pid).map_err(Error::errno)))
            }
            Message::ProcessReap(pid) if parts::PROCESSES => {
                let starting = self.starting_child(from, pid);
                let is_reaped = self.processes.reap(from, pid, &mut self.ranges);
                match starting {
                    Some(child) => Outcome::Abandoned(child),
                    None if is_reaped => Outcome::Done,
                    None => Outcome::Rejected,
                }
            }
            Message::ProcessChange { what, pid, value } if parts::PROCESSES => {
                let ranges = &mut self.ranges;
                let changed = self.processes.change(from, what, pid, value, ranges);
                Outcome::Answer(status(changed))
            }
            Message::ProcessNote(note) if parts::PROCESSES => match note.note {
                ProcessNote::WatchParent => one_way(self.processes.watch_parent(from, true)),
                ProcessNote::IgnoreParent => one_way(self.processes.watch_parent(from, false)),
                ProcessNote::ParentEnded | ProcessNote::ChildAbandoned => Outcome::NotForLeader,
            },
            // The leader records the exit of every process; the notice itself is for the parent.
            Message::ChildExit(exit) => {
                if !self.locks.release_process_portion(from, exit.pid) {
                    return Outcome::Remaining(1);
                }
                self.processes.record_exit(from, exit);
                Outcome::NotForLeader
            }
            Message::KillOrdered { kill, always } => {
                let outcome = self.signal_ordered((from, seq), &kill, always, other);
                if seq == 0 { Outcome::Done } else { outcome }
            }
            Message::FileHandle { handle, held, vmid } if parts::GIVEN_FILES => {
                let noted = self.update_open_file(from, Vmid::new(vmid), handle, held, other);
                if noted == Ok(false) {
                    return Outcome::Remaining(1);
                }
                if seq == 0 {
                    one_way(noted.is_ok())
                } else if noted.is_ok() && held && self.is_unconfirmed(vmid, handle) {
                    Outcome::Answer(Answer::Status(Ok(UNCONFIRMED)))
                } else {
                    Outcome::Answer(status(noted.map(drop)))
                }
            }
            // The receiver confirms the notice, or the giver asks whether it has.
            Message::FileGiven { handle, vmid } if parts::GIVEN_FILES && seq == 0 => {
                let is_own = vmid == from.get();
                if is_own {
                    self.locks.confirm_notice(from, handle);
                }
                one_way(is_own)
            }
            Message::FileGiven { handle, vmid } if parts::GIVEN_FILES => {
                let is_confirmed = !self.is_unconfirmed(vmid, handle);
                Outcome::Answer(status(is_confirmed.then_some(()).ok_or(Errno::EAGAIN)))
            }
            _ => self.lock_request(from, seq, message),
        }
    }
}

/// Returns the outcome of a request that has no answer.
fn one_way(is_done: bool) -> Outcome {
    if is_done {
        Outcome::Done
    } else {
        Outcome::Rejected
    }
}

/// Returns the answer for the result.
pub(super) fn status(result: Result<(), Errno>) -> Answer<'static> {
    Answer::Status(result.map(|()| 0))
}
