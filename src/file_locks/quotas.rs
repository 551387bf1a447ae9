//! The quotas of the lock tables: which member each lock, file and waiting request is charged to.
//!
//! A lock is charged to the member whose request set it, a waiting request to its sender. A file is
//! charged to the member that used it first; when that member does not use it any more, to another one
//! that does. A file costs as many places as its path takes pieces, and at least the part of the
//! pieces that each file has on average: so one quota bounds the files and the pieces. The places that are reserved for the locks of a
//! delegated file are charged to the holder of the delegation.

use super::paths::PathStore;
use super::{File, LockLimits, LockTable, Owner};
use crate::Vmid;
use crate::store::{Arena, NONE, Payer, Portion, Quotas, memory_sum, payer_or_leader};

pub(super) const LOCKS: usize = 0;
pub(super) const FILES: usize = 1;
pub(super) const WAITING: usize = 2;

/// How a new lock is charged.
#[derive(Clone, Copy)]
pub(super) struct Charge {
    pub(super) to: Vmid,
    /// A lock that comes back with a file takes one of the places that were charged for the
    /// delegation.
    is_paid: bool,
}

impl Charge {
    pub(super) fn to(from: Vmid) -> Charge {
        Charge {
            to: from,
            is_paid: false,
        }
    }

    pub(super) fn returned_by(from: Vmid) -> Charge {
        Charge {
            to: from,
            is_paid: true,
        }
    }
}

impl<'m> LockTable<'m> {
    /// Returns the memory of the quotas for a family of at most `members`, in bytes.
    pub(crate) const fn quota_bytes(members: usize) -> usize {
        memory_sum!(Quotas::bytes(members), Quotas::bytes(members))
    }

    /// Makes the quotas of the tables.
    pub(super) fn quotas(arena: &mut Arena<'m>, members: usize, limits: &LockLimits) -> Quotas<'m> {
        let paths = PathStore::chunks_for(limits.files);
        let tables = [limits.locks, paths, limits.waiting];
        Quotas::new(arena, members, &tables)
    }

    /// Returns the number of requests that were refused because of a quota.
    pub fn refused_by_quota(&self) -> u64 {
        let of_open_files = self.open_files.refused_by_quota();
        self.quotas.refused().wrapping_add(of_open_files)
    }

    /// Returns true if the quota of the member allows that many more locks. If not, the refusal is
    /// counted.
    pub(super) fn may_add_locks(&mut self, charge: Charge, count: usize) -> bool {
        charge.is_paid || self.quotas.may_grow(charge.to, LOCKS, count)
    }

    /// Charges a new lock, if the quota allows that. If not, the refusal is counted.
    #[inline]
    pub(super) fn charge_lock(&mut self, charge: Charge) -> Option<Payer> {
        if charge.is_paid {
            return Some(self.quotas.charge(charge.to, LOCKS, 1));
        }
        self.quotas.try_charge(charge.to, LOCKS, 1)
    }

    /// Charges a file to another of its users if `payer`, who ended one of its uses, has paid for it:
    /// to the holder of its delegation, the payer of one of its locks, or the sender of a request that
    /// waits.
    pub(super) fn recharge_file(&mut self, file: u32, payer: Payer) {
        if payer == Payer::NOBODY || self.file_at(file).payer != payer {
            return;
        }
        let of = *self.file_at(file);
        let [ranges, whole] = of.spaces;
        let roots = [ranges.reads, ranges.writes, whole.reads, whole.writes];
        let lock = roots.into_iter().find(|root| *root != NONE);
        let lock = lock.map(|lock| self.trees.at(lock).payer);
        // A request that is about to be served, or one that waits for the return of a delegation.
        let unblocked = self.first_candidate();
        let unblocked = unblocked.filter(|slot| self.waits.at(*slot).file == file);
        let deferred = Some(of.first_deferred).filter(|slot| *slot != NONE);
        let waiting = unblocked.or(deferred);
        let waiting = waiting.map(|slot| self.waits.at(slot).payer);
        let delegated = self
            .delegation_of(file)
            .filter(|delegation| !delegation.is_over);
        let delegated = delegated.map(|delegation| delegation.payer);
        let Some(user) = delegated.or(lock).or(waiting) else {
            if self.is_serving {
                // Requests for the file may be among those that are still to be tried.
                let user = self.quotas.transfer(payer, Vmid::LEADER, FILES, of.cost());
                self.change_file(file, |file| file.payer = user);
            }
            return;
        };
        if user == payer {
            return;
        }
        self.quotas.move_charge(payer, user, FILES, of.cost());
        self.change_file(file, |file| file.payer = user);
    }

    /// Like [`LockTable::recharge_file`], for an owner that has no lock on the file any more.
    pub(super) fn recharge_file_of(&mut self, owner: Owner, file: u32) {
        let of = self.file_at(file);
        let payer = of.payer;
        if !of.is_used() || payer == Payer::NOBODY {
            return;
        }
        let may_pay = match owner {
            Owner::Process { vmid, .. } => self.quotas.is_payer(payer, vmid),
            Owner::Open(_) | Owner::Flock(_) => true,
        };
        if may_pay {
            self.recharge_file(file, payer);
        }
    }

    /// Returns the number of slots in which [`LockTable::reclaim_charge`] may find locks.
    pub(super) fn locks_to_reclaim(&self) -> u32 {
        if self.quotas.is_on() {
            self.trees.slots().high_water()
        } else {
            0
        }
    }

    /// Charges a lock of an open file to another member that holds the open file, if the member that
    /// has left paid for it. Returns whether the portion had room for that.
    pub(super) fn reclaim_charge(&mut self, vmid: Vmid, lock: u32, portion: &mut Portion) -> bool {
        let payer = self.trees.at(lock).payer;
        if payer == Payer::NOBODY || !self.quotas.is_payer(payer, vmid) {
            return true;
        }
        let holder = self.trees.at(lock).holder;
        let (Owner::Open(open_file) | Owner::Flock(open_file)) = self.holder_at(holder).owner
        else {
            return true;
        };
        if !portion.take_entry() {
            return false;
        }
        let user = self.open_files.paying_member(open_file, vmid);
        let payer = self.quotas.transfer(payer, payer_or_leader(user), LOCKS, 1);
        self.trees.set_payer(lock, payer);
        true
    }

    fn files_in_use(&self) -> impl Iterator<Item = &File> {
        let files = self.files.iter();
        let files = files.take(self.file_slots.high_water() as usize);
        files.filter(|file| file.is_in_table())
    }

    /// Returns true if the charges agree with the tables. It is slow, and meant for tests.
    pub fn check_quotas(&self) -> bool {
        let locks = self.trees.slots().in_use();
        let in_use = [
            locks.wrapping_add(self.delegations.reserved()),
            self.files_in_use().map(File::cost).sum(),
            self.waits.slots.in_use(),
        ];
        // The answer to a request of a member that has left may not be taken yet.
        self.quotas.check(&in_use, &[WAITING]) && self.open_files.check_quotas()
    }

    /// Returns the number of locks, files, waiting requests and open files that the member pays
    /// for.
    pub fn charges_of(&self, vmid: Vmid) -> [usize; 4] {
        let of_table = |table| self.quotas.charge_of(vmid, table);
        let files = self.files_in_use();
        let files = files.filter(|file| self.quotas.member(file.payer) == Some(vmid));
        let open_files = self.open_files.charge_of(vmid);
        [
            of_table(LOCKS),
            files.count(),
            of_table(WAITING),
            open_files,
        ]
    }
}
