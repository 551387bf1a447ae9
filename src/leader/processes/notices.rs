//! Notices to processes about their relatives: a parent has ended, a child was abandoned. Also the
//! exit reports of children for a parent that had no room for them.

use super::{Entry, ExitNotice, Life, Processes, SIGPWR};
use crate::error::Errno;
use crate::invariant::Count;
use crate::wire::{ExitReport, ProcessNote};
use crate::{Id, Vmid, parts};

/// A notice to a process about a relative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The member whose process it is.
    pub to: Vmid,
    /// The event.
    pub note: ProcessNote,
    /// The pid of its parent now, if the notice is about that; 0 for none.
    pub parent: Id,
    /// The VMID of that process.
    pub parent_vmid: u32,
}

/// A notice that is to be sent.
pub(in crate::leader) enum DueNotice {
    Exit(ExitNotice),
    Relative(Notice),
}

impl Entry {
    /// Returns true if a notice about the process is due: one to its parent, or one to the process itself.
    fn is_notice_due(&self) -> bool {
        self.notice_due || self.notice().is_some()
    }

    /// Returns the notice that is due for the process, if it can get one.
    fn notice(&self) -> Option<(Vmid, ProcessNote)> {
        let to = Vmid::new(self.vmid).filter(|_| self.life == Life::Running)?;
        if self.parents_ended.is_some_and(|ended| ended > 0) {
            Some((to, ProcessNote::ParentEnded))
        } else {
            let is_pending = self.child_abandoned;
            is_pending.then_some((to, ProcessNote::ChildAbandoned))
        }
    }

    /// Returns the exit report of the process, as the notice to its parent has it.
    pub(super) fn exit_report(&self) -> ExitReport {
        let exit = self.exit.unwrap_or(ExitReport {
            parent_pid: 0,
            pid: self.pid,
            uid: 0,
            code: 0,
            signal: SIGPWR,
        });
        ExitReport {
            parent_pid: self.parent,
            ..exit
        }
    }
}

impl Processes<'_> {
    /// Sets whether a process gets notices when its parent ends.
    pub(in crate::leader) fn watch_parent(&mut self, from: Vmid, is_wanted: bool) -> bool {
        self.update_by_vmid(from, |entry| {
            let count = entry.parents_ended.unwrap_or(0);
            entry.parents_ended = is_wanted.then_some(count);
        })
    }

    /// Changes the process of the member, and notes whether a notice about it is due now. Returns false if
    /// there is no such process.
    fn update_by_vmid(&mut self, vmid: Vmid, change: impl FnOnce(&mut Entry)) -> bool {
        let slot = self.slot_of(vmid);
        let Some(slot) = slot else {
            return false;
        };
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            change(entry);
        }
        self.update_outbox(slot);
        true
    }

    /// Notes whether a notice about the process in that slot is due. To be called after each change of what
    /// notices depend on.
    pub(super) fn update_outbox(&mut self, slot: u32) {
        if self
            .entries
            .get(slot as usize)
            .is_some_and(Entry::is_notice_due)
        {
            self.outbox.push(slot);
        } else {
            self.outbox.remove(slot);
        }
    }

    /// Like [`Processes::update_outbox`], for the process with that pid.
    pub(super) fn update_outbox_of(&mut self, pid: Id) {
        if let Some(slot) = self.slot_of_pid(pid) {
            self.update_outbox(slot);
        }
    }

    /// Returns true if a notice is due for exactly those processes that are in the queue. It is slow, and meant for tests.
    pub(super) fn check_outbox(&self) -> bool {
        let entry = |slot: u32| self.entries.get(slot as usize);
        self.outbox
            .check_invariants(|slot| entry(slot).is_some_and(Entry::is_notice_due))
    }

    /// Returns true if an exit notice or a notice about a relative is due.
    pub(in crate::leader) fn has_notices(&self) -> bool {
        parts::PROCESSES && self.outbox.has_due()
    }

    /// Makes the notices that were passed over due again.
    pub(in crate::leader) fn resume_notices(&mut self) {
        if parts::PROCESSES {
            self.outbox.resume();
        }
    }

    /// Passes the notice that is due for that process over until [`Processes::resume_notices`].
    pub(super) fn defer_notice_of(&mut self, pid: Id) {
        if let Some(slot) = self.slot_of_pid(pid) {
            self.outbox.defer(slot);
        }
    }

    /// Returns the next notice to send: of an exit, or about a relative. It stays until
    /// [`Processes::mark_exit_sent`] or [`Processes::mark_notice_sent`].
    pub(in crate::leader) fn next_notice(&self) -> Option<DueNotice> {
        if !self.has_notices() {
            return None;
        }
        self.outbox.due().find_map(|slot| {
            let entry = self.entries.get(slot as usize)?;
            match self.exit_notice(entry) {
                Some(exit) => Some(DueNotice::Exit(exit)),
                None => self.relative_notice(entry).map(DueNotice::Relative),
            }
        })
    }

    fn relative_notice(&self, entry: &Entry) -> Option<Notice> {
        let (to, note) = entry.notice()?;
        let parent = self
            .find_by_pid(entry.parent)
            .filter(|parent| parent.is_alive());
        let (parent, parent_vmid) = match (note, parent) {
            (ProcessNote::ParentEnded, Some(parent)) => (parent.pid, parent.vmid),
            _ => (0, 0),
        };
        Some(Notice {
            to,
            note,
            parent,
            parent_vmid,
        })
    }

    /// Records that the notice was sent. If the process is to get another one, that comes after those of
    /// other processes.
    pub(in crate::leader) fn mark_notice_sent(&mut self, to: Vmid, note: ProcessNote) {
        self.update_by_vmid(to, |entry| match (note, &mut entry.parents_ended) {
            (ProcessNote::ParentEnded, Some(ended)) if *ended > 0 => ended.decrement(),
            (ProcessNote::ChildAbandoned, _) => entry.child_abandoned = false,
            _ => {}
        });
        if let Some(slot) = self.slot_of(to) {
            self.outbox.rotate(slot);
        }
    }

    /// Passes the notice for the process over until [`Processes::resume_notices`].
    pub(in crate::leader) fn defer_notice(&mut self, to: Vmid) {
        if let Some(slot) = self.slot_of(to) {
            self.outbox.defer(slot);
        }
    }

    /// Returns the exit report of a child of the member's process whose end was reported to it: the
    /// one that died first with that pid, and in that group; 0 for any.
    ///
    /// # Errors
    /// `ECHILD` if there is no such child, `EAGAIN` if none has ended.
    pub(crate) fn find_child_exit(
        &self,
        from: Vmid,
        pid: Id,
        group: Id,
    ) -> Result<ExitReport, Errno> {
        let parent = self.find_by_vmid(from).ok_or(Errno::ECHILD)?.pid;
        let mut children = self
            .each_entry()
            .filter(|child| child.exists() && child.parent == parent)
            .filter(|child| pid == 0 || child.pid == pid)
            .filter(|child| group == 0 || child.group == group)
            .peekable();
        if children.peek().is_none() {
            return Err(Errno::ECHILD);
        }
        children
            .filter(|child| child.life == Life::Dead && !child.notice_due)
            .min_by_key(|child| child.death_seq)
            .map(Entry::exit_report)
            .ok_or(Errno::EAGAIN)
    }
}
