use std::boxed::Box;

use super::super::{Alloc, Leader, LeaderCapacities, Op, Outcome, Presence, SignalLimits};
use super::*;
use crate::Id;
use crate::error::Errno;
use crate::shared_state::LeaseLimits;
use crate::wire::{
    Answer, Hello, KillTarget, Message, PidKill, ProcessChange, Sync, SyncCode, SyncState,
};

const CAPACITIES: LeaderCapacities = LeaderCapacities {
    ranges: 8,
    processes: 8,
    peers: 4,
    signals: SignalLimits {
        targets: 8,
        queued: 4,
    },
    locks: LeaderCapacities::NONE.locks,
    leases: LeaseLimits {
        handles: 1,
        clients: 2,
    },
    sync_data: 8,
    wrap_ids: true,
    roster: 4,
    ..LeaderCapacities::NONE
};

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

fn with_leader(capacities: &LeaderCapacities, test: impl FnOnce(&mut Leader<'_>)) {
    let mut memory = Box::new_uninit_slice(Leader::bytes(capacities));
    test(&mut Leader::new(&mut Arena::new(&mut memory), capacities).unwrap());
}

fn request<'a>(from: u32, seq: u64, message: &'a Message<'a>) -> Op<'a> {
    Op::Request {
        from: vmid(from),
        seq,
        message,
        other: Presence::Absent,
    }
}

fn counts(leader: &Leader<'_>, of: u32) -> Option<(u64, u64)> {
    Some((leader.taken(vmid(of))?, leader.given(vmid(of))?))
}

fn kill(pid: Id) -> PidKill {
    PidKill {
        sender: 1,
        pid,
        id: pid,
        signal: 15,
        target: KillTarget::Process,
    }
}

fn connect(leader: &mut Leader<'_>) -> u32 {
    let new = leader.apply(&request(1, 1, &Message::GetNewVmid));
    let Outcome::Answer(Answer::Vmid(number)) = new else {
        panic!("{new:?}");
    };
    leader.apply(&Op::Connected(vmid(number)));
    leader.apply(&Op::ConfirmGrants {
        to: vmid(number),
        left: u64::MAX,
        allows_notices: true,
    });
    number
}

#[test]
fn each_frame_that_changes_the_state_counts_once_and_each_message_that_is_no_answer() {
    with_leader(&CAPACITIES, |leader| {
        let member = connect(leader);
        assert_eq!(counts(leader, member), Some((0, 0)));
        let to = vmid(member);
        let counted = [
            request(member, 4, &Message::AllocIdRange),
            // A refused one, too.
            request(member, 5, &Message::ProcessStart { vmid: 1, pid: 9 }),
            Op::SignalAnswered {
                from: to,
                seq: 1 << 62,
                result: Ok(()),
            },
            Op::SignalAll {
                from: to,
                seq: 6,
                kill: kill(3),
                result: Err(Errno::ESRCH),
            },
            Op::SignalAllRefused {
                from: to,
                seq: 7,
                errno: Errno::EINVAL,
            },
            Op::OwnerDied(to, 3),
        ];
        for (number, op) in counted.iter().enumerate() {
            leader.apply(op);
            let expected = Some((number as u64 + 1, 0));
            assert_eq!(counts(leader, member), expected, "{op:?}");
        }
        let not_counted = [
            request(1, 7, &Message::AllocIdRange),
            Op::ReleaseLocks,
            Op::Join(to, Hello::NO_PROCESS),
            Op::ReclaimLocks { owner: to, left: 1 },
        ];
        for op in &not_counted {
            leader.apply(op);
            assert_eq!(counts(leader, member), Some((6, 0)), "{op:?}");
        }
        // The VMID after this one is taken, so the request is applied twice.
        let message = Message::GetNewVmid;
        assert_eq!(leader.other(&message), Some(vmid(member + 1)));
        let again = Op::Request {
            from: to,
            seq: 8,
            message: &message,
            other: Presence::Connected,
        };
        assert_eq!(leader.apply(&again), Outcome::Remaining(1));
        let given = leader.apply(&request(member, 8, &message));
        assert_eq!(given, Outcome::Answer(Answer::Vmid(member + 2)));
        assert_eq!(counts(leader, member), Some((7, 0)));
        leader.apply(&Op::Signal(to, kill(3)));
        let id = leader.poll_transmit().unwrap().id;
        leader.apply(&Op::Requeued(id));
        assert_eq!(counts(leader, member), Some((7, 0)));
        leader.apply(&Op::RetryTransmit);
        leader.apply(&Op::Transmitted {
            id,
            is_extended: true,
        });
        assert_eq!(counts(leader, member), Some((7, 1)));
    });
}

#[test]
fn refusals_of_shared_values_and_their_messages_are_counted() {
    with_leader(&CAPACITIES, |leader| {
        let (member, other) = (connect(leader), connect(leader));
        let ask = |from, id, code, state| Op::Sync {
            from: vmid(from),
            code,
            sync: Sync {
                id,
                state,
                data: &[],
            },
            is_extended: true,
        };
        let upgrade = (SyncCode::RequestUpgrade, SyncState::Exclusive);
        leader.apply(&ask(member, 1, upgrade.0, upgrade.1));
        leader.apply(&ask(other, 2, upgrade.0, upgrade.1));
        assert_eq!(counts(leader, other), Some((1, 1)), "no room");
        let close = ask(other, 2, SyncCode::RequestClose, SyncState::Invalid);
        leader.apply(&close);
        assert_eq!(counts(leader, other), Some((2, 2)), "closed");
        let (code, from) = (SyncCode::RequestUpgrade, vmid(other));
        leader.apply(&Op::SyncRefused { from, code, id: 2 });
        assert_eq!(counts(leader, other), Some((3, 3)), "refused");
        let id = leader.poll_transmit().unwrap().id;
        leader.apply(&Op::Transmitted {
            id,
            is_extended: true,
        });
        assert_eq!(counts(leader, member), Some((1, 1)));
    });
}

#[test]
fn roster_has_the_connected_members_in_order_and_none_without_room() {
    with_leader(&CAPACITIES, |leader| {
        let members = [(); 4].map(|()| connect(leader));
        let mut walk = None;
        for member in members {
            walk = leader.next_member(walk);
            assert_eq!(walk, Some(vmid(member)));
        }
        assert_eq!(leader.next_member(walk), None);
        let gone = vmid(members[1]);
        leader.apply(&Op::Left(gone));
        assert!(!leader.is_member(gone));
        assert!(leader.is_extended_member(vmid(members[0])));
        assert_eq!(
            leader.next_member(Some(vmid(members[0]))),
            Some(vmid(members[2]))
        );
        leader.apply(&Op::Connected(vmid(77)));
        assert!(leader.is_member(vmid(77)) && !leader.is_extended_member(vmid(77)));
        assert_eq!(leader.digest(), leader.digest_anew());
    });
    let none = LeaderCapacities {
        roster: 0,
        ..CAPACITIES
    };
    with_leader(&none, |leader| {
        let member = connect(leader);
        leader.apply(&request(member, 4, &Message::AllocIdRange));
        assert_eq!(counts(leader, member), None);
        assert_eq!(leader.next_member(None), None);
    });
}

#[test]
fn process_that_succeeds_leads_and_the_others_keep_their_counts() {
    with_leader(&CAPACITIES, |leader| {
        let (heir, other) = (connect(leader), connect(leader));
        leader.apply(&request(other, 4, &Message::AllocIdRange));
        assert_eq!((leader.own(), leader.epoch()), (Vmid::LEADER, 1));
        leader.apply(&Op::Succeed { to: vmid(heir) });
        assert_eq!((leader.own(), leader.epoch()), (vmid(heir), 2));
        leader.apply(&Op::Left(Vmid::LEADER));
        assert!(!leader.processes().has_own_process_ended());
        assert_eq!(counts(leader, heir), None);
        // Its stream to the new leader is another one.
        leader.apply(&Op::Connected(vmid(other)));
        assert_eq!(counts(leader, other), Some((1, 0)));
        leader.apply(&Op::Left(vmid(heir)));
        assert!(leader.processes().has_own_process_ended());
    });
}

#[test]
fn pid_that_names_a_group_stays_in_use_when_the_leader_is_gone() {
    with_leader(&CAPACITIES, |leader| {
        let heir = connect(leader);
        let Alloc::Range(range) = leader.ranges.alloc(Vmid::LEADER) else {
            panic!("the new table has no range to give");
        };
        let mut pids = range.start..;
        let mut join = |leader: &mut Leader<'_>, to, parent| {
            let pid = pids.next().unwrap();
            let message = Message::ChangeIdOwner { id: pid, owner: to };
            leader.apply(&request(1, 9, &message));
            let hello = Hello {
                pid,
                parent,
                ..Hello::NO_PROCESS
            };
            leader.apply(&Op::Connected(vmid(to)));
            leader.apply(&Op::ConfirmGrants {
                to: vmid(to),
                left: u64::MAX,
                allows_notices: false,
            });
            assert_eq!(leader.apply(&Op::Join(vmid(to), hello)), Outcome::Done);
            pid
        };
        join(leader, 1, 0);
        join(leader, heir, 1);
        let [named, user] = [(); 2].map(|()| connect(leader));
        let name = join(leader, named, 1);
        join(leader, user, 1);
        let change = |value| Message::ProcessChange {
            what: ProcessChange::Group,
            pid: 0,
            value,
        };
        for member in [named, user] {
            let changed = leader.apply(&request(member, 5, &change(name)));
            assert_eq!(changed, Outcome::Answer(Answer::Status(Ok(0))));
        }
        leader.apply(&Op::Left(vmid(named)));
        leader.apply(&request(1, 0, &Message::ProcessReap(name)));
        assert_eq!(leader.owner_of(name), Some(Vmid::LEADER));
        leader.apply(&Op::Succeed { to: vmid(heir) });
        leader.apply(&Op::Left(Vmid::LEADER));
        let mut left = leader.ranges_to_reclaim(Vmid::LEADER);
        while left > 0 {
            let owner = Vmid::LEADER;
            let Outcome::Remaining(rest) = leader.apply(&Op::ReclaimRanges { owner, left }) else {
                panic!("a portion is done");
            };
            left = rest;
        }
        assert_eq!(leader.owner_of(name), Some(vmid(heir)));
        assert_eq!(leader.owner_of(range.end), None);
        leader.apply(&Op::Left(vmid(user)));
        assert_eq!(leader.owner_of(name), None, "nobody is in the group");
        assert!(leader.check_invariants());
    });
}
