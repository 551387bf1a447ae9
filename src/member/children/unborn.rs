//! Children that will never come.

use super::{Child, Children, NOBODY, Presence};
use crate::{Id, Vmid};

/// A child that will never come, of which the leader is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unborn {
    /// Its VMID.
    pub vmid: Vmid,
    /// Its pid, if it was this process's child.
    pub pid: Option<Id>,
}

impl Children<'_> {
    /// The child will never come, or a process that was not started as a child: the leader is to be told.
    /// False if there is no room to note that.
    pub fn will_not_come(&mut self, vmid: Vmid) -> bool {
        if self.unborn(vmid).is_some() {
            return true;
        }
        let unborn = Child {
            vmid: Some(vmid),
            presence: Presence::Unborn,
            ..NOBODY
        };
        let child = self.all_mut().find(|child| child.vmid == Some(vmid));
        if let Some(child) = child {
            *child = Child {
                pid: child.pid,
                ..unborn
            };
            return true;
        }
        self.put(unborn).is_ok()
    }

    /// A child that will never come, of which the calling thread is to tell the leader. No other thread does
    /// until [`Children::unborn_told`].
    pub fn claim_unborn(&mut self) -> Option<Unborn> {
        let mut places = self.places_mut();
        let child = places.find(|child| child.is_unborn() && !child.reaping)?;
        child.reaping = true;
        Some(Unborn {
            vmid: child.vmid?,
            pid: Some(child.pid).filter(|pid| *pid != 0),
        })
    }

    /// The leader was told of the child that will never come, or (`is_told` is false) is to be told later.
    pub fn unborn_told(&mut self, vmid: Vmid, is_told: bool) {
        if is_told {
            let is_it = |child: &Child| child.is_unborn() && child.vmid == Some(vmid);
            let at = self.places().position(is_it);
            if let Some(at) = at {
                self.remove_at(at);
            }
        } else if let Some(child) = self.unborn(vmid) {
            child.reaping = false;
        }
    }

    /// Forgets a child that will never come, and says which it was.
    pub fn remove_unborn(&mut self, vmid: Vmid) -> Option<Id> {
        let pid = self.pid_of(vmid)?;
        self.remove(pid);
        Some(pid)
    }
}
