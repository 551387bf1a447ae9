//! Requests for file locks, as the tests make them, and their common outcomes.

use std::time::Duration;

use libos_ipc::wire::{FileLock, LockFamily, LockKind};
use libos_ipc::{Errno, Error, Id, Wait};

/// Longer than any wait that succeeds.
pub(crate) const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(10));

pub(crate) fn write(pid: Id, start: u64, end: u64) -> FileLock<'static> {
    FileLock {
        family: LockFamily::Posix,
        kind: LockKind::Write,
        start,
        end,
        pid,
        handle: 0,
        wait: false,
        path: b"/data/accounts",
    }
}

pub(crate) fn waiting(lock: FileLock<'static>) -> FileLock<'static> {
    FileLock { wait: true, ..lock }
}

pub(crate) fn unlock(lock: FileLock<'static>) -> FileLock<'static> {
    FileLock {
        kind: LockKind::Unlock,
        wait: false,
        ..lock
    }
}

pub(crate) fn flock(handle: u64) -> FileLock<'static> {
    FileLock {
        family: LockFamily::Flock,
        handle,
        ..write(0, 0, 0)
    }
}

pub(crate) fn ofd(handle: u64, start: u64, end: u64) -> FileLock<'static> {
    FileLock {
        family: LockFamily::Ofd,
        handle,
        ..write(0, start, end)
    }
}

pub(crate) fn read(pid: Id, start: u64, end: u64) -> FileLock<'static> {
    FileLock {
        kind: LockKind::Read,
        ..write(pid, start, end)
    }
}

pub(crate) fn on<'a>(path: &'a [u8], lock: FileLock<'static>) -> FileLock<'a> {
    FileLock { path, ..lock }
}

/// The outcome of a request that conflicts with a lock and does not wait.
pub(crate) const BUSY: Result<(), Error> = Err(Error::Refused {
    errno: Errno::EAGAIN,
    by: None,
});
