//! Thousands of open files: a pending operation on one of them does not slow the others down.

use std::time::{Duration, Instant};

use libos_ipc::file_locks::{LockLimits, LockTable};
use libos_ipc::wire::{FileLock, LockKind};

use crate::edges::{DONE, WAITS, member, with_table};
use crate::requests::flock;

const HANDLES: u64 = 8192;
const LIMITS: LockLimits = LockLimits {
    locks: 8,
    files: 2,
    waiting: 2,
    open_files: HANDLES as usize,
};

/// Returns the shortest time of several rounds of locking and unlocking one open file.
fn time_of_locks(locks: &mut LockTable<'_>) -> Duration {
    let lock = FileLock {
        path: b"another",
        ..flock(1)
    };
    let unlock = FileLock {
        kind: LockKind::Unlock,
        ..lock
    };
    let round = || {
        let start = Instant::now();
        for _ in 0..200 {
            assert_eq!(locks.set(member(2), 0, &lock), DONE);
            assert_eq!(locks.set(member(2), 0, &unlock), DONE);
        }
        start.elapsed()
    };
    std::iter::repeat_with(round).take(20).min().unwrap()
}

#[test]
fn close_deferred_by_a_waiting_request_does_not_slow_other_locks() {
    with_table(LIMITS, |locks| {
        for handle in 1..HANDLES {
            assert!(locks.accept_open_file(member(2), handle));
        }
        let before = time_of_locks(locks);
        assert_eq!(locks.set(member(2), 0, &flock(2)), DONE);
        let waits = FileLock {
            wait: true,
            ..flock(3)
        };
        assert_eq!(locks.set(member(2), 1, &waits), WAITS);
        locks.close_open_file(member(2), 3);
        let meanwhile = time_of_locks(locks);
        assert!(
            meanwhile < 8 * before,
            "{meanwhile:?}, {before:?} without it"
        );
        locks.cancel(member(2), 1);
        assert_eq!(locks.open_file_usage().0, HANDLES as usize - 2);
    });
}

#[test]
fn unreachable_receiver_does_not_delay_notices_for_others() {
    with_table(LIMITS, |locks| {
        for (to, handle) in [(3, 1), (3, 2), (4, 1)] {
            assert!(locks.send_open_file(member(2), member(to), handle));
        }
        assert_eq!(locks.next_notice(), None, "nobody can be sent a notice yet");
        assert_eq!(locks.confirm_portion(member(3), u64::MAX, true), 0);
        assert_eq!(locks.confirm_portion(member(4), u64::MAX, true), 0);
        assert_eq!(locks.next_notice_for(member(4)), Some((member(4), 1)));
        for handle in [1, 2] {
            assert_eq!(locks.next_notice(), Some((member(3), handle)));
            locks.defer_notice(member(3), handle);
        }
        assert_eq!(locks.next_notice(), Some((member(4), 1)));
        locks.mark_notice_sent(member(4), 1);
        assert_eq!(locks.next_notice_for(member(4)), None);
        assert!(!locks.has_output(), "the others have no room");
        assert_eq!(locks.next_notice_for(member(3)), Some((member(3), 1)));
        locks.resume_output();
        // A retracted transfer needs no notice.
        locks.retract_open_file(member(2), member(3), 1);
        assert_eq!(locks.next_notice(), Some((member(3), 2)));
        locks.mark_notice_sent(member(3), 2);
        assert_eq!(locks.next_notice(), None);
    });
}
