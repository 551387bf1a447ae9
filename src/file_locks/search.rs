//! Searches in the trees: for the locks of a holder, and for overlapping locks of other holders.

use core::hint::select_unpredictable;

use super::Range;
use super::interval_tree::{InsertPoint, IntervalTrees, TreeKind, TreeLink};
use crate::store::NONE;

impl IntervalTrees<'_> {
    /// Returns the last lock of a holder's tree that overlaps `start..=end`. The locks of this tree
    /// do not overlap each other.
    pub(super) fn last_own(&self, root: u32, (start, end): Range) -> Option<u32> {
        let mut at = root;
        let mut last = NONE;
        while at != NONE {
            let link = self.link(TreeKind::Holder, at);
            if self.at(at).start <= end {
                last = at;
                at = link.right;
            } else {
                at = link.left;
            }
        }
        (last != NONE && self.at(last).end >= start).then_some(last)
    }

    /// Returns the first lock of a tree that overlaps `start..=end`, and the place of a lock with that range if
    /// none does. The locks of this tree do not overlap each other: it is that of a holder, or of the write
    /// locks of a file.
    pub(super) fn first_of_disjoint(
        &self,
        tree: TreeKind,
        root: u32,
        (start, end): Range,
    ) -> (Option<u32>, InsertPoint) {
        let (mut at, mut above, mut first) = (root, NONE, NONE);
        while at != NONE {
            let lock = self.at(at);
            let TreeLink { left, right, .. } = *lock.link(tree);
            let is_left = lock.end >= start;
            above = at;
            // Which way a search goes is hard to predict, so it takes no branch.
            first = select_unpredictable(is_left, at, first);
            at = select_unpredictable(is_left, left, right);
        }
        let overlaps = first != NONE && self.at(first).start <= end;
        (overlaps.then_some(first), InsertPoint(above))
    }

    /// Returns the first lock of a file's tree that overlaps `start..=end` and whose holder is not
    /// `mine`. The search descends the tree once.
    pub(super) fn first_overlapping(
        &self,
        root: u32,
        (start, end): Range,
        mine: u32,
    ) -> Option<u32> {
        let mut at = root;
        let mut lock = self.at(at);
        while lock.reach.extends_to(start, mine) {
            // A matching lock in the left subtree comes before this one.
            loop {
                let TreeLink { left, .. } = *lock.link(TreeKind::File);
                let lower = self.at(left);
                if !lower.reach.extends_to(start, mine) {
                    break;
                }
                (at, lock) = (left, lower);
            }
            if lock.start > end {
                return None;
            }
            if lock.end >= start && lock.holder != mine {
                return Some(at);
            }
            at = lock.link(TreeKind::File).right;
            lock = self.at(at);
        }
        None
    }

    /// Like `first_overlapping`, among the locks after `after` ([`NONE`]: all locks).
    pub(super) fn next_overlapping(
        &self,
        root: u32,
        range: Range,
        mine: u32,
        after: u32,
    ) -> Option<u32> {
        if after == NONE {
            return self.first_overlapping(root, range, mine);
        }
        if !self.at(root).reach.extends_to(range.0, mine) {
            return None;
        }
        let TreeLink { left, right, .. } = *self.link(TreeKind::File, root);
        if self.order(root, after).is_gt() {
            if let Some(found) = self.next_overlapping(left, range, mine, after) {
                return Some(found);
            }
            let lock = self.at(root);
            if lock.start > range.1 {
                return None;
            }
            if lock.end >= range.0 && lock.holder != mine {
                return Some(root);
            }
            return self.first_overlapping(right, range, mine);
        }
        self.next_overlapping(right, range, mine, after)
    }
}

#[cfg(test)]
mod tests {
    use core::mem::MaybeUninit;

    use super::*;
    use crate::store::{Arena, Payer};

    #[test]
    fn first_overlapping_lock_of_another_holder_is_found() {
        const LOCKS: usize = 24;
        const BYTES: u64 = 12;
        const HOLDERS: u32 = 4;
        let mut rng = 1_u64;
        let mut random = |below: u64| {
            rng = crate::store::hash64(rng.wrapping_add(1));
            rng % below
        };
        let mut memory = [MaybeUninit::uninit(); IntervalTrees::bytes(LOCKS)];
        let mut trees = IntervalTrees::new(&mut Arena::new(&mut memory), LOCKS);
        let mut root = NONE;
        let mut all: [Option<u32>; LOCKS] = [None; LOCKS];
        for _ in 0..4_000 {
            let slot = usize::try_from(random(LOCKS as u64)).unwrap();
            if let Some(lock) = all[slot].take() {
                root = trees.remove(TreeKind::File, root, lock);
                trees.free(lock);
            } else {
                // The ranges include ends at the first and at the last possible byte.
                let start = random(BYTES);
                let end = [start, start + random(6), u64::MAX][usize::try_from(random(3)).unwrap()];
                let holder = u32::try_from(random(HOLDERS.into())).unwrap();
                let since = HOLDERS - holder;
                let taken = |lock: &u32| {
                    let lock = trees.at(*lock);
                    lock.start == start && lock.holder == holder
                };
                if !all.iter().flatten().any(taken) {
                    let lock = trees
                        .alloc((start, end), false, (holder, since.into()), Payer::NOBODY)
                        .unwrap();
                    root = trees.insert(TreeKind::File, root, lock, InsertPoint::UNKNOWN);
                    all[slot] = Some(lock);
                }
            }
            assert_eq!(
                trees.check(TreeKind::File, root),
                Some(all.iter().flatten().count())
            );
            let start = random(BYTES);
            let range = (
                start,
                [start, start + random(6), u64::MAX][usize::try_from(random(3)).unwrap()],
            );
            let mine = [NONE, 0, 1, 2, 3][usize::try_from(random(5)).unwrap()];
            let overlapping = |lock: &u32| {
                let lock = trees.at(*lock);
                lock.start <= range.1 && lock.end >= range.0 && lock.holder != mine
            };
            let in_order = |lock: &u32| (trees.at(*lock).start, trees.at(*lock).since);
            let mut expected: heapless::Vec<u32, LOCKS> =
                all.into_iter().flatten().filter(overlapping).collect();
            expected.sort_unstable_by_key(in_order);
            assert_eq!(
                trees.first_overlapping(root, range, mine),
                expected.first().copied()
            );
            let mut after = NONE;
            for lock in expected {
                let next = trees.next_overlapping(root, range, mine, after);
                assert_eq!(next, Some(lock));
                after = lock;
            }
            if after != NONE {
                assert_eq!(trees.next_overlapping(root, range, mine, after), None);
            }
        }
    }

    #[test]
    fn lock_that_is_inserted_where_a_search_ended_is_in_order() {
        const LOCKS: usize = 24;
        let mut rng = 1_u64;
        let mut random = |below: u64| {
            rng = crate::store::hash64(rng.wrapping_add(1));
            rng % below
        };
        let mut memory = [MaybeUninit::uninit(); IntervalTrees::bytes(LOCKS)];
        let mut trees = IntervalTrees::new(&mut Arena::new(&mut memory), LOCKS);
        let mut root = NONE;
        let mut count = 0;
        for _ in 0..4_000 {
            let start = random(60);
            let range = (start, start + random(3));
            let (found, place) = trees.first_of_disjoint(TreeKind::File, root, range);
            if let Some(lock) = found {
                assert!(trees.at(lock).start <= range.1 && trees.at(lock).end >= range.0);
                root = trees.remove(TreeKind::File, root, lock);
                trees.free(lock);
                count -= 1;
            } else if count < LOCKS {
                let lock = trees.alloc(range, true, (0, 0), Payer::NOBODY).unwrap();
                root = trees.insert(TreeKind::File, root, lock, place);
                count += 1;
            }
            assert_eq!(trees.check(TreeKind::File, root), Some(count));
        }
    }
}
