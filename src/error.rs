//! The errors of calls.

use core::fmt;

/// A bounded resource of a node. Each has its limit in [`Capacities`](crate::Capacities).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// Peers that this node is connected to.
    Peers,
    /// Bytes waiting to be sent to one peer.
    SendQueue,
    /// Calls that wait for an answer.
    Waiters,
    /// ID ranges in the leader's table.
    Ranges,
    /// ID ranges that this process owns.
    OwnRanges,
    /// Processes, zombies, and pids of groups and sessions in the leader's table.
    Processes,
    /// Children of this process that are alive or were not reaped.
    Children,
    /// Calls that request metadata at once.
    ReplyBuffers,
    /// Sync handles that this process uses.
    SyncHandles,
    /// The length of one frame.
    FrameLength,
    /// The length of the data of a sync handle, which must be the same in all processes of the
    /// family.
    SyncData,
    /// The memory passed to the node at its creation.
    Memory,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resource::Peers => "peers",
            Resource::SendQueue => "send queue bytes",
            Resource::Waiters => "waiters",
            Resource::Ranges => "the leader's ID ranges",
            Resource::OwnRanges => "this process's ID ranges",
            Resource::Processes => "the leader's processes",
            Resource::Children => "children of this process",
            Resource::ReplyBuffers => "calls for metadata",
            Resource::SyncHandles => "sync handles of this process",
            Resource::FrameLength => "frame length",
            Resource::SyncData => "data of a sync handle",
            Resource::Memory => "node memory",
        })
    }
}

/// The reason why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Error {
    /// The peer does not exist, or was disconnected before it answered (`ESRCH`).
    NoSuchProcess,
    /// The leader has ended: calls that need it fail (`ENOTCONN`).
    LeaderGone,
    /// The time limit of the call ended it (`ETIMEDOUT`). A late answer is dropped and counted.
    TimedOut,
    /// Another thread ended the call (`EINTR`). A late answer is dropped and counted.
    Interrupted,
    /// A bounded resource of this node is full (`ENOMEM`).
    Full(Resource),
    /// A limit of this process does not match that of a peer: [`Resource::SyncData`] differs from
    /// the leader's (`EPROTO`), or the peer accepts no frames of this length
    /// ([`Resource::FrameLength`], `EMSGSIZE`).
    LimitsDiffer {
        /// The limit, one of [`Capacities`](crate::Capacities).
        limit: Resource,
        /// The limit of this process.
        ours: u32,
        /// The limit of the other process.
        theirs: u32,
    },
    /// The leader has no IDs or VMIDs left (`EAGAIN`).
    NoIds,
    /// The peer refused with this error number (positive, Linux numbering).
    Refused(i32),
    /// An argument is out of its range (`EINVAL`).
    Invalid,
    /// The process has no such child (`ECHILD`).
    NoChild,
    /// The leader does not know the extension that this needs (`ENOSYS`).
    Unsupported,
    /// The node is shutting down (`ESHUTDOWN`).
    ShuttingDown,
    /// The platform failed to provide a stream, event or watch (`EIO`).
    Platform,
}

impl Error {
    /// Returns the error as a positive Linux error number.
    pub const fn errno(self) -> i32 {
        match self {
            Error::NoSuchProcess => errno::ESRCH,
            Error::LeaderGone => errno::ENOTCONN,
            Error::TimedOut => errno::ETIMEDOUT,
            Error::Interrupted => errno::EINTR,
            Error::Full(_) => errno::ENOMEM,
            Error::LimitsDiffer {
                limit: Resource::FrameLength,
                ..
            } => errno::EMSGSIZE,
            Error::LimitsDiffer { .. } => errno::EPROTO,
            Error::NoIds => errno::EAGAIN,
            Error::Refused(number) => number,
            Error::Invalid => errno::EINVAL,
            Error::NoChild => errno::ECHILD,
            Error::Unsupported => errno::ENOSYS,
            Error::ShuttingDown => errno::ESHUTDOWN,
            Error::Platform => errno::EIO,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoSuchProcess => {
                f.write_str("no such process, or it went away before it answered")
            }
            Error::LeaderGone => f.write_str("the family's leader is gone"),
            Error::TimedOut => {
                f.write_str("the time limit of the call passed before the answer came")
            }
            Error::Interrupted => f.write_str("the call was interrupted"),
            Error::Full(resource) => {
                write!(
                    f,
                    "at the limit of {resource}: raise it in Capacities, or ask for less at once"
                )
            }
            Error::LimitsDiffer {
                limit,
                ours,
                theirs,
            } => {
                write!(
                    f,
                    "the limit of {limit} is {ours} here and {theirs} at the peer: make them equal in Capacities"
                )
            }
            Error::NoIds => f.write_str("the leader has no IDs left to give"),
            Error::Refused(number) => write!(f, "the peer refused with error {number}"),
            Error::Invalid => f.write_str("an argument is out of its range"),
            Error::NoChild => f.write_str("this process has no such child"),
            Error::Unsupported => f.write_str(
                "the leader doesn't know what this needs, or this process has not joined",
            ),
            Error::ShuttingDown => f.write_str("the node is shutting down"),
            Error::Platform => {
                f.write_str("the platform could not give a stream, an event or a watch")
            }
        }
    }
}

impl core::error::Error for Error {}

/// Returns the status for an error number, or the error number for a status: its negative. The lowest
/// number, which a peer may send, has none, and becomes the highest.
#[inline]
pub(crate) const fn negated(number: i32) -> i32 {
    number.saturating_neg()
}

/// Linux error numbers. On the wire they are negative.
pub mod errno {
    /// Resource deadlock would occur.
    pub const EDEADLK: i32 = 35;
    /// No locks available.
    pub const ENOLCK: i32 = 37;
    /// Protocol error.
    pub const EPROTO: i32 = 71;
    /// Message too long.
    pub const EMSGSIZE: i32 = 90;
    /// Value too large.
    pub const EOVERFLOW: i32 = 75;
    /// Operation not permitted.
    pub const EPERM: i32 = 1;
    /// No such process.
    pub const ESRCH: i32 = 3;
    /// Interrupted call.
    pub const EINTR: i32 = 4;
    /// No such file or directory.
    pub const ENOENT: i32 = 2;
    /// Input/output error.
    pub const EIO: i32 = 5;
    /// No child processes.
    pub const ECHILD: i32 = 10;
    /// Done already.
    pub const EALREADY: i32 = 114;
    /// Try again.
    pub const EAGAIN: i32 = 11;
    /// Out of memory.
    pub const ENOMEM: i32 = 12;
    /// Permission denied.
    pub const EACCES: i32 = 13;
    /// Invalid argument.
    pub const EINVAL: i32 = 22;
    /// File name too long.
    pub const ENAMETOOLONG: i32 = 36;
    /// Function not implemented.
    pub const ENOSYS: i32 = 38;
    /// Not connected.
    pub const ENOTCONN: i32 = 107;
    /// Shut down.
    pub const ESHUTDOWN: i32 = 108;
    /// Timed out.
    pub const ETIMEDOUT: i32 = 110;
}
