//! The balance of the trees.

use super::{IntervalTrees, Link, TreeKind};
use crate::invariant::Count;

impl IntervalTrees<'_> {
    pub(super) fn rank(&self, tree: TreeKind, lock: u32) -> u32 {
        self.link(tree, lock).rank
    }

    /// Recomputes the node's own rank and reach after a change below it.
    pub(super) fn refresh(&mut self, tree: TreeKind, lock: u32) {
        let Link { left, right, .. } = *self.link(tree, lock);
        let below = self.rank(tree, left).max(self.rank(tree, right));
        self.change(tree, lock, |link| link.rank = below.plus(1));
        if tree == TreeKind::File {
            self.set_reach(lock, self.compute_reach(lock));
        }
    }

    /// Restores the balance at `root`, whose children's ranks differ by two. Returns the new root
    /// of the subtree.
    pub(super) fn rotate(&mut self, tree: TreeKind, root: u32) -> u32 {
        let Link { left, right, .. } = *self.link(tree, root);
        if self.rank(tree, left) > self.rank(tree, right) {
            let Link {
                left: outer,
                right: inner,
                ..
            } = *self.link(tree, left);
            if self.rank(tree, inner) > self.rank(tree, outer) {
                let left = self.rotate_left(tree, left);
                self.change(tree, root, |link| link.left = left);
            }
            return self.rotate_right(tree, root);
        }
        let Link {
            left: inner,
            right: outer,
            ..
        } = *self.link(tree, right);
        if self.rank(tree, inner) > self.rank(tree, outer) {
            let right = self.rotate_right(tree, right);
            self.change(tree, root, |link| link.right = right);
        }
        self.rotate_left(tree, root)
    }

    fn rotate_left(&mut self, tree: TreeKind, root: u32) -> u32 {
        let up = self.link(tree, root).right;
        let inner = self.link(tree, up).left;
        self.change(tree, root, |link| link.right = inner);
        self.change(tree, up, |link| link.left = root);
        self.refresh(tree, root);
        self.refresh(tree, up);
        up
    }

    fn rotate_right(&mut self, tree: TreeKind, root: u32) -> u32 {
        let up = self.link(tree, root).left;
        let inner = self.link(tree, up).right;
        self.change(tree, root, |link| link.left = inner);
        self.change(tree, up, |link| link.right = root);
        self.refresh(tree, root);
        self.refresh(tree, up);
        up
    }
}
