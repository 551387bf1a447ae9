//! Locks in trees: by their first byte, and such that those that touch a range are found without
//! a look at the others.
//!
//! The trees are weak AVL trees (Haeupler, Sen, Tarjan: "Rank-Balanced Trees"): a lock's rank is one or two
//! above that of each child. So a lock that comes and goes in the same place leaves the ranks above it as
//! they are. The links stand in the locks themselves; each lock is in two trees,
//! one of its file and one of its holder. A node of a file's tree knows the highest end below it, and the
//! highest of any other holder than that one's. So a search for a range passes over whole subtrees, those
//! of the asker's own locks, too, and the first conflicting lock is found in one way down. Links are
//! numbers of a table, not pointers, so there is nothing unsafe about them.
//!
//! Locks that start at the same byte, which those of several readers may do, stand in the order in
//! which their holders first locked the file: the kernel's order.

use core::cmp::Ordering;

use heapless::Vec;

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
    /// 1 for a lock that has none below it, 0 where there is no lock.
    rank: u32,
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

impl Lock {
    #[inline]
    pub(super) fn link(&self, side: Side) -> &Link {
        let [file, holder] = &self.links;
        match side {
            Side::File => file,
            Side::Holder => holder,
        }
    }

    /// Where it stands in its trees. A holder has no two locks with the same start.
    #[inline]
    fn key(&self) -> (u64, u64) {
        (self.start, self.since)
    }
}

const LEAF: Link = Link {
    left: NONE,
    right: NONE,
    rank: 0,
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

/// As many levels as a tree of 2³² locks can have: no rank is higher than twice the logarithm to base 2.
const MOST_LEVELS: usize = 64;

/// The locks that a way down a tree went through.
struct Path(Vec<u32, MOST_LEVELS>);

impl Path {
    fn new() -> Path {
        Path(Vec::new())
    }

    fn enter(&mut self, lock: u32) {
        // No tree is that deep.
        let _ = self.0.push(lock);
    }

    fn leave(&mut self) -> Option<u32> {
        self.0.pop()
    }

    fn length(&self) -> usize {
        self.0.len()
    }

    fn replace(&mut self, at: usize, lock: u32) {
        if let Some(old) = self.0.get_mut(at) {
            *old = lock;
        }
    }
}

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
        self.at(lock).link(side)
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

    /// The order of the trees.
    pub(super) fn order(&self, one: u32, other: u32) -> Ordering {
        self.at(one).key().cmp(&self.at(other).key())
    }

    /// The child of the lock `at` on whose side a lock with that key stands, or would.
    #[inline]
    fn toward(&self, side: Side, key: (u64, u64), at: u32) -> u32 {
        let lock = self.at(at);
        let link = lock.link(side);
        if key < lock.key() {
            link.left
        } else {
            link.right
        }
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
        self.change(side, lock, |link| *link = LEAF);
        self.refresh(side, lock);
        let key = self.at(lock).key();
        let mut path = Path::new();
        let mut at = root;
        while at != NONE {
            path.enter(at);
            at = self.toward(side, key, at);
        }
        let deepest = path.length();
        self.hang(side, root, path, (lock, lock), deepest)
    }

    /// Takes a lock out of the tree; returns the tree's new root.
    pub(super) fn remove(&mut self, side: Side, root: u32, lock: u32) -> u32 {
        let key = self.at(lock).key();
        let mut path = Path::new();
        let mut at = root;
        while at != lock {
            if at == NONE {
                return root;
            }
            path.enter(at);
            at = self.toward(side, key, at);
        }
        let depth = path.length();
        let Link { left, right, rank } = *self.link(side, lock);
        if right == NONE {
            return self.hang(side, root, path, (lock, left), depth);
        }
        // The lock behind it takes its place.
        path.enter(lock);
        let mut next = right;
        while self.link(side, next).left != NONE {
            path.enter(next);
            next = self.link(side, next).left;
        }
        path.replace(depth, next);
        let orphan = self.link(side, next).right;
        self.change(side, next, |link| {
            *link = Link { left, right, rank };
        });
        self.hang(side, root, path, (next, orphan), depth)
    }

    /// Hangs `new` in the place where a way down ended that led to the key of the lock `key`, and makes
    /// right what stands above it; returns the tree's new root. From the lock that is `settled` levels
    /// below the root upwards it stops where nothing changes any more.
    fn hang(
        &mut self,
        side: Side,
        root: u32,
        mut path: Path,
        (key, mut new): (u32, u32),
        settled: usize,
    ) -> u32 {
        let key = self.at(key).key();
        let mut has_new_reach = side == Side::File;
        while let Some(up) = path.leave() {
            let lock = self.at(up);
            let (reach, before, is_left) = (lock.reach, *lock.link(side), key < lock.key());
            let beside = if is_left { before.right } else { before.left };
            let (below, beside) = (self.rank(side, new), self.rank(side, beside));
            let (low, high) = (below.min(beside), below.max(beside));
            // One that has nothing below it any more has the lowest rank there is.
            let highest = if high == 0 { 1 } else { low.saturating_add(2) };
            let rank = before.rank.max(high.saturating_add(1)).min(highest);
            self.change(side, up, |link| {
                if is_left {
                    link.left = new;
                } else {
                    link.right = new;
                }
                link.rank = rank;
            });
            new = up;
            if high.saturating_sub(low) > 1 {
                new = self.rotate(side, up);
            } else if has_new_reach {
                self.set_reach(up, self.reach_of(up));
            }
            if path.length() < settled {
                has_new_reach = has_new_reach && self.at(new).reach != reach;
                if new == up && !has_new_reach && rank == before.rank {
                    return root;
                }
            }
        }
        new
    }

    fn rank(&self, side: Side, lock: u32) -> u32 {
        self.link(side, lock).rank
    }

    /// Makes the node's own figures right after a change below it.
    fn refresh(&mut self, side: Side, lock: u32) {
        let Link { left, right, .. } = *self.link(side, lock);
        let below = self.rank(side, left).max(self.rank(side, right));
        self.change(side, lock, |link| link.rank = below.saturating_add(1));
        if side == Side::File {
            self.set_reach(lock, self.reach_of(lock));
        }
    }

    /// Restores the balance at `root`, whose children's ranks differ by two; returns
    /// the lock that stands there then.
    fn rotate(&mut self, side: Side, root: u32) -> u32 {
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

    /// Whether the tree is in order and balanced, and how many locks are in it. Slow: for tests.
    pub(super) fn check(&self, side: Side, root: u32) -> Option<usize> {
        if root == NONE {
            return Some(0);
        }
        let Link { left, right, rank } = *self.link(side, root);
        let count = self
            .check(side, left)?
            .checked_add(self.check(side, right)?)?
            .checked_add(1)?;
        let (one, other) = (self.link(side, left), self.link(side, right));
        let is_leaf = left == NONE && right == NONE;
        let in_order = (left == NONE || self.order(left, root).is_lt())
            && (right == NONE || self.order(right, root).is_gt());
        let is_right = in_order
            && (1..=2).contains(&rank.saturating_sub(one.rank))
            && (1..=2).contains(&rank.saturating_sub(other.rank))
            && (!is_leaf || rank == 1)
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
    fn a_lock_that_comes_and_goes_in_the_same_place_leaves_the_root_alone_from_the_second_time_on()
    {
        const MOST: usize = 16;
        let mut memory = [MaybeUninit::uninit(); Trees::bytes(MOST)];
        let mut trees = Trees::new(&mut Arena::new(&mut memory), MOST).unwrap();
        // A full tree of four levels, where one more has no room above the fifth.
        let mut root = (0..15).fold(NONE, |root, at| {
            let lock = trees.make((10 * at, 10 * at), true, (0, 0)).unwrap();
            trees.insert(Side::File, root, lock)
        });
        let mut ranks = [0; 3];
        for rank in &mut ranks {
            let lock = trees.make((5, 5), true, (0, 0)).unwrap();
            root = trees.insert(Side::File, root, lock);
            *rank = trees.rank(Side::File, root);
            root = trees.remove(Side::File, root, lock);
            trees.unmake(lock);
            assert_eq!(trees.rank(Side::File, root), *rank);
            assert_eq!(trees.check(Side::File, root), Some(15));
        }
        assert_eq!(ranks, [5, 5, 5]);
    }

    #[test]
    fn a_tree_that_is_not_in_order_or_balanced_is_found_out() {
        assert_eq!(count_after(|_| {}), Some(CAPACITY));
        let faults: [fn(&mut Trees<'_>); 5] = [
            |trees| trees.locks[0].start = 21,
            |trees| trees.locks[2].start = 19,
            |trees| trees.change(Side::File, 1, |link| link.rank = 4),
            |trees| trees.locks[1].reach.end = 24,
            // The first goes behind the last, and all is right but the balance.
            |trees| {
                trees.locks[0].start = 40;
                for (lock, left, right, rank) in [(2, NONE, 0, 2), (1, NONE, 2, 3)] {
                    trees.change(Side::File, lock, |link| {
                        (link.left, link.right, link.rank) = (left, right, rank);
                    });
                }
            },
        ];
        for (number, fault) in faults.into_iter().enumerate() {
            assert_eq!(count_after(fault), None, "fault {number}");
        }
    }
}
