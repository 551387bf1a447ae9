//! Signals for a group, and for all: every member is reached, whatever another does.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use libos_ipc::wire::ProcessState;
use libos_ipc::{ChildSelector, Errno, Error, Invalid, Pid, Target, Wait};

use crate::bare::BareMember;
use crate::family::{Family, NOW, Process, WAIT, until};
use crate::pending::kill_nobody;

/// Starts children of one process in a group of their own, whose leader is the first of them.
fn group_of(family: &Family, parent: &Process, count: usize) -> Vec<Process> {
    let members: Vec<Process> = (0..count).map(|_| family.child_of(parent)).collect();
    let group = members[0].pid;
    for member in &members {
        parent
            .node
            .set_group(Some(member.pid), Some(group), WAIT)
            .unwrap();
    }
    members
}

#[test]
fn a_member_that_does_not_answer_does_not_delay_signals_to_its_group() {
    let family = Family::new();
    let first = &family.first;
    let unresponsive = first.node.start_child(WAIT).unwrap();
    let mut bare = BareMember::join(&family, unresponsive);
    first
        .node
        .set_group(unresponsive.pid, unresponsive.pid, WAIT)
        .unwrap();
    let sender = family.child();
    // These are more than one call waits for at once.
    let others: Vec<Process> = (0..20).map(|_| family.child()).collect();
    for other in &others {
        first
            .node
            .set_group(Some(other.pid), unresponsive.pid, WAIT)
            .unwrap();
    }
    // Each is long enough for an answer of those that do answer, unless the machine is busy, and shorter than the time
    // after which the other one counts as signalled.
    let tries = [1, 4, 4].map(|seconds| Wait::at_most(Duration::from_secs(seconds)));
    for (signal, process) in [(10, &sender), (12, first), (40, &others[3])] {
        let group = Target::Group(unresponsive.pid);
        let is_ok = |wait| process.node.kill(group, signal, wait) == Ok(());
        assert!(tries.into_iter().any(is_ok), "some could be signalled");
        for other in &others {
            until("it is signalled", || other.signals().contains(&signal));
        }
    }
    // The member that did not answer gets all signals, too.
    let mut received = BTreeSet::new();
    until("it comes", || {
        for from in [first.vmid(), sender.vmid(), others[3].vmid()] {
            received.extend(bare.signal_from(from).map(|received| received.signal));
        }
        received.len() == 3
    });
}

#[test]
fn each_member_of_a_group_larger_than_the_wait_limit_is_signalled_once() {
    let family = Family::new();
    let parent = family.child();
    let members = group_of(&family, &parent, 24);
    let group = Target::Group(Some(members[0].pid));
    for (signal, sender) in [(10, &parent), (12, &members[5]), (15, &family.first)] {
        assert_eq!(sender.node.kill(group, signal, WAIT), Ok(()));
    }
    for member in &members {
        until("all come", || member.signals().len() == 3);
        assert_eq!(member.signals(), [10, 12, 15]);
    }
    // If no target may be signalled the call is refused; if one may, it succeeds.
    for member in &members {
        *member.os.refuses.lock() = Some(Errno::EPERM);
    }
    *members[7].os.refuses.lock() = None;
    assert_eq!(parent.node.kill(group, 1, WAIT), Ok(()));
}

#[test]
fn a_group_can_be_signalled_until_its_only_process_is_reaped() {
    let family = Family::new();
    let sender = family.child();
    for round in 0..120 {
        let child = family.child();
        child.node.set_group(None, None, WAIT).unwrap();
        let (pid, is_reaped) = (child.pid, AtomicBool::new(false));
        thread::scope(|scope| {
            let senders: Vec<_> = [&sender, &family.first]
                .into_iter()
                .map(|sender| {
                    scope.spawn(|| {
                        let signal = round % 2;
                        while !is_reaped.load(Ordering::SeqCst) {
                            let outcome = sender.node.kill(Target::Group(Some(pid)), signal, WAIT);
                            if is_reaped.load(Ordering::SeqCst) {
                                return;
                            }
                            assert_eq!(outcome, Ok(()));
                            let outcome = sender.node.kill(Target::Process(pid), signal, WAIT);
                            if is_reaped.load(Ordering::SeqCst) {
                                return;
                            }
                            assert_eq!(outcome, Ok(()));
                        }
                    })
                })
                .collect();
            if round % 3 == 0 {
                child.die();
            } else {
                child.exit(0);
            }
            until("it is a zombie", || {
                let process = family.first.node.process(Some(pid), WAIT);
                process.is_ok_and(|process| process.state == ProcessState::Zombie)
            });
            is_reaped.store(true, Ordering::SeqCst);
            let which = ChildSelector::Pid(pid);
            family.first.node.wait_child(which, WAIT).unwrap();
            for sender in senders {
                sender.join().unwrap();
            }
        });
        let gone = Err(Error::NoSuchProcess);
        assert_eq!(sender.node.kill(Target::Group(Some(pid)), 0, WAIT), gone);
    }
}

#[test]
fn a_group_of_starting_processes_and_zombies_can_be_signalled() {
    let family = Family::new();
    let parent = family.child();
    let identity = parent.node.start_child(WAIT).unwrap();
    parent.node.set_group(identity.pid, None, WAIT).unwrap();
    let group = Target::Group(identity.pid);
    for signal in [0, 10] {
        assert_eq!(family.first.node.kill(group, signal, WAIT), Ok(()));
        assert_eq!(parent.node.kill(group, signal, WAIT), Ok(()));
    }
    let child = family.start(identity);
    until("it comes", || child.signals() == [10]);
    child.exit(0);
    until("it is a zombie", || !parent.ended().is_empty());
    for signal in [0, 10] {
        assert_eq!(family.first.node.kill(group, signal, WAIT), Ok(()));
        assert_eq!(parent.node.kill(group, signal, WAIT), Ok(()));
    }
}

#[test]
fn a_signal_for_all_without_another_process_is_esrch() {
    let family = Family::new();
    let first = &family.first.node;
    let gone = Err(Error::NoSuchProcess);
    for signal in [0, 10, 40] {
        assert_eq!(first.kill(Target::All, signal, WAIT), gone);
    }
    // A starting process counts, and so does a zombie.
    let identity = first.start_child(WAIT).unwrap();
    assert_eq!(first.kill(Target::All, 0, WAIT), Ok(()));
    let child = family.start(identity);
    let pid = child.pid;
    child.exit(0);
    until("it is a zombie", || !family.first.ended().is_empty());
    assert_eq!(first.kill(Target::All, 10, WAIT), Ok(()));
    first.wait_child(ChildSelector::Pid(pid), WAIT).unwrap();
    assert_eq!(first.kill(Target::All, 10, WAIT), gone);
    // The sender does not count: after the end of the first process the last one is alone.
    let last = family.child();
    assert_eq!(last.node.kill(Target::All, 10, WAIT), Ok(()));
    until("it comes", || family.first.signals() == [10]);
    assert_eq!(first.leave(NOW), Err(Error::TimedOut));
    for signal in [0, 10] {
        assert_eq!(last.node.kill(Target::All, signal, WAIT), gone);
    }
    assert_eq!(family.first.signals(), [10], "it has ended");
    last.exit(0);
}

#[test]
fn every_form_of_a_signal_checks_its_number() {
    let family = Family::new();
    let child = family.child();
    let identity = family.first.node.start_child(WAIT).unwrap();
    let pids = [child.pid, identity.pid.unwrap(), family.first.pid];
    for process in [&family.first, &child] {
        process.os.threads.lock().push(process.pid.get());
    }
    for signal in [-1, 65, i32::MAX, i32::MIN] {
        for process in [&family.first, &child] {
            for pid in pids {
                for target in [
                    Target::Process(pid),
                    Target::Thread {
                        pid,
                        tid: pid.get(),
                    },
                    Target::Group(Some(family.first.pid)),
                    Target::Group(None),
                    Target::All,
                ] {
                    let outcome = process.node.kill(target, signal, WAIT);
                    assert_eq!(outcome, Err(Error::Invalid(Invalid::Signal)), "{target:?}");
                }
            }
            // The target is looked up first, as in the kernel.
            let nobody = 4_000_000;
            for target in [
                Target::Process(Pid::new(nobody).unwrap()),
                Target::Thread {
                    pid: Pid::new(nobody).unwrap(),
                    tid: nobody,
                },
                Target::Group(Pid::new(nobody)),
            ] {
                let outcome = process.node.kill(target, signal, WAIT);
                assert_eq!(outcome, Err(Error::NoSuchProcess));
            }
            assert_eq!(kill_nobody(signal), libc::ESRCH);
        }
    }
}
