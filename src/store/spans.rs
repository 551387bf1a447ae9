//! Non-overlapping spans of numbers, each with an owner: found by a number in them, or by owner.
//!
//! Beside the tree stand four small tables. `hints` remembers for each block of 32 numbers the span
//! last found there, so that most look-ups touch one node instead of a path of the tree: with
//! 100,000 spans a path is a dozen cache misses. A hint is believed only if its node holds the
//! number; nodes are never unmade, so a stale hint does no harm. `crowds` counts the spans that
//! touch a block, so that an empty block is known as such. Blocks share slots where there are more
//! of them. `chains` links the spans of one owner, so that they are found without a walk over all.
//! `full` says which blocks have nothing free, so that a free number is found without a walk either.
#![allow(unsafe_code, missing_docs, clippy::expl_impl_clone_on_copy)] // `intrusive_adapter!`

use core::sync::atomic::{AtomicU32, Ordering};

use intrusive_collections::{
    Bound, KeyAdapter, LinkedList, LinkedListAtomicLink, RBTree, RBTreeAtomicLink,
    intrusive_adapter,
};

use super::full::{FullBlocks, block_of, bounds};
use super::{Arena, Pool, Table, bytes_for};
use crate::ID_MAX;
use crate::error::Error;

/// The longest span there can be.
pub(crate) const LONGEST: u32 = 1 << LENGTH_BITS;

const LENGTH_BITS: u32 = 5;

/// How many spans share one chain, at a full table.
const SPANS_PER_CHAIN: usize = 16;

/// A span in the table. Its owner is never 0; in the pool it is.
#[derive(Default)]
pub(crate) struct Span {
    by_start: RBTreeAtomicLink,
    by_owner: LinkedListAtomicLink,
    /// The start and, in the low bits, the length less one. Written only while the table is
    /// borrowed mutably; atomic because links are shared references.
    place: AtomicU32,
    owner: AtomicU32,
}

intrusive_adapter!(pub(crate) ByStart<'m> = &'m Span: Span { by_start => RBTreeAtomicLink });
intrusive_adapter!(pub(crate) ByOwner<'m> = &'m Span: Span { by_owner => LinkedListAtomicLink });

impl<'a> KeyAdapter<'a> for ByStart<'_> {
    type Key = u32;
    fn get_key(&self, span: &'a Span) -> u32 {
        span.start()
    }
}

impl Span {
    /// The first number in it.
    pub(crate) fn start(&self) -> u32 {
        self.place.load(Ordering::Relaxed) >> LENGTH_BITS
    }

    /// The last number in it.
    pub(crate) fn end(&self) -> u32 {
        let place = self.place.load(Ordering::Relaxed);
        (place >> LENGTH_BITS).saturating_add(place & (LONGEST - 1))
    }

    /// Who owns it.
    pub(crate) fn owner(&self) -> u32 {
        self.owner.load(Ordering::Relaxed)
    }

    /// The blocks that it touches.
    fn blocks(&self) -> core::ops::RangeInclusive<u32> {
        block_of(self.start())..=block_of(self.end())
    }

    fn set(&self, start: u32, end: u32) {
        let length_less_one = end.saturating_sub(start);
        self.place
            .store((start << LENGTH_BITS) | length_less_one, Ordering::Relaxed);
    }

    fn holds(&self, number: u32) -> bool {
        self.start() <= number && number <= self.end() && self.owner() != 0
    }
}

struct Chain<'m> {
    spans: LinkedList<ByOwner<'m>>,
    length: usize,
}

/// Where the search for the spans of one owner stands.
#[derive(Debug)]
pub(crate) struct Sweep {
    owner: u32,
    left: usize,
}

/// A fixed number of spans.
pub(crate) struct SpanTable<'m> {
    pool: Pool<'m, Span, ByOwner<'m>>,
    tree: RBTree<ByStart<'m>>,
    in_tree: usize,
    hints: Table<'m, Option<&'m Span>>,
    /// A slot is shared by two blocks at most if there are many slots, by few spans if there are
    /// few: the count fits.
    crowds: Table<'m, u16>,
    chains: Table<'m, Chain<'m>>,
    full: FullBlocks<'m>,
}

impl<'m> SpanTable<'m> {
    const fn chains_for(capacity: usize) -> usize {
        (capacity / SPANS_PER_CHAIN).saturating_add(1)
    }

    /// The memory that a table of `capacity` spans takes.
    pub(crate) const fn bytes(capacity: usize) -> usize {
        Pool::<Span, ByOwner<'m>>::bytes(capacity)
            .saturating_add(bytes_for::<Option<&Span>>(capacity))
            .saturating_add(bytes_for::<u16>(capacity))
            .saturating_add(bytes_for::<Chain<'m>>(Self::chains_for(capacity)))
            .saturating_add(FullBlocks::bytes())
    }

    /// An empty table of `capacity` spans, cut from `arena`.
    pub(crate) fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        Ok(SpanTable {
            pool: Pool::new(arena, capacity, ByOwner::new())?,
            tree: RBTree::new(ByStart::new()),
            in_tree: 0,
            hints: arena.table(capacity, |_| Ok(None))?,
            crowds: arena.table(capacity, |_| Ok(0))?,
            chains: arena.table(Self::chains_for(capacity), |_| {
                Ok(Chain {
                    spans: LinkedList::new(ByOwner::new()),
                    length: 0,
                })
            })?,
            full: FullBlocks::new(arena)?,
        })
    }

    /// How many more spans fit.
    pub(crate) fn left(&self) -> usize {
        self.pool.left()
    }

    /// How many spans are in the table.
    pub(crate) fn len(&self) -> usize {
        self.pool.taken()
    }

    /// The most spans that were ever in the table at once.
    pub(crate) fn most(&self) -> usize {
        self.pool.most_taken()
    }

    /// The span that holds `number`.
    #[inline]
    pub(crate) fn find(&mut self, number: u32) -> Option<&'m Span> {
        let slot = self.slot(number)?;
        let hint = self.hints.get_mut(slot)?;
        if let Some(span) = *hint
            && span.holds(number)
        {
            return Some(span);
        }
        if *self.crowds.get(slot)? == 0 {
            return None;
        }
        let span = self
            .tree
            .upper_bound(Bound::Included(&number))
            .clone_pointer()?;
        if !span.holds(number) {
            return None;
        }
        *hint = Some(span);
        Some(span)
    }

    /// The lowest free numbers from `from` on: the first and the last of them.
    pub(crate) fn next_free(&self, from: u32) -> Option<(u32, u32)> {
        // In the block of `from` it may be that only lower numbers are free.
        let block = self.full.next_not_full(block_of(from))?;
        let (first, last) = bounds(block);
        self.first_free(from.max(first), last).or_else(|| {
            let behind = self.full.next_not_full(block.saturating_add(1))?;
            let (first, last) = bounds(behind);
            self.first_free(first, last)
        })
    }

    /// The lowest free number from `from` to `last`, which are in one block, and the last of those
    /// that are free behind it.
    fn first_free(&self, mut from: u32, last: u32) -> Option<(u32, u32)> {
        let mut cursor = self.tree.upper_bound(Bound::Included(&from));
        if cursor.is_null() {
            // From before the first, this comes to the first.
            cursor.move_next();
        }
        while from <= last {
            let Some(span) = cursor.get() else {
                return Some((from, ID_MAX));
            };
            if from < span.start() {
                return Some((from, span.start().saturating_sub(1)));
            }
            from = from.max(span.end().saturating_add(1));
            cursor.move_next();
        }
        None
    }

    /// Adds a span that overlaps none in the table, at most [`LONGEST`] long, not from 0 and not
    /// above [`ID_MAX`]; false if the table is full.
    pub(crate) fn insert(&mut self, start: u32, end: u32, owner: u32) -> bool {
        let Some(span) = self.pool.take() else {
            return false;
        };
        span.set(start, end);
        span.owner.store(owner, Ordering::Relaxed);
        self.tree.insert(span);
        self.in_tree = self.in_tree.saturating_add(1);
        self.crowd(start, end, 1);
        self.fill(start, end);
        let slot = self.slot(start);
        if let Some(hint) = slot.and_then(|slot| self.hints.get_mut(slot)) {
            *hint = Some(span);
        }
        self.chain(span);
        true
    }

    /// Takes `span` out of the table.
    pub(crate) fn remove(&mut self, span: &'m Span) {
        if !span.by_start.is_linked() {
            return;
        }
        // SAFETY: `span` is linked by its tree link, and only `insert` does that, into this tree.
        unsafe { self.tree.cursor_mut_from_ptr(span) }.remove();
        self.in_tree = self.in_tree.saturating_sub(1);
        self.crowd(span.start(), span.end(), -1);
        self.free(span.start(), span.end());
        self.unchain(span);
        span.owner.store(0, Ordering::Relaxed);
        self.pool.give(span);
    }

    /// Cuts the end of `span` off; `end` must be in it.
    pub(crate) fn shorten(&mut self, span: &'m Span, end: u32) {
        let before = span.end();
        self.crowd(span.start(), before, -1);
        span.set(span.start(), end);
        self.crowd(span.start(), end, 1);
        if end < before {
            self.free(end.saturating_add(1), before);
        }
    }

    /// Gives `span` to another owner.
    pub(crate) fn give(&mut self, span: &'m Span, owner: u32) {
        self.unchain(span);
        span.owner.store(owner, Ordering::Relaxed);
        self.chain(span);
    }

    /// Begins to look for the spans of `owner`.
    pub(crate) fn sweep(&mut self, owner: u32) -> Sweep {
        Sweep {
            owner,
            left: self.chain_of(owner).map_or(0, |chain| chain.length),
        }
    }

    /// Goes on with a sweep, over `steps` spans at most, and takes those of the owner out of the
    /// table. True once all that were there when the sweep began are out.
    pub(crate) fn sweep_on(&mut self, sweep: &mut Sweep, steps: usize) -> bool {
        for _ in 0..steps {
            if sweep.left == 0 {
                break;
            }
            sweep.left = sweep.left.saturating_sub(1);
            let Some(chain) = self.chain_of(sweep.owner) else {
                return true;
            };
            // To the back with it, so that the next step meets another.
            let Some(span) = chain.spans.pop_front() else {
                return true;
            };
            chain.spans.push_back(span);
            if span.owner() == sweep.owner {
                self.remove(span);
            }
        }
        sweep.left == 0
    }

    /// Whether every span out of the pool is in the tree and in one chain, and the tree is sound.
    /// Slow: for tests.
    pub(crate) fn is_sound(&self) -> bool {
        let mut count = 0_usize;
        let mut last = 0;
        for span in &self.tree {
            if span.start() <= last || span.owner() == 0 {
                return false;
            }
            last = span.end();
            count = count.saturating_add(1);
        }
        let chained = self
            .chains
            .iter()
            .map(|chain| chain.spans.iter().count())
            .sum::<usize>();
        let lengths = self.chains.iter().map(|chain| chain.length).sum::<usize>();
        let crowds = self
            .crowds
            .iter()
            .map(|crowd| usize::from(*crowd))
            .sum::<usize>();
        let crowded = crowds >= count && crowds <= count.saturating_mul(2);
        let mut blocks = 0_usize;
        let mut highest = None;
        for block in self.tree.iter().flat_map(Span::blocks) {
            if highest < Some(block) {
                highest = Some(block);
                let (first, last) = bounds(block);
                let is_full = self.first_free(first, last).is_none();
                if self.full.is_full(block) != is_full {
                    return false;
                }
                blocks = blocks.saturating_add(usize::from(is_full));
            }
        }
        crowded
            && blocks == self.full.len()
            && count == self.pool.taken()
            && count == self.in_tree
            && count == chained
            && count == lengths
    }

    fn slot(&self, number: u32) -> Option<usize> {
        (block_of(number) as usize).checked_rem(self.hints.len())
    }

    /// One span more or less in the blocks from `start` to `end`: at most two.
    fn crowd(&mut self, start: u32, end: u32, change: i16) {
        let (first, last) = (self.slot(start), self.slot(end));
        for slot in first.into_iter().chain(last.filter(|_| last != first)) {
            if let Some(crowd) = self.crowds.get_mut(slot) {
                *crowd = crowd.saturating_add_signed(change);
            }
        }
    }

    /// The numbers from `start` to `end`, at most [`LONGEST`], were taken. Looks whether their blocks
    /// are full now: a step for each span in them.
    fn fill(&mut self, start: u32, end: u32) {
        for block in block_of(start)..=block_of(end) {
            let (first, last) = bounds(block);
            let covers = start <= first && last <= end;
            let is_full = covers || self.first_free(first, last).is_none();
            self.full.set(block, is_full);
        }
    }

    /// The numbers from `start` to `end` are free now.
    fn free(&mut self, start: u32, end: u32) {
        for block in block_of(start)..=block_of(end) {
            self.full.set(block, false);
        }
    }

    fn chain_of(&mut self, owner: u32) -> Option<&mut Chain<'m>> {
        let slots = self.chains.len();
        self.chains.get_mut((owner as usize).checked_rem(slots)?)
    }

    fn chain(&mut self, span: &'m Span) {
        if let Some(chain) = self.chain_of(span.owner()) {
            chain.spans.push_back(span);
            chain.length = chain.length.saturating_add(1);
        }
    }

    fn unchain(&mut self, span: &'m Span) {
        if !span.by_owner.is_linked() {
            return;
        }
        if let Some(chain) = self.chain_of(span.owner()) {
            // SAFETY: `span` is linked, and a span in the table is in the chain of its owner:
            // `chain` and `unchain` are the only ones to link it there, and `give` moves it
            // whenever the owner changes. The pool's free list uses the same link, but only for
            // spans out of the table, which no caller has a reason to name: they have owner 0.
            unsafe { chain.spans.cursor_mut_from_ptr(span) }.remove();
            chain.length = chain.length.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn is_sound_after(fault: fn(&mut SpanTable<'_>)) -> bool {
        let mut memory = std::boxed::Box::new_uninit_slice(SpanTable::bytes(4));
        let mut table = SpanTable::new(&mut Arena::new(&mut memory), 4).unwrap();
        for start in [1, 33, 65] {
            table.insert(start, start + 31, 1);
        }
        fault(&mut table);
        table.is_sound()
    }

    #[test]
    fn what_does_not_hold_together_is_not_sound() {
        assert!(is_sound_after(|_| {}));
        let faults: [fn(&mut SpanTable<'_>); 10] = [
            |table| table.find(33).unwrap().set(32, 63),
            |table| table.find(33).unwrap().owner.store(0, Ordering::Relaxed),
            |table| table.crowds.fill(0),
            |table| table.crowds.fill(2),
            |table| assert!(table.pool.take().is_some()),
            |table| table.in_tree = 2,
            |table| table.chains[0].spans = LinkedList::new(ByOwner::new()),
            |table| table.chains[0].length = 2,
            |table| table.full.set(1, false),
            |table| table.full.set(3, true),
        ];
        for (number, fault) in faults.into_iter().enumerate() {
            assert!(!is_sound_after(fault), "fault {number}");
        }
    }
}
