//! Abandoned children: those that will never join.

use super::{Child, ChildPresence, Children, EMPTY};
use crate::{Id, Vmid};

/// A child that will never join, which is to be reported to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbandonedChild {
    /// The VMID of the child.
    pub vmid: Vmid,
    /// The pid, if it was a child of this process.
    pub pid: Option<Id>,
}

impl Children<'_> {
    /// Marks a process as abandoned: a child that will never join, or a process that was not
    /// started as a child. It is then to be reported to the leader. Returns false if the table is
    /// full.
    pub fn mark_abandoned(&mut self, vmid: Vmid) -> bool {
        if self.find_abandoned(vmid).is_some() {
            return true;
        }
        let abandoned = Child {
            vmid: Some(vmid),
            presence: ChildPresence::Abandoned,
            ..EMPTY
        };
        let child = self.all_mut().find(|child| child.vmid == Some(vmid));
        if let Some(child) = child {
            *child = Child {
                pid: child.pid,
                ..abandoned
            };
            return true;
        }
        self.put(abandoned).is_ok()
    }

    /// Claims an abandoned child, which the calling thread reports to the leader. No other thread
    /// claims it until [`Children::finish_abandoned`].
    pub fn claim_abandoned(&mut self) -> Option<AbandonedChild> {
        let mut entries = self.entries_mut();
        let child = entries.find(|child| child.is_abandoned() && !child.reaping)?;
        child.reaping = true;
        Some(AbandonedChild {
            vmid: child.vmid?,
            pid: Some(child.pid).filter(|pid| *pid != 0),
        })
    }

    /// Removes the abandoned child after the report to the leader, or (`is_sent` is false) makes it
    /// available for a later report.
    pub fn finish_abandoned(&mut self, vmid: Vmid, is_sent: bool) {
        if is_sent {
            let is_match = |child: &Child| child.is_abandoned() && child.vmid == Some(vmid);
            let at = self.entries().position(is_match);
            if let Some(at) = at {
                self.remove_at(at);
            }
        } else if let Some(child) = self.find_abandoned(vmid) {
            child.reaping = false;
        }
    }

    /// Removes a child that will never join, and returns its pid.
    pub fn remove_abandoned(&mut self, vmid: Vmid) -> Option<Id> {
        let pid = self.pid_of(vmid)?;
        self.remove(pid);
        Some(pid)
    }
}
