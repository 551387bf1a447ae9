//! Intervals in a red-black tree by their start, and the nodes for them.

use core::mem;

use intrusive_collections::rbtree::CursorMut;
use intrusive_collections::{Bound, RBTree};

use super::node::{ByStart, IntervalNode, Nodes};
use super::{Gap, Interval};
use crate::ID_MAX;
use crate::invariant::Count;
use crate::store::{Arena, Steps, bytes_for};

/// All intervals of a table, and its free nodes.
pub(super) struct Tree<'m> {
    by_start: RBTree<ByStart<'m>>,
    free: Option<&'m IntervalNode<'m>>,
    pub(super) nodes: Nodes<'m>,
    capacity: usize,
    count: usize,
    pub(super) peak: usize,
    steps: Steps,
}

impl<'m> Tree<'m> {
    pub(super) const fn bytes(capacity: usize) -> usize {
        bytes_for::<IntervalNode<'_>>(capacity)
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize) -> Self {
        Tree {
            by_start: RBTree::new(ByStart::new()),
            free: None,
            nodes: Nodes::new(arena.alloc_uninit(capacity)),
            capacity,
            count: 0,
            peak: 0,
            steps: Steps::default(),
        }
    }

    /// Returns the number of intervals that still fit.
    pub(super) fn remaining(&self) -> usize {
        self.capacity.minus(self.count)
    }

    /// Counts the nodes of the longest path of a red-black tree.
    fn count_path(&self) {
        let height = self.count.checked_ilog2().map_or(1, |log| log as usize);
        self.steps.count_many(height.plus(height));
    }

    /// Returns the number of nodes that were visited.
    #[cfg(debug_assertions)]
    pub(super) fn steps(&self) -> u64 {
        self.steps.get()
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Returns the highest number of intervals so far.
    pub(super) fn peak(&self) -> usize {
        self.peak
    }

    /// Iterates over all intervals, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &IntervalNode<'m>> {
        self.by_start.iter()
    }

    /// Returns the interval with the highest start that is at most `number`.
    pub(super) fn floor(&self, number: u32) -> Option<&'m IntervalNode<'m>> {
        self.count_path();
        let cursor = self.by_start.upper_bound(Bound::Included(&number));
        cursor.clone_pointer()
    }

    /// Returns the free numbers from the lowest one on that is from `from` to `last`. It examines the path
    /// to `from` and the intervals that it passes.
    // Not inlined: it needs the registers for its loops.
    #[inline(never)]
    pub(super) fn first_free(&self, mut from: u32, last: u32) -> Option<Gap<'m>> {
        self.count_path();
        let mut cursor = self.by_start.upper_bound(Bound::Included(&from));
        let mut before = cursor.clone_pointer();
        loop {
            self.steps.count();
            if let Some(node) = before {
                from = from.max(node.end().plus(1));
            }
            if from > last {
                return None;
            }
            // From the null position before the first node, this moves to the first node.
            cursor.move_next();
            let behind = cursor.clone_pointer();
            if behind.is_none_or(|node| from < node.start()) {
                return Some(Gap {
                    start: from,
                    end: behind.map_or(ID_MAX, |node| node.start().minus(1)),
                    before,
                });
            }
            before = behind;
        }
    }

    /// Adds an interval that overlaps none; `None` if there is no room. `before` is the node of the interval
    /// before it, so that nothing is searched, if that is known.
    pub(super) fn insert(
        &mut self,
        (start, end): (u32, u32),
        owner: u32,
        before: Option<&'m IntervalNode<'m>>,
    ) -> Option<&'m IntervalNode<'m>> {
        let node = if let Some(node) = self.free {
            self.free = node.left.take();
            node
        } else {
            self.nodes.alloc()?
        };
        node.init(start, end, owner);
        if let Some(before) = before
            && let Some(mut cursor) = self.cursor_at(before)
        {
            cursor.insert_after(node);
        } else {
            self.count_path();
            self.by_start.insert(node);
        }
        self.count.increment();
        self.peak = self.peak.max(self.count);
        Some(node)
    }

    /// Returns a cursor at the node, if it is in the tree.
    #[allow(unsafe_code)]
    fn cursor_at(&mut self, node: &'m IntervalNode<'m>) -> Option<CursorMut<'_, ByStart<'m>>> {
        // In this order: the node of another table may change at any time.
        if !self.nodes.has(node) || !node.is_linked() {
            return None;
        }
        // SAFETY: the node is linked, and it is in this tree, since a node is linked into no other tree than
        // that which took it from its `nodes`, and this one has it in its `nodes`.
        Some(unsafe { self.by_start.cursor_mut_from_ptr(node) })
    }

    /// Returns the node of an interval that was found, if this tree has it.
    pub(super) fn find(&self, interval: Interval) -> Option<&'m IntervalNode<'m>> {
        let node = self.nodes.get(interval.index as usize)?;
        interval.is_at(node).then_some(node)
    }

    /// Removes a node, if it is in this tree, and frees it. Its content stays. Returns false if it is not in
    /// this tree.
    #[inline]
    pub(super) fn remove(&mut self, node: &'m IntervalNode<'m>) -> bool {
        let Some(mut cursor) = self.cursor_at(node) else {
            return false;
        };
        cursor.remove();
        node.left.set(self.free);
        self.free = Some(node);
        self.count.decrement();
        true
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes the tree anew of the nodes that have owners. All others are free.
    pub(super) fn rebuild(&mut self) {
        self.by_start.fast_clear();
        (self.free, self.count) = (None, 0);
        for index in (0..self.nodes.used()).rev() {
            let Some(node) = self.nodes.get(index) else {
                return;
            };
            node.reset_links();
            if node.owner.get() == 0 {
                node.left.set(self.free);
                self.free = Some(node);
            } else {
                self.by_start.insert(node);
                self.count.increment();
            }
        }
    }

    /// Returns the interval that starts with the number.
    pub(super) fn find_start(&self, number: u32) -> Option<&'m IntervalNode<'m>> {
        self.by_start.find(&number).clone_pointer()
    }

    /// Returns true if all intervals are in order, have owners, and do not overlap. It is slow, and
    /// meant for tests.
    pub(super) fn check_invariants(&self) -> bool {
        let mut last = 0;
        let is_behind = |node: &IntervalNode<'_>| {
            let before = mem::replace(&mut last, node.end());
            before < node.start() && node.owner.get() != 0
        };
        self.iter().all(is_behind) && self.iter().count() == self.count
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::collections::BTreeMap;

    use super::*;

    fn is_balanced(tree: &Tree<'_>) -> bool {
        let mut roots = tree.iter().filter(|node| node.parent().is_none());
        let root = roots.next();
        root.is_none_or(|root| root.black_height().is_some()) && roots.next().is_none()
    }

    #[test]
    fn a_node_of_another_tree_or_a_free_one_is_not_removed_and_nothing_is_inserted_behind_it() {
        let mut memory = [(); 2].map(|()| Box::new_uninit_slice(Tree::bytes(4)));
        let trees = memory.each_mut();
        let [mut tree, mut other] = trees.map(|memory| Tree::new(&mut Arena::new(memory), 4));
        let foreign = other.insert((1, 4), 7, None).unwrap();
        assert!(!tree.remove(foreign));
        assert!(tree.insert((8, 9), 7, Some(foreign)).is_some());
        assert!(other.remove(foreign) && !other.remove(foreign));
        // The hint is the very node that is inserted.
        assert!(other.insert((5, 6), 7, Some(foreign)).is_some());
        for (tree, start) in [(tree, 8), (other, 5)] {
            assert!(tree.check_invariants() && is_balanced(&tree));
            assert!(tree.iter().map(IntervalNode::start).eq([start]));
        }
    }

    #[test]
    fn the_tree_agrees_with_a_model_after_any_insertion_or_removal() {
        const MOST: usize = 60;
        let mut memory = Box::new_uninit_slice(Tree::bytes(MOST));
        let mut tree = Tree::new(&mut Arena::new(&mut memory), MOST);
        let mut model = BTreeMap::new();
        let mut rng = fastrand::Rng::new();
        std::println!("seed {}", rng.get_seed());
        let rounds = if cfg!(miri) { 300 } else { 20_000 };
        for _ in 0..rounds {
            let start = rng.u32(1..200) * 4;
            let end = start + rng.u32(0..4);
            if rng.usize(..MOST) >= model.len() && !model.contains_key(&start) {
                // The search for free numbers knows the node before, and a number at random does not.
                let gap = tree.first_free(start, start);
                let before = gap.and_then(|gap| gap.before).filter(|_| rng.bool());
                let inserted = tree.insert((start, end), 7, before).is_some();
                assert_eq!(inserted, model.len() < MOST);
                if inserted {
                    model.insert(start, end);
                }
            } else if let Some(start) = model.range(start..).next().map(|(start, _)| *start) {
                let node = tree.floor(start).unwrap();
                assert!(tree.remove(node) && !tree.remove(node));
                model.remove(&start);
            }
            assert!(tree.check_invariants() && is_balanced(&tree));
            assert_eq!(
                (tree.len(), tree.remaining()),
                (model.len(), MOST - model.len())
            );
            let number = rng.u32(..900);
            let found = tree.floor(number).map(IntervalNode::start);
            let below = model.range(..=number).next_back();
            assert_eq!(found, below.map(|(start, _)| *start));
            let last = number + rng.u32(..40);
            let is_taken = |number: &u32| {
                let below = model.range(..=number).next_back();
                below.is_some_and(|(_, end)| end >= number)
            };
            let free = (number..=last)
                .find(|number| !is_taken(number))
                .map(|first| {
                    let next = model.range(first..).next();
                    (first, next.map_or(ID_MAX, |(start, _)| start - 1))
                });
            let gap = tree.first_free(number, last);
            let found = gap.map(|gap| (gap.start, gap.end));
            assert_eq!(found, free, "{number}..={last}");
        }
    }
}
