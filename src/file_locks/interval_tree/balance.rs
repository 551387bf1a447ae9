//! The balance of the trees.

use super::{IntervalTrees, TreeKind, TreeLink};
use crate::invariant::Count;
use crate::store::NONE;

/// The change of the tree below a lock.
#[derive(Clone, Copy)]
pub(super) enum Change {
    /// A lock with that end and that holder was inserted.
    Inserted { end: u64, holder: u32 },
    /// A lock was removed. If it had two children, the lock `next` has its place now.
    Removed { next: u32 },
}

impl IntervalTrees<'_> {
    #[inline]
    pub(super) fn rank(&self, tree: TreeKind, lock: u32) -> u8 {
        self.at(lock).rank(tree)
    }

    /// Updates the lock `at` and those above it after a change below, as far up as anything changes.
    /// Returns the new root of the tree.
    pub(super) fn repair(&mut self, tree: TreeKind, root: u32, mut at: u32, change: Change) -> u32 {
        // A lock that has moved has to be updated, even if nothing has changed right below it.
        let mut moved = match change {
            Change::Inserted { .. } => NONE,
            Change::Removed { next } => next,
        };
        let mut root = root;
        while at != NONE {
            let lock = self.at(at);
            let TreeLink { left, right, up } = *lock.link(tree);
            let (left, right) = (self.at(left), self.at(right));
            let (left_rank, right_rank) = (left.rank(tree), right.rank(tree));
            let (low, high) = (left_rank.min(right_rank), left_rank.max(right_rank));
            // A lock that has lost its last child has the lowest rank.
            let highest = if high == 0 { 1 } else { low.plus(2) };
            let old = (lock.rank(tree), lock.reach);
            let rank = old.0.max(high.plus(1)).min(highest);
            let reach = match (tree, change) {
                // These reaches are not used.
                (TreeKind::Holder, _) => old.1,
                (_, Change::Inserted { end, holder }) => old.1.extend(end, holder),
                (_, Change::Removed { .. }) => lock.reach_over(left, right),
            };
            let mut new = (rank, reach);
            if high.abs_diff(low) > 1 {
                let top = self.rotate(tree, at);
                root = self.replace(tree, root, (at, top), up);
                new = (self.rank(tree, top), self.at(top).reach);
            } else if new != old {
                self.set_rank_and_reach(tree, at, new);
            }
            if at == moved {
                moved = NONE;
            }
            if new == old && moved == NONE {
                break;
            }
            at = up;
        }
        root
    }

    /// Puts the lock `new` at the place of `old` below the lock `up`. Returns the new root of the tree.
    pub(super) fn replace(
        &mut self,
        tree: TreeKind,
        root: u32,
        (old, new): (u32, u32),
        up: u32,
    ) -> u32 {
        self.change(tree, new, |link, _| link.up = up);
        self.change(tree, up, |link, _| {
            if link.left == old {
                link.left = new;
            } else {
                link.right = new;
            }
        });
        if up == NONE { new } else { root }
    }

    /// Recomputes the lock's own rank and reach after a change below it.
    fn refresh(&mut self, tree: TreeKind, lock: u32) {
        let TreeLink { left, right, .. } = *self.link(tree, lock);
        let below = self.rank(tree, left).max(self.rank(tree, right));
        let reach = match tree {
            TreeKind::File => self.compute_reach(lock),
            TreeKind::Holder => self.at(lock).reach,
        };
        self.set_rank_and_reach(tree, lock, (below.plus(1), reach));
    }

    /// Restores the balance at `root`, whose children's ranks differ by two. Returns the new root
    /// of the subtree, which the caller puts at its place.
    fn rotate(&mut self, tree: TreeKind, root: u32) -> u32 {
        let TreeLink { left, right, .. } = *self.link(tree, root);
        if self.rank(tree, left) > self.rank(tree, right) {
            let TreeLink {
                left: outer,
                right: inner,
                ..
            } = *self.link(tree, left);
            if self.rank(tree, inner) > self.rank(tree, outer) {
                let left = self.rotate_left(tree, left);
                self.change(tree, root, |link, _| link.left = left);
            }
            return self.rotate_right(tree, root);
        }
        let TreeLink {
            left: inner,
            right: outer,
            ..
        } = *self.link(tree, right);
        if self.rank(tree, inner) > self.rank(tree, outer) {
            let right = self.rotate_right(tree, right);
            self.change(tree, root, |link, _| link.right = right);
        }
        self.rotate_left(tree, root)
    }

    fn rotate_left(&mut self, tree: TreeKind, root: u32) -> u32 {
        let up = self.link(tree, root).right;
        let inner = self.link(tree, up).left;
        self.change(tree, root, |link, _| (link.right, link.up) = (inner, up));
        self.change(tree, inner, |link, _| link.up = root);
        self.change(tree, up, |link, _| link.left = root);
        self.refresh(tree, root);
        self.refresh(tree, up);
        up
    }

    fn rotate_right(&mut self, tree: TreeKind, root: u32) -> u32 {
        let up = self.link(tree, root).left;
        let inner = self.link(tree, up).right;
        self.change(tree, root, |link, _| (link.left, link.up) = (inner, up));
        self.change(tree, inner, |link, _| link.up = root);
        self.change(tree, up, |link, _| link.right = root);
        self.refresh(tree, root);
        self.refresh(tree, up);
        up
    }
}
