//! The payloads of messages and answers as Rust types.

use super::frame::HEADER_LENGTH;
use super::kinds::{KillTarget, LockFamily, LockKind, ProcessNote, SyncState};
use super::layout;
use crate::Id;
use crate::store::total;
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
    /// The value that the leader sends if it has no IDs.
    pub const NONE: IdRange = IdRange { start: 0, end: 0 };
}

/// The exit report of a process: how it ended, in the words of [`Exit`](crate::Exit).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExitReport {
    /// The pid of its parent; 0 for none.
    pub parent_pid: Id,
    /// Its pid; 0 for a process that never joined and got no pid.
    pub pid: Id,
    /// Its user.
    pub uid: u32,
    /// Its exit code.
    pub code: u32,
    /// The signal that ended it; 0 if none did.
    pub signal: u32,
}

/// A signal and its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PidKill {
    /// The pid of the sender.
    pub sender: Id,
    /// The pid whose owner delivers the signal.
    pub pid: Id,
    /// The ID of the thread, process or group that is the target.
    pub id: Id,
    /// The signal's number.
    pub signal: i32,
    /// The kind of `id`.
    pub target: KillTarget,
}

impl PidKill {
    /// Returns true if the target is a process, or its thread with the process's pid.
    pub(crate) const fn is_for_main_thread(&self) -> bool {
        match self.target {
            KillTarget::Process => true,
            KillTarget::Thread => self.id == self.pid,
            KillTarget::Group | KillTarget::All => false,
        }
    }
}

/// A message about a sync handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sync<'a> {
    /// The handle.
    pub id: u64,
    /// The state that is requested, or that was reached.
    pub state: SyncState,
    /// The handle's data, if the message carries them.
    pub data: &'a [u8],
}

/// A file lock of a request or a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileLock<'a> {
    /// The kind of the lock.
    pub family: LockFamily,
    /// The operation.
    pub kind: LockKind,
    /// The first byte.
    pub start: u64,
    /// The last byte; all ones for the end of the file.
    pub end: u64,
    /// The pid of its holder.
    pub pid: Id,
    /// The open file that holds it, for [`LockFamily::Flock`].
    pub handle: u64,
    /// Whether the request waits until the lock can be granted.
    pub wait: bool,
    /// The file's path, without the NUL that ends it on the wire. A path that contains a NUL can't
    /// be sent.
    pub path: &'a [u8],
}

/// The greeting of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hello {
    /// The version of the extensions, [`Hello::VERSION`].
    pub version: u32,
    /// The features of the process beyond those of that version: [`Hello::ANSWERS_HEARTBEATS`],
    /// [`Hello::FOLLOWS_SUCCESSION`], [`Hello::NO_ROOM`], [`Hello::CAN_LEAD`] and, with the last, [`Hello::tables`] and
    /// [`Hello::SHARES_LOGS`].
    pub features: u32,
    /// Its pid; 0 for none.
    pub pid: Id,
    /// The VMID of the process that started it; 0 for none.
    pub parent: u32,
}

impl Hello {
    /// The version of the extensions that this crate implements.
    pub const VERSION: u32 = 1;

    /// The feature of a leader that answers heartbeats: its streams are secure, and it has a limit of
    /// silence.
    pub const ANSWERS_HEARTBEATS: u32 = 1;

    /// The feature of a process that goes on with another leader when its leader leaves or dies.
    pub const FOLLOWS_SUCCESSION: u32 = 2;

    /// The feature of a process that has reserved the memory of a leader, so that it may lead after
    /// the leader.
    pub const CAN_LEAD: u32 = 4;

    /// The feature of a leader that has no room for the receiver: it closes the connection behind this greeting.
    pub const NO_ROOM: u32 = 8;

    /// The length of a frame with a greeting, in bytes.
    pub const FRAME_LENGTH: usize = total!(HEADER_LENGTH, size_of::<layout::Hello>());

    /// The feature of a process whose platform receives a log in another way than through the stream, if the leader's
    /// platform sends it so.
    pub const SHARES_LOGS: u32 = 16;

    /// Returns the features of a process that can lead, with a hash of all that a leader and its heir
    /// must have alike: 24 bits of it are sent.
    pub const fn features_to_lead(tables: u32) -> u32 {
        Hello::CAN_LEAD | tables << 8
    }

    /// Returns the 24 bits of the hash that [`Hello::features_to_lead`] sends; `None` if the process
    /// can't lead.
    pub const fn tables(&self) -> Option<u32> {
        if self.features & Hello::CAN_LEAD == 0 {
            return None;
        }
        Some(self.features >> 8)
    }

    /// The greeting of a peer without a process in the table: a leader, or a member that has not
    /// joined.
    pub const NO_PROCESS: Hello = Hello {
        version: Hello::VERSION,
        features: 0,
        pid: 0,
        parent: 0,
    };
}

bitflags! {
    /// The flags that a process sends with its limits.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct LimitFlags: u32 {
        /// The process uses sync handles, or serves them, so both peers' `sync_data` must agree.
        const USES_SYNC = 1;
        /// The process is not in the leader's table until its parent adds it, and it never joins:
        /// it counts as running from then on.
        const NEVER_JOINS = 2;
    }
}

/// The limits of a process that its peers have to keep. Fields that later versions add are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerLimits {
    /// The version of this message, [`PeerLimits::VERSION`].
    pub version: u32,
    /// Its flags.
    pub flags: LimitFlags,
    /// The longest frame that it accepts, in bytes.
    pub frame_length: u32,
    /// The greatest length of the data of a sync handle, in bytes.
    pub sync_data: u32,
}

impl PeerLimits {
    /// The version that this crate implements.
    pub const VERSION: u32 = 1;
}

/// A query for processes of the leader's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProcessQuery {
    /// The pid; 0 for the first process that matches the other fields.
    pub pid: Id,
    /// Only processes of this group; 0 for any.
    pub group: Id,
    /// Only children of this process; 0 for any.
    pub parent: Id,
    /// Only processes that were started after the one with this `start_seq`.
    pub after: u64,
}

/// A query for the exit report of a child.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EndQuery {
    /// The pid of the child; 0 for any.
    pub pid: Id,
    /// Only a child of this group; 0 for any.
    pub group: Id,
}

/// A note about a relative of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelativeNote {
    /// The kind of the note.
    pub note: ProcessNote,
    /// The pid of the relative; 0 if the note is about none.
    pub pid: Id,
    /// The VMID of that relative.
    pub vmid: u32,
}

/// A heartbeat: a member's question whether the leader still counts it as a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Heartbeat {
    /// The time on the member's clock at which it sent the heartbeat, in nanoseconds. The leader
    /// does not interpret it.
    pub sent_at: u64,
    /// The time for which the answer lets the member use what it was given, from `sent_at`, in
    /// nanoseconds: at most [`Heartbeat::LONGEST`].
    pub limit: u64,
}

impl Heartbeat {
    /// The longest limit of silence: a minute. What a member had is taken for longer than that after
    /// it is lost.
    pub const LONGEST: u64 = 60_000_000_000;
}
