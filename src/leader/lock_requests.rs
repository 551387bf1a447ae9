//! Requests that concern file locks, and fencing numbers.

use super::Leader;
use super::apply::status;
use super::op::Outcome;
use crate::Vmid;
use crate::error::Errno;
use crate::fencing;
use crate::file_locks::SetOutcome;
use crate::invariant::OrBroken;
use crate::parts;
use crate::wire::{Answer, FileLock, Holding, Message};

impl Leader<'_> {
    /// Returns true if the process with that VMID, 0 for none, is still to confirm the notice of the
    /// open file.
    pub(super) fn is_unconfirmed(&self, vmid: u32, open_file: u64) -> bool {
        Vmid::new(vmid).is_some_and(|to| self.locks.is_notice_unconfirmed(to, open_file))
    }

    /// Returns the fencing numbers of this operation to a member that holds what it asks them for: the
    /// numbers that were given out before, and so those of earlier holders, are lower.
    fn fencing(&self, is_held: bool) -> Outcome {
        let first = || fencing::first_of(self.ops).ok_or(Errno::EOVERFLOW);
        let first = is_held.then(first).map_or(Err(Errno::EPERM), |first| first);
        Outcome::Answer(Answer::Fencing(first))
    }

    pub(super) fn lock_request(&mut self, from: Vmid, seq: u64, message: &Message<'_>) -> Outcome {
        match *message {
            Message::FileLockSet(lock) => {
                lock_outcome(self.locks.set(from, seq, &with_answer(lock, seq)))
            }
            Message::FileLockDelegate(lock) if parts::DELEGATIONS => {
                let lock = with_answer(lock, seq);
                lock_outcome(self.locks.set_or_delegate(from, seq, &lock, lock.handle))
            }
            Message::FileLockReturn { delegation, locks } if parts::DELEGATIONS => {
                if self.locks.return_delegation(from, delegation, locks) {
                    Outcome::Done
                } else {
                    Outcome::NotForLeader
                }
            }
            Message::FileLockGet(lock) => {
                let Some(found) = self.locks.get_or_queue(from, seq, &lock) else {
                    return Outcome::Later;
                };
                Outcome::Answer(Answer::Lock(found))
            }
            Message::FileLockClearPid(pid) => {
                if !self.locks.release_process_portion(from, pid) {
                    return Outcome::Remaining(1);
                }
                Outcome::Answer(status(Ok(())))
            }
            Message::FileLockCancel(seq) => {
                self.locks.cancel(from, seq);
                Outcome::Done
            }
            Message::FencingNumber(lock) if parts::FENCING => {
                self.fencing(self.locks.has_write_lock(from, &lock))
            }
            Message::FencingBlock { holding, number } if parts::FENCING => {
                self.fencing(match holding {
                    Holding::Delegation => self.locks.has_delegation(from, number),
                    Holding::Lease => self.leases.has_exclusive(from, number),
                })
            }
            _ => Outcome::NotForLeader,
        }
    }
}

/// Makes a request without an answer one that does not wait, since its sender would not learn of
/// the end of the wait.
fn with_answer(lock: FileLock<'_>, seq: u64) -> FileLock<'_> {
    FileLock {
        wait: lock.wait && seq != 0,
        ..lock
    }
}

fn lock_outcome(set: Result<SetOutcome, Errno>) -> Outcome {
    Outcome::Answer(match set {
        Ok(SetOutcome::Queued) => return Outcome::Later,
        Ok(SetOutcome::Delegated(locks)) => {
            Answer::Status(Ok(u32::try_from(locks).or_broken(u32::MAX)))
        }
        Ok(SetOutcome::Done) => status(Ok(())),
        Err(errno) => status(Err(errno)),
    })
}
