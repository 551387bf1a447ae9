//! Zombies: children that have ended and that no thread has reaped.

use super::{Child, ChildExit, Children, EMPTY};
use crate::Id;
use crate::invariant::Count;

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

    /// The number of exits for which this table had no room, if the leader may still have some of
    /// them; else 0.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// The number of zombies that were reaped here.
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
        if self.imported.is_some_and(|child| child.reaping) {
            return false;
        }
        let end = Some(self.end(exit));
        self.imported = Some(Child {
            pid: exit.pid.get(),
            end,
            ..EMPTY
        });
        true
    }

    /// Whether the leader was sent the reaping of the claimed zombie.
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

    /// Whether the child is known to be dead and was not reaped. The end of its connection alone does
    /// not say so: a child that lives on may have lost it, and may connect again.
    pub fn is_zombie(&self, pid: Id) -> bool {
        self.all()
            .any(|child| child.pid == pid && child.end.is_some())
    }

    /// The zombies that no thread is reaping.
    fn zombies(&self) -> impl Iterator<Item = &Child> {
        self.all().filter(|child| !child.reaping)
    }

    /// The matching zombie that died first.
    pub fn zombie(&self, matches: impl Fn(Id) -> bool) -> Option<ChildExit> {
        let ends = self.zombies();
        ends.filter(|child| matches(child.pid))
            .filter_map(|child| child.end)
            .min_by_key(|end| end.order)
            .map(|end| end.exit)
    }

    /// The zombie that died first after the one of `exit`, for a walk over all zombies.
    pub fn next_zombie(&self, after: Option<&ChildExit>) -> Option<ChildExit> {
        let ends = || self.zombies().filter_map(|child| child.end);
        let after = after
            .and_then(|after| ends().find(|end| end.exit.pid == after.pid))
            .map_or(0, |end| end.order);
        ends()
            .filter(|end| end.order > after)
            .min_by_key(|end| end.order)
            .map(|end| end.exit)
    }
}
