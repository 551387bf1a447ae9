//! The VMIDs that the leader has given out, or that the embedder has announced: each is used by one process.
//!
//! VMIDs are given out in rising order. So the table contains only those that a process may still use, and
//! those of connected processes: any other VMID below the next one is used up.

use core::cmp::Ordering;
use core::hash::Hasher;

use crate::Vmid;
use crate::error::{Error, Resource};
use crate::invariant::OrBroken;
use crate::store::{
    Arena, Digest, HashIndex, NONE, SlotAllocator, Table, bytes_for, hash64, total,
};

/// The greatest number of unused VMIDs, for any number of ranges.
const MAX_UNUSED: usize = 4096;

/// The process that an entry belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Holder {
    /// The process that asked for it has left, or the embedder has announced it. At the limit of the table
    /// the lowest of these is used up.
    Nobody,
    /// No process may use it any more. It is not below the next VMID yet.
    UsedUp,
    /// The process that has asked for it, until one connects with it; then that one.
    Process(Vmid),
}

#[derive(Clone, Copy, Hash)]
struct Entry {
    vmid: u32,
    holder: Holder,
}

const EMPTY: Entry = Entry {
    vmid: 0,
    holder: Holder::Nobody,
};

pub(in crate::leader) struct Vmids<'m> {
    /// The next VMID; `None` when all are used up.
    next: Option<Vmid>,
    entries: Table<'m, Entry>,
    slots: SlotAllocator<'m>,
    by_vmid: HashIndex<'m>,
    /// Ordered by the holder, and then by the VMID.
    by_holder: HashIndex<'m>,
}

impl<'m> Vmids<'m> {
    /// The number of VMIDs that may be unused or in use, for a leader of that many ranges and processes.
    pub(in crate::leader) const fn capacity(ranges: usize, processes: usize) -> usize {
        let unused = total!(ranges.div_ceil(4), 16);
        total!(
            if unused < MAX_UNUSED {
                unused
            } else {
                MAX_UNUSED
            },
            processes
        )
    }

    pub(in crate::leader) const fn bytes(capacity: usize) -> usize {
        total!(
            bytes_for::<Entry>(capacity),
            SlotAllocator::bytes(capacity),
            HashIndex::bytes(capacity),
            HashIndex::bytes(capacity),
        )
    }

    pub(in crate::leader) fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        Ok(Vmids {
            next: Vmid::new(2),
            entries: arena.alloc_table(capacity, |_| Ok(EMPTY))?,
            slots: SlotAllocator::new(arena, capacity)?,
            by_vmid: HashIndex::new(arena, capacity)?,
            by_holder: HashIndex::new(arena, capacity)?,
        })
    }

    pub(in crate::leader) fn digest(&self, digest: &mut Digest) {
        digest.write_u32(self.next.map_or(0, Vmid::get));
        self.slots.digest(digest);
        let slots = self.slots.high_water() as usize;
        digest.add_all(self.entries.iter().take(slots));
    }

    /// Whether the VMID was not given out yet.
    pub(in crate::leader) fn is_ahead(&self, vmid: Vmid) -> bool {
        self.next.is_some_and(|next| vmid >= next)
    }

    /// Whether a process may connect with that VMID: it was given out or announced, and no process has used it.
    pub(in crate::leader) fn is_unused(&self, vmid: Vmid) -> bool {
        let slot = self.find(vmid);
        slot.is_some_and(|slot| match self.entry(slot).holder {
            Holder::Nobody => true,
            Holder::UsedUp => false,
            Holder::Process(by) => by != vmid,
        })
    }

    /// Returns the next VMID, for a process that `by` is about to start; `None` when all are used up, or so
    /// many that were given out are not used yet.
    pub(in crate::leader) fn issue(&mut self, by: Vmid) -> Option<Vmid> {
        if self.slots.remaining() == 0 && !self.make_room() {
            return None;
        }
        let vmid = self.next?;
        self.advance(vmid);
        self.add(vmid, Holder::Process(by));
        Some(vmid)
    }

    /// Admits a VMID that the embedder has chosen. It is not given out any more.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it was used already; [`Error::Full`] if too many are not used yet.
    pub(in crate::leader) fn announce(&mut self, vmid: Vmid) -> Result<(), Error> {
        if let Some(slot) = self.find(vmid) {
            return match self.entry(slot).holder {
                Holder::UsedUp => Err(Error::Invalid),
                Holder::Nobody | Holder::Process(_) => Ok(()),
            };
        }
        if !self.is_ahead(vmid) {
            return Err(Error::Invalid);
        }
        if self.slots.remaining() == 0 && !self.make_room() {
            return Err(Error::Full(Resource::Ranges));
        }
        self.add(vmid, Holder::Nobody);
        if self.next == Some(vmid) {
            self.advance(vmid);
        }
        Ok(())
    }

    /// Records that a process is connected with that VMID.
    pub(in crate::leader) fn on_connected(&mut self, vmid: Vmid) {
        self.set_holder(vmid, Holder::Process(vmid));
    }

    /// Lets a process connect with that VMID although one has used it.
    pub(in crate::leader) fn allow_return(&mut self, vmid: Vmid) {
        self.set_holder(vmid, Holder::Nobody);
    }

    /// Records that the process with that VMID has left, or will never come.
    pub(in crate::leader) fn on_left(&mut self, vmid: Vmid) {
        let Some(slot) = self.find(vmid) else {
            return;
        };
        if self.entry(slot).holder == Holder::Nobody {
            // It may come back.
        } else if self.is_ahead(vmid) {
            self.set_holder(vmid, Holder::UsedUp);
        } else {
            self.remove(slot);
        }
    }

    /// Keeps the unused VMIDs that `by`, which has left, has asked for, up to `limit`, as those of nobody: the
    /// processes may have been started. True when that was all.
    pub(in crate::leader) fn release(&mut self, by: Vmid, limit: usize) -> bool {
        for _ in 0..limit {
            let Some(slot) = self.first_of(Holder::Process(by)) else {
                return true;
            };
            match Vmid::new(self.entry(slot).vmid) {
                Some(vmid) => self.set_holder(vmid, Holder::Nobody),
                None => return true,
            }
        }
        false
    }

    /// Makes the VMID after `vmid` the next one, if that was not announced.
    fn advance(&mut self, vmid: Vmid) {
        let mut vmid = vmid;
        loop {
            self.next = vmid.get().checked_add(1).and_then(Vmid::new);
            let Some((next, slot)) = self.next.and_then(|next| Some((next, self.find(next)?)))
            else {
                return;
            };
            if self.entry(slot).holder == Holder::UsedUp {
                self.remove(slot);
            }
            vmid = next;
        }
    }

    /// Removes the entry that is needed least. False if all are needed.
    fn make_room(&mut self) -> bool {
        let nobodys = self.first_of(Holder::Nobody);
        let Some(slot) = nobodys.or_else(|| self.first_of(Holder::UsedUp)) else {
            return false;
        };
        let vmid = self.entry(slot).vmid;
        self.remove(slot);
        // It is used up, since it is below the next one.
        if let Some(vmid) = Vmid::new(vmid).filter(|vmid| self.is_ahead(*vmid)) {
            self.advance(vmid);
        }
        true
    }

    fn entry(&self, slot: u32) -> Entry {
        self.entries.get(slot as usize).copied().or_broken(EMPTY)
    }

    fn find(&self, vmid: Vmid) -> Option<u32> {
        let vmid = vmid.get();
        self.by_vmid
            .find(hash64(vmid.into()), |slot| self.entry(slot).vmid.cmp(&vmid))
    }

    /// Returns the entry of that holder with the lowest VMID.
    fn first_of(&self, holder: Holder) -> Option<u32> {
        let order = |slot| self.entry(slot).holder.cmp(&holder);
        self.by_holder.find_first(hash_holder(holder), order)
    }

    fn set_holder(&mut self, vmid: Vmid, holder: Holder) {
        if let Some(slot) = self.find(vmid) {
            self.unlink(slot);
            self.link(
                slot,
                Entry {
                    holder,
                    ..self.entry(slot)
                },
            );
        }
    }

    fn add(&mut self, vmid: Vmid, holder: Holder) {
        let Some(slot) = self.slots.alloc() else {
            return;
        };
        let vmid = vmid.get();
        let entries = &self.entries;
        self.by_vmid.insert(hash64(vmid.into()), slot, &|other| {
            vmid_at(entries, other).cmp(&vmid)
        });
        self.link(slot, Entry { vmid, holder });
    }

    fn remove(&mut self, slot: u32) {
        self.unlink(slot);
        let vmid = self.entry(slot).vmid;
        let entries = &self.entries;
        self.by_vmid.remove(hash64(vmid.into()), slot, &|other| {
            vmid_at(entries, other).cmp(&vmid)
        });
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            *entry = EMPTY;
        }
        self.slots.free(slot);
    }

    /// Stores the entry in the slot, and adds the slot to the index of holders.
    fn link(&mut self, slot: u32, entry: Entry) {
        if let Some(place) = self.entries.get_mut(slot as usize) {
            *place = entry;
        }
        let entries = &self.entries;
        let order = |other| order(entries, other, &entry);
        self.by_holder
            .insert(hash_holder(entry.holder), slot, &order);
    }

    fn unlink(&mut self, slot: u32) {
        let entry = self.entry(slot);
        let entries = &self.entries;
        let order = |other| order(entries, other, &entry);
        self.by_holder
            .remove(hash_holder(entry.holder), slot, &order);
    }
}

fn vmid_at(entries: &Table<'_, Entry>, slot: u32) -> u32 {
    entries.get(slot as usize).map_or(0, |entry| entry.vmid)
}

/// The order of the entry in that slot and another one, in the index of holders.
fn order(entries: &Table<'_, Entry>, slot: u32, than: &Entry) -> Ordering {
    let key = |entry: &Entry| (entry.holder, entry.vmid);
    key(entries.get(slot as usize).or_broken(&EMPTY)).cmp(&key(than))
}

fn hash_holder(holder: Holder) -> u64 {
    hash64(match holder {
        Holder::Nobody => 0,
        Holder::UsedUp => u64::from(NONE).wrapping_add(1),
        Holder::Process(vmid) => vmid.get().into(),
    })
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::collections::{BTreeMap, BTreeSet};
    use std::vec::Vec;

    use super::*;

    const ROOM: usize = 6;

    fn vmid(number: u32) -> Vmid {
        Vmid::new(number).unwrap()
    }

    fn with_room(room: usize, test: impl FnOnce(&mut Vmids<'_>)) {
        let mut memory = Box::new_uninit_slice(Vmids::bytes(room));
        test(&mut Vmids::new(&mut Arena::new(&mut memory), room).unwrap());
    }

    fn issue(vmids: &mut Vmids<'_>, by: u32) -> Option<u32> {
        vmids.issue(vmid(by)).map(Vmid::get)
    }

    fn unused(vmids: &Vmids<'_>, below: u32) -> Vec<u32> {
        let all = (2..below).filter(|number| vmids.is_unused(vmid(*number)));
        all.collect()
    }

    #[test]
    fn vmid_is_used_by_one_process_unless_it_may_come_back() {
        with_room(ROOM, |vmids| {
            assert_eq!([issue(vmids, 1), issue(vmids, 1)], [Some(2), Some(3)]);
            assert_eq!(unused(vmids, 9), [2, 3]);
            for number in [2, 3] {
                vmids.on_connected(vmid(number));
            }
            assert_eq!(unused(vmids, 9), []);
            vmids.on_left(vmid(2));
            vmids.allow_return(vmid(3));
            vmids.on_left(vmid(3));
            assert_eq!(unused(vmids, 9), [3]);
            vmids.on_connected(vmid(3));
            vmids.on_left(vmid(3));
            assert_eq!(unused(vmids, 9), []);
            assert_eq!(vmids.slots.in_use(), 0);
        });
    }

    #[test]
    fn unused_vmids_of_a_process_that_left_make_room_first_and_others_do_not() {
        with_room(ROOM, |vmids| {
            for number in 2..8 {
                assert_eq!(issue(vmids, 1 + number % 2), Some(number));
            }
            // No more while all that asked are there; a connected process is not in the way of its own.
            assert_eq!(issue(vmids, 1), None);
            assert!(!vmids.release(vmid(2), 2));
            assert!(vmids.release(vmid(2), 2));
            assert_eq!(unused(vmids, 20), [2, 3, 4, 5, 6, 7]);
            for number in 8..11 {
                assert_eq!(issue(vmids, 1), Some(number));
            }
            assert_eq!(issue(vmids, 1), None);
            assert_eq!(unused(vmids, 20), [2, 4, 6, 8, 9, 10]);
        });
    }

    #[test]
    fn announced_vmid_is_not_given_out_and_is_used_once() {
        with_room(ROOM, |vmids| {
            for number in [4, 9, 3] {
                assert_eq!(vmids.announce(vmid(number)), Ok(()));
            }
            assert_eq!(vmids.announce(vmid(9)), Ok(()), "again");
            assert_eq!([issue(vmids, 1), issue(vmids, 1)], [Some(2), Some(5)]);
            for number in [4, 9] {
                vmids.on_connected(vmid(number));
                vmids.on_left(vmid(number));
                assert_eq!(vmids.announce(vmid(number)), Err(Error::Invalid));
                assert!(!vmids.is_unused(vmid(number)));
            }
            for number in [6, 7, 8, 10] {
                assert_eq!(issue(vmids, 1), Some(number));
                vmids.on_left(vmid(number));
            }
        });
    }

    #[test]
    fn embedder_may_announce_any_number_of_processes_one_after_another() {
        with_room(2, |vmids| {
            for number in (2..200).chain((1_000..2_000).step_by(7)) {
                assert_eq!(vmids.announce(vmid(number)), Ok(()));
                vmids.on_connected(vmid(number));
                vmids.on_left(vmid(number));
                assert!(!vmids.is_unused(vmid(number)));
            }
            // The numbers between those that were used are used up with them.
            assert_eq!(issue(vmids, 1), Some(1_988));
        });
    }

    #[test]
    fn random_programs_never_use_a_vmid_twice() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..300 {
            with_room(ROOM, |vmids| {
                // The connected processes, and those that have left for good.
                let (mut connected, mut left) = (BTreeMap::new(), BTreeSet::new());
                for _ in 0..100 {
                    let number = rng.u32(2..14);
                    let at = vmid(number);
                    match rng.u8(..6) {
                        0 => {
                            if let Some(new) = vmids.issue(vmid(rng.u32(1..4))) {
                                assert!(!left.contains(&new) && !connected.contains_key(&new));
                            }
                        }
                        1 => drop(vmids.announce(at)),
                        2 => {
                            if vmids.is_unused(at) && !connected.contains_key(&at) {
                                assert!(!left.contains(&at), "{at:?}");
                                vmids.on_connected(at);
                                connected.insert(at, false);
                            }
                        }
                        3 => {
                            if let Some(returns) = connected.remove(&at) {
                                vmids.on_left(at);
                                if !returns {
                                    left.insert(at);
                                }
                            }
                        }
                        4 => {
                            if let Some(returns) = connected.get_mut(&at) {
                                vmids.allow_return(at);
                                *returns = true;
                            }
                        }
                        _ => drop(vmids.release(vmid(rng.u32(1..4)), 9)),
                    }
                }
            });
        }
    }
}
