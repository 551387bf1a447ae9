//! The limits of the lock table, tested just inside and just outside, and the exact answers.

use libos_ipc::file_locks::{LockLimits, LockTable, SetOutcome};
use libos_ipc::store::Arena;
use libos_ipc::wire::{Answer, FileLock, HeldLock, LockFamily};
use libos_ipc::{Errno, Error, Id, Resource, Vmid};

use crate::requests::{flock, ofd, on, read, unlock, waiting, write};

pub(crate) const DONE: Result<SetOutcome, Errno> = Ok(SetOutcome::Done);
pub(crate) const WAITS: Result<SetOutcome, Errno> = Ok(SetOutcome::Queued);

/// These tests use one member for each process.
pub(crate) fn member(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

/// Runs a test on a new table. At the end all members leave, and the table has to be empty.
pub(crate) fn with_table(limits: LockLimits, test: impl FnOnce(&mut LockTable<'_>)) {
    let mut memory = Box::new_uninit_slice(LockTable::bytes(&limits));
    let mut locks = LockTable::new(&mut Arena::new(&mut memory), &limits).unwrap();
    test(&mut locks);
    assert!(locks.check_invariants());
    for number in 2..10 {
        locks.reclaim(member(number));
    }
    completions_of(&mut locks);
    assert_eq!(now(&locks), [0; 5]);
    assert!(locks.check_invariants());
}

/// Locks, files, waiting requests, open files and delegations in use.
pub(crate) fn now(locks: &LockTable<'_>) -> [usize; 5] {
    [
        locks.lock_usage(),
        locks.file_usage(),
        locks.waiting_usage(),
        locks.open_file_usage(),
        locks.delegation_usage(),
    ]
    .map(|(now, _)| now)
}

/// Returns the completions: member, request, answer.
pub(crate) fn completions_of(locks: &mut LockTable<'_>) -> Vec<(u32, u64, Answer<'static>)> {
    let mut all = Vec::new();
    assert!(locks.has_output() || !locks.has_completions());
    while locks.has_completions() {
        let one = locks.take_completion().unwrap();
        all.push((one.from.get(), one.seq, one.answer));
    }
    assert_eq!(locks.take_completion(), None);
    all
}

pub(crate) const fn status(errno: Errno) -> Answer<'static> {
    Answer::Status(Err(errno))
}

const ROOM: LockLimits = LockLimits {
    locks: 16,
    files: 4,
    waiting: 4,
    open_files: 4,
};

#[test]
fn stated_memory_is_sufficient_and_necessary() {
    let one_of_many = |many: usize| {
        [0, 1, 2, 3, 4].map(|which| {
            let of = |number| if which == number { many } else { 1 };
            LockLimits {
                locks: of(0),
                files: of(1),
                waiting: of(2),
                open_files: of(3),
            }
        })
    };
    for limits in one_of_many(1_000).into_iter().chain(one_of_many(0)) {
        let mut memory = Box::new_uninit_slice(LockTable::bytes(&limits));
        assert!(LockTable::new(&mut Arena::new(&mut memory), &limits).is_ok());
        let less = memory.len() / 2;
        let few = LockTable::new(&mut Arena::new(&mut memory[..less]), &limits);
        assert_eq!(few.err(), Some(Error::Full(Resource::Memory)));
    }
}

#[test]
fn table_without_capacity_refuses_every_lock() {
    with_table(LockLimits::NONE, |locks| {
        for lock in [write(1, 0, 9), ofd(1, 0, 9), flock(1)] {
            assert_eq!(locks.set(member(2), 1, &lock), Err(Errno::ENOLCK));
            assert_eq!(
                locks.set_or_delegate(member(2), 1, &lock, 1),
                Err(Errno::ENOLCK)
            );
            assert_eq!(locks.get(member(2), &lock), Ok(None));
            assert_eq!(locks.set(member(2), 1, &unlock(lock)), DONE);
        }
        assert!(!locks.accept_open_file(member(2), 1));
    });
}

#[test]
fn usage_and_peak_of_every_pool_are_counted() {
    with_table(ROOM, |locks| {
        let fills = |locks: &LockTable<'_>| {
            [
                locks.lock_usage(),
                locks.file_usage(),
                locks.waiting_usage(),
                locks.open_file_usage(),
            ]
        };
        assert_eq!(fills(locks), [(0, 0); 4]);
        assert_eq!(locks.set(member(2), 1, &write(1, 0, 9)), DONE);
        assert_eq!(locks.set(member(2), 2, &write(1, 20, 29)), DONE);
        assert_eq!(locks.set(member(2), 3, &on(b"b", write(1, 0, 9))), DONE);
        assert_eq!(locks.set(member(2), 4, &flock(7)), DONE);
        assert_eq!(locks.set(member(3), 5, &waiting(write(1, 0, 9))), WAITS);
        assert!(!locks.has_completions() && !locks.has_output());
        assert!(locks.accept_open_file(member(3), 7));
        assert!(locks.accept_open_file(member(3), 7), "it has it already");
        assert_eq!(fills(locks), [(4, 4), (2, 2), (1, 1), (2, 2)]);
        locks.release_process(member(2), 1);
        assert!(locks.has_completions() && locks.has_output());
        assert_eq!(fills(locks), [(2, 4), (1, 2), (1, 1), (2, 2)]);
        assert_eq!(completions_of(locks), [(3, 5, Answer::DONE)]);
        assert!(!locks.has_completions() && !locks.has_output());
        assert_eq!(fills(locks), [(2, 4), (1, 2), (0, 1), (2, 2)]);
        locks.reclaim(member(2));
        assert_eq!(fills(locks), [(2, 4), (1, 2), (0, 1), (1, 2)]);
    });
}

#[test]
fn refused_request_changes_nothing() {
    let limits = LockLimits {
        locks: 2,
        files: 2,
        waiting: 1,
        open_files: 2,
    };
    with_table(limits, |locks| {
        assert_eq!(locks.set(member(2), 1, &write(1, 0, 9)), DONE);
        assert_eq!(locks.set(member(2), 1, &write(1, 20, 29)), DONE);
        let before = now(locks);
        let more = on(b"b", write(1, 0, 9));
        for lock in [write(1, 40, 49), write(2, 40, 49), more] {
            assert_eq!(locks.set(member(2), 1, &lock), Err(Errno::ENOLCK));
        }
        // A lock that is there already needs no slot, nor does one that merges with it.
        assert_eq!(locks.set(member(2), 1, &write(1, 22, 25)), DONE);
        assert_eq!(locks.set(member(2), 1, &write(1, 10, 12)), DONE);
        assert_eq!(locks.set(member(2), 1, &write(1, 18, 19)), DONE);
        // There is room for exactly one more waiter.
        let wanted = waiting(write(1, 0, 9));
        assert_eq!(locks.set(member(3), 5, &wanted), WAITS);
        assert_eq!(locks.set(member(4), 6, &wanted), Err(Errno::ENOLCK));
        assert_eq!(locks.set(member(4), 6, &write(1, 0, 9)), Err(Errno::EAGAIN));
        let free = waiting(unlock(write(1, 28, 29)));
        assert_eq!(locks.set(member(2), 7, &free), DONE, "nothing to wait for");
        locks.cancel(member(3), 5);
        assert_eq!(completions_of(locks), [(3, 5, status(Errno::EINTR))]);
        assert_eq!(now(locks), before);
    });
}

#[test]
fn waiter_gets_enolck_if_there_is_no_slot_for_its_lock_when_it_is_served() {
    let limits = LockLimits { locks: 2, ..ROOM };
    with_table(limits, |locks| {
        assert_eq!(locks.set(member(2), 1, &write(1, 0, 9)), DONE);
        assert_eq!(locks.set(member(2), 1, &on(b"b", write(1, 0, 9))), DONE);
        for number in [3, 4] {
            let wanted = waiting(read(1, 0, 9));
            assert_eq!(locks.set(member(number), number.into(), &wanted), WAITS);
        }
        assert_eq!(locks.set(member(2), 1, &unlock(write(1, 0, 9))), DONE);
        let completions = [(3, 3, Answer::DONE), (4, 4, status(Errno::ENOLCK))];
        assert_eq!(completions_of(locks), completions);
        assert_eq!(now(locks), [2, 2, 0, 0, 0]);
    });
}

#[test]
fn paths_that_differ_in_the_last_byte_are_different_files() {
    let limits = LockLimits {
        locks: 64,
        files: 32,
        ..ROOM
    };
    with_table(limits, |locks| {
        let mut names = Vec::new();
        for length in [1, 7, 8, 9, 59, 60, 61, 119, 120, 121, 240] {
            names.push(vec![b'a'; length]);
            for at in [0, length / 2, length - 1] {
                let mut name = vec![b'a'; length];
                name[at] = b'b';
                names.push(name);
            }
        }
        names.sort();
        names.dedup();
        for names in names.chunks(16) {
            for (number, name) in (2..).zip(names) {
                let lock = on(name, write(1, 0, number));
                assert_eq!(locks.set(member(2), 1, &lock), DONE);
            }
            assert_eq!(locks.file_usage().0, names.len());
            for (number, name) in (2..).zip(names) {
                let lock = on(name, write(1, 0, 0));
                let found = locks.get(member(3), &lock).unwrap().unwrap();
                assert_eq!(found.end, number, "{name:?}");
                assert_eq!(locks.set(member(3), 1, &lock), Err(Errno::EAGAIN));
            }
            locks.reclaim(member(2));
            assert_eq!(locks.file_usage().0, 0);
        }
    });
}

#[test]
fn adjacent_locks_merge_on_both_sides() {
    for (start, end) in [(0, 29), (0, 19), (10, 29), (10, 19)] {
        with_table(ROOM, |locks| {
            assert_eq!(locks.set(member(2), 1, &write(1, 10, 19)), DONE);
            assert_eq!(locks.set(member(2), 1, &write(1, start, end)), DONE);
            let found = locks.get(member(3), &write(1, 15, 15)).unwrap().unwrap();
            assert_eq!((found.start, found.end), (start, end));
        });
    }
}

#[test]
fn paths_with_the_same_hash_are_different_files() {
    with_table(ROOM, |locks| {
        // The hash combines the length with the last bytes.
        let names: [&[u8]; 2] = [b"q", b"t\0\0\0"];
        for name in names {
            assert_eq!(locks.set(member(2), 1, &on(name, write(1, 0, 9))), DONE);
        }
        assert_eq!(locks.file_usage().0, 2);
        locks.reclaim(member(2));
    });
}

#[test]
fn long_path_takes_several_chunks() {
    let limits = LockLimits { files: 2, ..ROOM };
    with_table(limits, |locks| {
        // There is room for eight chunks of 60 bytes.
        let [long, longer, rest] = [420, 421, 60].map(|length| vec![b'a'; length]);
        for _ in 0..10 {
            assert_eq!(locks.set(member(2), 1, &on(&long, write(1, 0, 9))), DONE);
            let two = on(&[b'b'; 61], write(1, 0, 9));
            assert_eq!(locks.set(member(2), 1, &two), Err(Errno::ENOLCK));
            assert_eq!(locks.set(member(2), 1, &on(&rest, write(1, 0, 9))), DONE);
            assert_eq!(
                locks.set(member(3), 1, &on(&long, write(1, 0, 9))),
                Err(Errno::EAGAIN)
            );
            assert_eq!(locks.file_usage().0, 2);
            // Neither a file nor a chunk is lost.
            assert_eq!(
                locks.set(member(2), 1, &on(b"c", write(1, 0, 9))),
                Err(Errno::ENOLCK)
            );
            locks.release_process(member(2), 1);
            assert_eq!(locks.set(member(2), 1, &on(&longer, write(1, 0, 9))), DONE);
            assert_eq!(
                locks.set(member(2), 1, &on(b"c", write(1, 0, 9))),
                Err(Errno::ENOLCK)
            );
            locks.release_process(member(2), 1);
            for name in [b"c", b"d"] {
                assert_eq!(locks.set(member(2), 1, &on(name, write(1, 0, 9))), DONE);
            }
            assert_eq!(
                locks.set(member(2), 1, &on(b"e", write(1, 0, 9))),
                Err(Errno::ENOLCK)
            );
            locks.reclaim(member(2));
        }
    });
}

#[test]
fn getlk_describes_the_conflicting_lock() {
    with_table(ROOM, |locks| {
        let mine = [write(5, 0, 9), read(6, 20, 29), ofd(7, 40, 49), flock(8)];
        for lock in &mine {
            assert_eq!(locks.set(member(2), 1, lock), DONE);
            assert_eq!(locks.get(member(2), lock), Ok(None), "one's own");
        }
        let held = |family, write, (start, end), pid, handle| HeldLock {
            family,
            write,
            start,
            end,
            pid,
            handle,
        };
        let posix = LockFamily::Posix;
        let others = [
            (write(5, 9, 9), Some(held(posix, true, (0, 9), 5, 0))),
            (write(5, 10, 19), None),
            (write(5, 29, 30), Some(held(posix, false, (20, 29), 6, 0))),
            (read(5, 20, 29), None),
            (read(5, 0, 50), Some(held(posix, true, (0, 9), 5, 0))),
            (
                read(5, 10, 50),
                Some(held(posix, true, (40, 49), Id::MAX, 7)),
            ),
            (
                ofd(9, 49, 60),
                Some(held(posix, true, (40, 49), Id::MAX, 7)),
            ),
            (ofd(9, 50, 60), None),
            (
                flock(9),
                Some(held(LockFamily::Flock, true, (0, u64::MAX), 0, 8)),
            ),
        ];
        for (lock, found) in others {
            assert_eq!(locks.get(member(3), &lock), Ok(found), "{lock:?}");
            assert_eq!(locks.get_or_queue(member(3), 1, &lock), Some(Ok(found)));
            let set = locks.set(member(3), 1, &lock);
            assert_eq!(set.is_err(), found.is_some(), "{lock:?}");
            locks.reclaim(member(3));
        }
        assert_eq!(completions_of(locks), []);
    });
}

#[test]
fn invalid_requests_are_refused() {
    with_table(ROOM, |locks| {
        for lock in [write(1, 1, 0), ofd(1, 1, 0)] {
            assert_eq!(locks.set(member(2), 1, &lock), Err(Errno::EINVAL));
            assert_eq!(
                locks.set_or_delegate(member(2), 1, &lock, 1),
                Err(Errno::EINVAL)
            );
            assert_eq!(locks.set(member(2), 1, &unlock(lock)), Err(Errno::EINVAL));
            assert_eq!(locks.get(member(2), &lock), Err(Errno::EINVAL));
            assert_eq!(
                locks.get_or_queue(member(2), 1, &lock),
                Some(Err(Errno::EINVAL))
            );
        }
        let nothing = unlock(write(1, 0, 1));
        assert_eq!(locks.get(member(2), &nothing), Err(Errno::EINVAL));
        assert_eq!(
            locks.get_or_queue(member(2), 1, &nothing),
            Some(Err(Errno::EINVAL))
        );
        assert_eq!(now(locks), [0; 5]);
        // A `flock` lock has no range that could be invalid.
        let whole = FileLock {
            start: 1,
            ..flock(1)
        };
        assert_eq!(locks.set(member(2), 1, &whole), DONE);
    });
}

#[test]
fn references_to_open_files_are_separate_for_each_member() {
    with_table(ROOM, |locks| {
        assert_eq!(locks.set(member(2), 1, &flock(7)), DONE);
        assert_eq!(locks.set(member(2), 1, &flock(8)), Err(Errno::EAGAIN));
        locks.close_open_file(member(2), 8);
        // One of two children has joined before its parent is gone.
        assert!(locks.inherit_open_file(member(2), member(3), 7));
        assert!(locks.inherit_open_file(member(2), member(4), 7));
        assert_eq!(locks.open_file_usage().0, 3);
        assert_eq!(locks.reclaim_portion(member(5), u64::MAX, &|_| true), 0);
        assert_eq!(locks.open_file_usage().0, 3, "another's children");
        locks.close_open_file(member(5), 7);
        locks.close_open_file(member(2), 7);
        let is_abandoned = |child| child == member(4);
        assert_eq!(locks.reclaim_portion(member(2), u64::MAX, &is_abandoned), 0);
        assert_eq!(locks.open_file_usage().0, 1);
        assert_eq!(locks.set(member(5), 1, &flock(9)), Err(Errno::EAGAIN));
        locks.reclaim(member(3));
        assert_eq!(locks.set(member(5), 1, &flock(9)), DONE);
        assert_eq!(locks.set(member(5), 1, &ofd(9, 0, 9)), DONE);
        locks.close_open_file(member(5), 9);
        assert_eq!(now(locks), [0; 5]);
    });
}
