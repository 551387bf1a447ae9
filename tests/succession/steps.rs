//! Moments of a succession, in families whose processes run only when the test polls them.

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use libos_ipc::wire::{FileLock, KillTarget, LockFamily, LockKind, Message, PidKill};
use libos_ipc::{ChildSelector, Error, Exit, Resource, Target, Vmid, Wait};

use crate::family::{CONFIG, FOLLOWER, long};
use crate::in_memory::{Family, Process, poll};

#[test]
fn exit_of_an_heir_that_its_leader_has_not_taken_reaches_the_parent() {
    let mut family = Family::new();
    let parent = family.child(&family.node(1), FOLLOWER);
    let heir = family.child(&parent, CONFIG);
    family.await_heir(&heir);
    let exit = Exit {
        code: 7,
        ..Exit::default()
    };
    let mut exits = pin!(heir.exit_async(exit, long()));
    assert_eq!(poll(&mut exits), None, "it waits for the leader");
    family.end_leader();
    family.run(exits).unwrap();
    let ended = family.run(parent.wait_child_async(ChildSelector::Any, long()));
    let ended = ended.unwrap();
    assert_eq!((ended.code, ended.signal), (7, 0));
}

#[test]
fn exit_of_a_member_whose_leader_ends_meanwhile_waits_for_the_next_leader() {
    let mut family = Family::new();
    let heir = family.child(&family.node(1), CONFIG);
    let parent = family.child(&family.node(1), FOLLOWER);
    let child = family.child(&parent, FOLLOWER);
    family.await_heir(&heir);
    let exit = Exit {
        code: 7,
        ..Exit::default()
    };
    let mut exits = pin!(child.exit_async(exit, long()));
    assert_eq!(poll(&mut exits), None, "it waits for the leader");
    family.end_leader();
    assert_eq!(family.run(exits), Ok(()));
    let ended = family.run(parent.wait_child_async(ChildSelector::Any, long()));
    let ended = ended.unwrap();
    assert_eq!((ended.code, ended.signal), (7, 0));
}

#[test]
fn process_whose_leader_leaves_before_it_has_taken_its_hello_joins_the_next_leader() {
    let mut family = Family::new();
    let leader = family.node(1);
    let heir = family.child(&leader, CONFIG);
    let child = family.start_child(&heir, FOLLOWER);
    family.run(child.owner_of_async(1, long())).unwrap();
    family.await_heir(&heir);
    let exit = leader.exit_async(Exit::default(), long());
    family.run(exit).unwrap();
    let mut joins = pin!(child.join_async(long()));
    assert_eq!(poll(&mut joins), None, "it waits for the leader");
    let leaves = poll(&mut pin!(leader.leave_async(long())));
    assert_eq!(leaves, Some(Ok(())), "the heir has all");
    drop(leader);
    family.end_leader();
    family.run(joins).unwrap();
    // A signal for a process that has not joined waits at the leader.
    family
        .run(heir.kill_async(Target::All, 40, long()))
        .unwrap();
    (0..100).for_each(|_| family.poll_all());
    assert_eq!(heir.statistics().pools.queued_signals.now, 0);
}

#[test]
fn leader_is_the_one_that_has_ended_until_its_heir_leads() {
    let mut family = Family::new();
    let heir = family.child(&family.node(1), CONFIG);
    let member = family.child(&family.node(1), FOLLOWER);
    family.await_heir(&heir);
    family.end_leader();
    for _ in 0..10 {
        member.poll_once();
    }
    assert_eq!(member.leader(), Vmid::LEADER);
    // A call waits for the heir.
    family.run(member.owner_of_async(1, long())).unwrap();
    assert_eq!(member.leader(), heir.identity().vmid);
}

thread_local! {
    /// The action of the next wake of an [`Acting`] task.
    static ACTION: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// A task that acts when it is woken.
struct Acting;

impl Wake for Acting {
    fn wake(self: Arc<Self>) {
        if let Some(act) = ACTION.take() {
            act();
        }
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<(), Error>>>>;

/// The time limit of the lock below.
const LIMIT: Duration = Duration::from_millis(1);

/// An heir waits for a lock that another process has, its leader ends, and the time of the wait is over. `act` is called
/// while the heir begins to lead, before it requests the lock of itself.
fn with_a_lock_that_is_to_be_requested(
    act: impl FnOnce(Waiting) + 'static,
) -> (Family, &'static Process) {
    let mut family = Family::new();
    let heir: &Process = Box::leak(Box::new(family.child(&family.node(1), CONFIG)));
    let holder = family.child(&family.node(1), FOLLOWER);
    family.await_heir(heir);
    let lock = |node: &Process, wait| FileLock {
        family: LockFamily::Posix,
        kind: LockKind::Write,
        start: 0,
        end: 9,
        pid: node.pid().unwrap().get(),
        handle: 0,
        wait,
        path: b"f",
    };
    family
        .run(holder.set_lock_async(&lock(&holder, false), long()))
        .unwrap();
    // Its answer comes while the requests to the old leader are executed, before the lock is requested.
    let mut asks = pin!(heir.new_vmid_async(long()));
    let waker = Waker::from(Arc::new(Acting));
    let mut context = Context::from_waker(&waker);
    assert!(asks.as_mut().poll(&mut context).is_pending());
    let wanted = Box::leak(Box::new(lock(heir, true)));
    let mut waits: Waiting = Box::pin(heir.set_lock_async(wanted, Wait::at_most(LIMIT)));
    assert_eq!(poll(&mut waits.as_mut()), None);
    family.end_leader();
    family.network.advance(LIMIT * 2);
    ACTION.set(Some(Box::new(move || act(waits))));
    (0..100).for_each(|_| family.poll_all());
    assert!(ACTION.take().is_none(), "it is not woken");
    family.run(asks).unwrap();
    (family, heir)
}

#[test]
fn lock_whose_time_is_over_while_its_process_begins_to_lead_is_cancelled_there() {
    let result = Rc::new(RefCell::new(None));
    let rest = Rc::clone(&result);
    let (family, _) = with_a_lock_that_is_to_be_requested(move |mut waits| {
        assert_eq!(
            poll(&mut waits.as_mut()),
            None,
            "it waits for the confirmation"
        );
        *rest.borrow_mut() = Some(waits);
    });
    let waits = result.take().unwrap();
    assert_eq!(family.run(waits), Err(Error::TimedOut));
}

#[test]
fn lock_whose_future_is_dropped_while_its_process_begins_to_lead_is_cancelled_there() {
    let (_family, heir) = with_a_lock_that_is_to_be_requested(drop);
    assert_eq!(heir.statistics().pools.waiters.now, 0);
}

#[test]
fn signal_of_a_leader_that_dies_after_its_call_waits_at_the_heir_for_a_child_that_is_starting() {
    let mut family = Family::new();
    let leader = family.node(1);
    let heir = family.child(&leader, CONFIG);
    family.await_heir(&heir);
    let child = family.run(leader.start_child_async(long())).unwrap();
    let target = Target::Process(child.pid.unwrap());
    family.run(leader.kill_async(target, 40, long())).unwrap();
    drop(leader);
    family.end_leader();
    family.run(heir.new_vmid_async(long())).unwrap();
    assert_eq!(heir.statistics().pools.queued_signals.now, 1);
}

/// Returns a lock of the open file 7: `flock(2)` without waiting.
fn flock(node: &Process, kind: LockKind) -> FileLock<'static> {
    FileLock {
        family: LockFamily::Flock,
        kind,
        start: 0,
        end: u64::MAX,
        pid: node.pid().unwrap().get(),
        handle: 7,
        wait: false,
        path: b"f",
    }
}

#[test]
fn lock_of_a_leader_that_dies_after_its_call_stays_with_the_other_holder_of_the_open_file() {
    let mut family = Family::new();
    let leader = family.node(1);
    let heir = family.child(&leader, CONFIG);
    let holder = family.child(&leader, FOLLOWER);
    family.await_heir(&heir);
    let gives = leader.give_open_file_async(holder.identity().vmid, 7, long());
    family.run(gives).unwrap();
    leader
        .set_lock(&flock(&leader, LockKind::Write), long())
        .unwrap();
    drop(leader);
    family.end_leader();
    let other = FileLock {
        handle: 8,
        ..flock(&heir, LockKind::Write)
    };
    let refused = family.run(heir.set_lock_async(&other, long()));
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
}

#[test]
fn calls_of_a_leader_end_while_its_heir_reads_nothing_and_the_clock_stands_still() {
    let mut family = Family::new();
    let leader = family.node(1);
    let heir = family.child(&leader, CONFIG);
    let other = family.child(&leader, CONFIG);
    family.await_heir(&heir);
    for _ in 0..60 {
        leader
            .set_lock(&flock(&leader, LockKind::Write), long())
            .unwrap();
        leader
            .set_lock(&flock(&leader, LockKind::Unlock), long())
            .unwrap();
    }
    family.run(other.new_vmid_async(long())).unwrap();
}

#[test]
fn message_for_the_leader_is_not_queued_for_a_process_that_led_before() {
    let mut family = Family::new();
    let leader = family.node(1);
    let heir = family.child(&leader, CONFIG);
    let member = family.child(&leader, FOLLOWER);
    family.await_heir(&heir);
    drop(leader);
    family.end_leader();
    family.run(member.take_id_async(long())).unwrap();
    assert_eq!(member.leader(), heir.identity().vmid);
    // As a thread does that has looked who leads before the leader has changed.
    let queued = member.queue(Vmid::LEADER, &Message::GetNewVmid, long());
    assert_eq!(queued, Err(Error::NoSuchProcess));
}

#[test]
fn signal_for_all_that_a_leader_queues_by_itself_goes_to_its_members() {
    let mut family = Family::new();
    let leader = family.node(1);
    let heir = family.child(&leader, CONFIG);
    family.await_heir(&heir);
    let kill = Message::PidKill(PidKill {
        sender: 1,
        pid: 0,
        id: 0,
        signal: 40,
        target: KillTarget::All,
    });
    assert_eq!(leader.broadcast(&kill, None), (1, 0));
    let now = Wait::at_most(Duration::ZERO);
    assert_eq!(leader.queue(heir.identity().vmid, &kill, now), Ok(()));
}

#[test]
fn wait_for_a_child_goes_on_if_the_leader_ends_before_there_is_room_to_reap_it() {
    let mut family = Family::new();
    let leader = family.node(1);
    let heir = family.child(&leader, CONFIG);
    let parent = family.child(&leader, FOLLOWER);
    let child = family.child(&parent, FOLLOWER);
    family.await_heir(&heir);
    let exit = child.exit_async(Exit::default(), long());
    family.run(exit).unwrap();
    let now = Wait::at_most(Duration::ZERO);
    let peeks = parent.peek_child_async(ChildSelector::Any, long());
    family.run(peeks).unwrap();
    let fill = || parent.send(Vmid::LEADER, &Message::ProcessReap(u32::MAX), now);
    while fill().is_ok() {}
    assert_eq!(fill(), Err(Error::Full(Resource::SendQueue)));
    let mut waits = pin!(parent.wait_child_async(ChildSelector::Any, long()));
    assert_eq!(poll(&mut waits), None, "it waits for room");
    drop(leader);
    family.end_leader();
    let ended = family.run(waits);
    assert_eq!(ended.map(|ended| ended.code), Ok(0));
}

/// Like [`Family::run`], but polls the future only when it is woken.
fn run_when_woken<T>(family: &Family, future: impl Future<Output = T>) -> Option<T> {
    struct Flag(AtomicBool);
    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let flag = Arc::new(Flag(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&flag));
    let mut future = pin!(future);
    (0..20_000).find_map(|_| {
        let is_woken = flag.0.swap(false, Ordering::SeqCst);
        let polled = is_woken.then(|| future.as_mut().poll(&mut Context::from_waker(&waker)));
        family.poll_all();
        match polled {
            Some(Poll::Ready(result)) => Some(result),
            _ => None,
        }
    })
}

#[test]
fn leader_that_leaves_is_woken_when_another_heir_can_lead() {
    let mut family = Family::new();
    let leader = family.node(1);
    let [heir, _other] = [(); 2].map(|()| family.child(&leader, CONFIG));
    family.await_heir(&heir);
    let exit = leader.exit_async(Exit::default(), long());
    family.run(exit).unwrap();
    (0..100).for_each(|_| family.poll_all());
    let exit = heir.exit_async(Exit::default(), long());
    family.run(exit).unwrap();
    let leaves = leader.leave_async(Wait::FOREVER);
    assert_eq!(run_when_woken(&family, leaves), Some(Ok(())));
}
