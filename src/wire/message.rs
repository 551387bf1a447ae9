//! What one process says to another, and how it stands in a frame.

use super::error::{Malformed, TooSmall};
use super::frame::{HEADER_LENGTH, begin, fill};
use super::kinds::{
    KillTarget, LockFamily, LockKind, MetaCode, ProcessChange, ProcessNote, SyncCode, SyncNote,
    SyncState,
};
use super::{LentLocks, codes, layout};
use crate::Id;
use bitflags::bitflags;
use core::mem::size_of;
use zerocopy::FromBytes;

/// The IDs from `start` to `end`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdRange {
    /// The first ID.
    pub start: Id,
    /// The last ID.
    pub end: Id,
}

impl IdRange {
    /// The leader's way to say that it has no IDs to give.
    pub const NONE: IdRange = IdRange { start: 0, end: 0 };
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChildExit {
    /// Whom it tells.
    pub parent_pid: Id,
    /// Which child it was.
    pub pid: Id,
    /// The child's user.
    pub uid: u32,
    /// What it returned.
    pub exit_code: u32,
    /// Which signal ended it, 0 if none did.
    pub term_signal: u32,
}

/// A signal for somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PidKill {
    /// The pid that sends it.
    pub sender: Id,
    /// The pid whose owner is asked.
    pub pid: Id,
    /// The thread, process or group it is for.
    pub id: Id,
    /// The signal's number.
    pub signal: i32,
    /// What `id` is.
    pub target: KillTarget,
}

impl PidKill {
    /// Whether it is for a process, or for the thread that goes by its process's pid.
    pub(crate) const fn is_for_main_thread(&self) -> bool {
        match self.target {
            KillTarget::Process => true,
            KillTarget::Thread => self.id == self.pid,
            KillTarget::Group | KillTarget::All => false,
        }
    }
}

/// A step in the life of a sync handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sync<'a> {
    /// The handle.
    pub id: u64,
    /// The state that is wanted, or that was reached.
    pub state: SyncState,
    /// The handle's data, where the step carries it.
    pub data: &'a [u8],
}

/// A file lock that is asked for, or asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileLock<'a> {
    /// Which kind of lock.
    pub family: LockFamily,
    /// What is to be done.
    pub kind: LockKind,
    /// The first byte.
    pub start: u64,
    /// The last byte; all ones for the end of the file.
    pub end: u64,
    /// Whose lock it is.
    pub pid: Id,
    /// The open file whose lock it is, for [`LockFamily::Flock`].
    pub handle: u64,
    /// Whether the answer may wait until the lock is to be had.
    pub wait: bool,
    /// The file's name, without the NUL that ends it on the wire. A name that holds a NUL can't
    /// be sent.
    pub path: &'a [u8],
}

/// What a process announces about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hello {
    /// The version of the extensions, [`Hello::VERSION`].
    pub version: u32,
    /// Which of them it knows beyond those of that version: none so far.
    pub features: u32,
    /// Its pid; 0 for none.
    pub pid: Id,
    /// The VMID of the process that started it; 0 for none.
    pub parent: u32,
}

impl Hello {
    /// The version of the extensions that this crate speaks.
    pub const VERSION: u32 = 1;

    /// Of a peer that speaks for no process: a leader, or one that has not joined.
    pub const NOBODY: Hello = Hello {
        version: Hello::VERSION,
        features: 0,
        pid: 0,
        parent: 0,
    };
}

bitflags! {
    /// What a process says about itself beside its limits.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct LimitFlags: u32 {
        /// It uses sync handles, or serves them: then its `sync_data` counts.
        const USES_SYNC = 1;
        /// It is no process of the leader's table until its parent says so, and never joins: it is
        /// running from now on.
        const NEVER_JOINS = 2;
    }
}

/// The limits of a process that its peers have to keep. Longer messages of later versions are read as
/// far as this version knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerLimits {
    /// The version of this message, [`PeerLimits::VERSION`].
    pub version: u32,
    /// What else there is to say.
    pub flags: LimitFlags,
    /// The longest frame that it takes, in bytes.
    pub frame_length: u32,
    /// The most data of a sync handle, in bytes.
    pub sync_data: u32,
}

impl PeerLimits {
    /// The version that this crate speaks.
    pub const VERSION: u32 = 1;
}

/// What is asked about the family's processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProcessQuery {
    /// Which process; 0 for the first that fits the rest.
    pub pid: Id,
    /// Only processes of this group; 0 for any.
    pub group: Id,
    /// Only children of this process; 0 for any.
    pub parent: Id,
    /// Only processes born after the one that this is the `born` of.
    pub after: u64,
}

/// Which child's end is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EndQuery {
    /// Which child; 0 for any.
    pub pid: Id,
    /// Only a child of this group; 0 for any.
    pub group: Id,
}

/// Something about a process and its relatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelativeNote {
    /// What.
    pub note: ProcessNote,
    /// The pid of the relative that it is about, where it is about one; else 0.
    pub pid: Id,
    /// The VMID of that process.
    pub vmid: u32,
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// An answer. What its bytes mean depends on the request: see [`Answer`](super::Answer).
    Response(&'a [u8]),
    /// Give me a VMID for a child.
    GetNewVmid,
    /// I am ending.
    ChildExit(ChildExit),
    /// Give me a range of IDs.
    AllocIdRange,
    /// I am done with these IDs.
    ReleaseIdRange(IdRange),
    /// This ID belongs to another process now.
    ChangeIdOwner {
        /// The ID.
        id: Id,
        /// The VMID of its new owner.
        owner: u32,
    },
    /// Whose is this ID?
    GetIdOwner(Id),
    /// A signal for somebody.
    PidKill(PidKill),
    /// Tell me about a pid.
    PidGetMeta {
        /// Which pid.
        pid: Id,
        /// What about it.
        code: MetaCode,
    },
    /// A step in the life of a sync handle.
    Sync(SyncCode, Sync<'a>),
    /// Set or drop a file lock.
    FileLockSet(FileLock<'a>),
    /// Which file lock is in the way?
    FileLockGet(FileLock<'a>),
    /// Drop all file locks of a pid.
    FileLockClearPid(Id),
    /// My request of that sequence number is to wait no more: answer it.
    FileLockCancel(u64),
    /// I have this open file, or have closed it; or I hand it on to another member, or could not.
    FileHandle {
        /// The open file.
        handle: u64,
        /// Whether I have it, or hand it on.
        held: bool,
        /// The VMID of the member that I hand it on to; 0 for myself.
        vmid: u32,
    },
    /// This open file was handed on to you.
    FileGiven(u64),
    /// Set a lock of a process, or lend me the file: then the answer is positive, and says how many
    /// locks I may give. The loan goes by the number that stands as the handle.
    FileLockBorrow(FileLock<'a>),
    /// Give back what goes by this number.
    FileLockRecall(u64),
    /// I give a file back.
    FileLockReturn {
        /// What the loan goes by.
        loan: u64,
        /// The locks that are on the file now.
        locks: LentLocks<'a>,
    },
    /// Something about a sync handle that the protocol has no word for.
    SyncNote {
        /// The handle.
        id: u64,
        /// What.
        note: SyncNote,
    },
    /// Send this signal after those of mine that are under way through you.
    KillOrdered {
        /// The signal, for a process or a thread.
        kill: PidKill,
        /// Whether to send it even if none is under way. Otherwise the answer is then 1, and the
        /// asker sends it to the target's owner itself.
        always: bool,
    },
    /// A signal that somebody sent through me.
    KillPassed(PidKill),
    /// I know the extensions.
    Hello(Hello),
    /// These are limits of mine that both of us have to keep.
    Limits(PeerLimits),
    /// I am starting a child.
    ProcessStart {
        /// Its VMID.
        vmid: u32,
        /// Its pid, which belongs to it already.
        pid: Id,
    },
    /// I have seen how this child of mine ended.
    ProcessReap(Id),
    /// Something about a process is to change.
    ProcessChange {
        /// What.
        what: ProcessChange,
        /// Whose: the sender's own pid or that of a child.
        pid: Id,
        /// To which value.
        value: u32,
    },
    /// Tell me about a process.
    ProcessQuery(ProcessQuery),
    /// How did a child of mine end: the first of those that fit?
    ProcessEnd(EndQuery),
    /// Something about a process and its relatives.
    ProcessNote(RelativeNote),
    /// A code that the protocol leaves free ([`codes::is_unknown`]). Its payload is dropped. With
    /// another code it can't be sent.
    Unknown(u8),
}

impl<'a> Message<'a> {
    /// The code of the frame, one of [`codes`].
    #[inline]
    pub const fn code(&self) -> u8 {
        match self {
            Message::Response(_) => codes::RESP,
            Message::GetNewVmid => codes::GET_NEW_VMID,
            Message::ChildExit(_) => codes::CHILDEXIT,
            Message::AllocIdRange => codes::ALLOC_ID_RANGE,
            Message::ReleaseIdRange(_) => codes::RELEASE_ID_RANGE,
            Message::ChangeIdOwner { .. } => codes::CHANGE_ID_OWNER,
            Message::GetIdOwner(_) => codes::GET_ID_OWNER,
            Message::PidKill(_) => codes::PID_KILL,
            Message::PidGetMeta { .. } => codes::PID_GETMETA,
            Message::Sync(code, _) => code.number(),
            Message::FileLockSet(lock) if matches!(lock.family, LockFamily::Ofd) => {
                codes::FILE_LOCK_OFD_SET
            }
            Message::FileLockGet(lock) if matches!(lock.family, LockFamily::Ofd) => {
                codes::FILE_LOCK_OFD_GET
            }
            Message::FileLockSet(_) => codes::FILE_LOCK_SET,
            Message::FileLockGet(_) => codes::FILE_LOCK_GET,
            Message::FileLockCancel(_) => codes::FILE_LOCK_CANCEL,
            Message::FileHandle { .. } => codes::FILE_HANDLE,
            Message::FileGiven(_) => codes::FILE_GIVEN,
            Message::FileLockBorrow(_) => codes::FILE_LOCK_BORROW,
            Message::FileLockRecall(_) => codes::FILE_LOCK_RECALL,
            Message::FileLockReturn { .. } => codes::FILE_LOCK_RETURN,
            Message::FileLockClearPid(_) => codes::FILE_LOCK_CLEAR_PID,
            Message::SyncNote { .. } => codes::SYNC_NOTE,
            Message::KillOrdered { .. } => codes::PID_KILL_ORDERED,
            Message::KillPassed(_) => codes::PID_KILL_PASSED,
            Message::Hello(_) => codes::HELLO,
            Message::Limits(_) => codes::LIMITS,
            Message::ProcessStart { .. } => codes::PROCESS_START,
            Message::ProcessReap(_) => codes::PROCESS_REAP,
            Message::ProcessChange { .. } => codes::PROCESS_CHANGE,
            Message::ProcessQuery(_) => codes::PROCESS_QUERY,
            Message::ProcessEnd(_) => codes::PROCESS_END,
            Message::ProcessNote(_) => codes::PROCESS_NOTE,
            Message::Unknown(code) => *code,
        }
    }

    /// The length of the whole frame. `usize::MAX` for a message that no frame can hold: a path
    /// with a NUL in it would come out shorter, and an unknown message with a known code would
    /// come out as something else.
    #[inline]
    pub fn length(&self) -> usize {
        let payload = match self {
            Message::Response(payload) => payload.len(),
            Message::ChildExit(_) => size_of::<layout::ChildExit>(),
            Message::ReleaseIdRange(_) => size_of::<layout::IdRange>(),
            Message::ChangeIdOwner { .. } => size_of::<layout::IdOwner>(),
            Message::GetIdOwner(_) | Message::FileLockClearPid(_) | Message::ProcessReap(_) => {
                size_of::<layout::Number>()
            }
            Message::PidKill(_) | Message::KillPassed(_) => size_of::<layout::PidKill>(),
            Message::KillOrdered { kill, .. }
                if matches!(kill.target, KillTarget::Group | KillTarget::All) =>
            {
                usize::MAX
            }
            Message::KillOrdered { .. } => size_of::<layout::OrderedKill>(),
            Message::PidGetMeta { .. } => size_of::<layout::PidGetMeta>(),
            Message::Sync(_, sync) => sync.length(),
            Message::FileLockBorrow(lock) if lock.family != LockFamily::Posix => usize::MAX,
            Message::FileLockSet(lock)
            | Message::FileLockGet(lock)
            | Message::FileLockBorrow(lock) => lock.length(),
            Message::FileLockRecall(_) => size_of::<layout::Recall>(),
            Message::FileLockReturn { locks, .. } => {
                size_of::<layout::LentFile>().saturating_add(locks.bytes().len())
            }
            Message::FileLockCancel(_) => size_of::<layout::FileLockCancel>(),
            Message::FileHandle { .. } => size_of::<layout::FileHandle>(),
            Message::FileGiven(_) => size_of::<layout::FileGiven>(),
            Message::SyncNote { .. } => size_of::<layout::SyncNote>(),
            Message::Hello(_) => size_of::<layout::Hello>(),
            Message::Limits(_) => size_of::<layout::Limits>(),
            Message::ProcessStart { .. } => size_of::<layout::ProcessStart>(),
            Message::ProcessChange { .. } => size_of::<layout::ProcessChange>(),
            Message::ProcessQuery(_) => size_of::<layout::ProcessQuery>(),
            Message::ProcessEnd(_) => size_of::<layout::ProcessEnd>(),
            Message::ProcessNote(_) => size_of::<layout::ProcessNote>(),
            Message::Unknown(code) if !codes::is_unknown(*code) => usize::MAX,
            Message::GetNewVmid | Message::AllocIdRange | Message::Unknown(_) => 0,
        };
        HEADER_LENGTH.saturating_add(payload)
    }

    /// Writes the message as one frame at the buffer's start and tells its length. Padding and
    /// spare bytes are zero.
    ///
    /// # Errors
    ///
    /// [`TooSmall`] if the frame does not fit, and for a message that no frame can hold (see
    /// [`length`](Message::length)). Nothing is written then.
    #[inline]
    pub fn encode(&self, seq: u64, buffer: &mut [u8]) -> Result<usize, TooSmall> {
        let length = self.length();
        let to = begin(buffer, seq, self.code(), length)?;
        match *self {
            Message::Response(payload) => fill(to, &(), payload)?,
            Message::GetNewVmid | Message::AllocIdRange | Message::Unknown(_) => {}
            Message::ChildExit(exit) => fill(to, &exit.layout(), &[])?,
            Message::ReleaseIdRange(range) => fill(to, &range.layout(), &[])?,
            Message::ChangeIdOwner { id, owner } => {
                fill(
                    to,
                    &layout::IdOwner {
                        id: id.into(),
                        owner: owner.into(),
                    },
                    &[],
                )?;
            }
            Message::GetIdOwner(id) | Message::FileLockClearPid(id) | Message::ProcessReap(id) => {
                fill(to, &layout::Number { number: id.into() }, &[])?;
            }
            Message::PidKill(kill) | Message::KillPassed(kill) => fill(to, &kill.layout(), &[])?,
            Message::KillOrdered { kill, always } => fill(to, &kill.ordered(always), &[])?,
            Message::PidGetMeta { pid, code } => {
                let body = layout::PidGetMeta {
                    pid: pid.into(),
                    code: code.number().into(),
                };
                fill(to, &body, &[])?;
            }
            Message::FileLockCancel(seq) => {
                fill(to, &layout::FileLockCancel { seq: seq.into() }, &[])?;
            }
            Message::FileHandle { handle, held, vmid } => {
                let body = layout::FileHandle {
                    handle: handle.into(),
                    held: u32::from(held).into(),
                    vmid: vmid.into(),
                };
                fill(to, &body, &[])?;
            }
            Message::FileGiven(handle) => {
                let handle = handle.into();
                fill(to, &layout::FileGiven { handle }, &[])?;
            }
            Message::SyncNote { id, note } => {
                let body = layout::SyncNote {
                    id: id.into(),
                    note: note.number().into(),
                };
                fill(to, &body, &[])?;
            }
            Message::Hello(hello) => fill(to, &hello.layout(), &[])?,
            Message::Limits(limits) => fill(to, &limits.layout(), &[])?,
            Message::ProcessStart { vmid, pid } => {
                let body = layout::ProcessStart {
                    vmid: vmid.into(),
                    pid: pid.into(),
                };
                fill(to, &body, &[])?;
            }
            Message::ProcessChange { what, pid, value } => {
                let body = layout::ProcessChange {
                    what: what.number().into(),
                    pid: pid.into(),
                    value: value.into(),
                };
                fill(to, &body, &[])?;
            }
            Message::ProcessQuery(query) => fill(to, &query.layout(), &[])?,
            Message::ProcessEnd(query) => fill(to, &query.layout(), &[])?,
            Message::ProcessNote(note) => fill(to, &note.layout(), &[])?,
            Message::Sync(_, sync) => fill(to, &sync.layout(), sync.data)?,
            Message::FileLockRecall(loan) => {
                fill(to, &layout::Recall { loan: loan.into() }, &[])?;
            }
            Message::FileLockReturn { loan, locks } => {
                let body = layout::LentFile {
                    loan: loan.into(),
                    count: (locks.len() as u64).into(),
                };
                fill(to, &body, locks.bytes())?;
            }
            Message::FileLockSet(lock)
            | Message::FileLockGet(lock)
            | Message::FileLockBorrow(lock) => {
                fill(to, &lock.layout(), lock.path)?;
            }
        }
        Ok(length)
    }

    /// What a payload says that came with this code.
    #[inline]
    pub(super) fn decode(code: u8, payload: &'a [u8]) -> Result<Message<'a>, Malformed> {
        Ok(match code {
            codes::RESP => Message::Response(payload),
            codes::GET_NEW_VMID => empty(payload, Message::GetNewVmid)?,
            codes::CHILDEXIT => Message::ChildExit(ChildExit::read(payload)?),
            codes::ALLOC_ID_RANGE => empty(payload, Message::AllocIdRange)?,
            codes::RELEASE_ID_RANGE => Message::ReleaseIdRange(IdRange::read(payload)?),
            codes::CHANGE_ID_OWNER => {
                let body: &layout::IdOwner = exactly(payload)?;
                Message::ChangeIdOwner {
                    id: body.id.get(),
                    owner: body.owner.get(),
                }
            }
            codes::GET_ID_OWNER => Message::GetIdOwner(number(payload)?),
            codes::PID_KILL => Message::PidKill(PidKill::read(payload)?),
            codes::PID_GETMETA => {
                let body: &layout::PidGetMeta = exactly(payload)?;
                let code = MetaCode::read(body.code.get())?;
                Message::PidGetMeta {
                    pid: body.pid.get(),
                    code,
                }
            }
            codes::SYNC_REQUEST_UPGRADE..=codes::SYNC_CONFIRM_CLOSE => {
                Message::Sync(SyncCode::read(code)?, Sync::read(payload)?)
            }
            codes::FILE_LOCK_SET => Message::FileLockSet(FileLock::read(payload, false)?),
            codes::FILE_LOCK_GET => Message::FileLockGet(FileLock::read(payload, false)?),
            codes::FILE_LOCK_OFD_SET => Message::FileLockSet(FileLock::read(payload, true)?),
            codes::FILE_LOCK_OFD_GET => Message::FileLockGet(FileLock::read(payload, true)?),
            codes::FILE_LOCK_CANCEL => {
                let body: &layout::FileLockCancel = exactly(payload)?;
                Message::FileLockCancel(body.seq.get())
            }
            codes::FILE_HANDLE => {
                let body: &layout::FileHandle = exactly(payload)?;
                Message::FileHandle {
                    handle: body.handle.get(),
                    held: match body.held.get() {
                        0 => false,
                        1 => true,
                        _ => return Err(Malformed::BadValue),
                    },
                    vmid: body.vmid.get(),
                }
            }
            codes::FILE_GIVEN => {
                let body: &layout::FileGiven = exactly(payload)?;
                Message::FileGiven(body.handle.get())
            }
            codes::FILE_LOCK_BORROW => {
                let lock = FileLock::read(payload, false)?;
                if lock.family != LockFamily::Posix {
                    return Err(Malformed::BadValue);
                }
                Message::FileLockBorrow(lock)
            }
            codes::FILE_LOCK_RECALL => {
                let body: &layout::Recall = exactly(payload)?;
                Message::FileLockRecall(body.loan.get())
            }
            codes::FILE_LOCK_RETURN => {
                let (body, rest) = layout::LentFile::ref_from_prefix(payload)
                    .map_err(|_| Malformed::PayloadLength)?;
                Message::FileLockReturn {
                    loan: body.loan.get(),
                    locks: LentLocks::read(rest, body.count.get())?,
                }
            }
            codes::FILE_LOCK_CLEAR_PID => Message::FileLockClearPid(number(payload)?),
            codes::SYNC_NOTE => {
                let body: &layout::SyncNote = exactly(payload)?;
                Message::SyncNote {
                    id: body.id.get(),
                    note: SyncNote::read(body.note.get())?,
                }
            }
            codes::PID_KILL_ORDERED => PidKill::read_ordered(payload)?,
            codes::PID_KILL_PASSED => Message::KillPassed(PidKill::read(payload)?),
            codes::HELLO => Message::Hello(Hello::read(payload)?),
            codes::LIMITS => Message::Limits(PeerLimits::read(payload)?),
            codes::PROCESS_START => {
                let body: &layout::ProcessStart = exactly(payload)?;
                Message::ProcessStart {
                    vmid: body.vmid.get(),
                    pid: body.pid.get(),
                }
            }
            codes::PROCESS_REAP => Message::ProcessReap(number(payload)?),
            codes::PROCESS_CHANGE => process_change(payload)?,
            codes::PROCESS_QUERY => Message::ProcessQuery(ProcessQuery::read(payload)?),
            codes::PROCESS_END => Message::ProcessEnd(EndQuery::read(payload)?),
            codes::PROCESS_NOTE => Message::ProcessNote(RelativeNote::read(payload)?),
            codes::FIRST_UNKNOWN.. => Message::Unknown(code),
        })
    }
}

fn process_change<'a>(payload: &[u8]) -> Result<Message<'a>, Malformed> {
    let body: &layout::ProcessChange = exactly(payload)?;
    Ok(Message::ProcessChange {
        what: ProcessChange::read(body.what.get())?,
        pid: body.pid.get(),
        value: body.value.get(),
    })
}

/// A message without a payload.
fn empty<'a>(payload: &[u8], message: Message<'a>) -> Result<Message<'a>, Malformed> {
    if payload.is_empty() {
        Ok(message)
    } else {
        Err(Malformed::PayloadLength)
    }
}

/// A payload that is one struct and nothing else.
#[inline]
pub(super) fn exactly<T>(payload: &[u8]) -> Result<&T, Malformed>
where
    T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned,
{
    T::ref_from_bytes(payload).map_err(|_| Malformed::PayloadLength)
}

/// A payload that is one number.
#[inline]
pub(super) fn number(payload: &[u8]) -> Result<u32, Malformed> {
    Ok(exactly::<layout::Number>(payload)?.number.get())
}
