//! A member that sends anything: garbage, and well-formed messages that it has no right to send. In some
//! runs it is a hog: it fills the leader's tables with requests to which it has a right.

use std::ops::RangeInclusive;

use fastrand::Rng;
use libos_ipc::pal::{Pal, Stream};
use libos_ipc::wire::{
    ExitReport, FileLock, FrameWriter, Hello, IdRange, KillTarget, LockFamily, LockKind, Message,
    MetaCode, PidKill, ProcessChange, ProcessQuery, Sync, SyncCode, SyncState, codes,
};
use libos_ipc::{Quota, Vmid};

use super::checks::FOREIGN;
use super::pal::{SimPal, SimStream};
use super::plan::HOSTILE;
use super::world::{pause, with};

pub(crate) const VMID: u32 = 900;
/// The VMIDs that it uses, if it does not claim to be a member.
pub(crate) const VMIDS: RangeInclusive<u32> = VMID..=VMID + 1;
/// The offset of the code in a frame, of the highest byte of a handle, and of the lowest byte of
/// the VMID that an ID is given to.
const CODE: usize = 16;
const LAST_OF_ID: usize = 24;
const OWNER: usize = 21;
/// The pid that it claims.
pub(crate) const PID: u32 = 4_000_000;

/// It has one stream to each of a few members at a time, and waits for nothing.
struct Hostile {
    pal: SimPal<false>,
    streams: Vec<(u32, SimStream)>,
    taken: Vec<SimStream>,
    /// The number of requests as a hog.
    requests: u64,
}

/// Runs it from its start to its end.
pub(crate) fn live(place: usize) {
    let mut hostile = Hostile {
        pal: SimPal(place),
        streams: Vec::new(),
        taken: Vec::new(),
        requests: 0,
    };
    let is_hog = with(|world| {
        let has_quotas = world.plan.config.quota == Quota::Fair;
        has_quotas && world.plan.seed_of(HOSTILE, 9).is_multiple_of(2)
    });
    for step in with(|world| world.plan.steps(HOSTILE, 0)) {
        let mut rng = Rng::with_seed(step.seed);
        if with(|world| world.finish) {
            break;
        }
        if is_hog && rng.bool() {
            hostile.fill(step.at, &mut rng);
        } else {
            hostile.act(&mut rng);
        }
        let until = with(|world| world.network.now) + rng.u64(..1_000_000);
        while with(|world| world.network.now) < until {
            pause(Some(until));
        }
    }
    drop(hostile);
    with(|world| world.network.leave(place));
}

impl Hostile {
    /// Sends some bad bytes.
    fn act(&mut self, rng: &mut Rng) {
        let started = with(|world| u32::try_from(world.started));
        let members = started.map_or(u32::MAX, |started| started.saturating_add(1));
        let to = if rng.bool() { 1 } else { rng.u32(1..=members) };
        if self.streams.iter().all(|(of, _)| *of != to) || rng.u8(..) < 16 {
            self.connect(to, rng);
        }
        let Some((_, stream)) = self.streams.iter().find(|(of, _)| *of == to) else {
            return;
        };
        for _ in 0..rng.usize(1..4) {
            let mut bytes = [0; 300];
            let length = frame(&mut bytes, rng);
            let _ = stream.write(&[&bytes[..length.max(1)]]);
        }
        // It reads its answers or does not.
        if rng.bool()
            && let Ok(back) = self.pal.accept()
        {
            let _ = back.read(&mut [0; 100]);
            self.taken.push(back);
        }
        if rng.u8(..8) == 0 {
            self.taken.clear();
        }
    }

    /// Requests many places of one of the leader's tables.
    fn fill(&mut self, table: usize, rng: &mut Rng) {
        if self.streams.iter().all(|(of, _)| *of != 1) {
            self.connect(1, rng);
        }
        let Some((_, stream)) = self.streams.iter().find(|(of, _)| *of == 1) else {
            return;
        };
        for _ in 0..rng.usize(1..40) {
            self.requests += 1;
            let name = format!("/hog{}", self.requests);
            let message = growth(table, self.requests, name.as_bytes());
            let mut bytes = [0; 300];
            let length = encode(&message, self.requests, &mut bytes);
            let _ = stream.write(&[&bytes[..length]]);
        }
        if let Ok(back) = self.pal.accept() {
            self.taken.push(back);
        }
        for back in &self.taken {
            let _ = back.read(&mut [0; 1000]);
        }
    }

    fn connect(&mut self, to: u32, rng: &mut Rng) {
        self.streams.retain(|(of, _)| *of != to);
        let Some(vmid) = Vmid::new(to) else { return };
        let Ok(stream) = self.pal.connect(vmid) else {
            return;
        };
        // It sends its own VMID, 0, or one that it can't have; and not always all bytes of it.
        let goes_as = [VMID, VMID, VMID, *VMIDS.end(), 0, to][rng.usize(..6)];
        let vmid_bytes = goes_as.to_le_bytes();
        let length = if rng.u8(..8) == 0 { rng.usize(1..4) } else { 4 };
        // Without these bytes, the next ones might happen to be the VMID of a member.
        if stream.write(&[&vmid_bytes[..length]]) != Ok(length) {
            return;
        }
        if rng.u8(..4) > 0 {
            let hello = Message::Hello(Hello {
                version: Hello::VERSION,
                features: 0,
                pid: [0, PID, 1][rng.usize(..3)],
                parent: rng.u32(..4),
            });
            let mut bytes = [0; 64];
            let length = encode(&hello, 0, &mut bytes);
            let _ = stream.write(&[&bytes[..length]]);
        }
        self.streams.push((to, stream));
    }
}

fn encode(message: &Message<'_>, seq: u64, bytes: &mut [u8]) -> usize {
    let mut writer = FrameWriter::new(bytes);
    let _ = writer.push(seq, message);
    writer.unsent().len()
}

/// Makes a frame, or something similar, and returns its length.
fn frame(bytes: &mut [u8; 300], rng: &mut Rng) -> usize {
    if rng.u8(..8) == 0 {
        rng.fill(bytes);
        return rng.usize(..100);
    }
    // Some sequence numbers are such as the leader uses for the signals that it forwards.
    let seq = [0, 1, rng.u64(..), 1 << 62 | rng.u64(..8)][rng.usize(..4)];
    let length = encode(&message(rng), seq, bytes);
    if rng.u8(..8) == 0 {
        // A bit of it is flipped.
        bytes[rng.usize(..length.max(1))] ^= 1 << rng.u8(..8);
        // The message must not request a value that others use, or give an ID to the leader's
        // process, which keeps it.
        match bytes[CODE] {
            codes::SYNC_REQUEST_UPGRADE => bytes[LAST_OF_ID] |= 1,
            codes::CHANGE_ID_OWNER => bytes[OWNER] |= 2,
            _ => {}
        }
    }
    if rng.u8(..16) == 0 {
        return rng.usize(..length.max(1));
    }
    length
}

/// Makes a request that takes a place in a table, and that no other process can notice: the hog has
/// files, open files and values of its own.
fn growth(table: usize, number: u64, name: &[u8]) -> Message<'_> {
    let lock = FileLock {
        family: LockFamily::Posix,
        kind: LockKind::Write,
        start: 2 * number,
        end: 2 * number,
        pid: PID,
        handle: 0,
        wait: false,
        path: b"/hog",
    };
    match table % 7 {
        0 => Message::FileLockSet(lock),
        1 => Message::FileLockSet(FileLock { path: name, ..lock }),
        // It waits for its own locks.
        2 => Message::FileLockSet(FileLock {
            start: 0,
            end: u64::MAX,
            pid: PID + 1,
            wait: true,
            ..lock
        }),
        3 => Message::FileHandle {
            handle: number << 40,
            held: true,
            vmid: 0,
        },
        4 => Message::Sync(
            SyncCode::RequestUpgrade,
            Sync {
                id: 1_000_000 + number,
                state: SyncState::Shared,
                data: b"",
            },
        ),
        5 => Message::AllocIdRange,
        _ => Message::GetNewVmid,
    }
}

/// Makes a well-formed message about resources of others.
fn message(rng: &mut Rng) -> Message<'static> {
    let id = [rng.u32(..100), rng.u32(..), 1][rng.usize(..3)];
    // The leader is excluded, since it keeps the IDs that it is given.
    let vmid = rng.u32(2..10);
    let lock = FileLock {
        family: [LockFamily::Posix, LockFamily::Flock][rng.usize(..2)],
        // It must not request a lock that conflicts with others: it would have the right to.
        kind: LockKind::Unlock,
        start: rng.u64(..6),
        end: rng.u64(..8),
        pid: id,
        handle: u64::from(id) << 8 | rng.u64(..64),
        wait: rng.bool(),
        path: [b"/a", b"/b"][rng.usize(..2)],
    };
    let code = SyncCode::ALL[rng.usize(..SyncCode::ALL.len())];
    let sync = Sync {
        // It must not request a value that others use.
        id: if code == SyncCode::RequestUpgrade {
            rng.u64(1000..)
        } else {
            rng.u64(68..75)
        },
        state: SyncState::ALL[rng.usize(..4)],
        data: [
            &b""[..],
            b"12345678",
            b"1234567890123456789012345678901234567890",
        ][rng.usize(..3)],
    };
    match rng.u8(..22) {
        0 => Message::GetNewVmid,
        1 => Message::ChildExit(ExitReport {
            parent_pid: rng.u32(..100),
            pid: id,
            uid: 0,
            code: 666,
            signal: 0,
        }),
        2 => Message::AllocIdRange,
        3 => Message::ReleaseIdRange(IdRange {
            start: id,
            end: id.saturating_add(rng.u32(..40)),
        }),
        4 => Message::ChangeIdOwner { id, owner: vmid },
        5 => Message::GetIdOwner(id),
        6 | 7 => Message::PidKill(PidKill {
            sender: PID,
            pid: id,
            id,
            signal: rng.i32(FOREIGN..65),
            target: KillTarget::ALL[rng.usize(..4)],
        }),
        20 => Message::KillOrdered {
            kill: PidKill {
                sender: PID,
                pid: id,
                id,
                signal: rng.i32(FOREIGN..65),
                target: KillTarget::ALL[rng.usize(..2)],
            },
            always: rng.bool(),
        },
        8 => Message::PidGetMeta {
            pid: id,
            code: MetaCode::ALL[rng.usize(..4)],
        },
        9..13 => Message::Sync(code, sync),
        13 => Message::FileLockSet(lock),
        14 => Message::FileLockGet(FileLock {
            kind: LockKind::Write,
            ..lock
        }),
        15 => Message::FileLockClearPid(id),
        16 => Message::ProcessChange {
            what: ProcessChange::ALL[rng.usize(..ProcessChange::ALL.len())],
            pid: id,
            value: vmid,
        },
        17 => Message::ProcessReap(id),
        18 => Message::ProcessQuery(ProcessQuery {
            pid: id,
            ..ProcessQuery::default()
        }),
        _ => Message::Response(b"1234"),
    }
}
