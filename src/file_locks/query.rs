//! Which lock conflicts with a request: `F_GETLK` and `F_OFD_GETLK`.

use super::wait_queue::Operation;
use super::{LockTable, Owner, Range, range_of};
use crate::error::errno;
use crate::store::NONE;
use crate::wire::{FileLock, HeldLock, LockFamily, LockKind};
use crate::{Id, Vmid};

impl LockTable<'_> {
    /// As [`LockTable::get`], for a member that may have to wait for the answer: none yet then. It is
    /// named by (`from`, `seq`).
    pub fn get_or_queue(
        &mut self,
        from: Vmid,
        seq: u64,
        lock: &FileLock<'_>,
    ) -> Option<Result<Option<HeldLock>, i32>> {
        let owner = Owner::of(from, lock);
        if let Some(range) = range_of(lock)
            && let Some(file) = self.find_file(lock.path)
            && self.delegation_holder(file, owner.space()).is_some()
            && lock.kind != LockKind::Unlock
        {
            let operation = Operation::Get {
                write: lock.kind == LockKind::Write,
            };
            return match self.defer(file, owner, range, (from, seq), operation) {
                Ok(_) => None,
                Err(errno) => Some(Err(errno)),
            };
        }
        Some(self.get(from, lock))
    }

    /// The lock that conflicts with the one that is asked about, if there is one: of several the one
    /// that starts lowest, and of several readers that start there the one whose owner locked the file first
    /// (the kernel goes by that alone, `fcntl(2)` leaves it open). For an unlock of an open file's locks
    /// (`F_OFD_GETLK` with `F_UNLCK`), the first that it has itself in the range.
    ///
    /// # Errors
    /// `EINVAL` for a range that ends before it starts, or for an unlock of any other family.
    pub fn get(&self, from: Vmid, lock: &FileLock<'_>) -> Result<Option<HeldLock>, i32> {
        let range = range_of(lock).ok_or(errno::EINVAL)?;
        let is_own = lock.kind == LockKind::Unlock;
        if is_own && lock.family != LockFamily::Ofd {
            return Err(errno::EINVAL);
        }
        let owner = Owner::of(from, lock);
        let Some(file) = self.find_file(lock.path) else {
            return Ok(None);
        };
        if is_own {
            let mine = self.find_holder(owner, file).unwrap_or(NONE);
            let first = self.trees.first_own(self.holder_at(mine).root, range);
            return Ok(first.map(|first| self.describe(first)));
        }
        Ok(self.held(file, owner, range, lock.kind == LockKind::Write))
    }

    pub(super) fn held(
        &self,
        file: u32,
        owner: Owner,
        range: Range,
        write: bool,
    ) -> Option<HeldLock> {
        let mine = self.find_holder(owner, file).unwrap_or(NONE);
        let found = self.find_conflict(file, owner.space(), range, write, mine);
        found.map(|found| self.describe(found))
    }

    /// The lock as an answer has it.
    fn describe(&self, lock: u32) -> HeldLock {
        let lock = self.trees.at(lock);
        let (family, pid, handle) = match self.holder_at(lock.holder).owner {
            Owner::Process { pid, .. } => (LockFamily::Posix, pid, 0),
            // As the kernel tells it: no process's.
            Owner::Open(handle) => (LockFamily::Posix, Id::MAX, handle),
            Owner::Flock(handle) => (LockFamily::Flock, 0, handle),
        };
        HeldLock {
            family,
            write: lock.write,
            start: lock.start,
            end: lock.end,
            pid,
            handle,
        }
    }
}
