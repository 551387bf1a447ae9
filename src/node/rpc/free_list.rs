//! The list of the waiters that no call uses.

use crate::invariant::{Count, OrBroken, broken};
use crate::store::{Arena, Table, bytes_for, memory_sum};

/// The free slots of a table, and a bit for each slot in use.
pub(super) struct FreeList<'m> {
    stack: Table<'m, u32>,
    free: usize,
    least_free: usize,
    /// A search for waiters visits only the slots whose bits are set.
    in_use: Table<'m, u64>,
}

impl<'m> FreeList<'m> {
    pub(super) const fn bytes(capacity: usize) -> usize {
        memory_sum!(
            bytes_for::<u32>(capacity),
            bytes_for::<u64>(words(capacity))
        )
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize) -> Self {
        FreeList {
            stack: arena.alloc_table(capacity, |index| u32::try_from(index).or_broken(u32::MAX)),
            free: capacity,
            least_free: capacity,
            in_use: arena.alloc_filled(words(capacity), &0),
        }
    }

    /// Takes a free slot, unless only `set_aside` slots are free.
    pub(super) fn take(&mut self, set_aside: usize) -> Option<usize> {
        let free = self.free.checked_sub(1).filter(|free| *free >= set_aside)?;
        let slot = *self.stack.get(free)?;
        self.free = free;
        self.least_free = self.least_free.min(free);
        self.flip(slot);
        Some(slot as usize)
    }

    /// Puts a slot back.
    pub(super) fn put(&mut self, slot: u32) {
        if let Some(place) = self.stack.get_mut(self.free) {
            *place = slot;
            self.free.increment();
            self.flip(slot);
        } else {
            broken();
        }
    }

    fn flip(&mut self, slot: u32) {
        if let Some(word) = self.in_use.get_mut((slot / u64::BITS) as usize) {
            *word ^= 1_u64.wrapping_shl(slot % u64::BITS);
        }
    }

    /// Returns the first slot in use from that one on. Takes as many steps as there are words of bits at most.
    pub(super) fn next_in_use(&self, from: u32) -> Option<u32> {
        if self.free == self.stack.len() {
            return None;
        }
        let first = from / u64::BITS;
        let mut mask = u64::MAX.wrapping_shl(from % u64::BITS);
        for (number, word) in (first..).zip(self.in_use.iter().skip(first as usize)) {
            let bits = word & mask;
            if bits != 0 {
                return Some(number.wrapping_mul(u64::BITS).plus(bits.trailing_zeros()));
            }
            mask = u64::MAX;
        }
        None
    }

    /// Returns the number of slots in use now, and the highest number so far.
    pub(super) fn usage(&self) -> (usize, usize) {
        let limit = self.stack.len();
        (limit.minus(self.free), limit.minus(self.least_free))
    }
}

/// Returns the number of words with a bit for each slot.
const fn words(capacity: usize) -> usize {
    capacity.div_ceil(u64::BITS as usize)
}

#[cfg(test)]
mod tests {
    use super::FreeList;
    use crate::store::Arena;
    use core::mem::MaybeUninit;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    #[test]
    fn slots_in_use_are_those_that_were_taken_and_not_put_back() {
        for capacity in [1, 63, 64, 65, 200] {
            let mut memory = [MaybeUninit::uninit(); 1024];
            let mut list = FreeList::new(&mut Arena::new(&mut memory), capacity);
            let mut taken = BTreeSet::new();
            for step in 0..1_000_usize {
                // Mostly more are taken at first, and more are put back later.
                let is_claim = (step * 7919) % 10 < if step < 500 { 7 } else { 3 };
                if is_claim {
                    let slot = list.take(0);
                    assert_eq!(slot.is_none(), taken.len() == capacity);
                    taken.extend(slot);
                } else if let Some(slot) = taken.iter().nth(step % taken.len().max(1)).copied() {
                    taken.remove(&slot);
                    list.put(u32::try_from(slot).unwrap());
                }
                let mut found = Vec::new();
                let mut next = 0;
                while let Some(slot) = list.next_in_use(next) {
                    found.push(slot as usize);
                    next = slot + 1;
                }
                assert!(taken.iter().eq(&found), "{taken:?} {found:?}");
                assert_eq!(list.usage().0, taken.len());
            }
        }
    }
}
