//! The parts that `liblibos_ipc_seed.a` does not have (`arch/c/archive.sh`): no function of
//! `include/libos_ipc_seed.h` makes use of them. To other processes a node without them is one of the C implementation: it
//! neither says HELLO nor answers it, so nobody sends it what it does not know.
//!
//! Each part begins at a few look-ups and requests. These test the constant, and the compiler drops what nothing
//! reaches then.

const IS_WHOLE: bool = !cfg!(seed_archive);

/// The leader's table of processes: joining, groups, sessions, exit notices of the leader, children that never come.
pub(crate) const PROCESSES: bool = IS_WHOLE;
/// Open files that one process gives to another.
pub(crate) const GIVEN_FILES: bool = IS_WHOLE;
/// The fast path of a lock on a file that nobody else uses.
pub(crate) const FAST_PATH: bool = IS_WHOLE;
/// Files whose locks a member grants itself.
pub(crate) const DELEGATIONS: bool = IS_WHOLE;
/// Fencing numbers.
pub(crate) const FENCING: bool = IS_WHOLE;
/// The ring of the last events.
pub(crate) const EVENTS: bool = IS_WHOLE;
/// Counters that only `libos_ipc_get_statistics` reads.
pub(crate) const STATISTICS: bool = IS_WHOLE;
/// The extensions of the protocol, which only processes use that have said HELLO to each other.
pub(crate) const EXTENSIONS: bool = IS_WHOLE;
