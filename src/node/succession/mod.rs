//! The leader of the family, which may change while this process lives.

use crate::Vmid;
use crate::invariant::OrBroken;
use crate::log::log_event;
use crate::node::{LeaderTables, Node, Upcall};
use crate::pal::Pal;
use crate::sync::{AtomicU32, Ordering};

/// Which process leads the family, as far as this process knows, and the tables of a process that leads or
/// may lead later.
pub(in crate::node) struct Leadership<'m> {
    /// The leader's VMID.
    leader: AtomicU32,
    /// Exist in a process that leads, or may lead later.
    tables: Option<&'m LeaderTables<'m>>,
}

impl<'m> Leadership<'m> {
    pub(in crate::node) fn new(leader: Vmid, tables: Option<&'m LeaderTables<'m>>) -> Self {
        Leadership {
            leader: AtomicU32::new(leader.get()),
            tables,
        }
    }
}

impl<'m, P: Pal> Node<'m, P> {
    /// Returns the tables if this process leads.
    #[inline]
    pub(crate) fn leading(&self) -> Option<&'m LeaderTables<'m>> {
        self.leadership.tables.filter(|_| self.leads_itself())
    }

    /// Whether this process leads.
    #[inline]
    pub(crate) fn leads(&self) -> bool {
        self.leading().is_some()
    }

    #[inline]
    fn leads_itself(&self) -> bool {
        self.leadership.leader.load(Ordering::Acquire) == self.identity.vmid.get()
    }

    /// Returns the leader, which may be this process.
    #[inline]
    pub(crate) fn leader_vmid(&self) -> Vmid {
        Vmid::new(self.leadership.leader.load(Ordering::Acquire)).or_broken(self.identity.vmid)
    }

    /// Returns the process that leads the family, as far as this process knows: it may be this process, or
    /// one that has just ended. It does not wait. [`Embedder::leader_changed`](crate::Embedder::leader_changed) is
    /// called when another one leads.
    pub fn leader(&self) -> Vmid {
        self.leader_vmid()
    }

    /// Records that another process leads, which may be this one, and notifies the embedder. Only in the worker,
    /// without any lock.
    #[allow(dead_code, reason = "for the end of a succession")]
    pub(in crate::node) fn record_new_leader(&self, leader: Vmid, epoch: u32) {
        log_event!(warn, "the leader is now process {leader}, in epoch {epoch}");
        self.counters.successions.add(1);
        self.counters.succession.end_outage(self.now(), epoch);
        self.events.leader_changed(leader, epoch);
        self.enqueue_upcall(Upcall::LeaderChanged(leader, epoch));
    }

    /// Returns the leader, if it is another process.
    #[inline]
    pub(crate) fn led_by(&self) -> Option<Vmid> {
        Some(self.leader_vmid()).filter(|leader| *leader != self.identity.vmid)
    }
}
