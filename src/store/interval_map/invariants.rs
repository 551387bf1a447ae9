//! The invariants of the table.

use super::IntervalMap;
use super::full_blocks::{blocks_of, bounds};
use super::node::IntervalNode;
use super::owner_list::{OwnerList, is_same};
use crate::invariant::Count;

impl IntervalMap<'_> {
    /// Returns true if every interval is in the tree and in one list, and the tree's invariants
    /// hold. It is slow, and meant for tests.
    pub(crate) fn check_invariants(&self) -> bool {
        let count = self.tree.len();
        let owner_lists = || self.owner_lists.iter().enumerate();
        let linked = owner_lists().all(|(number, list)| self.is_linked_list(number, list));
        let lengths = owner_lists().map(|(_, list)| list.length).sum::<usize>();
        let occupancy = self.occupancy.iter();
        let occupancy = occupancy.map(|count| usize::from(*count)).sum::<usize>();
        let counted = occupancy >= count && occupancy.div_ceil(2) <= count;
        let mut blocks = 0_usize;
        let mut highest = None;
        let touched = |node: &IntervalNode<'_>| blocks_of(node.start(), node.end());
        for block in self.tree.iter().flat_map(touched) {
            if highest < Some(block) {
                highest = Some(block);
                let (first, last) = bounds(block);
                let is_full = self.tree.first_free(first, last).is_none();
                if self.full.is_full(block) != is_full {
                    return false;
                }
                blocks = blocks.plus(usize::from(is_full));
            }
        }
        self.tree.check_invariants()
            && counted
            && blocks == self.full.count()
            && linked
            && count == lengths
    }

    /// Returns true if the list's length is right and all its intervals belong to it.
    fn is_linked_list(&self, number: usize, list: &OwnerList<'_>) -> bool {
        let (mut next, mut before) = (list.first, None);
        for _ in 0..list.length {
            let belongs = next.filter(|node| {
                is_same(node.prev.get(), before)
                    && self.list_number(node.owner.get()) == Some(number)
            });
            let Some(node) = belongs else { return false };
            (before, next) = (next, node.next.get());
        }
        next.is_none() && is_same(before, list.last)
    }
}
