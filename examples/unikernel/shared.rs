//! The definitions that the guests and the host's processes share. Compiled into both.

use core::time::Duration;

use libos_ipc::{FileLock, Id, LockFamily, LockKind};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Longer than any wait that succeeds, on a busy machine, too, where QEMU runs the guests by software.
pub(crate) const LIMIT: Duration = Duration::from_secs(50);

/// The number of the sync handle of the shared state in all processes.
pub(crate) const STATE_ID: u64 = 1;

/// Returns a lock of a process on bytes of the ledger, the file that all lock: from `start` to `end`.
pub(crate) const fn ledger_lock(
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

/// The bytes of the ledger that the host's member locks at first: the first and the last.
pub(crate) const FIRST_BYTES: (u64, u64) = (0, 9);

/// Returns the bytes of the ledger that a guest locks for itself.
pub(crate) const fn own_bytes(participant: usize) -> (u64, u64) {
    let start = participant as u64 * 100;
    (start, start + 9)
}

/// The number of increments of the counter by each participant.
pub(crate) const INCREMENTS: u64 = 200;

/// The participants, by their index in the shared state: the member on the host, and the guests.
pub(crate) const MEMBER: usize = 0;
pub(crate) const GUESTS: [usize; 2] = [1, 2];
pub(crate) const PARTICIPANTS: usize = 3;

/// Returns the exit code of a guest.
pub(crate) const fn exit_code(participant: usize) -> u32 {
    if participant == GUESTS[0] { 41 } else { 42 }
}

/// The steps of a participant.
pub(crate) mod step {
    /// The participant has done its measurements.
    pub(crate) const MEASURED: u64 = 1;
    /// The participant is the member on the host, and has locked the first bytes; or it is a guest, and has found them
    /// locked.
    pub(crate) const LOCKED: u64 = 2;
    /// The participant is a guest: it has locked the first bytes, and then its own.
    pub(crate) const HELD: u64 = 3;
    /// The participant has done its increments.
    pub(crate) const COUNTED: u64 = 4;
}

/// The shared value.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct SharedState {
    /// The number of increments by all participants.
    pub(crate) counter: u64,
    /// Each participant's last [`step`].
    pub(crate) steps: [u64; PARTICIPANTS],
    /// Each participant's pid.
    pub(crate) pids: [u64; PARTICIPANTS],
}
