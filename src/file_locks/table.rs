//! The tables of files and holders.

use core::cmp::{Ordering, Reverse};

use super::delegation::Delegation;
use super::paths::{PathStore, StoredPath, hash_path};
use super::{LockTable, Owner};
use crate::Vmid;
use crate::invariant::OrBroken;
use crate::store::{NONE, Payer, Table, hash64};

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
    path: StoredPath,
    pub(super) spaces: [Space; 2],
    /// The queue of requests that are deferred until a delegation is returned.
    pub(super) first_deferred: u32,
    pub(super) last_deferred: u32,
    /// The delegation of the file's ranges.
    pub(super) delegation: Option<Delegation>,
    /// The number of held locks.
    pub(super) locks: usize,
    /// The number of holders, waiting requests and delegations; [`FREE`] if the slot has no file.
    ref_count: u32,
    pub(super) payer: Payer,
}

impl File {
    pub(super) fn is_used(&self) -> bool {
        self.ref_count > 0
    }

    pub(super) fn path_length(&self) -> usize {
        self.path.length()
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
    ref_count: FREE,
    payer: Payer::NOBODY,
};

const FREE: u32 = u32::MAX;

/// The locks of one owner on one file.
#[derive(Clone, Copy, Hash)]
pub(super) struct Holder {
    pub(super) owner: Owner,
    pub(super) file: u32,
    pub(super) root: u32,
    /// The number of the holder. It rises with each new holder.
    pub(super) since: u64,
}

pub(super) const EMPTY_HOLDER: Holder = Holder {
    owner: Owner::Open(0),
    file: NONE,
    root: NONE,
    since: 0,
};

impl Holder {
    /// The key in the index of owners: of one owner's holders, the newest is the first.
    pub(super) fn by_owner(&self) -> ((u64, u8), Reverse<u64>) {
        (self.owner.key(), Reverse(self.since))
    }

    /// The key in the index of owners and files.
    pub(super) fn by_owner_and_file(&self) -> (u32, (u64, u8)) {
        (self.file, self.owner.key())
    }
}

impl LockTable<'_> {
    pub(crate) fn find_file(&self, path: &[u8]) -> Option<u32> {
        self.find_file_hashed(path, hash_path(path))
    }

    pub(crate) fn find_file_hashed(&self, path: &[u8], hash: u64) -> Option<u32> {
        self.by_path.find(hash, |slot| {
            let file = self.file_at(slot);
            let order = file.hash.cmp(&hash);
            order.then_with(|| self.paths.compare(file.path, path))
        })
    }

    /// Adds a file that the member uses. `None` if there is no room for it.
    pub(super) fn add_file(&mut self, from: Vmid, path: &[u8], hash: u64) -> Option<u32> {
        let has_room = self.file_slots.remaining() > 0 && self.paths.has_room(path);
        if !has_room || !self.may_add_file(from, path) {
            return None;
        }
        let stored = self.paths.store(path)?;
        let slot = self.file_slots.alloc()?;
        let payer = self.charge_file(from, path);
        if let Some(file) = self.files.get_mut(slot as usize) {
            *file = File {
                hash,
                path: stored,
                ref_count: 0,
                payer,
                ..EMPTY_FILE
            };
        }
        let (files, paths) = (&self.files, &self.paths);
        self.by_path.insert(hash, slot, &|other| {
            order_of_file(files, paths, other, (hash, stored))
        });
        Some(slot)
    }

    pub(super) fn drop_file_if_unused(&mut self, slot: u32) {
        let file = *self.file_at(slot);
        if file.ref_count == 0 {
            self.change_file(slot, |file| {
                file.ref_count = FREE;
                file.payer = Payer::NOBODY;
            });
            let (hash, path) = (file.hash, file.path);
            let (files, paths) = (&self.files, &self.paths);
            self.by_path.remove(hash, slot, &|other| {
                order_of_file(files, paths, other, (hash, path))
            });
            self.paths.remove(path);
            self.file_slots.free(slot);
            self.release_file_charge(file.payer, file.path_length());
        }
    }

    pub(super) fn file_at(&self, slot: u32) -> &File {
        static EMPTY: File = EMPTY_FILE;
        self.steps.count();
        self.files.get(slot as usize).unwrap_or(&EMPTY)
    }

    pub(super) fn space(&self, file: u32, kind: SpaceKind) -> Space {
        let [ranges, whole] = self.file_at(file).spaces;
        match kind {
            SpaceKind::Ranges => ranges,
            SpaceKind::WholeFile => whole,
        }
    }

    pub(super) fn change_space(
        &mut self,
        file: u32,
        kind: SpaceKind,
        change: impl FnOnce(&mut Space),
    ) {
        if let Some(file) = self.files.get_mut(file as usize) {
            let [ranges, whole] = &mut file.spaces;
            change(match kind {
                SpaceKind::Ranges => ranges,
                SpaceKind::WholeFile => whole,
            });
        }
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

    pub(super) fn holder_at(&self, slot: u32) -> &Holder {
        self.steps.count();
        holder_in(&self.holders, slot)
    }

    pub(super) fn find_holder(&self, owner: Owner, file: u32) -> Option<u32> {
        self.by_owner_and_file
            .find(hash_owner_and_file(owner, file), |slot| {
                let key = self.holder_at(slot).by_owner_and_file();
                key.cmp(&(file, owner.key()))
            })
    }
}

pub(super) fn holder_in<'t>(holders: &'t Table<'_, Holder>, slot: u32) -> &'t Holder {
    static EMPTY: Holder = EMPTY_HOLDER;
    holders.get(slot as usize).unwrap_or(&EMPTY)
}

/// The order of a file in its bucket, compared with a file of that hash and path.
fn order_of_file(
    files: &Table<'_, File>,
    paths: &PathStore<'_>,
    file: u32,
    (hash, path): (u64, StoredPath),
) -> Ordering {
    let file = files.get(file as usize).unwrap_or(&EMPTY_FILE);
    let order = file.hash.cmp(&hash);
    order.then_with(|| paths.compare_stored(file.path, path))
}

pub(super) fn hash_owner_and_file(owner: Owner, file: u32) -> u64 {
    owner.hash() ^ hash64(u64::from(file))
}
