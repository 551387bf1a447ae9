//! Which lock conflicts with a request: `F_GETLK` and `F_OFD_GETLK`.

use super::interval_tree::TreeKind;
use super::waiting_request::LockCommand;
use super::{LockTable, Owner, Range, range_of};
use crate::error::Errno;
use crate::store::NONE;
use crate::wire::{FileLock, HeldLock, LockFamily, LockKind};
use crate::{Id, Vmid};

impl LockTable<'_> {
    /// Like [`LockTable::get`], but a request for a delegated file waits for its return: then the
    /// answer is `None`, and (`from`, `seq`) identifies the request.
    pub fn get_or_queue(
        &mut self,
        from: Vmid,
        seq: u64,
        lock: &FileLock<'_>,
    ) -> Option<Result<Option<HeldLock>, Errno>> {
        let owner = Owner::of(from, lock);
        if let Some(range) = range_of(lock)
            && let Some(file) = self.find_file(lock.path)
            && self.delegation_holder(file, owner.space()).is_some()
            && lock.kind != LockKind::Unlock
        {
            let command = LockCommand::Get {
                write: lock.kind == LockKind::Write,
            };
            return match self.defer(file, owner, range, (from, seq), command) {
                Ok(_) => None,
                Err(errno) => Some(Err(errno)),
            };
        }
        Some(self.get(from, lock))
    }

    /// Finds the lock that conflicts with the given one. Of several such locks it returns the one
    /// that starts lowest, and of several read locks with the same start the one whose owner locked
    /// the file first. (The kernel goes by the order of owners alone; `fcntl(2)` leaves the choice
    /// open.) For an unlock of an open file's locks (`F_OFD_GETLK` with `F_UNLCK`) it returns the
    /// open file's own first lock in the range.
    ///
    /// # Errors
    /// `EINVAL` for a range that ends before it starts, or for an unlock of any other family.
    pub fn get(&self, from: Vmid, lock: &FileLock<'_>) -> Result<Option<HeldLock>, Errno> {
        let range = range_of(lock).ok_or(Errno::EINVAL)?;
        let is_own = lock.kind == LockKind::Unlock;
        if is_own && lock.family != LockFamily::Ofd {
            return Err(Errno::EINVAL);
        }
        let owner = Owner::of(from, lock);
        let Some(file) = self.find_file(lock.path) else {
            return Ok(None);
        };
        if is_own {
            let mine = self.find_holder(owner, file).unwrap_or(NONE);
            let (first, _) =
                self.trees
                    .first_of_disjoint(TreeKind::Holder, self.holder_at(mine).root, range);
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

    /// Returns true if the owner of this lock holds a write lock that covers its range.
    pub fn has_write_lock(&self, from: Vmid, lock: &FileLock<'_>) -> bool {
        let Some((start, end)) = range_of(lock) else {
            return false;
        };
        let holder = self
            .find_file(lock.path)
            .and_then(|file| self.find_holder(Owner::of(from, lock), file));
        let Some(holder) = holder else { return false };
        let root = self.holder_at(holder).root;
        // Adjacent locks of one kind are one lock.
        let (first, _) = self
            .trees
            .first_of_disjoint(TreeKind::Holder, root, (start, end));
        first.is_some_and(|first| {
            let held = self.trees.at(first);
            held.write && held.start <= start && held.end >= end
        })
    }

    /// Describes the lock for an answer.
    fn describe(&self, lock: u32) -> HeldLock {
        let lock = self.trees.at(lock);
        let (family, pid, handle) = match self.holder_at(lock.holder).owner {
            Owner::Process { pid, .. } => (LockFamily::Posix, pid, 0),
            // The kernel reports the pid -1 for a lock of an open file.
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
