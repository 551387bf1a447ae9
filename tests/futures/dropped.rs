//! A future is dropped before its request is sent, after that, or after the answer has come: it leaves nothing behind.

use core::time::Duration;

use libos_ipc::wire::SyncState;
use libos_ipc::{ChildSelector, Error, Exit, Wait};

use crate::common::{Family, Task, WAIT, vmid};

/// Drops the future after each number of steps until it ends by itself, in a family of its own, and calls
/// `check` afterwards.
macro_rules! drop_after_each_step {
    ($family:ident, $future:expr, $check:expr) => {
        for steps in 0.. {
            let $family = Family::new(3);
            let mut task = Task::new($future);
            let mut is_done = false;
            for step in 0..steps {
                // Each second step moves the bytes of one node only.
                if step > 0 {
                    let nodes = &$family.nodes;
                    nodes[step % nodes.len()].poll_once();
                }
                is_done |= task.poll_if_woken().is_some();
                if is_done {
                    break;
                }
            }
            drop(task);
            $family.poll_all();
            #[allow(clippy::redundant_closure_call)]
            $check(&$family, is_done, steps);
            if is_done {
                assert!(steps > 2, "it did not wait");
                break;
            }
        }
    };
}

#[test]
fn a_range_of_a_dropped_request_is_released() {
    drop_after_each_step!(
        family,
        family.member(2).alloc_range_async(Wait::FOREVER),
        |family: &Family, is_done, steps| {
            family.assert_idle();
            let ranges = family.leader().statistics().pools.ranges.now;
            let others = Family::new(3).leader().statistics().pools.ranges.now;
            assert_eq!(ranges, others + usize::from(is_done), "after {steps} steps");
        }
    );
}

#[test]
fn an_id_that_is_taken_by_a_dropped_future_is_not_lost() {
    drop_after_each_step!(
        family,
        family.member(2).take_id_for_async(vmid(3), Wait::FOREVER),
        |family: &Family, is_done, steps| {
            family.assert_idle();
            let node = family.member(2);
            assert_eq!(node.ids_in_use(), 0, "after {steps} steps, {is_done}");
        }
    );
}

#[test]
fn a_dropped_start_leaves_no_child() {
    drop_after_each_step!(
        family,
        family.member(2).start_child_async(Wait::FOREVER),
        |family: &Family, is_done, steps| {
            family.assert_idle();
            let pools = family.leader().statistics().pools;
            let children = family.member(2).statistics().pools.children.now;
            assert_eq!(children, usize::from(is_done), "after {steps} steps");
            assert_eq!(
                pools.processes.now,
                3 + usize::from(is_done),
                "after {steps} steps"
            );
        }
    );
}

#[test]
fn a_dropped_wait_leaves_the_zombie_for_the_next_call() {
    for steps in 0..12 {
        let family = Family::unjoined(3, libos_ipc::Config::DEFAULT);
        for number in [1, 2] {
            family.run(family.member(number).join_async(WAIT)).unwrap();
        }
        let parent = family.member(2);
        let mut wait = Task::new(parent.wait_child_async(ChildSelector::Any, Wait::FOREVER));
        let child = family.run(parent.start_child_async(WAIT)).unwrap();
        parent.abandon_child(child.vmid).unwrap();
        let mut is_done = false;
        for step in 0..steps {
            family.nodes[step % 3].poll_once();
            is_done |= wait.poll_if_woken().is_some();
            if is_done {
                break;
            }
        }
        drop(wait);
        family.poll_all();
        family.assert_idle();
        assert_eq!(parent.statistics().pools.children.now, 0);
    }
}

#[test]
fn dropped_waits_for_a_shared_value_let_the_next_call_in() {
    for steps in 0..10 {
        let family = Family::new(3);
        let values: Vec<_> = family
            .nodes
            .iter()
            .map(|node| node.share::<u64>(Some(5)).unwrap())
            .collect();
        *family.run(values[1].write_async(WAIT)).unwrap() = 7;
        let mut dropped = Task::new(values[2].write_async(Wait::FOREVER));
        let mut next = Task::new(values[2].write_async(Wait::FOREVER));
        for step in 0..steps {
            if step > 0 {
                family.nodes[step % 3].poll_once();
            }
            if dropped.poll_if_woken().is_some() {
                break;
            }
            if step == 1 {
                assert!(next.poll_if_woken().is_none(), "it overtakes the first");
            }
        }
        drop(dropped);
        for round in 0.. {
            if let Some(writer) = next.poll_if_woken() {
                assert_eq!(*writer.unwrap(), 7);
                break;
            }
            assert!(round < 20, "no process woke it after {steps} steps");
            family.poll_all();
        }
        assert_eq!(*family.run(values[0].read_async(WAIT)).unwrap(), 7);
        family.assert_idle();
    }
}

#[test]
fn a_dropped_upgrade_leaves_the_handle_shared() {
    for steps in 0..8 {
        let family = Family::new(3);
        let [ours, theirs] = [2, 3].map(|number| family.member(number));
        let handle = ours.open_sync(Some(5)).unwrap();
        let other = theirs.open_sync(Some(5)).unwrap();
        let shared = SyncState::Shared;
        for (node, handle) in [(ours, handle), (theirs, other)] {
            let lock = node.lock_sync_async(handle, shared, &mut [], WAIT);
            family.run(lock).unwrap();
        }
        let mut upgrade = Task::new(ours.upgrade_sync_async(handle, Wait::FOREVER));
        for step in 0..steps {
            if step > 0 {
                family.nodes[step % 3].poll_once();
            }
            assert!(upgrade.poll_if_woken().is_none(), "another process reads");
        }
        drop(upgrade);
        family.poll_all();
        // The value is held to read, until it is released.
        ours.unlock_sync(handle, shared, None).unwrap();
        theirs.unlock_sync(other, shared, None).unwrap();
        for (node, handle) in [(theirs, other), (ours, handle)] {
            let state = SyncState::Exclusive;
            family
                .run(node.lock_sync_async(handle, state, &mut [], WAIT))
                .unwrap();
            node.unlock_sync(handle, state, None).unwrap();
        }
        family.assert_idle();
    }
}

#[test]
fn a_dropped_exit_has_ended_the_process_or_has_not() {
    drop_after_each_step!(
        family,
        family.member(2).exit_async(Exit::default(), Wait::FOREVER),
        |family: &Family, is_done, steps| {
            let member = family.member(2);
            let is_alive = family.run(member.owner_of_async(1, WAIT)).is_ok();
            assert!(!(is_done && is_alive), "after {steps} steps");
            assert_eq!(
                is_alive,
                steps == 0,
                "the report goes out at the first poll"
            );
            family.assert_idle();
        }
    );
}

#[test]
fn a_dropped_signal_for_a_group_leaves_no_request() {
    drop_after_each_step!(
        family,
        family
            .member(2)
            .kill_async(libos_ipc::Target::Group(None), 0, Wait::FOREVER),
        |family: &Family, _, _| family.assert_idle()
    );
}

#[test]
fn a_dropped_join_can_be_repeated() {
    for steps in 0..30 {
        let family = Family::unjoined(2, libos_ipc::Config::DEFAULT);
        family.run(family.leader().join_async(WAIT)).unwrap();
        let member = family.member(2);
        let mut join = Task::new(member.join_async(Wait::FOREVER));
        let mut joined = None;
        for step in 0..steps {
            family.nodes[step % 2].poll_once();
            joined = join.poll_if_woken();
            if joined.is_some() {
                break;
            }
        }
        drop(join);
        family.poll_all();
        family.assert_idle();
        if joined.is_some() {
            assert!(steps > 4);
            return;
        }
        assert_eq!(member.pid(), None);
        let again = family.run(member.join_async(WAIT));
        // The leader may know the process with the pid of the first attempt.
        let is_known = family.leader().statistics().pools.processes.now > 1;
        assert!(
            again.is_ok() || is_known && matches!(again, Err(Error::Invalid(_))),
            "{again:?}"
        );
    }
    panic!("it never joins");
}

#[test]
fn a_future_that_was_never_polled_has_done_nothing() {
    let family = Family::new(2);
    let member = family.member(2);
    let before = family.leader().statistics().frames_in;
    drop(member.alloc_range_async(WAIT));
    drop(member.exit_async(Exit::default(), WAIT));
    drop(member.owner_of_async(1, Wait::at_most(Duration::ZERO)));
    family.poll_all();
    assert_eq!(family.leader().statistics().frames_in, before);
    family.assert_idle();
}
