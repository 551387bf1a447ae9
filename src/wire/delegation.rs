//! The locks that return with the delegation of a file.

use crate::store::total;
use core::fmt;
use core::mem::size_of;
use zerocopy::FromBytes;

use super::error::Malformed;
use super::kinds::LockKind;
use super::layout;
use crate::Id;

/// A record lock that a member granted while it held the delegation of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DelegatedLock {
    /// The first byte.
    pub start: u64,
    /// The last byte; all ones for the end of the file.
    pub end: u64,
    /// The pid of its holder.
    pub pid: Id,
    /// Whether it is a write lock.
    pub write: bool,
}

/// A list of locks in the bytes of a frame.
#[derive(Clone, Copy)]
pub struct DelegatedLocks<'a>(&'a [layout::DelegatedLock]);

/// A list of locks for a frame.
#[derive(Clone, Debug, Default)]
pub struct DelegatedLockList(heapless::Vec<layout::DelegatedLock, { DelegatedLocks::MAX }>);

impl DelegatedLocks<'_> {
    /// The greatest number of locks in one list.
    pub const MAX: usize = 32;

    /// Returns the length of a frame with that many locks, in bytes.
    pub const fn frame_length(count: usize) -> usize {
        total!(
            super::HEADER_LENGTH,
            size_of::<layout::DelegationReturn>(),
            size_of::<layout::DelegatedLock>().saturating_mul(count),
        )
    }

    /// Returns the number of locks.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if the list has no locks.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterates over the locks.
    pub fn iter(&self) -> impl Iterator<Item = DelegatedLock> {
        self.0.iter().map(|lock| DelegatedLock {
            start: lock.start.get(),
            end: lock.end.get(),
            pid: lock.pid.get(),
            write: lock.kind.get() == LockKind::Write.number(),
        })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        zerocopy::IntoBytes::as_bytes(self.0)
    }
}

impl<'a> DelegatedLocks<'a> {
    pub(super) fn read(payload: &'a [u8], count: u64) -> Result<DelegatedLocks<'a>, Malformed> {
        let locks = <[layout::DelegatedLock]>::ref_from_bytes(payload)
            .map_err(|_| Malformed::PayloadLength)?;
        if locks.len() as u64 != count {
            return Err(Malformed::LengthsDisagree);
        }
        for lock in locks {
            let is_lock = LockKind::read(lock.kind.get())? != LockKind::Unlock;
            if !is_lock || lock.start.get() > lock.end.get() {
                return Err(Malformed::BadValue);
            }
        }
        Ok(DelegatedLocks(locks))
    }
}

impl DelegatedLockList {
    /// Makes an empty list.
    pub const fn new() -> DelegatedLockList {
        DelegatedLockList(heapless::Vec::new())
    }

    /// Removes all locks.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds a lock. Returns false if there are [`DelegatedLocks::MAX`] already.
    pub fn push(&mut self, lock: DelegatedLock) -> bool {
        let kind = if lock.write {
            LockKind::Write
        } else {
            LockKind::Read
        };
        let lock = layout::DelegatedLock {
            start: lock.start.into(),
            end: lock.end.into(),
            pid: lock.pid.into(),
            kind: kind.number().into(),
        };
        self.0.push(lock).is_ok()
    }

    /// Returns the locks, for a message.
    pub fn locks(&self) -> DelegatedLocks<'_> {
        DelegatedLocks(&self.0)
    }
}

impl PartialEq for DelegatedLocks<'_> {
    fn eq(&self, other: &DelegatedLocks<'_>) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for DelegatedLocks<'_> {}

impl fmt::Debug for DelegatedLocks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
