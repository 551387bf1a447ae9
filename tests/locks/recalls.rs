//! The leader's side of delegations: when it delegates a file, which holders it recalls, and which
//! returns it accepts.

use libos_ipc::Errno;
use libos_ipc::file_locks::{AwaitedBy, LockLimits, LockTable, SetOutcome};
use libos_ipc::wire::{
    Answer, DelegatedLock, DelegatedLockList, DelegatedLocks, Frame, HeldLock, LockFamily,
    LockKind, Message,
};

use crate::edges::{DONE, WAITS, completions_of, member, now, status, with_table};
use crate::requests::{flock, ofd, on, read, unlock, waiting, write};

const DELEGATED: Result<SetOutcome, Errno> = Ok(SetOutcome::Delegated(DelegatedLocks::MAX));

/// Room for four delegations.
const ROOM: LockLimits = LockLimits {
    locks: 8 * DelegatedLocks::MAX,
    files: 8,
    waiting: 8,
    open_files: 8,
};

/// Requests the file of that name for the member, under that number.
fn set_or_delegate(
    locks: &mut LockTable<'_>,
    who: u32,
    name: u8,
    number: u64,
) -> Result<SetOutcome, Errno> {
    locks.set_or_delegate(member(who), 1, &on(&[name], write(1, 0, 9)), number)
}

/// Returns the member's delegation with these locks: process, first and last byte, write lock.
fn return_delegation(
    locks: &mut LockTable<'_>,
    who: u32,
    number: u64,
    given: &[(u32, u64, u64, bool)],
) -> bool {
    let mut list = DelegatedLockList::new();
    for (pid, start, end, write) in given.iter().copied() {
        assert!(list.push(DelegatedLock {
            start,
            end,
            pid,
            write
        }));
    }
    locks.return_delegation(member(who), number, list.locks())
}

/// Another member requests the file.
fn recall(locks: &mut LockTable<'_>, seq: u64, name: u8) {
    let name = [name];
    let lock = on(&name, write(1, 0, 9));
    assert_eq!(locks.set(member(9), seq, &lock), WAITS);
}

/// Returns the recalls that are to be sent; none of them finds room.
fn round(locks: &mut LockTable<'_>) -> Vec<(u32, u64)> {
    let mut all = Vec::new();
    locks.resume_output();
    while let Some((to, number)) = locks.next_recall() {
        all.push((to.get(), number));
        locks.defer_recall(to, number);
    }
    assert!(!locks.has_output(), "what has no room is passed over");
    all
}

#[test]
fn number_of_delegations_is_limited_by_the_reserved_locks() {
    for (locks, files, limit) in [
        (63, 8, 0),
        (64, 8, 1),
        (127, 8, 1),
        (256, 4, 2),
        (256, 2, 1),
    ] {
        let limits = LockLimits {
            locks,
            files,
            ..ROOM
        };
        with_table(limits, |locks| {
            assert_eq!(locks.delegation_limit(), limit);
            for at in 0..limit {
                assert_eq!(set_or_delegate(locks, 2, at as u8, at as u64), DELEGATED);
                assert_eq!(locks.delegation_usage(), (at + 1, at + 1));
            }
            assert_eq!(set_or_delegate(locks, 2, 99, 99), DONE);
            locks.reclaim(member(2));
            assert_eq!(locks.delegation_usage(), (0, limit));
        });
    }
}

#[test]
fn slots_for_returned_locks_stay_reserved() {
    let limits = LockLimits { locks: 64, ..ROOM };
    let own = |at: u64| on(b"own", write(1, at * 2, at * 2));
    with_table(limits, |locks| {
        for at in 0..33 {
            assert_eq!(locks.set(member(3), 1, &own(at)), DONE);
        }
        assert_eq!(
            set_or_delegate(locks, 2, b'a', 1),
            DONE,
            "no room for 32 more"
        );
        locks.reclaim(member(2));
        assert_eq!(locks.set(member(3), 1, &unlock(own(32))), DONE);
        assert_eq!(set_or_delegate(locks, 2, b'a', 1), DELEGATED);
        assert_eq!(locks.set(member(3), 1, &own(32)), Err(Errno::ENOLCK));
        let all: Vec<_> = (0..32).map(|at| (1, at * 2, at * 2, true)).collect();
        assert!(return_delegation(locks, 2, 1, &all));
        assert_eq!(now(locks)[0], 64);
    });
}

#[test]
fn only_unused_files_are_delegated() {
    with_table(ROOM, |locks| {
        for lock in [read(1, 0, 0), write(1, 0, 0), ofd(1, 0, 0)] {
            assert_eq!(locks.set(member(2), 1, &on(b"a", lock)), DONE);
            let other = on(b"a", read(1, 5, 9));
            assert_eq!(locks.set_or_delegate(member(3), 1, &other, 1), DONE);
            assert!(!locks.is_delegated(&other));
            locks.reclaim(member(3));
            locks.reclaim(member(2));
        }
        // A `flock` lock is independent.
        assert_eq!(locks.set(member(2), 1, &on(b"a", flock(1))), DONE);
        let lock = on(b"a", write(1, 0, 9));
        assert_eq!(
            locks.set_or_delegate(member(3), 1, &unlock(write(1, 0, 9)), 1),
            DONE
        );
        assert_eq!(set_or_delegate(locks, 3, b'a', 1), DELEGATED);
        assert!(locks.is_delegated(&lock) && locks.is_delegated(&on(b"a", ofd(1, 0, 9))));
        assert!(
            !locks.is_delegated(&on(b"a", flock(1)))
                && !locks.is_delegated(&on(b"b", ofd(1, 0, 9)))
        );
        assert_eq!(
            locks.set(member(3), 1, &on(b"a", flock(2))),
            Err(Errno::EAGAIN)
        );
        // Numbers of delegations are separate for each member.
        assert_eq!(set_or_delegate(locks, 3, b'b', 1), DONE);
        assert_eq!(set_or_delegate(locks, 4, b'c', 1), DELEGATED);
        assert_eq!(set_or_delegate(locks, 3, b'd', 2), DELEGATED);
        assert!(!return_delegation(locks, 5, 1, &[]) && !return_delegation(locks, 3, 3, &[]));
        assert!(return_delegation(locks, 3, 1, &[(1, 0, 9, true)]));
        assert_eq!(
            locks.get(member(4), &lock).map(|found| found.is_some()),
            Ok(true)
        );
        assert_eq!(now(locks)[4], 2);
    });
}

#[test]
fn recall_is_repeated_each_round_until_it_is_sent() {
    with_table(ROOM, |locks| {
        for at in 1..=4 {
            assert_eq!(
                set_or_delegate(locks, at + 1, at as u8, at.into()),
                DELEGATED
            );
        }
        assert_eq!(round(locks), []);
        assert!(!locks.has_output());
        locks.mark_recall_sent(member(2), 1);
        for (seq, name) in [(1, 3), (2, 1), (3, 4), (4, 1)] {
            recall(locks, seq, name);
        }
        assert!(locks.has_output());
        let all = [(4, 3), (2, 1), (5, 4)];
        assert_eq!(round(locks), all);
        assert_eq!(round(locks), all);
        locks.mark_recall_sent(member(3), 2);
        for _ in 0..2 {
            locks.mark_recall_sent(member(2), 1);
            assert_eq!(round(locks), [(4, 3), (5, 4)]);
        }
        locks.mark_recall_sent(member(5), 4);
        locks.mark_recall_sent(member(4), 3);
        assert_eq!(round(locks), []);
        recall(locks, 5, 2);
        assert_eq!(round(locks), [(3, 2)]);
    });
}

#[test]
fn recalled_file_is_awaited_by_others_as_soon_as_one_request_would_not_wait_for_a_lock() {
    let many = LockLimits {
        waiting: 70,
        ..ROOM
    };
    with_table(many, |locks| {
        let awaited_by = |locks: &mut LockTable<'_>, name: u8| {
            locks.awaited_by(member(u32::from(name)), name.into())
        };
        for name in 2..=4 {
            let number = name.into();
            assert_eq!(
                set_or_delegate(locks, u32::from(name), name, number),
                DELEGATED
            );
            assert_eq!(awaited_by(locks, name), None);
        }
        let patient = |name: &'static [u8]| on(name, waiting(write(1, 0, 9)));
        for seq in 1..=64 {
            assert_eq!(locks.set(member(9), seq, &patient(&[2])), WAITS);
            assert_eq!(awaited_by(locks, 2), Some(AwaitedBy::Waiters));
        }
        // The search is bounded.
        assert_eq!(locks.set(member(9), 65, &patient(&[2])), WAITS);
        assert_eq!(awaited_by(locks, 2), Some(AwaitedBy::Others));
        assert_eq!(locks.set(member(9), 66, &patient(&[3])), WAITS);
        recall(locks, 67, 3);
        assert_eq!(awaited_by(locks, 3), Some(AwaitedBy::Others));
        let query = on(&[4], write(1, 0, 9));
        assert_eq!(locks.get_or_queue(member(9), 68, &query), None);
        assert_eq!(awaited_by(locks, 4), Some(AwaitedBy::Others));
        locks.cancel(member(9), 68);
        assert_eq!(awaited_by(locks, 4), Some(AwaitedBy::Others));
        assert_eq!(locks.awaited_by(member(2), 3), None);
        // The sender of so many requests is gone in more than one portion.
        for number in 2..10 {
            locks.reclaim(member(number));
            while locks.has_releases() {
                locks.release_portion();
            }
        }
    });
}

#[test]
fn returned_delegation_is_recalled_no_more_and_others_still_are() {
    // Each of them first: the oldest, one between two others, the newest.
    let orders = [
        [1, 2, 3],
        [1, 3, 2],
        [2, 1, 3],
        [2, 3, 1],
        [3, 1, 2],
        [3, 2, 1],
    ];
    for order in orders {
        with_table(ROOM, |locks| {
            for at in 1..=3 {
                assert_eq!(set_or_delegate(locks, 2, at as u8, at), DELEGATED);
                recall(locks, at, at as u8);
            }
            let mut left = vec![1, 2, 3];
            for number in order {
                assert!(return_delegation(locks, 2, number, &[]));
                assert_eq!(completions_of(locks), [(9, number, Answer::DONE)]);
                left.retain(|other| *other != number);
                let expected: Vec<_> = left.iter().map(|number| (2, *number)).collect();
                assert_eq!(round(locks), expected, "{order:?}");
            }
            // A new recall comes last.
            assert_eq!(set_or_delegate(locks, 2, 4, 4), DELEGATED);
            assert_eq!(set_or_delegate(locks, 2, 5, 5), DELEGATED);
            recall(locks, 4, 5);
            recall(locks, 5, 4);
            assert_eq!(round(locks), [(2, 5), (2, 4)]);
        });
    }
}

#[test]
fn oldest_outstanding_recall_is_overdue_first() {
    with_table(ROOM, |locks| {
        assert_eq!(set_or_delegate(locks, 2, 1, 1), DELEGATED);
        assert_eq!(set_or_delegate(locks, 3, 2, 2), DELEGATED);
        assert_eq!(set_or_delegate(locks, 4, 3, 3), DELEGATED);
        assert_eq!((locks.first_recall(), locks.last_recall()), (None, 0));
        for at in 1..=3 {
            recall(locks, at, at as u8);
            assert_eq!(locks.first_recall(), Some((1, member(2))));
            assert_eq!(locks.last_recall(), at);
        }
        locks.reclaim(member(2));
        assert_eq!(locks.first_recall(), Some((2, member(3))));
        assert!(return_delegation(locks, 3, 2, &[]));
        assert_eq!(locks.first_recall(), Some((3, member(4))));
        assert!(return_delegation(locks, 4, 3, &[]));
        assert_eq!((locks.first_recall(), locks.last_recall()), (None, 3));
        assert_eq!(completions_of(locks).len(), 3);
    });
}

#[test]
fn deferred_requests_are_answered_after_the_return() {
    with_table(ROOM, |locks| {
        assert_eq!(set_or_delegate(locks, 2, b'a', 1), DELEGATED);
        let a = |lock| on(b"a", lock);
        // The holder unlocks a part, and others query, lock or wait.
        assert_eq!(locks.set(member(2), 1, &a(unlock(write(1, 5, 9)))), WAITS);
        assert_eq!(locks.get_or_queue(member(3), 2, &a(write(1, 0, 9))), None);
        assert_eq!(locks.get_or_queue(member(3), 3, &a(read(1, 5, 9))), None);
        assert_eq!(
            locks.get_or_queue(member(3), 4, &a(read(1, 9, 5))),
            Some(Err(Errno::EINVAL))
        );
        assert_eq!(
            locks.get_or_queue(member(3), 4, &a(unlock(read(1, 0, 9)))),
            Some(Err(Errno::EINVAL))
        );
        assert_eq!(
            locks.get_or_queue(member(3), 4, &a(flock(1))),
            Some(Ok(None))
        );
        assert_eq!(locks.set(member(4), 5, &a(write(1, 4, 4))), WAITS);
        assert_eq!(locks.set(member(4), 6, &a(write(1, 5, 5))), WAITS);
        assert_eq!(locks.set(member(5), 7, &a(waiting(write(1, 3, 3)))), WAITS);
        assert_eq!(locks.set(member(5), 8, &a(write(1, 6, 6))), WAITS);
        // Other members have nothing to unlock there.
        assert_eq!(locks.set(member(6), 9, &a(unlock(write(1, 0, 9)))), DONE);
        assert_eq!(locks.waiting_usage().0, 7);
        locks.cancel(member(5), 8);
        assert_eq!(completions_of(locks), [(5, 8, status(Errno::EINTR))]);
        assert_eq!(round(locks), [(2, 1)]);
        assert!(return_delegation(locks, 2, 1, &[(1, 0, 9, true)]));
        let found = HeldLock {
            family: LockFamily::Posix,
            write: true,
            start: 0,
            end: 4,
            pid: 1,
            handle: 0,
        };
        let lock = |found: Option<HeldLock>| Answer::Lock(Ok(found));
        let completions = [
            (2, 1, Answer::DONE),
            (3, 2, lock(Some(found))),
            (3, 3, lock(None)),
            (4, 5, status(Errno::EAGAIN)),
            (4, 6, Answer::DONE),
        ];
        assert_eq!(completions_of(locks), completions);
        assert_eq!(locks.waiting_usage().0, 1);
        locks.reclaim(member(2));
        assert_eq!(completions_of(locks), [(5, 7, Answer::DONE)]);
    });
}

#[test]
fn full_wait_queue_refuses_requests_for_a_delegated_file() {
    let limits = LockLimits { waiting: 1, ..ROOM };
    with_table(limits, |locks| {
        assert_eq!(set_or_delegate(locks, 2, b'a', 1), DELEGATED);
        let a = on(b"a", write(1, 0, 9));
        assert_eq!(locks.get_or_queue(member(3), 1, &a), None);
        assert_eq!(
            locks.get_or_queue(member(3), 2, &a),
            Some(Err(Errno::ENOLCK))
        );
        assert_eq!(locks.set(member(3), 2, &a), Err(Errno::ENOLCK));
        locks.reclaim(member(3));
        assert_eq!(locks.set(member(4), 3, &a), WAITS);
        locks.reclaim(member(2));
        assert_eq!(completions_of(locks), [(4, 3, Answer::DONE)]);
    });
}

#[test]
fn return_with_impossible_locks_is_refused_and_changes_nothing_else() {
    let cases: [&[(u32, u64, u64, bool)]; 4] = [
        &[(1, 0, 9, true), (2, 9, 9, true)],
        &[(1, 0, 9, true), (2, 9, 9, false)],
        &[(1, 0, 9, false), (2, 9, 9, true)],
        &[(1, 0, 9, false), (1, 9, 9, false)],
    ];
    for given in cases {
        with_table(ROOM, |locks| {
            let kept = [(2, on(b"b", write(1, 0, 9))), (3, on(b"c", write(1, 0, 9)))];
            for (who, lock) in &kept {
                assert_eq!(locks.set(member(*who), 1, lock), DONE);
            }
            assert_eq!(set_or_delegate(locks, 2, b'a', 1), DELEGATED);
            assert!(!return_delegation(locks, 2, 1, given), "{given:?}");
            assert_eq!(now(locks)[..2], [2, 2]);
            for (_, lock) in &kept {
                assert_eq!(locks.set(member(4), 1, lock), Err(Errno::EAGAIN));
            }
            assert_eq!(
                set_or_delegate(locks, 2, b'a', 2),
                DONE,
                "it can't go on alone"
            );
        });
    }
    // Two read locks, and one owner with two locks, are possible.
    with_table(ROOM, |locks| {
        assert_eq!(set_or_delegate(locks, 2, b'a', 1), DELEGATED);
        let given = [(1, 0, 9, false), (2, 9, 12, false), (2, 20, 29, true)];
        assert!(return_delegation(locks, 2, 1, &given));
        assert_eq!(now(locks)[0], 3);
    });
}

#[test]
fn return_with_too_many_locks_is_refused() {
    with_table(ROOM, |locks| {
        for (count, is_right) in [
            (DelegatedLocks::MAX, true),
            (DelegatedLocks::MAX + 1, false),
        ] {
            let number = count as u64;
            assert_eq!(set_or_delegate(locks, 2, count as u8, number), DELEGATED);
            let mut payload = [number, count as u64].map(u64::to_le_bytes).concat();
            for at in 0..count as u64 {
                payload.extend([at * 2, at * 2].map(u64::to_le_bytes).concat());
                payload.extend(
                    [1, LockKind::Write.number().cast_unsigned()]
                        .map(u32::to_le_bytes)
                        .concat(),
                );
            }
            let frame = Frame {
                seq: 0,
                code: 75,
                payload: &payload,
            };
            let Ok(Message::FileLockReturn {
                delegation,
                locks: given,
            }) = frame.message()
            else {
                panic!("no such frame");
            };
            assert_eq!(
                locks.return_delegation(member(2), delegation, given),
                is_right
            );
            assert_eq!(now(locks)[0], DelegatedLocks::MAX);
        }
    });
}

/// Lets two members contend for the file; the second made the last request.
fn contend(locks: &mut LockTable<'_>, name: &[u8]) {
    let lock = on(name, write(1, 0, 9));
    assert_eq!(locks.set_or_delegate(member(2), 1, &lock, 1), DELEGATED);
    assert_eq!(locks.set(member(3), 1, &lock), WAITS);
    assert!(return_delegation(locks, 2, 1, &[]));
    assert_eq!(completions_of(locks), [(3, 1, Answer::DONE)]);
    locks.release_process(member(3), 1);
}

#[test]
fn contended_file_needs_consecutive_uses_before_it_is_delegated() {
    // Requests of another member in between: some count as use, some do not.
    let lock = on(b"q", write(1, 0, 9));
    let between = [
        (on(b"q", flock(5)), false),
        (on(b"q", unlock(write(1, 0, 9))), false),
        (on(b"q", ofd(5, 50, 50)), true),
        (lock, true),
    ];
    for (theirs, counts) in between {
        with_table(ROOM, |locks| {
            contend(locks, lock.path);
            for at in 1..32 {
                // A request with or without a delegation counts as use.
                let set = if at % 2 == 0 {
                    locks.set(member(3), 1, &lock)
                } else {
                    locks.set_or_delegate(member(3), 1, &lock, 2)
                };
                assert_eq!(set, DONE, "{at}");
                locks.release_process(member(3), 1);
            }
            assert_eq!(locks.set(member(2), 1, &theirs), DONE);
            locks.reclaim(member(2));
            let expected = if counts { DONE } else { DELEGATED };
            assert_eq!(locks.set_or_delegate(member(3), 1, &lock, 2), expected);
        });
    }
}

#[test]
fn contention_on_one_file_does_not_prevent_delegation_of_others() {
    with_table(ROOM, |locks| {
        contend(locks, b"q");
        for number in 0..1_000 {
            let name = number.to_string();
            let lock = on(name.as_bytes(), write(1, 0, 9));
            assert_eq!(
                locks.set_or_delegate(member(3), 1, &lock, 1),
                DELEGATED,
                "{number}"
            );
            locks.reclaim(member(3));
        }
        assert_eq!(set_or_delegate(locks, 3, b'q', 1), DONE);
    });
}

#[test]
fn member_that_left_with_a_recalled_file_gets_no_delegation_when_it_comes_back() {
    with_table(ROOM, |locks| {
        assert_eq!(set_or_delegate(locks, 2, b'a', 1), DELEGATED);
        assert_eq!(set_or_delegate(locks, 4, b'b', 1), DELEGATED);
        recall(locks, 1, b'a');
        locks.reclaim(member(2));
        // A member that leaves with a file that nobody has asked for comes back as before.
        locks.reclaim(member(4));
        assert_eq!(completions_of(locks), [(9, 1, Answer::DONE)]);
        assert_eq!(set_or_delegate(locks, 2, b'c', 2), DONE);
        locks.reclaim(member(2));
        assert_eq!(set_or_delegate(locks, 4, b'c', 2), DELEGATED);
        locks.reclaim(member(4));
    });
}

#[test]
fn contended_file_is_not_delegated_after_contention_on_files_that_replace_it_in_the_table() {
    with_table(ROOM, |locks| {
        contend(locks, b"q");
        // Enough files that each entry of the table is used by another file.
        for number in 0..1_000 {
            let name = number.to_string();
            let lock = on(name.as_bytes(), write(1, 0, 9));
            let set = locks.set_or_delegate(member(2), 1, &lock, 1);
            if set == DELEGATED {
                assert_eq!(locks.set(member(3), 1, &lock), WAITS);
                assert!(return_delegation(locks, 2, 1, &[]));
                assert_eq!(completions_of(locks), [(3, 1, Answer::DONE)]);
            }
            locks.release_process(member(2), 1);
            locks.release_process(member(3), 1);
        }
        assert_eq!(set_or_delegate(locks, 3, b'q', 1), DONE);
    });
}
