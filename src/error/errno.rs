//! Linux error numbers.

use core::fmt;
use core::num::NonZeroU16;

use crate::number::Number;

/// A Linux error number, as `errno` has it: it is above 0, and Linux has none above 4,095. [`Errno::new`] accepts any number
/// above 0, and keeps those above 65,535 as 65,535. The numbers that this crate uses, or a platform is likely to return,
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
            None => write!(f, "error {}", Number(self.0.get().into())),
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
    /// Operation already in progress.
    EALREADY = 114,
    /// Stale handle.
    ESTALE = 116,
    /// Required key not available.
    ENOKEY = 126,
}
