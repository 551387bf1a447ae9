//! An index of slots by a hash: each bucket is a balanced tree, ordered by the key.
//!
//! A peer chooses the keys of many tables, and [`hash64`](super::hash64) is no secret, so it can
//! choose keys of one bucket. The trees (AVL trees: Adelson-Velsky and Landis, 1962) keep each
//! operation logarithmic even then. Their shape depends only on the order of the operations, so two
//! replicas that apply the same operations have the same trees.

use core::cmp::Ordering;

use heapless::Vec;

use super::{Arena, NONE, Steps, Table, bytes_for, memory_sum};
use crate::invariant::OrBroken;

/// The side of a child.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

impl Side {
    fn opposite(self) -> Side {
        match self {
            Side::Left => Side::Right,
            Side::Right => Side::Left,
        }
    }
}

#[derive(Clone, Copy)]
struct TreeNode {
    left: u32,
    right: u32,
    /// The number of levels of its subtree.
    height: u8,
}

const LEAF: TreeNode = TreeNode {
    left: NONE,
    right: NONE,
    height: 1,
};

impl TreeNode {
    fn child(&self, side: Side) -> u32 {
        match side {
            Side::Left => self.left,
            Side::Right => self.right,
        }
    }

    fn set_child(&mut self, side: Side, child: u32) {
        match side {
            Side::Left => self.left = child,
            Side::Right => self.right = child,
        }
    }
}

/// The greatest height of an AVL tree of 2³² nodes.
const MAX_HEIGHT: usize = 48;

/// The nodes from the root of a bucket to a place in its tree, each with the side of the next one.
type NodePath = Vec<(u32, Side), MAX_HEIGHT>;

fn push(path: &mut NodePath, node: u32, side: Side) {
    // The path has room, since no tree is higher.
    let _ = path.push((node, side));
}

/// Finds slots by a hash that is well [mixed](super::hash64), and then by the order of their keys,
/// which the caller compares. No two slots in the index have the same key.
pub(crate) struct HashIndex<'m> {
    roots: Table<'m, u32>,
    nodes: Table<'m, TreeNode>,
    steps: Steps,
}

impl<'m> HashIndex<'m> {
    pub(crate) const fn bytes(capacity: usize) -> usize {
        memory_sum!(bytes_for::<u32>(capacity), bytes_for::<TreeNode>(capacity))
    }

    pub(crate) fn new(arena: &mut Arena<'m>, capacity: usize) -> Self {
        HashIndex {
            roots: arena.alloc_filled(capacity, &NONE),
            nodes: arena.alloc_filled(capacity, &LEAF),
            steps: Steps::default(),
        }
    }

    /// Returns the number of entries that were visited.
    #[cfg(debug_assertions)]
    pub(crate) fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// Removes all slots.
    pub(crate) fn clear(&mut self) {
        self.roots.fill(NONE);
    }

    /// The hash's upper bits choose the bucket, as a fraction of all buckets: a division would take
    /// several times as long.
    #[inline]
    fn bucket(&self, hash: u64) -> usize {
        let bucket = u128::from(hash).wrapping_mul(self.roots.len() as u128) >> 64;
        usize::try_from(bucket).or_broken(0)
    }

    #[inline]
    fn root(&self, bucket: usize) -> u32 {
        self.roots.get(bucket).copied().unwrap_or(NONE)
    }

    fn set_root(&mut self, bucket: usize, node: u32) {
        if let Some(root) = self.roots.get_mut(bucket) {
            *root = node;
        }
    }

    #[inline]
    fn node(&self, node: u32) -> TreeNode {
        self.steps.count();
        self.nodes.get(node as usize).copied().or_broken(LEAF)
    }

    fn change(&mut self, node: u32, change: impl FnOnce(&mut TreeNode)) {
        if let Some(node) = self.nodes.get_mut(node as usize) {
            change(node);
        }
    }

    fn height(&self, node: u32) -> u8 {
        if node == NONE {
            0
        } else {
            self.node(node).height
        }
    }

    #[cfg_attr(not(static_library), inline)]
    #[cfg_attr(static_library, inline(never))]
    fn root_of(&self, hash: u64) -> u32 {
        self.root(self.bucket(hash))
    }

    /// Returns the node below on the way to the first key for which `order` is equal.
    #[cfg_attr(not(static_library), inline)]
    #[cfg_attr(static_library, inline(never))]
    fn next(&self, node: u32, order: Ordering) -> u32 {
        let node = self.node(node);
        if order == Ordering::Less {
            node.right
        } else {
            node.left
        }
    }

    /// Returns a slot for which `order` is equal. `order` compares the key of a slot with the key that
    /// is looked for.
    #[inline]
    pub(crate) fn find(&self, hash: u64, order: impl Fn(u32) -> Ordering) -> Option<u32> {
        let mut at = self.root_of(hash);
        while at != NONE {
            let order = order(at);
            if order == Ordering::Equal {
                return Some(at);
            }
            at = self.next(at, order);
        }
        None
    }

    /// Returns the first slot, in the order of the keys, for which `order` is equal.
    pub(crate) fn find_first(&self, hash: u64, order: impl Fn(u32) -> Ordering) -> Option<u32> {
        let mut found = None;
        let mut at = self.root_of(hash);
        while at != NONE {
            let order = order(at);
            if order == Ordering::Equal {
                found = Some(at);
            }
            at = self.next(at, order);
        }
        found
    }

    /// Inserts the slot. `order` compares the key of another slot with the key of this one.
    #[inline]
    pub(crate) fn insert(&mut self, hash: u64, slot: u32, order: &dyn Fn(u32) -> Ordering) {
        let bucket = self.bucket(hash);
        self.change(slot, |node| *node = LEAF);
        // Most buckets have one slot or none.
        if self.root(bucket) == NONE {
            self.set_root(bucket, slot);
        } else {
            self.insert_into_tree(bucket, slot, order);
        }
    }

    fn insert_into_tree(&mut self, bucket: usize, slot: u32, order: &dyn Fn(u32) -> Ordering) {
        let mut path = NodePath::new();
        let mut at = self.root(bucket);
        while at != NONE {
            at = self.step(&mut path, at, order);
        }
        let depth = path.len();
        self.attach(bucket, &mut path, slot, depth);
    }

    /// Adds a node to the path. Returns its child on the side of the key that `order` compares with.
    fn step(&self, path: &mut NodePath, at: u32, order: &dyn Fn(u32) -> Ordering) -> u32 {
        let side = if order(at) == Ordering::Greater {
            Side::Left
        } else {
            Side::Right
        };
        push(path, at, side);
        self.node(at).child(side)
    }

    /// Removes the slot, if it is in the index under that hash. `order` compares the key of another
    /// slot with the key of this one.
    #[inline]
    pub(crate) fn remove(&mut self, hash: u64, slot: u32, order: &dyn Fn(u32) -> Ordering) {
        let bucket = self.bucket(hash);
        if self.root(bucket) == slot && self.node(slot).height == 1 {
            self.set_root(bucket, NONE);
        } else {
            self.remove_from_tree(bucket, slot, order);
        }
    }

    fn remove_from_tree(&mut self, bucket: usize, slot: u32, order: &dyn Fn(u32) -> Ordering) {
        let mut path = NodePath::new();
        let mut at = self.root(bucket);
        while at != slot {
            if at == NONE {
                return;
            }
            at = self.step(&mut path, at, order);
        }
        let removed = self.node(slot);
        let depth = path.len();
        if removed.right == NONE {
            return self.attach(bucket, &mut path, removed.left, depth);
        }
        // The next slot in the order takes the place of the removed one.
        push(&mut path, slot, Side::Right);
        let mut next = removed.right;
        let mut subtree = self.node(next);
        while subtree.left != NONE {
            push(&mut path, next, Side::Left);
            next = subtree.left;
            subtree = self.node(next);
        }
        if let Some((node, _)) = path.get_mut(depth) {
            *node = next;
        }
        self.change(next, |node| *node = removed);
        self.attach(bucket, &mut path, subtree.right, depth);
    }

    /// Attaches the subtree `below` at the end of the path, and restores the balance above it. All
    /// links that are new are to the last nodes of the path, from `depth` on, or from the node before
    /// them: above that one, the loop stops as soon as nothing changes any more.
    fn attach(&mut self, bucket: usize, path: &mut NodePath, mut below: u32, depth: usize) {
        while let Some((up, side)) = path.pop() {
            let height = self.node(up).height;
            self.change(up, |node| node.set_child(side, below));
            below = self.balance(up);
            if path.len() < depth && below == up && self.height(up) == height {
                return;
            }
        }
        self.set_root(bucket, below);
    }

    /// Restores the balance of a subtree whose children are balanced. Returns its new root.
    fn balance(&mut self, root: u32) -> u32 {
        let TreeNode { left, right, .. } = self.node(root);
        let (left_height, right_height) = (self.height(left), self.height(right));
        let higher = match left_height.abs_diff(right_height) {
            0 | 1 => {
                let below = left_height.max(right_height);
                self.change(root, |node| node.height = below.wrapping_add(1));
                return root;
            }
            _ if left_height > right_height => Side::Left,
            _ => Side::Right,
        };
        let child = self.node(root).child(higher);
        let below = self.node(child);
        let (inner, outer) = (below.child(higher.opposite()), below.child(higher));
        if self.height(inner) > self.height(outer) {
            let child = self.rotate_up(child, higher.opposite());
            self.change(root, |node| node.set_child(higher, child));
        }
        self.rotate_up(root, higher)
    }

    /// Rotates the child on that side to the root. Returns the new root.
    fn rotate_up(&mut self, root: u32, side: Side) -> u32 {
        let up = self.node(root).child(side);
        let inner = self.node(up).child(side.opposite());
        self.change(root, |node| node.set_child(side, inner));
        self.change(up, |node| node.set_child(side.opposite(), root));
        for node in [root, up] {
            let TreeNode { left, right, .. } = self.node(node);
            let below = self.height(left).max(self.height(right));
            self.change(node, |node| node.height = below.wrapping_add(1));
        }
        up
    }
}

// Steps are counted in builds with debug assertions.
#[cfg(all(test, debug_assertions, not(loom)))]
mod tests;
