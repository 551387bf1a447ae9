//! The quotas of the server's tables. A client is charged to its process; a handle, with the memory for
//! its value, to the process that opened it first, and when that closes it, to another one that has it
//! open.

use super::Server;
use crate::Vmid;
use crate::store::{NONE, Payer, Quotas};

pub(super) const HANDLES: usize = 0;
pub(super) const CLIENTS: usize = 1;

impl Server<'_> {
    /// Returns the memory of the quotas for a family of at most `members`, in bytes.
    pub(crate) const fn quota_bytes(members: usize) -> usize {
        Quotas::bytes(members)
    }

    /// Returns the number of requests that were refused because of a quota.
    pub fn refused_by_quota(&self) -> u64 {
        self.quotas.refused()
    }

    /// Returns true if the quotas of the process allow one more client, and one more handle if that
    /// is new. If not, the refusal is counted.
    pub(super) fn may_add_client(&mut self, vmid: Vmid, is_new: bool) -> bool {
        self.quotas.may_grow(vmid, CLIENTS, 1)
            && (!is_new || self.quotas.may_grow(vmid, HANDLES, 1))
    }

    /// Charges the handle to another of its clients if `payer`, which has closed it, has paid for it.
    pub(super) fn recharge_handle(&mut self, handle: u32, payer: Payer) {
        let Some(of) = self.handle(handle).filter(|of| of.payer == payer) else {
            return;
        };
        let client = of.clients;
        if payer == Payer::NOBODY || client == NONE {
            return;
        }
        let next = self.client(client).payer;
        self.quotas.move_charge(payer, next, HANDLES, 1);
        self.update_handle(handle, |handle| handle.payer = next);
    }

    /// Returns the number of handles and of clients that the process pays for.
    pub fn charges_of(&self, vmid: Vmid) -> [usize; 2] {
        [HANDLES, CLIENTS].map(|table| self.quotas.charge_of(vmid, table))
    }

    /// Returns true if the charges agree with the tables. It is slow, and meant for tests.
    pub fn check_quotas(&self) -> bool {
        let in_use = [self.handle_slots.in_use(), self.client_slots.in_use()];
        self.quotas.check(&in_use, &[])
    }
}
