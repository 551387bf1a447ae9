//! The table of files.

use core::cmp::Ordering;
use core::mem::replace;

use super::LockTable;
use super::delegation::Delegation;
use super::paths::{PathStore, StoredPath};
use super::quotas::FILES;
use crate::Vmid;
use crate::invariant::OrBroken;
use crate::path::hash_path;
use crate::store::{NONE, Payer, Table, entry};

/// The two spaces of locks, which never conflict with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpaceKind {
    Ranges = 0,
    WholeFile = 1,
}

/// The locks of one space of a file.
#[derive(Clone, Copy, Hash)]
pub(super) struct Space {
    pub(super) reads: u32,
    pub(super) writes: u32,
}

const EMPTY_SPACE: Space = Space {
    reads: NONE,
    writes: NONE,
};

#[derive(Clone, Copy, Hash)]
pub(super) struct File {
    pub(super) hash: u64,
    pub(super) path: StoredPath,
    pub(super) spaces: [Space; 2],
    /// The queue of requests that are deferred until a delegation is returned.
    pub(super) first_deferred: u32,
    pub(super) last_deferred: u32,
    /// The delegation of the file's ranges.
    pub(super) delegation: Option<Delegation>,
    /// The number of held locks.
    pub(super) locks: usize,
    /// The newest holder, if it still holds a lock. The index of owners and files does not contain it: most
    /// files have one holder at a time, and of several the newest often goes first, so most holders never get
    /// there.
    pub(super) first_holder: u32,
    /// The number of holders that the index contains.
    pub(super) more_holders: u32,
    /// The number of holders, waiting requests and delegations; [`FREE`] if the slot has no file.
    pub(super) ref_count: u32,
    pub(super) payer: Payer,
}

entry!(Space { reads, writes });
entry!(File {
    hash,
    path,
    spaces,
    first_deferred,
    last_deferred,
    delegation,
    locks,
    first_holder,
    more_holders,
    ref_count,
    payer,
});

impl File {
    pub(super) fn is_used(&self) -> bool {
        self.ref_count > 0
    }

    pub(super) fn is_in_table(&self) -> bool {
        self.ref_count != FREE
    }

    /// Returns the number of places of its quota that the file takes.
    pub(super) fn cost(&self) -> usize {
        PathStore::cost_of(self.path.length())
    }

    pub(super) fn space(&self, kind: SpaceKind) -> &Space {
        let [ranges, whole] = &self.spaces;
        match kind {
            SpaceKind::Ranges => ranges,
            SpaceKind::WholeFile => whole,
        }
    }

    /// Returns the root of the tree of the locks of one kind.
    pub(super) fn root_mut(&mut self, kind: SpaceKind, write: bool) -> &mut u32 {
        let [ranges, whole] = &mut self.spaces;
        let space = match kind {
            SpaceKind::Ranges => ranges,
            SpaceKind::WholeFile => whole,
        };
        if write {
            &mut space.writes
        } else {
            &mut space.reads
        }
    }
}

pub(super) const EMPTY_FILE: File = File {
    hash: 0,
    path: StoredPath::EMPTY,
    spaces: [EMPTY_SPACE; 2],
    first_deferred: NONE,
    last_deferred: NONE,
    delegation: None,
    locks: 0,
    first_holder: NONE,
    more_holders: 0,
    ref_count: FREE,
    payer: Payer::NOBODY,
};

const FREE: u32 = u32::MAX;

impl LockTable<'_> {
    pub(crate) fn find_file(&self, path: &[u8]) -> Option<u32> {
        self.find_file_hashed(path, hash_path(path))
    }

    pub(crate) fn find_file_hashed(&self, path: &[u8], hash: u64) -> Option<u32> {
        let found = self.find_slot(path, hash);
        found.filter(|slot| *slot != self.idle_file)
    }

    /// Like `find_file_hashed`; it also finds the idle file.
    #[inline]
    pub(super) fn find_slot(&self, path: &[u8], hash: u64) -> Option<u32> {
        // A file is often the one that was used before.
        let slot = self.last_added;
        if let Some(file) = self.files.get(slot as usize)
            && (file.is_in_table() || slot == self.idle_file)
            && self.is_file(file, path, hash)
        {
            return Some(slot);
        }
        self.search_slot(path, hash)
    }

    #[inline]
    pub(super) fn is_file(&self, file: &File, path: &[u8], hash: u64) -> bool {
        file.hash == hash && self.paths.is_path(file.path, path)
    }

    #[inline(never)]
    fn search_slot(&self, path: &[u8], hash: u64) -> Option<u32> {
        self.by_path.find(hash, |slot| {
            let file = self.file_at(slot);
            let order = file.hash.cmp(&hash);
            order.then_with(|| self.paths.compare(file.path, path))
        })
    }

    /// Adds a file that the member uses; `idle` is its slot if it is the idle file. `None` if there is no
    /// room for it.
    pub(super) fn add_file(
        &mut self,
        from: Vmid,
        path: &[u8],
        hash: u64,
        idle: Option<u32>,
    ) -> Option<u32> {
        let cost = PathStore::cost_of(path.len());
        let payer = self.quotas.try_charge(from, FILES, cost)?;
        let other = replace(&mut self.idle_file, NONE);
        let slot = idle.or_else(|| {
            // The place of another idle file may be needed.
            if other != NONE {
                self.remove_file(other);
            }
            self.insert_file(path, hash)
        });
        let Some(slot) = slot else {
            self.quotas.release(payer, FILES, cost);
            return None;
        };
        self.last_added = slot;
        if let Some(file) = self.files.get_mut(slot as usize) {
            // Nothing is left of the file that was here before.
            debug_assert!(file.locks == 0 && file.first_holder == NONE && !file.is_in_table());
            (file.ref_count, file.payer) = (0, payer);
        }
        Some(slot)
    }

    fn insert_file(&mut self, path: &[u8], hash: u64) -> Option<u32> {
        if self.file_slots.remaining() == 0 {
            return None;
        }
        let stored = self.paths.store(path)?;
        let slot = self.file_slots.alloc()?;
        if let Some(file) = self.files.get_mut(slot as usize) {
            (file.hash, file.path) = (hash, stored);
        }
        let (files, paths) = (&self.files, &self.paths);
        self.by_path.insert(hash, slot, &|other| {
            order_of_file(files, paths, other, (hash, stored))
        });
        Some(slot)
    }

    /// Drops the file if nothing uses it. Its place stays idle until the next file is added: a file that
    /// is locked and unlocked again and again keeps it.
    #[inline]
    pub(super) fn drop_file_if_unused(&mut self, slot: u32) {
        if let Some(file) = self.files.get_mut(slot as usize)
            && file.ref_count == 0
        {
            let (payer, cost) = (file.payer, file.cost());
            (file.ref_count, file.payer) = (FREE, Payer::NOBODY);
            self.quotas.release(payer, FILES, cost);
            let idle = replace(&mut self.idle_file, slot);
            if idle != NONE {
                self.remove_file(idle);
            }
        }
    }

    pub(super) fn remove_file(&mut self, slot: u32) {
        let file = self.file_at(slot);
        let (hash, path) = (file.hash, file.path);
        let (files, paths) = (&self.files, &self.paths);
        self.by_path.remove(hash, slot, &|other| {
            order_of_file(files, paths, other, (hash, path))
        });
        self.paths.remove(path);
        self.file_slots.free(slot);
    }

    #[cfg_attr(static_library, inline(never))]
    pub(super) fn file_at(&self, slot: u32) -> &File {
        static EMPTY: File = EMPTY_FILE;
        self.steps.count();
        self.files.get(slot as usize).unwrap_or(&EMPTY)
    }

    pub(super) fn space(&self, file: u32, kind: SpaceKind) -> Space {
        *self.file_at(file).space(kind)
    }

    pub(super) fn change_file(&mut self, file: u32, change: impl FnOnce(&mut File)) {
        if let Some(file) = self.files.get_mut(file as usize) {
            change(file);
        }
    }

    pub(super) fn adjust_ref_count(&mut self, file: u32, change: i32) {
        if let Some(file) = self.files.get_mut(file as usize) {
            file.ref_count = file
                .ref_count
                .checked_add_signed(change)
                .or_broken(file.ref_count);
        }
    }
}

/// Returns the order of a file in its bucket, compared with a file of that hash and path.
pub(super) fn order_of_file(
    files: &Table<'_, File>,
    paths: &PathStore<'_>,
    file: u32,
    (hash, path): (u64, StoredPath),
) -> Ordering {
    let file = files.get(file as usize).unwrap_or(&EMPTY_FILE);
    let order = file.hash.cmp(&hash);
    order.then_with(|| paths.compare_stored(file.path, path))
}

#[cfg(test)]
mod tests {
    use core::mem::MaybeUninit;
    use std::vec::Vec;

    use super::*;
    use crate::file_locks::LockLimits;
    use crate::store::Arena;
    use crate::wire::{FileLock, LockFamily, LockKind};

    const LIMITS: LockLimits = LockLimits {
        locks: 4,
        files: 1,
        ..LockLimits::NONE
    };

    fn lock(path: &[u8], kind: LockKind) -> FileLock<'_> {
        FileLock {
            family: LockFamily::Posix,
            kind,
            start: 0,
            end: 9,
            pid: 1,
            handle: 0,
            wait: false,
            path,
        }
    }

    #[cfg(debug_assertions)]
    #[test]
    fn file_that_is_locked_and_unlocked_again_and_again_is_not_searched() {
        let mut memory = [MaybeUninit::uninit(); LockTable::bytes(&LIMITS)];
        let mut locks = LockTable::new(&mut Arena::new(&mut memory), &LIMITS).unwrap();
        for path in [b"file".as_slice(), b"", &[b'p'; 200]] {
            let hash = hash_path(path);
            let mut steps = Vec::new();
            for kind in [LockKind::Write, LockKind::Unlock].repeat(3) {
                let before = locks.by_path.steps() + locks.paths.steps();
                locks
                    .try_set(Vmid::LEADER, &lock(path, kind), hash)
                    .unwrap();
                steps.push(locks.by_path.steps() + locks.paths.steps() - before);
            }
            // Each request compares the path once.
            let chunks = path.len().div_ceil(60) as u64;
            assert_eq!(steps[1..], [chunks; 5]);
        }
    }

    #[test]
    fn place_of_the_last_file_is_used_again_and_in_nobodys_way() {
        let mut memory = [MaybeUninit::uninit(); LockTable::bytes(&LIMITS)];
        let mut locks = LockTable::new(&mut Arena::new(&mut memory), &LIMITS).unwrap();
        let mut set = |path, kind| {
            let lock = lock(path, kind);
            locks.set(Vmid::LEADER, 1, &lock).unwrap();
            let is_found = locks.find_file(path).is_some();
            assert_eq!(is_found, kind != LockKind::Unlock);
            assert_eq!(locks.file_usage(), (is_found.into(), 1));
            assert!(locks.check_invariants());
            locks.trees.slots().high_water()
        };
        // The only place is that of the first file until the second one needs it.
        for path in [
            b"first".as_slice(),
            b"first",
            b"second",
            b"first",
            b"second",
        ] {
            set(path, LockKind::Write);
            assert_eq!(set(path, LockKind::Unlock), 1);
        }
    }
}
