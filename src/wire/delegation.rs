//! The locks that come back with a file that was lent.

use core::fmt;
use core::mem::size_of;
use zerocopy::FromBytes;

use super::error::Malformed;
use super::kinds::LockKind;
use super::layout;
use crate::Id;

/// A record lock that a member gave while the file was lent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DelegatedLock {
    /// The first byte.
    pub start: u64,
    /// The last byte; all ones for the end of the file.
    pub end: u64,
    /// Whose lock it is.
    pub pid: Id,
    /// Whether it is a lock to write.
    pub write: bool,
}

/// A number of locks, as they stand in a frame.
#[derive(Clone, Copy)]
pub struct DelegatedLocks<'a>(&'a [layout::DelegatedLock]);

/// Locks to be put into a frame.
#[derive(Clone, Debug, Default)]
pub struct DelegatedLockList(heapless::Vec<layout::DelegatedLock, { DelegatedLocks::MAX }>);

impl DelegatedLocks<'_> {
    /// The most that come with one file.
    pub const MAX: usize = 32;

    /// The length of a frame with that many of them.
    pub const fn frame_length(count: usize) -> usize {
        super::HEADER_LENGTH
            .saturating_add(size_of::<layout::DelegationReturn>())
            .saturating_add(size_of::<layout::DelegatedLock>().saturating_mul(count))
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them.
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
    /// An empty one.
    pub const fn new() -> DelegatedLockList {
        DelegatedLockList(heapless::Vec::new())
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds a lock. False if there are [`DelegatedLocks::MAX`] already.
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

    /// The locks, for a message.
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
