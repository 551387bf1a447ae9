//! What the heir knows of the leader's liveness.

use crate::sync::AtomicU64;

/// The heir's view of the leader's liveness: any frame of the leader proves that it runs. Times are those of the platform's
/// clock, 0 for none.
pub(super) struct LeaderLiveness {
    /// The time since which no frame of the leader has come.
    pub(super) last: AtomicU64,
    /// The time at which the heir has sent a MARK that the leader has not answered.
    pub(super) asked: AtomicU64,
}

impl LeaderLiveness {
    pub(super) fn new() -> Self {
        LeaderLiveness {
            last: AtomicU64::new(0),
            asked: AtomicU64::new(0),
        }
    }
}
