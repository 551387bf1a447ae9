//! The places of the table of peers: which are used, by which VMID, and how often.

use crate::Vmid;
use crate::invariant::Count;
use crate::store::{SortedMap, Table};

#[derive(Clone, Copy, Default)]
pub(super) struct Use {
    pub(super) users: u32,
    pub(super) removed: bool,
}

pub(super) struct VmidIndex<'m> {
    pub(super) by_vmid: SortedMap<'m>,
    pub(super) uses: Table<'m, Use>,
    pub(super) free: Table<'m, u32>,
    pub(super) free_count: usize,
}

impl VmidIndex<'_> {
    pub(super) fn index_of(&self, vmid: Vmid) -> Option<u32> {
        self.by_vmid.get(vmid.get())
    }

    pub(super) fn hold(&mut self, index: u32) {
        if let Some(used) = self.uses.get_mut(index as usize) {
            used.users.increment();
        }
    }
}
