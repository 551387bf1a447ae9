//! Process groups and sessions.

use libos_ipc::wire::{ProcessChange, ProcessFlags};
use libos_ipc::{ChildSelector, Errno, Error, Invalid, Pid, Target};

use crate::family::{Family, NOW, WAIT, until};

#[test]
fn children_are_in_their_parents_group_and_session() {
    let family = Family::new();
    let first = family.first.pid;
    let child = family.child();
    assert_eq!(child.node.group_of(None, WAIT), Ok(first));
    assert_eq!(child.node.session_of(None, WAIT), Ok(first));
    assert_eq!(child.node.set_group(None, None, WAIT), Ok(()));
    let grandchild = family.child_of(&child);
    assert_eq!(
        family.first.node.group_of(Some(grandchild.pid), WAIT),
        Ok(child.pid)
    );
    assert_eq!(
        family.first.node.session_of(Some(grandchild.pid), WAIT),
        Ok(first)
    );
    assert_eq!(
        child.node.group_of(Pid::new(4_000_000), WAIT),
        Err(Error::NoSuchProcess)
    );
}

#[test]
fn a_signal_for_a_group_reaches_members_in_all_processes() {
    let family = Family::new();
    let (one, two, three) = (family.child(), family.child(), family.child());
    one.node.set_group(None, None, WAIT).unwrap();
    family
        .first
        .node
        .set_group(Some(two.pid), Some(one.pid), WAIT)
        .unwrap();
    let grandchild = family.child_of(&two);
    // The signal comes from inside, from outside, and for the sender's own group.
    assert_eq!(
        three.node.kill(Target::Group(Some(one.pid)), 20, WAIT),
        Ok(())
    );
    assert_eq!(
        two.node.kill(Target::Group(Some(one.pid)), 21, WAIT),
        Ok(())
    );
    assert_eq!(grandchild.node.kill(Target::Group(None), 22, WAIT), Ok(()));
    for member in [&one, &two, &grandchild] {
        assert_eq!(member.signals(), [20, 21, 22]);
    }
    for other in [&three, &family.first] {
        assert_eq!(other.signals(), []);
    }
    // The group exists as long as it has a member, even after the end of its leader.
    let group = one.pid;
    one.exit(0);
    family
        .first
        .node
        .wait_child(ChildSelector::Pid(group), WAIT)
        .unwrap();
    assert_eq!(
        three.node.kill(Target::Group(Some(group)), 23, WAIT),
        Ok(())
    );
    assert_eq!(grandchild.signals(), [20, 21, 22, 23]);
    assert_eq!(
        three.node.kill(Target::Group(Pid::new(4_000_000)), 0, WAIT),
        Err(Error::NoSuchProcess)
    );
    // If some members refuse the call succeeds; if all refuse it is refused.
    *two.os.refuses.lock() = Some(Errno::EPERM);
    assert_eq!(
        three.node.kill(Target::Group(Some(group)), 24, WAIT),
        Ok(())
    );
    *grandchild.os.refuses.lock() = Some(Errno::EPERM);
    assert_eq!(
        three
            .node
            .kill(Target::Group(Some(group)), 24, WAIT)
            .map_err(Error::errno),
        Err(Errno::EPERM)
    );
}

#[test]
fn set_group_has_the_errors_of_its_man_page() {
    let family = Family::new();
    let node = &family.first.node;
    let (one, two) = (family.child(), family.child());
    let grandchild = family.child_of(&one);
    // The target is neither the caller nor a child of it.
    assert_eq!(
        node.set_group(Some(grandchild.pid), None, WAIT),
        Err(Error::NoSuchProcess)
    );
    assert_eq!(
        one.node.set_group(Some(two.pid), None, WAIT),
        Err(Error::NoSuchProcess)
    );
    // There is no such group.
    assert_eq!(
        one.node.set_group(None, Some(two.pid), WAIT),
        Err(Error::Refused {
            errno: Errno::EPERM,
            by: None
        })
    );
    // The group is in another session.
    two.node.new_session(WAIT).unwrap();
    assert_eq!(
        one.node.set_group(None, Some(two.pid), WAIT),
        Err(Error::Refused {
            errno: Errno::EPERM,
            by: None
        })
    );
    // The target is a child in another session, the leader of a session.
    assert_eq!(
        node.set_group(Some(two.pid), None, WAIT),
        Err(Error::Refused {
            errno: Errno::EPERM,
            by: None
        })
    );
    assert_eq!(
        node.set_group(None, None, WAIT),
        Err(Error::Refused {
            errno: Errno::EPERM,
            by: None
        }),
        "the first process leads its session"
    );
    // The target is a child that runs another program already.
    assert_eq!(node.set_group(Some(one.pid), None, WAIT), Ok(()));
    one.node.mark(ProcessChange::Executed, true, WAIT).unwrap();
    assert_eq!(
        node.set_group(Some(one.pid), None, WAIT),
        Err(Error::Refused {
            errno: Errno::EACCES,
            by: None
        })
    );
    assert_eq!(one.node.set_group(None, None, WAIT), Ok(()), "itself may");
}

#[test]
fn a_group_leader_cannot_start_a_session() {
    let family = Family::new();
    let (one, two) = (family.child(), family.child());
    one.node.set_group(None, None, WAIT).unwrap();
    assert_eq!(
        one.node.new_session(WAIT),
        Err(Error::Refused {
            errno: Errno::EPERM,
            by: None
        })
    );
    assert_eq!(two.node.new_session(WAIT), Ok(two.pid));
    assert_eq!(
        two.node.new_session(WAIT),
        Err(Error::Refused {
            errno: Errno::EPERM,
            by: None
        })
    );
    assert_eq!(two.node.group_of(None, WAIT), Ok(two.pid));
    // The call fails, too, while others are in the group that has its pid.
    family
        .first
        .node
        .set_group(Some(one.pid), Some(family.first.pid), WAIT)
        .unwrap();
    one.node.set_group(None, None, WAIT).unwrap();
    let member = family.child_of(&one);
    family
        .first
        .node
        .set_group(Some(one.pid), Some(family.first.pid), WAIT)
        .unwrap();
    assert_eq!(
        one.node.new_session(WAIT),
        Err(Error::Refused {
            errno: Errno::EPERM,
            by: None
        })
    );
    assert_eq!(member.node.group_of(None, WAIT), Ok(one.pid));
    member.node.set_group(None, None, WAIT).unwrap();
    assert_eq!(one.node.new_session(WAIT), Ok(one.pid));
    assert!(family.first.node.check_invariants());
}

#[test]
fn a_wait_for_a_group_returns_children_of_that_group() {
    let family = Family::new();
    let node = &family.first.node;
    let (one, two) = (family.child(), family.child());
    let (in_group, outside) = (one.pid, two.pid);
    node.set_group(Some(in_group), None, WAIT).unwrap();
    two.exit(2);
    until("it is dead", || {
        node.peek_child(ChildSelector::Any, NOW).is_ok()
    });
    assert_eq!(
        node.wait_child(ChildSelector::Group(Some(in_group)), NOW),
        Err(Error::TimedOut)
    );
    assert_eq!(
        node.wait_child(ChildSelector::Group(None), NOW)
            .unwrap()
            .pid,
        outside,
        "in the caller's own group"
    );
    assert_eq!(
        node.wait_child(ChildSelector::Group(None), NOW),
        Err(Error::NoChild)
    );
    assert_eq!(
        node.wait_child(ChildSelector::Group(Pid::new(4_000_000)), NOW),
        Err(Error::NoChild)
    );
    one.exit(1);
    assert_eq!(
        node.wait_child(ChildSelector::Group(Some(in_group)), WAIT)
            .unwrap()
            .pid,
        in_group
    );
}

#[test]
fn a_stopped_group_that_is_orphaned_gets_hup_and_cont() {
    const SIGHUP: i32 = 1;
    const SIGCONT: i32 = 18;
    let family = Family::new();
    let shell = family.child();
    shell.node.new_session(WAIT).unwrap();
    let job = family.child_of(&shell);
    shell.node.set_group(Some(job.pid), None, WAIT).unwrap();
    let other_job = family.child_of(&shell);
    shell
        .node
        .set_group(Some(other_job.pid), None, WAIT)
        .unwrap();
    let orphaned = |pid| {
        let process = family.first.node.process(Pid::new(pid), WAIT).unwrap();
        process.flags.contains(ProcessFlags::IN_ORPHANED_GROUP)
    };
    assert!(!orphaned(job.pid.get()));
    assert!(
        orphaned(shell.pid.get()),
        "its parent is in another session"
    );
    job.node.mark(ProcessChange::Stopped, true, WAIT).unwrap();
    let helper = family.child_of(&job);
    shell.exit(0);
    until("both of the job get it", || {
        job.signals() == [SIGHUP, SIGCONT] && helper.signals() == [SIGHUP, SIGCONT]
    });
    assert!(orphaned(job.pid.get()));
    assert!(orphaned(other_job.pid.get()));
    assert_eq!(other_job.signals(), [], "nobody in it is stopped");
}

#[test]
fn a_group_that_does_not_answer_in_time_is_not_esrch() {
    let family = Family::new();
    let (child, other) = (family.child(), family.child());
    for target in [Target::Group(None), Target::Group(Some(family.first.pid))] {
        let unanswered =
            family.while_the_leader_is_busy(&other, || child.node.kill(target, 20, NOW));
        assert_eq!(unanswered, Err(Error::TimedOut));
    }
}

#[test]
fn the_id_of_a_thread_stands_for_its_process_as_in_the_kernel() {
    const EINVAL: i32 = 22;
    const ECHILD: i32 = 10;
    let kernel = crate::kernel::calls_with_a_thread();
    assert_eq!(kernel, ([true, true], [EINVAL, 0, ECHILD]));
    let family = Family::new();
    let (child, other) = (family.child(), family.child());
    child.node.new_session(WAIT).unwrap();
    let tid = child.node.take_id(WAIT).unwrap();
    let gone = Err(Error::NoSuchProcess);
    for process in [&family.first, &child, &other] {
        let node = &process.node;
        assert_eq!(node.group_of(Pid::new(tid), WAIT), Ok(child.pid));
        assert_eq!(node.session_of(Pid::new(tid), WAIT), Ok(child.pid));
        assert_eq!(node.process(Pid::new(tid), WAIT).unwrap().pid, child.pid);
        assert_eq!(
            node.set_group(Pid::new(tid), None, WAIT),
            Err(Error::Invalid(Invalid::IsThread))
        );
        assert_eq!(
            node.kill(Target::Process(Pid::new(tid).unwrap()), 0, WAIT),
            Ok(())
        );
        assert_eq!(
            node.kill(Target::Process(Pid::new(tid).unwrap()), 40, WAIT),
            Ok(())
        );
        assert_eq!(
            node.wait_child(ChildSelector::Pid(Pid::new(tid).unwrap()), NOW),
            Err(Error::NoChild)
        );
        // No group has this ID.
        assert_eq!(
            node.set_group(None, Pid::new(tid), WAIT),
            Err(Error::Refused {
                errno: Errno::EPERM,
                by: None
            })
        );
        assert_eq!(node.kill(Target::Group(Pid::new(tid)), 0, WAIT), gone);
        // This ID is in the same range, but not in use.
        assert_eq!(node.group_of(Pid::new(tid + 1), WAIT).map(drop), gone);
        assert_eq!(node.set_group(Pid::new(tid + 1), None, WAIT), gone);
        assert_eq!(
            node.kill(Target::Process(Pid::new(tid + 1).unwrap()), 0, WAIT),
            gone
        );
    }
    assert_eq!(child.signals(), [40, 40, 40]);
    // Another thread keeps the range; the ID of a thread that has ended is not in use.
    child.node.take_id(WAIT).unwrap();
    child.node.release_id(tid, WAIT).unwrap();
    for process in [&family.first, &child, &other] {
        assert_eq!(process.node.group_of(Pid::new(tid), WAIT).map(drop), gone);
        assert_eq!(process.node.set_group(Pid::new(tid), None, WAIT), gone);
    }
}
