//! What processes are told about their relatives: that a parent has ended, that a child never came. And
//! how a child ended, for a parent that had no room to keep that.

use super::{Entry, Life, Processes, SIGPWR};
use crate::error::errno;
use crate::wire::{ChildExit, ProcessNote};
use crate::{Id, Vmid};

/// Something that a process is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// The member whose process it is.
    pub to: Vmid,
    /// What.
    pub note: ProcessNote,
    /// The pid of its parent now, if that is what it is told; 0 for none.
    pub parent: Id,
    /// That process's VMID.
    pub parent_vmid: u32,
}

impl Entry {
    /// How it ended, as its parent is told.
    pub(super) fn end(&self) -> ChildExit {
        let exit = self.exit.unwrap_or(ChildExit {
            parent_pid: 0,
            pid: self.pid,
            uid: 0,
            exit_code: 0,
            term_signal: SIGPWR,
        });
        ChildExit {
            parent_pid: self.parent,
            ..exit
        }
    }
}

impl Processes<'_> {
    /// A process wants to be told when its parent ends, or no more.
    pub(in crate::leader) fn watch_parent(&mut self, from: Vmid, is_wanted: bool) -> bool {
        let place = self.by_vmid.get(from.get());
        let entry = place.and_then(|place| self.entries.get_mut(place as usize));
        entry.is_some_and(|entry| {
            let untold = entry.parents_ended.unwrap_or(0);
            entry.parents_ended = is_wanted.then_some(untold);
            true
        })
    }

    /// The next note to be sent, from the place `at` on, which moves there; it is due no more. What can't be
    /// sent is to be handed back with [`Processes::put_back_note`], and `at` to be moved on: a process
    /// that does not read keeps nobody else's notes.
    pub(crate) fn next_note(&mut self, at: &mut usize) -> Option<Note> {
        if !self.noting {
            return None;
        }
        for place in *at..self.entries.len() {
            *at = place;
            let entry = self.entries.get(place).copied()?;
            let Some(to) = Vmid::new(entry.vmid).filter(|_| entry.life == Life::Running) else {
                continue;
            };
            let slot = self.entries.get_mut(place)?;
            let note = if let Some(ended @ 1..) = entry.parents_ended {
                slot.parents_ended = Some(ended.saturating_sub(1));
                ProcessNote::ParentEnded
            } else if entry.child_abandoned {
                slot.child_abandoned = false;
                ProcessNote::ChildAbandoned
            } else {
                continue;
            };
            let parent = self.of_pid(entry.parent).filter(|parent| parent.lives());
            let (parent, parent_vmid) = match (note, parent) {
                (ProcessNote::ParentEnded, Some(parent)) => (parent.pid, parent.vmid),
                _ => (0, 0),
            };
            return Some(Note {
                to,
                note,
                parent,
                parent_vmid,
            });
        }
        self.noting = self.entries.iter().any(|entry| {
            let has_note =
                entry.parents_ended.is_some_and(|ended| ended > 0) || entry.child_abandoned;
            entry.life == Life::Running && has_note
        });
        None
    }

    /// It could not be sent yet.
    pub(crate) fn put_back_note(&mut self, note: &Note) {
        let place = self.by_vmid.get(note.to.get());
        if let Some(entry) = place.and_then(|place| self.entries.get_mut(place as usize)) {
            match note.note {
                ProcessNote::ParentEnded => {
                    if let Some(ended) = &mut entry.parents_ended {
                        *ended = ended.saturating_add(1);
                    }
                }
                _ => entry.child_abandoned = true,
            }
            self.noting = true;
        }
    }

    /// How a child of the member's process ended, of those that it has been told of: the one that died
    /// first with that pid, and in that group; 0 for any.
    ///
    /// # Errors
    /// `ECHILD` if there is no such child, `EAGAIN` if none has ended.
    pub(crate) fn end_of_child(&self, from: Vmid, pid: Id, group: Id) -> Result<ChildExit, i32> {
        let parent = self.of_vmid(from).ok_or(errno::ECHILD)?.pid;
        let mut children = self
            .entries
            .iter()
            .filter(|child| child.is_there() && child.parent == parent)
            .filter(|child| pid == 0 || child.pid == pid)
            .filter(|child| group == 0 || child.group == group)
            .peekable();
        if children.peek().is_none() {
            return Err(errno::ECHILD);
        }
        children
            .filter(|child| child.life == Life::Dead && !child.notice_due)
            .min_by_key(|child| child.died)
            .map(Entry::end)
            .ok_or(errno::EAGAIN)
    }
}
