//! The ranges of a member that is gone, reclaimed in portions, since the table is behind a spinlock.

use super::Ranges;
use super::quotas::RANGES;
use crate::invariant::{Count, OrBroken};
use crate::store::{NONE, OwnerCursor};
use crate::{ID_MAX, Id, Vmid};

/// The greatest number of ranges that one call examines.
const MAX_STEPS: usize = 64;

/// The rest of the work has this bit until the ranges that the dead member owned are freed. The rest is then the
/// highest ID whose range it may still pay for.
const OWNED: u64 = 1 << 32;

impl Ranges<'_> {
    /// Returns what is left to do for [`Ranges::reclaim_portion`] at first.
    pub fn begin_reclaim(&mut self, owner: Vmid) -> u64 {
        let count = self.intervals.owner_cursor(owner.get()).remaining() as u64;
        OWNED.plus(count)
    }

    /// Reclaims a portion of the ranges of `owner`, which is gone, and then charges a portion of those
    /// that it gave away and still pays for to their owners. Returns what is left to do.
    pub fn reclaim_portion(&mut self, owner: Vmid, left: u64) -> u64 {
        self.reclaim_portion_but(owner, left, &|_| None)
    }

    /// Like [`Ranges::reclaim_portion`]. A range of one ID that `keep` returns a process for is that
    /// process's from now on.
    pub(in crate::leader) fn reclaim_portion_but(
        &mut self,
        owner: Vmid,
        left: u64,
        keep: &dyn Fn(Id) -> Option<Vmid>,
    ) -> u64 {
        let number = u32::try_from(left & (OWNED - 1)).or_broken(NONE);
        if left < OWNED {
            return self.recharge_portion(owner, number).into();
        }
        let mut sweep = OwnerCursor::resume(owner.get(), number as usize);
        let quotas = &mut self.quotas;
        let mut release = |payer| quotas.release(payer, RANGES, 1);
        if !self
            .intervals
            .remove_next(&mut sweep, MAX_STEPS, keep, &mut release)
        {
            return OWNED.plus(sweep.remaining() as u64);
        }
        if self.charge_of(owner) == 0 {
            return 0;
        }
        ID_MAX.into()
    }

    fn recharge_portion(&mut self, dead: Vmid, mut highest: u32) -> u32 {
        for _ in 0..MAX_STEPS {
            let Some(interval) = self.intervals.floor(highest) else {
                return 0;
            };
            if self.quotas.is_payer(interval.payer(), dead)
                && let Some(owner) = Vmid::new(interval.owner())
            {
                let payer = self.quotas.transfer(interval.payer(), owner, RANGES, 1);
                self.intervals.set_payer(interval, payer);
            }
            highest = interval.start().minus(1);
        }
        highest
    }
}
