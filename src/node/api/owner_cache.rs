//! The owners of IDs that a process knows from its last requests.

use crate::{Id, Vmid};

/// The number of owners that a process caches.
const OWNERS: usize = if cfg!(loom) { 1 } else { 64 };

/// The cached owner of an ID.
#[derive(Clone, Copy)]
pub(in crate::node) struct KnownOwner {
    pub(in crate::node) owner: Vmid,
    /// The value of [`Node`]'s `forwarded` at a time when no forwarded signal for this owner was
    /// pending.
    pub(in crate::node) forwarded: u32,
}

/// The cache of the owners of IDs, as of this process's last request for each.
pub(crate) struct OwnerCache([(Id, Option<KnownOwner>); OWNERS]);

impl OwnerCache {
    pub(crate) const fn new() -> Self {
        OwnerCache([(0, None); OWNERS])
    }

    fn place(&mut self, id: Id) -> Option<&mut (Id, Option<KnownOwner>)> {
        let at = (id as usize).checked_rem(OWNERS)?;
        self.0.get_mut(at)
    }

    pub(in crate::node) fn get(&mut self, id: Id) -> Option<KnownOwner> {
        self.place(id)
            .filter(|known| known.0 == id)
            .and_then(|known| known.1)
    }

    pub(super) fn put(&mut self, id: Id, owner: Option<Vmid>) {
        let before = self.get(id);
        if let Some(place) = self.place(id) {
            let known = owner.map(|owner| KnownOwner {
                owner,
                forwarded: before
                    .filter(|before| before.owner == owner)
                    .map_or(0, |before| before.forwarded),
            });
            *place = (id, known);
        }
    }

    pub(super) fn set_forwarded(&mut self, id: Id, forwarded: u32) {
        if let Some((_, Some(known))) = self.place(id).filter(|known| known.0 == id) {
            known.forwarded = forwarded;
        }
    }
}
