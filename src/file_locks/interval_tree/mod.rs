//! Interval trees: locks ordered by their first byte, in which a search finds the locks that
//! overlap a range without visiting the others.
//!
//! The trees are weak AVL trees (Haeupler, Sen, Tarjan: "Rank-Balanced Trees"): the rank of a lock
//! is one or two above that of each child. Repeated insertion and removal at one place therefore
//! leaves the ranks above it unchanged. The links are stored in the locks themselves; each lock is
//! in two trees, one of its file and one of its holder. A node of a file's tree stores the highest
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

use heapless::Vec;

use super::Range;
use super::reach::Reach;
use crate::invariant::Count;
use crate::store::{
    Arena, Digest, NONE, Payer, SlotAllocator, Steps, Table, bytes_for, entry, image, memory_sum,
};

/// The two trees that a lock is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TreeKind {
    /// The tree of all locks of a file that are of one kind.
    File = 0,
    /// The tree of all locks of one holder.
    Holder = 1,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Link {
    pub(super) left: u32,
    pub(super) right: u32,
    /// 1 for a lock without children, 0 for no lock.
    rank: u32,
}

/// A lock on a range of a file.
#[derive(Clone, Copy, Hash)]
pub(super) struct RangeLock {
    pub(super) start: u64,
    /// The last byte.
    pub(super) end: u64,
    /// The number of its holder, which rises with each new holder of a lock.
    pub(super) since: u64,
    /// The highest ends in the subtree of this lock in its file's tree, itself included.
    pub(super) reach: Reach,
    /// The slot of its holder.
    pub(super) holder: u32,
    /// The first request that this lock blocks.
    pub(super) first_blocked: u32,
    pub(super) write: bool,
    pub(super) payer: Payer,
    links: [Link; 2],
}

entry!(Link { left, right, rank });
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
});

image!(IntervalTrees<'_> {
    tables { locks: slots.high_water() as usize => EMPTY_LOCK }
    parts { slots }
    omitted { steps }
});

impl RangeLock {
    #[inline]
    pub(super) fn link(&self, tree: TreeKind) -> &Link {
        let [file, holder] = &self.links;
        match tree {
            TreeKind::File => file,
            TreeKind::Holder => holder,
        }
    }

    /// The key of the lock in its trees. A holder has no two locks with the same start.
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

/// The links of a lock without children.
const LEAF: Link = Link {
    rank: 1,
    ..NO_LINKS
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
};

/// The most levels of a tree of 2³² locks: no rank is higher than twice the logarithm to base 2.
const MAX_LEVELS: usize = 64;

/// The locks on the path from the root of a tree.
struct SearchPath(Vec<u32, MAX_LEVELS>);

impl SearchPath {
    fn new() -> SearchPath {
        SearchPath(Vec::new())
    }

    fn push(&mut self, lock: u32) {
        // No tree is deeper.
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

    /// The number of locks that were visited.
    #[cfg(debug_assertions)]
    pub(super) fn steps(&self) -> u64 {
        self.steps.get()
    }

    #[inline]
    pub(super) fn at(&self, lock: u32) -> &RangeLock {
        self.steps.count();
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

    /// Allocates a lock that is in no tree yet; its holder has the number `since`.
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
            reach: Reach::EMPTY,
            holder,
            first_blocked: NONE,
            write,
            payer,
            links: [NO_LINKS; 2],
        };
        Some(slot)
    }

    /// Frees a lock that is in no tree any more.
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

    /// The order of two locks in the trees.
    pub(super) fn order(&self, one: u32, other: u32) -> Ordering {
        self.at(one).key().cmp(&self.at(other).key())
    }

    /// The child of the lock `at` whose subtree has, or would have, a lock with that key.
    #[inline]
    fn child_toward(&self, tree: TreeKind, key: (u64, u64), at: u32) -> u32 {
        let lock = self.at(at);
        let Link { left, right, .. } = *lock.link(tree);
        // Which way a search goes is hard to predict, so it takes no branch.
        select_unpredictable(key < lock.key(), left, right)
    }

    /// Sets the first request that the lock blocks.
    pub(super) fn set_first_blocked(&mut self, lock: u32, request: u32) {
        if let Some(lock) = self.locks.get_mut(lock as usize) {
            lock.first_blocked = request;
        }
    }

    fn set_reach(&mut self, lock: u32, reach: Reach) {
        if let Some(lock) = self.locks.get_mut(lock as usize) {
            lock.reach = reach;
        }
    }

    /// The reach of the subtree whose root this lock is.
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

    /// Inserts a lock into the tree. Returns the new root of the tree.
    #[inline]
    pub(super) fn insert(&mut self, tree: TreeKind, root: u32, lock: u32) -> u32 {
        if root != NONE {
            return self.insert_below(tree, root, lock);
        }
        // Most files and most holders have one lock at a time.
        if let Some(lock) = self.locks.get_mut(lock as usize) {
            let [file, holder] = &mut lock.links;
            match tree {
                TreeKind::File => {
                    *file = LEAF;
                    lock.reach = Reach::EMPTY.extend(lock.end, lock.holder);
                }
                TreeKind::Holder => *holder = LEAF,
            }
        }
        lock
    }

    fn insert_below(&mut self, tree: TreeKind, root: u32, lock: u32) -> u32 {
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
        self.attach(tree, root, &mut path, (lock, lock), deepest)
    }

    /// Removes a lock from the tree. Returns the new root of the tree.
    #[inline]
    pub(super) fn remove(&mut self, tree: TreeKind, root: u32, lock: u32) -> u32 {
        if root == lock && *self.link(tree, lock) == LEAF {
            return NONE;
        }
        self.remove_below(tree, root, lock)
    }

    fn remove_below(&mut self, tree: TreeKind, root: u32, lock: u32) -> u32 {
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
            return self.attach(tree, root, &mut path, (lock, left), depth);
        }
        // The next lock takes the place of the removed one.
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
        self.attach(tree, root, &mut path, (next, subtree), depth)
    }

    /// Attaches `new` at the end of the path that led to the key of the lock `key`, and updates the
    /// locks above it. Returns the new root of the tree. Above the lock that is `fixed_depth`
    /// levels below the root, the loop stops as soon as nothing changes any more. The path is
    /// passed by reference: it has room for `MAX_LEVELS` locks, and a copy takes as long as the rotations.
    fn attach(
        &mut self,
        tree: TreeKind,
        root: u32,
        path: &mut SearchPath,
        (key, mut new): (u32, u32),
        fixed_depth: usize,
    ) -> u32 {
        // The end and the holder of a lock that is being inserted.
        let inserted = (key == new).then(|| (self.at(key).end, self.at(key).holder));
        let key = self.at(key).key();
        let mut has_new_reach = tree == TreeKind::File;
        while let Some(up) = path.pop() {
            let lock = self.at(up);
            let (reach, old, is_left) = (lock.reach, *lock.link(tree), key < lock.key());
            let sibling = if is_left { old.right } else { old.left };
            let (below, sibling) = (self.rank(tree, new), self.rank(tree, sibling));
            let (low, high) = (below.min(sibling), below.max(sibling));
            // A lock that has lost its last child has the lowest rank.
            let highest = if high == 0 { 1 } else { low.plus(2) };
            let rank = old.rank.max(high.plus(1)).min(highest);
            self.change(tree, up, |link| {
                if is_left {
                    link.left = new;
                } else {
                    link.right = new;
                }
                link.rank = rank;
            });
            new = up;
            if high.abs_diff(low) > 1 {
                new = self.rotate(tree, up);
            } else if has_new_reach {
                let new_reach = match inserted {
                    Some((end, holder)) => reach.extend(end, holder),
                    None => self.compute_reach(up),
                };
                self.set_reach(up, new_reach);
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
