//! The order in which the table serves waiting requests.

use libos_ipc::Errno;
use libos_ipc::file_locks::{LockLimits, LockTable};
use libos_ipc::wire::{Answer, FileLock, LockKind};

use crate::edges::{DONE, WAITS, completions_of, member, status, with_table};
use crate::requests::{flock, ofd, on, read, unlock, waiting, write};

const ROOM: LockLimits = LockLimits {
    locks: 32,
    files: 4,
    waiting: 4,
    open_files: 8,
};

/// Requests the lock for the member, which gets it at once.
fn lock_at_once(locks: &mut LockTable<'_>, who: u32, lock: FileLock<'_>) {
    assert_eq!(locks.set(member(who), 0, &lock), DONE, "{who}: {lock:?}");
}

/// Requests the lock for the member, which waits; the request has the member's number.
fn wait_for(locks: &mut LockTable<'_>, who: u32, lock: FileLock<'static>) {
    let set = locks.set(member(who), who.into(), &waiting(lock));
    assert_eq!(set, WAITS, "{who}: {lock:?}");
}

/// Adds two waiters: 4 for a range that only 2 holds, 5 for one that 3 holds; both for the bytes
/// between.
fn add_two_waiters(locks: &mut LockTable<'_>) {
    lock_at_once(locks, 2, write(1, 0, 9));
    lock_at_once(locks, 3, write(1, 20, 29));
    wait_for(locks, 4, write(1, 0, 19));
    wait_for(locks, 5, write(1, 19, 29));
}

#[test]
fn waiters_for_one_lock_are_served_in_order_of_arrival() {
    with_table(ROOM, |locks| {
        lock_at_once(locks, 2, write(1, 0, 9));
        for who in [4, 3, 5] {
            wait_for(locks, who, write(1, 0, 9));
        }
        for (who, next) in [(2, 4), (4, 3), (3, 5)] {
            locks.release_process(member(who), 1);
            let completion = (next, u64::from(next), Answer::DONE);
            assert_eq!(completions_of(locks), [completion]);
        }
    });
}

#[test]
fn waiter_passes_an_earlier_waiter_that_is_still_blocked() {
    with_table(ROOM, |locks| {
        add_two_waiters(locks);
        locks.release_process(member(3), 1);
        assert_eq!(completions_of(locks), [(5, 5, Answer::DONE)]);
        // The first waiter now waits for this lock, too.
        locks.release_process(member(2), 1);
        assert_eq!(completions_of(locks), []);
        lock_at_once(locks, 5, unlock(write(1, 19, 19)));
        assert_eq!(completions_of(locks), [(4, 4, Answer::DONE)]);
    });
}

#[test]
fn cancelled_waiter_does_not_affect_other_waiters() {
    type GiveUp = fn(&mut LockTable<'_>);
    let ways: [(GiveUp, Option<Errno>); 3] = [
        (|locks| locks.cancel(member(4), 4), Some(Errno::EINTR)),
        (
            |locks| locks.release_process(member(4), 1),
            Some(Errno::ESRCH),
        ),
        (|locks| locks.reclaim(member(4)), None),
    ];
    for (end_wait, errno) in ways {
        with_table(ROOM, |locks| {
            add_two_waiters(locks);
            end_wait(locks);
            let completions: Vec<_> = errno
                .map(|errno| (4, 4, status(errno)))
                .into_iter()
                .collect();
            assert_eq!(completions_of(locks), completions);
            locks.release_process(member(3), 1);
            assert_eq!(completions_of(locks), [(5, 5, Answer::DONE)]);
        });
    }
}

#[test]
fn waiter_passes_waiters_that_it_does_not_conflict_with() {
    let pairs = [
        (write(1, 0, 18), write(1, 19, 29)),
        (read(1, 0, 19), read(1, 10, 29)),
    ];
    for (first, second) in pairs {
        with_table(ROOM, |locks| {
            lock_at_once(locks, 2, write(1, 0, 9));
            lock_at_once(locks, 3, write(1, 20, 29));
            wait_for(locks, 4, first);
            wait_for(locks, 5, second);
            locks.release_process(member(3), 1);
            assert_eq!(completions_of(locks), [(5, 5, Answer::DONE)]);
        });
    }
}

#[test]
fn chain_of_waiters_waits_for_held_locks_only() {
    with_table(ROOM, |locks| {
        add_two_waiters(locks);
        lock_at_once(locks, 7, write(1, 30, 39));
        wait_for(locks, 6, write(1, 25, 39));
        locks.release_process(member(3), 1);
        assert_eq!(completions_of(locks), [(5, 5, Answer::DONE)]);
        locks.release_process(member(7), 1);
        locks.release_process(member(2), 1);
        assert_eq!(completions_of(locks), []);
        locks.release_process(member(5), 1);
        assert_eq!(
            completions_of(locks),
            [(4, 4, Answer::DONE), (6, 6, Answer::DONE)]
        );
    });
}

#[test]
fn holder_that_blocks_an_earlier_waiter_is_served_before_it() {
    with_table(ROOM, |locks| {
        lock_at_once(locks, 5, write(1, 0, 9));
        lock_at_once(locks, 3, write(1, 20, 29));
        wait_for(locks, 4, write(1, 0, 19));
        wait_for(locks, 5, write(1, 19, 29));
        locks.release_process(member(3), 1);
        assert_eq!(completions_of(locks), [(5, 5, Answer::DONE)]);
    });
}

#[test]
fn wait_on_one_file_does_not_block_another_file() {
    with_table(LockLimits { waiting: 8, ..ROOM }, |locks| {
        lock_at_once(locks, 2, write(1, 0, 9));
        lock_at_once(locks, 3, write(1, 20, 49));
        lock_at_once(locks, 8, on(b"b", write(1, 0, 9)));
        wait_for(locks, 4, write(1, 0, 15));
        wait_for(locks, 5, write(1, 15, 29));
        wait_for(locks, 7, write(1, 29, 49));
        // 4 waits for 2, which waits for 8.
        let set = locks.set(member(2), 2, &on(b"b", waiting(write(1, 0, 9))));
        assert_eq!(set, WAITS);
        locks.release_process(member(3), 1);
        assert_eq!(completions_of(locks), [(5, 5, Answer::DONE)]);
        locks.release_process(member(5), 1);
        assert_eq!(completions_of(locks), [(7, 7, Answer::DONE)]);
    });
}

#[test]
fn waiter_granted_a_weaker_lock_unblocks_other_waiters() {
    with_table(ROOM, |locks| {
        lock_at_once(locks, 5, write(1, 0, 9));
        lock_at_once(locks, 3, write(1, 10, 19));
        wait_for(locks, 4, read(1, 0, 9));
        wait_for(locks, 5, read(1, 0, 19));
        locks.release_process(member(3), 1);
        assert_eq!(
            completions_of(locks),
            [(5, 5, Answer::DONE), (4, 4, Answer::DONE)]
        );
    });
}

#[test]
fn downgrade_grants_every_waiting_read_lock_and_no_write_lock() {
    let shared = |lock| FileLock {
        kind: LockKind::Read,
        ..lock
    };
    let families: [fn(u64) -> FileLock<'static>; 3] =
        [|_| write(1, 0, 9), |handle| ofd(handle, 0, 9), flock];
    for lock in families {
        with_table(LockLimits { waiting: 8, ..ROOM }, |locks| {
            lock_at_once(locks, 2, lock(2));
            wait_for(locks, 3, lock(3));
            wait_for(locks, 4, shared(lock(4)));
            wait_for(locks, 5, lock(5));
            wait_for(locks, 6, shared(lock(6)));
            lock_at_once(locks, 2, shared(lock(2)));
            assert_eq!(
                completions_of(locks),
                [(4, 4, Answer::DONE), (6, 6, Answer::DONE)]
            );
            for who in [2, 4, 6] {
                locks.reclaim(member(who));
            }
            assert_eq!(completions_of(locks), [(3, 3, Answer::DONE)]);
            locks.reclaim(member(3));
            assert_eq!(completions_of(locks), [(5, 5, Answer::DONE)]);
        });
    }
}

#[test]
fn partial_unlock_grants_waiters_for_the_freed_bytes() {
    with_table(ROOM, |locks| {
        lock_at_once(locks, 2, write(1, 0, 29));
        wait_for(locks, 3, write(1, 5, 14));
        wait_for(locks, 4, write(1, 10, 19));
        wait_for(locks, 5, read(1, 15, 19));
        lock_at_once(locks, 2, unlock(write(1, 10, 19)));
        assert_eq!(completions_of(locks), [(4, 4, Answer::DONE)]);
        lock_at_once(locks, 2, read(1, 0, 9));
        assert_eq!(completions_of(locks), []);
        locks.reclaim(member(4));
        assert_eq!(completions_of(locks), [(5, 5, Answer::DONE)]);
    });
}

#[test]
fn read_lock_never_waits_for_a_waiting_write_lock() {
    with_table(ROOM, |locks| {
        lock_at_once(locks, 2, read(1, 0, 9));
        wait_for(locks, 3, write(1, 0, 9));
        for _ in 0..200 {
            lock_at_once(locks, 4, waiting(read(1, 0, 9)));
            locks.release_process(member(4), 1);
        }
        lock_at_once(locks, 4, waiting(read(1, 0, 9)));
        lock_at_once(locks, 5, read(1, 0, 9));
        locks.release_process(member(2), 1);
        locks.release_process(member(5), 1);
        assert_eq!(completions_of(locks), []);
        locks.release_process(member(4), 1);
        assert_eq!(completions_of(locks), [(3, 3, Answer::DONE)]);
    });
}

#[test]
fn wait_of_an_open_file_is_not_part_of_a_deadlock_cycle() {
    with_table(ROOM, |locks| {
        lock_at_once(locks, 2, write(1, 0, 9));
        lock_at_once(locks, 3, on(b"b", ofd(7, 0, 9)));
        wait_for(locks, 3, ofd(7, 0, 9));
        let wanted = waiting(write(1, 0, 9));
        assert_eq!(locks.set(member(2), 2, &on(b"b", wanted)), WAITS);
        locks.cancel(member(2), 2);
        assert_eq!(completions_of(locks), [(2, 2, status(Errno::EINTR))]);
    });
}

/// The kernel keeps an open file, and so its locks, for a system call in progress.
#[test]
fn closed_open_file_stays_until_its_waiting_requests_end() {
    with_table(ROOM, |locks| {
        lock_at_once(locks, 2, ofd(1, 0, 9));
        lock_at_once(locks, 2, flock(1));
        let wanted = [(3, 1, ofd(7, 0, 9)), (3, 2, flock(7))];
        for (who, seq, lock) in wanted {
            assert_eq!(locks.set(member(who), seq, &waiting(lock)), WAITS);
        }
        assert_eq!(locks.set(member(5), 5, &waiting(ofd(8, 0, 9))), WAITS);
        locks.close_open_file(member(3), 7);
        locks.close_open_file(member(3), 7);
        assert_eq!(completions_of(locks), []);
        // One request gets its lock, and the other still waits.
        lock_at_once(locks, 2, unlock(flock(1)));
        assert_eq!(completions_of(locks), [(3, 2, Answer::DONE)]);
        assert_eq!(locks.set(member(4), 6, &flock(4)), Err(Errno::EAGAIN));
        // When that request is cancelled, the open file has no holder any more.
        locks.cancel(member(3), 1);
        assert_eq!(completions_of(locks), [(3, 1, status(Errno::EINTR))]);
        lock_at_once(locks, 4, flock(4));
        locks.reclaim(member(2));
        assert_eq!(completions_of(locks), [(5, 5, Answer::DONE)]);
        // The lock that the request gets goes to the next waiter at once.
        assert_eq!(locks.set(member(3), 7, &waiting(ofd(7, 0, 9))), WAITS);
        assert_eq!(locks.set(member(6), 8, &waiting(ofd(6, 0, 9))), WAITS);
        locks.close_open_file(member(3), 7);
        locks.close_open_file(member(5), 8);
        assert_eq!(
            completions_of(locks),
            [(3, 7, Answer::DONE), (6, 8, Answer::DONE)]
        );
        locks.close_open_file(member(6), 6);
        locks.close_open_file(member(4), 4);
        assert_eq!(locks.open_file_usage().0, 0);
        assert_eq!(locks.lock_usage().0, 0);
    });
}

#[test]
fn lock_that_is_free_needs_no_slot_in_the_wait_queue() {
    with_table(ROOM, |locks| {
        lock_at_once(locks, 2, write(1, 0, 9));
        for who in 3..7 {
            wait_for(locks, who, write(1, 0, 9));
        }
        lock_at_once(locks, 7, waiting(write(1, 10, 19)));
    });
}

#[test]
fn full_wait_queue_refuses_a_conversion_and_keeps_the_old_lock() {
    with_table(ROOM, |locks| {
        let shared = |handle| FileLock {
            kind: LockKind::Read,
            ..flock(handle)
        };
        lock_at_once(locks, 2, shared(2));
        lock_at_once(locks, 3, shared(3));
        for who in 4..8 {
            wait_for(locks, who, flock(who.into()));
        }
        let wanted = waiting(flock(2));
        assert_eq!(locks.set(member(2), 9, &wanted), Err(Errno::ENOLCK));
        locks.close_open_file(member(3), 3);
        assert_eq!(completions_of(locks), []);
        locks.close_open_file(member(2), 2);
        assert_eq!(completions_of(locks), [(4, 4, Answer::DONE)]);
    });
}

/// A process that waits in one thread takes a free lock in another: that closes a cycle, though no
/// request waits anew. The kernel finds it when the lock is released that the other process in the
/// cycle has waited for, and wakes that one in vain.
#[test]
fn waiter_that_stays_blocked_gets_edeadlk_if_a_later_lock_has_closed_a_cycle() {
    with_table(ROOM, |locks| {
        lock_at_once(locks, 2, write(1, 0, 0));
        lock_at_once(locks, 4, on(b"/b", read(1, 9, 9)));
        wait_for(locks, 3, write(1, 0, 0));
        wait_for(locks, 2, on(b"/b", write(1, 9, 9)));
        lock_at_once(locks, 3, on(b"/b", read(1, 9, 9)));
        assert_eq!(completions_of(locks), []);
        locks.release_process(member(4), 1);
        assert_eq!(completions_of(locks), [(2, 2, status(Errno::EDEADLK))]);
        locks.release_process(member(2), 1);
        assert_eq!(completions_of(locks), [(3, 3, Answer::DONE)]);
    });
}
