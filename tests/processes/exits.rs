//! A parent gets the exit report of each child once, and an ID is not assigned again too early.

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use libos_ipc::wire::{ProcessChange, ProcessState};
use libos_ipc::{ChildSelector, Error, Interrupt, Pid, Target, Wait};

use crate::family::{Family, LONG, NOW, WAIT, until};

const SIGPWR: u32 = 30;

#[test]
fn a_parent_gets_the_exit_code_of_its_child() {
    let family = Family::new();
    let child = family.child();
    let pid = child.pid;
    assert_eq!(
        family.first.node.wait_child(ChildSelector::Any, NOW),
        Err(Error::TimedOut)
    );
    child.exit(42);
    let exit = family
        .first
        .node
        .wait_child(ChildSelector::Any, WAIT)
        .unwrap();
    assert_eq!((exit.pid, exit.uid), (pid, 7));
    assert_eq!((exit.code, exit.signal), (42, 0));
    assert_eq!(exit.parent_pid, Some(family.first.pid));
    assert_eq!(
        family.first.node.wait_child(ChildSelector::Any, WAIT),
        Err(Error::NoChild)
    );
    until("the embedder is notified", || {
        !family.first.ended().is_empty()
    });
    assert_eq!(family.first.ended(), [(pid, 42, 0)]);
}

#[test]
fn a_child_that_dies_without_an_exit_report_was_killed_by_sigpwr() {
    let family = Family::new();
    let parent = family.child();
    let child = family.child_of(&parent);
    let pid = child.pid;
    child.die();
    let exit = parent
        .node
        .wait_child(ChildSelector::Pid(pid), WAIT)
        .unwrap();
    assert_eq!((exit.pid, exit.signal), (pid, SIGPWR));
    until("the embedder is notified", || !parent.ended().is_empty());
    assert_eq!(parent.ended(), [(pid, 0, SIGPWR)]);
    assert_eq!(family.first.ended(), []);
}

#[test]
fn a_wait_returns_only_the_selected_children() {
    let family = Family::new();
    let (one, two) = (family.child(), family.child());
    let (first, second) = (one.pid, two.pid);
    assert_eq!(
        family
            .first
            .node
            .wait_child(ChildSelector::Pid(Pid::new(4_000_000).unwrap()), WAIT),
        Err(Error::NoChild)
    );
    two.exit(2);
    until("it is dead", || {
        family
            .first
            .node
            .peek_child(ChildSelector::Any, NOW)
            .is_ok()
    });
    assert_eq!(
        family.first.node.wait_child(ChildSelector::Pid(first), NOW),
        Err(Error::TimedOut)
    );
    // The child is reported, and not reaped.
    let seen = family
        .first
        .node
        .peek_child(ChildSelector::Any, NOW)
        .unwrap();
    assert_eq!(seen.pid, second);
    let exit = family
        .first
        .node
        .wait_child(ChildSelector::Pid(second), NOW)
        .unwrap();
    assert_eq!(exit, seen);
    one.exit(1);
    assert_eq!(
        family
            .first
            .node
            .wait_child(ChildSelector::Any, WAIT)
            .unwrap()
            .pid,
        first
    );
}

#[test]
fn a_wait_ends_at_a_death_a_limit_or_an_interrupt() {
    let family = Family::new();
    let child = family.child();
    let node = &family.first.node;
    let interrupt = Interrupt::new();
    thread::scope(|scope| {
        let waiting =
            scope.spawn(|| node.wait_child(ChildSelector::Any, Wait::FOREVER.or_until(&interrupt)));
        until("it waits", || node.statistics().pools.waiters.now == 1);
        interrupt.raise(node);
        assert_eq!(waiting.join().unwrap(), Err(Error::Interrupted));
        let waiting = scope.spawn(|| node.wait_child(ChildSelector::Any, WAIT));
        until("it waits", || node.statistics().pools.waiters.now == 1);
        child.exit(3);
        assert_eq!(waiting.join().unwrap().unwrap().code, 3);
    });
    let short = Wait::at_most(Duration::from_millis(5));
    let _second = family.child();
    assert_eq!(
        node.wait_child(ChildSelector::Any, short),
        Err(Error::TimedOut)
    );
}

#[test]
fn a_pid_stays_taken_until_its_process_is_reaped() {
    let family = Family::new();
    let child = family.child();
    let (pid, vmid) = (child.pid, child.vmid());
    let other = family.child();
    // Even the process itself can't transfer its own pid.
    assert!(
        child
            .node
            .change_owner(pid.get(), other.vmid(), WAIT)
            .is_err()
    );
    child.exit(0);
    until("the leader has seen its end", || {
        family.first.node.process(Some(pid), WAIT).unwrap().state == ProcessState::Zombie
    });
    let owner = other.node.owner_of(pid.get(), WAIT).unwrap();
    assert_eq!(
        owner,
        Some(family.first.vmid()),
        "the parent answers for a zombie"
    );
    assert_ne!(owner, Some(vmid));
    // Any process can signal a zombie, without an effect.
    assert_eq!(
        family.first.node.kill(Target::Process(pid), 9, WAIT),
        Ok(())
    );
    assert_eq!(other.node.kill(Target::Process(pid), 9, WAIT), Ok(()));
    family
        .first
        .node
        .wait_child(ChildSelector::Pid(pid), WAIT)
        .unwrap();
    assert_eq!(other.node.owner_of(pid.get(), WAIT).unwrap(), None);
    assert_eq!(
        other.node.kill(Target::Process(pid), 0, WAIT),
        Err(Error::NoSuchProcess)
    );
    assert_eq!(
        family.first.node.process(Some(pid), WAIT),
        Err(Error::NoSuchProcess)
    );
}

#[test]
fn a_pid_stays_taken_while_it_names_a_group_or_session() {
    let family = Family::new();
    let leader = family.child();
    let session = leader.node.new_session(WAIT).unwrap();
    assert_eq!(session, leader.pid);
    let member = family.child_of(&leader);
    assert_eq!(member.node.session_of(None, WAIT).unwrap(), session);
    leader.exit(0);
    family
        .first
        .node
        .wait_child(ChildSelector::Pid(session), WAIT)
        .unwrap();
    until("the leader has seen its end", || {
        member.node.process(Some(session), WAIT) == Err(Error::NoSuchProcess)
    });
    let owner = member.node.owner_of(session.get(), WAIT).unwrap();
    assert!(
        owner.is_some(),
        "the pid of a session's leader is free too early"
    );
    // No process has that pid, but its group can be signalled.
    assert_eq!(
        family.first.node.kill(Target::Process(session), 0, WAIT),
        Err(Error::NoSuchProcess)
    );
    assert_eq!(
        family
            .first
            .node
            .kill(Target::Group(Some(session)), 5, WAIT),
        Ok(())
    );
    assert_eq!(member.signals(), [5]);
    let pid = member.pid;
    member.exit(0);
    family
        .first
        .node
        .wait_child(ChildSelector::Pid(pid), WAIT)
        .unwrap();
    until("the name is free", || {
        family
            .first
            .node
            .owner_of(session.get(), WAIT)
            .unwrap()
            .is_none()
    });
    assert_eq!(family.first.node.statistics().pools.processes.now, 1);
    assert!(family.first.node.check_invariants());
}

#[test]
fn orphans_get_the_first_process_as_parent() {
    let family = Family::new();
    let parent = family.child();
    let orphan = family.child_of(&parent);
    let (pid, parent_pid) = (orphan.pid, parent.pid);
    assert_eq!(
        orphan.node.process(None, WAIT).unwrap().parent,
        Some(parent_pid)
    );
    parent.exit(0);
    until("it is inherited", || {
        orphan.node.process(None, WAIT).unwrap().parent == Some(family.first.pid)
    });
    family
        .first
        .node
        .wait_child(ChildSelector::Pid(parent_pid), WAIT)
        .unwrap();
    // The parent is a child like any other, and alive.
    assert_eq!(
        family.first.node.wait_child(ChildSelector::Any, NOW),
        Err(Error::TimedOut)
    );
    orphan.exit(9);
    let exit = family
        .first
        .node
        .wait_child(ChildSelector::Any, WAIT)
        .unwrap();
    assert_eq!((exit.pid, exit.code), (pid, 9));
    assert_eq!(exit.parent_pid, Some(family.first.pid));
    until("the embedder was notified of both", || {
        family.first.ended().len() == 2
    });
    assert_eq!(family.first.ended(), [(parent_pid, 0, 0), (pid, 9, 0)]);
    until("all pids are free", || {
        family.first.node.statistics().pools.processes.now == 1
    });
}

#[test]
fn a_subreaper_gets_the_orphans_below_it() {
    let family = Family::new();
    let reaper = family.child();
    reaper
        .node
        .mark(ProcessChange::Subreaper, true, WAIT)
        .unwrap();
    let middle = family.child_of(&reaper);
    let alive = family.child_of(&middle);
    let zombie = family.child_of(&middle);
    let (middle_pid, alive_pid, zombie_pid) = (middle.pid, alive.pid, zombie.pid);
    zombie.exit(5);
    until("it is a zombie", || {
        family
            .first
            .node
            .process(Some(zombie_pid), WAIT)
            .unwrap()
            .state
            == ProcessState::Zombie
    });
    middle.die();
    until("the zombie is inherited", || {
        reaper.node.process(Some(zombie_pid), WAIT).unwrap().parent == Some(reaper.pid)
    });
    // The zombie that was not reaped moves, too.
    let exit = reaper
        .node
        .wait_child(ChildSelector::Pid(zombie_pid), WAIT)
        .unwrap();
    assert_eq!((exit.code, exit.parent_pid), (5, Some(reaper.pid)));
    reaper
        .node
        .wait_child(ChildSelector::Pid(middle_pid), WAIT)
        .unwrap();
    assert_eq!(
        reaper.node.wait_child(ChildSelector::Any, NOW),
        Err(Error::TimedOut)
    );
    alive.die();
    let exit = reaper.node.wait_child(ChildSelector::Any, WAIT).unwrap();
    assert_eq!((exit.pid, exit.signal), (alive_pid, SIGPWR));
    assert_eq!(
        reaper.node.wait_child(ChildSelector::Any, NOW),
        Err(Error::NoChild)
    );
    assert_eq!(family.first.ended(), []);
    until("the embedder was notified of all", || {
        reaper.ended().len() == 3
    });
}

#[test]
fn a_child_that_never_joins_leaves_nothing() {
    let family = Family::new();
    let parent = family.child();
    let never = parent.node.start_child(WAIT).unwrap();
    let before = family.first.node.process(never.pid, WAIT).unwrap();
    assert_eq!(before.state, ProcessState::Starting);
    parent.node.abandon_child(never.vmid).unwrap();
    until("it is forgotten", || {
        family.first.node.process(never.pid, WAIT) == Err(Error::NoSuchProcess)
    });
    assert_eq!(
        parent.node.wait_child(ChildSelector::Any, NOW),
        Err(Error::NoChild)
    );
    // This holds even while the leader tries to connect to it.
    let first = &family.first.node;
    let never = first.start_child(WAIT).unwrap();
    let address = family.base.with_extension(never.vmid.to_string());
    let _backlog = UnixListener::bind(address).unwrap();
    first.connect(never.vmid).unwrap();
    first.abandon_child(never.vmid).unwrap();
    let which = ChildSelector::Pid(never.pid.unwrap());
    assert_eq!(first.wait_child(which, NOW), Err(Error::NoChild));
    assert_eq!(first.owner_of(never.pid.unwrap().get(), WAIT), Ok(None));
    parent.exit(0);
    family
        .first
        .node
        .wait_child(ChildSelector::Any, WAIT)
        .unwrap();
    until("all pids are free", || {
        family.first.node.statistics().pools.processes.now == 1
    });
    assert_eq!(
        family.first.node.owner_of(never.pid.unwrap().get(), WAIT),
        Ok(None)
    );
}

#[test]
fn a_child_that_dies_before_it_joins_is_reaped_like_any_other() {
    let family = Family::new();
    let parent = family.child();
    for parent in [&family.first, &parent] {
        let child = parent.node.start_child(WAIT).unwrap();
        // The child has sent its VMID, and then nothing more.
        let leader = family.base.with_extension("1");
        let mut stream = UnixStream::connect(leader).unwrap();
        let vmid = child.vmid.get().to_le_bytes();
        stream.write_all(&vmid).unwrap();
        drop(stream);
        let which = ChildSelector::Pid(child.pid.unwrap());
        let exit = parent.node.wait_child(which, WAIT).unwrap();
        assert_eq!((exit.pid, exit.signal), (child.pid.unwrap(), SIGPWR));
        until("the embedder is notified", || !parent.ended().is_empty());
        assert_eq!(parent.ended(), [(child.pid.unwrap(), 0, SIGPWR)]);
        until("its pid is free", || {
            family.first.node.owner_of(child.pid.unwrap().get(), WAIT) == Ok(None)
        });
        // An abandoned child is not reported.
        let never = parent.node.start_child(WAIT).unwrap();
        parent.node.abandon_child(never.vmid).unwrap();
        until("its pid is free", || {
            family.first.node.owner_of(never.pid.unwrap().get(), WAIT) == Ok(None)
        });
        assert_eq!(parent.ended().len(), 1);
    }
    assert_eq!(
        parent.node.wait_child(ChildSelector::Any, NOW),
        Err(Error::NoChild)
    );
    assert_eq!(family.first.node.statistics().rejected_oneway, 0);
}

#[test]
fn many_children_that_end_at_once_are_each_reported_once() {
    const CHILDREN: usize = 24;
    let family = Family::new();
    let children: Vec<_> = (0..CHILDREN).map(|_| family.child()).collect();
    let mut pids: Vec<_> = children.iter().map(|child| child.pid).collect();
    thread::scope(|scope| {
        for (at, child) in children.into_iter().enumerate() {
            scope.spawn(move || {
                if at % 3 == 0 {
                    child.die();
                } else {
                    child.exit(u32::try_from(at).unwrap());
                }
            });
        }
    });
    let mut seen = Vec::new();
    let wait = Wait::at_most(LONG);
    while let Ok(exit) = family.first.node.wait_child(ChildSelector::Any, wait) {
        let at = pids.iter().position(|pid| *pid == exit.pid).unwrap();
        let expected = if at % 3 == 0 {
            (0, SIGPWR)
        } else {
            (u32::try_from(at).unwrap(), 0)
        };
        assert_eq!((exit.code, exit.signal), expected);
        seen.push(exit.pid);
    }
    seen.sort_unstable();
    pids.sort_unstable();
    assert_eq!(seen, pids);
    until("the embedder was notified of all", || {
        family.first.ended().len() == CHILDREN
    });
    until("all pids are free", || {
        family.first.node.statistics().pools.processes.now == 1
    });
}
