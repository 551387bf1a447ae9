//! Signals that wait at the leader, compared with the kernel's pending signals.

use std::collections::BTreeMap;

use libos_ipc::{Capacities, Config, Errno, Error, Identity, Target};

use crate::family::{Family, Os, Process, WAIT, until};
use crate::pending::{SignalCall, pending_after, pending_at_limit, signals_for_a_zombie};

/// Returns the error number of the outcome, or 0.
fn errno_of(outcome: Result<(), Error>) -> i32 {
    outcome.err().map_or(0, |error| error.errno().get())
}

fn kill(process: &Process, to: Identity, call: SignalCall) -> i32 {
    let pid = to.pid.unwrap();
    let target = match call {
        SignalCall::Process(_) => Target::Process(pid),
        SignalCall::Thread(_) => Target::Thread {
            pid,
            tid: pid.get(),
        },
    };
    errno_of(process.node.kill(target, call.signal(), WAIT))
}

/// Returns how often each signal is in the list.
fn counted(signals: impl IntoIterator<Item = i32>) -> BTreeMap<i32, usize> {
    let mut counts = BTreeMap::new();
    for signal in signals {
        *counts.entry(signal).or_default() += 1;
    }
    counts
}

/// Sends the signals to a child that has not joined. Returns the result of each call, and the signals
/// that the child gets.
fn kept_after(family: &Family, signals: &[SignalCall]) -> (Vec<i32>, Vec<i32>) {
    let identity = family.first.node.start_child(WAIT).unwrap();
    let results = signals
        .iter()
        .map(|call| kill(&family.first, identity, *call))
        .collect();
    let os = Os::default();
    os.threads.lock().push(identity.pid.unwrap().get());
    let child = family.start_with_os(identity, os);
    // This one follows all queued signals.
    let last = Target::Process(identity.pid.unwrap());
    assert_eq!(family.first.node.kill(last, 9, WAIT), Ok(()));
    let mut received = child.signals();
    assert_eq!(received.pop(), Some(9));
    (results, received)
}

#[test]
fn signals_pending_for_a_starting_process_are_those_the_kernel_keeps_for_a_process_that_blocks_them()
 {
    const SIGNALS: [i32; 12] = [1, 2, 10, 12, 15, 18, 20, 21, 22, 34, 40, 64];
    let family = Family::new();
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..60 {
        let sent: Vec<SignalCall> = (0..rng.usize(1..12))
            .map(|_| SignalCall::Process(SIGNALS[rng.usize(..SIGNALS.len())]))
            .collect();
        let (results, pending) = pending_after(&sent);
        let (own_results, kept) = kept_after(&family, &sent);
        assert_eq!(own_results, results, "{sent:?}");
        assert_eq!(counted(kept.clone()), counted(pending), "{sent:?}");
        // They are delivered in the order of sending: the first of merged signals counts.
        let mut rest = kept.iter();
        let mut expected = rest.next();
        for call in &sent {
            if expected == Some(&call.signal()) {
                expected = rest.next();
            }
        }
        assert_eq!(expected, None, "{kept:?} of {sent:?}");
    }
}

#[test]
fn real_time_signals_for_a_starting_process_are_queued_one_by_one() {
    let family = Family::new();
    let (_, kept) = kept_after(&family, &[SignalCall::Process(40); 4]);
    assert_eq!(kept, [40; 4]);
    assert_eq!(family.first.node.statistics().pools.queued_signals.now, 0);
    assert_eq!(family.first.node.statistics().pools.queued_signals.peak, 4);
}

#[test]
fn at_the_limit_of_queued_signals_a_process_has_one_pending_and_a_thread_is_refused() {
    const LIMIT: usize = 6;
    let config = Config {
        capacities: Capacities {
            queued_signals: LIMIT,
            ..Capacities::DEFAULT
        },
        ..Config::DEFAULT
    };
    let mut sent = vec![SignalCall::Process(40); LIMIT + 3];
    sent.extend([SignalCall::Process(41); 3]);
    sent.extend([
        SignalCall::Thread(42),
        SignalCall::Thread(40),
        SignalCall::Process(42),
    ]);
    sent.extend([SignalCall::Process(15), SignalCall::Process(15)]);
    let (results, pending) = pending_at_limit(&sent, LIMIT as u64);
    assert!(results.contains(&Errno::EAGAIN.get()));
    let family = Family::led_with(config);
    let (own_results, kept) = kept_after(&family, &sent);
    assert_eq!(own_results, results);
    assert_eq!(counted(kept), counted(pending));
    // The queue is free again.
    let (_, kept) = kept_after(&family, &[SignalCall::Process(40); LIMIT]);
    assert_eq!(kept.len(), LIMIT);
}

#[test]
fn signals_queued_for_a_process_that_never_joins_are_freed() {
    let family = Family::new();
    let first = &family.first.node;
    let queued = || first.statistics().pools.queued_signals.now;
    for _ in 0..3 {
        let identity = first.start_child(WAIT).unwrap();
        for _ in 0..200 {
            assert_eq!(kill(&family.first, identity, SignalCall::Process(50)), 0);
        }
        assert_eq!(queued(), 200);
        first.abandon_child(identity.vmid).unwrap();
        until("the places are free", || queued() == 0);
    }
    // The signals of a process that dies with its parent, or later, are dropped, too.
    let parent = family.child();
    let identity = parent.node.start_child(WAIT).unwrap();
    assert_eq!(kill(&family.first, identity, SignalCall::Process(50)), 0);
    assert_eq!(queued(), 1);
    assert!(first.check_invariants());
}

#[test]
fn a_signal_to_a_zombie_has_the_outcome_of_the_kernel() {
    let family = Family::new();
    let other = family.child();
    for signal in [0, 10, 40] {
        let child = family.child();
        child.node.set_group(None, None, WAIT).unwrap();
        let pid = child.pid;
        child.exit(0);
        until("it is a zombie", || {
            family.first.ended().iter().any(|ended| ended.0 == pid)
        });
        let expected = signals_for_a_zombie(signal);
        for process in [&family.first, &other] {
            let results = [
                Target::Process(pid),
                Target::Thread {
                    pid,
                    tid: pid.get(),
                },
                Target::Thread {
                    pid,
                    tid: pid.get() + 1,
                },
                Target::Group(Some(pid)),
            ]
            .map(|target| errno_of(process.node.kill(target, signal, WAIT)));
            assert_eq!(results, expected, "{signal}");
        }
    }
}
