//! One thread of a process is in the middle of something while another thread makes a call.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use libos_ipc::Wait;
use libos_ipc::wire::{FileLock, LockFamily, LockKind};

use crate::family::{CONFIG, FOLLOWER, long};
use crate::in_memory::{Family, PalCall, Process, during, poll, when_this_thread_waits};

/// Keeps a process for the rest of the test.
fn leaked(process: Rc<Process>) -> &'static Process {
    Box::leak(Box::new(process))
}

/// Returns a lock of the first ten bytes of a file.
fn lock_of(node: &Process, kind: LockKind) -> FileLock<'static> {
    FileLock {
        family: LockFamily::Posix,
        kind,
        start: 0,
        end: 9,
        pid: node.pid().unwrap().get(),
        handle: 0,
        wait: true,
        path: b"f",
    }
}

/// What a thread of the leader does while another one dismisses the heir.
#[derive(Debug, PartialEq)]
enum OtherThread {
    Waits,
    GoesOn,
}

#[test]
fn call_of_a_leader_waits_until_the_heir_that_another_thread_dismisses_can_not_lead() {
    let mut family = Family::new();
    let leader = leaked(family.node(1));
    let heir = family.child(leader, CONFIG);
    family.await_heir(&heir);
    let seen = Rc::new(Cell::new(None));
    let now_seen = Rc::clone(&seen);
    // The heir does not know yet that it is dismissed, and may lead if this process dies now.
    during(PalCall::RevokeLog, leader.identity().vmid, move || {
        let (sender, receiver) = mpsc::channel();
        let other = thread::spawn(move || {
            let goes_on = sender.clone();
            when_this_thread_waits(move || sender.send(OtherThread::Waits).unwrap());
            leader.new_vmid(long()).unwrap();
            goes_on.send(OtherThread::GoesOn).unwrap();
        });
        let first = receiver.recv().unwrap();
        now_seen.set(Some((first, receiver, other)));
    });
    // It reads nothing, until the log is full and its time is over.
    while leader.statistics().succession.lag_ops == 0 {
        leader.new_vmid(long()).unwrap();
    }
    for _ in 0..10_000 {
        leader.poll_once();
        family.network.advance(Duration::from_millis(1));
    }
    let (first, receiver, other) = seen.take().expect("the heir is dismissed");
    assert_eq!(first, OtherThread::Waits);
    assert_eq!(receiver.recv(), Ok(OtherThread::GoesOn));
    other.join().unwrap();
}

#[test]
fn lock_whose_future_is_dropped_while_the_end_of_the_leader_is_noticed_is_cancelled_at_the_next_one()
 {
    let mut family = Family::new();
    let heir = leaked(family.child(&family.node(1), CONFIG));
    let holder = family.child(&family.node(1), FOLLOWER);
    family.await_heir(heir);
    let held = lock_of(&holder, LockKind::Write);
    family.run(holder.set_lock_async(&held, long())).unwrap();
    let wanted = Box::leak(Box::new(lock_of(heir, LockKind::Write)));
    let mut waits = Box::pin(heir.set_lock_async(wanted, Wait::FOREVER));
    assert_eq!(poll(&mut waits.as_mut()), None);
    let vmid = heir.identity().vmid;
    let is_dropped = Rc::new(Cell::new(false));
    let now_dropped = Rc::clone(&is_dropped);
    // When the streams of the leader are closed, the heir reads the rest of the log. Only then it waits to lead.
    during(PalCall::CloseStream, vmid, move || {
        during(PalCall::Read, vmid, move || {
            drop(waits);
            now_dropped.set(true);
        });
    });
    family.end_leader();
    (0..100).for_each(|_| family.poll_all());
    assert!(is_dropped.get());
    assert_eq!(heir.leader(), vmid);
    assert_eq!(heir.statistics().pools.waiters.now, 0);
}
