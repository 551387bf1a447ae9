//! Which files and holders there are.

use super::delegation::Loan;
use super::names::{self, Name};
use super::{Locks, Owner};
use crate::store::{NONE, hash64};

/// The two kinds of locks that don't see each other; and requests that are held up until a file
/// that is lent comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpaceName {
    Ranges = 0,
    Whole = 1,
    HeldUp = 2,
}

/// The locks of one kind on one file, and who waits for one.
#[derive(Clone, Copy)]
pub(super) struct Space {
    pub(super) reads: u32,
    pub(super) writes: u32,
    pub(super) first_waiting: u32,
    pub(super) last_waiting: u32,
}

const EMPTY: Space = Space {
    reads: NONE,
    writes: NONE,
    first_waiting: NONE,
    last_waiting: NONE,
};

#[derive(Clone, Copy)]
pub(super) struct File {
    pub(super) hash: u64,
    name: Name,
    spaces: [Space; 3],
    /// To whom the ranges are lent.
    pub(super) loan: Option<Loan>,
    /// Locks that are held.
    pub(super) locks: usize,
    /// Holders, waiting requests and a loan; [`UNUSED`] if there is no file at this place.
    users: u32,
}

pub(super) const NO_FILE: File = File {
    hash: 0,
    name: Name::EMPTY,
    spaces: [EMPTY; 3],
    loan: None,
    locks: 0,
    users: UNUSED,
};

const UNUSED: u32 = u32::MAX;

/// One owner's locks on one file.
#[derive(Clone, Copy)]
pub(super) struct Holder {
    pub(super) owner: Owner,
    pub(super) file: u32,
    pub(super) root: u32,
    /// Later holders have higher numbers.
    pub(super) since: u64,
}

pub(super) const NO_HOLDER: Holder = Holder {
    owner: Owner::Open(0),
    file: NONE,
    root: NONE,
    since: 0,
};

impl Locks<'_> {
    pub(crate) fn file(&self, path: &[u8]) -> Option<u32> {
        self.file_hashed(path, names::hash(path))
    }

    pub(crate) fn file_hashed(&self, path: &[u8], hash: u64) -> Option<u32> {
        self.by_name.find(hash, |place| {
            let file = self.file_at(place);
            file.hash == hash && self.names.is(file.name, path)
        })
    }

    pub(super) fn add_file(&mut self, path: &[u8], hash: u64) -> Option<u32> {
        let name = self.names.keep(path)?;
        let Some(place) = self.file_places.alloc() else {
            self.names.forget(name);
            return None;
        };
        if let Some(file) = self.files.get_mut(place as usize) {
            *file = File {
                hash,
                name,
                users: 0,
                ..NO_FILE
            };
        }
        self.by_name.insert(hash, place);
        Some(place)
    }

    pub(super) fn drop_unused(&mut self, place: u32) {
        let file = *self.file_at(place);
        if file.users == 0 {
            if let Some(file) = self.files.get_mut(place as usize) {
                file.users = UNUSED;
            }
            self.by_name.remove(file.hash, place);
            self.names.forget(file.name);
            self.file_places.free(place);
        }
    }

    pub(super) fn file_at(&self, place: u32) -> &File {
        static NOWHERE: File = NO_FILE;
        self.files.get(place as usize).unwrap_or(&NOWHERE)
    }

    pub(super) fn space(&self, file: u32, name: SpaceName) -> Space {
        let [ranges, whole, held_up] = self.file_at(file).spaces;
        match name {
            SpaceName::Ranges => ranges,
            SpaceName::Whole => whole,
            SpaceName::HeldUp => held_up,
        }
    }

    pub(super) fn change_space(
        &mut self,
        file: u32,
        name: SpaceName,
        change: impl FnOnce(&mut Space),
    ) {
        if let Some(file) = self.files.get_mut(file as usize) {
            let [ranges, whole, held_up] = &mut file.spaces;
            change(match name {
                SpaceName::Ranges => ranges,
                SpaceName::Whole => whole,
                SpaceName::HeldUp => held_up,
            });
        }
    }

    pub(super) fn change_users(&mut self, file: u32, change: i32) {
        if let Some(file) = self.files.get_mut(file as usize) {
            file.users = file.users.saturating_add_signed(change);
        }
    }

    pub(super) fn holder_at(&self, place: u32) -> &Holder {
        static NOBODY: Holder = NO_HOLDER;
        self.holders.get(place as usize).unwrap_or(&NOBODY)
    }

    pub(super) fn holder(&self, owner: Owner, file: u32) -> Option<u32> {
        self.by_owner_and_file.find(of_both(owner, file), |place| {
            let holder = self.holder_at(place);
            holder.owner == owner && holder.file == file
        })
    }
}

pub(super) fn of_both(owner: Owner, file: u32) -> u64 {
    owner.hash() ^ hash64(u64::from(file))
}
