//! IDs that were given to a process which has not connected yet: usually its pid.
//!
//! The giver of an ID is responsible for it until then. If the giver ends first the ID is freed,
//! since such a process may never exist, and nothing else would free the ID. Only if another
//! process is known to start that process the other is responsible from then on.

use crate::error::Error;
use crate::invariant::Count;
use crate::store::{Arena, Digest, Table, bytes_for};
use crate::{Id, Vmid};

/// The greatest number of entries, for any number of ranges.
const MAX_GRANTS: usize = 4096;

#[derive(Clone, Copy, Hash)]
struct PendingGrant {
    id: Id,
    to: u32,
    giver: u32,
}

const EMPTY: PendingGrant = PendingGrant {
    id: 0,
    to: 0,
    giver: 0,
};

/// The first `count` entries are in use, in no order; each ID is in one at most.
pub(in crate::leader) struct PendingGrants<'m> {
    entries: Table<'m, PendingGrant>,
    count: usize,
}

impl<'m> PendingGrants<'m> {
    /// Returns the number of entries: a quarter of the ranges.
    const fn capacity(ranges: usize) -> usize {
        let quarter = ranges.div_ceil(4);
        if quarter < MAX_GRANTS {
            quarter
        } else {
            MAX_GRANTS
        }
    }

    pub(in crate::leader) const fn bytes(ranges: usize) -> usize {
        bytes_for::<PendingGrant>(Self::capacity(ranges))
    }

    pub(in crate::leader) fn new(arena: &mut Arena<'m>, ranges: usize) -> Result<Self, Error> {
        Ok(PendingGrants {
            entries: arena.alloc_table(Self::capacity(ranges), |_| Ok(EMPTY))?,
            count: 0,
        })
    }

    pub(in crate::leader) fn digest(&self, digest: &mut Digest) {
        digest.add_all(self.entries.iter().take(self.count));
    }

    /// Records that `giver` gave `id` to `to`, if there is room.
    pub(in crate::leader) fn record(&mut self, giver: Vmid, id: Id, to: Vmid) {
        let used = self.entries.iter().take(self.count);
        let slot = used.enumerate().find(|(_, known)| known.id == id);
        let slot = slot.map_or(self.count, |(slot, _)| slot);
        if let Some(entry) = self.entries.get_mut(slot) {
            *entry = PendingGrant {
                id,
                to: to.get(),
                giver: giver.get(),
            };
            self.count = self.count.max(slot.plus(1));
        }
    }

    /// Returns the process that `giver` has given the ID to, if that has not connected.
    pub(in crate::leader) fn recipient(&self, giver: Vmid, id: Id) -> Option<Vmid> {
        let mut used = self.entries.iter().take(self.count);
        let grant = used.find(|known| known.id == id && known.giver == giver.get())?;
        Vmid::new(grant.to)
    }

    /// Returns true if there is room for another entry.
    pub(in crate::leader) fn has_room(&self) -> bool {
        self.count < self.entries.len()
    }

    /// Removes the entries of `to`, which has connected, or never will: it owns its IDs, or they
    /// are reclaimed with it.
    pub(in crate::leader) fn confirm(&mut self, to: Vmid) {
        let mut slot = 0;
        while self
            .remove_next(&mut slot, |known| known.to == to.get())
            .is_some()
        {}
    }

    /// Removes the entries of `giver`, which is gone, up to `limit`. `reclaim` gets the ID and its
    /// owner, and returns the process that is responsible for the ID now; none if the ID was freed.
    /// True when that was all.
    pub(in crate::leader) fn revoke(
        &mut self,
        giver: Vmid,
        limit: usize,
        mut reclaim: impl FnMut(Id, Vmid) -> Option<Vmid>,
    ) -> bool {
        let mut slot = 0;
        for _ in 0..limit {
            let Some(grant) = self.remove_next(&mut slot, |known| known.giver == giver.get())
            else {
                return true;
            };
            let Some(to) = Vmid::new(grant.to) else {
                continue;
            };
            if let Some(new_giver) = reclaim(grant.id, to).filter(|new_giver| *new_giver != giver) {
                self.record(new_giver, grant.id, to);
            }
        }
        false
    }

    /// Removes the next entry that matches, from `slot` on, which is set to its place.
    fn remove_next(
        &mut self,
        slot: &mut usize,
        fits: impl Fn(&PendingGrant) -> bool,
    ) -> Option<PendingGrant> {
        let used = self.entries.get_mut(..self.count)?;
        let found = used.iter().skip(*slot).position(fits)?;
        *slot = slot.plus(found);
        let grant = used.get(*slot).copied()?;
        // The last entry takes its place.
        if let (Some(last), Some(free)) = (used.last().copied(), used.get_mut(*slot)) {
            *free = last;
        }
        self.count.decrement();
        Some(grant)
    }
}

#[cfg(test)]
mod tests {
    use core::mem::MaybeUninit;

    use super::*;

    const RANGES: usize = 30;
    const ROOM: usize = 8;
    const IDS: usize = 12;

    /// The receiver and the giver of each ID; 0 for none.
    type Model = [(u32, u32); IDS];

    fn vmid(number: u32) -> Vmid {
        Vmid::new(number).unwrap()
    }

    /// Returns the process that is responsible for an ID when its giver is gone.
    fn new_giver(id: usize) -> Option<Vmid> {
        id.is_multiple_of(3).then_some(vmid(7))
    }

    /// Revokes all grants of the giver. Returns the freed IDs, with their owners.
    fn revoke_all(pending_grants: &mut PendingGrants<'_>, giver: u32) -> [u32; IDS] {
        let mut back = [0; IDS];
        let mut reclaim = |id: Id, to: Vmid| {
            let id = id as usize;
            if new_giver(id).is_none() {
                assert_eq!(back[id], 0, "twice");
                back[id] = to.get();
            }
            new_giver(id)
        };
        while !pending_grants.revoke(vmid(giver), 2, &mut reclaim) {}
        back
    }

    /// The same in the model. A giver that is gone is not responsible for its own IDs.
    fn revoke_in_model(model: &mut Model, giver: u32) -> [u32; IDS] {
        let mut back = [0; IDS];
        for (id, given) in model.iter_mut().enumerate() {
            let (to, by) = *given;
            if to == 0 || by != giver {
                continue;
            }
            let new_giver = new_giver(id).map(Vmid::get);
            back[id] = if new_giver.is_none() { to } else { 0 };
            *given = match new_giver.filter(|new_giver| *new_giver != giver) {
                Some(new_giver) => (to, new_giver),
                None => (0, 0),
            };
        }
        back
    }

    #[test]
    fn pending_grant_belongs_to_the_last_giver() {
        let mut memory = [MaybeUninit::uninit(); PendingGrants::bytes(RANGES)];
        let mut pending_grants = PendingGrants::new(&mut Arena::new(&mut memory), RANGES).unwrap();
        let mut model: Model = [(0, 0); IDS];
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let (id, to, giver) = (rng.usize(1..IDS), rng.u32(2..8), rng.u32(2..8));
            match rng.u8(..8) {
                0 => {
                    pending_grants.confirm(vmid(to));
                    for given in model.iter_mut().filter(|(known, _)| *known == to) {
                        *given = (0, 0);
                    }
                }
                1 => assert_eq!(
                    revoke_all(&mut pending_grants, giver),
                    revoke_in_model(&mut model, giver)
                ),
                _ => {
                    if pending_grants.has_room() || model[id].0 != 0 {
                        model[id] = (to, giver);
                    }
                    pending_grants.record(vmid(giver), Id::try_from(id).unwrap(), vmid(to));
                }
            }
            let count = model.iter().filter(|(to, _)| *to != 0).count();
            assert_eq!(
                (pending_grants.count, pending_grants.has_room()),
                (count, count < ROOM)
            );
        }
    }

    #[test]
    fn grants_of_a_quarter_of_the_ranges_may_be_pending() {
        let rooms = [0, 1, 4, 5, 16_384, 16_388, 100_000].map(PendingGrants::capacity);
        assert_eq!(rooms, [0, 1, 1, 2, 4096, 4096, 4096]);
    }
}
