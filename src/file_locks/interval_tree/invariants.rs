//! Checks that a tree is ordered and balanced.

use super::{IntervalTrees, MAX_LEVELS, TreeKind, TreeLink};
use crate::store::NONE;

impl IntervalTrees<'_> {
    /// Returns the number of locks in the tree; `None` if the tree is not ordered and balanced. It is slow,
    /// and meant for tests.
    pub(in crate::file_locks) fn check(&self, tree: TreeKind, root: u32) -> Option<usize> {
        let most = self.slots.in_use();
        let mut left = most;
        self.check_below(tree, root, NONE, &mut left)?;
        most.checked_sub(left)
    }

    /// Like [`IntervalTrees::check`], with at most `most` locks in the tree: the links may be wrong. The ranks bound
    /// the depth.
    fn check_below(&self, tree: TreeKind, root: u32, above: u32, most: &mut usize) -> Option<()> {
        if root == NONE {
            return Some(());
        }
        *most = most.checked_sub(1)?;
        let TreeLink { left, right, up } = *self.link(tree, root);
        let rank = self.rank(tree, root);
        let below = [left, right].map(|child| self.rank(tree, child));
        let is_lower = |child: &u8| *child < rank;
        if up != above || usize::from(rank) > MAX_LEVELS || !below.iter().all(is_lower) {
            return None;
        }
        self.check_below(tree, left, root, most)?;
        self.check_below(tree, right, root, most)?;
        let is_leaf = left == NONE && right == NONE;
        let is_ordered = (left == NONE || self.order(left, root).is_lt())
            && (right == NONE || self.order(right, root).is_gt());
        let is_valid = is_ordered
            && below.iter().all(|child| rank.abs_diff(*child) <= 2)
            && (!is_leaf || rank == 1)
            && (tree == TreeKind::Holder || self.has_valid_reach(root));
        is_valid.then_some(())
    }

    /// Two holders with the same highest end may be named in either order.
    fn has_valid_reach(&self, lock: u32) -> bool {
        let (is, expected) = (self.at(lock).reach, self.compute_reach(lock));
        (is.end, is.second_end) == (expected.end, expected.second_end)
            && (is.second_holder == NONE) == (expected.second_holder == NONE)
            && (is.holder == expected.holder || is.end == is.second_end)
            && is.holder != is.second_holder
    }
}

#[cfg(test)]
mod tests {
    use core::mem::MaybeUninit;

    use super::*;
    use crate::file_locks::interval_tree::InsertPoint;
    use crate::store::{Arena, Payer};

    const CAPACITY: usize = 3;

    /// Returns the result of the check for a tree with 1 at its root, 0 on the left and 2 on the
    /// right.
    fn count_after(fault: fn(&mut IntervalTrees<'_>)) -> Option<usize> {
        let mut memory = [MaybeUninit::uninit(); IntervalTrees::bytes(CAPACITY)];
        let mut trees = IntervalTrees::new(&mut Arena::new(&mut memory), CAPACITY);
        let root = [10, 20, 30].into_iter().fold(NONE, |root, start| {
            let lock = trees
                .alloc((start, start + 4), true, (0, 0), Payer::NOBODY)
                .unwrap();
            trees.insert(TreeKind::File, root, lock, InsertPoint::UNKNOWN)
        });
        assert_eq!(root, 1);
        fault(&mut trees);
        trees.check(TreeKind::File, root)
    }

    #[test]
    fn tree_stays_ordered_and_balanced_in_every_order_of_insertion() {
        const MAX: usize = 7;
        let orders = (1..=MAX).product::<usize>();
        let mut memory = [MaybeUninit::uninit(); IntervalTrees::bytes(MAX)];
        let mut trees = IntervalTrees::new(&mut Arena::new(&mut memory), MAX);
        for number in 0..orders {
            let mut starts = [0, 1, 2, 3, 4, 5, 6];
            let mut rest = number;
            for at in 0..MAX {
                starts.swap(at, at + rest % (MAX - at));
                rest /= MAX - at;
            }
            let mut locks = [NONE; MAX];
            let mut root = NONE;
            for (at, start) in starts.into_iter().enumerate() {
                let range = (start, start + start % 3 * 4);
                locks[at] = trees.alloc(range, false, (0, 0), Payer::NOBODY).unwrap();
                root = trees.insert(TreeKind::File, root, locks[at], InsertPoint::UNKNOWN);
                assert_eq!(
                    trees.check(TreeKind::File, root),
                    Some(at + 1),
                    "{starts:?}"
                );
            }
            for (gone, lock) in (1..).zip(locks) {
                root = trees.remove(TreeKind::File, root, lock);
                assert_eq!(trees.check(TreeKind::File, root), Some(MAX - gone));
                trees.free(lock);
            }
        }
    }

    #[test]
    fn repeated_insertion_at_one_place_leaves_the_root_unchanged() {
        const MAX: usize = 16;
        let mut memory = [MaybeUninit::uninit(); IntervalTrees::bytes(MAX)];
        let mut trees = IntervalTrees::new(&mut Arena::new(&mut memory), MAX);
        // A full tree of four levels: one more lock needs a fifth level.
        let mut root = (0..15).fold(NONE, |root, at| {
            let lock = trees
                .alloc((10 * at, 10 * at), true, (0, 0), Payer::NOBODY)
                .unwrap();
            trees.insert(TreeKind::File, root, lock, InsertPoint::UNKNOWN)
        });
        let mut ranks = [0; 3];
        for rank in &mut ranks {
            let lock = trees.alloc((5, 5), true, (0, 0), Payer::NOBODY).unwrap();
            root = trees.insert(TreeKind::File, root, lock, InsertPoint::UNKNOWN);
            *rank = trees.rank(TreeKind::File, root);
            root = trees.remove(TreeKind::File, root, lock);
            trees.free(lock);
            assert_eq!(trees.rank(TreeKind::File, root), *rank);
            assert_eq!(trees.check(TreeKind::File, root), Some(15));
        }
        assert_eq!(ranks, [5, 5, 5]);
    }

    #[test]
    fn unordered_or_unbalanced_tree_is_detected() {
        assert_eq!(count_after(|_| {}), Some(CAPACITY));
        let faults: [fn(&mut IntervalTrees<'_>); 5] = [
            |trees| trees.locks[0].start = 21,
            |trees| trees.locks[2].start = 19,
            |trees| trees.change(TreeKind::File, 1, |_, rank| *rank = 4),
            |trees| trees.locks[1].reach.end = 24,
            // The first lock moves behind the last; only the balance is wrong.
            |trees| {
                trees.locks[0].start = 40;
                for (lock, left, right, rank) in [(2, NONE, 0, 2), (1, NONE, 2, 3)] {
                    trees.change(TreeKind::File, lock, |link, old| {
                        (link.left, link.right, *old) = (left, right, rank);
                    });
                }
            },
        ];
        for (number, fault) in faults.into_iter().enumerate() {
            assert_eq!(count_after(fault), None, "fault {number}");
        }
    }
}
