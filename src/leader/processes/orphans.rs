//! What a death changes for the others: zombies, orphans, orphaned groups.

use super::signals::status_of_dead;
use super::{Entry, Life, NOBODY, Processes};
use crate::error::errno;
use crate::leader::Ranges;
use crate::leader::signals::{SIGCONT, SIGHUP};
use crate::wire::ProcessFlags;
use crate::{Id, Vmid};

impl Processes<'_> {
    /// A member is gone. Its process is a zombie from now on, its children are orphans.
    pub(in crate::leader) fn died(&mut self, vmid: Vmid, ranges: &mut Ranges<'_>) {
        self.first_has_left |= vmid == Vmid::FIRST;
        let Some(place) = self.by_vmid.get(vmid.get()) else {
            self.signals.left(vmid, |_| -errno::ESRCH);
            return;
        };
        self.signals.left(vmid, status_of_dead);
        self.by_vmid.remove(vmid.get());
        let Some(entry) = self.entries.get_mut(place as usize) else {
            return;
        };
        let had_stopped = entry.flags.contains(ProcessFlags::STOPPED);
        entry.life = Life::Dead;
        entry.vmid = 0;
        entry.flags.remove(ProcessFlags::STOPPED);
        let dead = *entry;
        self.stopped = self.stopped.saturating_sub(usize::from(had_stopped));
        let heir = self.heir(dead.parent);
        for at in 0..self.entries.len() {
            let child = self.entries.get(at).filter(|child| {
                child.life != Life::Free && child.parent == dead.pid && child.pid != dead.pid
            });
            if let Some(child) = child.copied() {
                self.orphan(child, &dead, heir, ranges);
            }
        }
        self.mourn(dead.pid, ranges);
        // A group whose only tie to the rest of the session was this process is orphaned.
        let tied = self
            .of_pid(dead.parent)
            .is_some_and(|parent| parent.group != dead.group && parent.session == dead.session);
        if tied {
            self.hang_up_if_orphaned(dead.group);
        }
    }

    /// Who gets a dead process's children: the next subreaper above, or the first process.
    fn heir(&self, above: Id) -> Option<(Id, Vmid)> {
        let mut pid = above;
        for _ in 0..self.entries.len() {
            let Some(entry) = self.of_pid(pid) else { break };
            if entry.life == Life::Running && entry.flags.contains(ProcessFlags::SUBREAPER) {
                return Some((entry.pid, Vmid::new(entry.vmid)?));
            }
            pid = entry.parent;
        }
        let first = self.of_vmid(Vmid::FIRST).filter(|first| first.lives())?;
        Some((first.pid, Vmid::FIRST))
    }

    fn orphan(
        &mut self,
        child: Entry,
        parent: &Entry,
        heir: Option<(Id, Vmid)>,
        ranges: &mut Ranges<'_>,
    ) {
        if let Some(entry) = self.of_pid_mut(child.pid) {
            entry.parent = heir.map_or(0, |(pid, _)| pid);
        }
        if child.life == Life::Dead {
            self.mourn(child.pid, ranges);
        } else if child.life == Life::Starting {
            // Whoever was to start it is gone: it may never come.
            self.by_vmid.remove(child.vmid);
            if let Some(vmid) = Vmid::new(child.vmid) {
                self.signals.left(vmid, status_of_dead);
            }
            if let Some(entry) = self.of_pid_mut(child.pid) {
                entry.life = Life::Dead;
                entry.vmid = 0;
                entry.reaped = true;
            }
            self.settle(child.pid, ranges);
        } else if child.group != parent.group && child.session == parent.session {
            self.hang_up_if_orphaned(child.group);
        }
    }

    /// Sees to it that a dead process's parent is told, or that nobody has to be.
    fn mourn(&mut self, pid: Id, ranges: &mut Ranges<'_>) {
        let Some(entry) = self.of_pid(pid).copied() else {
            return;
        };
        let parent = self
            .of_pid(entry.parent)
            .filter(|parent| parent.lives())
            .and_then(|parent| Vmid::new(parent.vmid));
        let Some(dead) = self.of_pid_mut(pid) else {
            return;
        };
        match parent {
            Some(parent) if !entry.reaped => {
                dead.notice_due = true;
                // Who asks for the zombie is sent to its parent.
                ranges.give_single(pid, parent);
                self.owing = true;
            }
            _ => {
                dead.reaped = true;
                self.settle(pid, ranges);
            }
        }
    }

    /// Whether nobody in the session but outside the group is parent of one of its members
    /// (POSIX, "orphaned process group").
    pub(super) fn is_orphaned(&self, group: Id) -> bool {
        !self.entries.iter().any(|member| {
            member.lives()
                && member.group == group
                && self.of_pid(member.parent).is_some_and(|parent| {
                    parent.lives() && parent.group != group && parent.session == member.session
                })
        })
    }

    /// A group that has become orphaned and has a stopped member gets SIGHUP and SIGCONT.
    fn hang_up_if_orphaned(&mut self, group: Id) {
        if self.stopped == 0 || !self.is_orphaned(group) {
            return;
        }
        let of_group = |entry: &&mut Entry| entry.lives() && entry.group == group;
        let has_stopped = self
            .entries
            .iter_mut()
            .filter(of_group)
            .any(|member| member.flags.contains(ProcessFlags::STOPPED));
        if has_stopped {
            for at in 0..self.entries.len() {
                let member = self.entries.get(at).copied().unwrap_or(NOBODY);
                if member.lives() && member.group == group {
                    self.signal_from_nobody(&member, SIGHUP);
                    self.signal_from_nobody(&member, SIGCONT);
                }
            }
        }
    }
}
