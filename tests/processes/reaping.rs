//! When a wait has returned the child is gone for all processes, and a wait that times out loses
//! nothing.

use std::thread;
use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::wire::ProcessState;
use libos_ipc::{ChildSelector, Errno, Error, Interrupt, Pid, Target, Wait};

use crate::family::{Family, NOW, WAIT, until};
use crate::kernel;

const GONE: Error = Error::NoSuchProcess;

/// Checks that no process finds the pid or the group any more.
fn assert_gone(family: &Family, other: &HostNode, pid: Pid) {
    for node in [&family.first.node, other] {
        assert_eq!(node.process(Some(pid), WAIT), Err(GONE));
        assert_eq!(node.group_of(Some(pid), WAIT), Err(GONE));
        assert_eq!(node.session_of(Some(pid), WAIT), Err(GONE));
        assert_eq!(node.kill(Target::Process(pid), 0, WAIT), Err(GONE));
        assert_eq!(node.kill(Target::Group(Some(pid)), 0, WAIT), Err(GONE));
        assert_eq!(node.owner_of(pid.get(), WAIT), Ok(None));
        assert_eq!(
            node.set_group(None, Some(pid), WAIT),
            Err(Error::Refused {
                errno: Errno::EPERM,
                by: None
            })
        );
        let mut last = None;
        while let Some(process) = node.next_process(last.as_ref(), WAIT).unwrap() {
            assert_ne!(process.pid, pid, "a listing has it yet");
            last = Some(process);
        }
    }
}

#[test]
fn a_reaped_child_is_gone_for_every_process() {
    let family = Family::new();
    let (parent, other) = (family.child(), family.child());
    for round in 0..60 {
        let child = family.child_of(&parent);
        parent.node.set_group(Some(child.pid), None, WAIT).unwrap();
        let pid = child.pid;
        // The others have asked about it before, and may remember it.
        assert_eq!(other.node.kill(Target::Process(pid), 0, WAIT), Ok(()));
        let which = match round % 3 {
            0 => ChildSelector::Any,
            1 => ChildSelector::Pid(pid),
            _ => ChildSelector::Group(Some(pid)),
        };
        if round < 30 {
            child.exit(1);
        } else {
            child.die();
        }
        let seen = parent.node.peek_child(which, WAIT).unwrap();
        // A zombie is there for all until then.
        let zombie = family.first.node.process(Some(pid), WAIT).unwrap();
        assert_eq!(zombie.state, ProcessState::Zombie);
        assert_eq!(parent.node.wait_child(which, WAIT), Ok(seen));
        assert_gone(&family, &other.node, pid);
    }
}

#[test]
fn an_interrupt_does_not_prevent_the_reaping_of_a_zombie() {
    let family = Family::new();
    let parent = family.child();
    let child = family.child_of(&parent);
    let pid = child.pid;
    child.exit(3);
    parent.node.peek_child(ChildSelector::Any, WAIT).unwrap();
    let interrupt = Interrupt::new();
    interrupt.raise(&parent.node);
    let wait = Wait::at_most(Duration::ZERO).or_until(&interrupt);
    let exit = parent.node.wait_child(ChildSelector::Any, wait).unwrap();
    assert_eq!((exit.pid, exit.code), (pid, 3));
    assert_eq!(family.first.node.process(Some(pid), WAIT), Err(GONE));
}

#[test]
fn one_of_many_waiting_threads_reaps_the_child_and_the_others_get_echild() {
    let family = Family::new();
    let parent = family.child();
    for _ in 0..20 {
        let child = family.child_of(&parent);
        let got = thread::scope(|scope| {
            let waiting: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| parent.node.wait_child(ChildSelector::Any, WAIT)))
                .collect();
            until("all wait", || {
                parent.node.statistics().pools.waiters.now == 4
            });
            child.exit(0);
            let ended = waiting.into_iter().map(|waiting| waiting.join().unwrap());
            ended
                .inspect(|outcome| assert!(matches!(outcome, Ok(_) | Err(Error::NoChild))))
                .flatten()
                .count()
        });
        assert_eq!(got, 1);
    }
}

#[test]
fn a_wait_for_the_own_group_uses_the_group_at_the_call_as_in_the_kernel() {
    assert!(kernel::own_group_is_that_of_the_call());
    let family = Family::new();
    let parent = family.child();
    let child = family.child_of(&parent);
    let pid = child.pid;
    let exit = thread::scope(|scope| {
        let waiting = scope.spawn(|| parent.node.wait_child(ChildSelector::Group(None), WAIT));
        until("it waits", || {
            let mut waits = parent.node.pending_calls();
            waits.any(|wait| wait.what == libos_ipc::WaitReason::Child)
        });
        family
            .first
            .node
            .set_group(Some(parent.pid), None, WAIT)
            .unwrap();
        child.exit(4);
        waiting.join().unwrap()
    });
    assert_eq!(exit.map(|exit| exit.pid), Ok(pid));
}

#[test]
fn a_wait_without_an_answer_in_time_leaves_the_child_for_the_next_wait() {
    let family = Family::new();
    let (parent, other) = (family.child(), family.child());
    let child = family.child_of(&parent);
    let pid = child.pid;
    child.exit(5);
    let seen = parent.node.peek_child(ChildSelector::Any, WAIT).unwrap();
    let late = family.while_the_leader_is_busy(&other, || {
        parent.node.wait_child(ChildSelector::Pid(pid), NOW)
    });
    assert_eq!(late, Err(Error::TimedOut));
    // By now the leader may have reaped it: that is not lost.
    assert_eq!(parent.node.peek_child(ChildSelector::Any, WAIT), Ok(seen));
    assert_eq!(parent.node.wait_child(ChildSelector::Any, WAIT), Ok(seen));
    assert_gone(&family, &other.node, pid);
    assert_eq!(
        parent.node.wait_child(ChildSelector::Any, NOW),
        Err(Error::NoChild)
    );
    assert_eq!(family.first.node.statistics().rejected_oneway, 0);
}
