//! Keys that a peer chooses so that they share a bucket or a hash do not make any operation of the
//! lock table slow.

use libos_ipc::Errno;
use libos_ipc::file_locks::{LockLimits, LockTable, SetOutcome};
use libos_ipc::wire::{FileLock, LockFamily};

use crate::edges::{DONE, WAITS, member, with_table};
use crate::requests::{ofd, on, unlock, waiting, write};

const COUNT: usize = 30_000;
const LIMITS: LockLimits = LockLimits {
    locks: 32_768,
    files: 32_768,
    waiting: 32_768,
    open_files: 32_768,
};
/// The greatest number of visits of a request that finds, sets or removes one lock in a full table.
const SINGLE: u64 = 1_500;
/// The greatest number of visits of a portion of 64 entries.
const PORTION: u64 = 64 * SINGLE;

/// Returns the number whose hash is `hash`: each step of the hash can be undone.
fn number_of(hash: u64) -> u64 {
    // x ^ (x >> n) is undone by applying it until all bits are shifted out.
    let unshift =
        |mixed: u64, bits: u32| (0..64 / bits).fold(mixed, |number, _| mixed ^ (number >> bits));
    let number = unshift(hash, 31).wrapping_mul(0x3196_42b2_d24d_8ec3);
    let number = unshift(number, 27).wrapping_mul(0x96de_1b17_3f11_9089);
    unshift(number, 30)
}

/// Returns a path of 8 bytes whose hash is `hash`.
fn path_in_bucket(hash: u64) -> [u8; 8] {
    (number_of(number_of(hash)) ^ 8).to_le_bytes()
}

/// Returns a path of 16 bytes whose hash is `hash`; there is one for each `number`.
fn path_with_hash(hash: u64, number: u64) -> [u8; 16] {
    let last = number_of(number_of(hash)) ^ hash_of(16 ^ number);
    let mut path = [0; 16];
    path[..8].copy_from_slice(&number.to_le_bytes());
    path[8..].copy_from_slice(&last.to_le_bytes());
    path
}

fn hash_of(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn bounded<T>(
    locks: &mut LockTable<'_>,
    bound: u64,
    operation: impl FnOnce(&mut LockTable<'_>) -> T,
) -> T {
    let before = locks.steps();
    let done = operation(locks);
    let steps = locks.steps() - before;
    assert!(steps < bound, "{steps} steps");
    done
}

fn set(locks: &mut LockTable<'_>, seq: u64, lock: &FileLock<'_>) -> Result<SetOutcome, Errno> {
    bounded(locks, SINGLE, |locks| locks.set(member(2), seq, lock))
}

/// Applies the death of member 2, in portions.
fn die(locks: &mut LockTable<'_>) {
    let mut left = u64::MAX;
    while left > 0 {
        left = bounded(locks, PORTION, |locks| {
            locks.reclaim_portion(member(2), left, &|_| false)
        });
    }
    let usages = [
        locks.lock_usage(),
        locks.file_usage(),
        locks.waiting_usage(),
        locks.open_file_usage(),
    ];
    assert!(usages.iter().all(|usage| usage.0 == 0));
}

#[test]
fn path_whose_hash_was_chosen_has_that_hash() {
    for number in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
        assert_eq!(number_of(hash_of(number)), number);
    }
}

#[test]
fn owners_of_one_bucket_do_not_slow_each_other_down() {
    with_table(LIMITS, |locks| {
        for number in 0..COUNT as u64 {
            // The hash of an owner is that of its number plus one, rotated.
            let open_file = number_of(number).rotate_right(21).wrapping_sub(1);
            assert_eq!(set(locks, 1, &ofd(open_file, number, number)), DONE);
        }
        for number in (0..COUNT as u64).step_by(3) {
            let open_file = number_of(number).rotate_right(21).wrapping_sub(1);
            let lock = unlock(ofd(open_file, number, number));
            assert_eq!(set(locks, 1, &lock), DONE);
        }
        die(locks);
    });
}

#[test]
fn open_files_of_one_bucket_do_not_slow_each_other_down() {
    with_table(LIMITS, |locks| {
        for number in 0..COUNT as u64 {
            let lock = FileLock {
                family: LockFamily::Flock,
                ..ofd(number_of(number), 0, u64::MAX)
            };
            assert_eq!(set(locks, 1, &on(&number.to_le_bytes(), lock)), DONE);
        }
        for number in (0..COUNT as u64).step_by(3) {
            bounded(locks, SINGLE, |locks| {
                locks.close_open_file(member(2), number_of(number));
            });
        }
        die(locks);
    });
}

#[test]
fn transfers_of_one_open_file_do_not_slow_each_other_down() {
    with_table(LIMITS, |locks| {
        for number in 0..COUNT as u32 - 1 {
            let to = 3 + number % 200;
            assert!(bounded(locks, SINGLE, |locks| {
                locks.send_open_file(member(2), member(to), 7)
            }));
        }
        assert!(bounded(locks, SINGLE, |locks| locks.accept_open_file(member(3), 7)));
        for _ in 0..100 {
            bounded(locks, SINGLE, |locks| {
                locks.retract_open_file(member(2), member(3), 7);
            });
            bounded(locks, SINGLE, |locks| {
                locks.close_open_file(member(3), 7);
            });
        }
        for vmid in 2..=202 {
            locks.reclaim(member(vmid));
        }
    });
}

#[test]
fn paths_of_one_bucket_or_one_hash_do_not_slow_each_other_down() {
    with_table(LIMITS, |locks| {
        let half = COUNT as u64 / 2;
        for number in 0..half {
            let same_bucket = path_in_bucket(number + 1);
            let same_hash = path_with_hash(0, number);
            for path in [&same_bucket[..], &same_hash] {
                assert_eq!(set(locks, 1, &on(path, write(1, 0, 0))), DONE);
            }
        }
        for number in (0..half).step_by(3) {
            let path = path_with_hash(0, number);
            let lock = unlock(write(1, 0, 0));
            assert_eq!(set(locks, 1, &on(&path, lock)), DONE);
        }
        die(locks);
    });
}

#[test]
fn requests_of_one_bucket_do_not_slow_each_other_down() {
    with_table(LIMITS, |locks| {
        let mine = write(1, 0, 0);
        assert_eq!(locks.set(member(3), 1, &mine), DONE);
        let seq = |number| number_of(number) ^ 2_u64.rotate_left(32);
        for number in 0..COUNT as u64 {
            let lock = waiting(write(2, 0, 0));
            assert_eq!(set(locks, seq(number), &lock), WAITS);
        }
        for number in (0..COUNT as u64).step_by(3) {
            bounded(locks, SINGLE, |locks| locks.cancel(member(2), seq(number)));
        }
        while locks.take_completion().is_some() {}
        locks.release_process(member(3), 1);
        while locks.take_completion().is_some() {}
        die(locks);
    });
}

#[test]
fn delegations_of_one_bucket_do_not_slow_each_other_down() {
    with_table(LIMITS, |locks| {
        let limit = locks.delegation_limit() as u64;
        let delegation = |number: u64| (number_of(number) ^ 2).rotate_right(32);
        for number in 0..limit {
            let path = number.to_le_bytes();
            let lock = on(&path, write(1, 0, 0));
            let set = bounded(locks, SINGLE, |locks| {
                locks.set_or_delegate(member(2), 1, &lock, delegation(number))
            });
            assert!(matches!(set, Ok(SetOutcome::Delegated(_))));
        }
        die(locks);
    });
}
