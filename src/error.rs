//! The errors of calls, and error numbers.

use core::fmt;
use core::num::NonZeroU16;

use crate::Vmid;
pub use crate::invalid::Invalid;

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

/// A Linux error number, as `errno` has it: it is above 0, and Linux has none above 4,095. Any number can be made one with
/// [`Errno::new`], which keeps those above 65,535 as 65,535; those that this crate uses, or a platform is likely to return,
/// have names.
///
/// Its `Display` prints the name and the number, `EDEADLK (35)`, or `error 95` if it has no name here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(NonZeroU16);

impl Errno {
    /// Returns the error number with that value; `None` unless it is above 0.
    pub const fn new(number: i32) -> Option<Errno> {
        if number < 0 {
            return None;
        }
        let [low, high, 0, 0] = number.to_le_bytes() else {
            return Some(Errno(NonZeroU16::MAX));
        };
        match NonZeroU16::new(u16::from_le_bytes([low, high])) {
            Some(number) => Some(Errno(number)),
            None => None,
        }
    }

    /// Returns the number, which is above 0.
    pub const fn get(self) -> i32 {
        self.0.get() as i32
    }

    /// Returns the negative of the number, as a function in C returns it.
    #[inline]
    pub(crate) const fn negated(self) -> i32 {
        self.get().wrapping_neg()
    }

    /// Returns the result that a status on the wire, or the value that a function in C has returned, stands for: a negative
    /// one is an error, any other a success with that number.
    #[inline]
    pub(crate) const fn check(status: i32) -> Result<u32, Errno> {
        match Errno::new(status.saturating_neg()) {
            Some(errno) => Err(errno),
            None => Ok(status.cast_unsigned()),
        }
    }

    /// Checks the status of an answer that has data unless it failed. Only 0 is a success: a number above 0, which no peer
    /// should send, is taken for that of the error.
    pub(crate) fn check_status(status: i32) -> Result<(), Errno> {
        match Errno::new(status) {
            Some(errno) => Err(errno),
            None => Errno::check(status).map(drop),
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
        // Programs in C know the numbers, and the names take a KiB.
        match self.name().filter(|_| !cfg!(static_library)) {
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
            $($(#[$doc])* pub const $name: Errno = Errno(NonZeroU16::new($number).unwrap());)*

            /// Returns the name, if it is one of those that this crate uses or a platform is likely to return.
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
    /// Device or resource busy.
    EBUSY = 16,
    /// Invalid argument.
    EINVAL = 22,
    /// Too many open files in the system.
    ENFILE = 23,
    /// Too many open files in the process.
    EMFILE = 24,
    /// No space left on the device.
    ENOSPC = 28,
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
    /// Address already in use.
    EADDRINUSE = 98,
    /// Not connected.
    ENOTCONN = 107,
    /// Shut down.
    ESHUTDOWN = 108,
    /// Timed out.
    ETIMEDOUT = 110,
    /// Connection refused.
    ECONNREFUSED = 111,
    /// Done already.
    EALREADY = 114,
    /// Stale handle.
    ESTALE = 116,
    /// Required key not available.
    ENOKEY = 126,
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use std::format;
    use std::string::String;
    use std::vec::Vec;

    use super::*;

    /// Every error, with one value of each number. The match has no arm for other errors, so a new one is added here.
    fn all() -> Vec<Error> {
        let mut errors: Vec<_> = Invalid::ALL.map(Error::Invalid).into();
        let limits = [
            Resource::Peers,
            Resource::SendQueue,
            Resource::Waiters,
            Resource::Ranges,
            Resource::OwnRanges,
            Resource::Processes,
            Resource::Children,
            Resource::ReplyBuffers,
            Resource::SyncHandles,
            Resource::FrameLength,
            Resource::SyncData,
            Resource::Memory,
        ];
        errors.extend(limits.map(Error::Full));
        let (peer, errno) = (Vmid::LEADER, Errno::EPERM);
        let mut next = Some(Error::NoSuchProcess);
        while let Some(error) = next {
            errors.push(error);
            next = match error {
                Error::NoSuchProcess => Some(Error::LeaderGone),
                Error::LeaderGone => Some(Error::CutOff),
                Error::CutOff => Some(Error::TimedOut),
                Error::TimedOut => Some(Error::Interrupted),
                Error::Interrupted => Some(Error::LimitsDiffer {
                    limit: Resource::SyncData,
                    ours: ByteCount::new(64),
                    theirs: ByteCount::new(128),
                }),
                Error::LimitsDiffer { .. } => Some(Error::NoIds),
                Error::NoIds => Some(Error::Refused { errno, by: None }),
                Error::Refused { by: None, .. } => Some(Error::Refused {
                    errno,
                    by: Some(peer),
                }),
                Error::Refused { by: Some(_), .. } => Some(Error::NoChild),
                Error::NoChild => Some(Error::Unsupported),
                Error::Unsupported => Some(Error::NotJoined),
                Error::NotJoined => Some(Error::NotLeader),
                Error::NotLeader => Some(Error::NotSecure),
                Error::NotSecure => Some(Error::ShuttingDown),
                Error::ShuttingDown => Some(Error::Platform),
                Error::Platform | Error::Full(_) | Error::Invalid(_) => None,
            };
        }
        errors
    }

    #[test]
    fn the_text_of_each_error_says_what_was_wrong_and_what_to_do() {
        let texts: Vec<String> = all().iter().map(|error| format!("{error}")).collect();
        for (at, text) in texts.iter().enumerate() {
            let (wrong, advice) = text.split_once(": ").unwrap();
            assert!(wrong.len() > 15 && advice.len() > 10, "{text}");
            assert!(
                wrong.starts_with(char::is_lowercase) && !text.ends_with('.'),
                "{text}"
            );
            assert!(!texts[..at].contains(text), "twice: {text}");
        }
        assert!(texts.len() > 50);
    }

    #[test]
    fn an_error_fits_into_a_register() {
        assert_eq!(size_of::<Error>(), 8);
        assert_eq!(size_of::<Result<(), Error>>(), 8);
        let causes = Invalid::ALL.map(|cause| Error::Invalid(cause).errno());
        let others = causes.iter().filter(|errno| **errno != Errno::EINVAL);
        // A lock behind the end of a file, and too many permits.
        assert_eq!(others.collect::<Vec<_>>(), [&Errno::EOVERFLOW; 2]);
    }

    #[test]
    fn a_refusal_names_the_process_that_refused_and_the_number_by_name() {
        let peer = Vmid::new(7).unwrap();
        let errno = Errno::EPERM;
        let text = Error::Refused {
            errno,
            by: Some(peer),
        }
        .to_string();
        assert!(text.contains("process 7 refused with EPERM (1)"), "{text}");
        let text = Error::Refused {
            errno: Errno::EDEADLK,
            by: None,
        }
        .to_string();
        assert!(
            text.contains("the leader refused with EDEADLK (35)"),
            "{text}"
        );
    }

    #[test]
    fn an_error_number_is_above_0_and_prints_its_name() {
        assert_eq!(Errno::new(0), None);
        assert_eq!(Errno::new(-35), None);
        assert_eq!(Errno::new(35), Some(Errno::EDEADLK));
        assert_eq!(Errno::EDEADLK.to_string(), "EDEADLK (35)");
        let unnamed = Errno::new(95).unwrap();
        assert_eq!(unnamed.to_string(), "error 95");
        assert_eq!(
            Error::Refused {
                errno: unnamed,
                by: None
            }
            .errno(),
            unnamed
        );
        assert_eq!(size_of::<Result<(), Errno>>(), size_of::<u16>());
        assert_eq!(Errno::new(65_535).unwrap().get(), 65_535);
        assert_eq!(Errno::new(i32::MAX), Errno::new(65_535));
    }

    #[test]
    fn an_error_keeps_numbers_of_bytes_below_16_mib_exactly() {
        for (number, kept) in [(0, 0), (0x12_3456, 0x12_3456), (u32::MAX, 0xFF_FFFF)] {
            assert_eq!(ByteCount::new(number).get(), kept);
        }
        assert_eq!(ByteCount::new(1024).to_string(), "1024");
    }

    #[test]
    fn a_status_of_a_peer_becomes_a_result_whatever_it_is() {
        assert_eq!(Errno::check(0), Ok(0));
        assert_eq!(Errno::check(i32::MAX), Ok(i32::MAX.cast_unsigned()));
        for (status, number) in [(-1, 1), (-i32::MAX, 65_535), (i32::MIN, 65_535)] {
            let errno = Errno::new(number).unwrap();
            assert_eq!(Errno::check(status), Err(errno));
            assert_eq!(Errno::status::<()>(&Err(errno)), -number);
        }
    }
}
