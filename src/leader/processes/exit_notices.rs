//! Exit notices to parents.

use super::{Entry, Life, Processes};
use crate::wire::ExitReport;
use crate::{Id, Vmid};

/// The notice to a parent that its child has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitNotice {
    /// The member whose process is the parent.
    pub to: Vmid,
    /// The exit report of the child.
    pub exit: ExitReport,
}

impl Processes<'_> {
    pub(super) fn exit_notice(&self, entry: &Entry) -> Option<ExitNotice> {
        let parent = self
            .find_by_pid(entry.parent)
            .filter(|_| entry.notice_due)?;
        Some(ExitNotice {
            to: Vmid::new(parent.vmid)?,
            exit: entry.exit_report(),
        })
    }

    /// Records that the exit notice of that process was sent.
    pub(in crate::leader) fn mark_exit_sent(&mut self, pid: Id) {
        if let Some(entry) = self.find_by_pid_mut(pid) {
            entry.notice_due = false;
        }
        self.update_outbox_of(pid);
    }

    /// Records that the exit notice could not be sent: it is passed over until
    /// [`Processes::resume_notices`]. It is not due any more if the parent has reaped the child meanwhile.
    pub(in crate::leader) fn defer_exit(&mut self, pid: Id) {
        if let Some(entry) = self.find_by_pid_mut(pid)
            && entry.life == Life::Dead
            && !entry.reaped
        {
            entry.notice_due = true;
            self.update_outbox_of(pid);
            self.defer_notice_of(pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use super::*;
    use crate::leader::{Alloc, Leader, LeaderCapacities, Op, OutgoingId, Presence, SignalLimits};
    use crate::store::Arena;
    use crate::wire::{Hello, Message, ProcessNote, RelativeNote};

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
        let vmid = leader.new_vmid(Vmid::LEADER).unwrap();
        leader.ranges.change_owner(parent, pid, vmid).unwrap();
        leader.apply(&Op::Request {
            from: parent,
            seq: 1,
            message: &Message::ProcessStart {
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
        let next = |leader: &Leader<'_>| leader.poll_transmit().map(|outgoing| outgoing.id);
        let first = next(&leader).expect("a notice is due");
        assert!(matches!(first, OutgoingId::Exit(_)));
        leader.apply(&Op::Requeued(first));
        let second = next(&leader).expect("the other parent's is due, too");
        assert_ne!(first, second);
        let sent = |id| Op::Transmitted {
            id,
            is_extended: true,
        };
        leader.apply(&sent(second));
        assert_eq!((next(&leader), leader.has_output()), (None, false));
        // The first notice is returned again when there may be room.
        leader.apply(&Op::RetryTransmit);
        assert_eq!(next(&leader), Some(first));
        leader.apply(&sent(first));
        // The notice could not be delivered after all.
        leader.apply(&Op::Requeued(first));
        assert_eq!(next(&leader), None);
        leader.apply(&Op::RetryTransmit);
        assert_eq!(next(&leader), Some(first));
        assert!(leader.check_invariants());
    }

    #[test]
    fn notice_for_a_process_that_has_not_joined_is_sent_when_it_joins() {
        let mut memory = Box::new_uninit_slice(Leader::bytes(&CAPACITIES));
        let mut leader = Leader::new(&mut Arena::new(&mut memory), &CAPACITIES).unwrap();
        let Alloc::Range(range) = leader.ranges.alloc(Vmid::LEADER) else {
            panic!("a range is to be had");
        };
        let start = range.start;
        let own = |leader: &mut Leader<'_>, pid, owner| {
            let ranges = &mut leader.ranges;
            ranges.change_owner(Vmid::LEADER, pid, owner).unwrap();
        };
        own(&mut leader, start, Vmid::LEADER);
        leader.join(Vmid::LEADER, &hello(start, 0)).unwrap();
        let parent = child(&mut leader, Vmid::LEADER, start + 1);
        let watch = Message::ProcessNote(RelativeNote {
            note: ProcessNote::WatchParent,
            pid: 0,
            vmid: 0,
        });
        // Two children of the parent are being started, and watch it.
        let starting = [2, 3].map(|pid| {
            own(&mut leader, start + pid, parent);
            let vmid = leader.new_vmid(Vmid::LEADER).unwrap();
            leader
                .change_owner(parent, start + pid, vmid, crate::leader::Presence::Absent)
                .unwrap();
            leader.start(parent, vmid.get(), start + pid).unwrap();
            let request = Op::Request {
                from: vmid,
                seq: 0,
                message: &watch,
                other: Presence::Absent,
            };
            leader.apply(&request);
            vmid
        });
        leader.apply(&Op::Left(parent));
        for (vmid, pid) in starting.into_iter().zip([2, 3]) {
            let exit = OutgoingId::Exit(start + 1);
            let sent = |id| Op::Transmitted {
                id,
                is_extended: true,
            };
            leader.apply(&sent(exit));
            assert_eq!(leader.poll_transmit(), None, "it has not joined");
            leader.apply(&Op::Connected(vmid));
            leader.apply(&Op::Join(vmid, hello(start + pid, 0)));
            let notice = OutgoingId::Relative(vmid, ProcessNote::ParentEnded);
            let next = leader.poll_transmit().map(|outgoing| outgoing.id);
            assert_eq!(next, Some(notice));
            leader.apply(&sent(notice));
            assert!(leader.check_invariants());
        }
    }
}
