//! Every signal is delivered as often as it was sent, to whom it was sent.

use std::thread;
use std::time::Duration;

use libos_ipc::host::{Host, HostNode};
use libos_ipc::{
    ChildSelector, Config, Embedder, Errno, Error, Invalid, Node, Pid, Signal, SignalReply, Target,
    Wait,
};

use crate::family::{Family, LONG, WAIT, until};

#[test]
fn a_process_gets_the_signals_of_each_sender_in_order() {
    let family = Family::new();
    let (one, two) = (family.child(), family.child());
    for signal in [1, 15, 64] {
        assert_eq!(
            one.node.kill(Target::Process(two.pid), signal, WAIT),
            Ok(())
        );
    }
    assert_eq!(two.signals(), [1, 15, 64]);
    let delivered = two.os.recorded.lock().signals[0];
    assert_eq!(
        (delivered.from, delivered.sender),
        (one.vmid(), Some(one.pid))
    );
    assert_eq!(delivered.target, Target::Process(two.pid));
    // To the first process, and from it.
    assert_eq!(
        two.node.kill(Target::Process(family.first.pid), 2, WAIT),
        Ok(())
    );
    assert_eq!(
        family.first.node.kill(Target::Process(one.pid), 3, WAIT),
        Ok(())
    );
    // A process signals itself.
    assert_eq!(one.node.kill(Target::Process(one.pid), 4, WAIT), Ok(()));
    assert_eq!(family.first.signals(), [2]);
    assert_eq!(one.signals(), [3, 4]);
}

#[test]
fn a_child_can_be_signalled_at_every_step_of_its_start() {
    let family = Family::new();
    let first = &family.first.node;
    for _ in 0..40 {
        let identity = first.start_child(WAIT).unwrap();
        let child = thread::scope(|scope| {
            let starting = scope.spawn(|| family.start(identity));
            assert_eq!(
                first.kill(Target::Process(identity.pid.unwrap()), 10, WAIT),
                Ok(())
            );
            starting.join().unwrap()
        });
        until("the signal comes", || child.signals() == [10]);
        child.die();
        first
            .wait_child(ChildSelector::Pid(identity.pid.unwrap()), WAIT)
            .unwrap();
    }
}

#[test]
fn a_pending_signal_names_its_sender_and_one_of_two_senders_names_none() {
    let family = Family::new();
    let (one, two) = (family.child(), family.child());
    let identity = family.first.node.start_child(WAIT).unwrap();
    let target = Target::Process(identity.pid.unwrap());
    for (sender, signal) in [
        (&one, 5),
        (&two, 7),
        (&one, 6),
        (&two, 6),
        (&two, 40),
        (&one, 40),
    ] {
        assert_eq!(sender.node.kill(target, signal, WAIT), Ok(()));
    }
    let child = family.start(identity);
    until("the signals come", || child.signals().len() == 5);
    let recorded = child.os.recorded.lock();
    let signals = recorded.signals.iter();
    let delivered: Vec<_> = signals
        .map(|signal| (signal.signal, signal.sender))
        .collect();
    let (one, two) = (Some(one.pid), Some(two.pid));
    assert_eq!(
        delivered,
        [(5, one), (7, two), (6, None), (40, two), (40, one)]
    );
}

#[test]
fn a_signal_for_a_thread_goes_to_its_process() {
    let family = Family::new();
    let child = family.child();
    child.os.threads.lock().push(77);
    let (pid, node) = (child.pid, &family.first.node);
    assert_eq!(node.kill(Target::Thread { pid, tid: 77 }, 10, WAIT), Ok(()));
    assert_eq!(child.signals(), [10]);
    let other = Target::Thread { pid, tid: 78 };
    assert_eq!(node.kill(other, 10, WAIT), Err(Error::NoSuchProcess));
}

#[test]
fn signal_0_is_not_delivered() {
    let family = Family::new();
    let child = family.child();
    let node = &family.first.node;
    assert_eq!(node.kill(Target::Process(child.pid), 0, WAIT), Ok(()));
    assert_eq!(node.kill(Target::All, 0, WAIT), Ok(()));
    assert_eq!(
        node.kill(Target::Process(Pid::new(4_000_000).unwrap()), 0, WAIT),
        Err(Error::NoSuchProcess)
    );
    assert_eq!(child.signals(), []);
}

#[test]
fn errors_of_kill_are_those_of_the_man_page() {
    let family = Family::new();
    let child = family.child();
    let node = &family.first.node;
    for signal in [-1, 65, i32::MAX, i32::MIN] {
        for target in [
            Target::Process(child.pid),
            Target::All,
            Target::Group(Pid::new(1)),
        ] {
            assert_eq!(
                node.kill(target, signal, WAIT),
                Err(Error::Invalid(Invalid::Signal))
            );
        }
    }
    // EINVAL of the target is not one of this call's own: it names the process that refused as well.
    for errno in [Errno::EPERM, Errno::EINVAL] {
        *child.os.refuses.lock() = Some(errno);
        let by = child.node.identity().vmid;
        let refused = node.kill(Target::Process(child.pid), 9, WAIT);
        assert_eq!(
            refused,
            Err(Error::Refused {
                errno,
                by: Some(by)
            })
        );
        let said = format!("process {by} refused with {errno}");
        assert!(refused.unwrap_err().to_string().contains(&said), "{said}");
    }
    *child.os.refuses.lock() = Some(Errno::ESRCH);
    assert_eq!(
        node.kill(Target::Process(child.pid), 9, WAIT),
        Err(Error::NoSuchProcess)
    );
}

#[test]
fn a_signal_can_be_answered_later() {
    let family = Family::new();
    let child = family.child();
    *child.os.defers_replies.lock() = true;
    let node = &family.first.node;
    thread::scope(|scope| {
        let calls: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| node.kill(Target::Process(child.pid), 5, WAIT)))
            .collect();
        until("all are deferred", || {
            child.os.recorded.lock().deferred.len() == 8
        });
        // The worker is free for others meanwhile.
        assert_eq!(node.owner_of(child.pid.get(), WAIT), Ok(Some(child.vmid())));
        let deferred: Vec<_> = child.os.recorded.lock().deferred.drain(..).collect();
        for (at, reply) in deferred.into_iter().enumerate() {
            let outcome = if at % 2 == 0 {
                Ok(())
            } else {
                Err(Errno::EPERM)
            };
            assert_eq!(reply.send(&child.node, outcome), Ok(()));
        }
        let outcomes: Vec<_> = calls.into_iter().map(|call| call.join().unwrap()).collect();
        let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(done, 4, "{outcomes:?}");
    });
    // A signal to the caller's own process waits for its reply, too.
    thread::scope(|scope| {
        let call = scope.spawn(|| child.node.kill(Target::Process(child.pid), 5, WAIT));
        until("it is deferred", || {
            !child.os.recorded.lock().deferred.is_empty()
        });
        let reply = child.os.recorded.lock().deferred.remove(0);
        assert_eq!(reply.send(&child.node, Ok(())), Ok(()));
        assert_eq!(call.join().unwrap(), Ok(()));
    });
    // One that never comes costs its caller the time limit.
    let short = Wait::at_most(Duration::from_millis(5));
    let outcome = node.kill(Target::Process(child.pid), 5, short);
    assert_eq!(outcome, Err(Error::TimedOut));
}

#[test]
fn a_process_that_dies_while_it_is_signalled_is_a_zombie_or_gone() {
    let family = Family::new();
    let child = family.child();
    let (pid, other) = (child.pid, family.child());
    *child.os.defers_replies.lock() = true;
    thread::scope(|scope| {
        let parents = scope.spawn(|| family.first.node.kill(Target::Process(pid), 9, WAIT));
        let others = scope.spawn(|| other.node.kill(Target::Process(pid), 9, WAIT));
        until("both wait", || child.os.recorded.lock().deferred.len() == 2);
        child.die();
        assert_eq!(parents.join().unwrap(), Ok(()), "it was our child");
        assert!(matches!(
            others.join().unwrap(),
            Ok(()) | Err(Error::NoSuchProcess)
        ));
    });
}

#[test]
fn a_signal_for_all_reaches_every_member_but_the_sender_once() {
    let family = Family::new();
    let children: Vec<_> = (0..6).map(|_| family.child()).collect();
    let grandchild = family.child_of(&children[0]);
    for round in 1..=20 {
        let sender = &children[round % children.len()];
        assert_eq!(sender.node.kill(Target::All, 12, WAIT), Ok(()));
    }
    let sent_by = |at: usize| {
        (1..=20)
            .filter(|round| round % children.len() == at)
            .count()
    };
    for (at, child) in children.iter().enumerate() {
        until("all arrived", || child.signals().len() == 20 - sent_by(at));
    }
    until("all arrived", || grandchild.signals().len() == 20);
    until("all arrived", || family.first.signals().len() == 20);
    // The first process sends one, too.
    assert_eq!(family.first.node.kill(Target::All, 13, WAIT), Ok(()));
    until("it arrived", || grandchild.signals().len() == 21);
    assert_eq!(family.first.signals().len(), 20);
    // A process that is being started gets it when it joins.
    let starting = grandchild.node.start_child(WAIT).unwrap();
    assert_eq!(family.first.node.kill(Target::All, 14, WAIT), Ok(()));
    let late = family.start(starting);
    until("it arrived", || late.signals() == [14]);
    // The process has received no other signal.
    assert_eq!(
        family.first.node.kill(Target::Process(late.pid), 1, WAIT),
        Ok(())
    );
    assert_eq!(late.signals(), [14, 1]);
    until("all arrived", || grandchild.signals().len() == 22);
}

#[test]
fn a_member_that_does_not_read_delays_no_signal_to_the_others() {
    let family = Family::new();
    let unresponsive = crate::members::UnresponsiveMember::join(&family, 900);
    let child = family.child();
    for round in 1..=2000 {
        assert_eq!(child.node.kill(Target::All, 1 + round % 3, WAIT), Ok(()));
    }
    until("all arrived", || family.first.signals().len() == 2000);
    assert_eq!(child.node.owner_of(1, WAIT).map(|_| ()), Ok(()));
    drop(unresponsive);
    until("it is gone", || {
        family.first.node.statistics().pools.peers.now == 1
    });
}

/// The end of a connection is not the end of the process: the leader says when that has ended.
#[test]
fn child_that_disconnected_from_its_parent_still_gets_its_signals() {
    let family = Family::new();
    let parent = family.child();
    let child = family.child_of(&parent);
    let (target, back) = (Target::Process(child.pid), Target::Process(parent.pid));
    child.node.kill(back, 1, WAIT).unwrap();
    child.node.disconnect(parent.vmid());
    until("the parent sees it", || {
        parent.os.recorded.lock().left.contains(&child.vmid())
    });
    assert_eq!(parent.node.kill(target, 10, WAIT), Ok(()));
    assert_eq!(child.signals(), [10]);
}

/// A library OS whose signal handler has a bug.
struct Panics;

impl Embedder<Host> for Panics {
    fn signal(&self, _: &Node<'_, Host>, _: &Signal, _: SignalReply) {
        panic!("a bug of the embedder");
    }
}

#[test]
fn callback_that_panics_ends_the_node() {
    let family = Family::new();
    let first = &family.first;
    let identity = first.node.start_child(WAIT).unwrap();
    let node = HostNode::start_with(&family.base, identity, Config::DEFAULT, Box::new(Panics));
    let node = node.unwrap();
    node.join(WAIT).unwrap();
    let other = family.child();
    let target = Target::Process(identity.pid.unwrap());
    // The zombie counts as signalled. The process ends after its backtrace is printed, which takes long on a busy machine.
    let wait = Wait::at_most(LONG * 6);
    assert_eq!(other.node.kill(target, 10, wait), Ok(()));
    let exit = first
        .node
        .wait_child(ChildSelector::Pid(identity.pid.unwrap()), WAIT);
    assert_eq!(exit.unwrap().signal, 30, "SIGPWR");
    assert_eq!(node.take_id(WAIT), Err(Error::ShuttingDown));
}
