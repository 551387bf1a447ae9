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

mod balance;
mod invariants;

use core::cmp::Ordering;

use heapless::Vec;

use super::Range;
use super::reach::Reach;
use crate::error::Error;
use crate::store::{Arena, NONE, SlotAllocator, Table, bytes_for};

/// Which of a lock's two trees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TreeKind {
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
pub(super) struct RangeLock {
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

impl RangeLock {
    #[inline]
    pub(super) fn link(&self, tree: TreeKind) -> &Link {
        let [file, holder] = &self.links;
        match tree {
            TreeKind::File => file,
            TreeKind::Holder => holder,
        }
    }

    /// Where it stands in its trees. A holder has no two locks with the same start.
    #[inline]
    fn key(&self) -> (u64, u64) {
        (self.start, self.since)
    }
}

const NO_LINKS: Link = Link {
    left: NONE,
    right: NONE,
    rank: 0,
};

/// What stands at [`NONE`].
static EMPTY_LOCK: RangeLock = RangeLock {
    start: 0,
    end: 0,
    since: 0,
    reach: Reach::EMPTY,
    holder: NONE,
    write: false,
    links: [NO_LINKS; 2],
};

/// As many levels as a tree of 2³² locks can have: no rank is higher than twice the logarithm to base 2.
const MAX_LEVELS: usize = 64;

/// The locks that a way down a tree went through.
struct SearchPath(Vec<u32, MAX_LEVELS>);

impl SearchPath {
    fn new() -> SearchPath {
        SearchPath(Vec::new())
    }

    fn push(&mut self, lock: u32) {
        // No tree is that deep.
        let _ = self.0.push(lock);
    }

    fn pop(&mut self) -> Option<u32> {
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
pub(super) struct IntervalTrees<'m> {
    locks: Table<'m, RangeLock>,
    places: SlotAllocator<'m>,
}

impl<'m> IntervalTrees<'m> {
    pub(super) const fn bytes(capacity: usize) -> usize {
        bytes_for::<RangeLock>(capacity).saturating_add(SlotAllocator::bytes(capacity))
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        Ok(IntervalTrees {
            locks: arena.alloc_table(capacity, |_| Ok(EMPTY_LOCK))?,
            places: SlotAllocator::new(arena, capacity)?,
        })
    }

    pub(super) fn places(&self) -> &SlotAllocator<'m> {
        &self.places
    }

    #[inline]
    pub(super) fn at(&self, lock: u32) -> &RangeLock {
        self.locks.get(lock as usize).unwrap_or(&EMPTY_LOCK)
    }

    #[inline]
    pub(super) fn link(&self, tree: TreeKind, lock: u32) -> &Link {
        self.at(lock).link(tree)
    }

    #[inline]
    fn change(&mut self, tree: TreeKind, lock: u32, change: impl FnOnce(&mut Link)) {
        if let Some(lock) = self.locks.get_mut(lock as usize) {
            let [file, holder] = &mut lock.links;
            change(match tree {
                TreeKind::File => file,
                TreeKind::Holder => holder,
            });
        }
    }

    /// Makes a lock that is in no tree yet, of a holder that first locked the file at `since`.
    pub(super) fn alloc(
        &mut self,
        (start, end): Range,
        write: bool,
        (holder, since): (u32, u64),
    ) -> Option<u32> {
        let place = self.places.alloc()?;
        let lock = self.locks.get_mut(place as usize)?;
        *lock = RangeLock {
            start,
            end,
            since,
            reach: Reach::EMPTY,
            holder,
            write,
            links: [NO_LINKS; 2],
        };
        Some(place)
    }

    /// Gives back a lock that is in no tree any more.
    pub(super) fn free(&mut self, lock: u32) {
        self.places.free(lock);
    }

    /// The order of the trees.
    pub(super) fn order(&self, one: u32, other: u32) -> Ordering {
        self.at(one).key().cmp(&self.at(other).key())
    }

    /// The child of the lock `at` on whose side a lock with that key stands, or would.
    #[inline]
    fn child_toward(&self, tree: TreeKind, key: (u64, u64), at: u32) -> u32 {
        let lock = self.at(at);
        let link = lock.link(tree);
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
    fn compute_reach(&self, lock: u32) -> Reach {
        let Link { left, right, .. } = *self.link(TreeKind::File, lock);
        let own = self.at(lock);
        [left, right]
            .into_iter()
            .fold(Reach::EMPTY.extend(own.end, own.holder), |reach, child| {
                let below = self.at(child).reach;
                let reach = reach.extend(below.end, below.holder);
                reach.extend(below.second_end, below.second_holder)
            })
    }

    /// Puts a lock into the tree; returns the tree's new root.
    pub(super) fn insert(&mut self, tree: TreeKind, root: u32, lock: u32) -> u32 {
        self.change(tree, lock, |link| *link = NO_LINKS);
        self.refresh(tree, lock);
        let key = self.at(lock).key();
        let mut path = SearchPath::new();
        let mut at = root;
        while at != NONE {
            path.push(at);
            at = self.child_toward(tree, key, at);
        }
        let deepest = path.length();
        self.attach(tree, root, path, (lock, lock), deepest)
    }

    /// Takes a lock out of the tree; returns the tree's new root.
    pub(super) fn remove(&mut self, tree: TreeKind, root: u32, lock: u32) -> u32 {
        let key = self.at(lock).key();
        let mut path = SearchPath::new();
        let mut at = root;
        while at != lock {
            if at == NONE {
                return root;
            }
            path.push(at);
            at = self.child_toward(tree, key, at);
        }
        let depth = path.length();
        let Link { left, right, rank } = *self.link(tree, lock);
        if right == NONE {
            return self.attach(tree, root, path, (lock, left), depth);
        }
        // The lock behind it takes its place.
        path.push(lock);
        let mut next = right;
        while self.link(tree, next).left != NONE {
            path.push(next);
            next = self.link(tree, next).left;
        }
        path.replace(depth, next);
        let subtree = self.link(tree, next).right;
        self.change(tree, next, |link| {
            *link = Link { left, right, rank };
        });
        self.attach(tree, root, path, (next, subtree), depth)
    }

    /// Hangs `new` in the place where a way down ended that led to the key of the lock `key`, and makes
    /// right what stands above it; returns the tree's new root. From the lock that is `fixed_depth` levels
    /// below the root upwards it stops where nothing changes any more.
    fn attach(
        &mut self,
        tree: TreeKind,
        root: u32,
        mut path: SearchPath,
        (key, mut new): (u32, u32),
        fixed_depth: usize,
    ) -> u32 {
        let key = self.at(key).key();
        let mut has_new_reach = tree == TreeKind::File;
        while let Some(up) = path.pop() {
            let lock = self.at(up);
            let (reach, old, is_left) = (lock.reach, *lock.link(tree), key < lock.key());
            let sibling = if is_left { old.right } else { old.left };
            let (below, sibling) = (self.rank(tree, new), self.rank(tree, sibling));
            let (low, high) = (below.min(sibling), below.max(sibling));
            // One that has nothing below it any more has the lowest rank there is.
            let highest = if high == 0 { 1 } else { low.saturating_add(2) };
            let rank = old.rank.max(high.saturating_add(1)).min(highest);
            self.change(tree, up, |link| {
                if is_left {
                    link.left = new;
                } else {
                    link.right = new;
                }
                link.rank = rank;
            });
            new = up;
            if high.saturating_sub(low) > 1 {
                new = self.rotate(tree, up);
            } else if has_new_reach {
                self.set_reach(up, self.compute_reach(up));
            }
            if path.length() < fixed_depth {
                has_new_reach = has_new_reach && self.at(new).reach != reach;
                if new == up && !has_new_reach && rank == old.rank {
                    return root;
                }
            }
        }
        new
    }
}
