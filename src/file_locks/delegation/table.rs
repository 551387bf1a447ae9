//! Loans: while a single member uses a file's record locks, it decides on them itself.
//!
//! What `NFSv4` calls a delegation. A file whose ranges nobody uses is lent to the member that asks
//! for a lock there, and is nothing but lent from then on: whatever others ask for there is held up
//! until the borrower, told of that, has given it back with the locks on it; or is gone. Its locks'
//! places are set aside, so that they come back into a table that has room for them.

use super::contention::Contention;
use crate::Vmid;
use crate::error::Error;
use crate::file_locks::{LockLimits, Locks, Owner, Set, SpaceName};
use crate::store::{Arena, HashIndex, NONE, hash64};
use crate::wire::{DelegatedLock, DelegatedLocks, FileLock, LockFamily, LockKind};

/// A file's loan.
#[derive(Clone, Copy)]
pub(in crate::file_locks) struct Loan {
    pub(in crate::file_locks) to: Vmid,
    /// What the borrower calls it.
    pub(in crate::file_locks) number: u64,
    pub(in crate::file_locks) is_recalled: bool,
    /// The borrower was told.
    pub(in crate::file_locks) is_told: bool,
    /// The number of the recall; 0 for none.
    pub(in crate::file_locks) recall: u64,
    pub(in crate::file_locks) before: u32,
    pub(in crate::file_locks) behind: u32,
}

/// What the table knows of its loans as a whole.
pub(in crate::file_locks) struct Lending<'m> {
    by_number: HashIndex<'m>,
    loans: usize,
    most_loans: usize,
    /// The most that can be lent at once.
    limit: usize,
    /// Files that are to come back, the oldest recall first.
    pub(in crate::file_locks) first_recalled: u32,
    pub(in crate::file_locks) last_recalled: u32,
    /// Of these, how many borrowers are still to be told.
    pub(in crate::file_locks) to_tell: usize,
    /// The number of the last recall.
    pub(in crate::file_locks) last_recall: u64,
    pub(in crate::file_locks) contention: Contention<'m>,
}

impl<'m> Lending<'m> {
    pub(in crate::file_locks) const fn bytes(files: usize) -> usize {
        HashIndex::bytes(files).saturating_add(Contention::bytes(files))
    }

    pub(in crate::file_locks) fn new(
        arena: &mut Arena<'m>,
        limits: &LockLimits,
    ) -> Result<Self, Error> {
        let by_locks = limits.locks.checked_div(DelegatedLocks::MAX).unwrap_or(0);
        Ok(Lending {
            by_number: HashIndex::new(arena, limits.files)?,
            loans: 0,
            most_loans: 0,
            // Half of the table stays for those to whom nothing is lent.
            limit: by_locks.min(limits.files) / 2,
            first_recalled: NONE,
            last_recalled: NONE,
            to_tell: 0,
            last_recall: 0,
            contention: Contention::new(arena, limits.files)?,
        })
    }

    /// Locks that are set aside for what comes back.
    pub(in crate::file_locks) fn set_aside(&self) -> usize {
        self.loans.saturating_mul(DelegatedLocks::MAX)
    }
}

fn key(to: Vmid, number: u64) -> u64 {
    hash64(number.rotate_left(32) ^ u64::from(to.get()))
}

impl Locks<'_> {
    /// As [`Locks::set`] for a lock of a process; but if nobody uses the file's ranges, it may be
    /// lent to the member instead ([`Set::Lent`]), as what it calls by that number.
    ///
    /// # Errors
    /// As [`Locks::set`].
    pub fn borrow(
        &mut self,
        from: Vmid,
        seq: u64,
        lock: &FileLock<'_>,
        number: u64,
    ) -> Result<Set, i32> {
        let hash = crate::file_locks::hash_path(lock.path);
        let is_lendable = lock.kind != LockKind::Unlock
            && lock.start <= lock.end
            && self.lending.contention.note_use(hash, from)
            && self.lending.loans < self.lending.limit
            && self.trees.places().remaining()
                >= self.lending.set_aside().saturating_add(DelegatedLocks::MAX)
            && self.by_number(from, number).is_none();
        if !is_lendable {
            return self.set_hashed(from, seq, lock, hash);
        }
        let file = match self.file_hashed(lock.path, hash) {
            Some(file) => Some(file).filter(|file| !self.is_used(*file)),
            None => self.add_file(lock.path, hash),
        };
        let Some(file) = file else {
            return self.set_hashed(from, seq, lock, hash);
        };
        self.change_loan(file, |loan| {
            *loan = Some(Loan {
                to: from,
                number,
                is_recalled: false,
                is_told: false,
                recall: 0,
                before: NONE,
                behind: NONE,
            });
        });
        self.change_users(file, 1);
        self.lending.by_number.insert(key(from, number), file);
        self.lending.loans = self.lending.loans.saturating_add(1);
        self.lending.most_loans = self.lending.most_loans.max(self.lending.loans);
        Ok(Set::Lent(DelegatedLocks::MAX))
    }

    /// Whether anybody has, waits for or has borrowed ranges of the file.
    fn is_used(&self, file: u32) -> bool {
        let space = self.space(file, SpaceName::Ranges);
        self.file_at(file).loan.is_some()
            || space.reads != NONE
            || space.writes != NONE
            || space.first_waiting != NONE
    }

    /// Who decides on that part of the file, if it is lent.
    pub(in crate::file_locks) fn borrower(&self, file: u32, space: SpaceName) -> Option<Vmid> {
        let loan = self.file_at(file).loan;
        loan.filter(|_| space == SpaceName::Ranges)
            .map(|loan| loan.to)
    }

    /// Whether what is asked for is lent.
    pub fn is_lent(&self, lock: &FileLock<'_>) -> bool {
        lock.family != LockFamily::Flock
            && self
                .file(lock.path)
                .is_some_and(|file| self.file_at(file).loan.is_some())
    }

    pub(in crate::file_locks) fn by_number(&self, to: Vmid, number: u64) -> Option<u32> {
        self.lending.by_number.find(key(to, number), |file| {
            let loan = self.file_at(file).loan;
            loan.is_some_and(|loan| loan.to == to && loan.number == number)
        })
    }

    fn change_loan(&mut self, file: u32, change: impl FnOnce(&mut Option<Loan>)) {
        if let Some(file) = self.files.get_mut(file as usize) {
            change(&mut file.loan);
        }
    }

    pub(in crate::file_locks) fn with_loan(&mut self, file: u32, change: impl FnOnce(&mut Loan)) {
        self.change_loan(file, |loan| {
            if let Some(loan) = loan {
                change(loan);
            }
        });
    }

    /// A borrower gives a file back, with its locks on it. False if it is not the borrower, or if no
    /// locks can be like that; then it has none.
    pub fn give_back(&mut self, from: Vmid, number: u64, locks: DelegatedLocks<'_>) -> bool {
        let Some(file) = self.by_number(from, number) else {
            return false;
        };
        if self
            .file_at(file)
            .loan
            .is_some_and(|loan| !loan.is_recalled)
        {
            let hash = self.file_at(file).hash;
            self.lending.contention.start_quarrel(hash, from);
        }
        let is_right = self.end_loan(file, |table, file| {
            if locks.len() > DelegatedLocks::MAX {
                return false;
            }
            let as_they_stand = |lock: DelegatedLock| {
                let owner = Owner::Process {
                    vmid: from,
                    pid: lock.pid,
                };
                let range = (lock.start, lock.end);
                let mine = table.holder(owner, file).unwrap_or(NONE);
                let overlaps = table.own(mine, range).is_some();
                let conflicts = table
                    .in_the_way(file, SpaceName::Ranges, range, lock.write, mine)
                    .is_some();
                !overlaps && !conflicts && table.lock(file, owner, range, lock.write).is_ok()
            };
            locks.iter().all(as_they_stand)
        });
        self.drop_closed();
        is_right
    }

    /// The file is here again: what the borrower says of its locks is put in, and who was held up
    /// goes on.
    fn end_loan(&mut self, file: u32, put: impl FnOnce(&mut Self, u32) -> bool) -> bool {
        let Some(loan) = self.file_at(file).loan else {
            return false;
        };
        self.lending
            .by_number
            .remove(key(loan.to, loan.number), file);
        self.lending.loans = self.lending.loans.saturating_sub(1);
        if loan.is_recalled {
            self.with_loan(loan.before, |before| before.behind = loan.behind);
            self.with_loan(loan.behind, |behind| behind.before = loan.before);
            if loan.before == NONE {
                self.lending.first_recalled = loan.behind;
            }
            if loan.behind == NONE {
                self.lending.last_recalled = loan.before;
            }
            if !loan.is_told {
                self.lending.to_tell = self.lending.to_tell.saturating_sub(1);
            }
        }
        self.change_loan(file, |loan| *loan = None);
        let is_right = put(self, file);
        if !is_right {
            let vmid = loan.to;
            for place in 0..self.holder_places.high_water() {
                let holder = *self.holder_at(place);
                let its = matches!(holder.owner, Owner::Process { vmid: of, .. } if of == vmid);
                if its && holder.file == file {
                    self.drop_holder(place);
                }
            }
        }
        self.let_go_on(file);
        self.change_users(file, -1);
        self.drop_unused(file);
        is_right
    }

    /// A member is gone: what was lent to it is here again, without locks.
    pub(in crate::file_locks) fn end_loans_of(&mut self, vmid: Vmid) {
        for file in 0..self.file_places.high_water() {
            let loan = self.file_at(file).loan;
            if loan.is_some_and(|loan| loan.to == vmid) {
                self.end_loan(file, |_, _| true);
            }
        }
    }

    /// Files that are lent now, and the most ever.
    pub fn lent_fill(&self) -> (usize, usize) {
        (self.lending.loans, self.lending.most_loans)
    }

    /// The most files that can be lent at once.
    pub fn lent_limit(&self) -> usize {
        self.lending.limit
    }

    pub(in crate::file_locks) fn loans_are_sound(&self) -> bool {
        let mut loans = 0_usize;
        for place in 0..self.file_places.high_water() {
            let file = self.file_at(place);
            let held_up = self.space(place, SpaceName::HeldUp).first_waiting != NONE;
            let ranges = self.space(place, SpaceName::Ranges);
            match file.loan {
                None if held_up => return false,
                None => {}
                Some(loan) => {
                    loans = loans.saturating_add(1);
                    let is_empty = ranges.reads == NONE
                        && ranges.writes == NONE
                        && ranges.first_waiting == NONE;
                    if !is_empty || held_up && !loan.is_recalled {
                        return false;
                    }
                }
            }
        }
        loans == self.lending.loans
    }
}

#[cfg(test)]
mod tests {
    use crate::file_locks::wait_queue::Asked;
    use core::mem::MaybeUninit;

    use super::*;

    const LIMITS: LockLimits = LockLimits {
        locks: 2 * DelegatedLocks::MAX,
        files: 2,
        waiting: 1,
        handles: 0,
    };
    const OWNER: Owner = Owner::Process {
        vmid: Vmid::LEADER,
        pid: 1,
    };

    /// With one file that is lent.
    fn is_sound_after(fault: fn(&mut Locks<'_>)) -> bool {
        let mut memory = [MaybeUninit::uninit(); Locks::bytes(&LIMITS)];
        let mut locks = Locks::new(&mut Arena::new(&mut memory), &LIMITS).unwrap();
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
        let lent = Ok(Set::Lent(DelegatedLocks::MAX));
        assert_eq!(locks.borrow(Vmid::LEADER, 1, &lock, 1), lent);
        fault(&mut locks);
        locks.loans_are_sound()
    }

    #[test]
    fn what_does_not_fit_a_loan_is_found_out() {
        assert!(is_sound_after(|_| {}));
        let faults: [fn(&mut Locks<'_>); 3] = [
            |locks| locks.lending.loans = 0,
            |locks| assert!(locks.lock(0, OWNER, (0, 9), false).is_ok()),
            |locks| {
                let asked = Asked::About { write: false };
                let file = locks.keep_file(b"b").unwrap();
                let held_up = locks.hold_up(file, OWNER, (0, 9), (Vmid::LEADER, 1), asked);
                assert_eq!(held_up, Ok(Set::Waits), "for a file that is not lent");
            },
        ];
        for (number, fault) in faults.into_iter().enumerate() {
            assert!(!is_sound_after(fault), "fault {number}");
        }
    }
}
