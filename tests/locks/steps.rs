//! No operation of the lock table takes more steps than its bound, in the states that cost most.

use libos_ipc::file_locks::{LockLimits, LockTable, SetOutcome};
use libos_ipc::wire::{FileLock, LockKind};

use crate::edges::{DONE, WAITS, decided, member, on, read, status, with_table};
use crate::shares::{unlock, waiting, write};

const EDEADLK: i32 = 35;
const LIMITS: LockLimits = LockLimits {
    locks: 65_536,
    files: 16,
    waiting: 1024,
    open_files: 16,
};
/// The greatest number of visits of a search for a deadlock. Each visit examines a few entries.
const SEARCH: u64 = 4 * 4096;
/// The greatest number of visits of a request that finds, sets or removes one lock in a full table.
const SINGLE: u64 = 600;
const HOLDER: u32 = 9999;
const ASKER: u32 = 9998;
const ALL: (u64, u64) = (0, u64::MAX);

/// Returns the number of steps of an operation.
fn steps<T>(
    locks: &mut LockTable<'_>,
    operation: impl FnOnce(&mut LockTable<'_>) -> T,
) -> (T, u64) {
    let before = locks.steps();
    let done = operation(locks);
    (done, locks.steps() - before)
}

fn set(locks: &mut LockTable<'_>, lock: &FileLock<'_>) -> (Result<SetOutcome, i32>, u64) {
    steps(locks, |locks| {
        locks.set(member(2), u64::from(lock.pid), lock)
    })
}

/// Each of `owners` owners has a read lock on a byte of the first file and waits for all of the
/// second, of which one owner holds `bytes` single bytes.
fn entangle(locks: &mut LockTable<'_>, owners: u32, bytes: u64) {
    for byte in 0..bytes {
        let (locked, steps) = set(locks, &on(b"2", write(HOLDER, 2 * byte, 2 * byte)));
        assert_eq!(locked, DONE);
        assert!(steps < SINGLE, "{steps} steps for a free byte");
    }
    for owner in 1..=owners {
        let byte = u64::from(owner);
        assert_eq!(set(locks, &on(b"1", read(owner, byte, byte))).0, DONE);
        let all = on(b"2", waiting(write(owner, ALL.0, ALL.1)));
        let (queued, steps) = set(locks, &all);
        assert_eq!(queued, WAITS);
        assert!(steps < SEARCH, "{steps} steps to queue");
    }
}

#[test]
fn deadlock_search_visits_each_waiting_owner_and_each_lock_once() {
    for (owners, bytes) in [(30, 950), (62, 900), (500, 2_000), (500, 20_000)] {
        with_table(LIMITS, |locks| {
            entangle(locks, owners, bytes);
            let all = on(b"1", waiting(write(ASKER, ALL.0, ALL.1)));
            let (queued, steps) = set(locks, &all);
            println!("{owners} owners, {bytes} bytes: {steps} steps");
            assert_eq!(queued, WAITS);
            assert!(steps < SEARCH, "{steps} steps");
        });
    }
}

#[test]
fn deadlock_within_the_budget_is_found_and_beyond_it_the_request_waits() {
    for (bytes, outcome) in [(3_000, Err(EDEADLK)), (5_000, WAITS)] {
        with_table(LIMITS, |locks| {
            entangle(locks, 1, bytes);
            // After all bytes of the holder there is one of the owner that makes the last request.
            let end = u64::MAX - 1;
            assert_eq!(set(locks, &on(b"2", write(ASKER, end, end))).0, DONE);
            let first = on(b"1", waiting(write(ASKER, ALL.0, ALL.1)));
            assert_eq!(set(locks, &first).0, outcome, "{bytes} bytes");
        });
    }
}

#[test]
fn unlock_tries_only_the_requests_that_it_can_unblock() {
    with_table(LIMITS, |locks| {
        entangle(locks, 500, 2_000);
        for owner in 1001..=1030 {
            let all = waiting(read(owner, ALL.0, ALL.1));
            assert_eq!(set(locks, &on(b"2", all)).0, WAITS);
        }
        // The lowest byte blocks them all.
        for byte in (1..2_000).rev() {
            let (unlocked, steps) =
                set(locks, &on(b"2", unlock(write(HOLDER, 2 * byte, 2 * byte))));
            assert_eq!(unlocked, DONE);
            assert!(steps < SINGLE, "{steps} steps to unlock byte {byte}");
        }
        // Another file is not affected at all.
        for lock in [write(ASKER, 0, 0), unlock(write(ASKER, 0, 0))] {
            let (done, steps) = set(locks, &on(b"3", lock));
            assert_eq!(done, DONE);
            assert!(steps < SINGLE, "{steps} steps");
        }
        assert!(!locks.has_completions());
        assert_eq!(set(locks, &on(b"2", unlock(write(HOLDER, 0, 0)))).0, DONE);
        assert_eq!(decided(locks), [(2, 1, status(0))]);
    });
}

#[test]
fn cancelling_a_request_does_not_visit_the_others() {
    with_table(LIMITS, |locks| {
        entangle(locks, 500, 100);
        let ((), cancelled) = steps(locks, |locks| locks.cancel(member(2), 77));
        assert!(cancelled < SINGLE, "{cancelled} steps");
        let ((), released) = steps(locks, |locks| locks.release_process(member(2), 78));
        assert!(released < SINGLE, "{released} steps");
        assert_eq!(decided(locks), [(2, 77, status(4)), (2, 78, status(3))]);
    });
}

#[test]
fn requests_are_tried_in_order_of_arrival_whatever_blocked_them() {
    with_table(LIMITS, |locks| {
        // The later requests wait for lower bytes, so they are listed before the earlier ones.
        for byte in 0..20 {
            assert_eq!(set(locks, &write(1, byte, byte)).0, DONE);
            let kind = if byte % 2 == 0 {
                LockKind::Write
            } else {
                LockKind::Read
            };
            assert_eq!(
                set(
                    locks,
                    &FileLock {
                        kind,
                        ..write(1, byte, byte)
                    }
                )
                .0,
                DONE
            );
        }
        for owner in 0..20 {
            let first = 19 - u64::from(owner);
            let lock = waiting(write(100 + owner, first, first));
            assert_eq!(set(locks, &lock).0, WAITS);
        }
        locks.release_process(member(2), 1);
        let served: Vec<u64> = decided(locks).iter().map(|(_, seq, _)| *seq).collect();
        assert_eq!(served, (100..120).collect::<Vec<_>>());
    });
}
