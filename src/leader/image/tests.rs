//! A leader loads the image of another one.

mod program;

use std::boxed::Box;
use std::mem::MaybeUninit;
use std::vec::Vec;
use std::{format, println, vec};

use super::*;
use crate::leader::{Content, Op, Outcome, OutgoingId, Presence, SignalLimits};
use crate::store::Arena;
use crate::wire::{
    Answer, DelegatedLockList, FileLock, Hello, IdRange, KillTarget, LockFamily, LockKind, Message,
    PidKill, ProcessChange, ProcessNote, RelativeNote, Sync, SyncCode, SyncState,
};
use crate::{LeaseLimits, LockLimits, Vmid};

use program::Program;

const CAPACITIES: LeaderCapacities = LeaderCapacities {
    roster: 8,
    adopts: true,
    members: 12,
    id_members: 12,
    ranges: 64,
    processes: 16,
    peers: 10,
    signals: SignalLimits {
        targets: 16,
        queued: 12,
    },
    locks: LockLimits {
        locks: 160,
        files: 12,
        waiting: 16,
        open_files: 24,
    },
    leases: LeaseLimits {
        handles: 6,
        clients: 20,
    },
    sync_data: 5_000,
    wrap_ids: true,
};

/// Makes `N` leaders, for a test.
fn with_leaders<const N: usize>(
    capacities: &LeaderCapacities,
    test: impl FnOnce([&mut Leader<'_>; N]),
) {
    let bytes = Leader::bytes(capacities);
    let mut memory: Vec<Box<[MaybeUninit<u8>]>> =
        (0..N).map(|_| Box::new_uninit_slice(bytes)).collect();
    let mut memory = memory.iter_mut();
    let mut leaders = [(); N].map(|()| {
        let memory = memory.next().unwrap();
        Leader::new(&mut Arena::new(memory), capacities).unwrap()
    });
    test(leaders.each_mut());
}

/// All slices of the image.
fn slices(leader: &Leader<'_>, length: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut cursor = Some(ImageCursor::START);
    while let Some(at) = cursor {
        let mut slice = vec![0xaa; length];
        let (length, next) = leader.save_slice(at, &mut slice).unwrap();
        slice.truncate(length);
        assert!((at.number() as usize) < leader.slices(slice.capacity()));
        assert!(next.is_none_or(|next| next.number() > at.number()));
        all.push(slice);
        cursor = next;
    }
    all
}

fn copy(leader: &mut Leader<'_>, to: &mut Leader<'_>, length: usize) {
    assert!(leader.check_invariants());
    for slice in slices(leader, length) {
        to.load_slice(&slice).unwrap();
    }
    assert_eq!(to.finish_load(), Ok(()));
    assert_eq!(to.digest_anew(), leader.digest_anew());
    assert_eq!(to.digest(), leader.digest());
}

#[test]
fn leader_that_has_loaded_an_image_goes_on_as_the_other_does() {
    for seed in 0..24 {
        with_leaders(&CAPACITIES, |mut leaders: [&mut Leader<'_>; 2]| {
            let mut program = Program::new(seed);
            for round in 0..12 {
                let [leader, other] = &mut leaders;
                copy(leader, other, 2048 + 700 * (round % 3));
                for _ in 0..program.rng.usize(1..300) {
                    program.step(&mut leaders);
                }
                for leader in &mut leaders {
                    assert!(leader.check_invariants());
                }
            }
        });
    }
}

#[test]
fn leader_that_has_loaded_an_image_goes_on_with_no_signal_for_all_from_before() {
    with_leaders(&CAPACITIES, |[leader, other]: [&mut Leader<'_>; 2]| {
        let kill = PidKill {
            sender: 1,
            pid: 0,
            id: 0,
            signal: 15,
            target: KillTarget::All,
        };
        other.apply(&Op::SignalAll {
            from: Vmid::LEADER,
            seq: 0,
            kill,
            result: Ok(()),
        });
        assert!(other.broadcast().is_some());
        copy(leader, other, 2048);
        assert_eq!(other.broadcast(), None);
    });
}

#[test]
fn slice_that_has_changed_is_loaded_again_and_the_others_are_not() {
    for seed in 0..16 {
        with_leaders(
            &CAPACITIES,
            |[leader, other, third]: [&mut Leader<'_>; 3]| {
                let mut program = Program::new(seed);
                let mut loaded = vec![0; leader.slices(SMALLEST_SLICE)];
                for _ in 0..10 {
                    for _ in 0..program.rng.usize(1..100) {
                        program.step(&mut [&mut *leader]);
                    }
                    let mut cursor = Some(ImageCursor::START);
                    while let Some(at) = cursor {
                        let mut slice = [0; SMALLEST_SLICE];
                        let (length, next) = leader.save_slice(at, &mut slice).unwrap();
                        let checksum = Leader::slice_checksum(&slice).unwrap();
                        let known = &mut loaded[at.number() as usize];
                        if core::mem::replace(known, checksum) != checksum {
                            other.load_slice(&slice[..length]).unwrap();
                        }
                        // The leader goes on between two slices.
                        if program.rng.bool() {
                            program.step(&mut [&mut *leader]);
                        }
                        cursor = next;
                    }
                }
                let mut cursor = Some(ImageCursor::START);
                while let Some(at) = cursor {
                    let mut slice = [0; SMALLEST_SLICE];
                    let (length, next) = leader.save_slice(at, &mut slice).unwrap();
                    if loaded[at.number() as usize] != Leader::slice_checksum(&slice).unwrap() {
                        other.load_slice(&slice[..length]).unwrap();
                    }
                    cursor = next;
                }
                assert_eq!(other.finish_load(), Ok(()));
                assert_eq!(other.digest_anew(), leader.digest());
                copy(other, third, 4096);
                for _ in 0..200 {
                    program.step(&mut [&mut *leader, &mut *other, &mut *third]);
                }
            },
        );
    }
}

#[test]
fn corrupted_or_cut_slice_is_malformed() {
    with_leaders(&CAPACITIES, |[leader, other]: [&mut Leader<'_>; 2]| {
        let mut program = Program::new(1);
        for _ in 0..2_000 {
            program.step(&mut [&mut *leader]);
        }
        for slice in slices(leader, SMALLEST_SLICE) {
            for length in 0..slice.len() {
                assert_eq!(other.load_slice(&slice[..length]), Err(MalformedImage));
            }
            let mut slice = slice;
            for _ in 0..100 {
                let bit = program.rng.usize(..8 * slice.len());
                slice[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(other.load_slice(&slice), Err(MalformedImage));
                slice[bit / 8] ^= 1 << (bit % 8);
            }
        }
    });
}

#[test]
fn wrong_content_is_refused_or_harmless() {
    let mut refused = 0;
    for seed in 0..16 {
        with_leaders(&CAPACITIES, |[leader, other]: [&mut Leader<'_>; 2]| {
            let mut program = Program::new(seed);
            for _ in 0..1_000 {
                program.step(&mut [&mut *leader]);
            }
            let all = slices(leader, SMALLEST_SLICE);
            for _ in 0..60 {
                let wrong = program.rng.usize(..all.len());
                let mut is_refused = false;
                for (number, slice) in all.iter().enumerate() {
                    let mut slice = slice.clone();
                    if number == wrong {
                        // The checksum is right.
                        for _ in 0..program.rng.usize(1..4) {
                            let at = program.rng.usize(8..slice.len());
                            slice[at] = match program.rng.u8(..4) {
                                0 => 0,
                                1 => 0xff,
                                2 => slice[at] ^ (1 << program.rng.u8(..8)),
                                _ => program.rng.u8(..),
                            };
                        }
                        Leader::seal_slice(&mut slice);
                    }
                    is_refused |= other.load_slice(&slice).is_err();
                }
                is_refused = is_refused || other.finish_load().is_err();
                refused += usize::from(is_refused);
            }
        });
    }
    assert!(refused > 200, "{refused}");
}

#[test]
fn image_of_an_empty_leader_is_small() {
    let capacities = crate::Config::DEFAULT.leader_capacities();
    with_leaders(&capacities, |[leader]: [&mut Leader<'_>; 1]| {
        let bytes: usize = slices(leader, 4096).iter().map(Vec::len).sum();
        println!("{bytes} bytes in {} slices", slices(leader, 4096).len());
        assert!(bytes < 16 * 1024, "{bytes}");
    });
}
