//! The errors of calls, and error numbers.

mod errno;
mod resource;
#[cfg(test)]
mod tests;

use core::fmt;

use crate::Vmid;
pub use crate::invalid::Invalid;
pub use errno::Errno;
pub use resource::Resource;

/// The reason why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Error {
    /// The peer does not exist, or was disconnected before it answered (`ESRCH`).
    NoSuchProcess,
    /// The leader has ended, and no other process leads in its place, since the family has no
    /// [heir](crate::Heirs) that can, or this process does not follow it: calls that need the leader fail
    /// (`ENOTCONN`). A call that was waiting may have taken effect or not.
    LeaderGone,
    /// On secure streams: the leader was silent for [`Config::silence_limit`](crate::Config::silence_limit),
    /// or the connection with it was cut, so it may have given to others what this process had
    /// (`ENOLINK`). Calls that need the leader fail from then on.
    CutOff,
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
        ours: ByteCount,
        /// The limit of the other process.
        theirs: ByteCount,
    },
    /// The leader has no IDs or VMIDs left for this process (`EAGAIN`): all are used up, or the leader's table
    /// of ranges is full, or this process has its [part](crate::Quota) of them.
    NoIds,
    /// The leader, or the process that was asked, refused with this error number: a conflicting lock, a limit of one of
    /// the leader's tables, a process that may not be signalled.
    Refused {
        /// The error number.
        errno: Errno,
        /// The process whose library OS refused, which may be this one; none if the leader refused, or the leader
        /// forwarded the refusal.
        by: Option<Vmid>,
    },
    /// An argument is not allowed, or the call is not allowed at this moment (`EINVAL`; `EOVERFLOW` for
    /// [`Invalid::LockEnd`] and [`Invalid::Permits`]), for that cause.
    Invalid(Invalid),
    /// The process has no such child (`ECHILD`).
    NoChild,
    /// The leader does not know the extension that this needs (`ENOSYS`).
    Unsupported,
    /// The process has not [joined](crate::Node::join) (`ENOSYS`).
    NotJoined,
    /// Only the leader's process may call this (`ENOSYS`).
    NotLeader,
    /// Secure streams are required, and there is no key of the family (`ENOKEY`).
    NotSecure,
    /// The node is shutting down (`ESHUTDOWN`).
    ShuttingDown,
    /// The platform failed to provide a stream, event or watch (`EIO`).
    Platform,
}

impl Error {
    /// Returns the error number that stands for this error.
    pub const fn errno(self) -> Errno {
        match self {
            Error::NoSuchProcess => Errno::ESRCH,
            Error::LeaderGone => Errno::ENOTCONN,
            Error::CutOff => Errno::ENOLINK,
            Error::TimedOut => Errno::ETIMEDOUT,
            Error::Interrupted => Errno::EINTR,
            Error::Full(_) => Errno::ENOMEM,
            Error::LimitsDiffer {
                limit: Resource::FrameLength,
                ..
            } => Errno::EMSGSIZE,
            Error::LimitsDiffer { .. } => Errno::EPROTO,
            Error::NoIds => Errno::EAGAIN,
            Error::Refused { errno, .. } => errno,
            Error::Invalid(Invalid::LockEnd | Invalid::Permits) => Errno::EOVERFLOW,
            Error::Invalid(_) => Errno::EINVAL,
            Error::NoChild => Errno::ECHILD,
            Error::Unsupported | Error::NotJoined | Error::NotLeader => Errno::ENOSYS,
            Error::NotSecure => Errno::ENOKEY,
            Error::ShuttingDown => Errno::ESHUTDOWN,
            Error::Platform => Errno::EIO,
        }
    }
}

/// The text says what was wrong, and what to do.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::Invalid(cause) => return cause.fmt(f),
            Error::Full(resource) => {
                return write!(
                    f,
                    "at the limit of {resource}: raise it in Capacities, or ask for less at once"
                );
            }
            Error::LimitsDiffer {
                limit,
                ours,
                theirs,
            } => {
                return write!(
                    f,
                    "the limit of {limit} is {ours} here and {theirs} at the peer: make them equal in Capacities"
                );
            }
            Error::Refused { errno, by: None } => {
                return write!(
                    f,
                    "the leader refused with {errno}: the call's documentation says when"
                );
            }
            Error::Refused { errno, by: Some(peer) } => {
                return write!(
                    f,
                    "the library OS of process {peer} refused with {errno}: its rules say when"
                );
            }
            Error::NoSuchProcess => {
                "there is no such process, or it went away before it answered: look for its end with wait, or give another pid"
            }
            Error::LeaderGone => {
                "the family's leader is gone: end this process, since no other can lead the family"
            }
            Error::CutOff => {
                "this process was cut off from the family's leader, and what it had may be another's now: end this process"
            }
            Error::TimedOut => {
                "the time limit of the call passed before the answer came: allow more time, or see in the statistics who is slow"
            }
            Error::Interrupted => {
                "the call was interrupted: return to the program, or make the call again"
            }
            Error::NoIds => {
                "the leader has no IDs left for this process: release some, or raise Capacities::ranges of the leader or its Quota"
            }
            Error::NoChild => {
                "this process has no such child: it was reaped already, or another process is its parent"
            }
            Error::Unsupported => {
                "the leader does not know what this needs: use a leader of this library, in its present version"
            }
            Error::NotJoined => {
                "this process is not in the table of processes: call join first"
            }
            Error::NotLeader => {
                "this process does not lead the family: call this in the leader's process"
            }
            Error::NotSecure => NOT_SECURE,
            Error::ShuttingDown => {
                "the node is shutting down: make no further calls, or make a new node"
            }
            Error::Platform => {
                "the platform could not provide a stream, an event or a watch: raise the limits of the process, for example that of descriptors"
            }
        })
    }
}

/// The text for a node without a key, here and in [`StartError`](crate::StartError).
pub(crate) const NOT_SECURE: &str = "secure streams are required, and there is no key of the family: give the platform one (pal::secure)";

impl core::error::Error for Error {}

/// A number of bytes in an [`Error`], which has no room for a longer number: one from 2²⁴ on is kept as the highest below.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ByteCount([u8; 3]);

impl ByteCount {
    /// Keeps the number.
    pub const fn new(number: u32) -> ByteCount {
        let [low, middle, high, rest] = number.to_le_bytes();
        ByteCount(if rest == 0 {
            [low, middle, high]
        } else {
            [u8::MAX; 3]
        })
    }

    /// Returns the number.
    pub const fn get(self) -> u32 {
        let [low, middle, high] = self.0;
        u32::from_le_bytes([low, middle, high, 0])
    }
}

impl From<u32> for ByteCount {
    fn from(number: u32) -> Self {
        ByteCount::new(number)
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl fmt::Debug for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
