//! What the guests and the host's processes agree on. Compiled into both.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The number that the shared board goes by in all processes.
pub const BOARD: u64 = 1;

/// The file whose locks they fight for.
pub const LEDGER: &[u8] = b"/ledger";

/// The bytes of it that the host's member locks at first.
pub const FIRST: (u64, u64) = (0, 9);

/// The bytes of it that a guest locks for itself.
pub const fn own_bytes(party: usize) -> (u64, u64) {
    let start = party as u64 * 100;
    (start, start + 9)
}

/// How often each party increments the counter.
pub const INCREMENTS: u64 = 200;

/// The parties: the member on the host, and the guests.
pub const MEMBER: usize = 0;
pub const GUESTS: [usize; 2] = [1, 2];
pub const PARTIES: usize = 3;

/// What a guest returns.
pub const fn exit_code(party: usize) -> u32 {
    40 + party as u32
}

/// How far a party has come.
pub mod step {
    /// It is a member, and can be asked.
    pub const JOINED: u64 = 1;
    /// It has done its measurements.
    pub const MEASURED: u64 = 2;
    /// As the member: it has locked the first bytes. As a guest: it has found them locked.
    pub const LOCKED: u64 = 3;
    /// As a guest: it has had the first bytes, and now has its own.
    pub const HELD: u64 = 4;
    /// It has counted.
    pub const COUNTED: u64 = 5;
}

/// The shared value.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Board {
    /// Incremented by all.
    pub counter: u64,
    /// Each party's last [`step`].
    pub steps: [u64; PARTIES],
    /// Each party's pid.
    pub pids: [u64; PARTIES],
}
