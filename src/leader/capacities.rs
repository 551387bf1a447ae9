//! How much a leader has room for.

use super::SignalLimits;
use crate::file_locks::LockLimits;
use crate::shared_state::LeaseLimits;

/// How much a leader has room for, and how it gives out IDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaderCapacities {
    /// ID ranges.
    pub ranges: usize,
    /// Processes, zombies, and names of groups and sessions.
    pub processes: usize,
    /// Processes that may be alive at once, besides the leader's own: no more are started.
    pub peers: usize,
    /// Signals that go through the leader.
    pub signals: SignalLimits,
    /// File locks.
    pub locks: LockLimits,
    /// Shared values.
    pub leases: LeaseLimits,
    /// The largest length of a shared value, in bytes.
    pub sync_data: usize,
    /// Whether IDs that were released are given out again, as in [`Ranges::new`](super::Ranges::new).
    pub wrap_ids: bool,
    /// The most members, the leader included, between which the tables are shared by quotas; 0: there
    /// are no quotas.
    pub members: usize,
    /// The same for the table of ranges. A family that keeps the ranges of dead members has no quotas of
    /// ranges, since nobody would pay for those.
    pub id_members: usize,
    /// The most members whose frames are counted, so that another process can lead the family later; 0: no
    /// other process leads it.
    pub roster: usize,
    /// Whether the process that leads takes over orphans when the family's first process is gone.
    pub adopts: bool,
}

impl LeaderCapacities {
    /// Room for nothing.
    pub const NONE: LeaderCapacities = LeaderCapacities {
        ranges: 0,
        processes: 0,
        peers: usize::MAX,
        signals: SignalLimits::NONE,
        locks: LockLimits::NONE,
        leases: LeaseLimits {
            handles: 0,
            clients: 0,
        },
        sync_data: 0,
        wrap_ids: false,
        members: 0,
        id_members: 0,
        roster: 0,
        adopts: false,
    };
}
