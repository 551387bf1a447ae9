//! The node of an interval, and its links for the red-black tree of `intrusive-collections`.
#![allow(unsafe_code)]

use core::cell::{Cell, UnsafeCell};
use core::mem::MaybeUninit;
use core::ptr;

use intrusive_collections::rbtree::{Color, RBTreeOps};
use intrusive_collections::{Adapter, DefaultPointerOps, KeyAdapter, LinkOps};

use crate::ID_MAX;
use crate::invariant::{Count, OrBroken};
use crate::store::{NONE, Payer};

type Link<'m> = Cell<Option<&'m IntervalNode<'m>>>;

/// An interval, in a tree by its start and in the list of its owner. A free node has no owner, is
/// in no tree, and is linked into the free list by `left`.
///
/// What a search reads comes first, so that it is seldom in two cache lines.
#[derive(Default)]
#[repr(C)]
pub(super) struct IntervalNode<'m> {
    /// From the top bit: the colour in the tree, the start, and the length less one.
    packed: Cell<u32>,
    pub(super) owner: Cell<u32>,
    pub(super) left: Link<'m>,
    right: Link<'m>,
    parent: Link<'m>,
    pub(super) prev: Link<'m>,
    pub(super) next: Link<'m>,
    pub(super) payer: Cell<Payer>,
    /// In an image that is not complete: the start of the interval before it in the list of its owner; 0 for none.
    pub(super) loaded_prev: Cell<u32>,
}

// SAFETY: only methods of `IntervalMap` and its `Tree` that have the table to themselves (`&mut
// self`) write to these cells. Methods that share it only read. The one reference that leaves the table, in
// `Gap`, is private to `interval_map`, which compares its address before it reads a cell through it.
unsafe impl Sync for IntervalNode<'_> {}

/// The nodes of a table. Those that were never used are not initialised: their memory is untouched.
pub(super) struct Nodes<'m> {
    room: &'m UnsafeCell<[MaybeUninit<IntervalNode<'m>>]>,
    used: usize,
}

// SAFETY: only `alloc`, which needs `&mut self`, writes to the cell, and to a node that no reference leads to. The nodes that
// were allocated are shared references to `IntervalNode`, which is `Sync`.
unsafe impl Send for Nodes<'_> {}
// SAFETY: as above.
unsafe impl Sync for Nodes<'_> {}

impl<'m> Nodes<'m> {
    pub(super) fn new(room: &'m mut [MaybeUninit<IntervalNode<'m>>]) -> Self {
        Nodes {
            room: UnsafeCell::from_mut(room),
            used: 0,
        }
    }

    /// Returns the number of nodes that were ever allocated.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    pub(super) fn get(&self, index: usize) -> Option<&'m IntervalNode<'m>> {
        let first = self.room.get().cast::<IntervalNode<'m>>();
        // SAFETY: the first `used` nodes are initialised, and never written to as a whole again.
        (index < self.used).then(|| unsafe { &*first.add(index) })
    }

    /// Returns true if the node is one of this table's. A reference leads to no other place than to a node.
    pub(super) fn has(&self, node: &IntervalNode<'m>) -> bool {
        let first = self.room.get().cast::<IntervalNode<'m>>();
        let offset = ptr::from_ref(node).addr().wrapping_sub(first.addr());
        offset < self.used.wrapping_mul(size_of::<IntervalNode<'_>>())
    }

    /// Returns the number of a node of this table, with which [`Nodes::get`] finds it.
    pub(super) fn index_of(&self, node: &IntervalNode<'m>) -> u32 {
        let first = self.room.get().cast::<IntervalNode<'m>>();
        let offset = ptr::from_ref(node).addr().wrapping_sub(first.addr());
        let index = offset.checked_div(size_of::<IntervalNode<'_>>());
        index
            .and_then(|index| u32::try_from(index).ok())
            .or_broken(NONE)
    }

    /// Returns a node that was never used.
    pub(super) fn alloc(&mut self) -> Option<&'m IntervalNode<'m>> {
        let index = self.used;
        if index >= self.room.get().len() {
            return None;
        }
        let first = self.room.get().cast::<IntervalNode<'m>>();
        // SAFETY: the node is within the room, and no reference leads to it, since it was not allocated before.
        unsafe { first.add(index).write(IntervalNode::default()) };
        self.used.increment();
        self.get(index)
    }
}

/// The greatest length of an interval.
pub(crate) const MAX_INTERVAL: u32 = 1 << LENGTH_BITS;

const LENGTH_BITS: u32 = 5;

const BLACK: u32 = 1 << 31;
const _: () = assert!(ID_MAX < BLACK >> LENGTH_BITS);

impl<'m> IntervalNode<'m> {
    pub(super) fn start(&self) -> u32 {
        (self.packed.get() & !BLACK) >> LENGTH_BITS
    }

    pub(super) fn end(&self) -> u32 {
        // A start is at most `ID_MAX`, so the sum fits.
        let length = self.packed.get() & (MAX_INTERVAL - 1);
        self.start().wrapping_add(length)
    }

    /// Returns the content: the first and the last number, the owner and the payer.
    pub(super) fn content(&self) -> (u32, u32, u32, Payer) {
        (self.start(), self.end(), self.owner.get(), self.payer.get())
    }

    /// Sets the content of a free node, which is in no tree and so red.
    pub(super) fn init(&self, start: u32, end: u32, owner: u32) {
        self.packed.set((start << LENGTH_BITS) | end.minus(start));
        self.owner.set(owner);
    }

    pub(super) fn set_end(&self, end: u32) {
        self.set(self.start(), end);
    }

    /// Changes the first and the last number, and keeps the colour.
    pub(super) fn set(&self, start: u32, end: u32) {
        let color = self.packed.get() & BLACK;
        self.packed
            .set(color | (start << LENGTH_BITS) | end.minus(start));
    }

    /// Takes the node out of the tree and its list, which the caller makes anew.
    pub(super) fn reset_links(&self) {
        for link in [
            &self.left,
            &self.right,
            &self.parent,
            &self.prev,
            &self.next,
        ] {
            link.set(None);
        }
        self.packed.set(self.packed.get() & !BLACK);
    }

    /// Returns the node above it in the tree.
    pub(super) fn parent(&self) -> Option<&'m IntervalNode<'m>> {
        self.parent.get()
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        self.start() <= number && number <= self.end() && self.owner.get() != 0
    }

    /// Returns true if the node is in a tree. A root is never red, so a red node without a parent is in no tree.
    pub(super) fn is_linked(&self) -> bool {
        self.parent.get().is_some() || self.packed.get() & BLACK != 0
    }
}

/// Intervals in a tree by their start. With the links of `intrusive-collections` an insertion
/// checks whether the interval is linked already, and has code to panic if so, which the static
/// library must not have.
pub(super) struct ByStart<'m>(DefaultPointerOps<&'m IntervalNode<'m>>);

impl ByStart<'_> {
    pub(super) fn new() -> Self {
        ByStart(DefaultPointerOps::new())
    }
}

/// A node, as the link type of `intrusive-collections`.
#[derive(Clone, Copy)]
pub(super) struct NodeLink<'m>(&'m IntervalNode<'m>);

impl PartialEq for NodeLink<'_> {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.0, other.0)
    }
}

impl Eq for NodeLink<'_> {}

// SAFETY: only `Tree::insert` and `Tree::rebuild` link a node. The first one takes a new one or one from the
// free list of that very tree. Only `Tree::remove` puts nodes there, each when it has just unlinked it, and
// `rebuild`, which has made the tree empty. So `acquire_link` rightly reports every node as free.
unsafe impl<'m> LinkOps for ByStart<'m> {
    type LinkPtr = NodeLink<'m>;

    #[inline]
    unsafe fn acquire_link(&mut self, at: NodeLink<'m>) -> bool {
        debug_assert!(!at.0.is_linked(), "a free interval is in no tree");
        true
    }

    #[inline]
    unsafe fn release_link(&mut self, at: NodeLink<'m>) {
        at.0.parent.set(None);
        at.0.packed.set(at.0.packed.get() & !BLACK);
    }
}

// SAFETY: each getter returns the value that was last set, and nothing here panics.
unsafe impl<'m> RBTreeOps for ByStart<'m> {
    #[inline]
    unsafe fn left(&self, at: NodeLink<'m>) -> Option<NodeLink<'m>> {
        at.0.left.get().map(NodeLink)
    }

    #[inline]
    unsafe fn right(&self, at: NodeLink<'m>) -> Option<NodeLink<'m>> {
        at.0.right.get().map(NodeLink)
    }

    #[inline]
    unsafe fn parent(&self, at: NodeLink<'m>) -> Option<NodeLink<'m>> {
        at.0.parent.get().map(NodeLink)
    }

    #[inline]
    unsafe fn color(&self, at: NodeLink<'m>) -> Color {
        if at.0.packed.get() & BLACK == 0 {
            Color::Red
        } else {
            Color::Black
        }
    }

    #[inline]
    unsafe fn set_left(&mut self, at: NodeLink<'m>, left: Option<NodeLink<'m>>) {
        at.0.left.set(left.map(|left| left.0));
    }

    #[inline]
    unsafe fn set_right(&mut self, at: NodeLink<'m>, right: Option<NodeLink<'m>>) {
        at.0.right.set(right.map(|right| right.0));
    }

    #[inline]
    unsafe fn set_parent(&mut self, at: NodeLink<'m>, parent: Option<NodeLink<'m>>) {
        at.0.parent.set(parent.map(|parent| parent.0));
    }

    #[inline]
    unsafe fn set_color(&mut self, at: NodeLink<'m>, color: Color) {
        let packed = at.0.packed.get() & !BLACK;
        at.0.packed.set(match color {
            Color::Red => packed,
            Color::Black => packed | BLACK,
        });
    }
}

// SAFETY: a link is a reference to the node itself.
unsafe impl<'m> Adapter for ByStart<'m> {
    type LinkOps = Self;
    type PointerOps = DefaultPointerOps<&'m IntervalNode<'m>>;

    #[inline]
    unsafe fn get_value(&self, at: NodeLink<'m>) -> *const IntervalNode<'m> {
        at.0
    }

    #[inline]
    unsafe fn get_link(&self, value: *const IntervalNode<'m>) -> NodeLink<'m> {
        // SAFETY: only `Tree` leads here, with nodes that it has as `&'m IntervalNode<'m>`.
        NodeLink(unsafe { &*value })
    }

    #[inline]
    fn link_ops(&self) -> &Self {
        self
    }

    #[inline]
    fn link_ops_mut(&mut self) -> &mut Self {
        self
    }

    #[inline]
    fn pointer_ops(&self) -> &Self::PointerOps {
        &self.0
    }
}

impl<'a, 'm> KeyAdapter<'a> for ByStart<'m> {
    type Key = u32;

    #[inline]
    fn get_key(&self, node: &'a IntervalNode<'m>) -> u32 {
        node.start()
    }
}

#[cfg(test)]
impl<'m> IntervalNode<'m> {
    /// Returns the number of black nodes on each way down from here; `None` if the ways differ, a
    /// red node is below a red one, or a child has another parent.
    pub(super) fn black_height(&self) -> Option<u32> {
        let is_red = |node: &IntervalNode<'m>| node.packed.get() & BLACK == 0;
        let below = |child: &Link<'m>| match child.get() {
            None => Some(0),
            Some(child) => {
                let is_parent = child.parent.get().is_some_and(|it| ptr::eq(it, self));
                let is_right = is_parent && !(is_red(self) && is_red(child));
                child.black_height().filter(|_| is_right)
            }
        };
        let height = below(&self.left)?;
        let is_level = below(&self.right) == Some(height);
        is_level.then_some(height + u32::from(!is_red(self)))
    }
}
