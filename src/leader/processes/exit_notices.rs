//! Exit notices to parents.

use super::{Entry, Life, Processes};
use crate::wire::ChildExit;
use crate::{Id, Vmid};

/// The notice to a parent that its child has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitNotice {
    /// The member whose process is the parent.
    pub to: Vmid,
    /// The exit report of the child.
    pub exit: ChildExit,
}

impl Processes<'_> {
    fn exit_notice(&self, entry: &Entry) -> Option<ExitNotice> {
        let parent = self
            .find_by_pid(entry.parent)
            .filter(|_| entry.notice_due)?;
        Some(ExitNotice {
            to: Vmid::new(parent.vmid)?,
            exit: entry.exit_report(),
        })
    }

    /// Returns the next notice to send, from the entry `at` on, which is set to its place. It stays
    /// until [`Processes::take_exit`]. The caller returns a notice that can't be sent with
    /// [`Processes::requeue_exit`], and advances `at`: a parent that does not read does not block
    /// the notices of others.
    pub(crate) fn next_exit(&self, at: &mut usize) -> Option<ExitNotice> {
        if !self.has_exits {
            return None;
        }
        for slot in *at..self.entries.len() {
            *at = slot;
            if let Some(notice) = self.exit_notice(self.entries.get(slot)?) {
                return Some(notice);
            }
        }
        None
    }

    /// Records that the notice of the end of that process is about to be sent.
    pub(in crate::leader) fn take_exit(&mut self, pid: Id) {
        if let Some(entry) = self.find_by_pid_mut(pid) {
            entry.notice_due = false;
        }
        self.has_exits = self.entries.iter().any(|entry| entry.notice_due);
    }

    /// Records that the notice could not be sent: it is due again, unless the parent has reaped the
    /// child meanwhile.
    pub(in crate::leader) fn requeue_exit(&mut self, pid: Id) {
        if let Some(entry) = self.find_by_pid_mut(pid)
            && entry.life == Life::Dead
            && !entry.reaped
        {
            entry.notice_due = true;
            self.has_exits = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use super::*;
    use crate::leader::{Alloc, Leader, LeaderCapacities, Op, Presence, SignalLimits};
    use crate::store::Arena;
    use crate::wire::{Hello, Message};

    const CAPACITIES: LeaderCapacities = LeaderCapacities {
        ranges: 32,
        processes: 8,
        signals: SignalLimits {
            targets: 8,
            queued: 8,
        },
        wrap_ids: true,
        ..LeaderCapacities::NONE
    };

    fn hello(pid: Id, parent: u32) -> Hello {
        Hello {
            version: Hello::VERSION,
            features: 0,
            pid,
            parent,
        }
    }

    /// Makes a child of `parent`, which has the pid `pid` and has joined.
    fn child(leader: &mut Leader<'_>, parent: Vmid, pid: Id) -> Vmid {
        let vmid = leader.new_vmid().unwrap();
        leader.ranges.change_owner(parent, pid, vmid).unwrap();
        leader.apply(&Op::Request {
            from: parent,
            seq: 1,
            message: Message::ProcessStart {
                vmid: vmid.get(),
                pid,
            },
            other: Presence::Absent,
        });
        leader.apply(&Op::Connected(vmid));
        leader.join(vmid, &hello(pid, parent.get())).unwrap();
        vmid
    }

    #[test]
    fn notice_that_finds_no_room_delays_no_other() {
        let mut memory = Box::new_uninit_slice(Leader::bytes(&CAPACITIES));
        let mut arena = Arena::new(&mut memory);
        let mut leader = Leader::new(&mut arena, &CAPACITIES).unwrap();
        let Alloc::Range(range) = leader.ranges.alloc(Vmid::LEADER) else {
            panic!("a range is to be had");
        };
        let start = range.start;
        leader
            .ranges
            .change_owner(Vmid::LEADER, start, Vmid::LEADER)
            .unwrap();
        leader.join(Vmid::LEADER, &hello(start, 0)).unwrap();
        let parents = [1, 2].map(|pid| child(&mut leader, Vmid::LEADER, start + pid));
        for (parent, pid) in parents.into_iter().zip([3, 4]) {
            let ranges = &mut leader.ranges;
            ranges
                .change_owner(Vmid::LEADER, start + pid, parent)
                .unwrap();
            let dead = child(&mut leader, parent, start + pid);
            leader.apply(&Op::Left(dead));
        }
        let take = |leader: &mut Leader<'_>, at: &mut usize| {
            let notice = leader.processes.next_exit(at)?;
            leader.apply(&Op::ExitTaken(notice.exit.pid));
            Some(notice)
        };
        let mut at = 0;
        let first = take(&mut leader, &mut at).expect("a notice is due");
        leader.apply(&Op::ExitRequeued(first.exit.pid));
        at += 1;
        let second = take(&mut leader, &mut at).expect("the other parent's is due, too");
        assert_ne!(first, second);
        assert_eq!(take(&mut leader, &mut at), None);
        // The first notice is returned again when there may be room.
        assert_eq!(take(&mut leader, &mut 0), Some(first));
        assert_eq!(take(&mut leader, &mut 0), None);
    }
}
