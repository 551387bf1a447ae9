//! The signs of life of a leader, as its heir sees them.

use crate::sync::AtomicU64;

/// The signs of life of the leader that the heir has seen. Times are those of the platform's clock, 0 for none.
pub(super) struct LifeSigns {
    /// The time of the last sign.
    pub(super) last: AtomicU64,
    /// The time at which the heir has asked for a sign that has not come.
    pub(super) asked: AtomicU64,
}

impl LifeSigns {
    pub(super) fn new() -> Self {
        LifeSigns {
            last: AtomicU64::new(0),
            asked: AtomicU64::new(0),
        }
    }
}
