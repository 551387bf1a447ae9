//! Threads of one process that want the same value get it in the order in which they called. The
//! oracle is the order of the calls in the test.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libos_ipc::host::HostNode;
use libos_ipc::{Error, Wait};

use crate::host_family::Family;

const LONG: Duration = Duration::from_secs(10);
const WAIT: Wait<'static> = Wait::at_most(LONG);
const NOW: Wait<'static> = Wait::at_most(Duration::ZERO);

/// Returns when `count` calls of the process wait.
fn until_waiting(node: &HostNode, count: usize) {
    let start = Instant::now();
    while node.pending_calls().count() < count {
        assert!(start.elapsed() < LONG, "it does not wait");
        thread::yield_now();
    }
}

/// Runs the test at the leader, at a member, and at a member whose value another process reads.
fn in_each_role(then: impl Fn(&HostNode, u64)) {
    let family = Family::new();
    let (one, two) = (family.member(), family.member());
    then(&family.leader, 1);
    then(&one, 2);
    let other = two.share::<u64>(Some(3)).unwrap();
    drop(other.read(WAIT).unwrap());
    then(&one, 3);
}

#[test]
fn new_reader_thread_does_not_overtake_an_upgrading_reader() {
    in_each_role(|node, id| {
        let value = node.share::<u64>(Some(id)).unwrap();
        let other = value.read(WAIT).unwrap();
        let reader = value.read(WAIT).unwrap();
        thread::scope(|scope| {
            let upgrade = scope.spawn(|| match reader.upgrade(WAIT) {
                Ok(mut writer) => *writer += 1,
                Err((_, error)) => panic!("{error}"),
            });
            until_waiting(node, 1);
            for _ in 0..100 {
                assert_eq!(value.read(NOW).err(), Some(Error::TimedOut));
            }
            // A waiting reader gets the value after that.
            let late = scope.spawn(|| *value.read(WAIT).unwrap());
            until_waiting(node, 2);
            drop(other);
            upgrade.join().unwrap();
            assert_eq!(late.join().unwrap(), 1);
        });
    });
}

#[test]
fn readers_proceed_after_a_failed_upgrade() {
    in_each_role(|node, id| {
        let value = node.share::<u64>(Some(id)).unwrap();
        let other = value.read(WAIT).unwrap();
        let reader = value.read(WAIT).unwrap();
        thread::scope(|scope| {
            let interrupt = libos_ipc::Interrupt::new();
            let (value, raised) = (&value, &interrupt);
            thread::scope(|inner| {
                let upgrade = inner.spawn(move || {
                    let upgraded = reader.upgrade(WAIT.or_until(raised));
                    upgraded.map(drop).map_err(|(_, error)| error)
                });
                until_waiting(node, 1);
                let late = scope.spawn(move || drop(value.read(WAIT).unwrap()));
                until_waiting(node, 2);
                interrupt.raise(node);
                assert_eq!(upgrade.join().unwrap(), Err(Error::Interrupted));
                late.join().unwrap();
            });
        });
        drop(other);
    });
}

#[test]
fn waiting_writer_is_overtaken_by_no_later_thread() {
    in_each_role(|node, id| {
        let value = node.share::<u64>(Some(id)).unwrap();
        let reader = value.read(WAIT).unwrap();
        thread::scope(|scope| {
            let writer = scope.spawn(|| *value.write(WAIT).unwrap() += 1);
            // The thread may be stopped between its count as waiting and its place in the queue.
            let start = Instant::now();
            while value.read(NOW).is_ok() {
                assert!(start.elapsed() < LONG, "it is overtaken for ever");
                thread::yield_now();
            }
            for _ in 0..100 {
                assert_eq!(value.read(NOW).err(), Some(Error::TimedOut));
                assert_eq!(value.write(NOW).err(), Some(Error::TimedOut));
            }
            drop(reader);
            writer.join().unwrap();
        });
        assert_eq!(*value.read(WAIT).unwrap(), 1);
    });
}

/// A thread that acquires the value again and again, each time right after it has released it,
/// alternates with the other threads. The other thread may be stopped between its count as waiting
/// and its place in the queue, and is overtaken for as long as that takes: such an interval counts
/// once, and there are few.
#[test]
fn thread_that_writes_in_a_loop_does_not_starve_other_threads() {
    const ROUNDS: u32 = 100;
    in_each_role(|node, id| {
        let value = node.share::<u64>(Some(id)).unwrap();
        for writes in [false, true] {
            let (served, mut passed, mut last_passed) = (AtomicU32::new(0), 0, None);
            let (is_over, start) = (AtomicBool::new(false), Barrier::new(2));
            thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..ROUNDS {
                        if writes {
                            let writer = value.write(WAIT).unwrap();
                            served.fetch_add(1, Ordering::SeqCst);
                            drop(writer);
                        } else {
                            let reader = value.read(WAIT).unwrap();
                            served.fetch_add(1, Ordering::SeqCst);
                            drop(reader);
                        }
                    }
                    is_over.store(true, Ordering::SeqCst);
                });
                start.wait();
                while !is_over.load(Ordering::SeqCst) {
                    let mut writer = value.write(WAIT).unwrap();
                    *writer += 1;
                    let is_waited_for = node.pending_calls().next().is_some();
                    let before = served.load(Ordering::SeqCst);
                    drop(writer);
                    drop(value.write(WAIT).unwrap());
                    let was_passed = served.load(Ordering::SeqCst) == before;
                    if is_waited_for && was_passed && last_passed.replace(before) != Some(before) {
                        passed += 1;
                    }
                }
            });
            assert!(passed < ROUNDS / 10, "passed {passed} times, {writes}");
        }
    });
}
