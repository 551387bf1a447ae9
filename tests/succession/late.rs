//! Members to which the last bytes of a leader come late, or that are stopped.

use std::ops::Range;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use libos_ipc::pal::Deadline;
use libos_ipc::wire::{FileLock, LockFamily, LockKind, Message, MetaCode, SyncState};
use libos_ipc::{Capacities, ChildSelector, Config, Error, Exit, Refusal, Target, Vmid};

use crate::family::{CONFIG, FOLLOWER, follower, long};
use crate::in_memory::{Family, Process, poll};

/// A queue is shorter than what a stream holds.
const SHORT_QUEUES: Config = Config {
    capacities: Capacities {
        frame_length: 700,
        send_queue: 1700,
        sync_data: 500,
        delegated_files: 0,
        ..CONFIG.capacities
    },
    ..CONFIG
};

const VALUE: [u8; 500] = [7; 500];

type Read = Pin<Box<dyn Future<Output = Result<[u8; 500], Error>>>>;

/// Makes a family of a leader with values, and a member that reads them.
fn with_reads_of(ids: Range<u64>) -> (Family, Rc<Process>, Vec<Read>) {
    let mut family = Family::with(SHORT_QUEUES);
    let leader = family.node(1);
    let member = family.child(&leader, follower(SHORT_QUEUES));
    for id in ids.clone() {
        let handle = leader.open_sync(Some(id)).unwrap();
        let state = SyncState::Exclusive;
        family
            .run(leader.lock_sync_async(handle, state, &mut [], long()))
            .unwrap();
        leader.unlock_sync(handle, state, Some(&VALUE)).unwrap();
    }
    let read = |id| -> Read {
        let member = Rc::clone(&member);
        Box::pin(async move {
            let handle = member.open_sync(Some(id))?;
            let mut data = [0; 500];
            let state = SyncState::Shared;
            member
                .lock_sync_async(handle, state, &mut data, long())
                .await?;
            Ok(data)
        })
    };
    let reads = ids.map(read).collect();
    (family, member, reads)
}

#[test]
fn member_that_gets_the_last_bytes_of_a_dead_leader_late_reads_them_before_it_follows_the_next_one()
{
    let (mut family, member, mut reads) = with_reads_of(100..106);
    let heir = family.child(&family.node(1), SHORT_QUEUES);
    family.await_heir(&heir);
    Family::delay(Some(&member));
    for read in &mut reads {
        assert_eq!(poll(&mut read.as_mut()), None, "the leader has not sent it");
    }
    (0..100).for_each(|_| family.poll_all());
    family.end_leader();
    // More than its successor keeps for the member is under way.
    family.advance(Duration::from_secs(2));
    Family::delay(None);
    for read in reads {
        assert!(family.run(read) == Ok(VALUE));
    }
    family.run(member.new_vmid_async(long())).unwrap();
    assert_eq!(member.leader(), heir.identity().vmid);
}

#[test]
fn member_that_is_stopped_while_two_leaders_die_gets_an_answer_of_the_one_between_them() {
    let mut family = Family::new();
    let leader = family.node(1);
    let heir = family.child(&leader, CONFIG);
    let next = family.child(&leader, CONFIG);
    let member = family.child(&leader, FOLLOWER);
    family.await_heir(&heir);
    let lock = |node: &Process, kind| FileLock {
        family: LockFamily::Posix,
        kind,
        start: 0,
        end: 9,
        pid: node.pid().unwrap().get(),
        handle: 0,
        wait: true,
        path: b"f",
    };
    let held = lock(&next, LockKind::Write);
    family.run(next.set_lock_async(&held, long())).unwrap();
    let wanted = lock(&member, LockKind::Write);
    let mut waits = Box::pin(member.set_lock_async(&wanted, long()));
    assert_eq!(poll(&mut waits.as_mut()), None);
    (0..100).for_each(|_| family.poll_all());
    let place = family
        .nodes
        .iter()
        .position(|node| Rc::ptr_eq(node, &member));
    let stopped = family.nodes.remove(place.unwrap());
    drop(leader);
    family.end_leader();
    // Its answer is at the new leader, before that has an heir.
    let unlock = lock(&next, LockKind::Unlock);
    family.run(next.set_lock_async(&unlock, long())).unwrap();
    assert_eq!(heir.named_heir(), None);
    family.await_heir_of(&heir, &next);
    drop(heir);
    family.end_leader();
    family.advance(Duration::from_millis(100));
    family.nodes.push(stopped);
    assert_eq!(family.run(waits), Ok(()));
    assert_eq!(member.leader(), next.identity().vmid);
}

#[test]
fn call_to_the_process_of_a_leader_that_is_just_ending_finds_no_such_process() {
    let mut family = Family::new();
    let leader = family.node(1);
    let heir = family.child(&leader, CONFIG);
    let member = family.child(&leader, FOLLOWER);
    family.await_heir(&heir);
    let pid = leader.pid().unwrap();
    drop(leader);
    Family::delay(Some(&member));
    family.end_leader();
    (0..10).for_each(|_| family.poll_all());
    let pid = pid.get();
    let code = MetaCode::Credentials;
    let asked = member.request(Vmid::LEADER, &Message::PidGetMeta { pid, code });
    assert_eq!(asked.err(), Some(Error::NoSuchProcess));
    Family::delay(None);
}

#[test]
fn leader_sleeps_while_a_member_does_not_take_the_list_of_heirs() {
    let mut family = Family::new();
    let leader = family.node(1);
    let member = family.child(&leader, FOLLOWER);
    let stopped = family.nodes.pop();
    let pid = member.pid().unwrap();
    // Its stream is full.
    for _ in 0..400 {
        let signal = leader.kill_async(Target::Process(pid), 40, long());
        let _ = poll(&mut pin!(signal));
    }
    let heir = family.child(&leader, CONFIG);
    family.await_heir(&heir);
    let at_once = (0..100).filter(|_| leader.poll_once() == Some(Deadline::Now));
    assert!(
        at_once.count() < 50,
        "it runs poll iterations without a pause"
    );
    drop(stopped);
}

/// A member is stopped, its stream is full, and more waits in the queue for it. Then the leader gets an heir, and leaves or
/// dies. Checks that the member follows the heir.
fn check_member_stopped_before_there_was_an_heir(leaves: bool) {
    let (mut family, member, mut reads) = with_reads_of(100..112);
    let leader = family.node(1);
    let stopped = family.nodes.pop();
    for read in &mut reads {
        assert_eq!(poll(&mut read.as_mut()), None, "the leader has not sent it");
    }
    (0..100).for_each(|_| family.poll_all());
    let heir = family.child(&leader, SHORT_QUEUES);
    family.await_heir(&heir);
    if leaves {
        let exits = leader.exit_async(Exit::default(), long());
        family.run(exits).unwrap();
        family.run(leader.leave_async(long())).unwrap();
    }
    drop(leader);
    family.end_leader();
    family.advance(Duration::from_millis(10));
    family.nodes.extend(stopped);
    for read in reads {
        assert!(family.run(read) == Ok(VALUE));
    }
    assert_eq!(member.leader(), heir.identity().vmid);
}

#[test]
fn member_with_a_full_stream_follows_when_a_leader_dies_that_got_its_heir_meanwhile() {
    check_member_stopped_before_there_was_an_heir(false);
}

#[test]
fn member_with_a_full_stream_follows_when_a_leader_leaves_that_got_its_heir_meanwhile() {
    check_member_stopped_before_there_was_an_heir(true);
}

#[test]
fn process_that_gets_the_first_stream_of_its_leader_after_the_end_of_that_follows_the_next_one() {
    let mut family = Family::new();
    let leader = family.node(1);
    let heir = family.child(&leader, CONFIG);
    family.await_heir(&heir);
    let child = family.start_child(&heir, FOLLOWER);
    let vmid = child.identity().vmid;
    family
        .run(heir.give_open_file_async(vmid, 7, long()))
        .unwrap();
    Family::delay(Some(&child));
    let mut joins = pin!(child.join_async(long()));
    assert_eq!(poll(&mut joins), None, "it waits for the leader");
    (0..10).for_each(|_| family.poll_all());
    drop(leader);
    family.end_leader();
    (0..10).for_each(|_| family.poll_all());
    Family::delay(None);
    family.run(joins).unwrap();
    assert_eq!(child.leader(), heir.identity().vmid);
    assert_eq!(child.statistics().refused(Refusal::WrongRole), 0);
}

#[test]
fn process_that_gets_the_first_stream_of_its_leader_late_is_no_heir_before() {
    let mut family = Family::new();
    let leader = family.node(1);
    let child = family.start_child(&leader, CONFIG);
    Family::delay(Some(&child));
    let mut joins = pin!(child.join_async(long()));
    assert_eq!(poll(&mut joins), None, "it waits for the leader");
    family.advance(Duration::from_secs(4));
    Family::delay(None);
    family.run(joins).unwrap();
    family.await_heir(&child);
}

#[test]
fn process_that_its_leader_took_for_dead_before_it_joined_is_no_member_of_the_next_one() {
    let mut family = Family::new();
    let leader = family.node(1);
    let heir = family.child(&leader, CONFIG);
    family.await_heir(&heir);
    let child = family.start_child(&heir, FOLLOWER);
    Family::delay(Some(&child));
    let mut joins = pin!(child.join_async(long()));
    assert_eq!(poll(&mut joins), None, "it waits for the leader");
    // The child closes the stream of the leader, which has not sent its VMID on it.
    family.advance(CONFIG.connect_limit);
    let exit = family.run(heir.wait_child_async(ChildSelector::Any, long()));
    let exit = exit.unwrap();
    assert_eq!(exit.signal, 30);
    drop(leader);
    family.end_leader();
    Family::delay(None);
    assert_eq!(family.run(joins), Err(Error::LeaderGone));
}

#[test]
fn unlock_of_a_dropped_request_is_not_taken_for_answered_by_the_answer_to_the_request() {
    const UNDELEGATED: Config = Config {
        capacities: Capacities {
            delegated_files: 0,
            ..CONFIG.capacities
        },
        ..CONFIG
    };
    let mut family = Family::with(UNDELEGATED);
    let leader = family.node(1);
    let heir = family.child(&leader, UNDELEGATED);
    let [member, other] = [(); 2].map(|()| family.child(&leader, follower(UNDELEGATED)));
    family.await_heir(&heir);
    let lock = |node: &Process| FileLock {
        family: LockFamily::Posix,
        kind: LockKind::Write,
        start: 0,
        end: 9,
        pid: node.pid().unwrap().get(),
        handle: 0,
        wait: true,
        path: b"f",
    };
    let wanted = lock(&member);
    let mut waits = Box::pin(member.set_lock_async(&wanted, long()));
    assert_eq!(poll(&mut waits.as_mut()), None);
    (0..10).for_each(|_| family.poll_all());
    // The lock was granted. The leader ends before it reads the unlock, and its successor sends the answer once
    // more.
    drop(waits);
    drop(leader);
    family.end_leader();
    for _ in 0..100 {
        // The member gets that answer together with the permission to follow, before it sends the unlock again.
        for _ in 0..10 {
            heir.poll_once();
        }
        family.poll_all();
    }
    let wanted = lock(&other);
    family.run(other.set_lock_async(&wanted, long())).unwrap();
    assert_eq!(other.leader(), heir.identity().vmid);
}
