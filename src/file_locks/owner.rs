//! Whose lock it is.

use super::SpaceKind;
use crate::store::hash64;
use crate::wire::{FileLock, LockFamily};
use crate::{Id, Vmid};

/// Whose lock it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A process's: `F_SETLK`.
    Process {
        /// The member it belongs to.
        vmid: Vmid,
        /// The process.
        pid: Id,
    },
    /// An open file's, for ranges: `F_OFD_SETLK`.
    Open(u64),
    /// An open file's, for the whole file: `flock`.
    Flock(u64),
}

impl Owner {
    /// Whose lock a member's request is about.
    pub const fn of(from: Vmid, lock: &FileLock<'_>) -> Owner {
        match lock.family {
            LockFamily::Posix => Owner::Process {
                vmid: from,
                pid: lock.pid,
            },
            LockFamily::Ofd => Owner::Open(lock.handle),
            LockFamily::Flock => Owner::Flock(lock.handle),
        }
    }

    pub(super) const fn hash(self) -> u64 {
        hash64(match self {
            Owner::Process { vmid, pid } => ((vmid.get() as u64) << 32) | pid as u64,
            Owner::Open(handle) => handle.wrapping_add(1).rotate_left(21),
            Owner::Flock(handle) => handle.wrapping_add(2).rotate_left(42),
        })
    }

    pub(super) const fn space(self) -> SpaceKind {
        match self {
            Owner::Flock(_) => SpaceKind::WholeFile,
            Owner::Process { .. } | Owner::Open(_) => SpaceKind::Ranges,
        }
    }
}
