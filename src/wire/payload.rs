//! The payloads of messages and answers, as a program has them.

use super::kinds::{KillTarget, LockFamily, LockKind, ProcessNote, SyncState};
use crate::Id;
use bitflags::bitflags;

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
    pub const NO_PROCESS: Hello = Hello {
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
    /// Only processes born after the one that this is the `start_seq` of.
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
