//! Releases in portions. A member may have as many locks as the table holds, and the table is behind
//! a spinlock: so the end of an owner, of an open file or of a member is applied in portions,
//! between which other requests are served. Each portion serves the requests that it unblocks.

use super::waiting_request::RequestState;
use super::{LockTable, Owner};
use crate::error::Errno;
use crate::invariant::{Count, OrBroken};
use crate::store::{NONE, Portion};
use crate::{Id, Vmid};

impl LockTable<'_> {
    /// Releases all locks of a process of the member, and ends its waiting requests with `ESRCH`.
    pub fn release_process(&mut self, vmid: Vmid, pid: Id) {
        while !self.release_process_portion(vmid, pid) {}
    }

    /// Like [`LockTable::release_process`], but only a portion. Returns whether that was all.
    pub fn release_process_portion(&mut self, vmid: Vmid, pid: Id) -> bool {
        let owner = Owner::Process { vmid, pid };
        self.search.begin();
        let mut portion = Portion::new();
        let is_all = self.cancel_requests_of(owner, Errno::ESRCH, &mut portion)
            && self.release_owner(owner, &mut portion);
        self.release_closed();
        is_all
    }

    /// Records that the member has closed the open file. The locks of the open file are released
    /// with its last holder. A request of the member that waits for a lock of the open file
    /// continues, like a system call in another thread; a lock that it gets is released at once if
    /// no other member has the open file.
    pub fn close_open_file(&mut self, vmid: Vmid, open_file: u64) {
        while !self.close_open_file_portion(vmid, open_file) {}
    }

    /// Like [`LockTable::close_open_file`], but releases only a portion of the locks. Returns
    /// whether the open file is closed: the member holds it until its last lock is released.
    pub fn close_open_file_portion(&mut self, vmid: Vmid, open_file: u64) -> bool {
        self.search.begin();
        let is_all = !self.open_files.is_last_holder(open_file, vmid)
            || self.release_open_file(open_file, &mut Portion::new());
        if is_all && self.open_files.close(open_file, vmid) {
            self.release_open_file(open_file, &mut Portion::whole());
        }
        self.release_closed();
        is_all
    }

    /// Releases everything that only the member held, and drops its waiting requests. The caller
    /// has found the member gone.
    pub fn reclaim(&mut self, vmid: Vmid) {
        let mut left = u64::MAX;
        while left > 0 {
            left = self.reclaim_portion(vmid, left, &|_| false);
        }
    }

    /// Like [`LockTable::reclaim`], but only a portion: the caller begins with `u64::MAX`, and goes
    /// on with what is returned until that is 0. `is_abandoned` says of a child that inherited an
    /// open file from the member, and has not joined, that it will not come.
    ///
    /// The slots of the waiting requests, of the references to open files, of the holders, of the locks
    /// and of the files are counted as if they were one table, which is gone through from its end to its start.
    pub fn reclaim_portion(
        &mut self,
        vmid: Vmid,
        left: u64,
        is_abandoned: &dyn Fn(Vmid) -> bool,
    ) -> u64 {
        self.search.begin();
        let mut portion = Portion::new();
        let tables = [
            (4_u64, self.waits.slots.high_water()),
            (3, self.open_files.high_water()),
            (2, self.holder_slots.high_water()),
            (1, self.locks_to_reclaim()),
            (0, self.file_slots.high_water()),
        ];
        let mut left = left;
        for (number, high_water) in tables {
            // Each table has a place for 2³² slots, so one that grows meanwhile moves no other.
            let first = number << 32;
            let mut slots = u64::from(high_water).min(left.saturating_sub(first));
            while let Some(slot) = slots.checked_sub(1) {
                let at = u32::try_from(slot).or_broken(NONE);
                let is_done = portion.take_slot()
                    && match number {
                        4 => self.reclaim_request(vmid, at, &mut portion),
                        3 => self.reclaim_reference(vmid, at, is_abandoned, &mut portion),
                        2 => self.reclaim_holder(vmid, at, &mut portion),
                        1 => self.reclaim_charge(vmid, at, &mut portion),
                        _ => self.reclaim_delegation(vmid, at, &mut portion),
                    };
                if !is_done {
                    self.release_closed();
                    return first.plus(slots);
                }
                slots = slot;
            }
            left = left.min(first);
        }
        self.release_closed();
        0
    }

    /// Records that the member has left. All portions of [`LockTable::reclaim_portion`] were applied, and it
    /// was given nothing meanwhile.
    pub fn on_left(&mut self, vmid: Vmid) {
        self.quotas.on_left(vmid);
        self.open_files.on_left(vmid);
    }

    fn reclaim_request(&mut self, vmid: Vmid, slot: u32, portion: &mut Portion) -> bool {
        let waiting = *self.waits.at(slot);
        let waits = matches!(
            waiting.state,
            RequestState::Waiting | RequestState::Deferred
        );
        if !waits || waiting.from != vmid {
            return true;
        }
        if !portion.take_entry() {
            return false;
        }
        self.unlink(slot);
        self.free_request(slot);
        self.drop_file_if_unused(waiting.file);
        true
    }

    fn reclaim_reference(
        &mut self,
        vmid: Vmid,
        slot: u32,
        is_abandoned: &dyn Fn(Vmid) -> bool,
        portion: &mut Portion,
    ) -> bool {
        let Some(open_file) = self.open_files.reference_of(vmid, slot, is_abandoned) else {
            self.open_files.recharge(slot, vmid);
            return true;
        };
        if self.open_files.is_last(slot) && !self.release_open_file(open_file, portion) {
            return false;
        }
        portion.take_entry() && {
            self.open_files.remove(slot);
            true
        }
    }

    fn reclaim_holder(&mut self, vmid: Vmid, slot: u32, portion: &mut Portion) -> bool {
        let holder = *self.holder_at(slot);
        let is_its = matches!(holder.owner, Owner::Process { vmid: of, .. } if of == vmid);
        holder.file == NONE || !is_its || self.release_holder(slot, portion)
    }

    fn reclaim_delegation(&mut self, vmid: Vmid, file: u32, portion: &mut Portion) -> bool {
        let delegation = self.delegation_of(file);
        if delegation.is_none_or(|delegation| delegation.to != vmid || delegation.is_over) {
            let payer = self.file_at(file).payer;
            if self.quotas.is_payer(payer, vmid) {
                self.recharge_file(file, payer);
            }
            return true;
        }
        portion.take_entry() && {
            self.abandon_delegation(file);
            true
        }
    }
}
