//! The effects of a death on others: zombies, orphans, orphaned groups.

use super::signals::result_of_dead;
use super::{Entry, FREE_ENTRY, Life, Processes};
use crate::error::Errno;
use crate::invariant::Count;
use crate::leader::Ranges;
use crate::leader::signals::{SIGCONT, SIGHUP};
use crate::wire::ProcessFlags;
use crate::{Id, Vmid};

impl Processes<'_> {
    /// Records that a member is gone. Its process is a zombie from now on, its children are
    /// orphans.
    pub(in crate::leader) fn on_death(&mut self, vmid: Vmid, ranges: &mut Ranges<'_>) {
        self.first_has_left |= vmid == Vmid::LEADER;
        let Some(slot) = self.by_vmid.get(vmid.get()) else {
            self.signals.remove_target(vmid, |_| Err(Errno::ESRCH));
            return;
        };
        self.signals.remove_target(vmid, result_of_dead);
        self.by_vmid.remove(vmid.get());
        let Some(entry) = self.entries.get_mut(slot as usize) else {
            return;
        };
        let had_stopped = entry.flags.contains(ProcessFlags::STOPPED);
        entry.life = Life::Dead;
        entry.vmid = 0;
        entry.flags.remove(ProcessFlags::STOPPED);
        self.deaths.increment();
        entry.death_seq = self.deaths;
        if core::mem::take(&mut entry.orphaned) != 0 {
            self.orphaned_starts.decrement();
        }
        let dead = *entry;
        self.stopped = self.stopped.minus(usize::from(had_stopped));
        let reaper = self.find_reaper(dead.parent);
        for at in 0..self.entries.len() {
            let child = self.entries.get(at).filter(|child| {
                child.life != Life::Free && child.parent == dead.pid && child.pid != dead.pid
            });
            if let Some(child) = child.copied() {
                self.reparent(child, &dead, reaper, ranges);
            }
        }
        self.notify_parent(dead.pid, ranges);
        // A group is orphaned if this process was its only tie to the rest of the session.
        let tied = self
            .find_by_pid(dead.parent)
            .is_some_and(|parent| parent.group != dead.group && parent.session == dead.session);
        if tied {
            self.hang_up_if_orphaned(dead.group);
        }
    }

    /// Returns the process that gets a dead process's children: the next subreaper above, or the
    /// first process.
    fn find_reaper(&self, above: Id) -> Option<(Id, Vmid)> {
        let mut pid = above;
        for _ in 0..self.entries.len() {
            let Some(entry) = self.find_by_pid(pid) else {
                break;
            };
            if entry.life == Life::Running && entry.flags.contains(ProcessFlags::SUBREAPER) {
                return Some((entry.pid, Vmid::new(entry.vmid)?));
            }
            pid = entry.parent;
        }
        let first = self
            .find_by_vmid(Vmid::LEADER)
            .filter(|first| first.is_alive())?;
        Some((first.pid, Vmid::LEADER))
    }

    fn reparent(
        &mut self,
        child: Entry,
        parent: &Entry,
        reaper: Option<(Id, Vmid)>,
        ranges: &mut Ranges<'_>,
    ) {
        let mut is_told = false;
        let mut is_new = false;
        let number = self.last_orphaned.plus(1);
        if let Some(entry) = self.find_by_pid_mut(child.pid) {
            entry.parent = reaper.map_or(0, |(pid, _)| pid);
            if let Some(ended) = &mut entry.parents_ended {
                ended.increment();
                is_told = true;
            }
            // Its start may be under way, and may take the whole time limit.
            if entry.life == Life::Starting && entry.orphaned == 0 {
                entry.orphaned = number;
                is_new = true;
            }
        }
        self.has_notices |= is_told;
        if is_new {
            self.orphaned_starts.increment();
            self.last_orphaned = number;
        }
        if child.life == Life::Dead {
            self.notify_parent(child.pid, ranges);
        } else if child.group != parent.group && child.session == parent.session {
            self.hang_up_if_orphaned(child.group);
        }
    }

    /// Returns true while the table has a starting process whose parent has ended.
    pub(crate) fn has_orphaned_starts(&self) -> bool {
        self.orphaned_starts > 0
    }

    /// Returns the highest number of an orphaned start so far. The time limit of a start counts
    /// from when the node first sees its number.
    pub(crate) fn last_orphaned_start(&self) -> u64 {
        self.last_orphaned
    }

    /// Returns the starting process without a parent whose number is the lowest, and that number.
    pub(crate) fn first_orphaned_start(&self) -> Option<(u64, Vmid)> {
        let orphans = self.entries.iter().filter(|entry| entry.orphaned != 0);
        let first = orphans.min_by_key(|entry| entry.orphaned)?;
        Some((first.orphaned, Vmid::new(first.vmid)?))
    }

    /// Records that the process is connected, so it is about to join or to end: its time begins
    /// again.
    pub(in crate::leader) fn defer_start(&mut self, vmid: Vmid) {
        let number = self.last_orphaned.plus(1);
        let slot = self.by_vmid.get(vmid.get());
        let entry = slot.and_then(|slot| self.entries.get_mut(slot as usize));
        if let Some(entry) = entry.filter(|entry| entry.orphaned != 0) {
            entry.orphaned = number;
            self.last_orphaned = number;
        }
    }

    /// Abandons a process that is being started. No exit is reported, but its parent is notified;
    /// the rest is as when a member [leaves](Processes::on_death).
    pub(in crate::leader) fn abandon(&mut self, vmid: Vmid) {
        let slot = self.by_vmid.get(vmid.get());
        let entry = slot.and_then(|slot| self.entries.get_mut(slot as usize));
        let Some(entry) = entry.filter(|entry| entry.life == Life::Starting) else {
            return;
        };
        entry.reaped = true;
        let parent = entry.parent;
        if let Some(parent) = self.find_by_pid_mut(parent) {
            parent.child_abandoned = true;
            self.has_notices = true;
        }
    }

    /// Makes the exit notice of a dead process due, or reaps it if it has no parent.
    fn notify_parent(&mut self, pid: Id, ranges: &mut Ranges<'_>) {
        let Some(entry) = self.find_by_pid(pid).copied() else {
            return;
        };
        let parent = self
            .find_by_pid(entry.parent)
            .filter(|parent| parent.is_alive())
            .and_then(|parent| Vmid::new(parent.vmid));
        let Some(dead) = self.find_by_pid_mut(pid) else {
            return;
        };
        match parent {
            Some(parent) if !entry.reaped => {
                dead.notice_due = true;
                // A look-up of the zombie's owner returns its parent.
                ranges.give_single(pid, parent);
                self.has_exits = true;
            }
            _ => {
                dead.notice_due = false;
                dead.reaped = true;
                self.release_if_reaped(pid, ranges);
            }
        }
    }

    /// Returns true if no member of the group has a parent in the same session and outside the
    /// group (POSIX, "orphaned process group").
    pub(super) fn is_orphaned(&self, group: Id) -> bool {
        !self.entries.iter().any(|member| {
            member.is_alive()
                && member.group == group
                && self.find_by_pid(member.parent).is_some_and(|parent| {
                    parent.is_alive() && parent.group != group && parent.session == member.session
                })
        })
    }

    /// Sends SIGHUP and SIGCONT to a group that has become orphaned and has a stopped member.
    fn hang_up_if_orphaned(&mut self, group: Id) {
        if self.stopped == 0 || !self.is_orphaned(group) {
            return;
        }
        let of_group = |entry: &&mut Entry| entry.is_alive() && entry.group == group;
        let has_stopped = self
            .entries
            .iter_mut()
            .filter(of_group)
            .any(|member| member.flags.contains(ProcessFlags::STOPPED));
        if has_stopped {
            for at in 0..self.entries.len() {
                let member = self.entries.get(at).copied().unwrap_or(FREE_ENTRY);
                if member.is_alive() && member.group == group {
                    self.send_kernel_signal(&member, SIGHUP);
                    self.send_kernel_signal(&member, SIGCONT);
                }
            }
        }
    }
}
