//! Owners of locks.

use super::SpaceKind;
use crate::store::{ImageEntry, ImageReader, ImageWriter, MalformedImage, hash64};
use crate::wire::{FileLock, LockFamily};
use crate::{Id, Vmid};

/// The owner of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A process (`F_SETLK`).
    Process {
        /// The member that the process belongs to.
        vmid: Vmid,
        /// The process.
        pid: Id,
    },
    /// An open file that locks ranges (`F_OFD_SETLK`).
    Open(u64),
    /// An open file that locks the whole file (`flock`).
    Flock(u64),
}

impl ImageEntry for Owner {
    const SIZE: usize = 9;

    fn save(&self, to: &mut ImageWriter<'_>) {
        let (number, kind) = self.key();
        (kind, number).save(to);
    }

    fn load(from: &mut ImageReader<'_>) -> Result<Self, MalformedImage> {
        match u8::load(from)? {
            0 => {
                // The number of a process: the VMID above the pid.
                let pid = u32::load(from)?;
                let vmid = Vmid::load(from)?;
                Ok(Owner::Process { vmid, pid })
            }
            1 => u64::load(from).map(Owner::Open),
            2 => u64::load(from).map(Owner::Flock),
            _ => Err(MalformedImage),
        }
    }
}

impl Owner {
    /// Returns the owner of the lock that a member's request names.
    #[cfg_attr(static_library, inline(never))]
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

    /// Returns the key of the owner, by which owners are ordered.
    pub(super) const fn key(self) -> (u64, u8) {
        match self {
            Owner::Process { vmid, pid } => (number_of(vmid, pid), 0),
            Owner::Open(open_file) => (open_file, 1),
            Owner::Flock(open_file) => (open_file, 2),
        }
    }

    pub(super) const fn hash(self) -> u64 {
        hash64(match self {
            Owner::Process { vmid, pid } => return Owner::hash_of(vmid, pid),
            Owner::Open(open_file) => open_file.wrapping_add(1).rotate_left(21),
            Owner::Flock(open_file) => open_file.wrapping_add(2).rotate_left(42),
        })
    }

    /// Returns the hash of a process.
    pub(super) const fn hash_of(vmid: Vmid, pid: Id) -> u64 {
        hash64(number_of(vmid, pid))
    }

    pub(super) const fn space(self) -> SpaceKind {
        match self {
            Owner::Flock(_) => SpaceKind::WholeFile,
            Owner::Process { .. } | Owner::Open(_) => SpaceKind::Ranges,
        }
    }
}

/// Returns the number of a process: its VMID above the pid.
const fn number_of(vmid: Vmid, pid: Id) -> u64 {
    ((vmid.get() as u64) << 32) | pid as u64
}
