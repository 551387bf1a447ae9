//! The errors of calls, and error numbers.

use core::fmt;
use core::num::NonZeroI32;

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
        ours: u32,
        /// The limit of the other process.
        theirs: u32,
    },
    /// The leader has no IDs or VMIDs left for this process (`EAGAIN`): all are used up, or the leader's table
    /// of ranges is full, or this process has its [part](crate::Quota) of them.
    NoIds,
    /// The peer refused with this error number.
    Refused(Errno),
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
            Error::Refused(number) => number,
            Error::Invalid => Errno::EINVAL,
            Error::NoChild => Errno::ECHILD,
            Error::Unsupported => Errno::ENOSYS,
            Error::ShuttingDown => Errno::ESHUTDOWN,
            Error::Platform => Errno::EIO,
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
            Error::CutOff => f.write_str("this process was cut off from the family's leader"),
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
            Error::Refused(number) => write!(f, "the peer refused with {number}"),
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

/// A Linux error number, as `errno` has it: it is above 0. Any number can be made one with [`Errno::new`]; those that
/// this crate uses have names.
///
/// Its `Display` prints the name and the number, `EDEADLK (35)`, or `error 95` if it has no name here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(NonZeroI32);

impl Errno {
    /// Returns the error number with that value; `None` unless it is above 0.
    pub const fn new(number: i32) -> Option<Errno> {
        match NonZeroI32::new(number) {
            Some(number) if number.is_positive() => Some(Errno(number)),
            _ => None,
        }
    }

    /// Returns the number, which is above 0.
    pub const fn get(self) -> i32 {
        self.0.get()
    }

    /// Returns the negative of the number, as a function in C returns it.
    #[inline]
    pub(crate) const fn negated(self) -> i32 {
        self.get().wrapping_neg()
    }

    /// Returns the result that a status on the wire, or the value that a function in C has returned, stands for: a negative
    /// one is an error, any other a success with that number. The lowest status stands for the highest error number, since
    /// no number is its negative.
    #[inline]
    pub(crate) const fn check(status: i32) -> Result<u32, Errno> {
        match Errno::new(status.saturating_neg()) {
            Some(errno) => Err(errno),
            None => Ok(status.cast_unsigned()),
        }
    }

    /// Returns the status of a result: 0 or a negative error number.
    #[inline]
    pub(crate) fn status<T>(result: &Result<T, Errno>) -> i32 {
        result.as_ref().err().map_or(0, |errno| errno.negated())
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "error {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Defines the error numbers that have names.
macro_rules! named {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        impl Errno {
            $($(#[$doc])* pub const $name: Errno = Errno(NonZeroI32::new($number).unwrap());)*

            /// Returns the name, if it is one of those that this crate uses.
            pub const fn name(self) -> Option<&'static str> {
                Some(match self {
                    $(Errno::$name => stringify!($name),)*
                    _ => return None,
                })
            }
        }
    };
}

named! {
    /// Operation not permitted.
    EPERM = 1,
    /// No such file or directory.
    ENOENT = 2,
    /// No such process.
    ESRCH = 3,
    /// Interrupted call.
    EINTR = 4,
    /// Input/output error.
    EIO = 5,
    /// No child processes.
    ECHILD = 10,
    /// Try again.
    EAGAIN = 11,
    /// Out of memory.
    ENOMEM = 12,
    /// Permission denied.
    EACCES = 13,
    /// Invalid argument.
    EINVAL = 22,
    /// Resource deadlock would occur.
    EDEADLK = 35,
    /// File name too long.
    ENAMETOOLONG = 36,
    /// No locks available.
    ENOLCK = 37,
    /// Function not implemented.
    ENOSYS = 38,
    /// Link has been severed.
    ENOLINK = 67,
    /// Protocol error.
    EPROTO = 71,
    /// Value too large.
    EOVERFLOW = 75,
    /// Message too long.
    EMSGSIZE = 90,
    /// Not connected.
    ENOTCONN = 107,
    /// Shut down.
    ESHUTDOWN = 108,
    /// Timed out.
    ETIMEDOUT = 110,
    /// Done already.
    EALREADY = 114,
    /// Required key not available.
    ENOKEY = 126,
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn an_error_number_is_above_0_and_prints_its_name() {
        assert_eq!(Errno::new(0), None);
        assert_eq!(Errno::new(-35), None);
        assert_eq!(Errno::new(35), Some(Errno::EDEADLK));
        assert_eq!(Errno::EDEADLK.to_string(), "EDEADLK (35)");
        let unnamed = Errno::new(95).unwrap();
        assert_eq!(unnamed.to_string(), "error 95");
        assert_eq!(Error::Refused(unnamed).errno(), unnamed);
        assert_eq!(size_of::<Result<(), Errno>>(), size_of::<i32>());
    }

    #[test]
    fn a_status_of_a_peer_becomes_a_result_whatever_it_is() {
        assert_eq!(Errno::check(0), Ok(0));
        assert_eq!(Errno::check(i32::MAX), Ok(i32::MAX.cast_unsigned()));
        for (status, number) in [(-1, 1), (-i32::MAX, i32::MAX), (i32::MIN, i32::MAX)] {
            let errno = Errno::new(number).unwrap();
            assert_eq!(Errno::check(status), Err(errno));
            assert_eq!(Errno::status::<()>(&Err(errno)), -number);
        }
    }
}
