//! Whom a signal is for, as far as the table of processes says.

use super::{Entry, Life, Processes};
use crate::error::errno;
use crate::wire::{KillTarget, PidKill};
use crate::{Id, Vmid};

/// Where a signal for a pid goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::leader) enum Destination {
    /// To this member, once it has joined.
    Starting(Vmid),
    /// Nowhere: a zombie can be signalled, and nothing comes of it.
    Zombie,
    /// Nobody has that pid, though it names a group or session.
    Nobody,
    /// To the pid's owner. If it is no process's pid, that knows what it is.
    Owner,
}

impl Processes<'_> {
    /// Where a signal for that pid goes.
    pub(in crate::leader) fn find_destination(&self, pid: Id) -> Destination {
        match self.find_by_pid(pid) {
            Some(entry) if !entry.exists() => Destination::Nobody,
            Some(entry) if entry.life == Life::Dead => Destination::Zombie,
            Some(entry) if entry.life == Life::Starting => {
                Vmid::new(entry.vmid).map_or(Destination::Owner, Destination::Starting)
            }
            _ => Destination::Owner,
        }
    }

    /// Whether the pid is that of a process, or a zombie.
    pub(crate) fn exists(&self, pid: Id) -> bool {
        self.find_by_pid(pid).is_some_and(Entry::exists)
    }

    /// Keeps a signal for all for those that have not joined yet.
    pub(in crate::leader) fn queue_for_starting(&mut self, from: Vmid, kill: &PidKill) {
        for at in 0..self.entries.len() {
            let Some(entry) = self.entries.get(at) else {
                return;
            };
            let Some(vmid) = Vmid::new(entry.vmid) else {
                continue;
            };
            if entry.life == Life::Starting && vmid != from {
                let kill = for_process(entry.pid, kill.sender, kill.signal);
                // One for a process is never refused.
                let _ = self.signals.add_pending(vmid, &kill);
            }
        }
    }

    /// A signal of the system itself.
    pub(super) fn send_kernel_signal(&mut self, to: &Entry, signal: i32) {
        if let Some(vmid) = Vmid::new(to.vmid) {
            // One for a process is never refused.
            let _ = self
                .signals
                .add_pending(vmid, &for_process(to.pid, 0, signal));
        }
    }

    /// Returns true if the table has a process or a zombie other than the process of `vmid`.
    pub(crate) fn has_any_except(&self, vmid: Vmid) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|entry| entry.exists() && entry.vmid != vmid.get())
    }

    /// Whether the first process has ended. Its node may still serve the others.
    pub(crate) fn first_has_left(&self) -> bool {
        self.first_has_left
    }
}

fn for_process(pid: Id, sender: Id, signal: i32) -> PidKill {
    PidKill {
        sender,
        pid,
        id: pid,
        signal,
        target: KillTarget::Process,
    }
}

/// What a process gets that signals one which has just died: there was a process, but no other of its
/// threads.
pub(super) fn status_of_dead(kill: &PidKill) -> i32 {
    if kill.is_for_main_thread() {
        0
    } else {
        -errno::ESRCH
    }
}
