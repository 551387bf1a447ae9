//! A table of numbers (IDs, or VMIDs), each with the process that answers for it and the process that it is
//! meant for.

use core::cmp::Ordering;

use crate::error::Error;
use crate::invariant::OrBroken;
use crate::store::{Arena, Digest, HashIndex, SlotAllocator, Table, bytes_for, hash64, total};

#[derive(Clone, Copy, Default, Hash)]
pub(super) struct Grant {
    pub(super) number: u32,
    /// The VMID of the process that it is meant for.
    pub(super) to: u32,
    /// The VMID of the process that answers for it; 0: none does.
    pub(super) giver: u32,
}

/// A field of a grant that an index finds it by.
#[derive(Clone, Copy)]
pub(super) enum Key {
    Number,
    To,
    Giver,
}

impl Grant {
    fn field(&self, key: Key) -> u32 {
        match key {
            Key::Number => self.number,
            Key::To => self.to,
            Key::Giver => self.giver,
        }
    }

    /// The order of grants in an index.
    fn order(&self, key: Key, than: &Grant) -> Ordering {
        let key = |grant: &Grant| (grant.field(key), grant.number);
        key(self).cmp(&key(than))
    }
}

/// The grants; no two have the same number.
pub(super) struct Grants<'m> {
    entries: Table<'m, Grant>,
    slots: SlotAllocator<'m>,
    /// In the order of [`KEYS`].
    indexes: [HashIndex<'m>; 3],
}

const KEYS: [Key; 3] = [Key::Number, Key::To, Key::Giver];

impl<'m> Grants<'m> {
    pub(super) const fn bytes(capacity: usize) -> usize {
        total!(
            bytes_for::<Grant>(capacity),
            SlotAllocator::bytes(capacity),
            HashIndex::bytes(capacity),
            HashIndex::bytes(capacity),
            HashIndex::bytes(capacity),
        )
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        let mut index = || HashIndex::new(arena, capacity);
        let indexes = [index()?, index()?, index()?];
        Ok(Grants {
            entries: arena.alloc_table(capacity, |_| Ok(Grant::default()))?,
            slots: SlotAllocator::new(arena, capacity)?,
            indexes,
        })
    }

    pub(super) fn digest(&self, digest: &mut Digest) {
        self.slots.digest(digest);
        let slots = self.slots.high_water() as usize;
        digest.add_all(self.entries.iter().take(slots));
    }

    pub(super) fn has_room(&self) -> bool {
        self.slots.remaining() > 0
    }

    /// Returns the grant with that value in the field; of several the one with the lowest number.
    pub(super) fn first(&self, key: Key, value: u32) -> Option<Grant> {
        self.slot_of(key, value).map(|slot| self.at(slot))
    }

    /// Adds a grant, in place of one with the same number. False if there is no room.
    pub(super) fn set(&mut self, grant: Grant) -> bool {
        let known = self.slot_of(Key::Number, grant.number);
        if let Some(slot) = known {
            self.index(slot, false);
        }
        let Some(slot) = known.or_else(|| self.slots.alloc()) else {
            return false;
        };
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            *entry = grant;
        }
        self.index(slot, true);
        true
    }

    /// Removes the grant with that number.
    pub(super) fn remove(&mut self, number: u32) {
        let Some(slot) = self.slot_of(Key::Number, number) else {
            return;
        };
        self.index(slot, false);
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            *entry = Grant::default();
        }
        self.slots.free(slot);
    }

    fn at(&self, slot: u32) -> Grant {
        self.entries
            .get(slot as usize)
            .copied()
            .or_broken(Grant::default())
    }

    #[inline(never)]
    fn slot_of(&self, key: Key, value: u32) -> Option<u32> {
        let [by_number, by_to, by_giver] = &self.indexes;
        let index = match key {
            Key::Number => by_number,
            Key::To => by_to,
            Key::Giver => by_giver,
        };
        index.find_first(hash64(value.into()), |slot| {
            self.at(slot).field(key).cmp(&value)
        })
    }

    /// Adds the slot to the indexes, or removes it from them.
    #[inline(never)]
    fn index(&mut self, slot: u32, is_added: bool) {
        let grant = self.at(slot);
        let entries = &self.entries;
        for (index, key) in self.indexes.iter_mut().zip(KEYS) {
            let order = |other: u32| {
                let other = entries.get(other as usize).copied();
                other.or_broken(Grant::default()).order(key, &grant)
            };
            let hash = hash64(grant.field(key).into());
            if is_added {
                index.insert(hash, slot, &order);
            } else {
                index.remove(hash, slot, &order);
            }
        }
    }
}
