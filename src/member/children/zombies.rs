//! Zombies: children that have ended and that no thread has reaped.

use super::{Child, Children, EMPTY, Presence};
use crate::Id;
use crate::wire::ChildExit;

impl Children<'_> {
    /// The calling thread reaps that zombie from now on: no other thread sees it until
    /// [`Children::remove_reaped`] or [`Children::unclaim_zombie`]. False if there is no such zombie, or
    /// another thread is reaping it.
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

    /// How many ends this table had no room for, if the leader may have some of them yet; else 0.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// How many zombies were reaped here.
    pub fn reaped(&self) -> u64 {
        self.reaped
    }

    /// The leader has none of those any more, if there were no more since there were that many.
    pub fn clear_overflowed(&mut self, overflowed: u64) {
        if self.overflowed == overflowed {
            self.overflowed = 0;
        }
    }

    /// A zombie that the leader has told of for a thread that waits: it is seen as one of the table's
    /// from now on, in the place of one that was taken in before and that nobody has reaped. False if it
    /// can't be had now: threads are reaping it or the one before, or may have reaped it since that many
    /// were reaped, when the leader was asked.
    pub fn import_zombie(&mut self, exit: ChildExit, reaped: u64) -> bool {
        if self.reaped != reaped {
            return false;
        }
        if let Some(child) = self.all().find(|child| child.pid == exit.pid) {
            return child.end.is_some() && !child.reaping;
        }
        if self.imported.is_some_and(|child| child.reaping) {
            return false;
        }
        let end = Some(self.end(exit));
        self.imported = Some(Child {
            pid: exit.pid,
            end,
            ..EMPTY
        });
        true
    }

    /// Whether the leader has been told that the zombie which the calling thread claimed is reaped.
    pub fn is_reap_sent(&mut self, pid: Id) -> bool {
        self.claimed(pid).is_none_or(|child| child.reap_sent)
    }

    /// The leader has been told that the claimed zombie is reaped.
    pub fn mark_reap_sent(&mut self, pid: Id) {
        if let Some(child) = self.claimed(pid) {
            child.reap_sent = true;
        }
    }

    /// The claimed zombie is reaped.
    pub fn remove_reaped(&mut self, pid: Id) {
        let at = self
            .entries()
            .position(|child| child.pid == pid && child.reaping && !child.is_abandoned());
        if let Some(at) = at {
            self.remove_at(at);
            self.reaped = self.reaped.saturating_add(1);
        }
    }

    /// The claimed zombie could not be reaped in time: it is there for the next call.
    pub fn unclaim_zombie(&mut self, pid: Id) {
        if let Some(child) = self.claimed(pid) {
            child.reaping = false;
        }
    }

    /// Whether the child is dead, as far as is known here, and was not reaped.
    pub fn is_zombie(&self, pid: Id) -> bool {
        let mut entries = self.all();
        entries.any(|child| {
            child.pid == pid && (child.presence == Presence::Gone || child.end.is_some())
        })
    }

    /// The zombies that no thread is reaping.
    fn zombies(&self) -> impl Iterator<Item = &Child> {
        self.all().filter(|child| !child.reaping)
    }

    /// The zombie that died first of those that fit.
    pub fn zombie(&self, matches: impl Fn(Id) -> bool) -> Option<ChildExit> {
        let ends = self.zombies();
        ends.filter(|child| matches(child.pid))
            .filter_map(|child| child.end)
            .min_by_key(|end| end.order)
            .map(|end| end.exit)
    }

    /// The zombie that died first of those that died after `exit`'s did, for a walk over them.
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
