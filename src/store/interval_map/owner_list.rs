//! The lists of the intervals by owner, and the removal of all intervals of one owner.

use core::ptr;

use super::node::IntervalNode;
use super::{Interval, IntervalMap};
use crate::Vmid;
use crate::invariant::Count;
use crate::store::Payer;

/// The intervals of some owners, in a list.
#[derive(Default)]
pub(super) struct OwnerList<'m> {
    pub(super) first: Option<&'m IntervalNode<'m>>,
    pub(super) last: Option<&'m IntervalNode<'m>>,
    pub(super) length: usize,
}

/// The state of a search for the intervals of one owner.
#[derive(Debug)]
pub(crate) struct OwnerCursor {
    owner: u32,
    left: usize,
}

impl OwnerCursor {
    /// Makes a cursor that has `left` intervals still to examine.
    pub(crate) fn resume(owner: u32, left: usize) -> Self {
        OwnerCursor { owner, left }
    }

    /// Returns the number of intervals still to examine.
    pub(crate) fn remaining(&self) -> usize {
        self.left
    }
}

impl<'m> IntervalMap<'m> {
    /// Begins a search for the intervals of `owner`.
    pub(crate) fn owner_cursor(&mut self, owner: u32) -> OwnerCursor {
        OwnerCursor {
            owner,
            left: self.list_of(owner).map_or(0, |list| list.length),
        }
    }

    /// Continues a search over at most `steps` intervals, and removes those of the owner from the
    /// table; `on_removed` gets the payer of each. If `keep` returns a process for an interval of one number, that
    /// process becomes its owner instead. Returns true once all intervals are removed that were there
    /// when the search began.
    pub(crate) fn remove_next(
        &mut self,
        cursor: &mut OwnerCursor,
        steps: usize,
        keep: &dyn Fn(u32) -> Option<Vmid>,
        on_removed: &mut dyn FnMut(Payer),
    ) -> bool {
        for _ in 0..steps {
            if cursor.left == 0 {
                break;
            }
            cursor.left.decrement();
            let Some(list) = self.list_of(cursor.owner) else {
                return true;
            };
            let Some(node) = list.first else {
                return true;
            };
            let is_single = node.start() == node.end();
            let is_owned = node.owner.get() == cursor.owner;
            let kept = Some(node.start())
                .filter(|_| is_owned && is_single)
                .and_then(keep);
            let mut interval = Interval::of(node, self.tree.nodes.index_of(node));
            if let Some(owner) = kept {
                self.set_owner(&mut interval, owner.get());
            } else if is_owned {
                on_removed(node.payer.get());
                self.remove(interval);
            } else {
                // The interval goes to the end of the list, so that the next step examines another.
                self.unlink(node);
                self.link(node);
            }
        }
        cursor.left == 0
    }

    /// Returns the number of the list with the owner's intervals. Several owners may share a list.
    pub(super) fn list_number(&self, owner: u32) -> Option<usize> {
        (owner as usize).checked_rem(self.owner_lists.len())
    }

    pub(super) fn list_of(&mut self, owner: u32) -> Option<&mut OwnerList<'m>> {
        let number = self.list_number(owner)?;
        self.owner_lists.get_mut(number)
    }

    /// Appends the interval to its owner's list.
    #[inline]
    pub(super) fn link(&mut self, node: &'m IntervalNode<'m>) {
        let Some(list) = self.list_of(node.owner.get()) else {
            return;
        };
        let before = list.last.replace(node);
        list.length.increment();
        match before {
            Some(before) => before.next.set(Some(node)),
            None => list.first = Some(node),
        }
        node.prev.set(before);
        node.next.set(None);
        self.order.add(neighbours(before, Some(node)));
    }

    /// Removes the interval from its owner's list.
    #[inline]
    pub(super) fn unlink(&mut self, node: &'m IntervalNode<'m>) {
        let Some(list) = self.list_of(node.owner.get()) else {
            return;
        };
        list.length.decrement();
        let (before, after) = (node.prev.get(), node.next.get());
        match before {
            Some(before) => before.next.set(after),
            None => list.first = after,
        }
        match after {
            Some(after) => after.prev.set(before),
            None => list.last = before,
        }
        self.order.subtract(neighbours(before, Some(node)));
        if after.is_some() {
            self.order.subtract(neighbours(Some(node), after));
            self.order.add(neighbours(before, after));
        }
    }
}

/// Returns the starts of two neighbours in a list; 0 for none.
pub(super) fn neighbours(
    one: Option<&IntervalNode<'_>>,
    other: Option<&IntervalNode<'_>>,
) -> (u32, u32) {
    let start = |node: Option<&IntervalNode<'_>>| node.map_or(0, IntervalNode::start);
    (start(one), start(other))
}

pub(super) fn is_same<'m>(
    one: Option<&IntervalNode<'m>>,
    other: Option<&IntervalNode<'m>>,
) -> bool {
    one.map(ptr::from_ref) == other.map(ptr::from_ref)
}
