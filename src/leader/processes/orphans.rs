//! The effects of a death on others: zombies, orphans, orphaned groups.

use super::signals::result_of_dead;
use super::{Entry, FREE_ENTRY, Life, Processes};
use crate::error::Errno;
use crate::invariant::{Count, OrBroken};
use crate::leader::Ranges;
use crate::leader::signals::{SIGCONT, SIGHUP};
use crate::store::Portion;
use crate::wire::ProcessFlags;
use crate::{Id, Vmid};

/// How many times the end of a process searches the table for a member that an entry is charged to. Those
/// searches remain that the portions before have not made.
const SEARCHES: usize = 4;

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
        self.own_has_left |= vmid == self.own;
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
        self.update_outbox(slot);
        self.stopped = self.stopped.minus(usize::from(had_stopped));
        // Those are left that it got after [`Processes::reclaim_children`].
        let reaper = self.find_reaper(&dead);
        let mut searches = 0_usize;
        for at in 0..self.entries.len() {
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
        let slot = self.by_vmid.get(vmid.get());
        let Some(entry) = slot.and_then(|slot| self.entries.get_mut(slot as usize)) else {
            return 0;
        };
        entry.is_leaving = true;
        let parent = *entry;
        let reaper = self.find_reaper(&parent);
        let mut portion = Portion::new();
        let mut slots = left.min(self.entries.len() as u64);
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
                    portion.charge_slots(self.entries.len());
                }
                if child.life == Life::Dead {
                    // Its pid may be charged to another member, which is searched in the table.
                    portion.charge_slots(self.entries.len());
                }
            }
            if let Ok(at) = u32::try_from(at)
                && self
                    .entries
                    .get(at as usize)
                    .is_some_and(|entry| entry.vmid != vmid.get())
                && self.recharge((at, vmid), true, ranges)
            {
                portion.charge_slots(self.entries.len());
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

    /// Returns the process that gets a dead process's children: the next subreaper above, or the
    /// first process; when that is gone, the process that leads, if it adopts them.
    fn find_reaper(&self, dead: &Entry) -> Option<Reaper> {
        let mut pid = dead.parent;
        for _ in 0..self.entries.len() {
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
            above: self.ancestor_below(reaper.pid, dead.pid),
        })
    }

    /// Returns the child of `top` that is the process or above it; 0 if `top` is not above it.
    fn ancestor_below(&self, process: Id, top: Id) -> Id {
        let mut pid = process;
        for _ in 0..self.entries.len() {
            match self.find_by_pid(pid) {
                Some(entry) if entry.parent == top => return pid,
                Some(entry) if entry.parent != 0 => pid = entry.parent,
                _ => break,
            }
        }
        0
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
        self.orphaned_starts > 0
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
        let slot = self.by_vmid.get(vmid.get());
        let entry = slot.and_then(|slot| self.entries.get_mut(slot as usize));
        if let Some(entry) = entry.filter(|entry| entry.orphaned != 0) {
            entry.orphaned = number;
            self.last_orphaned = number;
        }
    }

    /// Abandons a process that is being started. No exit is reported; the rest is as when a member
    /// [leaves](Processes::on_death).
    pub(in crate::leader) fn abandon(&mut self, vmid: Vmid) {
        let slot = self.by_vmid.get(vmid.get());
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
        let slot = self.by_vmid.get(parent.get());
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
                if let Some(slot) = self.by_pid.get(pid) {
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
            for at in 0..self.entries.len() {
                self.steps.count();
                let member = self.entries.get(at).copied().unwrap_or(FREE_ENTRY);
                if member.is_alive() && member.group == group {
                    self.send_kernel_signal(&member, SIGHUP);
                    self.send_kernel_signal(&member, SIGCONT);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use super::*;
    use crate::leader::{Leader, LeaderCapacities, Op, Outcome, OutgoingId, SignalLimits};
    use crate::store::Arena;

    const CHILDREN: u32 = 900;
    const FIRST: Id = 1000;
    const PARENT: Id = 1001;

    fn vmid(number: u32) -> Vmid {
        Vmid::new(number).unwrap()
    }

    /// Runs a test on a leader whose first process has a child with VMID 2 that has many children.
    fn with_children(test: impl FnOnce(&mut Leader<'_>)) {
        let capacities = LeaderCapacities {
            ranges: 2048,
            processes: 1024,
            signals: SignalLimits {
                targets: 8,
                queued: 8,
            },
            ..LeaderCapacities::NONE
        };
        let mut memory = Box::new_uninit_slice(Leader::bytes(&capacities));
        let mut leader = Leader::new(&mut Arena::new(&mut memory), &capacities).unwrap();
        let processes = &mut leader.processes;
        processes.join(Vmid::LEADER, FIRST, None).unwrap();
        processes.join(vmid(2), PARENT, Some(Vmid::LEADER)).unwrap();
        for child in 0..CHILDREN {
            let joined = processes.join(vmid(100 + child), 2000 + child, Some(vmid(2)));
            joined.unwrap();
        }
        test(&mut leader);
    }

    fn children_of(leader: &Leader<'_>, parent: Id) -> usize {
        let entries = leader.processes.entries.iter();
        entries
            .filter(|entry| entry.is_alive() && entry.parent == parent)
            .count()
    }

    fn portion(leader: &mut Leader<'_>, left: u64) -> u64 {
        let owner = vmid(2);
        match leader.apply(&Op::ReclaimChildren { owner, left }) {
            Outcome::Remaining(left) => left,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn children_of_a_dead_process_are_given_away_in_portions_before_its_end_is_reported() {
        with_children(|leader| {
            let mut left = u64::MAX;
            let mut portions = 0;
            while left > 0 {
                let before = children_of(leader, PARENT);
                left = portion(leader, left);
                assert!(before - children_of(leader, PARENT) <= 64);
                assert!(leader.poll_transmit().is_none());
                portions += 1;
            }
            assert!(portions >= 15, "{portions} portions");
            assert_eq!(children_of(leader, PARENT), 0);
            assert_eq!(children_of(leader, FIRST), CHILDREN as usize + 1);
            leader.apply(&Op::Left(vmid(2)));
            let notice = leader.poll_transmit().map(|outgoing| outgoing.id);
            assert_eq!(notice, Some(OutgoingId::Exit(PARENT)));
            assert!(leader.check_invariants());
        });
    }

    #[test]
    fn orphans_of_the_first_process_go_to_the_process_that_leads_if_it_adopts_them() {
        const HEIR: u32 = 100;
        for adopts in [false, true] {
            with_children(|leader| {
                leader.processes.adopts = adopts;
                let processes = &mut leader.processes;
                processes.join(vmid(50), 1500, Some(Vmid::LEADER)).unwrap();
                // The heir is a grandchild of the first process.
                leader.apply(&Op::Succeed { to: vmid(HEIR) });
                leader.apply(&Op::Left(Vmid::LEADER));
                let parent_of =
                    |leader: &Leader<'_>, pid| leader.processes.find_by_pid(pid).unwrap().parent;
                let adopter = if adopts { 2000 } else { 0 };
                assert_eq!(parent_of(leader, 1500), adopter);
                assert_eq!(parent_of(leader, PARENT), 0, "no process is above itself");
                assert_eq!(parent_of(leader, 2000), PARENT);
                leader.apply(&Op::Left(vmid(2)));
                assert_eq!(children_of(leader, PARENT), 0);
                assert_eq!(parent_of(leader, 2000), 0);
                assert_eq!(parent_of(leader, 2001), adopter);
                assert!(leader.check_invariants());
            });
        }
    }

    #[test]
    fn process_that_is_leaving_takes_no_children_over() {
        with_children(|leader| {
            let entry = leader.processes.find_by_pid_mut(PARENT).unwrap();
            entry.flags |= ProcessFlags::SUBREAPER;
            let grandchild = leader
                .processes
                .join(vmid(50), 1500, Some(vmid(100 + CHILDREN - 1)));
            grandchild.unwrap();
            portion(leader, u64::MAX);
            let owner = vmid(100 + CHILDREN - 1);
            let left = u64::MAX;
            leader.apply(&Op::ReclaimChildren { owner, left });
            let grandchild = leader.processes.find_by_pid(1500).unwrap();
            assert_eq!(grandchild.parent, FIRST);
        });
    }

    #[test]
    fn end_of_a_child_between_two_portions_is_reported_to_the_process_that_takes_it_over() {
        with_children(|leader| {
            let mut left = portion(leader, u64::MAX);
            for child in [0, CHILDREN - 1] {
                leader.apply(&Op::Left(vmid(100 + child)));
            }
            while left > 0 {
                left = portion(leader, left);
            }
            for pid in [2000, 2000 + CHILDREN - 1] {
                let notice = leader.poll_transmit().unwrap();
                let id = OutgoingId::Exit(pid);
                assert_eq!((notice.to, notice.id), (Vmid::LEADER, id));
                let is_extended = true;
                leader.apply(&Op::Transmitted { id, is_extended });
            }
            assert!(leader.poll_transmit().is_none());
        });
    }
}
