//! The slots of a fixed-size table: an allocator for their numbers.

use core::hash::Hasher;

use crate::invariant::{Count, OrBroken};
use crate::store::{Arena, Digest, Table, bytes_for, image, list_length};

/// The number that stands for no slot.
pub(crate) const NONE: u32 = u32::MAX;

/// Allocates the numbers of a fixed number of slots. The free list holds only slots that were in use
/// before, so the memory of the others stays untouched.
pub(crate) struct SlotAllocator<'m> {
    next_free: Table<'m, u32>,
    /// The first slot of the free list.
    free: u32,
    /// The highest slot that was ever in use, plus one.
    high_water: usize,
    in_use: usize,
    peak: usize,
}

impl<'m> SlotAllocator<'m> {
    pub(crate) const fn bytes(capacity: usize) -> usize {
        bytes_for::<u32>(capacity)
    }

    pub(crate) fn new(arena: &mut Arena<'m>, capacity: usize) -> Self {
        SlotAllocator {
            next_free: arena.alloc_filled(capacity, &NONE),
            free: NONE,
            high_water: 0,
            in_use: 0,
            peak: 0,
        }
    }

    /// Returns a slot that is in use from now on.
    #[cfg_attr(not(static_library), inline)]
    pub(crate) fn alloc(&mut self) -> Option<u32> {
        let slot = if let Some(next) = self.next_free.get(self.free as usize) {
            let slot = self.free;
            self.free = *next;
            slot
        } else {
            if self.high_water >= self.next_free.len() {
                return None;
            }
            let slot = u32::try_from(self.high_water).ok()?;
            self.high_water.increment();
            slot
        };
        self.in_use.increment();
        self.peak = self.peak.max(self.in_use);
        Some(slot)
    }

    /// Frees a slot that is in use.
    #[cfg_attr(not(static_library), inline)]
    pub(crate) fn free(&mut self, slot: u32) {
        if let Some(next) = self.next_free.get_mut(slot as usize) {
            *next = self.free;
            self.free = slot;
            self.in_use.decrement();
        }
    }

    /// Adds the free slots, in the order in which they are used again.
    pub(crate) fn digest(&self, digest: &mut Digest) {
        digest.write_usize(self.high_water);
        digest.write_usize(self.in_use);
        digest.write_usize(self.peak);
        let mut free = self.free;
        while let Some(next) = self.next_free.get(free as usize) {
            digest.write_u32(free);
            free = *next;
        }
    }

    /// Returns the number of free slots.
    pub(crate) fn remaining(&self) -> usize {
        self.next_free.len().minus(self.in_use)
    }

    pub(crate) fn in_use(&self) -> usize {
        self.in_use
    }

    pub(crate) fn peak(&self) -> usize {
        self.peak
    }

    /// Returns the number of the highest slot that was ever in use, plus one.
    pub(crate) fn high_water(&self) -> u32 {
        u32::try_from(self.high_water).or_broken(NONE)
    }
}

image!(SlotAllocator<'_> {
    fields { free, high_water, in_use, peak }
    tables { next_free: *high_water => NONE }
    valid { *in_use <= *peak && *peak <= *high_water && *high_water <= next_free.len() }
});

impl SlotAllocator<'_> {
    /// Returns true if the free list has all slots that were in use and are not. The numbers of a loaded image may be wrong.
    pub(crate) fn is_valid(&self) -> bool {
        let next = |slot: u32| {
            let next = self.next_free.get(slot as usize)?;
            Some(*next).filter(|_| (slot as usize) < self.high_water)
        };
        let free = self.high_water.checked_sub(self.in_use);
        free.is_some_and(|free| list_length(self.free, free, next) == Some(free))
    }
}

/// Mixes the bits of a number (the finaliser of `SplitMix64`).
pub(crate) const fn hash64(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
