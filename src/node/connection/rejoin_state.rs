//! What a leader that has taken over knows of a member of the previous leader, until it has rejoined the family.

use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// How far the process of a [`Peer`](super::peer::Peer), which is called the member here, has rejoined the family.
#[derive(Default)]
pub(crate) struct RejoinState {
    /// The member has not rejoined the family yet.
    pub(crate) is_awaited: AtomicBool,
    /// The member had left the family under the previous leader.
    pub(crate) has_left: AtomicBool,
    /// The leader has announced to the member that it leads.
    pub(crate) is_announced: AtomicBool,
    /// The frames of the previous leader that the member has not received are being sent to it.
    pub(crate) is_resending: AtomicBool,
    /// The number of counted messages of the previous leader that the member has received.
    pub(crate) received: AtomicU64,
    /// The number of the frames after these that were queued so far.
    pub(crate) resent: AtomicU64,
}

impl RejoinState {
    /// Clears the state, because another process gets the slot in the table of peers.
    pub(super) fn clear(&self) {
        for flag in [
            &self.is_awaited,
            &self.has_left,
            &self.is_announced,
            &self.is_resending,
        ] {
            flag.store(false, Ordering::Relaxed);
        }
        self.received.store(0, Ordering::Relaxed);
        self.resent.store(0, Ordering::Relaxed);
    }
}
