//! A whole leader, with the tables of a large family, in states that cost most. [`Leader::apply`] checks the
//! bound of the steps of each operation by itself in builds with debug assertions.
#![cfg(debug_assertions)]

use libos_ipc::Capacities;
use libos_ipc::leader::{Content, Leader, LeaderCapacities, Op, Outcome, Presence, SignalLimits};
use libos_ipc::store::Arena;
use libos_ipc::wire::{Answer, DelegatedLockList, FileLock, Message};

use crate::edges::member;
use crate::requests::{read, unlock, waiting, write};

const ALL: (u64, u64) = (0, u64::MAX);

fn with_leader(test: impl FnOnce(&mut Leader<'_>)) {
    let large = Capacities::LARGE;
    let capacities = LeaderCapacities {
        ranges: 16_384,
        processes: large.processes,
        signals: SignalLimits {
            targets: large.processes + large.peers,
            queued: large.queued_signals,
        },
        locks: large.locks,
        leases: large.leases,
        sync_data: 0,
        wrap_ids: true,
        peers: large.peers,
        ..LeaderCapacities::NONE
    };
    let mut memory = Box::new_uninit_slice(Leader::bytes(&capacities));
    let mut leader = Leader::new(&mut Arena::new(&mut memory), &capacities).unwrap();
    test(&mut leader);
    assert!(leader.check_invariants());
}

fn request(leader: &mut Leader<'_>, from: u32, seq: u64, message: Message<'_>) -> Outcome {
    leader.apply(&Op::Request {
        from: member(from),
        seq,
        message: &message,
        other: Presence::Extended,
    })
}

fn set(leader: &mut Leader<'_>, from: u32, seq: u64, lock: FileLock<'_>) -> Outcome {
    request(leader, from, seq, Message::FileLockSet(lock))
}

/// Sends all that the leader has to say, and does its other work in portions. Returns the numbers of messages
/// and of portions.
fn drain(leader: &mut Leader<'_>) -> (usize, usize) {
    let (mut messages, mut portions) = (0, 0);
    loop {
        if let Some(outgoing) = leader.poll_transmit() {
            messages += usize::from(matches!(outgoing.content, Content::Answer(..)));
            let id = outgoing.id;
            leader.apply(&Op::Transmitted {
                id,
                is_extended: true,
            });
        } else if leader.has_output() {
            portions += 1;
            leader.apply(&Op::ReleaseLocks);
        } else {
            return (messages, portions);
        }
    }
}

const REQUESTS: u32 = 1_500;

#[test]
fn deferred_requests_of_a_returned_file_are_resumed_in_portions_and_in_their_order() {
    for is_returned in [true, false] {
        with_leader(|leader| {
            let delegated = Message::FileLockDelegate(FileLock {
                handle: 5,
                ..write(1, 0, 9)
            });
            let outcome = request(leader, 2, 1, delegated);
            assert!(matches!(outcome, Outcome::Answer(Answer::Status(Ok(1..)))));
            for pid in 1..=REQUESTS {
                let byte = u64::from(pid);
                let lock = waiting(write(pid, byte, byte));
                assert_eq!(set(leader, 3, byte, lock), Outcome::Later);
            }
            drain(leader);
            if is_returned {
                let list = DelegatedLockList::new();
                let back = Message::FileLockReturn {
                    delegation: 5,
                    locks: list.locks(),
                };
                assert_eq!(request(leader, 2, 0, back), Outcome::Done);
                // The delegation is over.
                assert_eq!(request(leader, 2, 0, back), Outcome::NotForLeader);
            } else {
                let mut left = u64::MAX;
                while left > 0 {
                    let op = Op::ReclaimLocks {
                        owner: member(2),
                        left,
                    };
                    let Outcome::Remaining(rest) = leader.apply(&op) else {
                        panic!("a portion");
                    };
                    left = rest;
                }
                leader.apply(&Op::Left(member(2)));
            }
            assert!(leader.check_invariants());
            // A later request waits behind those that are deferred, and gets nothing before them.
            let late = set(leader, 4, 1, waiting(write(9_999, 0, u64::MAX)));
            assert_eq!(late, Outcome::Later);
            let (answers, portions) = drain(leader);
            assert_eq!(answers, REQUESTS as usize);
            assert!(portions >= REQUESTS as usize / 64 - 1, "{portions}");
            assert_eq!(leader.locks().lock_usage().0, REQUESTS as usize);
        });
    }
}

#[test]
fn requests_that_wait_for_one_lock_are_served_in_portions() {
    with_leader(|leader| {
        let lock = |pid, (start, end)| write(pid, start, end);
        assert!(matches!(
            set(leader, 2, 1, lock(1, ALL)),
            Outcome::Answer(_)
        ));
        for pid in 2..=REQUESTS {
            let lock = waiting(read(pid, 0, 9));
            assert_eq!(set(leader, 3, pid.into(), lock), Outcome::Later);
        }
        let done = set(leader, 2, 2, unlock(lock(1, ALL)));
        assert!(matches!(done, Outcome::Answer(_)));
        let (answers, portions) = drain(leader);
        assert_eq!(answers, REQUESTS as usize - 1);
        assert!(portions >= REQUESTS as usize / 64 - 1, "{portions}");
    });
}

#[test]
fn cancellation_ends_a_limited_number_of_requests_that_have_its_number() {
    with_leader(|leader| {
        let lock = |pid, (start, end)| write(pid, start, end);
        assert!(matches!(
            set(leader, 2, 1, lock(1, ALL)),
            Outcome::Answer(_)
        ));
        for pid in 2..=REQUESTS {
            let lock = waiting(write(pid, 0, 9));
            assert_eq!(set(leader, 3, 7, lock), Outcome::Later);
        }
        request(leader, 3, 0, Message::FileLockCancel(7));
        assert_eq!(drain(leader).0, 64);
    });
}

#[test]
fn process_that_connects_gets_what_it_was_given_in_portions() {
    with_leader(|leader| {
        const GIVEN: u32 = 2_000;
        let give = |leader: &mut Leader<'_>, message| {
            leader.apply(&Op::Request {
                from: member(2),
                seq: 1,
                message: &message,
                other: Presence::Absent,
            })
        };
        let mut vmid = 0;
        while vmid <= 2 {
            let Outcome::Answer(Answer::Vmid(next)) = give(leader, Message::GetNewVmid) else {
                panic!("a VMID");
            };
            vmid = next;
        }
        let mut given = 0;
        while given < GIVEN {
            let Outcome::Answer(Answer::IdRange(range)) = give(leader, Message::AllocIdRange)
            else {
                panic!("a range");
            };
            for id in range.start..=range.end {
                given += 1;
                let message = Message::ChangeIdOwner { id, owner: vmid };
                assert_eq!(give(leader, message), Outcome::Answer(Answer::Empty));
                let message = Message::FileHandle {
                    handle: id.into(),
                    held: true,
                    vmid,
                };
                assert!(matches!(give(leader, message), Outcome::Answer(_)));
            }
        }
        let to = member(vmid);
        let steps = leader.steps();
        leader.apply(&Op::Connected(to));
        assert!(leader.steps() - steps < 100);
        let (mut left, mut portions, mut most) = (u64::MAX, 0, 0);
        while left > 0 {
            let steps = leader.steps();
            let outcome = leader.apply(&Op::ConfirmGrants {
                to,
                left,
                allows_notices: true,
            });
            let Outcome::Remaining(rest) = outcome else {
                panic!("a portion");
            };
            most = most.max(leader.steps() - steps);
            left = rest;
            portions += 1;
        }
        assert!(portions > given / 64, "{portions}");
        assert!(most < 64 * 300, "{most}");
        assert_eq!(drain(leader).1, 0);
    });
}

#[test]
fn open_file_is_in_transit_to_one_member_a_limited_number_of_times() {
    with_leader(|leader| {
        let give = |vmid| Message::FileHandle {
            handle: 7,
            held: true,
            vmid,
        };
        let is_sent = |leader: &mut Leader<'_>, to| {
            let outcome = request(leader, 2, 1, give(to));
            matches!(outcome, Outcome::Answer(Answer::Status(Ok(_))))
        };
        for _ in 0..256 {
            assert!(is_sent(leader, 3));
        }
        assert!(!is_sent(leader, 3));
        assert!(is_sent(leader, 4), "another member");
        drain(leader);
        // Two arrive: the first one is the member's own from then on.
        for _ in 0..2 {
            let arrived = request(leader, 3, 1, give(0));
            assert!(matches!(arrived, Outcome::Answer(Answer::Status(Ok(_)))));
        }
        assert!(is_sent(leader, 3));
        assert!(is_sent(leader, 3));
        assert!(!is_sent(leader, 3));
        drain(leader);
    });
}
