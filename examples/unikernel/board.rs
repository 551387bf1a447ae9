//! The definitions that the guests and the host's processes share. Compiled into both.

use core::time::Duration;

use libos_ipc::{FileLock, Id, LockFamily, LockKind};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Longer than any wait that succeeds, on a busy machine, too, where QEMU runs the guests by software.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The ID of the shared board in all processes.
pub(crate) const BOARD: u64 = 1;

/// Returns a lock of a process on bytes of the ledger, the contended file.
pub(crate) const fn lock_of_ledger(
    pid: Id,
    kind: LockKind,
    (start, end): (u64, u64),
    wait: bool,
) -> FileLock<'static> {
    FileLock {
        family: LockFamily::Posix,
        kind,
        start,
        end,
        pid,
        handle: 0,
        wait,
        path: b"/ledger",
    }
}

/// The bytes of the ledger that the host's member locks at first.
pub(crate) const FIRST: (u64, u64) = (0, 9);

/// Returns the bytes of the ledger that a guest locks for itself.
pub(crate) const fn own_bytes(party: usize) -> (u64, u64) {
    let start = party as u64 * 100;
    (start, start + 9)
}

/// The number of increments of the counter by each party.
pub(crate) const INCREMENTS: u64 = 200;

/// The parties: the member on the host, and the guests.
pub(crate) const MEMBER: usize = 0;
pub(crate) const GUESTS: [usize; 2] = [1, 2];
pub(crate) const PARTIES: usize = 3;

/// Returns the exit code of a guest.
pub(crate) const fn exit_code(party: usize) -> u32 {
    if party == GUESTS[0] { 41 } else { 42 }
}

/// The steps of a party.
pub(crate) mod step {
    /// The party has done its measurements.
    pub(crate) const MEASURED: u64 = 1;
    /// As the member: it has locked the first bytes. As a guest: it has found them locked.
    pub(crate) const LOCKED: u64 = 2;
    /// The party is a guest: it has locked the first bytes, and then its own.
    pub(crate) const HELD: u64 = 3;
    /// The party has counted.
    pub(crate) const COUNTED: u64 = 4;
}

/// The shared value.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Board {
    /// Incremented by all.
    pub(crate) counter: u64,
    /// Each party's last [`step`].
    pub(crate) steps: [u64; PARTIES],
    /// Each party's pid.
    pub(crate) pids: [u64; PARTIES],
}
