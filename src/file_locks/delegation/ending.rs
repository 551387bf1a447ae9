//! The end of a delegation: the file comes back with its locks, or its holder is gone, and the deferred requests are
//! resumed.

use super::Delegation;
use super::table::{delegation_key, hash_key};
use crate::Vmid;
use crate::file_locks::quotas::{Charge, LOCKS};
use crate::file_locks::{LockTable, Owner, SpaceKind};
use crate::invariant::Count;
use crate::parts;
use crate::store::{NONE, Payer, Portion};
use crate::wire::{DelegatedLock, DelegatedLocks};

impl LockTable<'_> {
    /// Takes a file back from its delegation holder, with the locks on it. Returns false if the
    /// member does not hold the delegation, or if the locks are impossible; then it ends up without
    /// locks.
    pub fn return_delegation(
        &mut self,
        from: Vmid,
        number: u64,
        locks: DelegatedLocks<'_>,
    ) -> bool {
        let Some(file) = self.find_delegation(from, number) else {
            return false;
        };
        self.search.begin();
        if self
            .delegation_of(file)
            .is_some_and(|delegation| !delegation.is_recalled)
        {
            let hash = self.file_at(file).hash;
            self.delegations.contention.record_contention(hash, from);
        }
        let Some(payer) = self.end_delegation(file) else {
            return false;
        };
        let restore = |lock: DelegatedLock| {
            let owner = Owner::Process {
                vmid: from,
                pid: lock.pid,
            };
            let grantee = (owner, Charge::returned_by(from));
            let range = (lock.start, lock.end);
            let mine = self.find_holder(owner, file).unwrap_or(NONE);
            let overlaps = self.own(mine, range).is_some();
            let conflicts = self
                .find_conflict(file, SpaceKind::Ranges, range, lock.write, mine)
                .is_some();
            !overlaps && !conflicts && self.grant(file, grantee, range, lock.write).is_ok()
        };
        let is_right = locks.len() <= DelegatedLocks::MAX && locks.iter().all(restore);
        if !is_right {
            // Nobody else has record locks there yet.
            self.release_ranges(file);
        }
        self.begin_resuming(file, payer);
        self.release_closed();
        is_right
    }

    /// Ends the delegation of a member that is gone. If the file was recalled, the member gets no
    /// delegation any more.
    pub(in crate::file_locks) fn abandon_delegation(&mut self, file: u32) {
        let delegation = self.delegation_of(file);
        if let Some(delegation) = delegation.filter(|delegation| delegation.is_recalled) {
            self.delegations.overdue.add(delegation.to);
        }
        if let Some(payer) = self.end_delegation(file) {
            self.begin_resuming(file, payer);
        }
    }

    /// Ends the delegation: the file has no other locks yet, and the requests for it still wait. Returns who has
    /// paid for it.
    fn end_delegation(&mut self, file: u32) -> Option<Payer> {
        let delegation = self.delegation_of(file)?;
        let Delegation { to, number, .. } = delegation;
        let files = &self.files;
        let order = |file| delegation_key(files, file).cmp(&Some((to, number)));
        self.delegations
            .by_number
            .remove(hash_key(to, number), file, &order);
        self.delegations.count.decrement();
        if delegation.is_recalled {
            self.update_delegation(delegation.prev, |prev| prev.next = delegation.next);
            self.update_delegation(delegation.next, |next| next.prev = delegation.prev);
            if delegation.prev == NONE {
                self.delegations.first_recalled = delegation.next;
            }
            if delegation.next == NONE {
                self.delegations.last_recalled = delegation.prev;
            }
            self.delegations.outbox.remove(file);
        }
        self.update_delegation(file, |delegation| {
            (delegation.is_recalled, delegation.is_over) = (true, true);
            delegation.payer = Payer::NOBODY;
        });
        self.quotas
            .release(delegation.payer, LOCKS, DelegatedLocks::MAX);
        Some(delegation.payer)
    }

    /// Begins to resume the deferred requests of a file whose delegation has ended.
    fn begin_resuming(&mut self, file: u32, payer: Payer) {
        // The file is kept by the delegation, and charged to another user of it.
        self.recharge_file(file, payer);
        self.delegations.resuming.push(file);
        self.resume_portion(file, &mut Portion::new());
    }

    /// Resumes a portion of the deferred requests of a file whose delegation is over. The file is as any other
    /// when the last one is resumed.
    fn resume_portion(&mut self, file: u32, portion: &mut Portion) {
        if !self.resume_deferred(file, portion) {
            return;
        }
        self.delegations.resuming.remove(file);
        self.set_delegation(file, |delegation| *delegation = None);
        self.adjust_ref_count(file, -1);
        self.drop_file_if_unused(file);
    }

    /// Returns true if deferred requests are to be resumed.
    pub(in crate::file_locks) fn has_resuming(&self) -> bool {
        parts::DELEGATIONS && self.delegations.resuming.has_due()
    }

    /// Resumes a portion of the deferred requests.
    pub(in crate::file_locks) fn resume_next(&mut self) {
        let file = self.delegations.resuming.due().next();
        if let Some(file) = file.filter(|_| parts::DELEGATIONS) {
            self.resume_portion(file, &mut Portion::new());
        }
    }
}
