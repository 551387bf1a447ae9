//! Notices to processes about their relatives: a parent has ended, a child was abandoned. Also the
//! exit reports of children for a parent that had no room for them.

use super::{Entry, Life, Processes, SIGPWR};
use crate::error::Errno;
use crate::invariant::Count;
use crate::wire::{ChildExit, ProcessNote};
use crate::{Id, Vmid};

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

impl Entry {
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
    pub(super) fn exit_report(&self) -> ChildExit {
        let exit = self.exit.unwrap_or(ChildExit {
            parent_pid: 0,
            pid: self.pid,
            uid: 0,
            code: 0,
            signal: SIGPWR,
        });
        ChildExit {
            parent_pid: self.parent,
            ..exit
        }
    }
}

impl Processes<'_> {
    /// Sets whether a process gets notices when its parent ends.
    pub(in crate::leader) fn watch_parent(&mut self, from: Vmid, is_wanted: bool) -> bool {
        let slot = self.by_vmid.get(from.get());
        let entry = slot.and_then(|slot| self.entries.get_mut(slot as usize));
        entry.is_some_and(|entry| {
            let count = entry.parents_ended.unwrap_or(0);
            entry.parents_ended = is_wanted.then_some(count);
            true
        })
    }

    /// Returns the next notice to send, from the entry `at` on, which is set to its place. It stays
    /// until [`Processes::take_notice`]. The caller returns a notice that can't be sent with
    /// [`Processes::requeue_notice`], and advances `at`: a process that does not read does not
    /// block the notices of others.
    pub(crate) fn next_notice(&self, at: &mut usize) -> Option<Notice> {
        if !self.has_notices {
            return None;
        }
        for slot in *at..self.entries.len() {
            *at = slot;
            let entry = self.entries.get(slot)?;
            let Some((to, note)) = entry.notice() else {
                continue;
            };
            let parent = self
                .find_by_pid(entry.parent)
                .filter(|parent| parent.is_alive());
            let (parent, parent_vmid) = match (note, parent) {
                (ProcessNote::ParentEnded, Some(parent)) => (parent.pid, parent.vmid),
                _ => (0, 0),
            };
            return Some(Notice {
                to,
                note,
                parent,
                parent_vmid,
            });
        }
        None
    }

    /// Records that the notice is about to be sent.
    pub(in crate::leader) fn take_notice(&mut self, to: Vmid, note: ProcessNote) {
        let slot = self.by_vmid.get(to.get());
        if let Some(entry) = slot.and_then(|slot| self.entries.get_mut(slot as usize)) {
            match (note, &mut entry.parents_ended) {
                (ProcessNote::ParentEnded, Some(ended)) => ended.decrement(),
                (ProcessNote::ParentEnded, None) => {}
                _ => entry.child_abandoned = false,
            }
        }
        self.has_notices = self.entries.iter().any(|entry| entry.notice().is_some());
    }

    /// Records that the notice could not be sent: it is due again.
    pub(in crate::leader) fn requeue_notice(&mut self, to: Vmid, note: ProcessNote) {
        let slot = self.by_vmid.get(to.get());
        if let Some(entry) = slot.and_then(|slot| self.entries.get_mut(slot as usize)) {
            match (note, &mut entry.parents_ended) {
                (ProcessNote::ParentEnded, Some(ended)) => ended.increment(),
                (ProcessNote::ParentEnded, None) => {}
                _ => entry.child_abandoned = true,
            }
            self.has_notices = true;
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
    ) -> Result<ChildExit, Errno> {
        let parent = self.find_by_vmid(from).ok_or(Errno::ECHILD)?.pid;
        let mut children = self
            .entries
            .iter()
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
