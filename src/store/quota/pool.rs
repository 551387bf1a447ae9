//! The rule by which the members share one table.

use super::number;
use crate::invariant::{Count, OrBroken};
use crate::store::entry;

/// How one table is shared.
#[derive(Clone, Copy, Hash)]
pub(super) struct Pool {
    /// The places that each member gets in any case.
    pub(super) reserve: u32,
    /// The places that all members share.
    pub(super) shared: u32,
    /// The number of shared places in use. Charges that were moved may make it greater than
    /// `shared`.
    pub(super) used: u32,
    /// The number of members that use shared places.
    pub(super) sharers: u32,
}

entry!(Pool {
    reserve,
    shared,
    used,
    sharers
});

impl Pool {
    pub(super) fn new(capacity: usize, members: usize) -> Pool {
        let reserve = (capacity / 4).checked_div(members).or_broken(0);
        let reserved = reserve.wrapping_mul(members);
        Pool {
            reserve: number(reserve),
            shared: number(capacity.minus(reserved)),
            used: 0,
            sharers: 0,
        }
    }

    /// Returns true if a member with that charge may have `count` more places.
    pub(super) fn may_grow(&self, charge: u32, count: u32) -> bool {
        let before = self.share(charge);
        let after = self.share(charge.plus(count));
        let sharers = self.sharers.plus((before == 0).into());
        let free = self.shared.max(self.used).minus(self.used).plus(before);
        let needed = u64::from(after).checked_mul(u64::from(sharers).plus(1));
        // A table that is too small for reserves still has a place for each that comes in time.
        let is_first = self.reserve == 0 && charge == 0 && count == 1 && self.used < self.shared;
        after == 0 || is_first || needed.is_some_and(|needed| needed <= free.into())
    }

    /// Returns true if the rule allows the last place of a member with that charge, if that place was charged after all
    /// others.
    pub(super) fn is_within(&self, charge: u32) -> bool {
        let share = u64::from(self.share(charge));
        let needed = share.checked_mul(u64::from(self.sharers).plus(1));
        let left = u64::from(self.shared)
            .plus(share)
            .checked_sub(self.used.into());
        let is_first = self.reserve == 0 && charge == 1 && self.used <= self.shared;
        share == 0
            || is_first
            || needed
                .zip(left)
                .is_some_and(|(needed, left)| needed <= left)
    }

    /// Returns the number of shared places that a member with that charge uses.
    pub(super) fn share(&self, charge: u32) -> u32 {
        charge.max(self.reserve).minus(self.reserve)
    }

    /// Records that the charge of a member has changed.
    pub(super) fn change(&mut self, before: u32, after: u32) {
        let (before, after) = (self.share(before), self.share(after));
        self.used = self.used.plus(after).minus(before);
        match (before, after) {
            (0, 1..) => self.sharers.increment(),
            (1.., 0) => self.sharers.decrement(),
            _ => {}
        }
    }
}
