//! A few members send each request many times to a leader with large tables. The oracle is the bound of the
//! steps of each operation, which `Leader::apply` checks in builds with debug assertions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libos_ipc::leader::{Leader, LeaderCapacities, Op, Outcome, Presence, SignalLimits};
use libos_ipc::store::Arena;
use libos_ipc::wire::{
    DelegatedLockList, FileLock, Hello, KillTarget, LockFamily, LockKind, Message, PidKill,
    ProcessChange, Sync, SyncCode, SyncState,
};
use libos_ipc::{LeaseLimits, LockLimits, Vmid};

const _: () = assert!(cfg!(debug_assertions), "without them nothing counts steps");

const CAPACITIES: LeaderCapacities = LeaderCapacities {
    peers: 600,
    ranges: 2_048,
    processes: 640,
    signals: SignalLimits {
        targets: 600,
        queued: 512,
    },
    locks: LockLimits {
        locks: 8_192,
        files: 256,
        waiting: 2_048,
        open_files: 2_048,
    },
    leases: LeaseLimits {
        handles: 256,
        clients: 1_024,
    },
    sync_data: 0,
    wrap_ids: true,
    ..LeaderCapacities::NONE
};

/// A step: what is done, by which member, for which file, from which number on, how often, and how.
type Step = [u8; 6];

fn step(leader: &mut Leader<'_>, step: Step) {
    let [action, member, file, first, count, how] = step;
    let from = Vmid::new(u32::from(member % 5).max(1) + 1).expect("not 0");
    let other = Vmid::new(u32::from(how % 5).max(1) + 1).expect("not 0");
    let path = [b'a' + file % 4];
    let seq = 1 + u64::from(first);
    let mut request = |message: Message<'_>, seq| {
        let presence = [Presence::Absent, Presence::Connected, Presence::Extended];
        // If the next VMID is in use the leader goes on to the one after it.
        let mut other = presence[usize::from(how % 3)];
        while let Outcome::Remaining(1..) = leader.apply(&Op::Request {
            from,
            seq,
            message: &message,
            other,
        }) {
            if message == Message::GetNewVmid {
                other = Presence::Absent;
            }
        }
    };
    let times = 8 * u32::from(count);
    match action % 20 {
        kind @ 0..=4 => {
            for number in 0..times {
                let at = u64::from(first) + 2 * u64::from(number);
                let (start, end) = if how & 1 == 0 {
                    (at, at)
                } else {
                    (u64::from(first), u64::MAX)
                };
                let id = if how & 2 == 0 {
                    number + 1
                } else {
                    u32::from(first)
                };
                let lock = FileLock {
                    family: [LockFamily::Posix, LockFamily::Ofd, LockFamily::Flock]
                        [usize::from(how >> 5) % 3],
                    kind: [LockKind::Read, LockKind::Write, LockKind::Unlock]
                        [usize::from(kind) % 3],
                    start,
                    end,
                    pid: id,
                    handle: id.into(),
                    wait: how & 4 != 0,
                    path: &path,
                };
                let seq = if how & 8 == 0 {
                    seq
                } else {
                    u64::from(number) + 1
                };
                match kind {
                    3 => request(
                        Message::FileLockDelegate(FileLock {
                            kind: LockKind::Write,
                            ..lock
                        }),
                        seq,
                    ),
                    4 => request(Message::FileLockGet(lock), seq),
                    _ => request(Message::FileLockSet(lock), seq),
                }
            }
        }
        5 => {
            let list = DelegatedLockList::new();
            request(
                Message::FileLockReturn {
                    delegation: first.into(),
                    locks: list.locks(),
                },
                0,
            );
        }
        6 => request(Message::FileLockCancel(seq), 0),
        7 => request(Message::FileLockClearPid(first.into()), seq),
        8 => {
            for number in 0..times {
                let handle = if how & 8 == 0 {
                    first.into()
                } else {
                    u64::from(number)
                };
                let vmid = if how & 16 == 0 { other.get() } else { 0 };
                request(
                    Message::FileHandle {
                        handle,
                        held: how & 32 == 0,
                        vmid,
                    },
                    0,
                );
            }
        }
        9 => request(
            Message::FileGiven {
                handle: first.into(),
                vmid: from.get(),
            },
            0,
        ),
        10 => {
            for number in 0..times {
                let sync = Sync {
                    id: u64::from(number % 256),
                    state: SyncState::Exclusive,
                    data: &[],
                };
                let code = [SyncCode::RequestUpgrade, SyncCode::RequestClose][usize::from(how % 2)];
                // A member that has sent HELLO knows the extensions from then on.
                let is_extended = from.get() != 4;
                leader.apply(&Op::Sync {
                    from,
                    code,
                    sync,
                    is_extended,
                });
            }
        }
        11 => {
            for _ in 0..times {
                request(Message::GetNewVmid, 1);
                request(Message::AllocIdRange, 1);
            }
        }
        12 => {
            // Children that are being started: their pids, and the leader's names for them.
            let Outcome::Answer(answer) = leader.apply(&Op::Request {
                from,
                seq,
                message: &Message::AllocIdRange,
                other: Presence::Absent,
            }) else {
                return;
            };
            let libos_ipc::wire::Answer::IdRange(range) = answer else {
                return;
            };
            for id in range.start..=range.end {
                let message = Message::GetNewVmid;
                let outcome = leader.apply(&Op::Request {
                    from,
                    seq,
                    message: &message,
                    other: Presence::Absent,
                });
                let Outcome::Answer(libos_ipc::wire::Answer::Vmid(vmid)) = outcome else {
                    return;
                };
                for message in [
                    Message::ChangeIdOwner { id, owner: vmid },
                    Message::ProcessStart { vmid, pid: id },
                ] {
                    leader.apply(&Op::Request {
                        from,
                        seq,
                        message: &message,
                        other: Presence::Absent,
                    });
                }
            }
        }
        13 => {
            let kill = PidKill {
                sender: 1,
                pid: first.into(),
                id: first.into(),
                signal: i32::from(count % 65),
                target: KillTarget::All,
            };
            leader.apply(&Op::SignalAll {
                from,
                seq: 0,
                kill,
                result: Ok(()),
            });
            leader.apply(&Op::Signal(other, kill));
        }
        14 => {
            leader.apply(&Op::Connected(from));
            let mut left = u64::MAX;
            while left > 0 {
                left = match leader.apply(&Op::ConfirmGrants {
                    to: from,
                    left,
                    allows_notices: how & 1 == 0,
                }) {
                    Outcome::Remaining(left) => left,
                    _ => 0,
                };
            }
        }
        15 => leave(leader, from),
        16 => {
            // Members of their own, with the sender as their parent.
            for number in 0..times.min(500) {
                let vmid = Vmid::new(100 + number).expect("not 0");
                let hello = Hello {
                    version: Hello::VERSION,
                    features: 0,
                    pid: 2_000 + number,
                    parent: from.get(),
                };
                leader.apply(&Op::Connected(vmid));
                leader.apply(&Op::Join(vmid, hello));
                if how & 1 == 0 {
                    change(
                        leader,
                        vmid,
                        u32::from(how >> 1),
                        0,
                        u32::from(first) + 2_000,
                    );
                }
            }
        }
        17 => {
            for number in 0..times.min(500) {
                let vmid = Vmid::new(100 + number).expect("not 0");
                change(leader, vmid, u32::from(how), 0, u32::from(first));
            }
        }
        18 => {
            for number in 0..times.min(500) {
                let vmid = Vmid::new(100 + number).expect("not 0");
                leave(leader, vmid);
                leader.apply(&Op::Request {
                    from,
                    seq,
                    message: &Message::ProcessReap(2_000 + number),
                    other: Presence::Absent,
                });
            }
        }
        _ => {
            for number in 0..times {
                let kill = PidKill {
                    sender: 1,
                    pid: 2_000 + number % 500,
                    id: 2_000 + number % 500,
                    signal: i32::from(first % 65),
                    target: KillTarget::Process,
                };
                let always = how & 1 == 0;
                request(Message::KillOrdered { kill, always }, seq);
            }
        }
    }
}

/// A change of a process by itself.
fn change(leader: &mut Leader<'_>, from: Vmid, what: u32, pid: u32, value: u32) {
    let message = Message::ProcessChange {
        what: ProcessChange::ALL[what as usize % ProcessChange::ALL.len()],
        pid,
        value,
    };
    leader.apply(&Op::Request {
        from,
        seq: 1,
        message: &message,
        other: Presence::Absent,
    });
}

/// The end of a member, as the node applies it.
fn leave(leader: &mut Leader<'_>, owner: Vmid) {
    let portions: [fn(Vmid, u64) -> Op<'static>; 3] = [
        |owner, left| Op::ReclaimLocks { owner, left },
        |owner, left| Op::ReclaimLeases { owner, left },
        |owner, left| Op::ReclaimChildren { owner, left },
    ];
    for op in portions {
        let mut left = u64::MAX;
        while left > 0 {
            left = match leader.apply(&op(owner, left)) {
                Outcome::Remaining(left) => left,
                _ => 0,
            };
        }
    }
    while let Outcome::Remaining(1..) = leader.apply(&Op::RevokeGrants(owner)) {}
    let mut left = leader.ranges_to_reclaim(owner);
    while left > 0 {
        left = match leader.apply(&Op::ReclaimRanges { owner, left }) {
            Outcome::Remaining(left) => left,
            _ => 0,
        };
    }
    leader.apply(&Op::Left(owner));
}

fuzz_target!(|bytes: &[u8]| {
    let mut memory = Box::new_uninit_slice(Leader::bytes(&CAPACITIES));
    let mut leader = Leader::new(&mut Arena::new(&mut memory), &CAPACITIES).expect("enough");
    let (steps, _) = bytes.as_chunks::<6>();
    for bytes in steps.iter().take(24) {
        step(&mut leader, *bytes);
        if bytes[5] & 64 == 0 {
            drain(&mut leader, usize::from(bytes[0]));
        }
    }
    drain(&mut leader, usize::MAX);
    assert!(leader.check_invariants());
});

/// Sends so many messages, and does so many portions of other work.
fn drain(leader: &mut Leader<'_>, most: usize) {
    for _ in 0..most {
        if let Some(outgoing) = leader.poll_transmit() {
            let id = outgoing.id;
            leader.apply(&Op::Transmitted {
                id,
                is_extended: true,
            });
        } else if leader.has_output() {
            leader.apply(&Op::ReleaseLocks);
        } else {
            return;
        }
    }
}
