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
    places: SlotAllocator<'m>,
}

impl<'m> Trees<'m> {
    pub(super) const fn bytes(capacity: usize) -> usize {
        bytes_for::<Lock>(capacity).saturating_add(SlotAllocator::bytes(capacity))
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        Ok(Trees {
            locks: arena.alloc_table(capacity, |_| Ok(NOWHERE))?,
            places: SlotAllocator::new(arena, capacity)?,
        })
    }

    pub(super) fn places(&self) -> &SlotAllocator<'m> {
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
        let place = self.places.alloc()?;
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
        self.places.free(lock);
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
}
