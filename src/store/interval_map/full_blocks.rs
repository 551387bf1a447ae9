//! The set of blocks of 32 numbers without a free number.

use core::ops::Range;

use super::node::MAX_INTERVAL;
use crate::ID_MAX;
use crate::invariant::Count;
use crate::store::{Arena, Table, bytes_for, memory_sum};

/// Returns the first and the last number of a block.
pub(super) fn bounds(block: u32) -> (u32, u32) {
    let before = block << MAX_INTERVAL.ilog2();
    let last = before.plus(MAX_INTERVAL);
    (before | 1, last.min(ID_MAX))
}

/// Returns the block with `number`. Number 1 is the first of block 0.
pub(super) fn block_of(number: u32) -> u32 {
    number.wrapping_sub(1) / MAX_INTERVAL
}

/// Returns the blocks with the numbers from `start` to `end`.
pub(super) fn blocks_of(start: u32, end: u32) -> Range<u32> {
    block_of(start)..block_of(end).wrapping_add(1)
}

/// The number of blocks.
const BLOCKS: usize = (ID_MAX as usize).div_ceil(MAX_INTERVAL as usize);

/// The number of words of each level: one bit for each block, then one bit for each word of the
/// level below.
const WORDS: [usize; 3] = [
    BLOCKS.div_ceil(BITS),
    BLOCKS.div_ceil(BITS * BITS),
    BLOCKS.div_ceil(BITS * BITS * BITS),
];
const BITS: usize = u64::BITS as usize;
const _: () = assert!(WORDS[2] == 1);
// Each bit is one of a block or of a word, so a clear bit is never behind the last one.
const _: () = assert!(BLOCKS.is_multiple_of(BITS) && WORDS[0].is_multiple_of(BITS));

/// One bit for each block, set if the block is full. A word whose bits are all set has its own bit
/// set in the level above, so the next block that is not full is found in at most five steps.
pub(super) struct FullBlocks<'m> {
    levels: [Table<'m, u64>; 3],
}

impl<'m> FullBlocks<'m> {
    /// Returns the memory that the bits take, in bytes.
    pub(super) const fn bytes() -> usize {
        memory_sum!(
            bytes_for::<u64>(WORDS[0]),
            bytes_for::<u64>(WORDS[1]),
            bytes_for::<u64>(WORDS[2]),
        )
    }

    /// Makes the set, without a full block. The bits are allocated from `arena`.
    pub(super) fn new(arena: &mut Arena<'m>) -> Self {
        let mut level = |words| arena.alloc_filled(words, &0);
        FullBlocks {
            levels: [level(WORDS[0]), level(WORDS[1]), level(WORDS[2])],
        }
    }

    /// Makes all blocks not full.
    pub(super) fn clear(&mut self) {
        for level in &mut self.levels {
            level.fill(0);
        }
    }

    /// Returns the number of full blocks. It is slow, and meant for tests.
    pub(super) fn count(&self) -> usize {
        let [lowest, ..] = &self.levels;
        let counts = lowest.iter().map(|word| word.count_ones() as usize);
        counts.sum()
    }

    /// Returns true if the block is full.
    pub(super) fn is_full(&self, block: u32) -> bool {
        let [lowest, ..] = &self.levels;
        let (at, bit) = word_and_bit(block as usize);
        lowest.get(at).is_some_and(|word| word & bit != 0)
    }

    /// Records whether the block is full.
    #[inline]
    pub(super) fn set(&mut self, block: u32, full: bool) {
        let [lowest, above @ ..] = &mut self.levels;
        let number = block as usize;
        // Most changes of a word make it neither full nor not full.
        if set_bit(lowest, number, full) {
            set_above(above, number / BITS, full);
        }
    }

    /// Returns the first block from `block` on that is not full.
    #[inline]
    pub(super) fn next_not_full(&self, block: u32) -> Option<u32> {
        let [lowest, ..] = &self.levels;
        let (at, bit) = word_and_bit(block as usize);
        // The blocks before this one count as full.
        let word = lowest.get(at)? | bit.wrapping_sub(1);
        if word == u64::MAX {
            return self.search_above(block);
        }
        u32::try_from(lowest_clear_bit(at, word)).ok()
    }

    /// Like [`FullBlocks::next_not_full`], of all words.
    #[cold]
    fn search_above(&self, block: u32) -> Option<u32> {
        let mut number = block as usize;
        for (height, level) in self.levels.iter().enumerate() {
            let (at, bit) = word_and_bit(number);
            // The blocks before this one count as full.
            let word = level.get(at)? | bit.wrapping_sub(1);
            if word != u64::MAX {
                let mut found = lowest_clear_bit(at, word);
                for below in self.levels.iter().take(height).rev() {
                    found = lowest_clear_bit(found, *below.get(found)?);
                }
                return u32::try_from(found).ok();
            }
            number = at.plus(1);
        }
        None
    }
}

/// Sets or clears the bit of a number. Returns true if its word is full since then, or no longer.
#[inline]
fn set_bit(level: &mut [u64], number: usize, is_set: bool) -> bool {
    let (at, bit) = word_and_bit(number);
    let Some(word) = level.get_mut(at) else {
        return false;
    };
    let before = *word;
    *word = if is_set { before | bit } else { before & !bit };
    (before == u64::MAX) != (*word == u64::MAX)
}

/// Records in the levels above that word `at` of the lowest one is full, or no longer.
#[cold]
fn set_above(levels: &mut [Table<'_, u64>], mut at: usize, is_full: bool) {
    for level in levels {
        if !set_bit(level, at, is_full) {
            return;
        }
        at /= BITS;
    }
}

/// Returns the word and the bit of a number.
fn word_and_bit(number: usize) -> (usize, u64) {
    (number / BITS, 1 << (number % BITS))
}

/// Returns the number of the lowest clear bit of word `at`. The word has one.
fn lowest_clear_bit(at: usize, word: u64) -> usize {
    (at << BITS.ilog2()) | word.trailing_ones() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn next_not_full_finds_the_lowest_block_that_is_not_full() {
        let mut memory = std::boxed::Box::new_uninit_slice(FullBlocks::bytes() + 8);
        let mut full = FullBlocks::new(&mut Arena::new(&mut memory));
        let blocks = u32::try_from(BLOCKS).unwrap();
        let mut model: BTreeSet<u32> = (0..blocks).collect();
        let mut rng = fastrand::Rng::new();
        // The test fills all blocks first, and then some of them again and again.
        for block in 0..blocks {
            full.set(block, true);
            model.remove(&block);
            assert_eq!(full.next_not_full(0), model.first().copied());
        }
        assert_eq!(full.count(), BLOCKS);
        for _ in 0..20_000 {
            let block = rng.u32(..blocks);
            let is_full = rng.u8(..4) > 0;
            full.set(block, is_full);
            if is_full {
                model.remove(&block);
            } else {
                model.insert(block);
            }
            let from = rng.u32(..blocks + 2);
            assert_eq!(
                full.next_not_full(from),
                model.range(from..).next().copied(),
                "from {from}"
            );
            assert_eq!(full.count(), BLOCKS - model.len());
        }
    }

    #[test]
    fn the_last_block_ends_with_the_highest_id() {
        assert_eq!(bounds(0), (1, 32));
        assert_eq!((block_of(1), block_of(32), block_of(33)), (0, 0, 1));
        let (first, last) = bounds(block_of(ID_MAX));
        assert_eq!((first, last), (ID_MAX - 30, ID_MAX));
        assert_eq!(block_of(ID_MAX) as usize, BLOCKS - 1);
    }
}
