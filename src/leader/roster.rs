//! The connected members, with the number of the frames that each exchanged with the leader: a leader that
//! succeeds this one learns from the numbers which frames are to be sent again.

use core::hash::{Hash, Hasher};

use crate::Vmid;
use crate::invariant::Count;
use crate::store::{
    Arena, Digest, HAS_REPLICAS, SlotAllocator, SortedMap, Table, bytes_for, entry, image,
    memory_sum,
};

/// The counts of one member.
#[derive(Clone, Copy, Default, Hash)]
struct Member {
    /// The frames of the member that were applied, as far as they are counted.
    taken: u64,
    /// The messages that were queued for the member and are no answers.
    given: u64,
    is_extended: bool,
}

/// The members that are connected with the leader's process. A roster without room stays empty.
pub(super) struct Roster<'m> {
    members: Table<'m, Member>,
    slots: SlotAllocator<'m>,
    by_vmid: SortedMap<'m>,
}

entry!(Member {
    taken,
    given,
    is_extended
});

image!(Roster<'_> {
    tables { members: slots.high_water() as usize => Member::default() }
    parts { slots, by_vmid }
});

impl<'m> Roster<'m> {
    pub(super) const fn bytes(capacity: usize) -> usize {
        memory_sum!(
            bytes_for::<Member>(capacity),
            SlotAllocator::bytes(capacity),
            SortedMap::bytes(capacity),
        )
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize) -> Self {
        Roster {
            members: arena.alloc_filled(capacity, &Member::default()),
            slots: SlotAllocator::new(arena, capacity),
            by_vmid: SortedMap::new(arena, capacity),
        }
    }

    /// Makes what is not in an image. Returns false if the image was none.
    pub(super) fn complete_image(&mut self) -> bool {
        self.slots.is_valid() && self.by_vmid.is_valid(self.members.len())
    }

    pub(super) fn digest(&self, digest: &mut Digest) {
        self.slots.digest(digest);
        let mut last = 0;
        while let Some(vmid) = self.by_vmid.next(last) {
            digest.write_u32(vmid);
            self.by_vmid.get(vmid).hash(digest);
            self.find(Vmid::new(vmid)).hash(digest);
            last = vmid;
        }
    }

    /// Returns the number of table entries that were visited.
    #[cfg(debug_assertions)]
    pub(super) fn steps(&self) -> u64 {
        self.by_vmid.steps()
    }

    fn find_slot(&self, vmid: Vmid) -> Option<u32> {
        if HAS_REPLICAS {
            self.by_vmid.get(vmid.get())
        } else {
            None
        }
    }

    fn find(&self, vmid: Option<Vmid>) -> Option<&Member> {
        self.members.get(self.find_slot(vmid?)? as usize)
    }

    fn find_mut(&mut self, vmid: Vmid) -> Option<&mut Member> {
        let slot = self.find_slot(vmid)?;
        self.members.get_mut(slot as usize)
    }

    pub(super) fn is_empty(&self) -> bool {
        !HAS_REPLICAS || self.by_vmid.len() == 0
    }

    pub(super) fn has(&self, vmid: Vmid) -> bool {
        self.find_slot(vmid).is_some()
    }

    pub(super) fn is_extended(&self, vmid: Vmid) -> bool {
        self.find(Some(vmid))
            .is_some_and(|member| member.is_extended)
    }

    pub(super) fn taken(&self, vmid: Vmid) -> Option<u64> {
        Some(self.find(Some(vmid))?.taken)
    }

    pub(super) fn given(&self, vmid: Vmid) -> Option<u64> {
        Some(self.find(Some(vmid))?.given)
    }

    pub(super) fn next(&self, after: Option<Vmid>) -> Option<Vmid> {
        self.by_vmid
            .next(after.map_or(0, Vmid::get))
            .and_then(Vmid::new)
    }

    /// Adds a member with counts of 0. One that is there keeps its counts: it is connected with a new leader
    /// that has its state.
    pub(super) fn add(&mut self, vmid: Vmid) {
        if !HAS_REPLICAS || self.has(vmid) {
            return;
        }
        let Some(slot) = self.slots.alloc() else {
            return;
        };
        self.by_vmid.insert(vmid.get(), slot);
        if let Some(member) = self.members.get_mut(slot as usize) {
            *member = Member::default();
        }
    }

    pub(super) fn remove(&mut self, vmid: Vmid) {
        if let Some(slot) = self.find_slot(vmid) {
            self.by_vmid.remove(vmid.get());
            self.slots.free(slot);
        }
    }

    pub(super) fn mark_extended(&mut self, vmid: Vmid) {
        if let Some(member) = self.find_mut(vmid) {
            member.is_extended = true;
        }
    }

    pub(super) fn count_taken(&mut self, from: Vmid) {
        if let Some(member) = self.find_mut(from) {
            member.taken.increment();
        }
    }

    pub(super) fn count_given(&mut self, to: Vmid) {
        if let Some(member) = self.find_mut(to) {
            member.given.increment();
        }
    }
}

#[cfg(test)]
mod tests;
