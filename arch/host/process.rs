//! A check that an object is used in the process that created it, and not in a forked copy; and what a process has run
//! out of.

use rustix::io::Errno;
use rustix::process::{Pid, getpid};

/// Returns what to do if the process or the system has run out of something; nothing for any other error.
pub(super) fn exhausted(error: Errno) -> &'static str {
    match error {
        Errno::MFILE => {
            ": the process has no descriptors left; raise its limit (`raise_descriptor_limit`)"
        }
        Errno::NFILE => {
            ": the system has no descriptors left; raise fs.file-max, or end other processes"
        }
        Errno::NOMEM | Errno::NOBUFS => {
            ": the system has no memory left for it; end other processes, or give it more"
        }
        _ => "",
    }
}

/// The process that created an object. A process that was forked from it has a copy of the object:
/// it may close its own descriptors, but do nothing that affects the creator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Creator(Pid);

impl Creator {
    /// Returns this process.
    pub(super) fn this() -> Creator {
        Creator(getpid())
    }

    /// Returns true in the process that created the object.
    pub(super) fn is_this(self) -> bool {
        self == Creator::this()
    }

    pub(super) fn pid(self) -> i32 {
        self.0.as_raw_nonzero().get()
    }
}
