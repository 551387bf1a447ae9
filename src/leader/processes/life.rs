//! A process is started, joins, ends and is reaped.

use super::quotas::{PROCESSES, STARTS};
use super::{Entry, FREE_ENTRY, Life, Processes};
use crate::error::{Error, Invalid, Resource};
use crate::invariant::Count;
use crate::leader::Ranges;
use crate::wire::ExitReport;
use crate::{Id, Vmid};

impl Processes<'_> {
    /// Adds a child that the process of `from` starts, and that has its VMID and its pid already.
    ///
    /// # Errors
    /// [`Error::Full`] also if the leader could not be connected with one more process: the child
    /// would start and be refused then.
    pub(in crate::leader) fn start(
        &mut self,
        from: Vmid,
        vmid: Vmid,
        pid: Id,
    ) -> Result<(), Error> {
        let parent = *self.find_by_vmid(from).ok_or(Error::NoSuchProcess)?;
        let has_own = self.slot_of(self.own).is_some();
        if self.by_vmid.len().minus(usize::from(has_own)) >= self.peers {
            return Err(Error::Full(Resource::Peers));
        }
        // The process that leads decides itself how many it starts.
        if from != self.own && !self.quotas.may_grow(from, STARTS, 1) {
            return Err(Error::Full(Resource::Peers));
        }
        self.add(
            from,
            Entry {
                life: Life::Starting,
                pid,
                vmid: vmid.get(),
                parent: parent.pid,
                group: parent.group,
                session: parent.session,
                ..FREE_ENTRY
            },
        )?;
        if from == self.own {
            self.quotas.charge(from, STARTS, 1);
        } else {
            self.quotas.charge_allowed(from, STARTS, 1);
        }
        Ok(())
    }

    /// Records that a process joins under its pid. The table has it already if its parent announced
    /// its start; otherwise it becomes `parent`'s child if that is known, and leads a group and
    /// session if not.
    pub(in crate::leader) fn join(
        &mut self,
        from: Vmid,
        pid: Id,
        parent: Option<Vmid>,
    ) -> Result<(), Error> {
        if let Some(slot) = self.slot_of(from) {
            let entry = self.entries.get(slot as usize);
            if entry.is_none_or(|entry| entry.pid != pid) {
                return Err(Error::Invalid(Invalid::Pid));
            }
            self.runs(slot);
            return Ok(());
        }
        let parent = parent.and_then(|parent| self.find_by_vmid(parent)).copied();
        self.add(
            from,
            Entry {
                life: Life::Running,
                pid,
                vmid: from.get(),
                parent: parent.map_or(0, |parent| parent.pid),
                group: parent.map_or(pid, |parent| parent.group),
                session: parent.map_or(pid, |parent| parent.session),
                ..FREE_ENTRY
            },
        )
    }

    /// Records that the member's process runs without having joined: it is one in C.
    pub(in crate::leader) fn mark_running_unjoined(&mut self, vmid: Vmid) {
        if self.is_starting(vmid)
            && let Some(slot) = self.slot_of(vmid)
        {
            self.runs(slot);
        }
    }

    /// Records that a starting process runs.
    pub(super) fn runs(&mut self, slot: u32) {
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            if entry.life == Life::Starting {
                self.quotas.release(entry.payer, STARTS, 1);
            }
            entry.life = Life::Running;
            if core::mem::take(&mut entry.orphaned) != 0 {
                self.orphaned_starts.decrement();
            }
            if let Some(vmid) = Vmid::new(entry.vmid) {
                self.signals.mark_joined(vmid);
                self.charge_to(slot, vmid);
            }
            self.update_outbox(slot);
        }
    }

    /// Records the exit report of a process.
    pub(in crate::leader) fn record_exit(&mut self, from: Vmid, exit: ExitReport) -> bool {
        match self.find_by_pid_mut(exit.pid) {
            Some(entry) if entry.vmid == from.get() => {
                entry.exit = Some(exit);
                true
            }
            _ => false,
        }
    }

    /// Records that the parent has reaped its child, or will not.
    pub(in crate::leader) fn reap(&mut self, from: Vmid, pid: Id, ranges: &mut Ranges<'_>) -> bool {
        let parent = self.find_by_vmid(from).map(|parent| parent.pid);
        match self.find_by_pid_mut(pid) {
            Some(entry) if Some(entry.parent) == parent && !entry.reaped => {
                entry.reaped = true;
                entry.notice_due = false;
                self.update_outbox_of(pid);
                self.release_if_reaped(pid, ranges);
                true
            }
            _ => false,
        }
    }

    /// If the process is dead and reaped, removes it from its group and session, and frees the pids
    /// that are not in use any more.
    pub(super) fn release_if_reaped(&mut self, pid: Id, ranges: &mut Ranges<'_>) {
        let Some(entry) = self.find_by_pid_mut(pid) else {
            return;
        };
        if entry.life != Life::Dead || !entry.reaped {
            return;
        }
        let (group, session) = (entry.group, entry.session);
        (entry.group, entry.session) = (0, 0);
        // No process asks for it any more, but it may still name a group or session.
        ranges.give_single(pid, self.own);
        self.adjust_ref_count(group, -1);
        self.adjust_ref_count(session, -1);
        self.free_if_unreferenced(pid, ranges);
        self.charge_name(pid, ranges);
        self.free_if_unreferenced(group, ranges);
        self.free_if_unreferenced(session, ranges);
    }

    /// Frees the pid if no process has it and it names nothing.
    pub(super) fn free_if_unreferenced(&mut self, pid: Id, ranges: &mut Ranges<'_>) {
        let Some(slot) = self.slot_of_pid(pid) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(slot as usize) else {
            return;
        };
        if entry.exists() || entry.ref_count > 0 {
            return;
        }
        let payer = entry.payer;
        *entry = FREE_ENTRY;
        self.outbox.remove(slot);
        self.quotas.release(payer, PROCESSES, 1);
        self.by_pid.remove(pid);
        if let Some(free) = self.free.get_mut(self.free_count) {
            *free = slot;
            self.free_count.increment();
        }
        ranges.free_single(pid);
    }
}
