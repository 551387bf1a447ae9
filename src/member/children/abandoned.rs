//! Children that will never come.

use super::{Child, Children, EMPTY, Presence};
use crate::{Id, Vmid};

/// A child that will never come, of which the leader is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbandonedChild {
    /// Its VMID.
    pub vmid: Vmid,
    /// Its pid, if it was this process's child.
    pub pid: Option<Id>,
}

impl Children<'_> {
    /// The child will never come, or a process that was not started as a child: the leader is to be told.
    /// False if there is no room to note that.
    pub fn mark_abandoned(&mut self, vmid: Vmid) -> bool {
        if self.find_abandoned(vmid).is_some() {
            return true;
        }
        let abandoned = Child {
            vmid: Some(vmid),
            presence: Presence::Abandoned,
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

    /// A child that will never come, of which the calling thread is to tell the leader. No other thread does
    /// until [`Children::finish_abandoned`].
    pub fn claim_abandoned(&mut self) -> Option<AbandonedChild> {
        let mut entries = self.entries_mut();
        let child = entries.find(|child| child.is_abandoned() && !child.reaping)?;
        child.reaping = true;
        Some(AbandonedChild {
            vmid: child.vmid?,
            pid: Some(child.pid).filter(|pid| *pid != 0),
        })
    }

    /// The leader was told of the child that will never come, or (`is_sent` is false) is to be told later.
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

    /// Forgets a child that will never come, and says which it was.
    pub fn remove_abandoned(&mut self, vmid: Vmid) -> Option<Id> {
        let pid = self.pid_of(vmid)?;
        self.remove(pid);
        Some(pid)
    }
}
