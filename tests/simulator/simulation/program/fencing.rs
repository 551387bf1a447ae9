//! Fencing numbers, also of a file that one process uses alone for so long that it is delegated to it again.

use libos_ipc::wire::{FileLock, LockFamily, LockKind};
use libos_ipc::{Errno, Error};

use super::super::checks::{BYTES, Claim, LONG, Owner, Space};
use super::super::world::with;
use super::Program;
use super::locks::FILES;

/// The number of locks after which a file is delegated that others have used before, and some more.
const REPEATS: usize = 40;

impl<const READS: bool> Program<'_, '_, READS> {
    /// Locks and unlocks a file, until another process is in the way.
    pub(super) fn lock_repeatedly(&self, file: usize) {
        let claim = Claim {
            space: Space::fcntl(file),
            owner: Owner::Process(self.own.vmid),
            bytes: 0..BYTES,
            write: true,
        };
        let lock = FileLock {
            family: LockFamily::Posix,
            kind: LockKind::Write,
            start: 0,
            end: BYTES as u64 - 1,
            pid: self.own.pid,
            handle: 0,
            wait: false,
            path: FILES[file],
        };
        let unlock = FileLock {
            kind: LockKind::Unlock,
            ..lock
        };
        let unlocked = Claim {
            write: false,
            ..claim.clone()
        };
        for _ in 0..REPEATS {
            if self.request(&lock, &claim, LONG).is_err()
                || self.request(&unlock, &unlocked, LONG).is_err()
            {
                return;
            }
        }
    }

    /// Draws the number of a write lock.
    pub(super) fn draw_fencing_number(&self, lock: &FileLock<'_>, claim: &Claim, began: u64) {
        // Another process may release a lock of an open file meanwhile.
        if !claim.write || lock.family != LockFamily::Posix {
            return;
        }
        // Another thread may have released it.
        let is_allowed = |error: Error| error.errno() == Errno::EPERM;
        let drawn = self.call("fencing number", LONG, is_allowed, |node, wait| {
            node.fencing_number(lock, wait)
        });
        if let Ok(Some(number)) = drawn {
            with(|world| {
                if world.may_use(self.own.vmid) {
                    let outcome = world
                        .checks
                        .files
                        .check_fencing_number(claim, began, number);
                    world.check("fencing", outcome);
                }
            });
        }
    }
}
