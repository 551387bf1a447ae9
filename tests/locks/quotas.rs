//! How the members share the lock tables, and which member each entry is charged to.

use libos_ipc::Errno;
use libos_ipc::file_locks::{LockLimits, LockTable, SetOutcome};
use libos_ipc::store::Arena;
use libos_ipc::wire::{DelegatedLockList, DelegatedLocks, FileLock};

use crate::edges::{DONE, WAITS, completions_of, member};
use crate::requests::{ofd, on, read, unlock, waiting, write};

const MEMBERS: usize = 4;
const LIMITS: LockLimits = LockLimits {
    locks: 256,
    files: 32,
    waiting: 32,
    open_files: 32,
};
/// The reserve of each member.
const LOCKS: usize = LIMITS.locks / 4 / MEMBERS;
const FILES: usize = LIMITS.files / 4 / MEMBERS;

/// Runs a test on a new table that four members share: the leader, and members 2 to 4. At the end all
/// have left, and nothing may be charged to them.
fn with_shared_table(test: impl FnOnce(&mut LockTable<'_>)) {
    let mut memory = Box::new_uninit_slice(LockTable::bytes(&LIMITS) + 4096);
    let mut arena = Arena::new(&mut memory);
    let mut locks = LockTable::shared(&mut arena, &LIMITS, MEMBERS).unwrap();
    test(&mut locks);
    assert!(locks.check_invariants());
    for number in 1..5 {
        leaves(&mut locks, number);
    }
    completions_of(&mut locks);
    assert!(locks.check_invariants());
    for number in 1..5 {
        assert_eq!(locks.charges_of(member(number)), [0; 4], "member {number}");
    }
}

fn leaves(locks: &mut LockTable<'_>, number: u32) {
    locks.reclaim(member(number));
    locks.on_left(member(number));
    assert!(locks.check_invariants());
}

/// Sets locks on every second byte until one is refused. Returns how many it got.
fn fill(locks: &mut LockTable<'_>, number: u32, path: &[u8]) -> usize {
    let mut count = 0;
    loop {
        let start = u64::try_from(count).unwrap() * 2;
        let lock = on(path, write(1, start, start));
        if locks.set(member(number), 0, &lock).is_err() {
            assert!(locks.check_invariants());
            return count;
        }
        count += 1;
    }
}

#[test]
fn member_gets_its_reserve_of_locks_although_others_took_what_they_could() {
    with_shared_table(|locks| {
        let first = fill(locks, 2, b"2");
        let second = fill(locks, 3, b"3");
        assert!(first < LIMITS.locks / 2 + LOCKS, "{first}");
        assert!(second < first, "{second}");
        assert!(locks.refused_by_quota() >= 2);
        let third = fill(locks, 4, b"4");
        assert!(third >= LOCKS, "{third}");
        assert!(fill(locks, 1, b"1") >= LOCKS);
    });
}

#[test]
fn member_that_splits_its_lock_by_unlocks_leaves_the_reserves_of_others() {
    with_shared_table(|locks| {
        let hog = member(2);
        assert_eq!(locks.set(hog, 0, &write(1, 0, u64::MAX)), DONE);
        let split = |at: u64| unlock(write(1, 2 * at + 1, 2 * at + 1));
        let mut splits = 0;
        while locks.set(hog, 0, &split(splits)).is_ok() {
            splits += 1;
        }
        assert_eq!(locks.set(hog, 0, &split(splits)), Err(Errno::ENOLCK));
        assert!(locks.check_invariants());
        for number in [1, 3, 4] {
            let path = [u8::try_from(number).unwrap()];
            assert!(fill(locks, number, &path) >= LOCKS, "member {number}");
        }
        // An unlock that splits nothing is never refused.
        assert_eq!(locks.set(hog, 0, &unlock(write(1, 0, u64::MAX))), DONE);
    });
}

#[test]
fn delegation_is_charged_for_the_places_of_its_return_and_the_return_is_never_refused() {
    with_shared_table(|locks| {
        let holder = member(2);
        let charged = DelegatedLocks::MAX;
        let lock = write(1, 0, 9);
        let delegated = Ok(SetOutcome::Delegated(charged));
        assert_eq!(locks.set_or_delegate(holder, 1, &lock, 7), delegated);
        assert_eq!(locks.charges_of(holder), [charged, 1, 0, 0]);
        // Others take what they can, so that the holder would get no more.
        fill(locks, 3, b"3");
        fill(locks, 4, b"4");
        fill(locks, 2, b"2");
        let mut list = DelegatedLockList::new();
        for at in 0..charged as u64 {
            list.push(libos_ipc::wire::DelegatedLock {
                start: 2 * at,
                end: 2 * at,
                pid: 1,
                write: true,
            });
        }
        let before = locks.charges_of(holder)[0];
        assert!(locks.return_delegation(holder, 7, list.locks()));
        assert_eq!(locks.charges_of(holder)[0], before);
        assert!(locks.check_invariants());
    });
}

#[test]
fn member_without_room_for_a_return_gets_no_delegation_and_its_lock_at_once() {
    with_shared_table(|locks| {
        fill(locks, 2, b"2");
        assert_eq!(
            locks.set(member(2), 0, &on(b"2", unlock(write(1, 0, 9)))),
            DONE
        );
        let lock = write(1, 0, 0);
        assert_eq!(locks.set_or_delegate(member(2), 1, &lock, 7), DONE);
    });
}

#[test]
fn unlock_of_an_open_file_that_waits_for_a_delegation_counts_as_no_request_of_the_open_file() {
    with_shared_table(|locks| {
        let holder = member(2);
        let delegated = Ok(SetOutcome::Delegated(DelegatedLocks::MAX));
        assert_eq!(
            locks.set_or_delegate(holder, 1, &write(1, 0, 9), 7),
            delegated
        );
        // The member does not hold the open file before the second request.
        assert_eq!(locks.set(holder, 2, &unlock(ofd(5, 20, 29))), WAITS);
        assert_eq!(locks.set(holder, 3, &waiting(ofd(5, 20, 29))), WAITS);
        assert!(locks.check_invariants());
        let list = DelegatedLockList::new();
        assert!(locks.return_delegation(holder, 7, list.locks()));
        assert_eq!(completions_of(locks).len(), 2);
        locks.close_open_file(holder, 5);
        assert_eq!(locks.charges_of(holder), [0; 4]);
    });
}

#[test]
fn lock_of_a_shared_open_file_is_charged_to_the_requester_and_then_to_another_holder() {
    with_shared_table(|locks| {
        let (parent, child) = (member(2), member(3));
        assert_eq!(locks.set(parent, 0, &ofd(7, 0, 0)), DONE);
        assert!(locks.inherit_open_file(parent, child, 7));
        assert_eq!(locks.confirm_portion(child, u64::MAX, false), 0);
        assert_eq!(locks.charges_of(parent), [1, 1, 0, 2]);
        assert_eq!(locks.charges_of(child), [0; 4]);
        for at in 1..10 {
            assert_eq!(locks.set(child, 0, &ofd(7, 2 * at, 2 * at)), DONE);
        }
        assert_eq!(locks.charges_of(parent), [1, 1, 0, 1]);
        assert_eq!(locks.charges_of(child), [9, 0, 0, 1]);
        leaves(locks, 2);
        assert_eq!(locks.charges_of(parent), [0; 4]);
        assert_eq!(locks.charges_of(child), [10, 1, 0, 1]);
    });
}

#[test]
fn open_file_is_charged_to_its_giver_until_the_receiver_uses_it() {
    with_shared_table(|locks| {
        let (sender, victim) = (member(2), member(3));
        let mut given = 0;
        while locks.send_open_file(sender, victim, given) {
            given += 1;
        }
        assert!(locks.refused_by_quota() > 0);
        assert_eq!(locks.charges_of(victim), [0; 4]);
        assert!(locks.accept_open_file(victim, 0));
        assert_eq!(locks.charges_of(victim)[3], 1);
        // When the giver is gone, the receiver pays for what it was given.
        leaves(locks, 2);
        assert_eq!(locks.charges_of(sender), [0; 4]);
        assert_eq!(locks.charges_of(victim)[3], usize::try_from(given).unwrap());
    });
}

#[test]
fn file_is_charged_to_the_next_of_its_users() {
    with_shared_table(|locks| {
        let [first, second, third] = [2, 3, 4].map(member);
        let files =
            |locks: &LockTable<'_>| [first, second, third].map(|of| locks.charges_of(of)[1]);
        assert_eq!(locks.set(first, 1, &write(1, 0, 9)), DONE);
        assert_eq!(locks.set(second, 2, &read(2, 20, 29)), DONE);
        assert_eq!(locks.set(third, 3, &waiting(write(3, 20, 29))), WAITS);
        assert_eq!(files(locks), [1, 0, 0]);
        assert_eq!(locks.set(first, 4, &unlock(write(1, 0, 9))), DONE);
        assert_eq!(files(locks), [0, 1, 0]);
        assert_eq!(locks.set(second, 5, &unlock(read(2, 20, 29))), DONE);
        assert_eq!(files(locks), [0, 0, 1]);
        assert!(locks.check_invariants());
    });
}

#[test]
fn files_with_long_paths_are_charged_by_the_pieces_of_their_paths() {
    with_shared_table(|locks| {
        let files = |locks: &mut LockTable<'_>, number: u32, length: usize| {
            (0..=u8::MAX)
                .take_while(|name| {
                    let mut path = vec![*name; length];
                    path[0] = u8::try_from(number).unwrap();
                    locks
                        .set(member(number), 0, &on(&path, write(1, 0, 0)))
                        .is_ok()
                })
                .count()
        };
        let long = files(locks, 2, 1500);
        assert!((1..4).contains(&long), "{long}");
        assert!(files(locks, 3, 10) >= FILES);
        assert!(files(locks, 4, 10) >= FILES);
        assert!(locks.check_invariants());
    });
}

#[test]
fn member_gets_its_reserve_of_waits_although_others_took_what_they_could() {
    with_shared_table(|locks| {
        assert_eq!(locks.set(member(1), 0, &write(1, 0, 9)), DONE);
        let wait = |locks: &mut LockTable<'_>, number: u32| {
            let lock = waiting(write(1, 0, 9));
            let requests = 1..100;
            let accepted = requests.take_while(|seq| {
                locks.set(
                    member(number),
                    *seq,
                    &FileLock {
                        pid: 10 * number,
                        ..lock
                    },
                ) == WAITS
            });
            accepted.count()
        };
        let [first, second, third] = [2, 3, 4].map(|number| wait(locks, number));
        assert!(
            first > second && second >= third && third >= 2,
            "{first} {second} {third}"
        );
        assert!(locks.check_invariants());
        assert_eq!(locks.set(member(1), 0, &unlock(write(1, 0, 9))), DONE);
    });
}

/// Each member does anything; the charges must fit the table after every operation.
#[test]
fn charges_fit_the_tables_in_random_programs() {
    let mut rng = fastrand::Rng::with_seed(5);
    for _ in 0..60 {
        with_shared_table(|locks| {
            let mut delegations = Vec::new();
            for seq in 1..400_u64 {
                let number = rng.u32(2..5);
                let from = member(number);
                let start = rng.u64(..40);
                let path = [[b'a'].as_slice(), b"b", b"c", b"d", b"e"][rng.usize(..5)];
                let pid = number * 10 + rng.u32(..2);
                let open_file = rng.u64(..4);
                let range = (start, start + rng.u64(..8));
                let lock = if rng.u8(..3) == 0 {
                    ofd(open_file, range.0, range.1)
                } else {
                    write(pid, range.0, range.1)
                };
                let lock = FileLock {
                    kind: [lock.kind, read(1, 0, 0).kind][rng.usize(..2)],
                    wait: rng.u8(..4) == 0,
                    ..on(path, lock)
                };
                match rng.u8(..14) {
                    0..5 => drop(locks.set(from, seq, &lock)),
                    5..7 => drop(locks.set(from, seq, &unlock_of(lock))),
                    7 => {
                        let posix = on(path, write(pid, range.0, range.1));
                        if locks.set_or_delegate(from, seq, &posix, seq)
                            == Ok(SetOutcome::Delegated(DelegatedLocks::MAX))
                        {
                            delegations.push((from, seq));
                        }
                    }
                    8 if !delegations.is_empty() => {
                        let (of, delegation) =
                            delegations.swap_remove(rng.usize(..delegations.len()));
                        let list = DelegatedLockList::new();
                        locks.return_delegation(of, delegation, list.locks());
                    }
                    9 => drop(locks.inherit_open_file(from, member(rng.u32(2..5)), open_file)),
                    10 => drop(locks.send_open_file(from, member(rng.u32(2..5)), open_file)),
                    11 => drop(locks.accept_open_file(from, open_file)),
                    12 => locks.close_open_file(from, open_file),
                    _ if rng.u8(..10) == 0 => {
                        leaves(locks, number);
                        delegations.retain(|(of, _)| *of != from);
                    }
                    _ => drop(completions_of(locks)),
                }
                assert!(locks.check_invariants(), "after request {seq}");
            }
        });
    }
}

fn unlock_of(lock: FileLock<'_>) -> FileLock<'_> {
    FileLock {
        kind: libos_ipc::wire::LockKind::Unlock,
        wait: false,
        ..lock
    }
}
