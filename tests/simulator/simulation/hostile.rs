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
/// The offsets of the lowest byte of the sequence number and of the payload in a frame.
const SEQ: usize = 8;
const PAYLOAD: usize = 17;
/// The offset of the code in a frame, of the highest byte of a handle, and of the lowest byte of
/// the VMID that an ID is given to.
const CODE: usize = 16;
const LAST_OF_ID: usize = 24;
const OWNER: usize = 21;
/// The pid that it claims.
pub(crate) const PID: u32 = 4_000_000;

/// The number of tables that a hog fills, and those that take more than one request.
const TABLES: usize = 8;
const LOCKS: usize = 0;
const WAITS: usize = 2;
const PROCESSES: usize = 7;

/// The hostile process. It has one stream to each of a few members at a time, and waits for nothing.
struct Hostile {
    pal: SimPal<false>,
    /// The streams that it has opened, with the VMIDs of their peers.
    streams: Vec<(u32, SimStream)>,
    /// The streams that it has accepted.
    accepted: Vec<SimStream>,
    /// The number of requests as a hog.
    requests: u64,
    /// The bytes that the hog has read from the last stream that it has accepted, and whether it has read the
    /// opener's VMID from that stream.
    unread: Vec<u8>,
    is_opened: bool,
    /// Whether it sends nothing but requests to which it has a right: then it keeps what it gets.
    is_honest: bool,
    /// Whether the hog has joined, and the IDs and VMIDs that the leader has given to it: it starts a process with one
    /// of each.
    has_joined: bool,
    ids: Vec<u32>,
    vmids: Vec<u32>,
}

/// Runs it from its start to its end.
pub(crate) fn run(place: usize) {
    let mut hostile = Hostile {
        pal: SimPal(place),
        streams: Vec::new(),
        accepted: Vec::new(),
        requests: 0,
        unread: Vec::new(),
        is_opened: false,
        is_honest: false,
        has_joined: false,
        ids: Vec::new(),
        vmids: Vec::new(),
    };
    let (is_hog, choice) = with(|world| {
        let has_quotas = world.plan.config.quota == Quota::Fair;
        let choice = world.plan.seed_of(HOSTILE, 9);
        (has_quotas && choice.is_multiple_of(2), choice / 2)
    });
    let starts_processes = choice.is_multiple_of(4);
    hostile.is_honest = is_hog && choice / 4 % 2 == 0;
    // An honest hog that fills one table more than the others gets further.
    let favourite = usize::try_from(choice / 8 % TABLES as u64).unwrap_or(0);
    for step in with(|world| world.plan.steps(HOSTILE, 0)) {
        let mut rng = Rng::with_seed(step.seed);
        if with(|world| world.is_finishing) {
            break;
        }
        if is_hog && (hostile.is_honest || rng.bool()) {
            // To fill the table of processes takes more than one step.
            let table = if starts_processes {
                PROCESSES
            } else if hostile.is_honest && rng.bool() {
                favourite
            } else {
                step.at
            };
            hostile.fill(table, &mut rng);
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
        // The process reads its answers or does not.
        if rng.bool()
            && let Ok(back) = self.pal.accept()
        {
            let _ = back.read(&mut [0; 100]);
            self.accepted.push(back);
        }
        if rng.u8(..8) == 0 {
            self.accepted.clear();
        }
    }

    /// Requests many places of one of the leader's tables.
    fn fill(&mut self, table: usize, rng: &mut Rng) {
        if self.streams.iter().all(|(of, _)| *of != 1) {
            self.connect(1, rng);
        }
        let Some(at) = self.streams.iter().position(|(of, _)| *of == 1) else {
            return;
        };
        let mut is_open = true;
        for _ in 0..rng.usize(1..40) {
            self.requests += 1;
            let name = format!("/hog{}", self.requests);
            let requests = match table % TABLES {
                PROCESSES => &self.start()[..],
                // A request can wait only for a lock.
                WAITS => &[
                    table_request(LOCKS, 0, b""),
                    table_request(WAITS, self.requests, b""),
                ],
                table => &[table_request(table, self.requests, name.as_bytes())],
            };
            for message in requests {
                let mut bytes = [0; 300];
                let seq = self.requests << 8 | u64::from(message.code());
                let length = encode(message, seq, &mut bytes);
                is_open &= self.streams[at].1.write(&[&bytes[..length]]).is_ok();
            }
        }
        if self.is_honest && !is_open {
            // The process comes back.
            self.streams.clear();
        }
        if let Ok(back) = self.pal.accept() {
            self.accepted.push(back);
            self.unread.clear();
            self.is_opened = false;
        }
        for back in &self.accepted {
            let mut bytes = [0; 1000];
            if let Ok(count) = back.read(&mut bytes) {
                self.unread.extend(&bytes[..count]);
            }
        }
        self.take_answers();
    }

    /// Takes the IDs and VMIDs out of the answers that it has read.
    fn take_answers(&mut self) {
        // The opener's VMID comes before the frames.
        if !self.is_opened && self.unread.len() >= 4 {
            self.unread.drain(..4);
            self.is_opened = true;
        }
        while self.is_opened
            && let Some(size) = self
                .unread
                .first_chunk()
                .map(|size| u64::from_le_bytes(*size))
            && let size = usize::try_from(size).unwrap_or(usize::MAX).max(PAYLOAD)
            && self.unread.len() >= size
        {
            let frame: Vec<u8> = self.unread.drain(..size).collect();
            let (numbers, _) = frame[PAYLOAD..].as_chunks();
            let numbers: Vec<_> = numbers
                .iter()
                .map(|bytes| u32::from_le_bytes(*bytes))
                .collect();
            // The lowest byte of its sequence numbers is the code of the request.
            match (frame[CODE], frame[SEQ], &numbers[..]) {
                (codes::RESP, codes::ALLOC_ID_RANGE, &[first, last]) if first > 0 => {
                    self.ids.extend((first..=last).take(32));
                }
                (codes::RESP, codes::GET_NEW_VMID, &[vmid]) if vmid > 0 => self.vmids.push(vmid),
                _ => {}
            }
        }
    }

    /// Returns the messages that start a process, or those that are needed before.
    fn start(&mut self) -> [Message<'static>; 2] {
        match (self.ids.pop(), self.vmids.pop()) {
            (Some(id), Some(owner)) if self.has_joined => [
                Message::ChangeIdOwner { id, owner },
                Message::ProcessStart {
                    vmid: owner,
                    pid: id,
                },
            ],
            (Some(pid), vmid) => {
                self.has_joined = true;
                self.vmids.extend(vmid);
                [Message::Hello(hello(pid, 0)), Message::GetNewVmid]
            }
            (None, vmid) => {
                self.vmids.extend(vmid);
                [Message::AllocIdRange, Message::GetNewVmid]
            }
        }
    }

    /// Opens a stream to that member, and perhaps greets it.
    fn connect(&mut self, to: u32, rng: &mut Rng) {
        self.streams.retain(|(of, _)| *of != to);
        if to == 1 {
            self.has_joined = false;
            self.ids.clear();
            self.vmids.clear();
        }
        let Some(vmid) = Vmid::new(to) else { return };
        let Ok(stream) = self.pal.connect(vmid) else {
            return;
        };
        // The process sends its own VMID, 0, or one that it can't have; and not always all bytes of
        // it.
        let claimed_vmid = [VMID, VMID, VMID, *VMIDS.end(), 0, to][rng.usize(..6)];
        let claimed_vmid = if self.is_honest { VMID } else { claimed_vmid };
        let vmid_bytes = claimed_vmid.to_le_bytes();
        let is_whole = rng.u8(..8) > 0 || self.is_honest;
        let length = if is_whole { 4 } else { rng.usize(1..4) };
        // Without these bytes, the next ones might happen to be the VMID of a member.
        if stream.write(&[&vmid_bytes[..length]]) != Ok(length) {
            return;
        }
        if rng.u8(..4) > 0 || self.is_honest {
            let (pid, parent) = ([0, PID, 1][rng.usize(..3)], rng.u32(..4));
            let hello = Message::Hello(if self.is_honest {
                hello(0, 0)
            } else {
                hello(pid, parent)
            });
            let mut bytes = [0; 64];
            let length = encode(&hello, 0, &mut bytes);
            let _ = stream.write(&[&bytes[..length]]);
        }
        self.streams.push((to, stream));
    }
}

/// Returns a greeting of this version without features.
fn hello(pid: u32, parent: u32) -> Hello {
    Hello {
        version: Hello::VERSION,
        features: 0,
        pid,
        parent,
    }
}

/// Writes the frame of the message, and returns its length in bytes.
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
fn table_request(table: usize, number: u64, name: &[u8]) -> Message<'_> {
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
    match table {
        LOCKS => Message::FileLockSet(lock),
        1 => Message::FileLockSet(FileLock { path: name, ..lock }),
        // The process waits for its own locks.
        WAITS => Message::FileLockSet(FileLock {
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
        // The process must not request a lock that conflicts with others: it would have the right
        // to.
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
        // The process must not request a value that others use.
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
