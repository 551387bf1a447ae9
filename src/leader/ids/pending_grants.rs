//! IDs that were given to a process which has not come yet: its PID, as a rule.
//!
//! Whoever gave one answers for it until then. If the giver goes first the ID goes back, for there
//! may never be such a process: nothing else would free it. Only where another is known to start that
//! process does the other answer for it from then on.

use crate::error::Error;
use crate::store::{Arena, Digest, Table, bytes_for};
use crate::{Id, Vmid};

/// The most there can be, however many ranges there are.
const MOST: usize = 4096;

#[derive(Clone, Copy, Hash)]
struct Promise {
    id: Id,
    to: u32,
    giver: u32,
}

const NOTHING: Promise = Promise {
    id: 0,
    to: 0,
    giver: 0,
};

/// The first `count` entries are in use, in no order; each ID is in one at most.
pub(in crate::leader) struct Promised<'m> {
    entries: Table<'m, Promise>,
    count: usize,
}

impl<'m> Promised<'m> {
    /// A quarter of the ranges.
    const fn capacity(ranges: usize) -> usize {
        let quarter = ranges.div_ceil(4);
        if quarter < MOST { quarter } else { MOST }
    }

    pub(in crate::leader) const fn bytes(ranges: usize) -> usize {
        bytes_for::<Promise>(Self::capacity(ranges))
    }

    pub(in crate::leader) fn new(arena: &mut Arena<'m>, ranges: usize) -> Result<Self, Error> {
        Ok(Promised {
            entries: arena.alloc_table(Self::capacity(ranges), |_| Ok(NOTHING))?,
            count: 0,
        })
    }

    pub(in crate::leader) fn digest(&self, digest: &mut Digest) {
        digest.add_all(self.entries.iter().take(self.count));
    }

    /// `giver` gave `id` to `to`. Only if there is room.
    pub(in crate::leader) fn note(&mut self, giver: Vmid, id: Id, to: Vmid) {
        let used = self.entries.iter().take(self.count);
        let place = used.enumerate().find(|(_, known)| known.id == id);
        let place = place.map_or(self.count, |(place, _)| place);
        if let Some(entry) = self.entries.get_mut(place) {
            *entry = Promise {
                id,
                to: to.get(),
                giver: giver.get(),
            };
            self.count = self.count.max(place.saturating_add(1));
        }
    }

    /// To whom that member has given the ID, if that one has not come.
    pub(in crate::leader) fn receiver(&self, giver: Vmid, id: Id) -> Option<Vmid> {
        let mut used = self.entries.iter().take(self.count);
        let promise = used.find(|known| known.id == id && known.giver == giver.get())?;
        Vmid::new(promise.to)
    }

    /// Whether one more can be noted.
    pub(in crate::leader) fn has_room(&self) -> bool {
        self.count < self.entries.len()
    }

    /// `to` has come, or never will: what it was given is its own, or goes with it.
    pub(in crate::leader) fn settled(&mut self, to: Vmid) {
        let mut place = 0;
        while self
            .take(&mut place, |known| known.to == to.get())
            .is_some()
        {}
    }

    /// `giver` is gone: what it gave is handed to `take_back`, ID and owner, a number of them at
    /// most. That says who answers for it now; nobody, if it was taken back. True when that was all.
    pub(in crate::leader) fn broken(
        &mut self,
        giver: Vmid,
        most: usize,
        mut take_back: impl FnMut(Id, Vmid) -> Option<Vmid>,
    ) -> bool {
        let mut place = 0;
        for _ in 0..most {
            let Some(promise) = self.take(&mut place, |known| known.giver == giver.get()) else {
                return true;
            };
            let Some(to) = Vmid::new(promise.to) else {
                continue;
            };
            if let Some(heir) = take_back(promise.id, to).filter(|heir| *heir != giver) {
                self.note(heir, promise.id, to);
            }
        }
        false
    }

    /// Takes out the next that fits, from `place` on, which moves there.
    fn take(&mut self, place: &mut usize, fits: impl Fn(&Promise) -> bool) -> Option<Promise> {
        let used = self.entries.get_mut(..self.count)?;
        let found = used.iter().skip(*place).position(fits)?;
        *place = place.saturating_add(found);
        let promise = used.get(*place).copied()?;
        // The last one takes its place.
        if let (Some(last), Some(free)) = (used.last().copied(), used.get_mut(*place)) {
            *free = last;
        }
        self.count = self.count.saturating_sub(1);
        Some(promise)
    }
}

#[cfg(test)]
mod tests {
    use core::mem::MaybeUninit;

    use super::*;

    const RANGES: usize = 30;
    const ROOM: usize = 8;
    const IDS: usize = 12;

    /// To whom each ID was given, and by whom; 0 for none.
    type Model = [(u32, u32); IDS];

    fn vmid(number: u32) -> Vmid {
        Vmid::new(number).unwrap()
    }

    /// Who answers for an ID when its giver is gone.
    fn heir(id: usize) -> Option<Vmid> {
        id.is_multiple_of(3).then_some(vmid(7))
    }

    /// Has the giver go: what was taken back, and from whom.
    fn break_all(promised: &mut Promised<'_>, giver: u32) -> [u32; IDS] {
        let mut back = [0; IDS];
        let mut take_back = |id: Id, to: Vmid| {
            let id = id as usize;
            if heir(id).is_none() {
                assert_eq!(back[id], 0, "twice");
                back[id] = to.get();
            }
            heir(id)
        };
        while !promised.broken(vmid(giver), 2, &mut take_back) {}
        back
    }

    /// The same in the model. Who goes is no heir of its own.
    fn break_model(model: &mut Model, giver: u32) -> [u32; IDS] {
        let mut back = [0; IDS];
        for (id, given) in model.iter_mut().enumerate() {
            let (to, by) = *given;
            if to == 0 || by != giver {
                continue;
            }
            let heir = heir(id).map(Vmid::get);
            back[id] = if heir.is_none() { to } else { 0 };
            *given = match heir.filter(|heir| *heir != giver) {
                Some(heir) => (to, heir),
                None => (0, 0),
            };
        }
        back
    }

    #[test]
    fn each_id_is_answered_for_by_whoever_gave_it_last() {
        let mut memory = [MaybeUninit::uninit(); Promised::bytes(RANGES)];
        let mut promised = Promised::new(&mut Arena::new(&mut memory), RANGES).unwrap();
        let mut model: Model = [(0, 0); IDS];
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let (id, to, giver) = (rng.usize(1..IDS), rng.u32(2..8), rng.u32(2..8));
            match rng.u8(..8) {
                0 => {
                    promised.settled(vmid(to));
                    for given in model.iter_mut().filter(|(known, _)| *known == to) {
                        *given = (0, 0);
                    }
                }
                1 => assert_eq!(
                    break_all(&mut promised, giver),
                    break_model(&mut model, giver)
                ),
                _ => {
                    if promised.has_room() || model[id].0 != 0 {
                        model[id] = (to, giver);
                    }
                    promised.note(vmid(giver), Id::try_from(id).unwrap(), vmid(to));
                }
            }
            let count = model.iter().filter(|(to, _)| *to != 0).count();
            assert_eq!((promised.count, promised.has_room()), (count, count < ROOM));
        }
    }

    #[test]
    fn a_quarter_of_the_ranges_may_be_promised() {
        let rooms = [0, 1, 4, 5, 16_384, 16_388, 100_000].map(Promised::capacity);
        assert_eq!(rooms, [0, 1, 1, 2, 4096, 4096, 4096]);
    }
}
