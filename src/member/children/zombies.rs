//! Zombies: children that have ended and that no thread has reaped.

use super::{Child, ChildExit, Children, EMPTY, RecordedExit};
use crate::invariant::Count;
use crate::{Id, Pid};

impl Children<'_> {
    /// Claims the zombie for the calling thread: no other thread sees it until
    /// [`Children::remove_reaped`] or [`Children::unclaim_zombie`]. Returns false if there is no
    /// such zombie, or another thread is reaping it.
    pub fn claim_zombie(&mut self, pid: Id) -> bool {
        let mut children = self.all_mut();
        let claimed =
            children.find(|child| child.pid == pid && child.end.is_some() && !child.reaping);
        claimed.is_some_and(|child| {
            child.reaping = true;
            true
        })
    }

    fn claimed(&mut self, pid: Id) -> Option<&mut Child> {
        let mut children = self.all_mut();
        children.find(|child| child.pid == pid && child.reaping)
    }

    /// Returns the number of exits for which this table had no room, if the leader may still have
    /// some of them; else 0.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// Returns the number of zombies that were reaped here.
    pub fn reaped(&self) -> u64 {
        self.reaped
    }

    /// Clears [`Children::overflowed`] because the leader has no such exits left, unless there were
    /// more since it returned `overflowed`.
    pub fn clear_overflowed(&mut self, overflowed: u64) {
        if self.overflowed == overflowed {
            self.overflowed = 0;
        }
    }

    /// Imports a zombie from the leader for a thread that waits. It is visible like those of the
    /// table from now on, and replaces the zombie that was imported before and that no thread has
    /// reaped. Returns false if it can't be imported now: a thread is reaping it or the one before,
    /// or a thread has reaped a child since the leader was asked, when the number of reaped
    /// children was `reaped`.
    pub fn import_zombie(&mut self, exit: ChildExit, reaped: u64) -> bool {
        if self.reaped != reaped {
            return false;
        }
        if let Some(child) = self.all().find(|child| child.pid == exit.pid.get()) {
            return child.end.is_some() && !child.reaping;
        }
        let end = Some(self.end(exit));
        let is_replaced = self.has_imported;
        let Some(place) = self.entries.get_mut(self.count) else {
            return false;
        };
        if is_replaced && place.reaping {
            return false;
        }
        *place = Child {
            pid: exit.pid.get(),
            end,
            ..EMPTY
        };
        self.has_imported = true;
        true
    }

    /// Returns true if the leader was sent the reaping of the claimed zombie.
    pub fn is_reap_sent(&mut self, pid: Id) -> bool {
        self.claimed(pid).is_none_or(|child| child.reap_sent)
    }

    /// Records that the leader was sent the reaping of the claimed zombie.
    pub fn mark_reap_sent(&mut self, pid: Id) {
        if let Some(child) = self.claimed(pid) {
            child.reap_sent = true;
        }
    }

    /// Removes the claimed zombie, which is reaped.
    pub fn remove_reaped(&mut self, pid: Id) {
        let at = self
            .entries()
            .position(|child| child.pid == pid && child.reaping && !child.is_abandoned());
        if let Some(at) = at {
            self.remove_at(at);
            self.reaped.increment();
        }
    }

    /// Releases the claimed zombie, which could not be reaped in time: the next call finds it.
    pub fn unclaim_zombie(&mut self, pid: Id) {
        if let Some(child) = self.claimed(pid) {
            child.reaping = false;
        }
    }

    /// Returns true if the child is known to be dead and was not reaped. The end of its connection
    /// alone does not say so: a child that lives on may have lost it, and may connect again.
    pub fn is_zombie(&self, pid: Id) -> bool {
        self.all()
            .any(|child| child.pid == pid && child.end.is_some())
    }

    /// Returns the zombie that died first of all whose order is above `after`, or of those the one with
    /// that pid.
    fn first_zombie(&self, pid: Option<Pid>, after: u64) -> Option<ChildExit> {
        let mut first: Option<RecordedExit> = None;
        for child in self.all() {
            if let Some(end) = child.end
                && !child.reaping
                && child.is_among(pid)
                && end.order > after
                && first.is_none_or(|first| end.order < first.order)
            {
                first = Some(end);
            }
        }
        first.map(|end| end.exit)
    }

    /// Returns the zombie with that pid, or the one that died first if none is named.
    pub fn zombie(&self, pid: Option<Pid>) -> Option<ChildExit> {
        self.first_zombie(pid, 0)
    }

    /// Returns the zombie that died first after the one of `exit`, for a walk over all zombies.
    pub fn next_zombie(&self, after: Option<&ChildExit>) -> Option<ChildExit> {
        let is_after = |child: &&Child| {
            let end = child.end.filter(|_| !child.reaping);
            end.is_some_and(|end| after.is_some_and(|after| end.exit.pid == after.pid))
        };
        let end = self.all().find(is_after).and_then(|child| child.end);
        self.first_zombie(None, end.map_or(0, |end| end.order))
    }
}
