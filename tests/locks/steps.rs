//! No operation of the lock table takes more steps than its bound, in the states that cost most.

use libos_ipc::Errno;
use libos_ipc::file_locks::{LockLimits, LockTable, SetOutcome};
use libos_ipc::leader::{Leader, LeaderCapacities, Op, Outcome, Presence};
use libos_ipc::store::Arena;
use libos_ipc::wire::{Answer, FileLock, LockKind, Message};

use crate::edges::{DONE, WAITS, completions_of, member, status, with_table};
use crate::requests::{ofd, on, read, unlock, waiting, write};

const LIMITS: LockLimits = LockLimits {
    locks: 65_536,
    files: 16,
    waiting: 1024,
    open_files: 16,
};
/// The greatest number of steps of a search for a deadlock. Each visit examines a few entries.
const MAX_SEARCH_STEPS: u64 = 4 * 4096;
/// The greatest number of steps of a request that finds, sets or removes one lock in a full table.
const MAX_STEPS: u64 = 600;
/// The pids of the owner of the second file, and of the one that makes the last request.
const HOLDER: u32 = 9999;
const REQUESTER: u32 = 9998;
/// The first and last byte of a lock of a whole file.
const ALL_BYTES: (u64, u64) = (0, u64::MAX);

/// Returns the number of steps of an operation.
fn steps<T>(
    locks: &mut LockTable<'_>,
    operation: impl FnOnce(&mut LockTable<'_>) -> T,
) -> (T, u64) {
    let before = locks.steps();
    let done = operation(locks);
    (done, locks.steps() - before)
}

fn set(locks: &mut LockTable<'_>, lock: &FileLock<'_>) -> (Result<SetOutcome, Errno>, u64) {
    steps(locks, |locks| {
        locks.set(member(2), u64::from(lock.pid), lock)
    })
}

/// Lets each of `owners` owners have a read lock on a byte of the first file and wait for all of the
/// second, of which one owner holds `bytes` single bytes.
fn add_waiting_owners(locks: &mut LockTable<'_>, owners: u32, bytes: u64) {
    for byte in 0..bytes {
        let (locked, steps) = set(locks, &on(b"2", write(HOLDER, 2 * byte, 2 * byte)));
        assert_eq!(locked, DONE);
        assert!(steps < MAX_STEPS, "{steps} steps for a free byte");
    }
    for owner in 1..=owners {
        let byte = u64::from(owner);
        assert_eq!(set(locks, &on(b"1", read(owner, byte, byte))).0, DONE);
        let all = on(b"2", waiting(write(owner, ALL_BYTES.0, ALL_BYTES.1)));
        let (queued, steps) = set(locks, &all);
        assert_eq!(queued, WAITS);
        assert!(steps < MAX_SEARCH_STEPS, "{steps} steps to queue");
    }
}

#[test]
fn deadlock_search_visits_each_waiting_owner_and_each_lock_once() {
    for (owners, bytes) in [(30, 950), (62, 900), (500, 2_000), (500, 20_000)] {
        with_table(LIMITS, |locks| {
            add_waiting_owners(locks, owners, bytes);
            let all = on(b"1", waiting(write(REQUESTER, ALL_BYTES.0, ALL_BYTES.1)));
            let (queued, steps) = set(locks, &all);
            println!("{owners} owners, {bytes} bytes: {steps} steps");
            assert_eq!(queued, WAITS);
            assert!(steps < MAX_SEARCH_STEPS, "{steps} steps");
        });
    }
}

#[test]
fn deadlock_within_the_budget_is_found_and_beyond_it_the_request_waits() {
    for (bytes, outcome) in [(3_000, Err(Errno::EDEADLK)), (5_000, WAITS)] {
        with_table(LIMITS, |locks| {
            add_waiting_owners(locks, 1, bytes);
            // After all bytes of the holder there is one of the owner that makes the last request.
            let end = u64::MAX - 1;
            assert_eq!(set(locks, &on(b"2", write(REQUESTER, end, end))).0, DONE);
            let first = on(b"1", waiting(write(REQUESTER, ALL_BYTES.0, ALL_BYTES.1)));
            assert_eq!(set(locks, &first).0, outcome, "{bytes} bytes");
        });
    }
}

#[test]
fn unlock_tries_only_the_requests_that_it_can_unblock() {
    with_table(LIMITS, |locks| {
        add_waiting_owners(locks, 500, 2_000);
        for owner in 1001..=1030 {
            let all = waiting(read(owner, ALL_BYTES.0, ALL_BYTES.1));
            assert_eq!(set(locks, &on(b"2", all)).0, WAITS);
        }
        // The lowest byte blocks them all.
        for byte in (1..2_000).rev() {
            let (unlocked, steps) =
                set(locks, &on(b"2", unlock(write(HOLDER, 2 * byte, 2 * byte))));
            assert_eq!(unlocked, DONE);
            assert!(steps < MAX_STEPS, "{steps} steps to unlock byte {byte}");
        }
        // Another file is not affected at all.
        for lock in [write(REQUESTER, 0, 0), unlock(write(REQUESTER, 0, 0))] {
            let (done, steps) = set(locks, &on(b"3", lock));
            assert_eq!(done, DONE);
            assert!(steps < MAX_STEPS, "{steps} steps");
        }
        assert!(!locks.has_completions());
        assert_eq!(set(locks, &on(b"2", unlock(write(HOLDER, 0, 0)))).0, DONE);
        assert_eq!(completions_of(locks), [(2, 1, Answer::DONE)]);
    });
}

#[test]
fn cancelling_a_request_does_not_visit_the_others() {
    with_table(LIMITS, |locks| {
        add_waiting_owners(locks, 500, 100);
        let ((), cancelled) = steps(locks, |locks| locks.cancel(member(2), 77));
        assert!(cancelled < MAX_STEPS, "{cancelled} steps");
        let ((), released) = steps(locks, |locks| locks.release_process(member(2), 78));
        assert!(released < MAX_STEPS, "{released} steps");
        assert_eq!(
            completions_of(locks),
            [(2, 77, status(Errno::EINTR)), (2, 78, status(Errno::ESRCH))]
        );
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
        let served: Vec<u64> = completions_of(locks)
            .iter()
            .map(|(_, seq, _)| *seq)
            .collect();
        assert_eq!(served, (100..120).collect::<Vec<_>>());
    });
}

#[test]
fn lock_among_ten_thousand_others_takes_one_search() {
    const OTHERS: u64 = 10_000;
    with_table(LIMITS, |locks| {
        for number in 0..OTHERS {
            let owner = 1_000 + u32::try_from(number % 100).unwrap();
            let lock = write(owner, 10 * number, 10 * number + 4);
            assert_eq!(set(locks, &lock).0, DONE);
        }
        let mut sum = [0, 0];
        for number in 0..OTHERS {
            let lock = write(REQUESTER, 10 * number + 5, 10 * number + 9);
            for (sum, lock) in sum.iter_mut().zip([lock, unlock(lock)]) {
                let (done, steps) = set(locks, &lock);
                assert_eq!(done, DONE);
                *sum += steps;
            }
        }
        // The tree has 14 levels. The lock is removed without a search.
        let [locking, unlocking] = sum.map(|sum| sum / OTHERS);
        assert!(locking < 60, "{locking} steps on average");
        assert!(unlocking < 50, "{unlocking} steps on average");
    });
}

/// The visits of a portion: 64 locks are removed, or 1,024 slots are looked at.
const PORTION: u64 = 64 * MAX_STEPS;

#[test]
fn end_of_a_process_with_many_locks_is_applied_in_portions() {
    with_table(LIMITS, |locks| {
        add_waiting_owners(locks, 500, 20_000);
        let mut portions = 0;
        loop {
            let (is_all, steps) = steps(locks, |locks| {
                locks.release_process_portion(member(2), HOLDER)
            });
            assert!(steps < PORTION, "{steps} steps");
            portions += 1;
            if is_all {
                break;
            }
            assert_eq!(locks.lock_usage().0, 20_500 - 64 * portions);
            assert!(locks.check_invariants());
        }
        assert_eq!(portions, 313);
        // All wait for the whole file, so the first gets it with the last portion.
        assert_eq!(completions_of(locks), [(2, 1, Answer::DONE)]);
    });
}

#[test]
fn each_portion_grants_what_it_has_unblocked() {
    with_table(LIMITS, |locks| {
        for byte in 0..100 {
            assert_eq!(set(locks, &write(1, 2 * byte, 2 * byte)).0, DONE);
            let behind = waiting(write(100 + byte as u32, 2 * byte, 2 * byte));
            assert_eq!(set(locks, &behind).0, WAITS);
        }
        assert!(!locks.release_process_portion(member(2), 1));
        assert_eq!(completions_of(locks).len(), 64);
        assert!(locks.release_process_portion(member(2), 1));
        assert_eq!(completions_of(locks).len(), 36);
        locks.reclaim(member(2));
    });
}

#[test]
fn open_file_with_many_locks_is_closed_in_portions_and_held_until_the_last() {
    with_table(LIMITS, |locks| {
        for byte in 0..100 {
            assert_eq!(set(locks, &ofd(7, 2 * byte, 2 * byte)).0, DONE);
        }
        assert!(!locks.close_open_file_portion(member(2), 7));
        assert_eq!(locks.open_file_usage().0, 1);
        assert_eq!(locks.lock_usage().0, 36);
        assert!(locks.close_open_file_portion(member(2), 7));
        assert_eq!((locks.open_file_usage().0, locks.lock_usage().0), (0, 0));
    });
}

#[test]
fn death_of_a_member_is_applied_in_portions() {
    with_table(LIMITS, |locks| {
        add_waiting_owners(locks, 500, 10_000);
        // Each process holds a lock, so each is a holder.
        for owner in 10_000..20_000 {
            let byte = u64::from(owner);
            assert_eq!(set(locks, &on(b"4", read(owner, byte, byte))).0, DONE);
        }
        for byte in 0..1_000 {
            assert_eq!(set(locks, &ofd(7, 2 * byte, 2 * byte)).0, DONE);
        }
        let behind = on(b"2", waiting(read(1, 0, 0)));
        assert_eq!(locks.set(member(3), 9, &behind), WAITS);
        let mut left = u64::MAX;
        let mut portions = 0;
        while left > 0 {
            let (next, steps) = steps(locks, |locks| {
                locks.reclaim_portion(member(2), left, &|_| false)
            });
            assert!(next <= left);
            assert!(steps < PORTION, "{steps} steps");
            (left, portions) = (next, portions + 1);
        }
        assert!((336..400).contains(&portions), "{portions} portions");
        assert_eq!(completions_of(locks), [(3, 9, Answer::DONE)]);
        assert_eq!((locks.open_file_usage().0, locks.lock_usage().0), (0, 1));
    });
}

#[test]
fn answer_to_a_release_of_many_locks_comes_after_the_last_portion() {
    let capacities = LeaderCapacities {
        ranges: 16,
        locks: LIMITS,
        ..LeaderCapacities::NONE
    };
    let mut memory = Box::new_uninit_slice(Leader::bytes(&capacities));
    let mut arena = Arena::new(&mut memory);
    let mut leader = Leader::new(&mut arena, &capacities).unwrap();
    let mut request = |message: Message<'_>| {
        leader.apply(&Op::Request {
            from: member(2),
            seq: 5,
            message: &message,
            other: Presence::Absent,
        })
    };
    let done = Outcome::Answer(Answer::DONE);
    let close = Message::FileHandle {
        handle: 7,
        held: false,
        vmid: 0,
    };
    for end in [Message::FileLockClearPid(1), close] {
        for byte in 0..150 {
            let lock = if end == close {
                ofd(7, 2 * byte, 2 * byte)
            } else {
                write(1, 2 * byte, 2 * byte)
            };
            assert_eq!(request(Message::FileLockSet(lock)), done);
        }
        assert_eq!(request(end), Outcome::Remaining(1));
        assert_eq!(request(end), Outcome::Remaining(1));
        assert_eq!(request(end), done);
    }
}

/// Releases the locks of an open file in portions, each of which is followed by what it serves.
fn release_all(locks: &mut LockTable<'_>) -> usize {
    let mut portions = 0;
    while locks.has_releases() {
        let before = locks.lock_usage().0;
        let before_steps = locks.steps();
        locks.release_portion();
        let steps = locks.steps() - before_steps;
        assert!(steps < PORTION, "{steps} steps");
        assert!(before - locks.lock_usage().0 <= 64);
        assert!(locks.check_invariants());
        portions += 1;
    }
    portions
}

#[test]
fn open_file_that_was_closed_during_a_wait_is_released_in_portions() {
    with_table(LIMITS, |locks| {
        for byte in 0..1_000 {
            assert_eq!(set(locks, &ofd(7, 2 * byte, 2 * byte)).0, DONE);
        }
        assert_eq!(set(locks, &on(b"5", write(HOLDER, 0, 0))).0, DONE);
        let behind = on(b"5", waiting(ofd(7, 0, 0)));
        assert_eq!(locks.set(member(2), 77, &behind), WAITS);
        locks.close_open_file(member(2), 7);
        assert!(!locks.has_releases());
        let ((), cancelled) = steps(locks, |locks| locks.cancel(member(2), 77));
        assert!(cancelled < PORTION, "{cancelled} steps");
        assert_eq!(locks.lock_usage().0, 1_001 - 64);
        // The end of another open file between two portions changes nothing.
        locks.reclaim(member(4));
        assert_eq!(locks.open_file_usage().0, 1);
        assert!(release_all(locks) >= 10);
        assert_eq!((locks.open_file_usage().0, locks.lock_usage().0), (0, 1));
        let _ = completions_of(locks);
    });
}

#[test]
fn open_file_whose_transfer_is_withdrawn_is_released_in_portions() {
    with_table(LIMITS, |locks| {
        for byte in 0..1_000 {
            assert_eq!(set(locks, &ofd(7, 2 * byte, 2 * byte)).0, DONE);
        }
        assert!(locks.send_open_file(member(2), member(3), 7));
        locks.close_open_file(member(2), 7);
        assert_eq!(locks.lock_usage().0, 1_000);
        let ((), withdrawn) = steps(locks, |locks| {
            locks.retract_open_file(member(2), member(3), 7);
        });
        assert!(withdrawn < PORTION, "{withdrawn} steps");
        assert_eq!(locks.lock_usage().0, 1_000 - 64);
        // The open file is locked by the receiver again: then it is not closed any more.
        assert_eq!(locks.set(member(3), 1, &ofd(7, 5_000, 5_000)), DONE);
        assert!(!locks.has_releases());
        assert_eq!(locks.lock_usage().0, 1_001 - 64);
        for _ in 0..2 {
            locks.close_open_file(member(3), 7);
        }
        assert_eq!((locks.open_file_usage().0, locks.lock_usage().0), (0, 0));
    });
}
