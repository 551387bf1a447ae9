//! What one process says to another.

use super::frame::HEADER_LENGTH;
use super::kinds::{KillTarget, LockFamily, MetaCode, ProcessChange, SyncCode, SyncNote};
use super::payload::{
    ChildExit, EndQuery, FileLock, Hello, IdRange, PeerLimits, PidKill, ProcessQuery, RelativeNote,
    Sync,
};
use super::{DelegatedLocks, codes, layout};
use crate::Id;
use core::mem::size_of;

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
        delegation: u64,
        /// The locks that are on the file now.
        locks: DelegatedLocks<'a>,
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

impl Message<'_> {
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
                size_of::<layout::DelegationReturn>().saturating_add(locks.bytes().len())
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
}
