//! The image of a table of intervals: its nodes, each with the start of the node before it in the list of its owner. The
//! tree, the lists and the small tables are computed anew.

use super::node::{IntervalNode, MAX_INTERVAL};
use super::{IntervalMap, OwnerList};
use crate::ID_MAX;
use crate::invariant::Count;
use crate::store::{
    Image, ImageEntry, ImageReader, Loader, MalformedImage, NONE, Payer, Saver, Sum, entry,
};

/// A node: the first and the last number, the owner, 0 for a free one, the payer, and the start of the node before.
#[derive(Clone, Copy, Default)]
struct NodeImage {
    start: u32,
    end: u32,
    owner: u32,
    payer: Payer,
    prev: u32,
}

entry!(NodeImage {
    start,
    end,
    owner,
    payer,
    prev
});

impl NodeImage {
    fn of(node: &IntervalNode<'_>) -> NodeImage {
        let (start, end, owner, payer) = node.content();
        if owner == 0 {
            return NodeImage::default();
        }
        NodeImage {
            start,
            end,
            owner,
            payer,
            prev: node.prev.get().map_or(0, IntervalNode::start),
        }
    }

    fn load_into(self, node: &IntervalNode<'_>) -> Result<(), MalformedImage> {
        let length = self.end.checked_sub(self.start).ok_or(MalformedImage)?;
        if length >= MAX_INTERVAL || self.end > ID_MAX || (self.start == 0) != (self.owner == 0) {
            return Err(MalformedImage);
        }
        node.set(self.start, self.end);
        node.owner.set(self.owner);
        node.payer.set(self.payer);
        node.loaded_prev.set(self.prev);
        Ok(())
    }
}

impl Image for IntervalMap<'_> {
    fn save(&self, out: &mut Saver<'_>) {
        let nodes = &self.tree.nodes;
        let counts = (self.peak(), nodes.used());
        out.entries(<(usize, usize)>::SIZE, (1, 1), &|_, to| counts.save(to));
        let size = (self.tree.capacity(), nodes.used());
        out.entries(NodeImage::SIZE, size, &|index, to| {
            if let Some(node) = nodes.get(index) {
                NodeImage::of(node).save(to);
            }
        });
    }

    fn load(&mut self, from: &mut Loader<'_>) -> Result<(), MalformedImage> {
        let tree = &mut self.tree;
        let loaded = &mut self.loaded_nodes;
        from.entries(<(usize, usize)>::SIZE, 1, &mut |_, from| {
            (tree.peak, *loaded) = ImageEntry::load(from)?;
            Ok(())
        })?;
        let capacity = tree.capacity();
        let nodes = &mut tree.nodes;
        from.entries(NodeImage::SIZE, capacity, &mut |index,
                                                      from: &mut ImageReader<
            '_,
        >| {
            while nodes.used() <= index {
                nodes.alloc().ok_or(MalformedImage)?;
            }
            let node = nodes.get(index).ok_or(MalformedImage)?;
            NodeImage::load(from)?.load_into(node)
        })
    }

    fn clear_unused(&mut self) {
        for index in self.loaded_nodes..self.tree.nodes.used() {
            if let Some(node) = self.tree.nodes.get(index) {
                node.owner.set(0);
            }
        }
    }
}

impl<'m> IntervalMap<'m> {
    /// Computes what an image leaves out. Returns false if the loaded image is not valid.
    pub(crate) fn complete_image(&mut self) -> bool {
        (self.content, self.order) = (Sum::default(), Sum::default());
        self.hints.fill(NONE);
        self.occupancy.fill(0);
        self.owner_lists.fill_with(OwnerList::default);
        self.full.clear();
        self.tree.rebuild();
        let peak = self.peak();
        let is_counted = self.len() <= peak && peak <= self.tree.capacity();
        if !is_counted || !self.tree.check_invariants() {
            return false;
        }
        for index in 0..self.tree.nodes.used() {
            let Some(node) = self.tree.nodes.get(index) else {
                return false;
            };
            if node.owner.get() != 0 {
                self.adjust_occupancy(node.start(), node.end(), 1);
                self.update_full(node.start(), node.end());
                if self.link_loaded(node).is_none() {
                    return false;
                }
            }
        }
        self.owner_lists.iter_mut().all(find_last)
    }

    /// Links a node behind the one that precedes it in its list. `None` if another node follows that one already.
    fn link_loaded(&mut self, node: &'m IntervalNode<'m>) -> Option<()> {
        let number = self.list_number(node.owner.get());
        let start = node.loaded_prev.take();
        let prev = if start == 0 {
            None
        } else {
            Some(self.tree.find_start(start)?)
        };
        let list = self.owner_lists.get_mut(number?)?;
        list.length.increment();
        let Some(prev) = prev else {
            return list.first.replace(node).is_none().then_some(());
        };
        let is_first = prev.next.replace(Some(node)).is_none();
        node.prev.set(Some(prev));
        (is_first && self.list_number(prev.owner.get()) == number).then_some(())
    }
}

/// Finds the last node of a list. Returns false if the list has another length.
fn find_last(list: &mut OwnerList<'_>) -> bool {
    let mut next = list.first;
    for _ in 0..list.length {
        let Some(node) = next else { return false };
        list.last = Some(node);
        next = node.next.get();
    }
    next.is_none()
}
