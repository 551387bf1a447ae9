//! The effects of a death on others: zombies, orphans, orphaned groups.

use super::quotas::STARTS;
use super::signals::result_of_dead;
use super::{Entry, FREE_ENTRY, Life, Processes};
use crate::error::Errno;
use crate::invariant::{Count, OrBroken};
use crate::leader::Ranges;
use crate::leader::signals::{SIGCONT, SIGHUP};
use crate::store::Portion;
use crate::wire::ProcessFlags;
use crate::{Id, Vmid, parts};

/// How many times the end of a process searches the table for a member that an entry is charged to. Those
/// searches remain that the portions before have not made.
const SEARCHES: usize = 4;

/// How many ancestors are looked at for the process that gets the children of another.
pub(in crate::leader) const ANCESTORS: usize = 1024;

/// The process that gets the children of one that is gone.
#[derive(Clone, Copy)]
struct Reaper {
    pid: Id,
    /// The one of these children that is the reaper itself or above it, which it does not get; 0 for none.
    above: Id,
}

impl Processes<'_> {
    /// Records that a member is gone. Its process is a zombie from now on, its children are
    /// orphans.
    pub(in crate::leader) fn on_death(&mut self, vmid: Vmid, ranges: &mut Ranges<'_>) {
        self.own_has_ended |= vmid == self.own;
        let Some(slot) = self.slot_of(vmid) else {
            self.signals.remove_target(vmid, |_| Err(Errno::ESRCH));
            return;
        };
        self.signals.remove_target(vmid, result_of_dead);
        self.by_vmid.remove(vmid.get());
        let Some(entry) = self.entries.get_mut(slot as usize) else {
            return;
        };
        let had_stopped = entry.flags.contains(ProcessFlags::STOPPED);
        if entry.life == Life::Starting {
            self.quotas.release(entry.payer, STARTS, 1);
        }
        entry.life = Life::Dead;
        entry.vmid = 0;
        entry.flags.remove(ProcessFlags::STOPPED);
        self.deaths.increment();
        entry.death_seq = self.deaths;
        if core::mem::take(&mut entry.orphaned) != 0 {
            self.orphaned_starts.decrement();
        }
        let dead = *entry;
        self.update_outbox(slot);
        self.stopped = self.stopped.minus(usize::from(had_stopped));
        // Those are left that it got after [`Processes::reclaim_children`].
        let reaper = self.find_reaper(&dead);
        let mut searches = 0_usize;
        for at in 0..self.used() {
            self.steps.count();
            if let Some(child) = self.child_at(at, &dead) {
                self.reparent(child, &dead, reaper, ranges);
            }
            if let Ok(at) = u32::try_from(at)
                && at != slot
            {
                let has_searched = self.recharge((at, vmid), searches < SEARCHES, ranges);
                searches = searches.plus(usize::from(has_searched));
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
        self.quotas.on_left(vmid);
    }

    /// Gives a portion of the children of a member that is gone to the process that takes them over.
    /// Returns what is left to do; the caller begins with `u64::MAX`.
    pub(in crate::leader) fn reclaim_children(
        &mut self,
        vmid: Vmid,
        left: u64,
        ranges: &mut Ranges<'_>,
    ) -> u64 {
        let slot = self.slot_of(vmid);
        let Some(entry) = slot.and_then(|slot| self.entries.get_mut(slot as usize)) else {
            return 0;
        };
        entry.is_leaving = true;
        let parent = *entry;
        let reaper = self.find_reaper(&parent);
        let mut portion = Portion::new();
        let mut slots = left.min(self.used() as u64);
        while let Some(slot) = slots.checked_sub(1) {
            if !portion.take_slot() {
                break;
            }
            self.steps.count();
            let at = usize::try_from(slot).or_broken(usize::MAX);
            if let Some(child) = self.child_at(at, &parent) {
                if !portion.take_entry() {
                    break;
                }
                self.reparent(child, &parent, reaper, ranges);
                if self.stopped > 0 {
                    // Whether its group is orphaned is found out by a look at all processes.
                    portion.charge_slots(self.used());
                }
                if child.life == Life::Dead {
                    // Its pid may be charged to another member, which is searched in the table.
                    portion.charge_slots(self.used());
                }
            }
            if let Ok(at) = u32::try_from(at)
                && self
                    .entries
                    .get(at as usize)
                    .is_some_and(|entry| entry.vmid != vmid.get())
                && self.recharge((at, vmid), true, ranges)
            {
                portion.charge_slots(self.used());
            }
            slots = slot;
        }
        slots
    }

    /// Returns the entry in that slot, if it is one of a child of the process.
    fn child_at(&self, at: usize, parent: &Entry) -> Option<Entry> {
        let child = *self.entries.get(at)?;
        let is_child = child.life != Life::Free && child.parent == parent.pid;
        (is_child && child.pid != parent.pid).then_some(child)
    }

    /// Returns the process that gets a dead process's children: the next subreaper of the [`ANCESTORS`]
    /// above, or the first process; when that is gone, the process that leads, if it adopts them.
    fn find_reaper(&self, dead: &Entry) -> Option<Reaper> {
        let mut pid = dead.parent;
        for _ in 0..ANCESTORS {
            let Some(entry) = self.find_by_pid(pid) else {
                break;
            };
            let may_reap = entry.life == Life::Running && !entry.is_leaving;
            if may_reap && entry.flags.contains(ProcessFlags::SUBREAPER) {
                return Some(Reaper {
                    pid: entry.pid,
                    above: 0,
                });
            }
            pid = entry.parent;
        }
        let heads = [Some(Vmid::LEADER), self.adopts.then_some(self.own)];
        let reaper = heads.into_iter().flatten().find_map(|head| {
            self.find_by_vmid(head)
                .filter(|head| head.is_alive() && !head.is_leaving && head.pid != dead.pid)
        })?;
        Some(Reaper {
            pid: reaper.pid,
            above: self.ancestor_below(reaper.pid, dead.pid)?,
        })
    }

    /// Returns the child of `top` that is the process or above it; 0 if `top` is not above it. `None` if the
    /// process has more than [`ANCESTORS`]: whether `top` is one of them is not known then.
    fn ancestor_below(&self, process: Id, top: Id) -> Option<Id> {
        let mut pid = process;
        for _ in 0..ANCESTORS {
            match self.find_by_pid(pid) {
                Some(entry) if entry.parent == top => return Some(pid),
                Some(entry) if entry.parent != 0 => pid = entry.parent,
                _ => return Some(0),
            }
        }
        None
    }

    fn reparent(
        &mut self,
        child: Entry,
        parent: &Entry,
        reaper: Option<Reaper>,
        ranges: &mut Ranges<'_>,
    ) {
        let mut is_new = false;
        let number = self.last_orphaned.plus(1);
        if let Some(entry) = self.find_by_pid_mut(child.pid) {
            let reaper = reaper.filter(|reaper| reaper.above != child.pid);
            entry.parent = reaper.map_or(0, |reaper| reaper.pid);
            if let Some(ended) = &mut entry.parents_ended {
                ended.increment();
            }
            // Its start may be under way, and may take the whole time limit.
            if entry.life == Life::Starting && entry.orphaned == 0 {
                entry.orphaned = number;
                is_new = true;
            }
        }
        self.update_outbox_of(child.pid);
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
        parts::PROCESSES && self.orphaned_starts > 0
    }

    /// Returns the highest number of an orphaned start so far. The time limit of a start counts
    /// from when the node first sees its number.
    pub(crate) fn last_orphaned_start(&self) -> u64 {
        self.last_orphaned
    }

    /// Returns the starting process without a parent whose number is the lowest, and that number.
    pub(crate) fn first_orphaned_start(&self) -> Option<(u64, Vmid)> {
        let orphans = self.each_entry().filter(|entry| entry.orphaned != 0);
        let first = orphans.min_by_key(|entry| entry.orphaned)?;
        Some((first.orphaned, Vmid::new(first.vmid)?))
    }

    /// Records that the process is connected, so it is about to join or to end: its time begins
    /// again.
    pub(in crate::leader) fn defer_start(&mut self, vmid: Vmid) {
        let number = self.last_orphaned.plus(1);
        let slot = self.slot_of(vmid);
        let entry = slot.and_then(|slot| self.entries.get_mut(slot as usize));
        if let Some(entry) = entry.filter(|entry| entry.orphaned != 0) {
            entry.orphaned = number;
            self.last_orphaned = number;
        }
    }

    /// Abandons a process that is being started. No exit is reported; the rest is as when a member
    /// [leaves](Processes::on_death).
    pub(in crate::leader) fn abandon(&mut self, vmid: Vmid) {
        let slot = self.slot_of(vmid);
        let entry = slot.and_then(|slot| self.entries.get_mut(slot as usize));
        let Some(entry) = entry.filter(|entry| entry.life == Life::Starting) else {
            return;
        };
        entry.reaped = true;
    }

    /// Returns the process that has taken over a process which is being started.
    pub(crate) fn parent_of_start(&self, vmid: Vmid) -> Option<Vmid> {
        let parent = self.find_by_vmid(vmid)?.parent;
        Vmid::new(self.find_by_pid(parent)?.vmid)
    }

    /// Makes the notice due that an inherited child was abandoned.
    pub(in crate::leader) fn notify_abandoned(&mut self, parent: Vmid) {
        let slot = self.slot_of(parent);
        let entry = slot.and_then(|slot| self.entries.get_mut(slot as usize));
        if let (Some(slot), Some(entry)) = (slot, entry) {
            entry.child_abandoned = true;
            self.update_outbox(slot);
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
                ranges.charge_single(pid, parent);
                self.update_outbox_of(pid);
                if let Some(slot) = self.slot_of_pid(pid) {
                    self.charge_to(slot, parent);
                }
            }
            _ => {
                dead.notice_due = false;
                dead.reaped = true;
                self.update_outbox_of(pid);
                self.release_if_reaped(pid, ranges);
            }
        }
    }

    /// Returns true if no member of the group has a parent in the same session and outside the
    /// group (POSIX, "orphaned process group").
    pub(super) fn is_orphaned(&self, group: Id) -> bool {
        !self.each_entry().any(|member| {
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
        let of_group = |entry: &&Entry| entry.is_alive() && entry.group == group;
        let has_stopped = self
            .each_entry()
            .filter(of_group)
            .any(|member| member.flags.contains(ProcessFlags::STOPPED));
        if has_stopped {
            for at in 0..self.used() {
                self.steps.count();
                let member = self.entries.get(at).copied().or_broken(FREE_ENTRY);
                if member.is_alive() && member.group == group {
                    self.send_kernel_signal(&member, SIGHUP);
                    self.send_kernel_signal(&member, SIGCONT);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
