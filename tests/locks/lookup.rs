//! The lock that `F_GETLK` and `F_OFD_GETLK` return.

use libos_ipc::file_locks::{LockLimits, LockTable, SetOutcome};
use libos_ipc::wire::{DelegatedLockList, DelegatedLocks, FileLock, HeldLock, LockFamily};
use libos_ipc::{Errno, Id, Vmid};

use crate::delegations::{delegations, held, sent, set};
use crate::edges::{DONE, member, with_table};
use crate::host_family::Family;
use crate::requests::{WAIT, flock, ofd, on, read, unlock, write};

const ROOM: LockLimits = LockLimits {
    locks: 4 * DelegatedLocks::MAX,
    files: 4,
    waiting: 1,
    open_files: 8,
};

fn own(lock: FileLock<'static>) -> FileLock<'static> {
    unlock(lock)
}

/// Returns the first and the last byte of the returned lock, and whether it is a write lock.
fn named(locks: &LockTable<'_>, who: Vmid, lock: &FileLock<'_>) -> Option<(u64, u64, bool)> {
    let found = locks.get(who, lock).unwrap();
    found.map(|held| (held.start, held.end, held.write))
}

#[test]
fn getlk_names_the_conflicting_lock_that_starts_lowest_to_read_or_to_write() {
    with_table(ROOM, |locks| {
        for start in [20, 0, 60, 40] {
            assert_eq!(locks.set(member(2), 1, &write(1, start, start + 9)), DONE);
        }
        let ask = |locks: &LockTable<'_>, lock| named(locks, member(3), &lock);
        assert_eq!(ask(locks, write(2, 0, 99)), Some((0, 9, true)));
        assert_eq!(ask(locks, read(2, 10, u64::MAX)), Some((20, 29, true)));
        assert_eq!(ask(locks, write(2, 30, 50)), Some((40, 49, true)));
        assert_eq!(ask(locks, ofd(9, 61, 61)), Some((60, 69, true)));
        locks.reclaim(member(2));

        assert_eq!(locks.set(member(2), 1, &write(1, 10, 14)), DONE);
        assert_eq!(locks.set(member(2), 1, &read(1, 1, 5)), DONE);
        assert_eq!(locks.set(member(4), 1, &ofd(7, 20, u64::MAX)), DONE);
        assert_eq!(ask(locks, write(2, 0, 99)), Some((1, 5, false)));
        assert_eq!(ask(locks, read(2, 0, 99)), Some((10, 14, true)));
        assert_eq!(ask(locks, write(2, 6, u64::MAX)), Some((10, 14, true)));
        assert_eq!(
            ask(locks, write(2, 15, u64::MAX)),
            Some((20, u64::MAX, true))
        );
        let first = |lock| named(locks, member(2), &lock);
        assert_eq!(
            first(write(1, 0, 99)),
            Some((20, u64::MAX, true)),
            "not one's own"
        );
        assert_eq!(first(ofd(7, 0, 99)), Some((1, 5, false)));
    });
}

#[test]
fn repeated_getlk_finds_every_lock() {
    with_table(ROOM, |locks| {
        let mut expected = Vec::new();
        for at in [3, 1, 4, 0, 5, 2_u64] {
            let range = (at * 10, at * 10 + 4);
            let number = u32::try_from(at).unwrap();
            let lock = match at % 3 {
                0 => write(number, range.0, range.1),
                1 => read(number, range.0, range.1),
                _ => ofd(at, range.0, range.1),
            };
            assert_eq!(locks.set(member(2 + number % 2), 1, &lock), DONE);
            expected.push(range);
        }
        expected.sort_unstable();
        let mut found = Vec::new();
        let mut from = 0;
        while let Some((start, end, _)) = named(locks, member(4), &write(9, from, u64::MAX)) {
            found.push((start, end));
            from = end + 1;
        }
        assert_eq!(found, expected);
    });
}

#[test]
fn of_read_locks_with_one_start_getlk_names_the_one_whose_owner_locked_first() {
    with_table(ROOM, |locks| {
        let ask = |locks: &LockTable<'_>| named(locks, member(9), &write(9, 0, 99));
        assert_eq!(locks.set(member(5), 1, &read(1, 50, 59)), DONE);
        for (who, end) in [(3, 3), (2, 2), (4, 4)] {
            assert_eq!(locks.set(member(who), 1, &read(1, 0, end)), DONE);
        }
        assert_eq!(ask(locks), Some((0, 3, false)));
        // This member locked the file before the others, at another range.
        assert_eq!(locks.set(member(5), 1, &read(1, 0, 5)), DONE);
        assert_eq!(ask(locks), Some((0, 5, false)));
        // An owner that releases all its locks loses its place in the order.
        for who in [5, 3] {
            let all = unlock(write(1, 0, u64::MAX));
            assert_eq!(locks.set(member(who), 1, &all), DONE);
            assert_eq!(locks.set(member(who), 1, &read(1, 0, u64::from(who))), DONE);
        }
        assert_eq!(ask(locks), Some((0, 2, false)));
    });
}

#[test]
fn ofd_getlk_with_unlck_names_the_first_own_lock() {
    with_table(ROOM, |locks| {
        for lock in [
            ofd(7, 20, 29),
            ofd(7, 0, 9),
            ofd(8, 12, 15),
            write(1, 40, 49),
        ] {
            assert_eq!(locks.set(member(2), 1, &lock), DONE);
        }
        let lock = |start, end| {
            Ok(Some(HeldLock {
                family: LockFamily::Posix,
                write: true,
                start,
                end,
                pid: Id::MAX,
                handle: 7,
            }))
        };
        let ask = |start, end| locks.get(member(2), &own(ofd(7, start, end)));
        assert_eq!(ask(0, u64::MAX), lock(0, 9));
        assert_eq!(ask(9, 20), lock(0, 9));
        assert_eq!(ask(10, 20), lock(20, 29));
        assert_eq!(ask(29, 29), lock(20, 29));
        for (start, end) in [(10, 19), (30, u64::MAX)] {
            assert_eq!(ask(start, end), Ok(None));
        }
        assert_eq!(locks.get(member(3), &own(ofd(9, 0, u64::MAX))), Ok(None));
        for other in [write(1, 0, 99), flock(1)] {
            assert_eq!(locks.get(member(2), &own(other)), Err(Errno::EINVAL));
        }
    });
}

#[test]
fn delegation_holder_names_the_lowest_lock_and_returns_the_order_of_owners() {
    let family = Family::new();
    let (one, two) = (family.member_with_pid(), family.member_with_pid());
    let (first, second) = (one.pid, one.pid + 1);
    let ofd_asks = |frames: u64| {
        let asked = sent(&[&one], || {
            let own = own(ofd(5, 0, u64::MAX));
            assert_eq!(one.node.find_lock(&own, WAIT), Ok(None));
        });
        assert_eq!(asked, frames);
    };
    let frames = sent(&[&one], || {
        set(&one, &write(second, 60, 69));
        for start in [20, 0, 40] {
            set(&one, &write(first, start, start + 9));
        }
    });
    assert_eq!(
        (frames, delegations(&family)),
        (1, 1),
        "only the delegation was asked for"
    );
    let found = |lock: &FileLock<'_>| one.node.find_lock(lock, WAIT).unwrap();
    assert_eq!(found(&write(second, 0, 99)), Some(held(true, 0, 9, first)));
    assert_eq!(
        found(&write(second, 10, u64::MAX)),
        Some(held(true, 20, 29, first))
    );
    assert_eq!(
        found(&write(first, 0, 99)),
        Some(held(true, 60, 69, second))
    );
    // A query for an open file without locks there does not recall the file.
    ofd_asks(1);
    assert_eq!(delegations(&family), 1);
    // Two read locks with one start: the owner of the second locked the file first.
    set(&one, &unlock(write(first, 0, u64::MAX)));
    set(&one, &read(first, 0, 5));
    set(&one, &read(second, 0, 9));
    assert_eq!(found(&write(9_999, 0, 99)), Some(held(false, 0, 9, second)));
    let asked = two.node.find_lock(&write(two.pid, 0, 99), WAIT);
    assert_eq!(asked, Ok(Some(held(false, 0, 9, second))));
    assert_eq!(delegations(&family), 0, "the file went back to the leader");
    set(&one, &ofd(5, 100, 109));
    let own = one.node.find_lock(&own(ofd(5, 0, u64::MAX)), WAIT).unwrap();
    assert_eq!(own.map(|held| (held.start, held.handle)), Some((100, 5)));
}

#[test]
fn return_with_overlapping_or_conflicting_locks_is_refused() {
    let lock = |pid, start, end, write| libos_ipc::wire::DelegatedLock {
        start,
        end,
        pid,
        write,
    };
    // The lowest conflicting lock would be allowed.
    let returns = [
        [
            lock(1, 0, 4, false),
            lock(2, 5, 9, true),
            lock(3, 0, 9, false),
        ],
        [
            lock(1, 0, 9, false),
            lock(2, 5, 9, false),
            lock(2, 0, 7, false),
        ],
    ];
    for locks_back in returns {
        with_table(ROOM, |locks| {
            let asked = on(b"d", write(1, 0, 9));
            assert!(matches!(
                locks.set_or_delegate(member(2), 1, &asked, 5),
                Ok(SetOutcome::Delegated(_))
            ));
            let mut list = DelegatedLockList::new();
            assert!(locks_back.iter().all(|lock| list.push(*lock)));
            assert!(!locks.return_delegation(member(2), 5, list.locks()));
            assert_eq!(locks.lock_usage().0, 0);
        });
    }
}
