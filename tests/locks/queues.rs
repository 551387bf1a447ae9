//! Who is served when, of those who are in each other's way.

use libos_ipc::locks::{LockLimits, Locks};
use libos_ipc::wire::{FileLock, LockKind};

use crate::edges::{DONE, EINTR, ENOLCK, WAITS, decided, member, on, read, status, with_table};
use crate::shares::{flock, ofd, unlock, waiting, write};

const EBADF: i32 = 9;
const ESRCH: i32 = 3;
const ROOM: LockLimits = LockLimits {
    locks: 32,
    files: 4,
    waiting: 4,
    handles: 8,
};

/// The member gets the lock at once.
fn gets(locks: &mut Locks<'_>, who: u32, lock: FileLock<'_>) {
    assert_eq!(locks.set(member(who), 0, &lock), DONE, "{who}: {lock:?}");
}

/// The member waits for it; the request has the member's number.
fn wants(locks: &mut Locks<'_>, who: u32, lock: FileLock<'static>) {
    let set = locks.set(member(who), who.into(), &waiting(lock));
    assert_eq!(set, WAITS, "{who}: {lock:?}");
}

/// Two who wait: 4 for what 2 and nobody else has, 5 for what 3 has; both for what lies between.
fn two_who_wait(locks: &mut Locks<'_>) {
    gets(locks, 2, write(1, 0, 9));
    gets(locks, 3, write(1, 20, 29));
    wants(locks, 4, write(1, 0, 19));
    wants(locks, 5, write(1, 19, 29));
}

#[test]
fn who_came_first_is_served_first() {
    with_table(ROOM, |locks| {
        two_who_wait(locks);
        locks.clear_pid(member(3), 1);
        assert_eq!(decided(locks), []);
        locks.clear_pid(member(2), 1);
        assert_eq!(decided(locks), [(4, 4, status(0))]);
        gets(locks, 4, unlock(write(1, 19, 19)));
        assert_eq!(decided(locks), [(5, 5, status(0))]);
    });
}

#[test]
fn who_stood_behind_one_that_gives_up_is_served() {
    type GiveUp = fn(&mut Locks<'_>);
    let ways: [(GiveUp, Option<i32>); 3] = [
        (|locks| locks.cancel(member(4), 4), Some(EINTR)),
        (|locks| locks.clear_pid(member(4), 1), Some(ESRCH)),
        (|locks| locks.left(member(4)), None),
    ];
    for (give_up, errno) in ways {
        with_table(ROOM, |locks| {
            two_who_wait(locks);
            locks.clear_pid(member(3), 1);
            assert_eq!(decided(locks), []);
            give_up(locks);
            let mut told = vec![(5, 5, status(0))];
            told.extend(errno.map(|errno| (4, 4, status(errno))));
            let mut all = decided(locks);
            all.sort_by_key(|(who, ..)| std::cmp::Reverse(*who));
            assert_eq!(all, told);
        });
    }
}

#[test]
fn who_is_in_nobodys_way_does_not_stand_behind_anybody() {
    let pairs = [
        (write(1, 0, 18), write(1, 19, 29)),
        (read(1, 0, 19), read(1, 10, 29)),
    ];
    for (first, second) in pairs {
        with_table(ROOM, |locks| {
            gets(locks, 2, write(1, 0, 9));
            gets(locks, 3, write(1, 20, 29));
            wants(locks, 4, first);
            wants(locks, 5, second);
            locks.clear_pid(member(3), 1);
            assert_eq!(decided(locks), [(5, 5, status(0))]);
        });
    }
}

#[test]
fn who_stands_behind_one_that_stands_behind_another_waits_for_both() {
    with_table(ROOM, |locks| {
        two_who_wait(locks);
        gets(locks, 7, write(1, 30, 39));
        wants(locks, 6, write(1, 25, 39));
        locks.clear_pid(member(3), 1);
        locks.clear_pid(member(7), 1);
        assert_eq!(decided(locks), []);
        for who in [2, 4, 5] {
            locks.clear_pid(member(who), 1);
            assert_eq!(decided(locks).len(), 1);
        }
        locks.clear_pid(member(6), 1);
    });
}

#[test]
fn whom_the_first_waits_for_goes_before_it() {
    with_table(ROOM, |locks| {
        gets(locks, 5, write(1, 0, 9));
        gets(locks, 3, write(1, 20, 29));
        wants(locks, 4, write(1, 0, 19));
        wants(locks, 5, write(1, 19, 29));
        locks.clear_pid(member(3), 1);
        assert_eq!(decided(locks), [(5, 5, status(0))]);
    });
    // Through another, who comes to wait for it only when it stands in the queue.
    with_table(ROOM, |locks| {
        two_who_wait(locks);
        gets(locks, 5, on(b"b", write(1, 0, 9)));
        locks.clear_pid(member(3), 1);
        assert_eq!(decided(locks), []);
        let other = waiting(write(1, 9, 9));
        let set = locks.set(member(2), 2, &on(b"b", other));
        assert_eq!(set, WAITS);
        assert_eq!(decided(locks), [(5, 5, status(0))]);
    });
}

#[test]
fn whom_it_waits_for_goes_before_it_once_others_are_served() {
    with_table(LockLimits { waiting: 8, ..ROOM }, |locks| {
        let more = |locks: &mut Locks<'_>, who, seq, lock: FileLock<'_>| {
            assert_eq!(locks.set(member(who), seq, &lock), WAITS);
        };
        gets(locks, 2, write(1, 0, 9));
        gets(locks, 3, write(1, 20, 49));
        gets(locks, 7, on(b"c", write(1, 0, 9)));
        gets(locks, 8, on(b"b", write(1, 0, 9)));
        // Another's place, so that 7 is looked at first though it comes last.
        wants(locks, 9, write(1, 0, 9));
        wants(locks, 4, write(1, 0, 15));
        more(locks, 5, 51, waiting(write(1, 15, 29)));
        more(locks, 5, 52, waiting(write(1, 15, 29)));
        wants(locks, 6, write(1, 29, 39));
        locks.left(member(9));
        wants(locks, 7, write(1, 39, 49));
        more(locks, 5, 53, on(b"b", waiting(write(1, 0, 9))));
        more(locks, 5, 54, on(b"c", waiting(write(1, 0, 9))));
        // From now on they only stand in a queue: 4, 5, 6, 7.
        locks.clear_pid(member(3), 1);
        assert_eq!(decided(locks), []);
        // 4 waits for 2, and that for 5, behind which it stands on the other file. With what 5 has
        // then, 6 waits for it, and 5 for 7.
        more(locks, 2, 2, on(b"b", waiting(write(1, 0, 9))));
        let told = [(5, 51), (5, 52), (7, 7)].map(|(who, seq)| (who, seq, status(0)));
        assert_eq!(decided(locks), told);
    });
}

#[test]
fn who_has_less_than_before_lets_others_go_on() {
    with_table(ROOM, |locks| {
        gets(locks, 5, write(1, 0, 9));
        gets(locks, 3, write(1, 10, 19));
        wants(locks, 4, read(1, 0, 9));
        wants(locks, 5, read(1, 0, 19));
        locks.clear_pid(member(3), 1);
        assert_eq!(decided(locks), [(5, 5, status(0)), (4, 4, status(0))]);
    });
}

#[test]
fn who_is_passed_by_too_often_is_passed_no_more() {
    with_table(ROOM, |locks| {
        gets(locks, 2, read(1, 0, 9));
        wants(locks, 3, write(1, 0, 9));
        // What is not in its way does not count.
        for _ in 0..100 {
            gets(locks, 4, waiting(read(1, 10, 19)));
            locks.clear_pid(member(4), 1);
        }
        for _ in 0..64 {
            gets(locks, 4, waiting(read(1, 0, 9)));
            locks.clear_pid(member(4), 1);
        }
        wants(locks, 4, read(1, 0, 9));
        // But who can't wait, who is not in its way, and whom it waits for itself.
        gets(locks, 5, read(1, 0, 9));
        gets(locks, 6, waiting(read(1, 10, 19)));
        gets(locks, 2, waiting(read(1, 5, 15)));
        locks.clear_pid(member(2), 1);
        assert_eq!(decided(locks), []);
        locks.clear_pid(member(5), 1);
        assert_eq!(decided(locks), [(3, 3, status(0))]);
        locks.clear_pid(member(3), 1);
        assert_eq!(decided(locks), [(4, 4, status(0))]);
    });
}

#[test]
fn an_open_files_wait_makes_no_circle() {
    with_table(ROOM, |locks| {
        gets(locks, 2, write(1, 0, 9));
        gets(locks, 3, on(b"b", ofd(7, 0, 9)));
        wants(locks, 3, ofd(7, 0, 9));
        let wanted = waiting(write(1, 0, 9));
        assert_eq!(locks.set(member(2), 2, &on(b"b", wanted)), WAITS);
        locks.cancel(member(2), 2);
        assert_eq!(decided(locks), [(2, 2, status(EINTR))]);
    });
}

#[test]
fn who_closes_an_open_file_waits_for_it_no_more() {
    with_table(ROOM, |locks| {
        gets(locks, 2, ofd(1, 0, 9));
        gets(locks, 2, flock(1));
        let wanted = [(3, 1, ofd(7, 0, 9)), (3, 2, flock(7)), (3, 3, ofd(8, 0, 9))];
        for (who, seq, lock) in wanted {
            assert_eq!(locks.set(member(who), seq, &waiting(lock)), WAITS);
        }
        assert_eq!(locks.set(member(4), 4, &waiting(ofd(7, 0, 9))), WAITS);
        locks.close_handle(member(3), 7);
        assert_eq!(
            decided(locks),
            [(3, 1, status(EBADF)), (3, 2, status(EBADF))]
        );
        locks.left(member(4));
        locks.left(member(2));
        assert_eq!(decided(locks), [(3, 3, status(0))]);
    });
}

#[test]
fn who_need_not_wait_needs_no_place_to() {
    with_table(ROOM, |locks| {
        gets(locks, 2, write(1, 0, 9));
        for who in 3..7 {
            wants(locks, who, write(1, 0, 9));
        }
        gets(locks, 7, waiting(write(1, 10, 19)));
    });
}

#[test]
fn who_finds_no_place_to_wait_keeps_what_it_has() {
    with_table(ROOM, |locks| {
        let shared = |handle| FileLock {
            kind: LockKind::Read,
            ..flock(handle)
        };
        gets(locks, 2, shared(2));
        gets(locks, 3, shared(3));
        for who in 4..8 {
            wants(locks, who, flock(who.into()));
        }
        let wanted = waiting(flock(2));
        assert_eq!(locks.set(member(2), 9, &wanted), Err(ENOLCK));
        locks.close_handle(member(3), 3);
        assert_eq!(decided(locks), []);
        locks.close_handle(member(2), 2);
        assert_eq!(decided(locks), [(4, 4, status(0))]);
    });
}
