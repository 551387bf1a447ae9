use std::boxed::Box;

use super::*;
use crate::leader::{Leader, LeaderCapacities, Op, Outcome, OutgoingId, SignalLimits};
use crate::store::Arena;

const CHILDREN: u32 = 900;
const FIRST: Id = 1000;
const PARENT: Id = 1001;

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

/// Runs a test on a leader whose first process has a child with VMID 2 that has many children.
fn with_children(test: impl FnOnce(&mut Leader<'_>)) {
    let capacities = LeaderCapacities {
        ranges: 2048,
        processes: 1024,
        signals: SignalLimits {
            targets: 8,
            queued: 8,
        },
        ..LeaderCapacities::NONE
    };
    let mut memory = Box::new_uninit_slice(Leader::bytes(&capacities));
    let mut leader = Leader::new(&mut Arena::new(&mut memory), &capacities).unwrap();
    let processes = &mut leader.processes;
    processes.join(Vmid::LEADER, FIRST, None).unwrap();
    processes.join(vmid(2), PARENT, Some(Vmid::LEADER)).unwrap();
    for child in 0..CHILDREN {
        let joined = processes.join(vmid(100 + child), 2000 + child, Some(vmid(2)));
        joined.unwrap();
    }
    test(&mut leader);
}

fn children_of(leader: &Leader<'_>, parent: Id) -> usize {
    let entries = leader.processes.entries.iter();
    entries
        .filter(|entry| entry.is_alive() && entry.parent == parent)
        .count()
}

fn portion(leader: &mut Leader<'_>, left: u64) -> u64 {
    let owner = vmid(2);
    match leader.apply(&Op::ReclaimChildren { owner, left }) {
        Outcome::Remaining(left) => left,
        other => panic!("{other:?}"),
    }
}

#[test]
fn children_of_a_dead_process_are_given_away_in_portions_before_its_end_is_reported() {
    with_children(|leader| {
        let mut left = u64::MAX;
        let mut portions = 0;
        while left > 0 {
            let before = children_of(leader, PARENT);
            left = portion(leader, left);
            assert!(before - children_of(leader, PARENT) <= 64);
            assert!(leader.poll_transmit().is_none());
            portions += 1;
        }
        assert!(portions >= 15, "{portions} portions");
        assert_eq!(children_of(leader, PARENT), 0);
        assert_eq!(children_of(leader, FIRST), CHILDREN as usize + 1);
        leader.apply(&Op::Left(vmid(2)));
        let notice = leader.poll_transmit().map(|outgoing| outgoing.id);
        assert_eq!(notice, Some(OutgoingId::Exit(PARENT)));
        assert!(leader.check_invariants());
    });
}

#[test]
fn orphans_of_the_first_process_go_to_the_process_that_leads_if_it_adopts_them() {
    const HEIR: u32 = 100;
    for adopts in [false, true] {
        with_children(|leader| {
            leader.processes.adopts = adopts;
            let processes = &mut leader.processes;
            processes.join(vmid(50), 1500, Some(Vmid::LEADER)).unwrap();
            // The heir is a grandchild of the first process.
            leader.apply(&Op::Succeed { to: vmid(HEIR) });
            leader.apply(&Op::Left(Vmid::LEADER));
            let parent_of =
                |leader: &Leader<'_>, pid| leader.processes.find_by_pid(pid).unwrap().parent;
            let adopter = if adopts { 2000 } else { 0 };
            assert_eq!(parent_of(leader, 1500), adopter);
            assert_eq!(parent_of(leader, PARENT), 0, "no process is above itself");
            assert_eq!(parent_of(leader, 2000), PARENT);
            leader.apply(&Op::Left(vmid(2)));
            assert_eq!(children_of(leader, PARENT), 0);
            assert_eq!(parent_of(leader, 2000), 0);
            assert_eq!(parent_of(leader, 2001), adopter);
            assert!(leader.check_invariants());
        });
    }
}

#[test]
fn process_that_is_leaving_takes_no_children_over() {
    with_children(|leader| {
        let entry = leader.processes.find_by_pid_mut(PARENT).unwrap();
        entry.flags |= ProcessFlags::SUBREAPER;
        let grandchild = leader
            .processes
            .join(vmid(50), 1500, Some(vmid(100 + CHILDREN - 1)));
        grandchild.unwrap();
        portion(leader, u64::MAX);
        let owner = vmid(100 + CHILDREN - 1);
        let left = u64::MAX;
        leader.apply(&Op::ReclaimChildren { owner, left });
        let grandchild = leader.processes.find_by_pid(1500).unwrap();
        assert_eq!(grandchild.parent, FIRST);
    });
}

#[test]
fn end_of_a_child_between_two_portions_is_reported_to_the_process_that_takes_it_over() {
    with_children(|leader| {
        let mut left = portion(leader, u64::MAX);
        for child in [0, CHILDREN - 1] {
            leader.apply(&Op::Left(vmid(100 + child)));
        }
        while left > 0 {
            left = portion(leader, left);
        }
        for pid in [2000, 2000 + CHILDREN - 1] {
            let notice = leader.poll_transmit().unwrap();
            let id = OutgoingId::Exit(pid);
            assert_eq!((notice.to, notice.id), (Vmid::LEADER, id));
            let is_extended = true;
            leader.apply(&Op::Transmitted { id, is_extended });
        }
        assert!(leader.poll_transmit().is_none());
    });
}

/// The first process, and so many others, each the child of the one before it: pids from 1,000 on. One of them is a
/// subreaper, or none.
fn with_generations(
    count: u32,
    subreaper: Option<Id>,
    adopter: Option<u32>,
    test: impl FnOnce(&mut Leader<'_>),
) {
    let capacities = LeaderCapacities {
        ranges: 8192,
        processes: 8192,
        adopts: true,
        signals: SignalLimits {
            targets: 8192,
            queued: 8,
        },
        ..LeaderCapacities::NONE
    };
    let mut memory = Box::new_uninit_slice(Leader::bytes(&capacities));
    let mut leader = Leader::new(&mut Arena::new(&mut memory), &capacities).unwrap();
    for number in 1..=count {
        let parent = number.checked_sub(1).and_then(Vmid::new);
        let joined = leader.processes.join(vmid(number), 999 + number, parent);
        joined.unwrap();
    }
    if let Some(entry) = subreaper.and_then(|pid| leader.processes.find_by_pid_mut(pid)) {
        entry.flags |= ProcessFlags::SUBREAPER;
    }
    if let Some(adopter) = adopter {
        leader.apply(&Op::Succeed { to: vmid(adopter) });
    }
    test(&mut leader);
}

/// Applies the operation, and returns its steps; 0 in a release build, which counts none.
fn steps_of(leader: &mut Leader<'_>, op: &Op<'_>) -> u64 {
    #[cfg(debug_assertions)]
    let before = leader.steps();
    leader.apply(op);
    #[cfg(debug_assertions)]
    return leader.steps() - before;
    #[cfg(not(debug_assertions))]
    return 0;
}

#[test]
fn children_go_to_a_subreaper_among_the_next_1024_ancestors_however_many_there_are() {
    for (generations, subreaper, gets_it) in [
        (1_026, 1_000 + 1, 1_000 + 1),
        (1_027, 1_000 + 1, 1_000 + 1),
        (1_028, 1_000 + 1, FIRST),
        (7_000, 1_000 + 1, FIRST),
        (7_000, 7_000, 7_000),
    ] {
        with_generations(generations, Some(subreaper), None, |leader| {
            // The last but one ends.
            let owner = vmid(generations - 1);
            let left = u64::MAX;
            let reclaim = steps_of(leader, &Op::ReclaimChildren { owner, left });
            let end = steps_of(leader, &Op::Left(owner));
            // The search is that of 1,024 ancestors; the end also visits each entry of the table once.
            assert!(reclaim <= 1_024 * 16 + 2_048, "{reclaim} steps");
            assert!(
                end <= 1_024 * 16 + 3 * u64::from(generations) + 1_024,
                "{end} steps"
            );
            let last = leader.processes.find_by_pid(999 + generations).unwrap();
            assert_eq!(last.parent, gets_it, "{generations} generations");
            assert!(leader.check_invariants());
        });
    }
}

#[test]
fn process_with_more_ancestors_than_are_looked_at_does_not_become_its_own_ancestor() {
    // The first process is gone, and the one that leads adopts orphans: it may be below the one that ends.
    for (generations, gets_it) in [(900, 999 + 900), (7_000, 0)] {
        with_generations(generations, None, Some(generations), |leader| {
            let other = vmid(generations + 1);
            let joined = leader
                .processes
                .join(other, 999 + generations + 1, Some(vmid(2)));
            joined.unwrap();
            leader.apply(&Op::Left(Vmid::LEADER));
            leader.apply(&Op::Left(vmid(2)));
            let parent_of = |pid| leader.processes.find_by_pid(pid).unwrap().parent;
            assert_eq!(parent_of(999 + 3), 0, "the branch of the one that leads");
            assert_eq!(parent_of(999 + generations + 1), gets_it);
            assert!(leader.check_invariants());
        });
    }
}

#[test]
fn signal_for_all_takes_a_bounded_number_of_steps_for_each_process_that_has_not_joined() {
    const STARTING: u32 = 2_000;
    with_generations(1, None, None, |leader| {
        // The numbers fall while the places in the table rise, as after the ends of as many others.
        for number in (0..STARTING).rev() {
            let child = leader
                .processes
                .start(Vmid::LEADER, vmid(10 + number), 2_000 + number);
            child.unwrap();
        }
        let kill = crate::wire::PidKill {
            sender: 1,
            pid: 0,
            id: 0,
            signal: 15,
            target: crate::wire::KillTarget::All,
        };
        let from = Vmid::LEADER;
        let signal = Op::SignalAll {
            from,
            seq: 0,
            kill,
            result: Ok(()),
        };
        let steps = steps_of(leader, &signal);
        assert!(steps <= u64::from(STARTING) * 128, "{steps} steps");
        assert!((0..STARTING).all(|number| leader.processes.signals.is_waiting(vmid(10 + number))));
    });
}
