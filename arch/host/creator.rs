//! The process that created an object: a check that the object is not used in a forked copy of that process.

use rustix::process::{Pid, getpid};

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
