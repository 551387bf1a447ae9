//! The invariants of the delegations.

use super::Delegation;
use crate::file_locks::{LockTable, SpaceKind};
use crate::invariant::Count;
use crate::store::NONE;

impl LockTable<'_> {
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
    use crate::file_locks::waiting_request::LockCommand;
    use core::mem::MaybeUninit;

    use super::*;
    use crate::Vmid;
    use crate::file_locks::quotas::Charge;
    use crate::file_locks::{LockLimits, Owner, SetOutcome};
    use crate::store::Arena;
    use crate::wire::{DelegatedLocks, FileLock, LockFamily, LockKind};

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
                let command = LockCommand::Get { write: false };
                let file = locks.add_delegated_file(b"b").unwrap();
                let deferred = locks.defer(file, OWNER, (0, 9), (Vmid::LEADER, 1), command);
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
