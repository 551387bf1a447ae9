//! Processes whose parent ends: before they have joined, while they wait for notices, and without
//! room for their exit reports.

use std::time::{Duration, Instant};

use libos_ipc::wire::{FileLock, LockFamily, LockKind, ProcessChange, ProcessState};
use libos_ipc::{Capacities, ChildSelector, Config, Errno, Error, Pid, Quota, Target, Vmid, Wait};

use crate::family::{Family, LONG, NOW, Process, WAIT, until};
use crate::kernel;

const SHORT: Duration = Duration::from_millis(300);

/// Makes a family whose first process has that start limit.
fn with_limit(start_limit: Duration) -> Family {
    Family::led_with(Config {
        start_limit,
        ..Config::DEFAULT
    })
}

fn flock(handle: u64) -> FileLock<'static> {
    FileLock {
        family: LockFamily::Flock,
        kind: LockKind::Write,
        start: 0,
        end: u64::MAX,
        pid: 0,
        handle,
        wait: false,
        path: b"/file",
    }
}

/// Waits until the leader has handled the end of that process and its parent has reaped it.
fn reap(parent: &Process, pid: Pid) {
    let exit = parent
        .node
        .wait_child(ChildSelector::Pid(pid), WAIT)
        .unwrap();
    assert_eq!(exit.pid, pid);
}

#[test]
fn a_child_joins_after_its_parent_has_ended_with_all_ids_and_files_it_was_given() {
    let family = Family::new();
    let first = &family.first;
    for subreaper in [false, true] {
        let above = family.child();
        if subreaper {
            above
                .node
                .mark(ProcessChange::Subreaper, true, WAIT)
                .unwrap();
        }
        let heir = if subreaper { &above } else { first };
        let parent = family.child_of(&above);
        parent.node.set_group(None, None, WAIT).unwrap();
        let identity = parent.node.start_child(WAIT).unwrap();
        let id = parent.node.take_id(WAIT).unwrap();
        parent.node.transfer_id(id, identity.vmid, WAIT).unwrap();
        parent.node.set_lock(&flock(7), WAIT).unwrap();
        parent.node.give_open_file(identity.vmid, 7, WAIT).unwrap();
        // The start is under way.
        let killed = first
            .node
            .kill(Target::Process(identity.pid.unwrap()), 9, WAIT);
        assert_eq!(killed, Ok(()));
        let pid = parent.pid;
        if subreaper {
            parent.die();
        } else {
            parent.exit(1);
        }
        reap(&above, pid);
        let starting = first.node.process(identity.pid, WAIT).unwrap();
        assert_eq!(starting.state, ProcessState::Starting);
        assert_eq!((starting.parent, starting.group), (Some(heir.pid), pid));
        // The new parent waits for it, and can signal it, too.
        assert_eq!(
            heir.node.wait_child(ChildSelector::Pid(starting.pid), NOW),
            Err(Error::TimedOut)
        );
        assert_eq!(first.node.kill(Target::Group(Some(pid)), 10, WAIT), Ok(()));

        let child = family.start(identity);
        until("the signals come", || child.signals().len() == 2);
        child.node.accept_id(id).unwrap();
        assert_eq!(first.node.owner_of(id, WAIT), Ok(Some(child.vmid())));
        let locked = first.node.set_lock(&flock(8), WAIT);
        assert_eq!(
            locked,
            Err(Error::Refused {
                errno: Errno::EAGAIN,
                by: None
            }),
            "its open file's lock is gone"
        );
        let pid = child.pid;
        child.exit(5);
        let exit = heir.node.wait_child(ChildSelector::Pid(pid), WAIT).unwrap();
        assert_eq!((exit.code, exit.parent_pid), (5, Some(heir.pid)));
        first.node.set_lock(&flock(8), WAIT).unwrap();
        first.node.close_open_file(8, WAIT).unwrap();
        let pid = above.pid;
        above.exit(0);
        reap(first, pid);
    }
    assert_eq!(first.node.statistics().pools.processes.now, 1);
    assert!(first.node.check_invariants());
}

#[test]
fn a_child_that_does_not_join_in_time_is_abandoned_and_leaves_nothing() {
    let family = with_limit(SHORT);
    let first = &family.first;
    let before = first.node.statistics().pools;
    let parent = family.child();
    let mut given = Vec::new();
    for handle in 0..10 {
        let identity = parent.node.start_child(WAIT).unwrap();
        let id = parent.node.take_id(WAIT).unwrap();
        parent.node.transfer_id(id, identity.vmid, WAIT).unwrap();
        parent
            .node
            .give_open_file(identity.vmid, handle, WAIT)
            .unwrap();
        first
            .node
            .kill(Target::Process(identity.pid.unwrap()), 9, WAIT)
            .unwrap();
        given.push((identity, id));
    }
    // There is no limit while its parent lives.
    std::thread::sleep(SHORT * 2);
    assert!(first.node.process(given[0].0.pid, WAIT).is_ok());
    let pid = parent.pid;
    parent.exit(0);
    reap(first, pid);
    // A wait for them ends with `ECHILD`.
    let waited = first.node.wait_child(ChildSelector::Any, WAIT);
    assert_eq!(waited, Err(Error::NoChild));
    let gone = Error::NoSuchProcess;
    for (identity, id) in &given {
        assert_eq!(first.node.process(identity.pid, WAIT), Err(gone));
        assert_eq!(first.node.owner_of(*id, WAIT), Ok(None));
        assert_eq!(
            first.node.owner_of(identity.pid.unwrap().get(), WAIT),
            Ok(None)
        );
        assert_eq!(
            first
                .node
                .kill(Target::Process(identity.pid.unwrap()), 0, WAIT),
            Err(gone)
        );
    }
    let after = first.node.statistics().pools;
    assert_eq!(after.processes.now, before.processes.now);
    assert_eq!(after.lock_handles.now, 0);
    assert_eq!(first.ended(), [(pid, 0, 0)]);
    assert!(first.node.check_invariants());
    // The call is too late now.
    let late = libos_ipc::host::HostNode::start(&family.base, given[0].0, Config::DEFAULT).unwrap();
    assert!(late.join(WAIT).is_err());
    assert_eq!(first.node.process(given[0].0.pid, WAIT), Err(gone));
}

#[test]
fn one_process_cannot_fill_the_table_of_processes_with_starts() {
    let capacities = Capacities {
        processes: 12,
        ..Capacities::DEFAULT
    };
    let family = Family::led_with(Config {
        capacities,
        start_limit: Duration::from_millis(20),
        quota: Quota::Off,
        ..Config::DEFAULT
    });
    for _ in 0..20 {
        let parent = family.child();
        for _ in 0..4 {
            parent.node.start_child(WAIT).unwrap();
        }
        let pid = parent.pid;
        parent.die();
        reap(&family.first, pid);
        until("there is room", || {
            family.first.node.statistics().pools.processes.now <= 5
        });
    }
}

#[test]
fn leader_that_closes_when_the_time_of_a_start_without_a_parent_is_over_ends() {
    let limit = Duration::from_millis(1);
    for delay in 0..100 {
        let family = with_limit(limit);
        let parent = family.child();
        parent.node.start_child(WAIT).unwrap();
        let pid = parent.pid;
        parent.die();
        reap(&family.first, pid);
        // The stream closes a little before or after that time.
        let then = Instant::now() + limit / 2 + limit / 100 * delay;
        while Instant::now() < then {
            std::hint::spin_loop();
        }
        drop(family);
    }
}

#[test]
fn a_wait_for_a_child_ends_when_the_child_is_abandoned() {
    let family = Family::new();
    let parent = family.child();
    for of in [&family.first, &parent] {
        let never = of.node.start_child(WAIT).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                of.node
                    .wait_child(ChildSelector::Pid(never.pid.unwrap()), Wait::FOREVER)
            });
            until("it waits", || of.node.pending_calls().count() == 1);
            of.node.abandon_child(never.vmid).unwrap();
            assert_eq!(waiting.join().unwrap(), Err(Error::NoChild));
        });
    }
}

/// The notices about parents are those of the kernel's `PR_SET_PDEATHSIG`.
#[test]
fn every_end_of_a_parent_is_reported_once_as_by_the_kernel() {
    assert_eq!(kernel::ends_of_parents(), ["bee.", "be."]);
    let family = Family::new();
    let reaper = family.child();
    reaper
        .node
        .mark(ProcessChange::Subreaper, true, WAIT)
        .unwrap();
    let parent = family.child_of(&reaper);
    let child = family.child_of(&parent);
    let silent = family.child_of(&parent);
    let late = family.child_of(&parent);
    // Its parent has never sent anything to it.
    assert_eq!(child.node.watch_parent(true, WAIT), Ok(Some(parent.pid)));
    assert_eq!(silent.node.watch_parent(true, WAIT), Ok(Some(parent.pid)));
    assert_eq!(silent.node.watch_parent(false, WAIT), Ok(Some(parent.pid)));
    parent.exit(0);
    until("it is notified", || child.parents() == [Some(reaper.pid)]);
    // A process that requests notices after that gets its present parent, and a notice of the next
    // end.
    assert_eq!(late.node.watch_parent(true, WAIT), Ok(Some(reaper.pid)));
    let reaper_pid = reaper.pid;
    reaper.die();
    until("both are notified", || {
        child.parents().len() == 2 && late.parents().len() == 1
    });
    assert_eq!(child.parents(), [Some(reaper_pid), Some(family.first.pid)]);
    assert_eq!(late.parents(), [Some(family.first.pid)]);
    assert_eq!(silent.parents(), []);
}

#[test]
fn the_end_of_a_leader_that_is_the_parent_is_reported_once() {
    for leaves in [true, false] {
        let family = Family::new();
        let first = family.first.pid;
        let child = family.child();
        assert_eq!(child.node.watch_parent(true, WAIT), Ok(Some(first)));
        if leaves {
            // Its process ends, and its node still leads.
            let short = Wait::at_most(Duration::from_millis(1));
            assert_eq!(family.first.node.leave(short), Err(Error::TimedOut));
            until("it is notified", || child.parents() == [None]);
            assert_eq!(child.node.watch_parent(true, WAIT), Ok(None));
        }
        family.first.node.shut_down(LONG);
        until("the leader is gone", || {
            child.node.owner_of(1, WAIT) == Err(Error::LeaderGone)
        });
        until("it is notified", || child.parents() == [None]);
        drop(family);
        assert_eq!(child.parents(), [None]);
    }
}

#[test]
fn end_of_a_parent_that_never_connected_to_its_child_is_reported() {
    let family = Family::new();
    let parent = family.child();
    let child = family.child_of(&parent);
    let vmid = parent.vmid();
    let left = || -> Vec<Vmid> { child.os.recorded.lock().left.clone() };
    parent.die();
    until("it is notified", || left() == [vmid]);
    // The child is notified once, whatever is sent to it later.
    let _ = child.node.connect(vmid);
    until("it is known to be gone", || {
        child.node.statistics().pools.peers.now == 1
    });
    assert_eq!(left(), [vmid]);
}

#[test]
fn exits_of_more_orphans_than_there_is_room_for_are_all_reported_once() {
    const ORPHANS: usize = 40;
    let capacities = Capacities {
        children: 4,
        ..Capacities::DEFAULT
    };
    let family = Family::led_with(Config {
        capacities,
        ..Config::DEFAULT
    });
    let first = &family.first;
    let parent = family.child();
    let orphans: Vec<_> = (0..ORPHANS).map(|_| family.child_of(&parent)).collect();
    let mut expected: Vec<_> = (0..)
        .zip(&orphans)
        .map(|(code, of)| (of.pid, code))
        .collect();
    let pid = parent.pid;
    parent.exit(0);
    reap(first, pid);
    for (code, orphan) in (0..).zip(orphans) {
        orphan.exit(code);
    }
    until("the embedder is notified of all", || {
        first.ended().len() == ORPHANS + 1
    });
    // An exit report without room can be requested by pid and group and peeked at, and its process
    // is a zombie to all.
    let last = expected.pop().unwrap();
    let seen = first
        .node
        .peek_child(ChildSelector::Pid(last.0), NOW)
        .unwrap();
    assert_eq!((seen.pid, seen.code), last);
    assert_eq!(
        first.node.process(Some(last.0), WAIT).unwrap().state,
        ProcessState::Zombie
    );
    assert_eq!(
        first.node.wait_child(ChildSelector::Pid(last.0), NOW),
        Ok(seen)
    );
    let mut got = Vec::new();
    for round in 0.. {
        let which = if round % 2 == 0 {
            ChildSelector::Any
        } else {
            ChildSelector::Group(None)
        };
        match first.node.wait_child(which, NOW) {
            Ok(exit) => got.push((exit.pid, exit.code)),
            Err(error) => {
                assert_eq!(error, Error::NoChild);
                break;
            }
        }
    }
    got.sort_unstable();
    expected.sort_unstable();
    assert_eq!(got, expected);
    assert_eq!(first.ended().len(), ORPHANS + 1, "notified twice");
    assert_eq!(first.node.statistics().pools.processes.now, 1);
    assert_eq!(first.node.statistics().dropped_orphan_exits, 0);
}

#[test]
fn waiting_threads_of_a_subreaper_without_room_get_every_orphan() {
    const ORPHANS: usize = 24;
    let family = Family::new();
    let capacities = Capacities {
        children: 2,
        ..Capacities::DEFAULT
    };
    let reaper = family.start_with_config(
        family.first.node.start_child(WAIT).unwrap(),
        Config {
            capacities,
            ..Config::DEFAULT
        },
    );
    reaper
        .node
        .mark(ProcessChange::Subreaper, true, WAIT)
        .unwrap();
    let parent = family.child_of(&reaper);
    let orphans: Vec<_> = (0..ORPHANS).map(|_| family.child_of(&parent)).collect();
    let mut pids: Vec<_> = orphans.iter().map(|orphan| orphan.pid).collect();
    pids.push(parent.pid);
    let got = std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut got = Vec::new();
                    while let Ok(exit) = reaper.node.wait_child(ChildSelector::Any, WAIT) {
                        got.push(exit.pid);
                    }
                    got
                })
            })
            .collect();
        parent.die();
        for orphan in orphans {
            orphan.die();
        }
        let all = waiting
            .into_iter()
            .flat_map(|waiting| waiting.join().unwrap());
        let mut all: Vec<_> = all.collect();
        all.sort_unstable();
        all
    });
    pids.sort_unstable();
    assert_eq!(got, pids);
    until("the embedder is notified of all", || {
        reaper.ended().len() == ORPHANS + 1
    });
}
