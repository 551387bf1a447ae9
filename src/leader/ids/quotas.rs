//! The quota of the table of ranges: which member each range is charged to.
//!
//! A range is charged to its owner. An ID that was given to a process which has not connected is charged
//! to the giver until then, and afterwards, too, if the receiver's quota has no room for it. A zombie's
//! pid is charged to its parent, and a pid that only names a group or a session as the name is.

use super::Ranges;
use crate::store::{Interval, Payer};
use crate::{Id, Vmid};

pub(super) const RANGES: usize = 0;

impl Ranges<'_> {
    /// Returns the number of requests that were refused because of a quota.
    pub(in crate::leader) fn refused_by_quota(&self) -> u64 {
        self.quotas.refused()
    }

    /// Charges a range of one ID to its owner, which has connected, if its quota has room.
    pub(in crate::leader) fn charge_receiver(&mut self, id: Id, owner: Vmid) {
        if self.is_single(id, owner) && self.quotas.has_room(owner, RANGES, 1) {
            self.charge_single(id, owner);
        }
    }

    /// Charges a range of one ID to that member from now on. The charge is never refused.
    pub(in crate::leader) fn charge_single(&mut self, id: Id, to: Vmid) {
        if let Some(interval) = self.intervals.find(id)
            && interval.start() == interval.end()
        {
            self.charge(interval, to);
        }
    }

    /// Charges the interval to `to`, if it is charged to another process.
    pub(super) fn charge(&mut self, interval: Interval, to: Vmid) {
        if interval.payer() != Payer::NOBODY && !self.quotas.is_payer(interval.payer(), to) {
            let payer = self.quotas.transfer(interval.payer(), to, RANGES, 1);
            self.intervals.set_payer(interval, payer);
        }
    }

    /// Records that the member has left. Its ranges are reclaimed later.
    pub(in crate::leader) fn on_left(&mut self, vmid: Vmid) {
        self.quotas.on_left(vmid);
    }

    /// Returns true if the charges agree with the table. It is slow, and meant for tests.
    pub fn check_quotas(&self) -> bool {
        self.quotas.check(&[self.len()], &[RANGES])
    }

    /// Returns the number of ranges that the member pays for.
    pub fn charge_of(&self, vmid: Vmid) -> usize {
        self.quotas.charge_of(vmid, RANGES)
    }
}
