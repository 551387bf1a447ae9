//! What the leader knows of a member, beside its connection. Other processes have no use for it.

use super::recall_debt::RecallDebt;
use crate::node::reclaim::AtomicReclaim;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// What the leader knows of the process of a [`Peer`](super::peer::Peer), which is called the member here.
#[derive(Default)]
pub(crate) struct MemberState {
    /// The member has ended, so its later messages are ignored.
    pub(crate) ended: AtomicBool,
    /// The member's `sync_data` differs, so it may not use sync handles.
    pub(crate) syncs_refused: AtomicBool,
    /// The work that is left to reclaim the resources of the member, which has ended.
    pub(crate) reclaim_left: AtomicReclaim,
    /// The work that is left to reclaim the resources of a child that the member abandons.
    pub(crate) reclaim_child: AtomicReclaim,
    /// The limit of silence of the member, in nanoseconds; 0 if it has stated none.
    pub(crate) silence_limit: AtomicU64,
    /// The time at which the resources of the member are reclaimed, because its streams were lost; 0 if they were not.
    pub(crate) kept_until: AtomicU64,
    /// The time for which the member has made others wait for files delegated to it.
    pub(crate) recall_debt: RecallDebt,
    /// A message for the member was put back, since its queue had no room.
    pub(crate) output_deferred: AtomicBool,
    /// The first frame of the member that is not handled yet was applied to the tables; its effects on the leader's own
    /// process had no room yet.
    pub(crate) is_applied: AtomicBool,
    /// The member follows the succession of leaders.
    pub(crate) follows: AtomicBool,
    /// The member can lead, with tables like those of the leader.
    pub(crate) can_lead: AtomicBool,
    /// The member's platform receives a log in another way than through the stream.
    pub(crate) shares_logs: AtomicBool,
    /// The member was chosen as heir since it connected.
    pub(crate) was_heir: AtomicBool,
    /// The number of the last list of heirs that was queued for the member.
    pub(crate) heirs_config: AtomicU32,
    /// How often the queue of the member must be written until all is written that was queued before the heir had the
    /// state.
    pub(crate) unsettled: AtomicU32,
}

impl MemberState {
    /// Clears the state, because another process gets the slot in the table of peers.
    pub(super) fn clear(&self) {
        for flag in [
            &self.ended,
            &self.syncs_refused,
            &self.output_deferred,
            &self.is_applied,
            &self.follows,
            &self.can_lead,
            &self.shares_logs,
            &self.was_heir,
        ] {
            flag.store(false, Ordering::Relaxed);
        }
        self.reclaim_left.clear();
        self.reclaim_child.clear();
        self.silence_limit.store(0, Ordering::Relaxed);
        self.kept_until.store(0, Ordering::Relaxed);
        self.recall_debt.clear();
        self.heirs_config.store(0, Ordering::Relaxed);
        self.unsettled.store(0, Ordering::Relaxed);
    }
}
