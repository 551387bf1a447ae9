//! Interval trees: locks ordered by their first byte, in which a search finds the locks that
//! overlap a range without visiting the others.
//!
//! The trees are weak AVL trees (Haeupler, Sen, Tarjan: "Rank-Balanced Trees"): the rank of a lock
//! is one or two above that of each child. Repeated insertion and removal at one place therefore
//! leaves the ranks above it unchanged. The links are stored in the locks themselves; each lock is
//! in two trees, one of its file and one of its holder. A lock also has a link to the lock above it, so
//! that its removal takes no search, and its insertion none but that for a conflicting lock. A node of a file's tree stores the highest
//! end below it, and the highest end of any other holder than that one's. A search for a range
//! skips whole subtrees by these ends, including those with only the requester's own locks, and
//! finds the first conflicting lock in one descent. Links are indexes of a table, not pointers, so
//! the trees need no unsafe code.
//!
//! Several read locks may start at the same byte. They are in the order in which their holders
//! first locked the file, which is the kernel's order.

mod balance;
mod invariants;

use core::cmp::Ordering;
use core::hint::select_unpredictable;

use super::Range;
use super::reach::Reach;
use crate::store::{
    Arena, Digest, NONE, Payer, SlotAllocator, Steps, Table, bytes_for, entry, image, memory_sum,
};
use balance::Change;

/// The two trees that a lock is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TreeKind {
    /// The tree of all locks of a file that are of one kind.
    File = 0,
    /// The tree of all locks of one holder.
    Holder = 1,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TreeLink {
    pub(super) left: u32,
    pub(super) right: u32,
    /// The lock above; [`NONE`] for the root.
    up: u32,
}

/// Where a search for a range ended that no lock of its tree overlaps: a lock for that range is
/// inserted below this one.
#[derive(Clone, Copy)]
pub(super) struct InsertPoint(pub(super) u32);

impl InsertPoint {
    /// No search has been made.
    pub(super) const UNKNOWN: InsertPoint = InsertPoint(NONE);
}

/// A lock on a range of a file.
// The fields that a search reads come first and together, because most of ten thousand locks are not in the nearest cache.
#[derive(Clone, Copy, Hash)]
#[repr(C)]
pub(super) struct RangeLock {
    /// The last byte.
    pub(super) end: u64,
    links: [TreeLink; 2],
    pub(super) start: u64,
    /// The number of its holder, which rises with each new holder of a lock.
    pub(super) since: u64,
    /// The highest ends in the subtree of this lock in its file's tree, itself included.
    pub(super) reach: Reach,
    /// The slot of its holder.
    pub(super) holder: u32,
    /// The first request that this lock blocks.
    pub(super) first_blocked: u32,
    pub(super) payer: Payer,
    /// Its ranks in the two trees: 1 for a lock without children, 0 for no lock.
    ranks: [u8; 2],
    pub(super) write: bool,
}

entry!(TreeLink { left, right, up });
entry!(RangeLock {
    start,
    end,
    since,
    reach,
    holder,
    first_blocked,
    write,
    payer,
    links,
    ranks,
});

image!(IntervalTrees<'_> {
    tables { locks: slots.high_water() as usize => EMPTY_LOCK }
    parts { slots }
    omitted { steps }
});

impl RangeLock {
    #[inline]
    pub(super) fn link(&self, tree: TreeKind) -> &TreeLink {
        let [file, holder] = &self.links;
        match tree {
            TreeKind::File => file,
            TreeKind::Holder => holder,
        }
    }

    #[inline]
    fn rank(&self, tree: TreeKind) -> u8 {
        let [file, holder] = self.ranks;
        match tree {
            TreeKind::File => file,
            TreeKind::Holder => holder,
        }
    }

    /// Returns the reach of the lock and of the subtrees of these locks.
    fn reach_over(&self, left: &RangeLock, right: &RangeLock) -> Reach {
        let own = Reach::EMPTY.extend(self.end, self.holder);
        [left, right].into_iter().fold(own, |reach, below| {
            let below = below.reach;
            let reach = reach.extend(below.end, below.holder);
            reach.extend(below.second_end, below.second_holder)
        })
    }

    /// Returns the key of the lock in its trees. A holder has no two locks with the same start.
    #[inline]
    fn key(&self) -> (u64, u64) {
        (self.start, self.since)
    }
}

const NO_LINKS: TreeLink = TreeLink {
    left: NONE,
    right: NONE,
    up: NONE,
};

/// The lock at [`NONE`].
static EMPTY_LOCK: RangeLock = RangeLock {
    start: 0,
    end: 0,
    since: 0,
    reach: Reach::EMPTY,
    holder: NONE,
    first_blocked: NONE,
    write: false,
    payer: Payer::NOBODY,
    links: [NO_LINKS; 2],
    ranks: [0; 2],
};

/// The most levels of a tree of 2³² locks: no rank is higher than twice the logarithm to base 2.
const MAX_LEVELS: usize = 64;

/// A fixed number of locks, and their trees.
pub(super) struct IntervalTrees<'m> {
    locks: Table<'m, RangeLock>,
    slots: SlotAllocator<'m>,
    steps: Steps,
}

impl<'m> IntervalTrees<'m> {
    pub(super) const fn bytes(capacity: usize) -> usize {
        memory_sum!(
            bytes_for::<RangeLock>(capacity),
            SlotAllocator::bytes(capacity),
        )
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize) -> Self {
        IntervalTrees {
            locks: arena.alloc_filled(capacity, &EMPTY_LOCK),
            slots: SlotAllocator::new(arena, capacity),
            steps: Steps::default(),
        }
    }

    pub(super) fn digest(&self, digest: &mut Digest) {
        self.slots.digest(digest);
        digest.add_all(self.locks.iter().take(self.slots.high_water() as usize));
    }

    pub(super) fn slots(&self) -> &SlotAllocator<'m> {
        &self.slots
    }

    /// Returns the number of locks that were visited.
    #[cfg(debug_assertions)]
    pub(super) fn steps(&self) -> u64 {
        self.steps.get()
    }

    #[cfg_attr(not(static_library), inline)]
    #[cfg_attr(static_library, inline(never))]
    pub(super) fn at(&self, lock: u32) -> &RangeLock {
        self.steps.count();
        self.locks.get(lock as usize).unwrap_or(&EMPTY_LOCK)
    }

    #[inline]
    pub(super) fn link(&self, tree: TreeKind, lock: u32) -> &TreeLink {
        self.at(lock).link(tree)
    }

    #[inline]
    fn change(&mut self, tree: TreeKind, lock: u32, change: impl FnOnce(&mut TreeLink, &mut u8)) {
        if let Some(lock) = self.locks.get_mut(lock as usize) {
            let ([file, holder], [file_rank, holder_rank]) = (&mut lock.links, &mut lock.ranks);
            match tree {
                TreeKind::File => change(file, file_rank),
                TreeKind::Holder => change(holder, holder_rank),
            }
        }
    }

    /// Allocates a lock, which is a whole tree alone until it is inserted into one; its holder has the number `since`.
    #[cfg_attr(not(static_library), inline)]
    pub(super) fn alloc(
        &mut self,
        (start, end): Range,
        write: bool,
        (holder, since): (u32, u64),
        payer: Payer,
    ) -> Option<u32> {
        let slot = self.slots.alloc()?;
        let lock = self.locks.get_mut(slot as usize)?;
        *lock = RangeLock {
            start,
            end,
            since,
            reach: Reach::of(end, holder),
            holder,
            first_blocked: NONE,
            write,
            payer,
            links: [NO_LINKS; 2],
            ranks: [1; 2],
        };
        Some(slot)
    }

    /// Frees a lock that is in no tree any more.
    #[cfg_attr(not(static_library), inline)]
    pub(super) fn free(&mut self, lock: u32) {
        self.set_payer(lock, Payer::NOBODY);
        self.slots.free(lock);
    }

    /// Sets the account that the lock is charged to.
    pub(super) fn set_payer(&mut self, lock: u32, payer: Payer) {
        if let Some(lock) = self.locks.get_mut(lock as usize) {
            lock.payer = payer;
        }
    }

    /// Returns the order of two locks in the trees.
    pub(super) fn order(&self, one: u32, other: u32) -> Ordering {
        self.at(one).key().cmp(&self.at(other).key())
    }

    /// Returns the child of the lock `at` whose subtree has, or would have, a lock with that key.
    #[inline]
    fn child_toward(&self, tree: TreeKind, key: (u64, u64), at: u32) -> u32 {
        let lock = self.at(at);
        let TreeLink { left, right, .. } = *lock.link(tree);
        // Which way a search goes is hard to predict, so it takes no branch.
        select_unpredictable(key < lock.key(), left, right)
    }

    /// Sets the first request that the lock blocks.
    pub(super) fn set_first_blocked(&mut self, lock: u32, request: u32) {
        if let Some(lock) = self.locks.get_mut(lock as usize) {
            lock.first_blocked = request;
        }
    }

    fn set_rank_and_reach(&mut self, tree: TreeKind, lock: u32, (rank, reach): (u8, Reach)) {
        if let Some(lock) = self.locks.get_mut(lock as usize) {
            let [file, holder] = &mut lock.ranks;
            match tree {
                TreeKind::File => *file = rank,
                TreeKind::Holder => *holder = rank,
            }
            lock.reach = reach;
        }
    }

    /// Returns the reach of the subtree whose root this lock is.
    fn compute_reach(&self, lock: u32) -> Reach {
        let TreeLink { left, right, .. } = *self.link(TreeKind::File, lock);
        self.at(lock).reach_over(self.at(left), self.at(right))
    }

    /// Inserts a lock, which is a tree alone, into the tree, at the place if it is known. Returns the new root of the tree.
    #[inline]
    pub(super) fn insert(
        &mut self,
        tree: TreeKind,
        root: u32,
        lock: u32,
        place: InsertPoint,
    ) -> u32 {
        // Most files and most holders have one lock at a time.
        if root == NONE {
            return lock;
        }
        self.insert_below(tree, root, lock, place)
    }

    fn insert_below(
        &mut self,
        tree: TreeKind,
        root: u32,
        lock: u32,
        InsertPoint(place): InsertPoint,
    ) -> u32 {
        let RangeLock { end, holder, .. } = *self.at(lock);
        let key = self.at(lock).key();
        let mut at = if place == NONE { root } else { place };
        let mut up = NONE;
        while at != NONE {
            up = at;
            at = self.child_toward(tree, key, at);
        }
        let is_left = key < self.at(up).key();
        self.change(tree, lock, |link, _| link.up = up);
        self.change(tree, up, |link, _| {
            if is_left {
                link.left = lock;
            } else {
                link.right = lock;
            }
        });
        self.repair(tree, root, up, Change::Inserted { end, holder })
    }

    /// Removes a lock from the tree. Returns the new root of the tree.
    #[inline]
    pub(super) fn remove(&mut self, tree: TreeKind, root: u32, lock: u32) -> u32 {
        let TreeLink { left, right, .. } = *self.link(tree, lock);
        if root == lock && left == NONE && right == NONE {
            return NONE;
        }
        self.remove_below(tree, root, lock)
    }

    fn remove_below(&mut self, tree: TreeKind, root: u32, lock: u32) -> u32 {
        let TreeLink { left, right, up } = *self.link(tree, lock);
        if left == NONE || right == NONE {
            let below = if left == NONE { right } else { left };
            let root = self.replace(tree, root, (lock, below), up);
            return self.repair(tree, root, up, Change::Removed { next: NONE });
        }
        // The next lock takes the place of the removed one.
        let mut next = right;
        loop {
            let lower = self.link(tree, next).left;
            if lower == NONE {
                break;
            }
            next = lower;
        }
        let TreeLink {
            right: subtree,
            up: above,
            ..
        } = *self.link(tree, next);
        let lowest = if above == lock { next } else { above };
        self.replace(tree, root, (next, subtree), above);
        let rank = self.rank(tree, lock);
        let reach = match tree {
            TreeKind::File => self.at(lock).reach,
            TreeKind::Holder => self.at(next).reach,
        };
        // Its right child may have just changed.
        let TreeLink { right, .. } = *self.link(tree, lock);
        self.change(tree, next, |link, _| *link = TreeLink { left, right, up });
        self.set_rank_and_reach(tree, next, (rank, reach));
        for child in [left, right] {
            self.change(tree, child, |link, _| link.up = next);
        }
        let root = self.replace(tree, root, (lock, next), up);
        self.repair(tree, root, lowest, Change::Removed { next })
    }
}
