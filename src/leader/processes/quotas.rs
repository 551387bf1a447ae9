//! The quota of the table of processes: which member each entry is charged to.
//!
//! A process is charged to itself, but to its parent while it starts, and as a zombie. While it starts it also
//! takes the parent's part of the processes that may live at once. A pid that only
//! names a group or a session is charged as one of its members is. The range of a dead process's pid is
//! charged as its entry is.

use super::{Entry, Life, Processes};
use crate::leader::Ranges;
use crate::store::{Payer, Quotas, payer_or_leader};
use crate::{Id, Vmid};

pub(super) const PROCESSES: usize = 0;
/// The places of living processes that those have which are being started.
pub(super) const STARTS: usize = 1;

impl Processes<'_> {
    /// Returns the memory of the quota for a family of at most `members`, in bytes.
    pub(in crate::leader) const fn quota_bytes(members: usize) -> usize {
        Quotas::bytes(members)
    }

    /// Returns the number of requests that were refused because of a quota.
    pub(in crate::leader) fn refused_by_quota(&self) -> u64 {
        self.quotas.refused()
    }

    /// Returns the number of entries that the member pays for.
    pub fn charge_of(&self, vmid: Vmid) -> usize {
        self.quotas.charge_of(vmid, PROCESSES)
    }

    /// Returns true if the charges agree with the table. It is slow, and meant for tests.
    pub(in crate::leader) fn check_quotas(&self) -> bool {
        let entries = self.entries.iter();
        let starting = entries.filter(|entry| entry.life == Life::Starting).count();
        self.quotas.check(&[self.len(), starting], &[])
    }

    /// Charges an entry to the member from now on.
    pub(super) fn charge_to(&mut self, slot: u32, vmid: Vmid) {
        let payer = self.payer(slot);
        if payer == Payer::NOBODY || self.quotas.is_payer(payer, vmid) {
            return;
        }
        let to = self.quotas.transfer(payer, vmid, PROCESSES, 1);
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            entry.payer = to;
            if entry.life == Life::Starting {
                self.quotas.transfer(payer, vmid, STARTS, 1);
            }
        }
    }

    fn payer(&self, slot: u32) -> Payer {
        let entry = self.entries.get(slot as usize);
        entry.map_or(Payer::NOBODY, |entry| entry.payer)
    }

    /// Charges an entry to another member if that of `dead` has paid for it: a starting process to its
    /// new parent, a name to a member of what it names; without `may_search` to the leader. Returns whether
    /// it has searched the table for that member.
    pub(super) fn recharge(
        &mut self,
        (slot, dead): (u32, Vmid),
        may_search: bool,
        ranges: &mut Ranges<'_>,
    ) -> bool {
        let payer = self.payer(slot);
        if !self.quotas.is_payer(payer, dead) {
            return false;
        }
        let Some(entry) = self.entries.get(slot as usize).copied() else {
            return false;
        };
        let is_starting = entry.life == Life::Starting;
        let user = if is_starting {
            let parent = self.find_by_pid(entry.parent);
            parent.and_then(|parent| Vmid::new(parent.vmid))
        } else if may_search {
            self.find_named_by(entry.pid, payer)
        } else {
            None
        };
        self.charge_to(slot, payer_or_leader(user));
        if entry.life == Life::Dead {
            ranges.charge_single(entry.pid, payer_or_leader(user));
        }
        !is_starting && may_search
    }

    /// Charges a pid that only names a group or a session as one of its members is charged.
    pub(super) fn charge_name(&mut self, pid: Id, ranges: &mut Ranges<'_>) {
        let Some(slot) = self.slot_of_pid(pid) else {
            return;
        };
        if self.quotas.is_on() {
            let user = payer_or_leader(self.find_named_by(pid, Payer::NOBODY));
            self.charge_to(slot, user);
            ranges.charge_single(pid, user);
        }
    }

    /// Returns the member that pays for a process in the group or session of that name, other than
    /// `but`.
    fn find_named_by(&self, pid: Id, but: Payer) -> Option<Vmid> {
        let is_named = |entry: &&Entry| {
            entry.pid != pid && (entry.group == pid || entry.session == pid) && entry.payer != but
        };
        self.quotas.member(self.each_entry().find(is_named)?.payer)
    }
}
