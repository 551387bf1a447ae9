//! IDs that were given to a process which has not connected yet: usually its pid.
//!
//! The giver of an ID is responsible for it until then. If the giver ends first the ID is freed,
//! since such a process may never exist, and nothing else would free the ID. Only if another
//! process is known to start that process the other is responsible from then on.

use super::grants::{Grant, GrantKey, Grants};
use crate::store::{Arena, Digest, Image, Loader, MalformedImage, Saver};
use crate::{Id, Vmid};

/// The greatest number of entries, for any number of ranges.
const MAX_GRANTS: usize = 4096;

/// Each ID is in one grant at most.
pub(in crate::leader) struct PendingGrants<'m>(Grants<'m>);

impl Image for PendingGrants<'_> {
    fn save(&self, out: &mut Saver<'_>) {
        self.0.save(out);
    }

    fn load(&mut self, from: &mut Loader<'_>) -> Result<(), MalformedImage> {
        self.0.load(from)
    }

    fn clear_unused(&mut self) {
        self.0.clear_unused();
    }
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

    pub(in crate::leader) const fn bytes(ranges: usize, members: usize) -> usize {
        Grants::bytes(Self::capacity(ranges), members)
    }

    pub(in crate::leader) fn new(arena: &mut Arena<'m>, ranges: usize, members: usize) -> Self {
        let grants = Grants::new(arena, Self::capacity(ranges), members);
        PendingGrants(grants)
    }

    pub(in crate::leader) fn quotas(&self) -> &Grants<'m> {
        &self.0
    }

    /// Records that a process has left. What it has given is revoked later.
    pub(in crate::leader) fn on_left(&mut self, vmid: Vmid) {
        self.0.on_left(vmid);
    }

    /// Returns the number of table entries that were visited.
    #[cfg(debug_assertions)]
    pub(in crate::leader) fn steps(&self) -> u64 {
        self.0.steps()
    }

    pub(in crate::leader) fn complete_image(&mut self) -> bool {
        self.0.complete_image()
    }

    pub(in crate::leader) fn digest(&self, digest: &mut Digest) {
        self.0.digest(digest);
    }

    /// Records that `giver` gave `id` to `to`, if there is room.
    pub(in crate::leader) fn record(&mut self, giver: Vmid, id: Id, to: Vmid) {
        self.0.set(Grant {
            number: id,
            to: to.get(),
            giver: giver.get(),
        });
    }

    /// Returns the process that `giver` has given the ID to, if that has not connected.
    pub(in crate::leader) fn recipient(&self, giver: Vmid, id: Id) -> Option<Vmid> {
        let grant = self.0.first(GrantKey::Number, id)?;
        Vmid::new(grant.to).filter(|_| grant.giver == giver.get())
    }

    /// Returns true if there is room for another entry of the giver.
    pub(in crate::leader) fn has_room(&mut self, giver: Vmid) -> bool {
        self.0.has_room() && self.0.may_grow(giver)
    }

    /// Removes the entries of `to`, which has connected, or never will: it owns its IDs, or they
    /// are reclaimed with it, up to `limit`. `on_removed` gets each ID. True when that was all.
    pub(in crate::leader) fn confirm(
        &mut self,
        to: Vmid,
        limit: usize,
        mut on_removed: impl FnMut(Id),
    ) -> bool {
        for _ in 0..limit {
            let Some(grant) = self.0.first(GrantKey::To, to.get()) else {
                return true;
            };
            self.0.remove(grant.number);
            on_removed(grant.number);
        }
        self.0.first(GrantKey::To, to.get()).is_none()
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
        for _ in 0..limit {
            let Some(grant) = self.0.first(GrantKey::Giver, giver.get()) else {
                return true;
            };
            self.0.remove(grant.number);
            let Some(to) = Vmid::new(grant.to) else {
                continue;
            };
            if let Some(new_giver) =
                reclaim(grant.number, to).filter(|new_giver| *new_giver != giver)
            {
                self.record(new_giver, grant.number, to);
            }
        }
        false
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
        let mut memory = [MaybeUninit::uninit(); PendingGrants::bytes(RANGES, 0)];
        let mut pending_grants = PendingGrants::new(&mut Arena::new(&mut memory), RANGES, 0);
        let mut model: Model = [(0, 0); IDS];
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let (id, to, giver) = (rng.usize(1..IDS), rng.u32(2..8), rng.u32(2..8));
            match rng.u8(..8) {
                0 => {
                    pending_grants.confirm(vmid(to), usize::MAX, |_| ());
                    for given in model.iter_mut().filter(|(known, _)| *known == to) {
                        *given = (0, 0);
                    }
                }
                1 => assert_eq!(
                    revoke_all(&mut pending_grants, giver),
                    revoke_in_model(&mut model, giver)
                ),
                _ => {
                    if pending_grants.has_room(vmid(giver)) || model[id].0 != 0 {
                        model[id] = (to, giver);
                    }
                    pending_grants.record(vmid(giver), Id::try_from(id).unwrap(), vmid(to));
                }
            }
            let count = model.iter().filter(|(to, _)| *to != 0).count();
            assert_eq!(pending_grants.has_room(vmid(2)), count < ROOM);
            for (id, (to, giver)) in model.into_iter().enumerate() {
                let id = Id::try_from(id).unwrap();
                let recipient = Vmid::new(giver).and_then(|by| pending_grants.recipient(by, id));
                assert_eq!(recipient, Vmid::new(to));
            }
        }
    }

    #[test]
    fn grants_of_a_quarter_of_the_ranges_may_be_pending() {
        let rooms = [0, 1, 4, 5, 16_384, 16_388, 100_000].map(PendingGrants::capacity);
        assert_eq!(rooms, [0, 1, 1, 2, 4096, 4096, 4096]);
    }
}
