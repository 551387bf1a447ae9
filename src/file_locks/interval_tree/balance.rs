//! The balance of the trees.

use super::{Link, Side, Trees};

impl Trees<'_> {
    pub(super) fn rank(&self, side: Side, lock: u32) -> u32 {
        self.link(side, lock).rank
    }

    /// Makes the node's own figures right after a change below it.
    pub(super) fn refresh(&mut self, side: Side, lock: u32) {
        let Link { left, right, .. } = *self.link(side, lock);
        let below = self.rank(side, left).max(self.rank(side, right));
        self.change(side, lock, |link| link.rank = below.saturating_add(1));
        if side == Side::File {
            self.set_reach(lock, self.reach_of(lock));
        }
    }

    /// Restores the balance at `root`, whose children's ranks differ by two; returns
    /// the lock that stands there then.
    pub(super) fn rotate(&mut self, side: Side, root: u32) -> u32 {
        let Link { left, right, .. } = *self.link(side, root);
        if self.rank(side, left) > self.rank(side, right) {
            let Link {
                left: outer,
                right: inner,
                ..
            } = *self.link(side, left);
            if self.rank(side, inner) > self.rank(side, outer) {
                let left = self.rotate_left(side, left);
                self.change(side, root, |link| link.left = left);
            }
            return self.rotate_right(side, root);
        }
        let Link {
            left: inner,
            right: outer,
            ..
        } = *self.link(side, right);
        if self.rank(side, inner) > self.rank(side, outer) {
            let right = self.rotate_right(side, right);
            self.change(side, root, |link| link.right = right);
        }
        self.rotate_left(side, root)
    }

    fn rotate_left(&mut self, side: Side, root: u32) -> u32 {
        let up = self.link(side, root).right;
        let inner = self.link(side, up).left;
        self.change(side, root, |link| link.right = inner);
        self.change(side, up, |link| link.left = root);
        self.refresh(side, root);
        self.refresh(side, up);
        up
    }

    fn rotate_right(&mut self, side: Side, root: u32) -> u32 {
        let up = self.link(side, root).left;
        let inner = self.link(side, up).right;
        self.change(side, root, |link| link.left = inner);
        self.change(side, up, |link| link.right = root);
        self.refresh(side, root);
        self.refresh(side, up);
        up
    }
}
