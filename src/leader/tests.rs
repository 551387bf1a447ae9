use std::boxed::Box;

use super::*;
use crate::error::{Invalid, Resource};
use crate::wire::{EndQuery, FileLock, Hello, IdRange, KillTarget, LockFamily, LockKind};
use crate::wire::{Message, PidKill, ProcessQuery};

const SIGNALS: SignalLimits = SignalLimits {
    targets: 4,
    queued: 4,
};

/// A signal for a process.
pub(super) const KILL: PidKill = PidKill {
    sender: 1,
    pid: 2,
    id: 2,
    signal: 15,
    target: KillTarget::Process,
};

/// Runs a test on a new leader whose own process has one range of IDs.
fn with_leader(test: impl FnOnce(&mut Leader<'_>, IdRange)) {
    let capacities = LeaderCapacities {
        ranges: 8,
        processes: 4,
        signals: SIGNALS,
        wrap_ids: true,
        ..LeaderCapacities::NONE
    };
    let bytes = Leader::bytes(&capacities);
    let mut memory = Box::new_uninit_slice(bytes);
    let mut arena = Arena::new(&mut memory);
    let mut leader = Leader::new(&mut arena, &capacities).unwrap();
    let Alloc::Range(range) = leader.ranges.alloc(Vmid::LEADER) else {
        panic!("the new table has no range to give");
    };
    test(&mut leader, range);
}

#[test]
fn an_answer_to_a_signal_that_was_not_sent_is_rejected_and_breaks_no_invariant() {
    with_leader(|leader, _| {
        let member = leader.new_vmid(Vmid::LEADER).unwrap();
        leader.apply(&Op::Signal(member, KILL));
        let answer = Op::SignalAnswered {
            from: member,
            seq: u64::MAX >> 1,
            result: Ok(()),
        };
        assert_eq!(leader.apply(&answer), Outcome::Rejected);
    });
}

#[test]
fn a_member_that_owes_the_most_answers_gets_its_next_signal_when_it_has_answered_one() {
    with_leader(|leader, _| {
        let member = leader.new_vmid(Vmid::LEADER).unwrap();
        let requester = signals::Requester {
            vmid: Vmid::LEADER,
            seq: 9,
        };
        let signals = &mut leader.processes.signals;
        let (mut pending, mut awaited) = (0, 0);
        for count in 0..MAX_UNANSWERED {
            if count % 16 == 0 {
                assert!(signals.add_awaited(member, &KILL, requester));
            } else {
                signals.add_pending(member, &KILL, true).unwrap();
            }
            let next = signals.next(member).unwrap();
            let seq = if next.is_awaited {
                &mut awaited
            } else {
                &mut pending
            };
            *seq = next.seq;
            assert_eq!(signals.next_target(), Some(member));
            signals.mark_sent(member, true);
        }
        for seq in [awaited, pending] {
            signals.add_pending(member, &KILL, true).unwrap();
            assert_eq!(signals.next_target(), None);
            assert!(signals.check_invariants());
            assert!(signals.on_answer(member, seq, Ok(())));
            assert_eq!(signals.next_target(), Some(member));
            signals.mark_sent(member, true);
        }
    });
}

#[test]
fn a_child_with_the_leaders_vmid_or_an_unassigned_one_is_refused() {
    with_leader(|leader, range| {
        let parent = leader.new_vmid(Vmid::LEADER).unwrap();
        let child = leader.new_vmid(Vmid::LEADER).unwrap();
        let hello = |pid| Hello {
            version: Hello::VERSION,
            features: 0,
            pid,
            parent: 0,
        };
        let of_parent = range.start;
        leader
            .ranges
            .change_owner(Vmid::LEADER, of_parent, parent)
            .unwrap();
        leader.join(parent, &hello(of_parent)).unwrap();
        let not_given = Vmid::new(child.get() + 1).unwrap();
        let Alloc::Range(range) = leader.ranges.alloc(parent) else {
            panic!("a second range is to be had");
        };
        for (pid, vmid) in (range.start..).zip([Vmid::LEADER, not_given, child]) {
            leader
                .change_owner(parent, pid, vmid, Presence::Absent)
                .unwrap();
            let started = leader.start(parent, vmid.get(), pid);
            assert_eq!(started.is_ok(), vmid == child, "{vmid:?}");
        }
    });
}

#[test]
fn a_child_that_the_leader_could_not_be_connected_with_is_not_started() {
    with_leader(|leader, range| {
        let hello = |pid| Hello {
            version: Hello::VERSION,
            features: 0,
            pid,
            parent: 0,
        };
        leader
            .change_owner(Vmid::LEADER, range.start, Vmid::LEADER, Presence::Absent)
            .unwrap();
        leader.join(Vmid::LEADER, &hello(range.start)).unwrap();
        leader.processes.peers = 1;
        let [one, two] = [(); 2].map(|()| leader.new_vmid(Vmid::LEADER).unwrap());
        let mut start = |pid, vmid: Vmid| {
            leader
                .change_owner(Vmid::LEADER, pid, vmid, Presence::Absent)
                .unwrap();
            leader.start(Vmid::LEADER, vmid.get(), pid)
        };
        assert_eq!(start(range.start + 1, one), Ok(()));
        let full = Err(Error::Full(Resource::Peers));
        assert_eq!(start(range.start + 2, two), full);
    });
}

#[test]
fn starting_a_connected_process_or_one_with_a_pid_of_another_is_refused() {
    with_leader(|leader, range| {
        let [parent, connected, others] = [(); 3].map(|()| leader.new_vmid(Vmid::LEADER).unwrap());
        let mut pids = range.start..;
        let mut next = || pids.next().unwrap();
        let of_parent = next();
        leader
            .change_owner(Vmid::LEADER, of_parent, parent, Presence::Absent)
            .unwrap();
        leader.on_connected(parent);
        let hello = Hello {
            version: Hello::VERSION,
            features: 0,
            pid: of_parent,
            parent: 0,
        };
        leader.join(parent, &hello).unwrap();
        let Alloc::Range(own) = leader.ranges.alloc(parent) else {
            panic!("a second range is to be had");
        };
        leader
            .change_owner(parent, own.start, connected, Presence::Absent)
            .unwrap();
        leader.on_connected(connected);
        assert_eq!(leader.confirm_grants(connected, u64::MAX, false), 0);
        let start = leader.start(parent, connected.get(), own.start);
        assert_eq!(start, Err(Error::Invalid(Invalid::Pid)), "it has come");
        let of_others = next();
        leader
            .change_owner(Vmid::LEADER, of_others, others, Presence::Absent)
            .unwrap();
        let start = leader.start(parent, others.get(), of_others);
        assert_eq!(
            start,
            Err(Error::Invalid(Invalid::Pid)),
            "it is another's child"
        );
    });
}

#[test]
fn a_look_up_is_no_operation_and_leaves_the_state_as_it_is() {
    with_leader(|leader, range| {
        let member = leader.new_vmid(Vmid::LEADER).unwrap();
        let before = (leader.ops(), leader.digest_anew());
        let query = ProcessQuery::default();
        for message in [
            Message::GetIdOwner(range.start),
            Message::GetIdOwner(range.end),
            Message::ProcessQuery(query),
            Message::ProcessEnd(EndQuery::default()),
        ] {
            assert!(!Op::is_change(&message), "{message:?}");
            assert!(leader.look_up(member, &message).is_some(), "{message:?}");
        }
        assert_eq!((leader.ops(), leader.digest_anew()), before);
    });
}

#[test]
fn a_query_of_a_lock_is_an_operation_because_it_may_recall_a_delegation() {
    with_leader(|leader, _| {
        let query = Message::FileLockGet(FileLock {
            family: LockFamily::Posix,
            kind: LockKind::Write,
            start: 0,
            end: u64::MAX,
            pid: 1,
            handle: 0,
            wait: false,
            path: b"f",
        });
        assert!(Op::is_change(&query));
        assert_eq!(leader.look_up(Vmid::LEADER, &query), None);
    });
}
