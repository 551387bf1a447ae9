//! Delegations: while a single member uses a file's record locks, that member decides on them
//! itself.
//!
//! The term is that of `NFSv4`. The leader may delegate a file whose ranges are unused to the
//! member that requests a lock there. The leader then holds no record locks of the file itself: it
//! defers every other request for the file, recalls the delegation, and resumes the requests when
//! the member has returned the file with its locks or is gone. The leader reserves slots for the
//! locks of each delegation, so that a return always finds room.

use super::contention::Contention;
use super::overdue::OverdueMembers;
use crate::Vmid;
use crate::error::Errno;
use crate::file_locks::quotas::{Charge, LOCKS};
use crate::file_locks::table::File;
use crate::file_locks::{LockLimits, LockTable, Owner, SetOutcome, SpaceKind};
use core::hash::Hash;

use crate::invariant::{Count, OrBroken};
use crate::parts;
use crate::store::{
    Arena, Digest, Digested, HashIndex, NONE, Payer, Portion, Table, TransmitQueue, entry, hash64,
    image, list_length, memory_sum,
};
use crate::wire::{DelegatedLock, DelegatedLocks, FileLock, LockFamily, LockKind};

/// The delegation of a file.
#[derive(Clone, Copy, Hash)]
pub(in crate::file_locks) struct Delegation {
    pub(in crate::file_locks) to: Vmid,
    /// The number by which the holder identifies the delegation.
    pub(in crate::file_locks) number: u64,
    pub(in crate::file_locks) is_recalled: bool,
    /// The file is back, or its holder is gone. Only deferred requests are still to be resumed, before
    /// other requests are served.
    pub(in crate::file_locks) is_over: bool,
    /// The number of the recall; 0 for none.
    pub(in crate::file_locks) recall: u64,
    pub(in crate::file_locks) prev: u32,
    pub(in crate::file_locks) next: u32,
    /// The payer of the slots that are reserved for the return.
    pub(in crate::file_locks) payer: Payer,
}

entry!(Delegation {
    to,
    number,
    is_recalled,
    is_over,
    recall,
    prev,
    next,
    payer,
});

/// The state of all delegations together.
pub(in crate::file_locks) struct DelegationTable<'m> {
    by_number: HashIndex<'m>,
    count: usize,
    peak: usize,
    /// The most delegations that the leader may grant at once.
    limit: usize,
    /// The recalled files, the oldest recall first.
    pub(in crate::file_locks) first_recalled: u32,
    pub(in crate::file_locks) last_recalled: u32,
    /// The files whose recall is still to be sent.
    pub(in crate::file_locks) outbox: TransmitQueue<'m>,
    /// The files whose delegation is over and whose deferred requests are still to be resumed.
    resuming: TransmitQueue<'m>,
    /// The number of the last recall.
    pub(in crate::file_locks) last_recall: u64,
    pub(in crate::file_locks) contention: Digested<Contention<'m>>,
    overdue: OverdueMembers<'m>,
}

image!(DelegationTable<'_> {
    fields { count, peak, first_recalled, last_recalled, last_recall }
    parts { outbox, resuming, contention, overdue }
    omitted { by_number, limit }
});

impl<'m> DelegationTable<'m> {
    pub(in crate::file_locks) const fn bytes(files: usize) -> usize {
        memory_sum!(
            HashIndex::bytes(files),
            TransmitQueue::bytes(files),
            TransmitQueue::bytes(files),
            Contention::bytes(files),
            OverdueMembers::bytes(files)
        )
    }

    /// The number of entries that were visited.
    #[cfg(debug_assertions)]
    pub(in crate::file_locks) fn steps(&self) -> u64 {
        self.by_number.steps().wrapping_add(self.contention.steps())
    }

    pub(in crate::file_locks) fn new(arena: &mut Arena<'m>, limits: &LockLimits) -> Self {
        let by_locks = limits.locks.checked_div(DelegatedLocks::MAX).unwrap_or(0);
        DelegationTable {
            by_number: HashIndex::new(arena, limits.files),
            count: 0,
            peak: 0,
            // Half of the table stays for members without delegations.
            limit: by_locks.min(limits.files) / 2,
            first_recalled: NONE,
            last_recalled: NONE,
            outbox: TransmitQueue::new(arena, limits.files),
            resuming: TransmitQueue::new(arena, limits.files),
            last_recall: 0,
            contention: Digested::new(Contention::new(arena, limits.files)),
            overdue: OverdueMembers::new(arena, limits.files),
        }
    }

    pub(in crate::file_locks) fn digest(&self, digest: &mut Digest) {
        (self.count, self.peak, self.last_recall).hash(digest);
        self.outbox.digest(digest);
        self.resuming.digest(digest);
        (self.first_recalled, self.last_recalled).hash(digest);
        self.contention.digest(digest, Contention::digest);
        self.overdue.digest(digest);
    }

    /// The number of lock slots that are reserved for returns.
    pub(in crate::file_locks) fn reserved(&self) -> usize {
        self.count
            .checked_mul(DelegatedLocks::MAX)
            .or_broken(usize::MAX)
    }
}

/// The key of the file's delegation: its holder and its number.
fn delegation_key(files: &Table<'_, File>, file: u32) -> Option<(Vmid, u64)> {
    let delegation = files.get(file as usize)?.delegation?;
    Some((delegation.to, delegation.number))
}

fn hash_key(to: Vmid, number: u64) -> u64 {
    hash64(number.rotate_left(32) ^ u64::from(to.get()))
}

impl LockTable<'_> {
    /// Makes what is not in an image of the delegations. Returns false if the image was none.
    pub(in crate::file_locks) fn complete_delegations(&mut self) -> bool {
        let files = &self.files;
        let next = |file: u32| Some(files.get(file as usize)?.delegation?.next);
        let recalled = list_length(self.delegations.first_recalled, files.len(), next);
        let is_valid = recalled.is_some()
            && self.delegations.count <= files.len()
            && self.delegations.outbox.is_valid()
            && self.delegations.resuming.is_valid();
        self.delegations.by_number.clear();
        for (slot, file) in (0..self.file_slots.high_water()).zip(files.iter()) {
            if let Some(delegation) = file.delegation.filter(|delegation| !delegation.is_over) {
                let (to, number) = (delegation.to, delegation.number);
                let order = |file| delegation_key(files, file).cmp(&Some((to, number)));
                let by_number = &mut self.delegations.by_number;
                by_number.insert(hash_key(to, number), slot, &order);
            }
        }
        is_valid
    }

    /// As [`LockTable::set`] for a lock of a process; but if the file's ranges are unused, the
    /// leader may delegate them to the member instead ([`SetOutcome::Delegated`]), which identifies
    /// the delegation by `number`.
    ///
    /// # Errors
    /// As [`LockTable::set`].
    pub fn set_or_delegate(
        &mut self,
        from: Vmid,
        seq: u64,
        lock: &FileLock<'_>,
        number: u64,
    ) -> Result<SetOutcome, Errno> {
        let hash = crate::file_locks::hash_path(lock.path);
        let can_delegate = parts::DELEGATIONS
            && lock.kind != LockKind::Unlock
            && lock.start <= lock.end
            && self.delegations.contention.record_use(hash, from)
            && self.delegations.count < self.delegations.limit
            && !self.delegations.overdue.contains(from)
            && self.trees.slots().remaining()
                >= self.delegations.reserved().plus(DelegatedLocks::MAX)
            && self.find_delegation(from, number).is_none()
            && self.quotas.has_room(from, LOCKS, DelegatedLocks::MAX);
        if !can_delegate {
            return self.set_hashed(from, seq, lock, hash);
        }
        let slot = self.find_slot(lock.path, hash);
        let file = match slot.filter(|slot| *slot != self.idle_file) {
            Some(file) => Some(file).filter(|file| !self.has_range_users(*file)),
            None => self.add_file(from, lock.path, hash, slot),
        };
        let Some(file) = file else {
            return self.set_hashed(from, seq, lock, hash);
        };
        let payer = self.quotas.charge(from, LOCKS, DelegatedLocks::MAX);
        self.set_delegation(file, |delegation| {
            *delegation = Some(Delegation {
                to: from,
                number,
                is_recalled: false,
                is_over: false,
                recall: 0,
                prev: NONE,
                next: NONE,
                payer,
            });
        });
        self.adjust_ref_count(file, 1);
        let files = &self.files;
        let order = |file| delegation_key(files, file).cmp(&Some((from, number)));
        self.delegations
            .by_number
            .insert(hash_key(from, number), file, &order);
        self.delegations.count.increment();
        self.delegations.peak = self.delegations.peak.max(self.delegations.count);
        Ok(SetOutcome::Delegated(DelegatedLocks::MAX))
    }

    /// Returns true if any member holds ranges of the file, or its delegation. No request waits for a
    /// range that is free.
    fn has_range_users(&self, file: u32) -> bool {
        let space = self.space(file, SpaceKind::Ranges);
        self.delegation_of(file).is_some() || space.reads != NONE || space.writes != NONE
    }

    /// The member that decides on that space of the file, if it is delegated.
    pub(in crate::file_locks) fn delegation_holder(
        &self,
        file: u32,
        space: SpaceKind,
    ) -> Option<Vmid> {
        let delegation = self.delegation_of(file);
        delegation
            .filter(|_| space == SpaceKind::Ranges)
            .map(|delegation| delegation.to)
    }

    /// Whether the lock belongs to a delegated file's ranges.
    pub fn is_delegated(&self, lock: &FileLock<'_>) -> bool {
        lock.family != LockFamily::Flock
            && self
                .find_file(lock.path)
                .is_some_and(|file| self.delegation_of(file).is_some())
    }

    /// Returns true if the member has the delegation with that number.
    pub fn has_delegation(&self, to: Vmid, number: u64) -> bool {
        self.find_delegation(to, number).is_some()
    }

    /// Returns true if the member has the delegation with that number, and it was recalled.
    pub fn is_recalled(&self, to: Vmid, number: u64) -> bool {
        let file = self.find_delegation(to, number);
        let delegation = file.and_then(|file| self.delegation_of(file));
        delegation.is_some_and(|delegation| delegation.is_recalled)
    }

    pub(in crate::file_locks) fn find_delegation(&self, to: Vmid, number: u64) -> Option<u32> {
        if !parts::DELEGATIONS {
            return None;
        }
        let key = Some((to, number));
        self.delegations
            .by_number
            .find(hash_key(to, number), |file| {
                delegation_key(&self.files, file).cmp(&key)
            })
    }

    /// The delegation of the file's record locks.
    pub(in crate::file_locks) fn delegation_of(&self, file: u32) -> Option<Delegation> {
        if parts::DELEGATIONS {
            self.file_at(file).delegation
        } else {
            None
        }
    }

    fn set_delegation(&mut self, file: u32, change: impl FnOnce(&mut Option<Delegation>)) {
        if let Some(file) = self.files.get_mut(file as usize) {
            change(&mut file.delegation);
        }
    }

    pub(in crate::file_locks) fn update_delegation(
        &mut self,
        file: u32,
        change: impl FnOnce(&mut Delegation),
    ) {
        self.set_delegation(file, |delegation| {
            if let Some(delegation) = delegation {
                change(delegation);
            }
        });
    }

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
        let is_right = self.end_delegation(file, |table, file| {
            if locks.len() > DelegatedLocks::MAX {
                return false;
            }
            let put_back = |lock: DelegatedLock| {
                let owner = Owner::Process {
                    vmid: from,
                    pid: lock.pid,
                };
                let grantee = (owner, Charge::returned_by(from));
                let range = (lock.start, lock.end);
                let mine = table.find_holder(owner, file).unwrap_or(NONE);
                let overlaps = table.own(mine, range).is_some();
                let conflicts = table
                    .find_conflict(file, SpaceKind::Ranges, range, lock.write, mine)
                    .is_some();
                !overlaps && !conflicts && table.grant(file, grantee, range, lock.write).is_ok()
            };
            locks.iter().all(put_back)
        });
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
        self.end_delegation(file, |_, _| true);
    }

    /// Ends the delegation: puts the returned locks in, and resumes the deferred requests.
    fn end_delegation(&mut self, file: u32, put: impl FnOnce(&mut Self, u32) -> bool) -> bool {
        let Some(delegation) = self.delegation_of(file) else {
            return false;
        };
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
        let is_right = put(self, file);
        if !is_right {
            // Nobody else has record locks there yet.
            self.release_ranges(file);
        }
        // The file is kept by the delegation, and charged to another user of it.
        self.recharge_file(file, delegation.payer);
        self.delegations.resuming.push(file);
        self.resume_portion(file, &mut Portion::new());
        is_right
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

    /// Whether deferred requests are to be resumed.
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

    /// The number of delegated files now, and the peak.
    pub fn delegation_usage(&self) -> (usize, usize) {
        (self.delegations.count, self.delegations.peak)
    }

    /// The most files that can be delegated at once.
    pub fn delegation_limit(&self) -> usize {
        self.delegations.limit
    }

    pub(in crate::file_locks) fn check_delegations(&self) -> bool {
        let mut count = 0_usize;
        for slot in 0..self.file_slots.high_water() {
            let file = self.file_at(slot);
            let deferred = file.first_deferred != NONE;
            let ranges = self.space(slot, SpaceKind::Ranges);
            match file.delegation {
                None if deferred => return false,
                None => {}
                Some(Delegation { is_over: true, .. })
                    if deferred && self.delegations.resuming.contains(slot) => {}
                Some(Delegation { is_over: true, .. }) => return false,
                Some(delegation) => {
                    count.increment();
                    let is_empty = ranges.reads == NONE && ranges.writes == NONE;
                    if !is_empty || deferred && !delegation.is_recalled {
                        return false;
                    }
                }
            }
        }
        let is_recalled = |file: u32| {
            let delegation = self.file_at(file).delegation;
            delegation.is_some_and(|delegation| delegation.is_recalled)
        };
        let outbox = &self.delegations.outbox;
        let mut unsent = outbox.due().chain(outbox.deferred());
        count == self.delegations.count && unsent.all(is_recalled)
    }
}

#[cfg(test)]
mod tests {
    use crate::file_locks::waiting_request::Operation;
    use core::mem::MaybeUninit;

    use super::*;

    const LIMITS: LockLimits = LockLimits {
        locks: 2 * DelegatedLocks::MAX,
        files: 2,
        waiting: 1,
        open_files: 0,
    };
    const OWNER: Owner = Owner::Process {
        vmid: Vmid::LEADER,
        pid: 1,
    };

    /// Breaks a table with one delegated file.
    fn is_consistent_after(fault: fn(&mut LockTable<'_>)) -> bool {
        let mut memory = [MaybeUninit::uninit(); LockTable::bytes(&LIMITS)];
        let mut locks = LockTable::new(&mut Arena::new(&mut memory), &LIMITS).unwrap();
        let lock = FileLock {
            family: LockFamily::Posix,
            kind: LockKind::Read,
            start: 0,
            end: 9,
            pid: 1,
            handle: 0,
            wait: false,
            path: b"a",
        };
        let delegated = Ok(SetOutcome::Delegated(DelegatedLocks::MAX));
        assert_eq!(locks.set_or_delegate(Vmid::LEADER, 1, &lock, 1), delegated);
        fault(&mut locks);
        locks.check_delegations()
    }

    #[test]
    fn broken_invariant_of_a_delegation_is_detected() {
        assert!(is_consistent_after(|_| {}));
        let faults: [fn(&mut LockTable<'_>); 3] = [
            |locks| locks.delegations.count = 0,
            |locks| {
                assert!(
                    locks
                        .grant(0, (OWNER, Charge::to(Vmid::LEADER)), (0, 9), false)
                        .is_ok()
                );
            },
            |locks| {
                let operation = Operation::Get { write: false };
                let file = locks.add_delegated_file(b"b").unwrap();
                let deferred = locks.defer(file, OWNER, (0, 9), (Vmid::LEADER, 1), operation);
                assert_eq!(
                    deferred,
                    Ok(SetOutcome::Queued),
                    "for a file that is not delegated"
                );
            },
        ];
        for (number, fault) in faults.into_iter().enumerate() {
            assert!(!is_consistent_after(fault), "fault {number}");
        }
    }
}
