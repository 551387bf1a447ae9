//! What the leader has to send of its own accord: notices to parents that inherited a child, and
//! signals.

use super::{Entry, Life, Processes, SIGPWR};
use crate::wire::{ChildExit, KillTarget, PidKill};
use crate::{Id, Vmid};

/// Something the leader is to send of its own accord.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// To the parent: how its child ended.
    Notice(Vmid, ChildExit),
    /// To a process: a signal.
    Signal(Vmid, PidKill),
}

impl Entry {
    /// It is to get these signals.
    pub(super) fn owe(&mut self, signals: u64, sender: Id) {
        self.owed_by = sender_of_all(self.owed, self.owed_by, sender);
        self.owed |= signals;
    }
}

impl Processes<'_> {
    /// A signal for all: processes that have not joined yet get it when they do.
    pub(in crate::leader) fn owe_to_starting(&mut self, sender: Id, signal: i32) {
        let Some(bit) = signal_bit(signal) else {
            return;
        };
        for entry in self
            .entries
            .iter_mut()
            .filter(|entry| entry.life == Life::Starting)
        {
            entry.owe(bit, sender);
            self.owing = true;
        }
    }

    /// A signal for a process: if that has not joined yet, it gets the signal when it does.
    pub(in crate::leader) fn owe_if_starting(&mut self, kill: &PidKill) -> bool {
        let starting = |entry: &&mut Entry| entry.life == Life::Starting;
        let is_for_one = kill.target == KillTarget::Process && is_signal(kill.signal);
        match self.of_pid_mut(kill.id).filter(starting) {
            Some(entry) if is_for_one => {
                entry.owe(signal_bit(kill.signal).unwrap_or(0), kill.sender);
                self.owing = true;
                true
            }
            _ => false,
        }
    }

    /// The next thing to be sent; it is due no more. What can't be sent is to be handed back with
    /// [`Processes::put_back`].
    pub(crate) fn next_due(&mut self) -> Option<Due> {
        if !self.owing {
            return None;
        }
        for at in 0..self.entries.len() {
            let Some(entry) = self.entries.get(at).copied() else {
                break;
            };
            if entry.notice_due {
                if let Some(slot) = self.entries.get_mut(at) {
                    slot.notice_due = false;
                }
                let parent = self.of_pid(entry.parent);
                let Some(vmid) = parent.and_then(|parent| Vmid::new(parent.vmid)) else {
                    continue;
                };
                let exit = entry.exit.unwrap_or(ChildExit {
                    parent_pid: 0,
                    pid: entry.pid,
                    uid: 0,
                    exit_code: 0,
                    term_signal: SIGPWR,
                });
                let exit = ChildExit {
                    parent_pid: entry.parent,
                    ..exit
                };
                return Some(Due::Notice(vmid, exit));
            }
            if entry.owed != 0 && entry.life == Life::Running {
                let bit = entry.owed.trailing_zeros();
                if let Some(slot) = self.entries.get_mut(at) {
                    slot.owed &= slot.owed.wrapping_sub(1);
                }
                let kill = PidKill {
                    sender: entry.owed_by,
                    pid: entry.pid,
                    id: entry.pid,
                    signal: i32::try_from(bit).unwrap_or(0).saturating_add(1),
                    target: KillTarget::Process,
                };
                if let Some(vmid) = Vmid::new(entry.vmid) {
                    return Some(Due::Signal(vmid, kill));
                }
            }
        }
        self.owing = self
            .entries
            .iter()
            .any(|entry| entry.owed != 0 || entry.notice_due);
        None
    }

    /// It could not be sent yet.
    pub(crate) fn put_back(&mut self, due: Due) {
        match due {
            Due::Notice(_, exit) => {
                if let Some(entry) = self.of_pid_mut(exit.pid)
                    && entry.life == Life::Dead
                    && !entry.reaped
                {
                    entry.notice_due = true;
                    self.owing = true;
                }
            }
            Due::Signal(vmid, kill) => {
                if let Some(place) = self.by_vmid.get(vmid.get())
                    && let Some(entry) = self.entries.get_mut(place as usize)
                {
                    entry.owe(signal_bit(kill.signal).unwrap_or(0), kill.sender);
                    self.owing = true;
                }
            }
        }
    }
}

/// The highest signal number there is (`signal(7)`).
pub const SIGNAL_MAX: i32 = 64;

/// Whether there is such a signal, or it is 0.
pub(crate) fn is_signal(signal: i32) -> bool {
    (0..=SIGNAL_MAX).contains(&signal)
}

/// The bit that stands for a signal; none for 0, which only asks.
pub(crate) fn signal_bit(signal: i32) -> Option<u64> {
    let bit = u32::try_from(signal).ok()?.checked_sub(1)?;
    1_u64.checked_shl(bit)
}

/// Who is named for signals that are kept together, once one of `sender` joins those of `by`. There is
/// room for one: of several none is named.
pub(crate) fn sender_of_all(kept: u64, by: Id, sender: Id) -> Id {
    if kept == 0 || by == sender { sender } else { 0 }
}
