//! The bound of the steps of each operation. The leader's tables are behind a spinlock, so no operation may
//! take more steps than its bound, however full the tables are.
//!
//! A step is a visit of a table entry. Builds with debug assertions count them, and check the bound after
//! each operation. `docs/concurrency.md` has the same table.

use super::processes::ANCESTORS;
use super::{Leader, Op};
use crate::file_locks::MAX_IN_TRANSIT;
use crate::wire::Message;

/// A constant number of look-ups, insertions and removals in indexes: each takes the logarithm of its table.
const LOGARITHMIC: u64 = 3_000;

/// A portion of long work: at most 64 entries, each with what its end takes.
const PORTION: u64 = 64 * 1_000;

/// A search for a deadlock: its budget, and the entries that each of its visits examines.
const SEARCH: u64 = 4 * 4_096;

/// The steps for each lock that a request removes. The sender is charged for them.
const EACH_LOCK: u64 = 600;

/// The steps for each request that waits for a removed lock: it is queued to be tried.
const EACH_WAITER: u64 = 40;

/// The references to one open file that are in transit to one member.
const IN_TRANSIT: u64 = 32 * (MAX_IN_TRANSIT as u64);

/// The two searches for the process that gets the children of another: each looks up so many ancestors.
const REAPER: u64 = 2 * (ANCESTORS as u64) * 16;

/// The steps of a signal for all for each process that has not joined, besides the entries of the index of targets
/// that move.
const EACH_STARTING: u64 = 128;

/// The steps for the 64 waiting requests that one operation tries.
const TRIES: u64 = 64 * 600;

impl Leader<'_> {
    /// Returns the number of table entries that the operations so far have visited.
    pub fn steps(&self) -> u64 {
        [
            self.ranges.steps(),
            self.pending_grants.steps(),
            self.vmids.steps(),
            self.processes.steps(),
            self.locks.steps(),
            self.leases.steps(),
            self.roster.steps(),
        ]
        .into_iter()
        .fold(0, u64::wrapping_add)
    }

    /// The greatest number of steps of the operation, which has removed so many locks.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "the sums of a few sizes of tables"
    )]
    pub(super) fn bound(&self, op: &Op<'_>, removed: u64) -> u64 {
        let processes = self.processes.capacity();
        let clients = self.leases.client_usage().1 as u64;
        let locks = SEARCH + TRIES + EACH_WAITER * self.locks.waiting_usage().1 as u64;
        let more = match op {
            // Signals of a target that discard each other.
            Op::Signal(..) | Op::SignalAnswered { .. } => self.processes.signals.capacity(),
            // The notices of an open file that was transferred many times to one member.
            Op::Transmitted { .. } | Op::Requeued(_) => {
                self.processes.signals.capacity() + IN_TRANSIT
            }
            // One visit for each process that uses the value.
            Op::Sync { .. } | Op::OwnerDied(..) => 4 * clients,
            // A pass over the processes, charged to its sender as 32 frames. For each that has not joined it marks
            // the signal; at worst half of the index of targets moves, eight entries in a step.
            Op::SignalAll { .. } => {
                processes * (EACH_STARTING + self.processes.signals.capacity() / 8)
            }
            // Passes over the table of processes; each is charged to its sender as several frames.
            Op::Request { message, .. } => match message {
                Message::ProcessChange { .. } | Message::ProcessReap(_) => 4 * processes,
                Message::KillOrdered { .. } => self.processes.signals.capacity(),
                Message::FileHandle { .. } | Message::FileGiven { .. } => {
                    PORTION + locks + IN_TRANSIT
                }
                _ => locks + EACH_LOCK * removed,
            },
            Op::SetLock { .. } => locks + EACH_LOCK * removed,
            Op::ReleaseLocks | Op::ReclaimLocks { .. } => PORTION + locks,
            Op::ReclaimLeases { .. } => PORTION + 4 * clients,
            Op::ReclaimChildren { .. } => PORTION + REAPER + 8 * processes,
            Op::Left(_) => {
                let signals = self.processes.signals.capacity();
                PORTION + REAPER + locks + 16 * processes + signals
            }
            Op::Join(..) | Op::RunUnjoined(_) => processes,
            Op::RevokeGrants(_) | Op::ReclaimRanges { .. } | Op::ConfirmGrants { .. } => PORTION,
            Op::Connected(_)
            | Op::Announce(_)
            | Op::SignalAllRefused { .. }
            | Op::SyncRefused { .. }
            | Op::Succeed { .. }
            | Op::AllowReturn(_)
            | Op::DeferStart(_)
            | Op::AbandonStart(_)
            | Op::NotifyAbandoned(_)
            | Op::RetryTransmit => 0,
        };
        LOGARITHMIC + more
    }
}
