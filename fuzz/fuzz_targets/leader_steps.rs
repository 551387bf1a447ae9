//! A few members send each request many times to a leader with large tables. The oracle is the bound on the
//! steps of each operation, which `Leader::apply` checks in builds with debug assertions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libos_ipc::leader::{Leader, LeaderCapacities, Op, Outcome, Presence, SignalLimits};
use libos_ipc::store::Arena;
use libos_ipc::wire::{
    Answer, DelegatedLockList, FileLock, Hello, KillTarget, LockFamily, LockKind, Message, PidKill,
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

/// A step of a program.
#[derive(Clone, Copy)]
struct Step {
    action: u8,
    /// The member that acts, and another one.
    from: Vmid,
    other: Vmid,
    /// The path of the file.
    path: [u8; 1],
    /// The first number: a pid, a handle, an offset or the like.
    first: u8,
    /// How often the request is sent.
    times: u32,
    /// Bits that choose among the variants of the action.
    variant: u8,
    /// The last byte that counts: the number of a signal.
    count: u8,
}

impl Step {
    fn of([action, member, file, first, count, variant]: [u8; 6]) -> Step {
        let vmid = |byte: u8| Vmid::new(u32::from(byte % 5).max(1) + 1).expect("not 0");
        Step {
            action,
            from: vmid(member),
            other: vmid(variant),
            path: [b'a' + file % 4],
            first,
            times: 8 * u32::from(count),
            variant,
            count,
        }
    }

    fn has(self, bit: u8) -> bool {
        self.variant & bit != 0
    }

    /// The sequence number of a request.
    fn seq(self) -> u64 {
        1 + u64::from(self.first)
    }

    /// Applies a request, all portions of it.
    fn request(self, leader: &mut Leader<'_>, message: Message<'_>, seq: u64) {
        let presence = [Presence::Absent, Presence::Connected, Presence::Extended];
        // If the next VMID is in use the leader goes on to the one after it.
        let mut other = presence[usize::from(self.variant % 3)];
        while let Outcome::Remaining(1..) = leader.apply(&Op::Request {
            from: self.from,
            seq,
            message: &message,
            other,
        }) {
            if message == Message::GetNewVmid {
                other = Presence::Absent;
            }
        }
    }

    /// Applies a request of a member about a process that is not there.
    fn request_absent(self, leader: &mut Leader<'_>, message: &Message<'_>) -> Outcome {
        leader.apply(&Op::Request {
            from: self.from,
            seq: self.seq(),
            message,
            other: Presence::Absent,
        })
    }

    fn run(self, leader: &mut Leader<'_>) {
        let Step {
            from, first, times, ..
        } = self;
        let number = u32::from(first);
        match self.action % 20 {
            kind @ 0..=4 => self.lock(leader, kind),
            5 => {
                let list = DelegatedLockList::new();
                let message = Message::FileLockReturn {
                    delegation: first.into(),
                    locks: list.locks(),
                };
                self.request(leader, message, 0);
            }
            6 => self.request(leader, Message::FileLockCancel(self.seq()), 0),
            7 => self.request(leader, Message::FileLockClearPid(number), self.seq()),
            8 => self.hold_open_files(leader),
            9 => {
                let message = Message::FileGiven {
                    handle: first.into(),
                    vmid: from.get(),
                };
                self.request(leader, message, 0);
            }
            10 => self.sync(leader),
            11 => {
                for _ in 0..times {
                    self.request(leader, Message::GetNewVmid, 1);
                    self.request(leader, Message::AllocIdRange, 1);
                }
            }
            12 => {
                let _ = self.start_children(leader);
            }
            13 => self.signal_all(leader),
            14 => self.connect(leader),
            15 => leave(leader, from),
            16 => self.add_members(leader),
            17 => {
                for vmid in self.added_members() {
                    change(leader, vmid, self.variant.into(), 0, number);
                }
            }
            18 => self.remove_members(leader),
            _ => self.signal_members(leader),
        }
    }

    /// Sets locks (kinds 0 to 2), requests delegations (3), or queries locks (4).
    fn lock(self, leader: &mut Leader<'_>, kind: u8) {
        let first = u64::from(self.first);
        for number in 0..self.times {
            let offset = first + 2 * u64::from(number);
            let (start, end) = if self.has(1) {
                (first, u64::MAX)
            } else {
                (offset, offset)
            };
            let id = if self.has(2) {
                u32::from(self.first)
            } else {
                number + 1
            };
            let lock = FileLock {
                family: [LockFamily::Posix, LockFamily::Ofd, LockFamily::Flock]
                    [usize::from(self.variant >> 5) % 3],
                kind: [LockKind::Read, LockKind::Write, LockKind::Unlock][usize::from(kind) % 3],
                start,
                end,
                pid: id,
                handle: id.into(),
                wait: self.has(4),
                path: &self.path,
            };
            let message = match kind {
                3 => Message::FileLockDelegate(FileLock {
                    kind: LockKind::Write,
                    ..lock
                }),
                4 => Message::FileLockGet(lock),
                _ => Message::FileLockSet(lock),
            };
            let seq = if self.has(8) {
                u64::from(number) + 1
            } else {
                self.seq()
            };
            self.request(leader, message, seq);
        }
    }

    fn hold_open_files(self, leader: &mut Leader<'_>) {
        for number in 0..self.times {
            let handle = if self.has(8) {
                u64::from(number)
            } else {
                self.first.into()
            };
            let message = Message::FileHandle {
                handle,
                held: !self.has(32),
                vmid: if self.has(16) { 0 } else { self.other.get() },
            };
            self.request(leader, message, 0);
        }
    }

    fn sync(self, leader: &mut Leader<'_>) {
        for number in 0..self.times {
            let sync = Sync {
                id: u64::from(number % 256),
                state: SyncState::Exclusive,
                data: &[],
            };
            let code =
                [SyncCode::RequestUpgrade, SyncCode::RequestClose][usize::from(self.variant % 2)];
            // A member that has sent HELLO knows the extensions from then on.
            let is_extended = self.from.get() != 4;
            leader.apply(&Op::Sync {
                from: self.from,
                code,
                sync,
                is_extended,
            });
        }
    }

    /// Prepares children: their pids, and the leader's names for them. Returns `None` if a table is full.
    fn start_children(self, leader: &mut Leader<'_>) -> Option<()> {
        let outcome = self.request_absent(leader, &Message::AllocIdRange);
        let Outcome::Answer(Answer::IdRange(range)) = outcome else {
            return None;
        };
        for id in range.start..=range.end {
            let outcome = self.request_absent(leader, &Message::GetNewVmid);
            let Outcome::Answer(Answer::Vmid(vmid)) = outcome else {
                return None;
            };
            self.request_absent(leader, &Message::ChangeIdOwner { id, owner: vmid });
            self.request_absent(leader, &Message::ProcessStart { vmid, pid: id });
        }
        Some(())
    }

    fn signal_all(self, leader: &mut Leader<'_>) {
        let kill = PidKill {
            sender: 1,
            pid: self.first.into(),
            id: self.first.into(),
            signal: i32::from(self.count % 65),
            target: KillTarget::All,
        };
        leader.apply(&Op::SignalAll {
            from: self.from,
            seq: 0,
            kill,
            result: Ok(()),
        });
        leader.apply(&Op::Signal(self.other, kill));
    }

    /// Connects the member, and confirms the grants that waited for that.
    fn connect(self, leader: &mut Leader<'_>) {
        leader.apply(&Op::Connected(self.from));
        apply_portions(leader, u64::MAX, |left| Op::ConfirmGrants {
            to: self.from,
            left,
            allows_notices: !self.has(1),
        });
    }

    /// Returns the VMIDs of members that [`Step::add_members`] adds.
    fn added_members(self) -> impl Iterator<Item = Vmid> {
        let numbers = 0..self.times.min(500);
        numbers.map(|number| Vmid::new(100 + number).expect("not 0"))
    }

    /// Adds members whose parent is the acting one.
    fn add_members(self, leader: &mut Leader<'_>) {
        for (vmid, pid) in self.added_members().zip(2_000..) {
            let hello = Hello {
                version: Hello::VERSION,
                features: 0,
                pid,
                parent: self.from.get(),
            };
            leader.apply(&Op::Connected(vmid));
            leader.apply(&Op::Join(vmid, hello));
            if !self.has(1) {
                let (what, value) = (u32::from(self.variant >> 1), u32::from(self.first) + 2_000);
                change(leader, vmid, what, 0, value);
            }
        }
    }

    /// Removes these members, and reaps them.
    fn remove_members(self, leader: &mut Leader<'_>) {
        for (vmid, pid) in self.added_members().zip(2_000..) {
            leave(leader, vmid);
            self.request_absent(leader, &Message::ProcessReap(pid));
        }
    }

    fn signal_members(self, leader: &mut Leader<'_>) {
        for number in 0..self.times {
            let kill = PidKill {
                sender: 1,
                pid: 2_000 + number % 500,
                id: 2_000 + number % 500,
                signal: i32::from(self.first % 65),
                target: KillTarget::Process,
            };
            let always = !self.has(1);
            self.request(leader, Message::KillOrdered { kill, always }, self.seq());
        }
    }
}

/// Applies the operations that `op` returns for what is left, until nothing is.
fn apply_portions(leader: &mut Leader<'_>, mut left: u64, op: impl Fn(u64) -> Op<'static>) {
    while left > 0 {
        left = match leader.apply(&op(left)) {
            Outcome::Remaining(left) => left,
            _ => 0,
        };
    }
}

/// Changes a process at the request of that process.
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

/// Removes a member, as the node does at its end.
fn leave(leader: &mut Leader<'_>, owner: Vmid) {
    apply_portions(leader, u64::MAX, |left| Op::ReclaimLocks { owner, left });
    apply_portions(leader, u64::MAX, |left| Op::ReclaimLeases { owner, left });
    apply_portions(leader, u64::MAX, |left| Op::ReclaimChildren { owner, left });
    while let Outcome::Remaining(1..) = leader.apply(&Op::RevokeGrants(owner)) {}
    let ranges = leader.ranges_to_reclaim(owner);
    apply_portions(leader, ranges, |left| Op::ReclaimRanges { owner, left });
    leader.apply(&Op::Left(owner));
}

fuzz_target!(|bytes: &[u8]| {
    let mut memory = Box::new_uninit_slice(Leader::bytes(&CAPACITIES));
    let mut leader = Leader::new(&mut Arena::new(&mut memory), &CAPACITIES).expect("enough");
    let (steps, _) = bytes.as_chunks::<6>();
    for bytes in steps.iter().take(24) {
        Step::of(*bytes).run(&mut leader);
        if bytes[5] & 64 == 0 {
            drain(&mut leader, usize::from(bytes[0]));
        }
    }
    drain(&mut leader, usize::MAX);
    assert!(leader.check_invariants());
});

/// Sends messages, and does portions of other work: at most `count` of both together.
fn drain(leader: &mut Leader<'_>, count: usize) {
    for _ in 0..count {
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
