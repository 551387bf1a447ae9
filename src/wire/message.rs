//! The messages between processes.

use super::frame::HEADER_LENGTH;
use super::kinds::{Holding, KillTarget, LockFamily, MetaCode, ProcessChange, SyncCode, SyncNote};
use super::payload::{
    EndQuery, ExitReport, FileLock, Heartbeat, Hello, IdRange, PeerLimits, PidKill, ProcessQuery,
    RelativeNote, Sync,
};
use super::succession::{Dismissal, HeirList, HeirReady, NewLeader, Rejoin, Resignation};
use super::{DelegatedLocks, codes, layout};
use crate::store::{HAS_REPLICAS, total};
use crate::{Id, parts};
use core::mem::size_of;

/// The decoded content of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// An answer. The meaning of its bytes depends on the request: see [`Answer`](super::Answer).
    Response(&'a [u8]),
    /// Asks for a VMID for a child.
    GetNewVmid,
    /// The sender's process is about to end.
    ChildExit(ExitReport),
    /// Asks for a range of IDs.
    AllocIdRange,
    /// Releases a range of IDs.
    ReleaseIdRange(IdRange),
    /// Transfers an ID to another process.
    ChangeIdOwner {
        /// The ID.
        id: Id,
        /// The VMID of its new owner.
        owner: u32,
    },
    /// Asks for the owner of an ID.
    GetIdOwner(Id),
    /// A signal.
    PidKill(PidKill),
    /// Asks for metadata of a pid.
    PidGetMeta {
        /// The pid.
        pid: Id,
        /// The kind of metadata.
        code: MetaCode,
    },
    /// A message between client and server of a sync handle.
    Sync(SyncCode, Sync<'a>),
    /// Sets or releases a file lock.
    FileLockSet(FileLock<'a>),
    /// Asks for a conflicting file lock.
    FileLockGet(FileLock<'a>),
    /// Releases all file locks of a pid.
    FileLockClearPid(Id),
    /// Cancels the sender's waiting request with this sequence number. The receiver answers that
    /// request.
    FileLockCancel(u64),
    /// The sender holds the open file or has closed it; or it gives it to another member, or takes
    /// it back.
    FileHandle {
        /// The open file.
        handle: u64,
        /// Whether the sender holds it, or gives it.
        held: bool,
        /// The VMID of the member that it is given to; 0 for the sender itself.
        vmid: u32,
    },
    /// The leader notifies a member that the member holds an open file, and the member confirms it. As a
    /// request of the giver: whether the receiver has confirmed it.
    FileGiven {
        /// The open file.
        handle: u64,
        /// The VMID of the receiver.
        vmid: u32,
    },
    /// Sets a lock of a process, or asks for a delegation of the file. A positive answer grants the
    /// delegation, and is the number of locks that the member may grant. The lock's `handle` is the
    /// number of the delegation.
    FileLockDelegate(FileLock<'a>),
    /// Recalls the delegation with this number.
    FileLockRecall(u64),
    /// Returns a delegation.
    FileLockReturn {
        /// The number of the delegation.
        delegation: u64,
        /// The locks that are on the file then.
        locks: DelegatedLocks<'a>,
    },
    /// An event of a sync handle that the base protocol has no message for.
    SyncNote {
        /// The handle.
        id: u64,
        /// The event.
        note: SyncNote,
    },
    /// Asks for a signal to be sent after the sender's earlier signals that are under way through
    /// the leader.
    KillOrdered {
        /// The signal, for a process or a thread.
        kill: PidKill,
        /// Whether to send it even if none is under way. If this is false and none is under way,
        /// the answer is 1, and the requester sends the signal to the target's owner itself.
        always: bool,
    },
    /// A signal that another member sent through the leader.
    KillPassed(PidKill),
    /// The sender knows the extensions.
    Hello(Hello),
    /// The limits of the sender that both peers have to keep.
    Limits(PeerLimits),
    /// The sender is starting a child.
    ProcessStart {
        /// Its VMID.
        vmid: u32,
        /// Its pid, which it owns already.
        pid: Id,
    },
    /// The sender has reaped this child.
    ProcessReap(Id),
    /// Changes an attribute of a process.
    ProcessChange {
        /// The attribute.
        what: ProcessChange,
        /// The pid of the process: the sender's own or that of a child.
        pid: Id,
        /// The new value.
        value: u32,
    },
    /// Asks for a process of the leader's table.
    ProcessQuery(ProcessQuery),
    /// Asks for the exit report of the sender's first child that matches.
    ProcessEnd(EndQuery),
    /// A note about a relative of a process.
    ProcessNote(RelativeNote),
    /// A heartbeat of a member, or the leader's answer, which repeats it.
    Heartbeat(Heartbeat),
    /// Asks for a fencing number for a write lock that the sender holds, which covers this range.
    FencingNumber(FileLock<'a>),
    /// Asks for a block of fencing numbers.
    FencingBlock {
        /// The kind of the delegation or lease that the sender holds.
        holding: Holding,
        /// Its number.
        number: u64,
    },
    /// The members that may lead the family after the leader.
    Heirs(HeirList),
    /// An operation that the leader has applied, as bytes of [`Op::encode`](crate::leader::Op::encode). The
    /// first frame of a log stream has no bytes.
    Log(&'a [u8]),
    /// A slice of the leader's state.
    State(&'a [u8]),
    /// The heir has the state of the leader after this operation.
    HeirReady(HeirReady),
    /// The leader leaves, and the heir leads from now on.
    Resign(Resignation),
    /// The sender leads the family.
    Leader(NewLeader),
    /// The sender follows the receiver, and says how far it had come with the old leader.
    Rejoin(Rejoin),
    /// From the leader: asks the heir to read the log stream now. From a member: asks the leader to send the same number
    /// back, which the member has chosen.
    Mark(u64),
    /// Asks which process leads the family.
    WhoLeads,
    /// The receiver will not lead, or is no member any more.
    Dismiss(Dismissal),
    /// A message with a free code ([`codes::is_unknown`]). Its payload is dropped. A message with
    /// any other code can't be sent this way.
    Unknown(u8),
}

impl Message<'_> {
    /// Returns the code of the frame, one of [`codes`].
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
            Message::FileGiven { .. } => codes::FILE_GIVEN,
            Message::FileLockDelegate(_) => codes::FILE_LOCK_DELEGATE,
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
            Message::Heartbeat(_) => codes::HEARTBEAT,
            Message::FencingNumber(_) => codes::FENCING_NUMBER,
            Message::FencingBlock { .. } => codes::FENCING_BLOCK,
            Message::Heirs(_) => codes::HEIRS,
            Message::Log(_) => codes::LOG,
            Message::State(_) => codes::STATE,
            Message::HeirReady(_) => codes::HEIR_READY,
            Message::Resign(_) => codes::RESIGN,
            Message::Leader(_) => codes::LEADER,
            Message::Rejoin(_) => codes::REJOIN,
            Message::Mark(_) => codes::MARK,
            Message::WhoLeads => codes::WHO_LEADS,
            Message::Dismiss(_) => codes::DISMISS,
            Message::Unknown(code) => *code,
        }
    }

    /// Returns the length of the whole frame in bytes. It is `usize::MAX` for a message that no
    /// frame can hold: a path with a NUL would be read back shorter, and an unknown message with a
    /// known code would be read back as another message.
    #[inline]
    pub fn length(&self) -> usize {
        let payload = match self {
            Message::Response(bytes) | Message::Log(bytes) | Message::State(bytes) => bytes.len(),
            Message::ChildExit(_) => size_of::<layout::ChildExit>(),
            Message::ReleaseIdRange(_) => size_of::<layout::IdRange>(),
            Message::ChangeIdOwner { .. } => size_of::<layout::IdOwner>(),
            Message::GetIdOwner(_) | Message::FileLockClearPid(_) | Message::ProcessReap(_) => {
                size_of::<layout::Number>()
            }
            Message::PidKill(_) | Message::KillPassed(_) => size_of::<layout::PidKill>(),
            Message::PidGetMeta { .. } => size_of::<layout::PidGetMeta>(),
            Message::Sync(_, sync) => sync.length(),
            Message::FileLockSet(lock) | Message::FileLockGet(lock) => lock.length(),
            Message::Unknown(code) if !codes::is_unknown(*code) => usize::MAX,
            Message::GetNewVmid
            | Message::AllocIdRange
            | Message::WhoLeads
            | Message::Unknown(_) => 0,
            // The rest are extensions.
            _ if !parts::EXTENSIONS => usize::MAX,
            Message::KillOrdered { kill, .. }
                if matches!(kill.target, KillTarget::Group | KillTarget::All) =>
            {
                usize::MAX
            }
            Message::KillOrdered { .. } => size_of::<layout::OrderedKill>(),
            Message::FileLockDelegate(lock) if lock.family != LockFamily::Posix => usize::MAX,
            Message::FileLockDelegate(lock) | Message::FencingNumber(lock) => lock.length(),
            Message::FileLockReturn { locks, .. } => {
                total!(size_of::<layout::DelegationReturn>(), locks.bytes().len())
            }
            Message::FileHandle { .. } => size_of::<layout::FileHandle>(),
            Message::FileGiven { .. } => size_of::<layout::FileGiven>(),
            Message::SyncNote { .. } => size_of::<layout::SyncNote>(),
            Message::Hello(_) => size_of::<layout::Hello>(),
            Message::Limits(_) => size_of::<layout::Limits>(),
            Message::ProcessStart { .. } => size_of::<layout::ProcessStart>(),
            Message::ProcessChange { .. } => size_of::<layout::ProcessChange>(),
            Message::ProcessQuery(_) => size_of::<layout::ProcessQuery>(),
            Message::ProcessEnd(_) => size_of::<layout::ProcessEnd>(),
            Message::ProcessNote(_) => size_of::<layout::ProcessNote>(),
            Message::Heartbeat(_) => size_of::<layout::Heartbeat>(),
            Message::FencingBlock { .. } => size_of::<layout::FencingBlock>(),
            Message::FileLockRecall(_) | Message::FileLockCancel(_) | Message::Mark(_) => {
                size_of::<layout::LongNumber>()
            }
            // The rest are of the succession.
            _ if !HAS_REPLICAS => usize::MAX,
            Message::Heirs(_) => size_of::<layout::Heirs>(),
            Message::HeirReady(_) => size_of::<layout::HeirReady>(),
            Message::Resign(_) => size_of::<layout::Resign>(),
            Message::Leader(_) => size_of::<layout::Leader>(),
            Message::Rejoin(_) => size_of::<layout::Rejoin>(),
            Message::Dismiss(_) => size_of::<layout::Dismiss>(),
        };
        total!(HEADER_LENGTH, payload)
    }
}
