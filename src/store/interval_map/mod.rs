//! Non-overlapping intervals of numbers with owners, found by a number in them or by owner.
//!
//! Four small tables accompany the tree. `hints` has for each block of 32 numbers the number of the node that
//! was last found there, so that most look-ups touch one node instead of a path of the tree: with
//! 100,000 intervals a path is a dozen cache misses. A hint is used only if its node contains the
//! number; nodes are never freed, so a stale hint does no harm. `occupancy` counts the intervals
//! that touch a block, so that an empty block is recognised at once. If there are more blocks than entries
//! of `hints` and `occupancy`, several blocks share an entry, their *bucket*. `owner_lists` links the
//! intervals of one owner, so that they are found without a walk over all. `full` has the blocks without a
//! free number, so that a free number is found without a walk, too.

mod full_blocks;
mod image;
mod invariants;
mod node;
mod owner_list;
mod tree;

use core::hash::Hasher;

use super::{Arena, Digest, NONE, Payer, Sum, Table, bytes_for, memory_sum};
use crate::invariant::{Count, OrBroken};
use full_blocks::{FullBlocks, block_of, blocks_of, bounds};
use node::IntervalNode;
pub(crate) use node::MAX_INTERVAL;
pub(crate) use owner_list::OwnerCursor;
use owner_list::{OwnerList, neighbours};
use tree::Tree;

/// The average number of intervals in one list of a full table.
const INTERVALS_PER_LIST: usize = 16;

/// An interval that was found in the table. If the table no longer has one with this start and owner at
/// its place, operations on it do nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval {
    /// The number of its node.
    index: u32,
    start: u32,
    end: u32,
    owner: u32,
    payer: Payer,
}

impl Interval {
    fn of(node: &IntervalNode<'_>, index: u32) -> Self {
        Interval {
            index,
            start: node.start(),
            end: node.end(),
            owner: node.owner.get(),
            payer: node.payer.get(),
        }
    }

    /// Returns true if the node still has it, or a part of it from its start on, with the same owner.
    fn is_at(&self, node: &IntervalNode<'_>) -> bool {
        node.start() == self.start && node.owner.get() == self.owner
    }

    /// Returns the first number in it.
    pub(crate) fn start(&self) -> u32 {
        self.start
    }

    /// Returns the last number in it.
    pub(crate) fn end(&self) -> u32 {
        self.end
    }

    /// Returns its owner.
    pub(crate) fn owner(&self) -> u32 {
        self.owner
    }

    /// Returns the account that it is charged to.
    pub(crate) fn payer(&self) -> Payer {
        self.payer
    }
}

/// Free numbers that were found in the table: all from `start` to `end`.
#[derive(Clone, Copy)]
pub(crate) struct Gap<'m> {
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// The node of the interval before it.
    before: Option<&'m IntervalNode<'m>>,
}

/// A table with a fixed number of intervals.
pub(crate) struct IntervalMap<'m> {
    tree: Tree<'m>,
    hints: Table<'m, u32>,
    /// By bucket: the number of intervals that touch its blocks. With many buckets few blocks share one, and with
    /// few buckets there are few intervals, so the count fits.
    occupancy: Table<'m, u16>,
    owner_lists: Table<'m, OwnerList<'m>>,
    full: FullBlocks<'m>,
    /// The sum over all intervals with their owners.
    content: Sum,
    /// The sum over the starts of all neighbours in the lists.
    order: Sum,
    /// The number of nodes in the image that was loaded.
    loaded_nodes: usize,
}

impl<'m> IntervalMap<'m> {
    const fn lists_for(capacity: usize) -> usize {
        memory_sum!(capacity / INTERVALS_PER_LIST, 1)
    }

    /// Returns the memory of a table of `capacity` intervals, in bytes.
    pub(crate) const fn bytes(capacity: usize) -> usize {
        memory_sum!(
            Tree::bytes(capacity),
            bytes_for::<u32>(capacity),
            bytes_for::<u16>(capacity),
            bytes_for::<OwnerList<'_>>(Self::lists_for(capacity)),
            FullBlocks::bytes(),
        )
    }

    /// Makes an empty table of `capacity` intervals, allocated from `arena`.
    pub(crate) fn new(arena: &mut Arena<'m>, capacity: usize) -> Self {
        IntervalMap {
            tree: Tree::new(arena, capacity),
            hints: arena.alloc_filled(capacity, &NONE),
            occupancy: arena.alloc_filled(capacity, &0),
            owner_lists: arena.alloc_table(Self::lists_for(capacity), |_| OwnerList::default()),
            full: FullBlocks::new(arena),
            content: Sum::default(),
            order: Sum::default(),
            loaded_nodes: 0,
        }
    }

    /// Adds all intervals with their owners. The order of the lists matters, since intervals are
    /// reclaimed in it.
    pub(crate) fn digest(&self, digest: &mut Digest) {
        self.content
            .digest(digest, self.tree.iter().map(IntervalNode::content));
        let nodes = self.tree.iter();
        self.order.digest(
            digest,
            nodes.map(|node| neighbours(node.prev.get(), Some(node))),
        );
        digest.write_usize(self.peak());
    }

    /// Returns the number of intervals that still fit.
    pub(crate) fn remaining(&self) -> usize {
        self.tree.remaining()
    }

    /// Returns the number of intervals in the table.
    pub(crate) fn len(&self) -> usize {
        self.tree.len()
    }

    /// Returns the highest number of intervals so far.
    pub(crate) fn peak(&self) -> usize {
        self.tree.peak()
    }

    /// Returns the number of intervals that were visited.
    #[cfg(debug_assertions)]
    pub(crate) fn steps(&self) -> u64 {
        self.tree.steps()
    }

    /// Returns the interval that contains `number`.
    #[inline]
    pub(crate) fn find(&mut self, number: u32) -> Option<Interval> {
        let bucket = self.bucket(number)?;
        let hint = *self.hints.get(bucket)?;
        if let Some(node) = self.tree.nodes.get(hint as usize)
            && node.contains(number)
        {
            return Some(Interval::of(node, hint));
        }
        self.search(number, bucket)
    }

    /// As [`IntervalMap::find`], in the tree. The interval becomes the hint.
    #[cfg_attr(not(static_library), inline(never))]
    fn search(&mut self, number: u32, bucket: usize) -> Option<Interval> {
        if *self.occupancy.get(bucket)? == 0 {
            return None;
        }
        let node = self.tree.floor(number)?;
        if !node.contains(number) {
            return None;
        }
        let index = self.tree.nodes.index_of(node);
        *self.hints.get_mut(bucket)? = index;
        Some(Interval::of(node, index))
    }

    /// Returns the lowest free numbers from `from` on.
    #[inline]
    pub(crate) fn next_free(&self, from: u32) -> Option<Gap<'m>> {
        let mut block = block_of(from);
        loop {
            block = self.full.next_not_full(block)?;
            let (first, last) = bounds(block);
            let found = self.tree.first_free(from.max(first), last);
            // The block of `from` may have only lower numbers free.
            if found.is_some() || first > from {
                return found;
            }
            block.increment();
        }
    }

    /// Adds an interval from the start of free numbers that were just found to `end`, at most
    /// [`MAX_INTERVAL`] long. It is charged to `payer`. Returns false if the table is full.
    #[inline]
    pub(crate) fn insert(&mut self, gap: Gap<'m>, end: u32, owner: u32, payer: Payer) -> bool {
        let Some(node) = self.tree.insert((gap.start, end), owner, gap.before) else {
            return false;
        };
        node.payer.set(payer);
        self.content.add(node.content());
        let block = block_of(end);
        // Most intervals are one block.
        if bounds(block) == (gap.start, end) {
            self.change_occupancy(block, 1);
            self.full.set(block, true);
        } else {
            self.adjust_occupancy(gap.start, end, 1);
            self.update_full(gap.start, end);
        }
        self.set_hint(node);
        self.link(node);
        true
    }

    /// Splits `interval` in two. The second one, from `at` on, which must be in it, gets `owner`, and takes
    /// the place of `interval`. Returns false if the table is full.
    pub(crate) fn split(&mut self, interval: &mut Interval, at: u32, owner: u32) -> bool {
        let Some(node) = self.tree.find(*interval) else {
            return false;
        };
        let end = node.end();
        if at <= node.start() || at > end {
            return false;
        }
        let Some(behind) = self.tree.insert((at, end), owner, Some(node)) else {
            return false;
        };
        self.content.subtract(node.content());
        node.set_end(at.minus(1));
        behind.payer.set(node.payer.get());
        self.content.add(node.content());
        self.content.add(behind.content());
        // One more in the block that is split; none if each of the two has a block.
        if block_of(at.minus(1)) == block_of(at) {
            self.change_occupancy(block_of(at), 1);
        }
        *interval = Interval::of(behind, self.set_hint(behind));
        self.link(behind);
        true
    }

    /// Makes the node the one that is found first in its block. Returns its number.
    fn set_hint(&mut self, node: &IntervalNode<'m>) -> u32 {
        let index = self.tree.nodes.index_of(node);
        let bucket = self.bucket(node.start());
        if let Some(hint) = bucket.and_then(|bucket| self.hints.get_mut(bucket)) {
            *hint = index;
        }
        index
    }

    /// Removes `interval` from the table.
    #[inline]
    pub(crate) fn remove(&mut self, interval: Interval) {
        let Some(node) = self.tree.find(interval) else {
            return;
        };
        let blocks = blocks_of(node.start(), node.end());
        // In most cases the node above it in the tree is a neighbour.
        let neighbour = node.parent();
        if !self.tree.remove(node) {
            return;
        }
        // The next look-up is often for the rest of the block.
        if let Some(neighbour) = neighbour
            && block_of(neighbour.start()) == blocks.start
        {
            self.set_hint(neighbour);
        }
        self.unlink(node);
        self.content.subtract(node.content());
        node.owner.set(0);
        for block in blocks {
            self.change_occupancy(block, -1);
            self.full.set(block, false);
        }
    }

    /// Changes the owner of `interval`.
    pub(crate) fn set_owner(&mut self, interval: &mut Interval, owner: u32) {
        if let Some(node) = self.tree.find(*interval) {
            self.unlink(node);
            self.content.subtract(node.content());
            node.owner.set(owner);
            interval.owner = owner;
            self.content.add(node.content());
            self.link(node);
        }
    }

    /// Changes the account that `interval` is charged to.
    pub(crate) fn set_payer(&mut self, interval: Interval, payer: Payer) {
        if let Some(node) = self.tree.find(interval) {
            self.content.subtract(node.content());
            node.payer.set(payer);
            self.content.add(node.content());
        }
    }

    /// Returns the interval with the highest start that is at most `number`.
    pub(crate) fn floor(&self, number: u32) -> Option<Interval> {
        let node = self.tree.floor(number)?;
        Some(Interval::of(node, self.tree.nodes.index_of(node)))
    }

    fn bucket(&self, number: u32) -> Option<usize> {
        self.bucket_of(block_of(number))
    }

    fn bucket_of(&self, block: u32) -> Option<usize> {
        (block as usize).checked_rem(self.hints.len())
    }

    /// Adds `change` to the counts of the blocks from `start` to `end`: two blocks at most.
    fn adjust_occupancy(&mut self, start: u32, end: u32, change: i16) {
        for block in blocks_of(start, end) {
            self.change_occupancy(block, change);
        }
    }

    fn change_occupancy(&mut self, block: u32, change: i16) {
        if let Some(bucket) = self.bucket_of(block)
            && let Some(count) = self.occupancy.get_mut(bucket)
        {
            *count = count.checked_add_signed(change).or_broken(*count);
        }
    }

    /// Records that the numbers from `start` to `end`, at most [`MAX_INTERVAL`], were taken, and
    /// which of their blocks are full now. It takes a step for each interval in these blocks.
    fn update_full(&mut self, start: u32, end: u32) {
        for block in blocks_of(start, end) {
            let (first, last) = bounds(block);
            let covers = start <= first && last <= end;
            let is_full = covers || self.tree.first_free(first, last).is_none();
            self.full.set(block, is_full);
        }
    }
}

#[cfg(test)]
mod tests;
