//! Signals of one process to another arrive in the order in which they were sent, by any path.

use std::thread;

use libos_ipc::wire::codes;
use libos_ipc::{Errno, Error, Target};

use crate::bare::BareMember;
use crate::family::{Family, WAIT, until};

const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;

#[test]
fn of_stop_and_cont_for_a_starting_child_the_last_one_stays_pending() {
    let family = Family::new();
    let first = &family.first.node;
    for (sent, expected) in [
        ([SIGSTOP, SIGCONT, 10], [SIGCONT, 10]),
        ([SIGCONT, SIGSTOP, 1], [SIGSTOP, 1]),
    ] {
        let identity = first.start_child(WAIT).unwrap();
        for signal in sent {
            let target = Target::Process(identity.pid.unwrap());
            assert_eq!(first.kill(target, signal, WAIT), Ok(()));
        }
        let child = family.start(identity);
        until("both come", || child.signals().len() == expected.len());
        assert_eq!(child.signals(), expected);
    }
}

#[test]
fn signals_for_a_starting_child_are_delivered_in_the_order_of_sending() {
    let family = Family::new();
    let (sender, first) = (family.child(), &family.first.node);
    let identity = first.start_child(WAIT).unwrap();
    let target = Target::Process(identity.pid.unwrap());
    let sent = [15, 40, 1, 64, 34, 10, 40, 2];
    for signal in sent {
        assert_eq!(sender.node.kill(target, signal, WAIT), Ok(()));
    }
    let child = family.start(identity);
    // This one follows the others.
    assert_eq!(sender.node.kill(target, 3, WAIT), Ok(()));
    let expected: Vec<i32> = sent.into_iter().chain([3]).collect();
    assert_eq!(child.signals(), expected);
}

#[test]
fn a_signal_for_one_process_follows_an_earlier_signal_for_all() {
    let family = Family::new();
    let (sender, target) = (family.child(), family.child());
    let others: Vec<_> = (0..3).map(|_| family.child()).collect();
    for round in 0..1500 {
        assert_eq!(sender.node.kill(Target::All, 10, WAIT), Ok(()));
        let to = match round % 3 {
            0 => Target::Process(target.pid),
            1 => Target::Group(None),
            _ => Target::Thread {
                pid: target.pid,
                tid: target.pid.get(),
            },
        };
        target.os.threads.lock().push(target.pid.get());
        assert_eq!(sender.node.kill(to, 12, WAIT), Ok(()));
    }
    until("all come", || target.signals().len() == 3000);
    let expected = [10, 12].repeat(1500);
    assert_eq!(target.signals(), expected);
    drop(others);
}

/// The member reads one stream and not another.
#[test]
fn a_direct_signal_waits_for_an_earlier_one_through_the_leader() {
    let family = Family::new();
    let sender = family.child();
    let identity = family.first.node.start_child(WAIT).unwrap();
    let mut target = BareMember::join(&family, identity);
    let (one, leader) = (Target::Process(identity.pid.unwrap()), family.first.vmid());
    target.connect(sender.vmid());
    thread::scope(|scope| {
        // The owner of the pid is known.
        let direct = scope.spawn(|| sender.node.kill(one, 1, WAIT));
        let received = target.await_signal_from(sender.vmid());
        target.answer(received);
        assert_eq!(direct.join().unwrap(), Ok(()));
        assert_eq!(sender.node.kill(Target::All, 10, WAIT), Ok(()));
        let behind = scope.spawn(|| sender.node.kill(one, 12, WAIT));
        let for_all = target.await_signal_from(leader);
        assert_eq!((for_all.code, for_all.signal), (codes::PID_KILL_PASSED, 10));
        let received = target.await_signal_from(leader);
        assert_eq!((received.code, received.signal), (codes::PID_KILL, 12));
        assert_eq!(target.signal_from(sender.vmid()), None);
        target.answer(for_all);
        target.answer(received);
        assert_eq!(behind.join().unwrap(), Ok(()));
        // Nothing is under way any more, so the direct path is used again.
        let direct = scope.spawn(|| sender.node.kill(one, 15, WAIT));
        let received = target.await_signal_from(sender.vmid());
        assert_eq!((received.code, received.signal), (codes::PID_KILL, 15));
        target.answer(received);
        assert_eq!(direct.join().unwrap(), Ok(()));
    });
}

#[test]
fn a_slow_member_gets_its_signals_in_order_and_delays_no_other() {
    const MANY: usize = 3000;
    let family = Family::new();
    let (sender, other) = (family.child(), family.child());
    let identity = family.first.node.start_child(WAIT).unwrap();
    let mut slow = BareMember::join(&family, identity);
    let leader = family.first.vmid();
    // These are more than its stream and its queue hold.
    for sent in 1..=MANY {
        assert_eq!(sender.node.kill(Target::All, 1, WAIT), Ok(()));
        // The leader sends a member at most 32 signals that it has not answered. More that are equal would become one.
        if sent % 16 == 0 {
            until("the other gets them", || other.signals().len() == sent);
        }
    }
    let last = [SIGSTOP, SIGCONT, 15, 40, 2, 40, 41, 40];
    for signal in last {
        assert_eq!(sender.node.kill(Target::All, signal, WAIT), Ok(()));
    }
    until("the other gets all", || {
        other.signals().len() == MANY + last.len()
    });
    let mut received = Vec::new();
    while received.last() != Some(&40)
        || received.iter().filter(|signal| **signal == 40).count() < 3
    {
        let signal = slow.await_signal_from(leader);
        slow.answer(signal);
        received.push(signal.signal);
    }
    let first_other = received.iter().position(|signal| *signal != 1).unwrap();
    assert!(first_other < MANY, "equal ones became one");
    assert_eq!(received[first_other..], [SIGCONT, 15, 40, 2, 40, 41, 40]);
}

/// The target has closed the sender's stream, which it never read, but not the leader's.
#[test]
fn an_unreachable_process_is_signalled_through_the_leader() {
    let family = Family::new();
    let sender = family.child();
    let identity = family.first.node.start_child(WAIT).unwrap();
    let mut target = BareMember::join(&family, identity);
    target.connect(sender.vmid());
    sender.node.connect(identity.vmid).unwrap();
    until("it is reached", || target.has_stream_from(sender.vmid()));
    target.close_stream_from(sender.vmid());
    let leader = family.first.vmid();
    for signal in [10, 12, 15] {
        let one = Target::Process(identity.pid.unwrap());
        thread::scope(|scope| {
            let call = scope.spawn(|| sender.node.kill(one, signal, WAIT));
            let received = loop {
                if let Some(received) = target.signal_from(leader) {
                    break received;
                }
                // The signal may be sent directly again, once the old connection is closed.
                if let Some(received) = target.signal_from(sender.vmid()) {
                    break received;
                }
                assert!(!call.is_finished(), "{:?}", call.join());
                thread::yield_now();
            };
            assert_eq!(received.signal, signal);
            target.answer(received);
            assert_eq!(call.join().unwrap(), Ok(()));
        });
    }
}

#[test]
fn a_signal_through_the_leader_returns_the_answer_of_its_target() {
    let family = Family::new();
    let (sender, target) = (family.child(), family.child());
    let nobody = Target::Thread {
        pid: target.pid,
        tid: 4_000_000,
    };
    for _ in 0..200 {
        *target.os.refuses.lock() = None;
        assert_eq!(sender.node.kill(Target::All, 10, WAIT), Ok(()));
        *target.os.refuses.lock() = Some(Errno::EPERM);
        let one = Target::Process(target.pid);
        // Whether the leader forwarded the signal is a matter of time.
        let refused = sender.node.kill(one, 12, WAIT);
        assert_eq!(refused.map_err(Error::errno), Err(Errno::EPERM));
        assert_eq!(sender.node.kill(Target::All, 10, WAIT), Ok(()));
        let gone = Err(Error::NoSuchProcess);
        assert_eq!(sender.node.kill(nobody, 12, WAIT), gone);
    }
}
