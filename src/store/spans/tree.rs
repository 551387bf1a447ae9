//! Spans in a search tree by their start: an AVL tree whose links are numbers of slots, not pointers,
//! so a wrong one leads to a wrong span at worst.

use crate::error::Error;
use crate::store::slots::Slots;
use crate::store::{Arena, LONGEST, NONE};

use super::LENGTH_BITS;

/// A span, in a tree and in the chain of its owner. One that is free has no owner and hangs on the
/// free list by `after`.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub(super) struct Node {
    /// The start and, in the low bits, the length less one.
    bounds: u32,
    pub(super) owner: u32,
    pub(super) before: u32,
    pub(super) after: u32,
    left: u32,
    right: u32,
    height: u32,
}

impl Node {
    const FREE: Node = Node {
        bounds: 0,
        owner: 0,
        before: NONE,
        after: NONE,
        left: NONE,
        right: NONE,
        height: 1,
    };

    pub(super) fn start(&self) -> u32 {
        self.bounds >> LENGTH_BITS
    }

    pub(super) fn end(&self) -> u32 {
        self.start().saturating_add(self.bounds & (LONGEST - 1))
    }

    pub(super) fn set_end(&mut self, end: u32) {
        let start = self.start();
        self.bounds = (start << LENGTH_BITS) | end.saturating_sub(start);
    }

    pub(super) fn holds(&self, number: u32) -> bool {
        self.start() <= number && number <= self.end() && self.owner != 0
    }
}

/// All spans of a table.
pub(super) struct Tree<'m> {
    nodes: Slots<'m, Node>,
    root: u32,
    free: u32,
    count: usize,
    most: usize,
}

impl<'m> Tree<'m> {
    pub(super) const fn bytes(capacity: usize) -> usize {
        Slots::<Node>::bytes(capacity)
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        Ok(Tree {
            nodes: Slots::new(arena, capacity)?,
            root: NONE,
            free: NONE,
            count: 0,
            most: 0,
        })
    }

    /// How many more spans fit.
    pub(super) fn left(&self) -> usize {
        self.nodes.capacity().saturating_sub(self.count)
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The most there ever were.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    #[inline]
    pub(super) fn get(&self, at: u32) -> Option<&Node> {
        self.nodes.get(at)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut Node> {
        self.nodes.get_mut(at)
    }

    /// The span with the highest start that is at most `number`.
    pub(super) fn at_most(&self, number: u32) -> u32 {
        let (mut at, mut found) = (self.root, NONE);
        while let Some(node) = self.get(at) {
            if node.start() <= number {
                found = at;
                at = node.right;
            } else {
                at = node.left;
            }
        }
        found
    }

    /// The span with the lowest start that is above `number`.
    pub(super) fn above(&self, number: u32) -> u32 {
        let (mut at, mut found) = (self.root, NONE);
        while let Some(node) = self.get(at) {
            if node.start() > number {
                found = at;
                at = node.left;
            } else {
                at = node.right;
            }
        }
        found
    }

    /// Moves `from` up to the first number that no span holds, but no further than behind `last`.
    /// Returns the start of the next span behind that; `None` if there is none, or `from` is behind
    /// `last`. Looks at the path to `from` and at the spans that it passes.
    pub(super) fn pass(&self, from: &mut u32, last: u32) -> Option<u32> {
        self.pass_below(self.root, from, last)
    }

    fn pass_below(&self, at: u32, from: &mut u32, last: u32) -> Option<u32> {
        let node = self.get(at)?;
        if node.start() > *from {
            let next = self.pass_below(node.left, from, last);
            if next.is_some() || *from > last {
                return next;
            }
            if *from < node.start() {
                return Some(node.start());
            }
        }
        *from = node.end().saturating_add(1).max(*from);
        if *from > last {
            return None;
        }
        self.pass_below(node.right, from, last)
    }

    /// Adds a span that overlaps none; where it is, or `None` if there is no room.
    pub(super) fn insert(&mut self, start: u32, end: u32, owner: u32) -> Option<u32> {
        let mut node = Node {
            bounds: start << LENGTH_BITS,
            owner,
            ..Node::FREE
        };
        node.set_end(end);
        let at = if let Some(free) = self.nodes.get_mut(self.free) {
            let at = self.free;
            self.free = free.after;
            *free = node;
            at
        } else {
            self.nodes.push(node)?
        };
        self.count = self.count.saturating_add(1);
        self.most = self.most.max(self.count);
        self.root = self.insert_below(self.root, at, start);
        Some(at)
    }

    /// Takes out the span that begins at `start`, if there is one.
    pub(super) fn remove(&mut self, start: u32) {
        let at = self.at_most(start);
        if self.get(at).is_none_or(|node| node.start() != start) {
            return;
        }
        self.root = self.remove_below(self.root, start);
        let free = self.free;
        if let Some(node) = self.get_mut(at) {
            *node = Node {
                after: free,
                ..Node::FREE
            };
        }
        self.free = at;
        self.count = self.count.saturating_sub(1);
    }

    fn insert_below(&mut self, root: u32, at: u32, start: u32) -> u32 {
        let Some(node) = self.get(root).copied() else {
            return at;
        };
        let is_left = start < node.start();
        let child = if is_left { node.left } else { node.right };
        let height = self.height(child);
        let new = self.insert_below(child, at, start);
        self.relink(root, is_left, new, height)
    }

    fn remove_below(&mut self, root: u32, start: u32) -> u32 {
        let Some(node) = self.get(root).copied() else {
            return NONE;
        };
        if start == node.start() {
            if node.right == NONE {
                return node.left;
            }
            let (first, right) = self.remove_first(node.right);
            self.link(first, node.left, right);
            return self.balance(first);
        }
        let is_left = start < node.start();
        let child = if is_left { node.left } else { node.right };
        let height = self.height(child);
        let new = self.remove_below(child, start);
        self.relink(root, is_left, new, height)
    }

    /// Takes out the first span of a subtree: it, and the subtree's new root.
    fn remove_first(&mut self, root: u32) -> (u32, u32) {
        let Some(node) = self.get(root).copied() else {
            return (NONE, NONE);
        };
        if node.left == NONE {
            return (root, node.right);
        }
        let height = self.height(node.left);
        let (first, left) = self.remove_first(node.left);
        (first, self.relink(root, true, left, height))
    }

    fn height(&self, at: u32) -> u32 {
        self.get(at).map_or(0, |node| node.height)
    }

    fn children(&self, at: u32) -> (u32, u32) {
        let node = self.get(at);
        node.map_or((NONE, NONE), |node| (node.left, node.right))
    }

    /// Puts `child` below `root`, where a subtree of that height was; the subtree's root from now on.
    /// Most often the height is the same, and the other side needs no look.
    fn relink(&mut self, root: u32, is_left: bool, child: u32, height: u32) -> u32 {
        let is_as_high = self.height(child) == height;
        let Some(node) = self.get_mut(root) else {
            return root;
        };
        if is_left {
            node.left = child;
        } else {
            node.right = child;
        }
        if is_as_high {
            return root;
        }
        let (left, right) = (node.left, node.right);
        self.link(root, left, right);
        self.balance(root)
    }

    /// Puts these two below `at`.
    fn link(&mut self, at: u32, left: u32, right: u32) {
        let height = self.height(left).max(self.height(right)).saturating_add(1);
        if let Some(node) = self.get_mut(at) {
            (node.left, node.right, node.height) = (left, right, height);
        }
    }

    /// Restores the balance at `root`, one of whose subtrees has changed by one level at most.
    fn balance(&mut self, root: u32) -> u32 {
        let (left, right) = self.children(root);
        let (on_left, on_right) = (self.height(left), self.height(right));
        if on_left > on_right.saturating_add(1) {
            let (outer, inner) = self.children(left);
            if self.height(inner) <= self.height(outer) {
                self.link(root, inner, right);
                self.link(left, outer, root);
                return left;
            }
            let (first, second) = self.children(inner);
            self.link(left, outer, first);
            self.link(root, second, right);
            self.link(inner, left, root);
            inner
        } else if on_right > on_left.saturating_add(1) {
            let (inner, outer) = self.children(right);
            if self.height(inner) <= self.height(outer) {
                self.link(root, left, inner);
                self.link(right, root, outer);
                return right;
            }
            let (first, second) = self.children(inner);
            self.link(root, left, first);
            self.link(right, second, outer);
            self.link(inner, root, right);
            inner
        } else {
            root
        }
    }

    /// Whether the tree is in order and balanced, and no two spans overlap. Slow: for tests.
    pub(super) fn is_sound(&self) -> bool {
        self.check(self.root, 0, u32::MAX) == Some(self.count)
    }

    /// How many spans are below, all of them above `low` and below `high`; `None` if it is not right.
    fn check(&self, at: u32, low: u32, high: u32) -> Option<usize> {
        let Some(node) = self.get(at) else {
            return Some(0);
        };
        let on_left = self.check(node.left, low, node.start())?;
        let on_right = self.check(node.right, node.end(), high)?;
        let (left, right) = (self.height(node.left), self.height(node.right));
        let is_right = node.owner != 0
            && low < node.start()
            && node.end() < high
            && left.abs_diff(right) <= 1
            && node.height == left.max(right).saturating_add(1);
        let count = on_left.saturating_add(on_right).saturating_add(1);
        is_right.then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn whatever_comes_and_goes_the_tree_is_right() {
        const MOST: usize = 60;
        let mut memory = Box::new_uninit_slice(Tree::bytes(MOST));
        let mut tree = Tree::new(&mut Arena::new(&mut memory), MOST).unwrap();
        let mut model = BTreeMap::new();
        let mut rng = fastrand::Rng::new();
        println_seed(&rng);
        for _ in 0..20_000 {
            let start = rng.u32(1..200) * 4;
            let end = start + rng.u32(0..4);
            if rng.usize(..MOST) >= model.len() && !model.contains_key(&start) {
                let inserted = tree.insert(start, end, 7).is_some();
                assert_eq!(inserted, model.len() < MOST);
                if inserted {
                    model.insert(start, end);
                }
            } else {
                let some = model
                    .range(start..)
                    .next()
                    .map_or(start, |(start, _)| *start);
                tree.remove(some);
                model.remove(&some);
            }
            assert!(tree.is_sound());
            assert_eq!((tree.len(), tree.left()), (model.len(), MOST - model.len()));
            let number = rng.u32(..900);
            let at = |at| tree.get(at).map(Node::start);
            let below = model.range(..=number).next_back();
            assert_eq!(at(tree.at_most(number)), below.map(|(start, _)| *start));
            let above = model.range(number + 1..).next();
            assert_eq!(at(tree.above(number)), above.map(|(start, _)| *start));
            let last = number + rng.u32(..40);
            let is_taken = |number: &u32| {
                let below = model.range(..=number).next_back();
                below.is_some_and(|(_, end)| end >= number)
            };
            let free = (number..=last).find(|number| !is_taken(number));
            let mut from = number;
            let next = tree.pass(&mut from, last);
            assert_eq!((from <= last).then_some(from), free, "{number}..={last}");
            if let Some(free) = free {
                assert_eq!(next, model.range(free..).next().map(|(start, _)| *start));
            }
        }
    }

    fn println_seed(rng: &fastrand::Rng) {
        std::println!("seed {}", rng.get_seed());
    }
}
