//! How the members share the IDs, and which member each range, pending ID and VMID is charged to.

use libos_ipc::leader::{Leader, LeaderCapacities, Op, Outcome, Presence, SignalLimits};
use libos_ipc::store::Arena;
use libos_ipc::wire::{Answer, ExitReport, Hello, IdRange, Message, ProcessChange};
use libos_ipc::{Id, Vmid};

const MEMBERS: usize = 5;
const CAPACITIES: LeaderCapacities = LeaderCapacities {
    ranges: 200,
    processes: 40,
    peers: 16,
    signals: SignalLimits {
        targets: 48,
        queued: 8,
    },
    wrap_ids: true,
    members: MEMBERS,
    id_members: MEMBERS,
    ..LeaderCapacities::NONE
};
const RESERVE: usize = CAPACITIES.ranges / 4 / MEMBERS;
/// The members beside the leader. Others have not connected.
const CONNECTED: [u32; 4] = [2, 3, 4, 5];

fn member(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

fn hello(pid: Id, parent: u32) -> Hello {
    Hello {
        version: Hello::VERSION,
        features: 0,
        pid,
        parent,
    }
}

/// A leader, and the members that are connected to it.
struct Family<'m> {
    leader: Leader<'m>,
    connected: Vec<u32>,
}

impl Family<'_> {
    fn request(&mut self, from: u32, message: Message<'_>) -> Outcome {
        let other = match message {
            Message::ChangeIdOwner { owner, .. } if self.connected.contains(&owner) => {
                Presence::Connected
            }
            _ => Presence::Absent,
        };
        let outcome = self.leader.apply(&Op::Request {
            from: member(from),
            seq: 1,
            message: &message,
            other,
        });
        assert!(self.leader.check_invariants(), "{message:?} of {from}");
        assert!(self.leader.check_shares(), "{message:?} of {from}");
        outcome
    }

    fn alloc(&mut self, from: u32) -> Option<IdRange> {
        match self.request(from, Message::AllocIdRange) {
            Outcome::Answer(Answer::IdRange(range)) => Some(range).filter(|range| range.start != 0),
            outcome => panic!("{outcome:?}"),
        }
    }

    fn give(&mut self, from: u32, id: Id, owner: u32) -> bool {
        let outcome = self.request(from, Message::ChangeIdOwner { id, owner });
        outcome == Outcome::Answer(Answer::Empty)
    }

    /// Takes ranges for the member until it is refused. Returns how many it got.
    fn fill(&mut self, from: u32) -> usize {
        let refused = self.leader.refused_by_quota();
        let mut count = 0;
        while self.alloc(from).is_some() {
            count += 1;
        }
        assert_eq!(self.leader.refused_by_quota(), refused + 1);
        count
    }

    fn connect(&mut self, number: u32) {
        self.leader.apply(&Op::Connected(member(number)));
        self.leader.apply(&Op::ConfirmGrants {
            to: member(number),
            left: u64::MAX,
            allows_notices: false,
        });
        self.connected.push(number);
        assert!(self.leader.check_invariants());
    }

    fn leave(&mut self, number: u32) {
        let vmid = member(number);
        let mut left = u64::MAX;
        while let Outcome::Remaining(rest @ 1..) =
            self.leader.apply(&Op::ReclaimLocks { owner: vmid, left })
        {
            left = rest;
        }
        let children = Op::ReclaimChildren {
            owner: vmid,
            left: u64::MAX,
        };
        let mut outcome = self.leader.apply(&children);
        while let Outcome::Remaining(left @ 1..) = outcome {
            outcome = self
                .leader
                .apply(&Op::ReclaimChildren { owner: vmid, left });
        }
        while self.leader.apply(&Op::RevokeGrants(vmid)) != Outcome::Remaining(0) {}
        let mut left = self.leader.ranges_to_reclaim(vmid);
        while left > 0 {
            let portion = Op::ReclaimRanges { owner: vmid, left };
            let Outcome::Remaining(rest) = self.leader.apply(&portion) else {
                panic!("a portion says what is left");
            };
            left = rest;
        }
        self.leader.apply(&Op::Left(vmid));
        self.connected.retain(|other| *other != number);
        assert!(self.leader.check_invariants());
        assert_eq!(self.charges_of(number), [0; 3], "of {number}");
    }

    /// Returns how many ranges, IDs of processes that have not come, and VMIDs the member pays for.
    fn charges_of(&self, number: u32) -> [usize; 3] {
        self.leader.id_charges_of(member(number))
    }

    fn ranges_of(&self, number: u32) -> usize {
        self.charges_of(number)[0]
    }

    /// Asks for VMIDs until it is refused. Returns how many the member got.
    fn ask_for_vmids(&mut self, from: u32) -> usize {
        let refused = self.leader.refused_by_quota();
        let mut count = 0;
        while self.request(from, Message::GetNewVmid) != Outcome::Answer(Answer::Vmid(0)) {
            count += 1;
        }
        assert_eq!(self.leader.refused_by_quota(), refused + 1);
        count
    }

    /// Gives the member a range, and lets it join with the first ID of it.
    fn join(&mut self, number: u32) -> IdRange {
        let range = self.alloc(number).unwrap();
        assert!(self.give(number, range.start, number));
        let joined = Op::Join(member(number), hello(range.start, 0));
        assert_eq!(self.leader.apply(&joined), Outcome::Done);
        range
    }

    /// Starts a process with that VMID and pid.
    fn start(&mut self, parent: u32, vmid: u32, pid: Id) -> bool {
        let message = Message::ProcessStart { vmid, pid };
        self.give(parent, pid, vmid)
            && self.request(parent, message) == Outcome::Answer(Answer::Status(Ok(0)))
    }
}

/// Runs a test on a new leader that has given out VMIDs up to 63. At the end all leave, and nothing may be
/// charged to anybody.
fn with_family(test: impl FnOnce(&mut Family<'_>)) {
    let mut memory = Box::new_uninit_slice(Leader::bytes(&CAPACITIES));
    let leader = Leader::new(&mut Arena::new(&mut memory), &CAPACITIES).unwrap();
    let mut family = Family {
        leader,
        connected: vec![1],
    };
    for _ in 2..64 {
        family.request(1, Message::GetNewVmid);
    }
    // Those that the leader has asked for are not in the way of the tests.
    family.leader.apply(&Op::RevokeGrants(Vmid::LEADER));
    for number in CONNECTED {
        family.connect(number);
    }
    test(&mut family);
    for number in family.connected.clone() {
        if number != 1 {
            family.leave(number);
        }
    }
    // The leader keeps what was its own.
    assert_eq!(family.ranges_of(1), family.leader.ranges().len());
}

#[test]
fn member_gets_its_reserve_of_ranges_although_others_took_what_they_could() {
    with_family(|family| {
        let [first, second, third] = [2, 3, 4].map(|number| family.fill(number));
        assert!(
            first > second && second > third && third >= RESERVE,
            "{first} {second} {third}"
        );
        assert!(first < CAPACITIES.ranges * 6 / 10);
        assert!(family.fill(5) >= RESERVE);
        assert!(family.fill(1) >= RESERVE);
    });
}

#[test]
fn id_for_a_process_that_has_not_come_is_charged_to_its_giver_until_it_comes() {
    with_family(|family| {
        let range = family.alloc(2).unwrap();
        assert!(family.give(2, range.start + 3, 10));
        assert_eq!((family.ranges_of(2), family.ranges_of(10)), (3, 0));
        family.connect(10);
        assert_eq!((family.ranges_of(2), family.ranges_of(10)), (2, 1));
    });
}

#[test]
fn giver_of_ids_to_processes_that_do_not_come_is_refused_at_its_quota_of_them() {
    with_family(|family| {
        let mut ids = family.alloc(2).unwrap();
        let mut given = 0;
        while ids.start < ids.end && family.give(2, ids.start, 10 + given % 50) {
            given += 1;
            ids.start += 1;
        }
        let pending = CAPACITIES.ranges.div_ceil(4);
        let given = given as usize;
        assert!((2..pending * 2 / 3).contains(&given), "{given}");
        assert_eq!(family.charges_of(2)[1], given);
        // Others have their part.
        let other = family.alloc(3).unwrap();
        assert!(family.give(3, other.start, 10));
        family.leave(2);
        assert_eq!(family.charges_of(3)[1], 1);
    });
}

#[test]
fn member_that_asks_for_vmids_and_uses_none_is_refused_at_its_quota_of_them() {
    with_family(|family| {
        let [first, second] = [2, 3].map(|number| family.ask_for_vmids(number));
        assert!(first > second && second > 2, "{first} {second}");
        assert_eq!(family.charges_of(2)[2], first + 1, "and its own");
        // The others still get some. What a member has asked for that left gives way.
        assert!(family.ask_for_vmids(4) > 2);
        family.leave(2);
        family.leave(3);
        assert!(family.ask_for_vmids(5) > first / 2);
    });
}

#[test]
fn vmid_is_charged_to_the_member_that_asked_for_it_until_a_process_uses_it() {
    with_family(|family| {
        let Outcome::Answer(Answer::Vmid(vmid)) = family.request(2, Message::GetNewVmid) else {
            panic!("there are VMIDs");
        };
        assert_eq!(
            (family.charges_of(2)[2], family.charges_of(vmid)[2]),
            (2, 0)
        );
        family.leave(5);
        family.connect(vmid);
        assert_eq!(
            (family.charges_of(2)[2], family.charges_of(vmid)[2]),
            (1, 1)
        );
        family.leave(vmid);
    });
}

#[test]
fn two_members_get_no_more_by_giving_ids_to_each_other() {
    with_family(|family| {
        let mut count = 0;
        // Member 2 gives single IDs to member 3 as long as it can.
        while let Some(mut range) = family.alloc(2) {
            while range.start <= range.end && family.give(2, range.start, 3) {
                range.start += 1;
                count += 1;
            }
            if range.start <= range.end {
                break;
            }
        }
        assert!(family.ranges_of(3) <= count && count > RESERVE);
        assert!(family.fill(4) >= RESERVE);
        assert!(family.fill(5) >= RESERVE);
        assert!(family.fill(1) >= RESERVE);
    });
}

#[test]
fn giver_pays_for_what_its_receiver_has_no_room_for_and_the_receiver_when_the_giver_is_gone() {
    with_family(|family| {
        family.leave(5);
        for (giver, count) in [(2, 15), (3, 8)] {
            let range = family.alloc(giver).unwrap();
            for id in range.start..range.start + count {
                assert!(family.give(giver, id, 10));
            }
        }
        for number in [4, 1, 2, 3] {
            family.fill(number);
        }
        let before = family.ranges_of(2) + family.ranges_of(3);
        family.connect(10);
        let taken = family.ranges_of(10);
        assert!((RESERVE..23).contains(&taken), "{taken}");
        assert_eq!(family.ranges_of(2) + family.ranges_of(3), before - taken);
        family.leave(2);
        family.leave(3);
        assert_eq!(family.ranges_of(10), 23);
    });
}

#[test]
fn pid_of_a_zombie_is_charged_to_its_parent_and_that_of_a_group_to_a_member_of_it() {
    with_family(|family| {
        let range = family.join(2);
        let [leader_of_group, other] = [range.start + 1, range.start + 2];
        for (vmid, pid) in [(10, leader_of_group), (11, other)] {
            assert!(family.start(2, vmid, pid));
            family.connect(vmid);
            let joined = Op::Join(member(vmid), hello(pid, 2));
            assert_eq!(family.leader.apply(&joined), Outcome::Done);
            assert_eq!(family.ranges_of(vmid), 1);
            let group = Message::ProcessChange {
                what: ProcessChange::Group,
                pid,
                value: leader_of_group,
            };
            let changed = family.request(vmid, group);
            assert_eq!(changed, Outcome::Answer(Answer::Status(Ok(0))));
        }
        let before = family.ranges_of(2);
        family.leave(10);
        assert_eq!(family.ranges_of(2), before + 1, "a zombie");
        family.request(2, Message::ProcessReap(leader_of_group));
        assert_eq!((family.ranges_of(2), family.ranges_of(11)), (before, 2));
        family.leave(11);
        family.request(2, Message::ProcessReap(other));
        assert_eq!(family.ranges_of(2), before);
    });
}

#[test]
fn process_is_charged_to_its_parent_while_it_starts_and_as_a_zombie_and_an_orphan_to_its_adopter() {
    with_family(|family| {
        let processes = |family: &Family<'_>| {
            [1, 2, 10].map(|number| family.leader.processes().charge_of(member(number)))
        };
        family.join(1);
        let range = family.join(2);
        let [first, second] = [range.start + 1, range.start + 2];
        assert!(family.start(2, 10, first));
        assert_eq!(processes(family), [1, 2, 0]);
        family.connect(10);
        family.leader.apply(&Op::Join(member(10), hello(first, 2)));
        assert_eq!(processes(family), [1, 1, 1]);
        family.leave(10);
        assert_eq!(processes(family), [1, 2, 0]);
        family.request(2, Message::ProcessReap(first));
        assert_eq!(processes(family), [1, 1, 0]);
        // The parent ends before its child has come: another process takes care of the child.
        assert!(family.start(2, 11, second));
        let grants = family.charges_of(1)[1];
        family.leave(2);
        assert_eq!(processes(family), [3, 0, 0], "the zombie and the child");
        assert_eq!(family.charges_of(1)[1], grants + 1);
    });
}

#[test]
fn member_that_starts_processes_leaves_places_for_those_of_others() {
    with_family(|family| {
        family.join(1);
        let started = [2, 3].map(|parent| {
            let ids = family.join(parent);
            let vmids = 10 * parent..;
            let ids = ids.start + 1..=ids.end;
            vmids
                .zip(ids)
                .take_while(|(vmid, id)| family.start(parent, *vmid, *id))
                .count()
        });
        // Half of the places of living processes, and then a part of what is left.
        assert!((4..=8).contains(&started[0]), "{started:?}");
        assert!((1..=4).contains(&started[1]), "{started:?}");
        let ids = family.join(4);
        assert!(family.give(4, ids.start + 1, 40));
        let message = Message::ProcessStart {
            vmid: 40,
            pid: ids.start + 1,
        };
        let started_here = family.request(4, message);
        assert_eq!(
            started_here,
            Outcome::Answer(Answer::Status(Ok(0))),
            "{started:?}"
        );
    });
}

/// Each member does anything; the charges must fit the tables after every operation.
#[test]
fn charges_fit_the_tables_in_random_programs() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        with_family(|family| {
            for number in CONNECTED {
                family.join(number);
            }
            let mut vmids = 10..60;
            for _ in 0..300 {
                let from = family.connected[rng.usize(..family.connected.len())];
                let id = rng.u32(1..300);
                match rng.u8(..16) {
                    0..4 => drop(family.alloc(from)),
                    4..6 => {
                        let _ = family.give(from, id, rng.u32(1..20));
                    }
                    6 => {
                        let message = Message::ReleaseIdRange(IdRange { start: id, end: id });
                        let _ = family.request(from, message);
                    }
                    7..9 => {
                        if let Some(vmid) = vmids.next() {
                            let _ = family.start(from, vmid, id);
                        }
                    }
                    9..11 => {
                        let number = rng.u32(2..60);
                        if !family.connected.contains(&number) && family.connected.len() < MEMBERS {
                            family.connect(number);
                            family.leader.apply(&Op::Join(member(number), hello(id, 0)));
                        }
                    }
                    11 => {
                        let (what, pid) = (ProcessChange::Group, id);
                        let value = rng.u32(0..40);
                        let message = Message::ProcessChange { what, pid, value };
                        let _ = family.request(from, message);
                    }
                    12 => {
                        let exit = ExitReport {
                            parent_pid: 0,
                            pid: id,
                            uid: 0,
                            code: 0,
                            signal: 0,
                        };
                        let _ = family.request(from, Message::ChildExit(exit));
                    }
                    13 => {
                        let _ = family.request(from, Message::ProcessReap(id));
                    }
                    _ if rng.u8(..6) == 0 && from != 1 => family.leave(from),
                    _ => {}
                }
            }
        });
    }
}
