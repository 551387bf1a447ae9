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
use crate::file_locks::quotas::LOCKS;
use crate::file_locks::table::File;
use crate::file_locks::{LockLimits, LockTable, SetOutcome, SpaceKind};
use core::hash::Hash;

use crate::invariant::{Count, OrBroken};
use crate::parts;
use crate::store::{
    Arena, Digest, Digested, HashIndex, NONE, Payer, Portion, Table, TransmitQueue, entry, hash64,
    image, list_length, memory_sum,
};
use crate::wire::{DelegatedLocks, FileLock, LockFamily, LockKind};

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

/// The requests that wait for the return of a delegated file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AwaitedBy {
    /// All may wait for a lock (`F_SETLKW`).
    Waiters,
    /// There are or may be others among them, or there were: all that waited are cancelled.
    Others,
}

/// The state of all delegations together.
pub(in crate::file_locks) struct DelegationTable<'m> {
    pub(super) by_number: HashIndex<'m>,
    pub(super) count: usize,
    peak: usize,
    /// The most delegations that the leader may grant at once.
    limit: usize,
    /// The recalled files, the oldest recall first.
    pub(in crate::file_locks) first_recalled: u32,
    pub(in crate::file_locks) last_recalled: u32,
    /// The files whose recall is still to be sent.
    pub(in crate::file_locks) outbox: TransmitQueue<'m>,
    /// The files whose delegation is over and whose deferred requests are still to be resumed.
    pub(super) resuming: TransmitQueue<'m>,
    /// The number of the last recall.
    pub(in crate::file_locks) last_recall: u64,
    pub(in crate::file_locks) contention: Digested<Contention<'m>>,
    pub(super) overdue: OverdueMembers<'m>,
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

    /// Returns the number of entries that were visited.
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

    /// Returns the number of lock slots that are reserved for returns.
    pub(in crate::file_locks) fn reserved(&self) -> usize {
        self.count
            .checked_mul(DelegatedLocks::MAX)
            .or_broken(usize::MAX)
    }
}

/// Returns the key of the file's delegation: its holder and its number.
pub(super) fn delegation_key(files: &Table<'_, File>, file: u32) -> Option<(Vmid, u64)> {
    let delegation = files.get(file as usize)?.delegation?;
    Some((delegation.to, delegation.number))
}

pub(super) fn hash_key(to: Vmid, number: u64) -> u64 {
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

    /// Like [`LockTable::set`] for a lock of a process; but if the file's ranges are unused, the
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
        let hash = crate::path::hash_path(lock.path);
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

    /// Returns the member that decides on that space of the file, if it is delegated.
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

    /// Returns true if the lock belongs to a delegated file's ranges.
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

    /// Returns who waits for the return of the delegation with that number; None if the member does not have it, or if
    /// it was not recalled. It looks at 64 of the requests at most.
    #[cfg_attr(static_library, inline(never))]
    pub fn awaited_by(&self, to: Vmid, number: u64) -> Option<AwaitedBy> {
        let file = self.find_delegation(to, number)?;
        let is_recalled = self.delegation_of(file)?.is_recalled;
        let mut portion = Portion::new();
        let first = self.file_at(file).first_deferred;
        let mut slot = first;
        while slot != NONE && portion.take_entry() && self.waits.at(slot).command.may_wait() {
            slot = self.waits.at(slot).next;
        }
        is_recalled.then_some(if slot == NONE && first != NONE {
            AwaitedBy::Waiters
        } else {
            AwaitedBy::Others
        })
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

    /// Returns the delegation of the file's record locks.
    pub(in crate::file_locks) fn delegation_of(&self, file: u32) -> Option<Delegation> {
        if parts::DELEGATIONS {
            self.file_at(file).delegation
        } else {
            None
        }
    }

    pub(super) fn set_delegation(
        &mut self,
        file: u32,
        change: impl FnOnce(&mut Option<Delegation>),
    ) {
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

    /// Returns the number of delegated files now, and the peak.
    pub fn delegation_usage(&self) -> (usize, usize) {
        (self.delegations.count, self.delegations.peak)
    }

    /// Returns the most files that can be delegated at once.
    pub fn delegation_limit(&self) -> usize {
        self.delegations.limit
    }
}
