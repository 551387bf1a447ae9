//! A leader loads the image of another one.

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

/// Random operations, some of which need the state that others have made.
struct Program {
    rng: fastrand::Rng,
    ranges: Vec<(u32, IdRange)>,
    vmids: Vec<u32>,
    /// The last recalls, and the signals that wait for an answer.
    recalls: Vec<(Vmid, u64)>,
    signals: Vec<(Vmid, u64)>,
    /// The members that leave: the kind of work that is next, and what is left of it.
    leaving: Vec<(u8, Vmid, u64)>,
    data: Vec<u8>,
}

impl Program {
    fn new(seed: u64) -> Program {
        Program {
            rng: fastrand::Rng::with_seed(seed),
            ranges: Vec::new(),
            vmids: vec![2, 3, 4],
            recalls: Vec::new(),
            signals: Vec::new(),
            leaving: Vec::new(),
            data: (0..5_000_u32).map(|at| (at % 251) as u8).collect(),
        }
    }

    fn member(&mut self) -> Vmid {
        let at = self.rng.usize(..=self.vmids.len());
        let vmid = self.vmids.get(at).map_or(1, |vmid| *vmid);
        Vmid::new(vmid).unwrap()
    }

    fn id(&mut self) -> u32 {
        let at = self.rng.usize(..=self.ranges.len());
        match self.ranges.get(at) {
            Some((_, range)) => self.rng.u32(range.start..=range.end),
            None => self.rng.u32(1..80),
        }
    }

    /// Applies the next operation to all leaders, and checks that they come to the same outcome.
    fn step(&mut self, leaders: &mut [&mut Leader<'_>]) {
        let path_length = self.rng.usize(1..200);
        let path = format!("{0}{1:2$}", self.rng.u8(..9), "x", path_length);
        let path = &path.as_bytes()[..if self.rng.bool() { 1 } else { path_length }];
        let data = core::mem::take(&mut self.data);
        let list = DelegatedLockList::new();
        let op = self.op(leaders[0], path, &data, &list);
        let mut outcomes = leaders.iter_mut().map(|leader| leader.apply(&op));
        let outcome = outcomes.next().unwrap();
        assert!(outcomes.all(|other| other == outcome), "{op:?}");
        let digests: Vec<u64> = leaders.iter().map(|leader| leader.digest()).collect();
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{op:?}");
        let messages: Vec<_> = leaders
            .iter()
            .map(|leader| leader.poll_transmit())
            .collect();
        assert!(
            messages.iter().all(|message| *message == messages[0]),
            "{op:?}"
        );
        match (&op, outcome) {
            (Op::Request { from, .. }, Outcome::Answer(Answer::IdRange(range)))
                if range.start > 0 =>
            {
                self.ranges.push((from.get(), range));
            }
            (_, Outcome::Answer(Answer::Vmid(vmid))) if vmid != 0 && self.vmids.len() < 8 => {
                self.vmids.push(vmid);
            }
            (Op::ReclaimLocks { owner, .. }, Outcome::Remaining(left)) => {
                self.goes_on(0, *owner, left);
            }
            (Op::ReclaimLeases { owner, .. }, Outcome::Remaining(left)) => {
                self.goes_on(1, *owner, left);
            }
            (Op::ReclaimChildren { owner, .. }, Outcome::Remaining(left)) => {
                self.goes_on(2, *owner, left);
            }
            (Op::Left(owner), _) => self.goes_on(3, *owner, 0),
            (Op::RevokeGrants(owner), Outcome::Remaining(left)) => {
                self.goes_on(4, *owner, left);
            }
            _ => {}
        }
        self.data = data;
    }

    fn goes_on(&mut self, kind: u8, owner: Vmid, left: u64) {
        let next = if left > 0 {
            (kind, owner, left)
        } else {
            (kind + 1, owner, u64::MAX)
        };
        self.leaving.push(next);
    }

    fn op<'a>(
        &mut self,
        leader: &Leader<'_>,
        path: &'a [u8],
        data: &'a [u8],
        list: &'a DelegatedLockList,
    ) -> Op<'a> {
        let (from, other) = (self.member(), self.member());
        if let Some((kind, owner, left)) = self.leaving.pop() {
            return match kind {
                0 => Op::ReclaimLocks { owner, left },
                1 => Op::ReclaimLeases { owner, left },
                2 => Op::ReclaimChildren { owner, left },
                3 => Op::Left(owner),
                4 => Op::RevokeGrants(owner),
                _ => Op::ReclaimRanges { owner, left: 64 },
            };
        }
        if self.rng.u8(..4) == 0
            && let Some(outgoing) = leader.poll_transmit()
        {
            let id = outgoing.id;
            match outgoing.content {
                Content::Signal(signal) => self.signals.push((outgoing.to, signal.seq)),
                Content::Message(Message::FileLockRecall(number)) => {
                    self.recalls.push((outgoing.to, number));
                }
                _ => {}
            }
            let is_answer = matches!(id, OutgoingId::LockAnswer | OutgoingId::SignalAnswer);
            if !is_answer && self.rng.u8(..5) == 0 {
                return Op::Requeued(id);
            }
            let is_extended = self.rng.u8(..4) > 0;
            return Op::Transmitted { id, is_extended };
        }
        let kill = PidKill {
            sender: self.id(),
            pid: self.id(),
            id: self.id(),
            signal: self.rng.i32(1..65),
            target: [KillTarget::Process, KillTarget::Thread, KillTarget::All][self.rng.usize(..3)],
        };
        match self.rng.u8(..40) {
            0 => return Op::Connected(from),
            1 => {
                let hello = Hello {
                    version: Hello::VERSION,
                    features: 0,
                    pid: self.id(),
                    parent: other.get(),
                };
                return Op::Join(from, hello);
            }
            2 => {
                return Op::ConfirmGrants {
                    to: from,
                    left: u64::MAX,
                    allows_notices: true,
                };
            }
            3 => return Op::Signal(from, kill),
            4 => return Op::SignalStarting { from, kill },
            5 => {
                if let Some((from, seq)) = self.signals.pop() {
                    let result = if self.rng.bool() {
                        Ok(())
                    } else {
                        Err(crate::error::Errno::EPERM)
                    };
                    return Op::SignalAnswered { from, seq, result };
                }
                return Op::RetryTransmit;
            }
            6..=13 => {
                return self.sync(from, data);
            }
            14 if self.rng.u8(..4) == 0 => return Op::OwnerDied(from, self.rng.u64(..8)),
            15 if from != Vmid::LEADER && self.rng.u8(..4) == 0 => {
                self.vmids.retain(|vmid| *vmid != from.get());
                self.leaving.push((0, from, u64::MAX));
            }
            16 => return Op::RetryTransmit,
            17 => return Op::ReleaseLocks,
            18 => return Op::RunUnjoined(from),
            19 => return Op::Announce(Vmid::new(self.rng.u32(2..40)).unwrap()),
            _ => {}
        }
        self.request((from, other), path, list)
    }

    fn sync<'a>(&mut self, from: Vmid, data: &'a [u8]) -> Op<'a> {
        let sync = Sync {
            id: self.rng.u64(..8),
            state: [SyncState::Shared, SyncState::Exclusive, SyncState::Invalid]
                [self.rng.usize(..3)],
            data: &[],
        };
        let code = match self.rng.u8(..6) {
            0 => SyncCode::RequestClose,
            1 | 2 => SyncCode::ConfirmDowngrade,
            _ => SyncCode::RequestUpgrade,
        };
        let data = if code == SyncCode::RequestUpgrade {
            &[][..]
        } else {
            &data[..self.rng.usize(..data.len())]
        };
        Op::Sync {
            from,
            code,
            sync: Sync { data, ..sync },
            is_extended: from.get().is_multiple_of(2),
        }
    }

    fn request<'a>(
        &mut self,
        (from, other): (Vmid, Vmid),
        path: &'a [u8],
        list: &'a DelegatedLockList,
    ) -> Op<'a> {
        let lock = FileLock {
            family: [LockFamily::Posix, LockFamily::Ofd, LockFamily::Flock][self.rng.usize(..3)],
            kind: [LockKind::Read, LockKind::Write, LockKind::Unlock][self.rng.usize(..3)],
            start: self.rng.u64(..50),
            end: self.rng.u64(50..100),
            pid: self.rng.u32(1..4),
            handle: self.rng.u64(1..6),
            wait: self.rng.bool(),
            path,
        };
        let handle = self.rng.u64(1..6);
        let message = match self.rng.u8(..20) {
            0 | 1 => Message::AllocIdRange,
            2 => Message::GetNewVmid,
            3 => Message::ChangeIdOwner {
                id: self.id(),
                owner: other.get(),
            },
            4 => Message::ProcessStart {
                vmid: other.get(),
                pid: self.id(),
            },
            5..=8 => Message::FileLockSet(lock),
            9 => Message::FileLockBorrow(FileLock {
                family: LockFamily::Posix,
                kind: LockKind::Write,
                ..lock
            }),
            10 => Message::FileLockGet(lock),
            11 => Message::FileLockCancel(self.rng.u64(1..20)),
            12 => Message::FileLockClearPid(self.rng.u32(1..4)),
            13 => Message::FileLockReturn {
                delegation: self
                    .recalls
                    .pop()
                    .map_or(self.rng.u64(1..20), |(_, number)| number),
                locks: list.locks(),
            },
            14 | 15 => Message::FileHandle {
                handle,
                held: self.rng.u8(..4) > 0,
                vmid: if self.rng.bool() { other.get() } else { 0 },
            },
            16 => Message::FileGiven {
                handle,
                vmid: other.get(),
            },
            17 => Message::ProcessChange {
                what: [
                    ProcessChange::Group,
                    ProcessChange::Session,
                    ProcessChange::Stopped,
                ][self.rng.usize(..3)],
                pid: 0,
                value: self.id(),
            },
            18 => Message::ProcessReap(self.id()),
            _ => Message::ProcessNote(RelativeNote {
                note: ProcessNote::WatchParent,
                pid: 0,
                vmid: 0,
            }),
        };
        Op::Request {
            from,
            seq: self.rng.u64(1..20),
            message,
            other: [Presence::Absent, Presence::Connected, Presence::Extended][self.rng.usize(..3)],
        }
    }
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
                assert_eq!(other.load_slice(&slice[..length]), Err(Malformed));
            }
            let mut slice = slice;
            for _ in 0..100 {
                let bit = program.rng.usize(..8 * slice.len());
                slice[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(other.load_slice(&slice), Err(Malformed));
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
