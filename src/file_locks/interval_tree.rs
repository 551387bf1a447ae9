//! Locks in trees: by their first byte, and such that those that touch a range are found without
//! a look at the others.
//!
//! The trees are AVL trees whose links stand in the locks themselves; each lock is in two of them,
//! one of its file and one of its holder. A node of a file's tree knows the highest end below it, and the
//! highest of any other holder than that one's. So a search for a range passes over whole subtrees, those
//! of the asker's own locks, too, and the first conflicting lock is found in one way down. Links are
//! numbers of a table, not pointers, so there is nothing unsafe about them.
//!
//! Locks that start at the same byte, which those of several readers may do, stand in the order in
//! which their holders first locked the file: the kernel's order.

use core::cmp::Ordering;

use super::Range;
use super::reach::Reach;
use crate::error::Error;
use crate::store::{Arena, NONE, Places, Table, bytes_for};

/// Which of a lock's two trees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// All locks of a file that are of one kind.
    File = 0,
    /// All locks of one holder.
    Holder = 1,
}

#[derive(Clone, Copy)]
pub(super) struct Link {
    pub(super) left: u32,
    pub(super) right: u32,
    height: u32,
}

/// One lock: a range of a file that somebody holds.
#[derive(Clone, Copy)]
pub(super) struct Lock {
    pub(super) start: u64,
    /// The last byte.
    pub(super) end: u64,
    /// When its holder first locked the file: a number that rises with each holder.
    pub(super) since: u64,
    /// How far the locks below it in its file's tree reach, and itself.
    pub(super) reach: Reach,
    /// The place of its holder.
    pub(super) holder: u32,
    pub(super) write: bool,
    links: [Link; 2],
}

const LEAF: Link = Link {
    left: NONE,
    right: NONE,
    height: 0,
};

/// What stands at [`NONE`].
static NOWHERE: Lock = Lock {
    start: 0,
    end: 0,
    since: 0,
    reach: Reach::NOWHERE,
    holder: NONE,
    write: false,
    links: [LEAF; 2],
};

/// A fixed number of locks, and the trees they are in.
pub(super) struct Trees<'m> {
    locks: Table<'m, Lock>,
    places: Places<'m>,
}

impl<'m> Trees<'m> {
    pub(super) const fn bytes(capacity: usize) -> usize {
        bytes_for::<Lock>(capacity).saturating_add(Places::bytes(capacity))
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        Ok(Trees {
            locks: arena.table(capacity, |_| Ok(NOWHERE))?,
            places: Places::new(arena, capacity)?,
        })
    }

    pub(super) fn places(&self) -> &Places<'m> {
        &self.places
    }

    #[inline]
    pub(super) fn at(&self, lock: u32) -> &Lock {
        self.locks.get(lock as usize).unwrap_or(&NOWHERE)
    }

    #[inline]
    pub(super) fn link(&self, side: Side, lock: u32) -> &Link {
        let [file, holder] = &self.at(lock).links;
        match side {
            Side::File => file,
            Side::Holder => holder,
        }
    }

    #[inline]
    fn change(&mut self, side: Side, lock: u32, change: impl FnOnce(&mut Link)) {
        if let Some(lock) = self.locks.get_mut(lock as usize) {
            let [file, holder] = &mut lock.links;
            change(match side {
                Side::File => file,
                Side::Holder => holder,
            });
        }
    }

    /// Makes a lock that is in no tree yet, of a holder that first locked the file at `since`.
    pub(super) fn make(
        &mut self,
        (start, end): Range,
        write: bool,
        (holder, since): (u32, u64),
    ) -> Option<u32> {
        let place = self.places.take()?;
        let lock = self.locks.get_mut(place as usize)?;
        *lock = Lock {
            start,
            end,
            since,
            reach: Reach::NOWHERE,
            holder,
            write,
            links: [LEAF; 2],
        };
        Some(place)
    }

    /// Gives back a lock that is in no tree any more.
    pub(super) fn unmake(&mut self, lock: u32) {
        self.places.give(lock);
    }

    /// The order of the trees. A holder has no two locks with the same start.
    pub(super) fn order(&self, one: u32, other: u32) -> Ordering {
        let key = |lock| (self.at(lock).start, self.at(lock).since);
        key(one).cmp(&key(other))
    }

    fn set_reach(&mut self, lock: u32, reach: Reach) {
        if let Some(lock) = self.locks.get_mut(lock as usize) {
            lock.reach = reach;
        }
    }

    /// How far the locks in the tree reach whose root this lock is.
    fn reach_of(&self, lock: u32) -> Reach {
        let Link { left, right, .. } = *self.link(Side::File, lock);
        let own = self.at(lock);
        [left, right]
            .into_iter()
            .fold(Reach::NOWHERE.and(own.end, own.holder), |reach, child| {
                let below = self.at(child).reach;
                let reach = reach.and(below.end, below.holder);
                reach.and(below.second_end, below.second)
            })
    }

    /// Puts a lock into the tree; returns the tree's new root.
    pub(super) fn insert(&mut self, side: Side, root: u32, lock: u32) -> u32 {
        if root == NONE {
            self.change(side, lock, |link| *link = Link { height: 1, ..LEAF });
            if side == Side::File {
                self.set_reach(lock, self.reach_of(lock));
            }
            return lock;
        }
        let Link { left, right, .. } = *self.link(side, root);
        let is_left = self.order(lock, root).is_lt();
        let child = if is_left { left } else { right };
        let height = self.height(side, child);
        let new = self.insert(side, child, lock);
        self.change(side, root, |link| {
            if is_left {
                link.left = new;
            } else {
                link.right = new;
            }
        });
        if side == Side::File {
            let Lock { end, holder, .. } = *self.at(lock);
            self.set_reach(root, self.at(root).reach.and(end, holder));
        }
        // Most often the change ends near the leaves, and the siblings need no look.
        if self.height(side, new) == height {
            return root;
        }
        self.balance(side, root)
    }

    /// Takes a lock out of the tree; returns the tree's new root.
    pub(super) fn remove(&mut self, side: Side, root: u32, lock: u32) -> u32 {
        if root == NONE {
            return NONE;
        }
        let Link { left, right, .. } = *self.link(side, root);
        let is_left = match self.order(lock, root) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal => {
                if right == NONE {
                    return left;
                }
                let (first, right) = self.remove_first(side, right);
                self.change(side, first, |link| {
                    link.left = left;
                    link.right = right;
                });
                return self.balance(side, first);
            }
        };
        let child = if is_left { left } else { right };
        let height = self.height(side, child);
        let new = self.remove(side, child, lock);
        self.change(side, root, |link| {
            if is_left {
                link.left = new;
            } else {
                link.right = new;
            }
        });
        // Most often the lock was not one of those that reach farthest.
        let reach = self.at(root).reach;
        let end = self.at(lock).end;
        let far = if reach.second == NONE {
            reach.end
        } else {
            reach.second_end
        };
        let is_far = side == Side::File && end >= far;
        if self.height(side, new) == height && !is_far {
            return root;
        }
        self.balance(side, root)
    }

    /// Takes out the first lock of a tree that is not empty: it, and the new root.
    fn remove_first(&mut self, side: Side, root: u32) -> (u32, u32) {
        let Link { left, right, .. } = *self.link(side, root);
        if left == NONE {
            return (root, right);
        }
        let (first, left) = self.remove_first(side, left);
        self.change(side, root, |link| link.left = left);
        (first, self.balance(side, root))
    }

    fn height(&self, side: Side, lock: u32) -> u32 {
        self.link(side, lock).height
    }

    /// Makes the node's own figures right after a change below it.
    fn refresh(&mut self, side: Side, lock: u32) {
        let Link { left, right, .. } = *self.link(side, lock);
        let below = self.height(side, left).max(self.height(side, right));
        self.change(side, lock, |link| link.height = below.saturating_add(1));
        if side == Side::File {
            self.set_reach(lock, self.reach_of(lock));
        }
    }

    /// Restores the balance at `root`, one of whose subtrees has changed by one level at most.
    fn balance(&mut self, side: Side, root: u32) -> u32 {
        let Link { left, right, .. } = *self.link(side, root);
        let (on_left, on_right) = (self.height(side, left), self.height(side, right));
        if on_left > on_right.saturating_add(1) {
            let Link {
                left: outer,
                right: inner,
                ..
            } = *self.link(side, left);
            if self.height(side, inner) > self.height(side, outer) {
                let left = self.rotate_left(side, left);
                self.change(side, root, |link| link.left = left);
            }
            return self.rotate_right(side, root);
        }
        if on_right > on_left.saturating_add(1) {
            let Link {
                left: inner,
                right: outer,
                ..
            } = *self.link(side, right);
            if self.height(side, inner) > self.height(side, outer) {
                let right = self.rotate_right(side, right);
                self.change(side, root, |link| link.right = right);
            }
            return self.rotate_left(side, root);
        }
        self.refresh(side, root);
        root
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

    /// Whether the tree is in order and balanced, and how many locks are in it. Slow: for tests.
    pub(super) fn check(&self, side: Side, root: u32) -> Option<usize> {
        if root == NONE {
            return Some(0);
        }
        let Link {
            left,
            right,
            height,
        } = *self.link(side, root);
        let count = self
            .check(side, left)?
            .checked_add(self.check(side, right)?)?
            .checked_add(1)?;
        let (one, other) = (self.link(side, left), self.link(side, right));
        let in_order = (left == NONE || self.order(left, root).is_lt())
            && (right == NONE || self.order(right, root).is_gt());
        let is_right = in_order
            && one.height.abs_diff(other.height) <= 1
            && height == one.height.max(other.height).saturating_add(1)
            && (side == Side::Holder || self.has_right_reach(root));
        is_right.then_some(count)
    }

    /// Which of two holders with the same highest end is named may differ.
    fn has_right_reach(&self, lock: u32) -> bool {
        let (is, should_be) = (self.at(lock).reach, self.reach_of(lock));
        (is.end, is.second_end) == (should_be.end, should_be.second_end)
            && (is.second == NONE) == (should_be.second == NONE)
            && (is.holder == should_be.holder || is.end == is.second_end)
            && is.holder != is.second
    }
}

#[cfg(test)]
mod tests {
    use core::mem::MaybeUninit;

    use super::*;

    const CAPACITY: usize = 3;

    /// What the check says of a tree with 1 at its root, 0 on the left and 2 on the right.
    fn count_after(fault: fn(&mut Trees<'_>)) -> Option<usize> {
        let mut memory = [MaybeUninit::uninit(); Trees::bytes(CAPACITY)];
        let mut trees = Trees::new(&mut Arena::new(&mut memory), CAPACITY).unwrap();
        let root = [10, 20, 30].into_iter().fold(NONE, |root, start| {
            let lock = trees.make((start, start + 4), true, (0, 0)).unwrap();
            trees.insert(Side::File, root, lock)
        });
        assert_eq!(root, 1);
        fault(&mut trees);
        trees.check(Side::File, root)
    }

    #[test]
    fn a_tree_stays_in_order_and_balanced_whatever_comes_and_goes() {
        const MOST: usize = 7;
        let orders = (1..=MOST).product::<usize>();
        let mut memory = [MaybeUninit::uninit(); Trees::bytes(MOST)];
        let mut trees = Trees::new(&mut Arena::new(&mut memory), MOST).unwrap();
        for number in 0..orders {
            let mut starts = [0, 1, 2, 3, 4, 5, 6];
            let mut rest = number;
            for at in 0..MOST {
                starts.swap(at, at + rest % (MOST - at));
                rest /= MOST - at;
            }
            let mut locks = [NONE; MOST];
            let mut root = NONE;
            for (at, start) in starts.into_iter().enumerate() {
                let range = (start, start + start % 3 * 4);
                locks[at] = trees.make(range, false, (0, 0)).unwrap();
                root = trees.insert(Side::File, root, locks[at]);
                assert_eq!(trees.check(Side::File, root), Some(at + 1), "{starts:?}");
            }
            for (gone, lock) in (1..).zip(locks) {
                root = trees.remove(Side::File, root, lock);
                assert_eq!(trees.check(Side::File, root), Some(MOST - gone));
                trees.unmake(lock);
            }
        }
    }

    #[test]
    fn a_tree_that_is_not_in_order_or_balanced_is_found_out() {
        assert_eq!(count_after(|_| {}), Some(CAPACITY));
        let faults: [fn(&mut Trees<'_>); 5] = [
            |trees| trees.locks[0].start = 21,
            |trees| trees.locks[2].start = 19,
            |trees| trees.change(Side::File, 1, |link| link.height = 3),
            |trees| trees.locks[1].reach.end = 24,
            // The first goes behind the last, and all is right but the balance.
            |trees| {
                trees.locks[0].start = 40;
                for (lock, left, right, height) in [(2, NONE, 0, 2), (1, NONE, 2, 3)] {
                    trees.change(Side::File, lock, |link| {
                        (link.left, link.right, link.height) = (left, right, height);
                    });
                }
            },
        ];
        for (number, fault) in faults.into_iter().enumerate() {
            assert_eq!(count_after(fault), None, "fault {number}");
        }
    }
}
