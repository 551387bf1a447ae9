//! Each event that ends a wait ends it at once: a release by another thread, a time limit, an
//! interrupt. The oracle is the time of the standard library's primitives for the same, measured in
//! the same run; a busy machine gets several tries.
#![cfg(feature = "std")]
#![allow(missing_docs)]

use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use libos_ipc::host::HostNode;
use libos_ipc::wire::{FileLock, LockFamily, LockKind, Message};
use libos_ipc::{ChildSelector, Config, Driving, Error, Identity, Interrupt, Vmid, Wait};
use tempfile::TempDir;

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(10));
const SAMPLES: usize = 21;
/// The number of tries, because other programs may keep the machine busy.
const TRIES: usize = 12;
/// How long a thread holds a value while another thread waits for it.
const HELD: Duration = Duration::from_micros(200);
/// The most by which a wait may end later than one of the standard library. Limits in whole milliseconds would end later
/// than that; on a busy machine the code that runs after a wait is not in the processor's cache.
const LATE: Duration = Duration::from_micros(500);

/// Returns true if a wait ends as soon as one of the standard library. On a busy machine both end later, and
/// differ by more.
fn is_as_soon(ours: Duration, theirs: Duration) -> bool {
    ours <= theirs + theirs / 4 + LATE
}

fn median(mut of: Vec<Duration>) -> Duration {
    of.sort_unstable();
    of[of.len() / 2]
}

/// Repeats the measurement until `is_fine` accepts the medians of `ours` and `theirs`, which are
/// measured alternately.
fn compare(
    what: &str,
    ours: impl Fn() -> Duration,
    theirs: impl Fn() -> Duration,
    is_fine: impl Fn(Duration, Duration) -> bool,
) {
    let mut seen = Vec::new();
    for _ in 0..TRIES {
        let (mut mine, mut others) = (Vec::new(), Vec::new());
        for _ in 0..SAMPLES {
            mine.push(ours());
            others.push(theirs());
        }
        let (mine, others) = (median(mine), median(others));
        seen.push((mine, others));
        if is_fine(mine, others) {
            println!("{what}: {mine:?}, the standard library: {others:?}");
            return;
        }
    }
    panic!("{what}, and the standard library's: {seen:?}");
}

struct Family {
    _directory: TempDir,
    base: PathBuf,
    leader: HostNode,
}

impl Family {
    fn new() -> Family {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("f");
        let leader = HostNode::start(&base, Identity::LEADER, Config::DEFAULT).unwrap();
        leader.join(WAIT).unwrap();
        Family {
            _directory: directory,
            base,
            leader,
        }
    }

    fn member(&self, config: Config) -> HostNode {
        let identity = self.leader.start_child(WAIT).unwrap();
        let node = HostNode::start(&self.base, identity, config).unwrap();
        node.join(WAIT).unwrap();
        node
    }
}

/// A leader that never answers: every request to it waits.
struct SilentLeader {
    _directory: TempDir,
    _streams: (UnixListener, UnixStream),
    node: HostNode,
}

impl SilentLeader {
    fn new(spin: Duration) -> SilentLeader {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("f");
        let listener = UnixListener::bind(base.with_extension("1")).unwrap();
        let identity = Identity::child(Vmid::new(2).unwrap(), Vmid::LEADER);
        let config = Config {
            spin,
            ..Config::DEFAULT
        };
        let node = HostNode::start(&base, identity, config).unwrap();
        let mut stream = UnixStream::connect(base.with_extension("2")).unwrap();
        stream.write_all(&1_u32.to_le_bytes()).unwrap();
        while node.statistics().accepted == 0 {
            thread::yield_now();
        }
        SilentLeader {
            _directory: directory,
            _streams: (listener, stream),
            node,
        }
    }
}

/// Returns the time from one thread's release until another thread holds the value.
fn hand_over<G>(take: impl Fn() -> G + Sync, is_waited_for: impl Fn() -> bool) -> Duration {
    thread::scope(|scope| {
        let held = take();
        let waiter = scope.spawn(|| {
            let taken = take();
            let now = Instant::now();
            drop(taken);
            now
        });
        while !is_waited_for() {
            thread::yield_now();
        }
        let start = Instant::now();
        while start.elapsed() < HELD {
            black_box(&held);
        }
        let given = Instant::now();
        drop(held);
        waiter.join().unwrap().saturating_duration_since(given)
    })
}

fn hands_over_as_soon_as_a_lock(node: &HostNode, what: &str) {
    let value = node.share::<u64>(Some(1)).unwrap();
    drop(value.write(WAIT).unwrap());
    let lock = RwLock::new(0_u64);
    compare(
        what,
        || {
            hand_over(
                || value.write(WAIT).unwrap(),
                || node.pending_calls().next().is_some(),
            )
        },
        || hand_over(|| lock.write().unwrap(), || true),
        |ours, theirs| ours <= theirs * 2,
    );
}

#[test]
fn value_reaches_the_next_thread_as_soon_as_a_std_lock() {
    let family = Family::new();
    hands_over_as_soon_as_a_lock(&family.leader, "a hand-over at the leader");
    let member = family.member(Config::DEFAULT);
    hands_over_as_soon_as_a_lock(&member, "a hand-over at a member");
    let sleeper = family.member(Config {
        spin: Duration::ZERO,
        ..Config::DEFAULT
    });
    hands_over_as_soon_as_a_lock(&sleeper, "a hand-over at a member that never spins");
}

#[test]
fn change_by_a_thread_wakes_the_waiting_thread_of_the_same_process() {
    let family = Family::new();
    let member = family.member(Config::DEFAULT);
    for (node, what) in [(&family.leader, "the leader"), (&member, "a member")] {
        let value = node.share::<u64>(Some(2)).unwrap();
        drop(value.write(WAIT).unwrap());
        let (state, changed) = (Mutex::new(0_u64), Condvar::new());
        let ours = || {
            *value.write(WAIT).unwrap() = 0;
            thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    drop(value.wait_for(WAIT, |value| *value == 1).unwrap());
                    Instant::now()
                });
                while node.pending_calls().next().is_none() {
                    thread::yield_now();
                }
                thread::sleep(HELD);
                let given = Instant::now();
                *value.write(WAIT).unwrap() = 1;
                waiter.join().unwrap().saturating_duration_since(given)
            })
        };
        let theirs = || {
            *state.lock().unwrap() = 0;
            thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    let guard = state.lock().unwrap();
                    drop(changed.wait_while(guard, |state| *state == 0).unwrap());
                    Instant::now()
                });
                thread::sleep(HELD);
                let given = Instant::now();
                *state.lock().unwrap() = 1;
                changed.notify_one();
                waiter.join().unwrap().saturating_duration_since(given)
            })
        };
        compare(&format!("a change at {what}"), ours, theirs, is_as_soon);
    }
}

/// Returns by how much a wait of the standard library ends after `limit`.
fn standard_lateness(limit: Duration) -> Duration {
    let (state, changed) = (Mutex::new(()), Condvar::new());
    let start = Instant::now();
    let guard = state.lock().unwrap();
    let waited = changed.wait_timeout_while(guard, limit, |()| true).unwrap();
    drop(waited);
    start.elapsed().saturating_sub(limit)
}

/// The time of the standard library for what a call does besides its wait.
type Besides<'a> = &'a dyn Fn() -> Duration;

const NOTHING: Besides<'static> = &|| Duration::ZERO;

/// A thread that sends back what it gets, as a leader that answers at once.
struct Echo(UnixStream);

impl Echo {
    fn new() -> Echo {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut byte = [0];
            while theirs.read_exact(&mut byte).is_ok() && theirs.write_all(&byte).is_ok() {}
        });
        Echo(ours)
    }

    /// Returns the time of an exchange.
    fn exchange(&self) -> Duration {
        let (mut stream, start) = (&self.0, Instant::now());
        stream.write_all(&[0]).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        start.elapsed()
    }
}

fn ends_on_its_limit(
    what: &str,
    besides: Besides<'_>,
    call: impl Fn(Wait<'_>) -> Result<(), Error>,
) {
    for limit in [2_100, 300, 12_345].map(Duration::from_micros) {
        let lateness = || {
            let start = Instant::now();
            assert_eq!(call(Wait::at_most(limit)), Err(Error::TimedOut), "{what}");
            let took = start.elapsed();
            assert!(took >= limit, "{what}: {took:?} of {limit:?}");
            took.saturating_sub(limit)
        };
        compare(
            &format!("{what} of {limit:?} ends late"),
            lateness,
            || standard_lateness(limit) + besides(),
            is_as_soon,
        );
    }
    for limit in [Duration::ZERO, Duration::from_nanos(1)] {
        let ends_at_once = (0..TRIES).any(|_| {
            let start = Instant::now();
            let outcome = call(Wait::at_most(limit));
            assert_eq!(outcome, Err(Error::TimedOut), "{what} of {limit:?}");
            start.elapsed() < Duration::from_secs(1)
        });
        assert!(ends_at_once, "{what} of {limit:?}");
    }
}

/// Checks the time that a call takes to end after an interrupt.
fn ends_on_its_interrupt(
    what: &str,
    besides: Besides<'_>,
    node: &HostNode,
    call: impl Fn(Wait<'_>) -> Result<(), Error> + Sync,
) {
    let interrupted = || {
        let interrupt = Interrupt::new();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let outcome = call(WAIT.or_until(&interrupt));
                let now = Instant::now();
                assert_eq!(outcome, Err(Error::Interrupted), "{what}");
                now
            });
            while node.pending_calls().next().is_none() {
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(1));
            let raised = Instant::now();
            interrupt.raise(node);
            waiter.join().unwrap().saturating_duration_since(raised)
        })
    };
    let unparked = || {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    thread::park();
                }
                Instant::now()
            });
            thread::sleep(Duration::from_millis(1));
            let raised = Instant::now();
            done.store(true, Ordering::Release);
            waiter.thread().unpark();
            waiter.join().unwrap().saturating_duration_since(raised)
        }) + besides()
    };
    compare(
        &format!("{what} ends after its interrupt"),
        interrupted,
        unparked,
        is_as_soon,
    );
    // An interrupt that was raised before the call ends it as well.
    let interrupt = Interrupt::new();
    interrupt.raise(node);
    let outcome = call(WAIT.or_until(&interrupt));
    assert_eq!(outcome, Err(Error::Interrupted), "{what}");
}

#[test]
fn unanswered_request_ends_at_its_limit_and_its_interrupt() {
    for spin in [Duration::ZERO, Config::DEFAULT.spin] {
        let SilentLeader { node, .. } = &SilentLeader::new(spin);
        let ask = |wait: Wait<'_>| {
            node.ask(Vmid::LEADER, &Message::GetIdOwner(1), wait)
                .map(drop)
        };
        ends_on_its_limit("a request", NOTHING, ask);
        ends_on_its_interrupt("a request", NOTHING, node, ask);
        let join = |wait: Wait<'_>| node.join(wait).map(drop);
        ends_on_its_interrupt("join", NOTHING, node, join);
    }
}

#[test]
fn wait_for_a_value_ends_at_its_limit_and_its_interrupt() {
    let family = Family::new();
    let (one, two) = (
        family.member(Config::DEFAULT),
        family.member(Config::DEFAULT),
    );
    let (here, there) = (
        one.share::<u64>(Some(3)).unwrap(),
        two.share::<u64>(Some(3)).unwrap(),
    );
    let write = |wait: Wait<'_>| here.write(wait).map(drop);
    // The lease to read may have to be requested first.
    let echo = Echo::new();
    let exchange = || echo.exchange();
    let upgrade = |wait: Wait<'_>| {
        let reader = here.read(WAIT)?;
        match reader.upgrade(wait) {
            Ok(writer) => drop(writer),
            Err((_, error)) => return Err(error),
        }
        Ok(())
    };
    // Another thread of the same process holds the value.
    let held = here.write(WAIT).unwrap();
    ends_on_its_limit("a wait for another thread", NOTHING, write);
    ends_on_its_interrupt("a wait for another thread", NOTHING, &one, write);
    drop(held);
    // Another process holds the value.
    let held = there.read(WAIT).unwrap();
    ends_on_its_limit("a wait for another process", NOTHING, write);
    ends_on_its_interrupt("a wait for another process", NOTHING, &one, write);
    ends_on_its_limit("an upgrade", &exchange, upgrade);
    ends_on_its_interrupt("an upgrade", &exchange, &one, upgrade);
    drop(held);
    for (value, node) in [(&here, &one), (&there, &two)] {
        let wait_for = |wait: Wait<'_>| value.wait_for(wait, |value| *value == 9).map(drop);
        ends_on_its_limit("wait_for", NOTHING, wait_for);
        ends_on_its_interrupt("wait_for", NOTHING, node, wait_for);
    }
}

#[test]
fn wait_for_a_lock_or_a_child_ends_at_its_limit_and_its_interrupt() {
    let family = Family::new();
    let (one, two) = (
        family.member(Config::DEFAULT),
        family.member(Config::DEFAULT),
    );
    let lock = |node: &HostNode| FileLock {
        family: LockFamily::Posix,
        kind: LockKind::Write,
        start: 0,
        end: 9,
        pid: node.pid().unwrap().get(),
        handle: 0,
        wait: true,
        path: b"/f",
    };
    two.set_lock(&lock(&two), WAIT).unwrap();
    let set_lock = |wait: Wait<'_>| one.set_lock(&lock(&one), wait);
    // The leader confirms that the request is cancelled.
    let echo = Echo::new();
    let exchange = || echo.exchange();
    ends_on_its_interrupt("a wait for a lock", &exchange, &one, set_lock);
    let child = one.start_child(WAIT).unwrap();
    let wait_child = |wait: Wait<'_>| {
        one.wait_child(ChildSelector::Pid(child.pid.unwrap()), wait)
            .map(drop)
    };
    ends_on_its_limit("wait", NOTHING, wait_child);
    ends_on_its_interrupt("wait", NOTHING, &one, wait_child);
}

/// The calling thread moves the bytes itself.
#[test]
fn call_of_a_process_with_one_thread_ends_at_its_limit() {
    let family = Family::new();
    let config = Config {
        driving: Driving::Caller,
        ..Config::DEFAULT
    };
    let member = family.leader.start_child(WAIT).unwrap();
    let node = HostNode::start(&family.base, member, config).unwrap();
    node.join(WAIT).unwrap();
    let value = node.share::<u64>(Some(4)).unwrap();
    let held = family.leader.share::<u64>(Some(4)).unwrap();
    let reader = held.read(WAIT).unwrap();
    ends_on_its_limit("a wait of one thread", NOTHING, |wait| {
        value.write(wait).map(drop)
    });
    drop(reader);
}
