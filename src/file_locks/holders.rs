//! The holders of a file: the owners with locks on it, and each one's tree of locks.

use core::cmp::Reverse;
use core::mem::replace;

use super::{LockTable, Owner};
use crate::invariant::Count;
use crate::store::{NONE, Portion, Table, entry, hash64};

/// The locks of one owner on one file.
#[derive(Clone, Copy, Hash)]
pub(super) struct Holder {
    pub(super) owner: Owner,
    pub(super) file: u32,
    pub(super) root: u32,
    /// The number of the holder. It rises with each new holder.
    pub(super) since: u64,
}

entry!(Holder {
    owner,
    file,
    root,
    since
});

pub(super) const EMPTY_HOLDER: Holder = Holder {
    owner: Owner::Open(0),
    file: NONE,
    root: NONE,
    since: 0,
};

impl Holder {
    /// Returns the key in the index of owners: of one owner's holders, the newest is the first.
    pub(super) fn by_owner(&self) -> ((u64, u8), Reverse<u64>) {
        (self.owner.key(), Reverse(self.since))
    }

    /// Returns the key in the index of owners and files.
    pub(super) fn by_owner_and_file(&self) -> (u32, (u64, u8)) {
        (self.file, self.owner.key())
    }
}

impl LockTable<'_> {
    pub(super) fn holder_at(&self, slot: u32) -> &Holder {
        self.steps.count();
        holder_in(&self.holders, slot)
    }

    #[inline]
    pub(super) fn find_holder(&self, owner: Owner, file: u32) -> Option<u32> {
        let of = self.file_at(file);
        let first = of.first_holder;
        if first != NONE && self.holder_at(first).owner == owner {
            return Some(first);
        }
        if of.more_holders == 0 {
            return None;
        }
        self.by_owner_and_file
            .find(hash_owner_and_file(owner, file), |slot| {
                let key = self.holder_at(slot).by_owner_and_file();
                key.cmp(&(file, owner.key()))
            })
    }

    pub(super) fn set_root(&mut self, holder: u32, root: u32) {
        if let Some(holder) = self.holders.get_mut(holder as usize) {
            holder.root = root;
        }
    }

    pub(super) fn add_holder(&mut self, owner: Owner, file: u32) -> Option<u32> {
        let slot = self.holder_slots.alloc()?;
        self.last_holder.increment();
        if let Some(holder) = self.holders.get_mut(slot as usize) {
            *holder = Holder {
                owner,
                file,
                root: NONE,
                since: self.last_holder,
            };
        }
        let holder = *self.holder_at(slot);
        let holders = &self.holders;
        self.by_owner.insert(owner.hash(), slot, &|other| {
            holder_in(holders, other).by_owner().cmp(&holder.by_owner())
        });
        let Some(of) = self.files.get_mut(file as usize) else {
            return Some(slot);
        };
        of.ref_count.increment();
        // The newest holder is often the next to go, so it is the older one that the index gets.
        let older = replace(&mut of.first_holder, slot);
        if older != NONE {
            of.more_holders.increment();
            let holder = *holder_in(holders, older);
            let hash = hash_owner_and_file(holder.owner, file);
            self.by_owner_and_file.insert(hash, older, &|other| {
                let other = holder_in(holders, other).by_owner_and_file();
                other.cmp(&holder.by_owner_and_file())
            });
        }
        Some(slot)
    }

    pub(super) fn drop_holder_if_empty(&mut self, slot: u32) {
        let holder = *self.holder_at(slot);
        if holder.root != NONE || holder.file == NONE {
            return;
        }
        let Holder { owner, file, .. } = holder;
        let holders = &self.holders;
        self.by_owner.remove(owner.hash(), slot, &|other| {
            holder_in(holders, other).by_owner().cmp(&holder.by_owner())
        });
        if let Some(of) = self.files.get_mut(file as usize) {
            of.ref_count.decrement();
            if of.first_holder == slot {
                of.first_holder = NONE;
            } else {
                of.more_holders.decrement();
                let hash = hash_owner_and_file(owner, file);
                self.by_owner_and_file.remove(hash, slot, &|other| {
                    let other = holder_in(holders, other).by_owner_and_file();
                    other.cmp(&holder.by_owner_and_file())
                });
            }
        }
        if let Some(holder) = self.holders.get_mut(slot as usize) {
            holder.file = NONE;
        }
        self.holder_slots.free(slot);
        self.recharge_file_of(owner, file);
    }

    /// Releases a portion of the locks of a holder, and serves the requests that waited for them.
    /// Returns whether that was all.
    pub(super) fn release_holder(&mut self, slot: u32, portion: &mut Portion) -> bool {
        let holder = *self.holder_at(slot);
        let mut root = holder.root;
        while root != NONE && portion.take_entry() {
            self.remove(slot, root);
            root = self.holder_at(slot).root;
        }
        self.drop_holder_if_empty(slot);
        self.serve_unblocked();
        self.drop_file_if_unused(holder.file);
        root == NONE
    }

    /// Releases a portion of the locks of an owner, on every file. Returns whether that was all.
    pub(super) fn release_owner(&mut self, owner: Owner, portion: &mut Portion) -> bool {
        let hash = owner.hash();
        while let Some(slot) = self.by_owner.find_first(hash, |slot| {
            self.holder_at(slot).owner.key().cmp(&owner.key())
        }) {
            if !self.release_holder(slot, portion) {
                return false;
            }
        }
        true
    }
}

#[cfg_attr(static_library, inline(never))]
pub(super) fn holder_in<'t>(holders: &'t Table<'_, Holder>, slot: u32) -> &'t Holder {
    static EMPTY: Holder = EMPTY_HOLDER;
    holders.get(slot as usize).unwrap_or(&EMPTY)
}

pub(super) fn hash_owner_and_file(owner: Owner, file: u32) -> u64 {
    owner.hash() ^ hash64(u64::from(file))
}
