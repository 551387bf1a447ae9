//! The index of the references, by open file and member.

use core::cmp::Ordering;

use super::{NoticeState, OpenFileTable, ReferenceKey, reference_in};
use crate::Vmid;
use crate::invariant::Count;
use crate::parts;
use crate::store::hash64;

impl OpenFileTable<'_> {
    /// Returns the first reference to the open file whose key is `key` or a higher one.
    pub(super) fn first_from(&self, key: ReferenceKey) -> Option<u32> {
        let found = self.by_number.find_first(hash64(key.open_file), |slot| {
            if self.at(slot).key(slot) < key {
                Ordering::Less
            } else {
                Ordering::Equal
            }
        });
        found.filter(|slot| self.at(*slot).open_file == key.open_file)
    }

    /// Returns the first of the member's references to the open file that `by` or a higher giver
    /// has sent; the one that is not in transit, if there is one and `by` is 0.
    pub(super) fn find_from(&self, open_file: u64, vmid: Vmid, by: u32) -> Option<u32> {
        let key = ReferenceKey {
            open_file,
            vmid: vmid.get(),
            by,
            slot: 0,
        };
        let found = self.first_from(key);
        found.filter(|slot| self.at(*slot).vmid == Some(vmid))
    }

    /// Returns the first reference to the open file.
    pub(super) fn find_any(&self, open_file: u64) -> Option<u32> {
        self.first_from(ReferenceKey {
            open_file,
            vmid: 0,
            by: 0,
            slot: 0,
        })
    }

    /// Returns the member's reference to the open file, unless that is in transit.
    pub(super) fn find_held(&self, open_file: u64, vmid: Vmid) -> Option<u32> {
        self.find_sent(open_file, vmid, 0)
    }

    /// Returns the first reference to the open file that is in transit from `by` to the member.
    pub(super) fn find_sent(&self, open_file: u64, vmid: Vmid, by: u32) -> Option<u32> {
        let found = self.find_from(open_file, vmid, by);
        found.filter(|slot| self.at(*slot).key(*slot).by == by)
    }

    /// Returns the first reference to the open file that is in transit to the member.
    pub(super) fn find_first_sent(&self, open_file: u64, vmid: Vmid) -> Option<u32> {
        self.find_from(open_file, vmid, 1)
            .filter(|_| parts::GIVEN_FILES)
    }

    /// Returns the next reference to the same open file.
    pub(super) fn next(&self, slot: u32) -> Option<u32> {
        let key = self.at(slot).key(slot);
        self.first_from(ReferenceKey {
            slot: slot.plus(1),
            ..key
        })
    }

    /// Returns the member's next reference to the same open file.
    pub(super) fn next_of(&self, slot: u32, vmid: Vmid) -> Option<u32> {
        self.next(slot)
            .filter(|slot| self.at(*slot).vmid == Some(vmid))
    }

    /// Returns the first of the member's references to the open file whose notice is one of these. Visits those
    /// before it.
    pub(super) fn find_with_notice(
        &self,
        open_file: u64,
        vmid: Vmid,
        notices: &[NoticeState],
    ) -> Option<u32> {
        let mut found = self.find_from(open_file, vmid, 0);
        while let Some(slot) = found {
            if notices.contains(&self.at(slot).notice) {
                break;
            }
            found = self.next_of(slot, vmid);
        }
        found
    }

    pub(super) fn insert_into_index(&mut self, slot: u32) {
        if parts::GIVEN_FILES && self.at(slot).is_sent() {
            self.insert_sent(slot);
        } else {
            self.insert_key(slot);
        }
    }

    /// Like [`OpenFileTable::insert_into_index`], of a reference in transit.
    #[inline(never)]
    pub(super) fn insert_sent(&mut self, slot: u32) {
        let in_transit = self.in_transit_with(slot);
        self.insert_key(slot);
        self.set_in_transit(slot, in_transit.plus(1));
    }

    #[inline]
    pub(super) fn insert_key(&mut self, slot: u32) {
        let key = self.at(slot).key(slot);
        let references = &self.references;
        self.by_number
            .insert(hash64(key.open_file), slot, &|other| {
                reference_in(references, other).key(other).cmp(&key)
            });
    }

    pub(super) fn remove_from_index(&mut self, slot: u32) {
        if parts::GIVEN_FILES && self.at(slot).is_sent() {
            self.remove_sent(slot);
        } else {
            self.remove_key(slot);
        }
    }

    /// Like [`OpenFileTable::remove_from_index`], of a reference in transit.
    #[inline(never)]
    pub(super) fn remove_sent(&mut self, slot: u32) {
        let in_transit = self.in_transit_with(slot);
        self.remove_key(slot);
        self.set_in_transit(slot, in_transit.minus(1));
    }

    #[inline]
    pub(super) fn remove_key(&mut self, slot: u32) {
        let key = self.at(slot).key(slot);
        let references = &self.references;
        self.by_number
            .remove(hash64(key.open_file), slot, &|other| {
                reference_in(references, other).key(other).cmp(&key)
            });
    }

    /// Returns the first reference in transit to the same member, if the open file is in transit with
    /// that in the slot: it counts them all.
    pub(super) fn first_in_transit(&self, slot: u32) -> Option<u32> {
        let reference = self.at(slot);
        let vmid = reference.vmid?;
        reference
            .is_sent()
            .then(|| self.find_first_sent(reference.open_file, vmid))?
    }

    /// Returns the number of references in transit to the same member, if the open file is in transit with that in
    /// the slot.
    fn in_transit_with(&self, slot: u32) -> u32 {
        let first = self.first_in_transit(slot);
        first.map_or(0, |first| self.at(first).in_transit)
    }

    fn set_in_transit(&mut self, slot: u32, number: u32) {
        if let Some(slot) = self.first_in_transit(slot)
            && let Some(first) = self.at_mut(slot)
        {
            first.in_transit = number;
        }
    }
}
