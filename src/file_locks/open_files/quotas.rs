//! The quotas of the open files. A reference that a member gave to another one is charged to the
//! giver until the receiver uses the open file: otherwise each member could fill the quota of others.

use super::{OpenFileTable, ReferenceKey};
use crate::Vmid;
use crate::store::{Payer, payer_or_leader};

pub(super) const OPEN_FILES: usize = 0;

impl OpenFileTable<'_> {
    pub(in crate::file_locks) fn refused_by_quota(&self) -> u64 {
        self.quotas.refused()
    }

    /// Charges a reference to the member from now on.
    pub(super) fn charge_to(&mut self, slot: u32, vmid: Vmid) {
        let payer = self.at(slot).payer;
        if payer == Payer::NOBODY || self.quotas.is_payer(payer, vmid) {
            return;
        }
        let payer = self.quotas.transfer(payer, vmid, OPEN_FILES, 1);
        if let Some(reference) = self.at_mut(slot) {
            reference.payer = payer;
        }
    }

    /// Charges a reference to another member if the one that has left has paid for it: to the member
    /// that has it, or to the leader if that has not joined.
    pub(in crate::file_locks) fn recharge(&mut self, slot: u32, left: Vmid) {
        let reference = *self.at(slot);
        if !self.quotas.is_payer(reference.payer, left) {
            return;
        }
        let user = reference.vmid.filter(|_| !reference.is_unjoined());
        self.charge_to(slot, payer_or_leader(user));
    }

    /// Returns the member that a reference to the open file is charged to, other than that of a member that
    /// has left.
    pub(in crate::file_locks) fn paying_member(&self, open_file: u64, left: Vmid) -> Option<Vmid> {
        let first = self.find_any(open_file)?;
        let other = if self.at(first).vmid == Some(left) {
            self.first_from(ReferenceKey {
                open_file,
                vmid: left.get().checked_add(1)?,
                by: 0,
                slot: 0,
            })?
        } else {
            first
        };
        self.quotas.member(self.at(other).payer)
    }

    /// Returns true if the charges agree with the table. It is slow, and meant for tests.
    pub(in crate::file_locks) fn check_quotas(&self) -> bool {
        self.quotas.check(&[self.slots.in_use()], &[])
    }

    pub(in crate::file_locks) fn charge_of(&self, vmid: Vmid) -> usize {
        self.quotas.charge_of(vmid, OPEN_FILES)
    }

    /// Records that the member has left.
    pub(in crate::file_locks) fn on_left(&mut self, vmid: Vmid) {
        self.quotas.on_left(vmid);
    }
}
