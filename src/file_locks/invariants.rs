//! Checks that the tables agree with each other.

use super::interval_tree::TreeKind;
use super::waiting_request::{RequestState, WaitingRequest};
use super::{LockTable, SpaceKind};
use crate::invariant::Count;
use crate::store::NONE;

impl LockTable<'_> {
    /// Returns true if every slot is accounted for, and no request waits that could be served. It
    /// is slow, and meant for tests.
    pub fn check_invariants(&self) -> bool {
        let mut held = 0_usize;
        let mut in_files = 0_usize;
        for slot in 0..self.holder_slots.high_water() {
            let holder = *self.holder_at(slot);
            if holder.file == NONE {
                continue;
            }
            let Some(count) = self.trees.check(TreeKind::Holder, holder.root) else {
                return false;
            };
            held = held.plus(count);
        }
        for file in 0..self.file_slots.high_water() {
            for kind in [SpaceKind::Ranges, SpaceKind::WholeFile] {
                let space = self.space(file, kind);
                for root in [space.reads, space.writes] {
                    let Some(count) = self.trees.check(TreeKind::File, root) else {
                        return false;
                    };
                    in_files = in_files.plus(count);
                }
            }
        }
        let mut in_use = 0_usize;
        for slot in 0..self.waits.slots.high_water() {
            let WaitingRequest { state, blocker, .. } = *self.waits.at(slot);
            let is_candidate = self.waits.at(slot).place != NONE;
            if state == RequestState::Waiting && !is_candidate && !self.is_blocked_by(slot, blocker)
            {
                return false;
            }
            in_use = in_use.plus(usize::from(state != RequestState::Free));
        }
        self.candidates.is_empty() != self.is_serving
            && self.check_delegations()
            && self.check_quotas()
            && self.open_files.check_invariants()
            && held == in_files
            && held == self.trees.slots().in_use()
            && in_use == self.waits.slots.in_use()
    }

    /// Returns true if the lock is held, conflicts with the request and lists it.
    fn is_blocked_by(&self, slot: u32, blocker: u32) -> bool {
        let waiting = self.waits.at(slot);
        let mine = self.find_holder(waiting.owner, waiting.file);
        let lock = self.trees.at(blocker);
        let holder = self.holder_at(lock.holder);
        let mut listed = lock.first_blocked;
        while listed != slot && listed != NONE {
            listed = self.waits.at(listed).next;
        }
        listed == slot
            && Some(lock.holder) != mine
            && holder.file == waiting.file
            && holder.owner.space() == waiting.owner.space()
            && lock.start <= waiting.range.1
            && lock.end >= waiting.range.0
            && (lock.write || waiting.command.is_write())
    }
}

#[cfg(test)]
mod tests {
    use crate::file_locks::{LockLimits, SetOutcome};
    use core::mem::MaybeUninit;

    use super::*;
    use crate::Vmid;
    use crate::store::{Arena, Payer};
    use crate::wire::{FileLock, LockFamily, LockKind};

    const LIMITS: LockLimits = LockLimits {
        locks: 4,
        files: 1,
        waiting: 1,
        open_files: 0,
    };
    const RANGE: (u64, u64) = (0, 9);

    /// Breaks a table in which one process has two locks and another process waits for one of them.
    fn is_consistent_after(fault: fn(&mut LockTable<'_>)) -> bool {
        let mut memory = [MaybeUninit::uninit(); LockTable::bytes(&LIMITS)];
        let mut locks = LockTable::new(&mut Arena::new(&mut memory), &LIMITS).unwrap();
        let lock = FileLock {
            family: LockFamily::Posix,
            kind: LockKind::Write,
            start: RANGE.0,
            end: RANGE.1,
            pid: 1,
            handle: 0,
            wait: true,
            path: b"a",
        };
        let other = FileLock {
            kind: LockKind::Read,
            start: 20,
            end: 29,
            ..lock
        };
        let second = Vmid::new(2).unwrap();
        assert_eq!(locks.set(Vmid::LEADER, 1, &lock), Ok(SetOutcome::Done));
        assert_eq!(locks.set(Vmid::LEADER, 2, &other), Ok(SetOutcome::Done));
        assert_eq!(locks.set(second, 3, &lock), Ok(SetOutcome::Queued));
        fault(&mut locks);
        locks.check_invariants()
    }

    #[test]
    fn lost_slot_or_unserved_waiter_is_detected() {
        assert!(is_consistent_after(|_| {}));
        let faults: [fn(&mut LockTable<'_>); 5] = [
            |locks| locks.holders[0].root = NONE,
            |locks| locks.change_file(0, |file| *file.root_mut(SpaceKind::Ranges, false) = NONE),
            |locks| {
                let slot = locks.trees.alloc((40, 49), true, (0, 1), Payer::NOBODY);
                assert!(slot.is_some());
            },
            |locks| {
                let owner = locks.holder_at(0).owner;
                assert_eq!(locks.release_range(0, owner, RANGE), Ok(()));
            },
            |locks| locks.waits.slots.free(0),
        ];
        for (number, fault) in faults.into_iter().enumerate() {
            assert!(!is_consistent_after(fault), "fault {number}");
        }
    }
}
