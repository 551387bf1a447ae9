//! IDs that were given to a process which has not come yet: its PID, as a rule.
//!
//! Whoever gave one answers for it until then. If the giver goes first the ID goes back, for there
//! may never be such a process: nothing else would free it. Only where another is known to start that
//! process does the other answer for it from then on.

use crate::error::Error;
use crate::store::{Arena, Table, bytes_for};
use crate::{Id, Vmid};

/// The most there can be, however many ranges there are.
const MOST: usize = 4096;

#[derive(Clone, Copy)]
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
pub(super) struct Promised<'m> {
    entries: Table<'m, Promise>,
    count: usize,
}

impl<'m> Promised<'m> {
    /// A quarter of the ranges.
    const fn capacity(ranges: usize) -> usize {
        let quarter = ranges.div_ceil(4);
        if quarter < MOST { quarter } else { MOST }
    }

    pub(super) const fn bytes(ranges: usize) -> usize {
        bytes_for::<Promise>(Self::capacity(ranges))
    }

    pub(super) fn new(arena: &mut Arena<'m>, ranges: usize) -> Result<Self, Error> {
        Ok(Promised {
            entries: arena.table(Self::capacity(ranges), |_| Ok(NOTHING))?,
            count: 0,
        })
    }

    /// `giver` gave `id` to `to`. Only if there is room.
    pub(super) fn note(&mut self, giver: Vmid, id: Id, to: Vmid) {
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

    /// Whether one more can be noted.
    pub(super) fn has_room(&self) -> bool {
        self.count < self.entries.len()
    }

    /// `to` has come, or never will: what it was given is its own, or goes with it.
    pub(super) fn settled(&mut self, to: Vmid) {
        let mut place = 0;
        while self
            .take(&mut place, |known| known.to == to.get())
            .is_some()
        {}
    }

    /// `giver` is gone: what it gave is handed to `take_back`, ID and owner, a number of them at
    /// most. That says who answers for it now; nobody, if it was taken back. True when that was all.
    pub(super) fn broken(
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
        let last = self.count.saturating_sub(1);
        used.swap(*place, last);
        self.count = last;
        Some(promise)
    }
}
