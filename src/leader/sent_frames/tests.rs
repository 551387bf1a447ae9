use std::boxed::Box;
use std::collections::BTreeMap;
use std::vec::Vec;

use super::super::{Content, LeaderCapacities, Presence, SignalLimits};
use super::*;
use crate::file_locks::LockLimits;
use crate::shared_state::LeaseLimits;
use crate::wire::{FileLock, Hello, KillTarget, LockFamily, LockKind, PidKill};

const CAPACITIES: LeaderCapacities = LeaderCapacities {
    ranges: 16,
    processes: 16,
    peers: 4,
    signals: SignalLimits {
        targets: 16,
        queued: 6,
    },
    locks: LockLimits {
        locks: 16,
        files: 4,
        waiting: 8,
        open_files: 8,
    },
    leases: LeaseLimits {
        handles: 2,
        clients: 6,
    },
    sync_data: 16,
    wrap_ids: true,
    roster: 4,
    ..LeaderCapacities::NONE
};

/// The bytes of frames that are kept for each member.
const LENGTH: usize = 400;
/// The members have the VMIDs from 2 on.
const MEMBERS: u32 = 4;

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

/// The frames that a node has queued for its members: each frame, and whether it is a counted message.
#[derive(Default)]
struct Queued(BTreeMap<Vmid, Vec<(Vec<u8>, bool)>>);

impl Queued {
    fn push(&mut self, to: Vmid, frame: &[u8], is_message: bool) {
        if let Some(frames) = self.0.get_mut(&to) {
            frames.push((frame.to_vec(), is_message));
        }
    }

    fn answer(&mut self, to: Vmid, seq: u64, answer: &Answer<'_>) {
        let mut bytes = [0; 512];
        let length = answer.encode(seq, &mut bytes).unwrap();
        self.push(to, &bytes[..length], false);
    }

    fn message(&mut self, to: Vmid, seq: u64, message: &Message<'_>) {
        let mut bytes = [0; 512];
        let length = message.encode(seq, &mut bytes).unwrap();
        self.push(to, &bytes[..length], true);
    }
}

/// A leader, the frames that its heir keeps, and the frames that the leader's node has queued.
struct World<'m> {
    leader: Leader<'m>,
    sent: SentFrames<'m>,
    queued: Queued,
    rng: fastrand::Rng,
}

impl World<'_> {
    fn apply(&mut self, op: &Op<'_>) -> Outcome {
        self.sent.before_op(&self.leader, op);
        let outcome = self.leader.apply(op);
        self.sent.after_op(&self.leader, op, &outcome);
        outcome
    }

    /// As the node does with a member's frame.
    fn frame(&mut self, op: &Op<'_>) {
        let outcome = self.apply(op);
        match (*op, outcome) {
            (
                Op::Request { from, seq, .. }
                | Op::SignalAll { from, seq, .. }
                | Op::SignalAllRefused { from, seq, .. },
                Outcome::Answer(answer),
            ) if seq != 0 => self.queued.answer(from, seq, &answer),
            (Op::Sync { from, sync, .. }, Outcome::Sync(Err(RequestError::NoRoom))) => {
                let (id, note) = (sync.id, SyncNote::NoRoom);
                self.queued
                    .message(from, 0, &Message::SyncNote { id, note });
            }
            (Op::Sync { from, sync, .. }, Outcome::Sync(Err(RequestError::Closed))) => {
                let closed = Sync {
                    id: sync.id,
                    state: SyncState::Invalid,
                    data: &[],
                };
                let message = Message::Sync(SyncCode::ConfirmClose, closed);
                self.queued.message(from, 0, &message);
            }
            _ => {}
        }
    }

    /// As the node does with the outbox: some messages find no room.
    fn send_output(&mut self) {
        while let Some(next) = self.leader.poll_transmit() {
            let (id, to) = (next.id, next.to);
            if !id.is_answer() && self.rng.u8(..8) == 0 {
                self.apply(&Op::Requeued(id));
                continue;
            }
            match next.content {
                Content::Answer(seq, answer) => self.queued.answer(to, seq, &answer),
                Content::Exit(exit) => self.queued.message(to, 0, &Message::ChildExit(exit)),
                Content::Signal(signal) if signal.is_awaited => {
                    let message = Message::PidKill(signal.kill);
                    self.queued.message(to, signal.seq, &message);
                }
                Content::Signal(signal) => {
                    let message = Message::KillPassed(signal.kill);
                    self.queued.message(to, signal.seq, &message);
                }
                Content::Message(message) => self.queued.message(to, 0, &message),
                Content::Sync(crate::shared_state::ServerMessage::Sync(code, sync)) => {
                    self.queued.message(to, 0, &Message::Sync(code, sync));
                }
                Content::Sync(crate::shared_state::ServerMessage::OwnerDied(id)) => {
                    let note = SyncNote::OwnerDied;
                    self.queued.message(to, 0, &Message::SyncNote { id, note });
                }
            }
            self.apply(&Op::Transmitted {
                id,
                is_extended: true,
            });
        }
        if self.rng.bool() {
            self.apply(&Op::RetryTransmit);
        }
    }

    fn connect(&mut self, member: Vmid) {
        self.queued.0.insert(member, Vec::new());
        self.apply(&Op::Connected(member));
        self.apply(&Op::ConfirmGrants {
            to: member,
            left: u64::MAX,
            allows_notices: true,
        });
        self.apply(&Op::Join(member, Hello::NO_PROCESS));
    }

    fn leave(&mut self, member: Vmid) {
        self.queued.0.remove(&member);
        for reclaim in [
            Op::ReclaimLocks {
                owner: member,
                left: u64::MAX,
            },
            Op::ReclaimLeases {
                owner: member,
                left: u64::MAX,
            },
            Op::Left(member),
        ] {
            self.apply(&reclaim);
        }
    }

    fn random_frame(&mut self) {
        let members: Vec<_> = self.queued.0.keys().copied().collect();
        let Some(from) = self.rng.choice(members) else {
            return;
        };
        let is_awaited = self.rng.u8(..6) > 0;
        let seq = u64::from(is_awaited) * self.rng.u64(1..1000);
        let kind = [LockKind::Read, LockKind::Write, LockKind::Unlock];
        let kind = kind[self.rng.usize(..3)];
        let path = [&b"/a"[..], b"/b"][self.rng.usize(..2)];
        let start = self.rng.u64(..3) * 10;
        let lock = FileLock {
            family: LockFamily::Posix,
            kind,
            wait: self.rng.bool(),
            pid: from.get(),
            start,
            end: start + 9,
            handle: 0,
            path,
        };
        let id = self.rng.u64(1..4);
        let code = [
            SyncCode::RequestUpgrade,
            SyncCode::RequestUpgrade,
            SyncCode::RequestClose,
        ];
        let code = code[self.rng.usize(..3)];
        let state = if code == SyncCode::RequestClose {
            SyncState::Invalid
        } else {
            [SyncState::Shared, SyncState::Exclusive][self.rng.usize(..2)]
        };
        let message = match self.rng.u8(..9) {
            0 => Message::AllocIdRange,
            1 => Message::GetNewVmid,
            2..4 => Message::FileLockSet(lock),
            4 => Message::FileLockGet(lock),
            5 => Message::FileHandle {
                handle: id,
                held: self.rng.bool(),
                vmid: [0, self.rng.u32(2..2 + MEMBERS)][self.rng.usize(..2)],
            },
            6 => {
                let sync = Sync {
                    id,
                    state,
                    data: &[],
                };
                return self.frame(&Op::Sync {
                    from,
                    code,
                    sync,
                    is_extended: true,
                });
            }
            7 => {
                let errno = crate::error::Errno::EINVAL;
                return self.frame(&Op::SignalAllRefused { from, seq, errno });
            }
            _ => {
                let kill = PidKill {
                    sender: 1,
                    pid: 9,
                    id: 9,
                    signal: self.rng.i32(1..40),
                    target: KillTarget::Process,
                };
                self.apply(&Op::Signal(from, kill));
                return;
            }
        };
        let other = self.leader.other(&message);
        let is_there = other.is_some_and(|other| self.queued.0.contains_key(&other));
        self.frame(&Op::Request {
            from,
            seq,
            message: &message,
            other: if is_there {
                Presence::Extended
            } else {
                Presence::Absent
            },
        });
    }

    /// Compares what is kept for each member with the end of what was queued for it. Returns the number of
    /// frames.
    fn check(&self) -> usize {
        let mut count = 0;
        for (member, queued) in &self.queued.0 {
            let messages = |frames: &[(Vec<u8>, bool)]| {
                frames.iter().filter(|(_, is_message)| *is_message).count() as u64
            };
            let given = messages(queued);
            assert_eq!(self.leader.given(*member), Some(given), "{member:?}");
            // At least as many frames as fit into a queue are kept.
            let mut kept = queued.len();
            let mut bytes = 0;
            while kept > 0 && bytes + queued[kept - 1].0.len() <= LENGTH {
                kept -= 1;
                bytes += queued[kept].0.len();
            }
            let base = messages(&queued[..kept]);
            for received in base.saturating_sub(1)..=given {
                let is_covered = self.sent.covers(*member, received);
                assert!(is_covered || received < base, "{received} of {given}");
                if !is_covered {
                    continue;
                }
                // The frames before this message, and the message itself, have arrived.
                let missing_of = |first: usize| -> Vec<_> {
                    let mut seen = messages(&queued[..first]);
                    let missing = queued[first..].iter().skip_while(|(_, is_message)| {
                        let has_arrived = seen < received;
                        seen += u64::from(*is_message);
                        has_arrived
                    });
                    missing.map(|(frame, _)| frame.clone()).collect()
                };
                let mut again = Vec::new();
                // One at a time, as when a queue has room for one more.
                loop {
                    let taken = again.len();
                    let mut room = 1;
                    let more = self.sent.for_each_after(*member, received, taken, |frame| {
                        if room == 0 {
                            return false;
                        }
                        room -= 1;
                        again.push(frame.to_vec());
                        true
                    });
                    if more == 0 {
                        break;
                    }
                    assert_eq!(more, 1);
                }
                assert!(
                    missing_of(0).ends_with(&again),
                    "{member:?} after {received}"
                );
                assert!(
                    again.ends_with(&missing_of(kept)),
                    "{member:?} after {received}"
                );
                count += again.len();
            }
        }
        count
    }
}

fn with_world(seed: u64, test: impl FnOnce(&mut World<'_>)) {
    let size = Leader::bytes(&CAPACITIES) + SentFrames::bytes(MEMBERS as usize, LENGTH);
    let mut memory = Box::new_uninit_slice(size);
    let mut arena = Arena::new(&mut memory);
    let mut world = World {
        leader: Leader::new(&mut arena, &CAPACITIES).unwrap(),
        sent: SentFrames::new(&mut arena, MEMBERS as usize, LENGTH),
        queued: Queued::default(),
        rng: fastrand::Rng::with_seed(seed),
    };
    arena.check().unwrap();
    test(&mut world);
}

#[test]
fn what_is_kept_is_the_end_of_what_a_node_has_queued_for_each_member() {
    let mut compared = 0;
    for seed in 0..150 {
        with_world(seed, |world| {
            for _ in 0..200 {
                let member = vmid(world.rng.u32(2..2 + MEMBERS));
                let is_there = world.queued.0.contains_key(&member);
                match world.rng.u8(..20) {
                    0 if is_there => world.leave(member),
                    0..4 if !is_there => world.connect(member),
                    0..15 => world.random_frame(),
                    _ => world.send_output(),
                }
                compared += world.check();
            }
        });
    }
    assert!(compared > 100_000, "{compared}");
}

#[test]
fn heir_that_begins_later_covers_only_what_was_queued_since() {
    with_world(1, |world| {
        let member = vmid(2);
        world.connect(member);
        let signal = |world: &mut World<'_>| {
            let kill = PidKill {
                sender: 1,
                pid: 9,
                id: 9,
                signal: 15,
                target: KillTarget::Process,
            };
            world.apply(&Op::Signal(member, kill));
            let id = world.leader.poll_transmit().unwrap().id;
            world.apply(&Op::Transmitted {
                id,
                is_extended: true,
            });
        };
        let after =
            |world: &World<'_>, received| world.sent.for_each_after(member, received, 0, |_| true);
        for _ in 0..3 {
            signal(world);
        }
        assert_eq!(after(world, 1), 2);
        world.sent.begin(&world.leader);
        assert!(!world.sent.covers(member, 2));
        assert!(world.sent.covers(member, 3));
        assert_eq!(after(world, 3), 0);
        signal(world);
        assert_eq!(after(world, 3), 1);
        assert!(world.sent.covers(member, 4));
        assert!(!world.sent.covers(member, 5), "it was not sent so much");
        assert!(!world.sent.covers(vmid(3), 0), "it is not connected");
    });
}

#[test]
fn message_longer_than_what_is_kept_leaves_a_gap_and_the_numbers_of_the_others_right() {
    with_world(1, |world| {
        let member = vmid(2);
        world.connect(member);
        let data = [7; LENGTH];
        let long = Sync {
            id: 1,
            state: SyncState::Shared,
            data: &data,
        };
        let long = Message::Sync(SyncCode::ConfirmUpgrade, long);
        world
            .sent
            .push_message(member, 0, &Message::FileLockRecall(1));
        world.sent.push_message(member, 0, &long);
        world
            .sent
            .push_message(member, 0, &Message::FileLockRecall(2));
        assert!(!world.sent.covers(member, 1));
        assert!(world.sent.covers(member, 2));
        assert_eq!(world.sent.for_each_after(member, 2, 0, |_| true), 1);
    });
}
