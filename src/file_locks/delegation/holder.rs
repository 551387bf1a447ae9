//! The lock table of a member that holds delegations. A file stays in this table until the member
//! returns it.

use crate::Vmid;
use crate::file_locks::{LockTable, Owner, SpaceKind};
use crate::path::hash_path;
use crate::store::Portion;
use crate::store::{NONE, sort};
use crate::wire::{DelegatedLock, DelegatedLockList, DelegatedLocks};

impl LockTable<'_> {
    /// Adds a file for which the member requests a delegation. It stays until
    /// [`LockTable::release_file`].
    pub(crate) fn add_delegated_file(&mut self, path: &[u8]) -> Option<u32> {
        // The tables of a member have no quotas.
        let hash = hash_path(path);
        let idle = self.find_slot(path, hash);
        let file = self.add_file(Vmid::LEADER, path, hash, idle)?;
        self.adjust_ref_count(file, 1);
        Some(file)
    }

    /// Removes a delegated file, and all locks on it.
    pub(crate) fn release_file(&mut self, file: u32) {
        self.release_ranges(file);
        self.adjust_ref_count(file, -1);
        self.drop_file_if_unused(file);
    }

    /// Releases all record locks on the file.
    pub(super) fn release_ranges(&mut self, file: u32) {
        loop {
            let space = self.space(file, SpaceKind::Ranges);
            let root = space.reads.min(space.writes);
            if root == NONE {
                break;
            }
            self.release_holder(self.trees.at(root).holder, &mut Portion::whole());
        }
    }

    /// Returns the number of locks on the file.
    pub(crate) fn lock_count(&self, file: u32) -> usize {
        self.file_at(file).locks
    }

    /// Lists the file's record locks for the return of the delegation: by owner, in the order in
    /// which the owners first locked the file, so that the leader's table has the same order.
    pub(crate) fn list_locks(&self, file: u32, list: &mut DelegatedLockList) {
        let space = self.space(file, SpaceKind::Ranges);
        let mut slots = heapless::Vec::<u32, { DelegatedLocks::MAX }>::new();
        for root in [space.reads, space.writes] {
            let mut after = NONE;
            while let Some(slot) = self
                .trees
                .next_overlapping(root, (0, u64::MAX), NONE, after)
            {
                after = slot;
                if slots.push(slot).is_err() {
                    break;
                }
            }
        }
        sort(&mut slots, |slot| {
            let lock = self.trees.at(*slot);
            (lock.since, lock.start)
        });
        for slot in slots {
            let lock = self.trees.at(slot);
            if let Owner::Process { pid, .. } = self.holder_at(lock.holder).owner {
                list.push(DelegatedLock {
                    start: lock.start,
                    end: lock.end,
                    pid,
                    write: lock.write,
                });
            }
        }
    }
}
