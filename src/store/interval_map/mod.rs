//! Non-overlapping spans of numbers, each with an owner: found by a number in them, or by owner.
//!
//! Beside the tree stand four small tables. `hints` remembers for each block of 32 numbers the span
//! last found there, so that most look-ups touch one node instead of a path of the tree: with
//! 100,000 spans a path is a dozen cache misses. A hint is believed only if its node holds the
//! number; nodes are never unmade, so a stale hint does no harm. `crowds` counts the spans that
//! touch a block, so that an empty block is known as such. Blocks share slots where there are more
//! of them. `chains` links the spans of one owner, so that they are found without a walk over all.
//! `full` says which blocks have nothing free, so that a free number is found without a walk either.

mod full_blocks;
mod node;
mod tree;

use core::ptr;

use super::{Arena, Table, bytes_for};
use crate::error::Error;
use full_blocks::{FullBlocks, block_of, bounds};
pub(crate) use node::LONGEST;
use node::Node;
use tree::Tree;

/// How many spans share one chain, at a full table.
const SPANS_PER_CHAIN: usize = 16;

/// A span as it was found in the table. Once the table has changed it may be there no more, and then
/// nothing is done to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span<'m> {
    /// Only to be compared: it may be another table's.
    node: *const Node<'m>,
    start: u32,
    end: u32,
    owner: u32,
}

impl<'m> Span<'m> {
    fn of(node: &'m Node<'m>) -> Self {
        Span {
            node,
            start: node.start(),
            end: node.end(),
            owner: node.owner.get(),
        }
    }

    /// Whether it was found there, and its owner has not changed.
    fn is_at(&self, node: &Node<'m>) -> bool {
        ptr::eq(self.node, node) && node.owner.get() == self.owner
    }

    /// The first number in it.
    pub(crate) fn start(&self) -> u32 {
        self.start
    }

    /// The last number in it.
    pub(crate) fn end(&self) -> u32 {
        self.end
    }

    /// Who owns it.
    pub(crate) fn owner(&self) -> u32 {
        self.owner
    }
}

/// The spans of some owners.
#[derive(Default)]
struct Chain<'m> {
    first: Option<&'m Node<'m>>,
    last: Option<&'m Node<'m>>,
    length: usize,
}

/// Where the search for the spans of one owner stands.
#[derive(Debug)]
pub(crate) struct Sweep {
    owner: u32,
    left: usize,
}

impl Sweep {
    /// A sweep that has `left` spans still to look at.
    pub(crate) fn resume(owner: u32, left: usize) -> Self {
        Sweep { owner, left }
    }

    /// How many spans are still to be looked at.
    pub(crate) fn left(&self) -> usize {
        self.left
    }
}

/// A fixed number of spans.
pub(crate) struct SpanTable<'m> {
    tree: Tree<'m>,
    hints: Table<'m, Option<&'m Node<'m>>>,
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
        Tree::bytes(capacity)
            .saturating_add(bytes_for::<Option<&Node<'_>>>(capacity))
            .saturating_add(bytes_for::<u16>(capacity))
            .saturating_add(bytes_for::<Chain<'_>>(Self::chains_for(capacity)))
            .saturating_add(FullBlocks::bytes())
    }

    /// An empty table of `capacity` spans, cut from `arena`.
    pub(crate) fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        Ok(SpanTable {
            tree: Tree::new(arena, capacity)?,
            hints: arena.table(capacity, |_| Ok(None))?,
            crowds: arena.table(capacity, |_| Ok(0))?,
            chains: arena.table(Self::chains_for(capacity), |_| Ok(Chain::default()))?,
            full: FullBlocks::new(arena)?,
        })
    }

    /// How many more spans fit.
    pub(crate) fn left(&self) -> usize {
        self.tree.left()
    }

    /// How many spans are in the table.
    pub(crate) fn len(&self) -> usize {
        self.tree.len()
    }

    /// The most spans that were ever in the table at once.
    pub(crate) fn most(&self) -> usize {
        self.tree.most()
    }

    /// The span that holds `number`.
    #[inline]
    pub(crate) fn find(&mut self, number: u32) -> Option<Span<'m>> {
        let slot = self.slot(number)?;
        let hint = self.hints.get_mut(slot)?;
        if let Some(node) = hint.filter(|node| node.holds(number)) {
            return Some(Span::of(node));
        }
        if *self.crowds.get(slot)? == 0 {
            return None;
        }
        let node = self.tree.at_most(number)?;
        if !node.holds(number) {
            return None;
        }
        *hint = Some(node);
        Some(Span::of(node))
    }

    /// The lowest free numbers from `from` on: the first and the last of them.
    pub(crate) fn next_free(&self, from: u32) -> Option<(u32, u32)> {
        // In the block of `from` it may be that only lower numbers are free.
        let block = self.full.next_not_full(block_of(from))?;
        let (first, last) = bounds(block);
        self.tree.first_free(from.max(first), last).or_else(|| {
            let behind = self.full.next_not_full(block.saturating_add(1))?;
            let (first, last) = bounds(behind);
            self.tree.first_free(first, last)
        })
    }

    /// Adds a span that overlaps none in the table, at most [`LONGEST`] long, not from 0 and not
    /// above [`ID_MAX`](crate::ID_MAX); false if the table is full.
    pub(crate) fn insert(&mut self, start: u32, end: u32, owner: u32) -> bool {
        let Some(node) = self.tree.insert(start, end, owner) else {
            return false;
        };
        self.crowd(start, end, 1);
        self.fill(start, end);
        let slot = self.slot(start);
        if let Some(hint) = slot.and_then(|slot| self.hints.get_mut(slot)) {
            *hint = Some(node);
        }
        self.chain(node);
        true
    }

    /// Takes `span` out of the table.
    pub(crate) fn remove(&mut self, span: Span<'m>) {
        let Some(node) = self.tree.remove(span) else {
            return;
        };
        self.unchain(node);
        node.owner.set(0);
        self.crowd(node.start(), node.end(), -1);
        self.free(node.start(), node.end());
    }

    /// Cuts the end of `span` off; `end` must be in it.
    pub(crate) fn shorten(&mut self, span: Span<'m>, end: u32) {
        let Some(node) = self.tree.find(span) else {
            return;
        };
        let (start, before) = (node.start(), node.end());
        if end < start || end >= before {
            return;
        }
        node.set_end(end);
        self.crowd(start, before, -1);
        self.crowd(start, end, 1);
        self.free(end.saturating_add(1), before);
    }

    /// Gives `span` to another owner.
    pub(crate) fn give(&mut self, span: Span<'m>, owner: u32) {
        if let Some(node) = self.tree.find(span) {
            self.unchain(node);
            node.owner.set(owner);
            self.chain(node);
        }
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
            let Some(node) = chain.first else {
                return true;
            };
            if node.owner.get() == sweep.owner {
                self.remove(Span::of(node));
            } else {
                // To the back with it, so that the next step meets another.
                self.unchain(node);
                self.chain(node);
            }
        }
        sweep.left == 0
    }

    /// Whether every span is in the tree and in one chain, and the tree is sound. Slow: for tests.
    pub(crate) fn is_sound(&self) -> bool {
        let count = self.tree.len();
        let chains = || self.chains.iter().enumerate();
        let chained = chains().all(|(number, chain)| self.is_chained(number, chain));
        let lengths = chains().map(|(_, chain)| chain.length).sum::<usize>();
        let crowds = self.crowds.iter();
        let crowds = crowds.map(|crowd| usize::from(*crowd)).sum::<usize>();
        let crowded = crowds >= count && crowds <= count.saturating_mul(2);
        let mut blocks = 0_usize;
        let mut highest = None;
        let touched = |node: &Node<'_>| block_of(node.start())..=block_of(node.end());
        for block in self.tree.iter().flat_map(touched) {
            if highest < Some(block) {
                highest = Some(block);
                let (first, last) = bounds(block);
                let is_full = self.tree.first_free(first, last).is_none();
                if self.full.is_full(block) != is_full {
                    return false;
                }
                blocks = blocks.saturating_add(usize::from(is_full));
            }
        }
        self.tree.is_sound() && crowded && blocks == self.full.len() && chained && count == lengths
    }

    /// Whether a chain is as long as it says, and all in it belong there.
    fn is_chained(&self, number: usize, chain: &Chain<'_>) -> bool {
        let (mut next, mut before) = (chain.first, None);
        for _ in 0..chain.length {
            let belongs = next.filter(|node| {
                is_same(node.before.get(), before)
                    && self.chain_number(node.owner.get()) == Some(number)
            });
            let Some(node) = belongs else { return false };
            (before, next) = (next, node.after.get());
        }
        next.is_none() && is_same(before, chain.last)
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
            let is_full = covers || self.tree.first_free(first, last).is_none();
            self.full.set(block, is_full);
        }
    }

    /// The numbers from `start` to `end` are free now.
    fn free(&mut self, start: u32, end: u32) {
        for block in block_of(start)..=block_of(end) {
            self.full.set(block, false);
        }
    }

    fn chain_number(&self, owner: u32) -> Option<usize> {
        (owner as usize).checked_rem(self.chains.len())
    }

    fn chain_of(&mut self, owner: u32) -> Option<&mut Chain<'m>> {
        let number = self.chain_number(owner)?;
        self.chains.get_mut(number)
    }

    /// Puts the span at the end of its owner's chain.
    fn chain(&mut self, node: &'m Node<'m>) {
        let Some(chain) = self.chain_of(node.owner.get()) else {
            return;
        };
        let before = chain.last.replace(node);
        chain.length = chain.length.saturating_add(1);
        match before {
            Some(before) => before.after.set(Some(node)),
            None => chain.first = Some(node),
        }
        node.before.set(before);
        node.after.set(None);
    }

    /// Takes the span out of its owner's chain.
    fn unchain(&mut self, node: &'m Node<'m>) {
        let Some(chain) = self.chain_of(node.owner.get()) else {
            return;
        };
        chain.length = chain.length.saturating_sub(1);
        let (before, after) = (node.before.get(), node.after.get());
        match before {
            Some(before) => before.after.set(after),
            None => chain.first = after,
        }
        match after {
            Some(after) => after.before.set(before),
            None => chain.last = before,
        }
    }
}

fn is_same<'m>(one: Option<&Node<'m>>, other: Option<&Node<'m>>) -> bool {
    one.map(ptr::from_ref) == other.map(ptr::from_ref)
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
    fn a_span_that_is_another_tables_or_gone_is_not_touched() {
        let mut memory = [(); 2].map(|()| std::boxed::Box::new_uninit_slice(SpanTable::bytes(4)));
        let mut tables = memory
            .each_mut()
            .map(|memory| SpanTable::new(&mut Arena::new(memory), 4).unwrap());
        let [one, other] = &mut tables;
        one.insert(1, 32, 1);
        other.insert(33, 64, 1);
        let (foreign, gone) = (other.find(33).unwrap(), one.find(1).unwrap());
        one.remove(foreign);
        one.shorten(foreign, 40);
        one.give(foreign, 2);
        assert!(one.is_sound() && one.len() == 1);
        assert_eq!(
            one.find(5).map(|span| (span.end(), span.owner())),
            Some((32, 1))
        );
        one.remove(gone);
        one.insert(65, 96, 3);
        one.remove(gone);
        one.give(gone, 4);
        assert!(one.is_sound() && one.len() == 1);
        assert_eq!(one.find(70).map(|span| span.owner()), Some(3));
        assert!(other.is_sound() && other.len() == 1);
    }

    #[test]
    fn what_does_not_hold_together_is_not_sound() {
        assert!(is_sound_after(|_| {}));
        let faults: [fn(&mut SpanTable<'_>); 9] = [
            |table| {
                let _ = table.tree.insert(97, 97, 1);
            },
            |table| table.tree.at_most(33).unwrap().owner.set(0),
            |table| table.tree.at_most(33).unwrap().set(32, 63),
            |table| table.crowds.fill(0),
            |table| table.crowds.fill(2),
            |table| table.chains[0] = Chain::default(),
            |table| table.chains[0].length = 2,
            |table| table.full.set(1, false),
            |table| table.full.set(3, true),
        ];
        for (number, fault) in faults.into_iter().enumerate() {
            assert!(!is_sound_after(fault), "fault {number}");
        }
    }
}
