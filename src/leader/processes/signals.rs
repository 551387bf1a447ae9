//! The destinations of signals, by the table of processes.

use super::{Entry, Life, Processes};
use crate::error::Errno;
use crate::wire::{KillTarget, PidKill};
use crate::{Id, Vmid, parts};

/// The destination of a signal for a pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::leader) enum Destination {
    /// This member, once it has joined.
    Starting(Vmid),
    /// None: a signal to a zombie succeeds without an effect.
    Zombie,
    /// None: no process has that pid, though it names a group or session.
    Nobody,
    /// The pid's owner. If the pid is not a process's, the owner knows what it is.
    Owner,
}

impl Processes<'_> {
    /// Returns the destination of a signal for that pid.
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

    /// Returns true if the pid is that of a process or a zombie.
    pub(crate) fn exists(&self, pid: Id) -> bool {
        self.find_by_pid(pid).is_some_and(Entry::exists)
    }

    /// Makes a signal pending for a member. It is sent once the member's process has joined.
    ///
    /// # Errors
    /// As [`Signals::add_pending`].
    ///
    /// [`Signals::add_pending`]: crate::leader::signals::Signals::add_pending
    pub(in crate::leader) fn add_signal(&mut self, to: Vmid, kill: &PidKill) -> Result<(), Errno> {
        let has_joined = !self.is_starting(to);
        self.signals.add_pending(to, kill, has_joined)
    }

    /// Makes a signal for all pending for the processes that have not joined yet: in the order of the index of
    /// [`Signals`], so that a new entry there seldom moves others.
    ///
    /// [`Signals`]: crate::leader::signals::Signals
    pub(in crate::leader) fn queue_for_starting(&mut self, from: Vmid, kill: &PidKill) {
        if !parts::PROCESSES {
            return;
        }
        for at in 0..self.by_vmid.len() {
            self.steps.count();
            let Some(entry) = self.entries.get(self.by_vmid.slot_at(at) as usize) else {
                return;
            };
            let Some(vmid) = Vmid::new(entry.vmid) else {
                continue;
            };
            if entry.life == Life::Starting && vmid != from {
                let kill = for_process(entry.pid, kill.sender, kill.signal);
                // A signal for a process is never refused.
                let _ = self.add_signal(vmid, &kill);
            }
        }
    }

    /// Sends a signal of the system itself.
    pub(super) fn send_kernel_signal(&mut self, to: &Entry, signal: i32) {
        if let Some(vmid) = Vmid::new(to.vmid) {
            // A signal for a process is never refused.
            let _ = self.add_signal(vmid, &for_process(to.pid, 0, signal));
        }
    }

    /// Returns true if the table has a process or a zombie other than the process of `vmid`.
    pub(crate) fn has_any_except(&self, vmid: Vmid) -> bool {
        let mut entries = self.each_entry();
        entries.any(|entry| entry.exists() && entry.vmid != vmid.get())
    }

    /// Returns true if the process that leads has ended. Its node may still serve the others.
    pub(crate) fn has_own_process_ended(&self) -> bool {
        self.own_has_ended
    }

    /// Records that another process leads, which lives.
    pub(in crate::leader) fn set_own(&mut self, own: Vmid) {
        (self.own, self.own_has_ended) = (own, false);
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

/// Returns the result of a signal to a process that has just died: success for the process, but its
/// other threads do not exist.
pub(super) fn result_of_dead(kill: &PidKill) -> Result<(), Errno> {
    kill.is_for_main_thread().then_some(()).ok_or(Errno::ESRCH)
}
