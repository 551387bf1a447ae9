//! A table of numbers (IDs, or VMIDs), each with the process that answers for it and the process that it is
//! meant for.

use core::cmp::Ordering;
use core::mem::replace;

use crate::Vmid;
use crate::invariant::OrBroken;
use crate::store::{
    Arena, Digest, HashIndex, Payer, Quotas, SlotAllocator, Table, bytes_for, entry, hash64, image,
    memory_sum,
};

#[derive(Clone, Copy, Default, Hash)]
pub(super) struct Grant {
    pub(super) number: u32,
    /// The VMID of the process that it is meant for.
    pub(super) to: u32,
    /// The VMID of the process that answers for it; 0: none does.
    pub(super) giver: u32,
}

entry!(Grant { number, to, giver });

image!(Grants<'_> {
    tables {
        entries: slots.high_water() as usize => Grant::default(),
        payers: slots.high_water() as usize => Payer::NOBODY,
    }
    parts { slots, quotas }
    omitted { indexes }
});

/// The table of the quota: each grant is charged to its giver. One that no process answers for is charged to
/// nobody, because it gives way to others.
const GRANTS: usize = 0;

/// A field of a grant that an index finds it by.
#[derive(Clone, Copy)]
pub(super) enum GrantKey {
    Number,
    To,
    Giver,
}

impl Grant {
    fn field(&self, key: GrantKey) -> u32 {
        match key {
            GrantKey::Number => self.number,
            GrantKey::To => self.to,
            GrantKey::Giver => self.giver,
        }
    }

    /// Returns the order of grants in an index.
    fn order(&self, key: GrantKey, than: &Grant) -> Ordering {
        let key = |grant: &Grant| (grant.field(key), grant.number);
        key(self).cmp(&key(than))
    }
}

/// The grants; no two have the same number.
pub(in crate::leader) struct Grants<'m> {
    entries: Table<'m, Grant>,
    slots: SlotAllocator<'m>,
    /// In the order of [`KEYS`].
    indexes: [HashIndex<'m>; 3],
    payers: Table<'m, Payer>,
    quotas: Quotas<'m>,
}

const KEYS: [GrantKey; 3] = [GrantKey::Number, GrantKey::To, GrantKey::Giver];

impl<'m> Grants<'m> {
    pub(super) const fn bytes(capacity: usize, members: usize) -> usize {
        memory_sum!(
            bytes_for::<Payer>(capacity),
            Quotas::bytes(members),
            bytes_for::<Grant>(capacity),
            SlotAllocator::bytes(capacity),
            HashIndex::bytes(capacity),
            HashIndex::bytes(capacity),
            HashIndex::bytes(capacity),
        )
    }

    /// Makes an empty table, which at most `members` share by quotas; 0: there are no quotas.
    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize, members: usize) -> Self {
        Grants {
            entries: arena.alloc_filled(capacity, &Grant::default()),
            slots: SlotAllocator::new(arena, capacity),
            indexes: [(); 3].map(|()| HashIndex::new(arena, capacity)),
            payers: arena.alloc_filled(capacity, &Payer::NOBODY),
            quotas: Quotas::new(arena, members, &[capacity]),
        }
    }

    pub(super) fn digest(&self, digest: &mut Digest) {
        self.slots.digest(digest);
        let slots = self.slots.high_water() as usize;
        digest.add_all(self.entries.iter().take(slots));
        digest.add_all(self.payers.iter().take(slots));
        self.quotas.digest(digest);
    }

    /// Makes what is not in an image. Returns false if the image was none.
    pub(in crate::leader) fn complete_image(&mut self) -> bool {
        self.indexes.iter_mut().for_each(HashIndex::clear);
        let is_valid = self.slots.is_valid() && self.quotas.complete_image();
        if is_valid {
            for slot in 0..self.slots.high_water() {
                if self.at(slot).number != 0 {
                    self.index(slot, true);
                }
            }
        }
        is_valid
    }

    /// Returns true if the quota of the process allows another grant. If not, the refusal is counted.
    pub(super) fn may_grow(&mut self, giver: Vmid) -> bool {
        self.quotas.may_grow(giver, GRANTS, 1)
    }

    /// Returns the number of requests that were refused because of a quota.
    pub(in crate::leader) fn refused_by_quota(&self) -> u64 {
        self.quotas.refused()
    }

    /// Records that a process has left. Its grants are removed, or given to others, later.
    pub(super) fn on_left(&mut self, vmid: Vmid) {
        self.quotas.on_left(vmid);
    }

    /// Returns true if the charges agree with the table. It is slow, and meant for tests.
    pub(in crate::leader) fn check_quotas(&self) -> bool {
        let charged = self.entries.iter().filter(|grant| grant.giver != 0);
        self.quotas.check(&[charged.count()], &[GRANTS])
    }

    /// Returns the number of grants that the process pays for.
    pub(in crate::leader) fn charge_of(&self, giver: Vmid) -> usize {
        self.quotas.charge_of(giver, GRANTS)
    }

    /// Returns the number of table entries that were visited.
    #[cfg(debug_assertions)]
    pub(super) fn steps(&self) -> u64 {
        let steps = self.indexes.iter().map(HashIndex::steps);
        steps.fold(0, u64::wrapping_add)
    }

    pub(super) fn has_room(&self) -> bool {
        self.slots.remaining() > 0
    }

    /// Returns the grant with that value in the field; of several the one with the lowest number.
    pub(super) fn first(&self, key: GrantKey, value: u32) -> Option<Grant> {
        self.slot_of(key, value).map(|slot| self.at(slot))
    }

    /// Adds a grant, in place of one with the same number. Returns false if there is no room.
    pub(super) fn set(&mut self, grant: Grant) -> bool {
        let known = self.slot_of(GrantKey::Number, grant.number);
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
        self.charge(slot, grant.giver);
        true
    }

    /// Charges the grant to that process, 0 for nobody, in place of the last payer.
    fn charge(&mut self, slot: u32, giver: u32) {
        let payer = match Vmid::new(giver) {
            Some(giver) => self.quotas.charge(giver, GRANTS, 1),
            None => Payer::NOBODY,
        };
        if let Some(place) = self.payers.get_mut(slot as usize) {
            let before = replace(place, payer);
            if before != Payer::NOBODY {
                self.quotas.release(before, GRANTS, 1);
            }
        }
    }

    /// Removes the grant with that number.
    pub(super) fn remove(&mut self, number: u32) {
        let Some(slot) = self.slot_of(GrantKey::Number, number) else {
            return;
        };
        self.index(slot, false);
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            *entry = Grant::default();
        }
        self.charge(slot, 0);
        self.slots.free(slot);
    }

    fn at(&self, slot: u32) -> Grant {
        self.entries
            .get(slot as usize)
            .copied()
            .or_broken(Grant::default())
    }

    #[inline(never)]
    fn slot_of(&self, key: GrantKey, value: u32) -> Option<u32> {
        let [by_number, by_to, by_giver] = &self.indexes;
        let index = match key {
            GrantKey::Number => by_number,
            GrantKey::To => by_to,
            GrantKey::Giver => by_giver,
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
