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

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use super::*;
    use crate::Id;
    use crate::file_locks::LockLimits;
    use crate::leader::{Alloc, Leader, SignalLimits};
    use crate::store::Arena;
    use crate::wire::{Hello, Message};

    const SIGNALS: SignalLimits = SignalLimits {
        targets: 8,
        queued: 8,
    };
    const BYTES: usize = Leader::bytes(32, 8, &SIGNALS, &LockLimits::NONE);

    fn hello(pid: Id, parent: u32) -> Hello {
        Hello {
            version: Hello::VERSION,
            features: 0,
            pid,
            parent,
        }
    }

    /// A child of `parent`, which has the pid `pid` and has joined.
    fn child(leader: &mut Leader<'_>, parent: Vmid, pid: Id) -> Vmid {
        let vmid = leader.new_vmid().unwrap();
        leader.ranges().change_owner(parent, pid, vmid).unwrap();
        let start = Message::ProcessStart {
            vmid: vmid.get(),
            pid,
        };
        leader.handle(parent, 1, &start);
        leader.joined(vmid);
        leader.join(vmid, &hello(pid, parent.get())).unwrap();
        vmid
    }

    #[test]
    fn a_notice_that_finds_no_room_keeps_no_other_back() {
        let mut memory = Box::new_uninit_slice(BYTES);
        let mut arena = Arena::new(&mut memory);
        let mut leader = Leader::new(&mut arena, 32, 8, &SIGNALS, &LockLimits::NONE, true).unwrap();
        let Alloc::Range(range) = leader.ranges().alloc(Vmid::FIRST) else {
            panic!("a range is to be had");
        };
        let start = range.start;
        leader
            .ranges()
            .change_owner(Vmid::FIRST, start, Vmid::FIRST)
            .unwrap();
        leader.join(Vmid::FIRST, &hello(start, 0)).unwrap();
        let parents = [1, 2].map(|pid| child(&mut leader, Vmid::FIRST, start + pid));
        for (parent, pid) in parents.into_iter().zip([3, 4]) {
            let ranges = leader.ranges();
            ranges
                .change_owner(Vmid::FIRST, start + pid, parent)
                .unwrap();
            let dead = child(&mut leader, parent, start + pid);
            leader.left(dead);
        }
        let mut at = 0;
        let Some(first) = leader.processes().next_due(&mut at) else {
            panic!("a notice is due");
        };
        leader.processes().put_back(first);
        at += 1;
        let Some(second) = leader.processes().next_due(&mut at) else {
            panic!("the other parent's is due, too");
        };
        assert_ne!(first, second);
        assert_eq!(leader.processes().next_due(&mut at), None);
        // The first comes again when there may be room.
        assert_eq!(leader.processes().next_due(&mut 0), Some(first));
        assert_eq!(leader.processes().next_due(&mut 0), None);
    }
}
