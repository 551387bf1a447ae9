//! A check that an object is used in the process that created it, and not in a forked copy.

use rustix::process::{Pid, getpid};

/// The process that a thing belongs to. One that was forked from it has a copy of the thing, and may
/// close its own descriptors, but do nothing that the creator would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Creator(Pid);

impl Creator {
    /// This process.
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
