//! The members that have left recently.

use core::hash::Hasher;

use crate::Vmid;
use crate::store::{Arena, Digest, Table, bytes_for};

/// The number of departed members that are remembered: more than can leave while a request is under
/// way.
pub(super) const MAX_DEPARTED: usize = 256;

/// The members that have left recently, in a ring. An ID that was transferred to one of them would
/// never be freed.
pub(super) struct Departed<'m> {
    pub(super) vmids: Table<'m, u32>,
    pub(super) next: usize,
}

impl<'m> Departed<'m> {
    pub(super) const fn bytes() -> usize {
        bytes_for::<u32>(MAX_DEPARTED)
    }

    pub(super) fn new(arena: &mut Arena<'m>) -> Self {
        Departed {
            vmids: arena.alloc_filled(MAX_DEPARTED, &0),
            next: 0,
        }
    }

    pub(super) fn digest(&self, digest: &mut Digest) {
        digest.add_all(self.vmids.iter());
        digest.write_usize(self.next);
    }

    pub(super) fn contains(&self, vmid: Vmid) -> bool {
        self.vmids.contains(&vmid.get())
    }

    pub(super) fn add(&mut self, vmid: Vmid) {
        if let Some(place) = self.vmids.get_mut(self.next) {
            *place = vmid.get();
        }
        self.next = self.next.wrapping_add(1) % MAX_DEPARTED;
    }

    pub(super) fn remove(&mut self, vmid: Vmid) {
        for place in self.vmids.iter_mut() {
            if *place == vmid.get() {
                *place = 0;
            }
        }
    }
}
