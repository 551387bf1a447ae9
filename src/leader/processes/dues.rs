//! What the leader has to send of its own accord: notices to parents that inherited a child.

use super::{Life, Processes};
use crate::Vmid;
use crate::wire::ChildExit;

/// Something the leader is to send of its own accord.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// To the parent: how its child ended.
    Notice(Vmid, ChildExit),
}

impl Processes<'_> {
    /// The next thing to be sent, from the place `at` on, which moves there; it is due no more. What can't be
    /// sent is to be handed back with [`Processes::put_back`], and `at` to be moved on: a parent that does
    /// not read keeps nobody else's notices.
    pub(crate) fn next_due(&mut self, at: &mut usize) -> Option<Due> {
        if !self.owing {
            return None;
        }
        for place in *at..self.entries.len() {
            *at = place;
            let Some(entry) = self.entries.get(place).copied() else {
                break;
            };
            if entry.notice_due {
                if let Some(slot) = self.entries.get_mut(place) {
                    slot.notice_due = false;
                }
                let parent = self.of_pid(entry.parent);
                let Some(vmid) = parent.and_then(|parent| Vmid::new(parent.vmid)) else {
                    continue;
                };
                return Some(Due::Notice(vmid, entry.end()));
            }
        }
        self.owing = self.entries.iter().any(|entry| entry.notice_due);
        None
    }

    /// It could not be sent yet.
    pub(crate) fn put_back(&mut self, due: Due) {
        let Due::Notice(_, exit) = due;
        if let Some(entry) = self.of_pid_mut(exit.pid)
            && entry.life == Life::Dead
            && !entry.reaped
        {
            entry.notice_due = true;
            self.owing = true;
        }
    }
}
