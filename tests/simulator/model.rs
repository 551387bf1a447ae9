//! What is known for certain about IDs, seen from outside.

use std::collections::{BTreeMap, BTreeSet};

use libos_ipc::wire::IdRange;

/// Who owns what, as far as answers have said it. An ID about which a request is under way that
/// could change its owner is not in it.
#[derive(Default)]
pub(crate) struct Model {
    /// Owner of an ID, and since which step that is certain.
    owners: BTreeMap<u32, (u32, u64)>,
    /// Ranges as their owner may release them.
    ranges: BTreeMap<u32, (IdRange, u32)>,
    vmids: BTreeSet<u32>,
}

impl Model {
    /// The leader says that this range is now `owner`'s.
    pub(crate) fn allocated(&mut self, range: IdRange, owner: u32, step: u64) {
        assert!(range.start >= 1 && range.start <= range.end, "{range:?}");
        assert!(range.end - range.start < 32, "{range:?} is longer than 32");
        for id in range.start..=range.end {
            let before = self.owners.insert(id, (owner, step));
            assert_eq!(before, None, "{id} was handed to {owner} and has an owner");
        }
        self.ranges.insert(range.start, (range, owner));
    }

    /// A range of `owner`, if it has one for certain.
    pub(crate) fn range_of(&self, owner: u32, choice: usize) -> Option<IdRange> {
        let own: Vec<_> = self
            .ranges
            .values()
            .filter(|(_, of)| *of == owner)
            .collect();
        (!own.is_empty()).then(|| own[choice % own.len()].0)
    }

    /// From now on the owner of these IDs is not certain.
    pub(crate) fn forget(&mut self, range: IdRange) {
        self.ranges.remove(&range.start);
        for id in range.start..=range.end {
            self.owners.remove(&id);
        }
    }

    /// The process is gone, or may be.
    pub(crate) fn forget_all_of(&mut self, owner: u32) {
        self.ranges.retain(|_, (_, of)| *of != owner);
        self.owners.retain(|_, (of, _)| *of != owner);
    }

    /// The leader has said that the ID of `from`'s range went to `to` (alive or not), or stayed.
    pub(crate) fn changed(
        &mut self,
        range: IdRange,
        id: u32,
        owners: (u32, Option<u32>),
        step: u64,
    ) {
        let (from, to) = owners;
        let parts = [
            (range.start, id - 1, Some(from)),
            (id, id, to),
            (id + 1, range.end, Some(from)),
        ];
        for (start, end, owner) in parts {
            if let Some(owner) = owner.filter(|_| start <= end) {
                self.allocated(IdRange { start, end }, owner, step);
            }
        }
    }

    /// The leader says who owned the ID at some time since `asked`.
    pub(crate) fn looked_up(&self, id: u32, owner: u32, asked: u64) {
        if let Some((known, since)) = self.owners.get(&id)
            && *since < asked
        {
            assert_eq!(owner, *known, "the owner of {id}");
        }
    }

    /// The leader hands out a VMID.
    pub(crate) fn new_vmid(&mut self, vmid: u32) {
        assert!(vmid > 1 && self.vmids.insert(vmid), "VMID {vmid} twice");
    }
}
