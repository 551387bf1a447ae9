//! Each call as a future gives the result of the call that blocks.

use libos_ipc::wire::{FileLock, LockFamily, LockKind, ProcessChange, SyncState};
use libos_ipc::{ChildSelector, Config, Error, Exit, Heirs, Pid, Target};

use std::time::Duration;

use crate::common::{Family, WAIT, vmid};

#[test]
fn ids_are_allocated_transferred_and_released_by_futures() {
    let family = Family::new(2);
    for node in &family.nodes {
        let us = node.identity().vmid;
        let id = family.run(node.take_id_async(WAIT)).unwrap();
        assert_eq!(family.run(node.owner_of_async(id, WAIT)), Ok(Some(us)));
        let other = if us == vmid(1) { vmid(2) } else { vmid(1) };
        family.run(node.transfer_id_async(id, other, WAIT)).unwrap();
        assert_eq!(family.run(node.owner_of_async(id, WAIT)), Ok(Some(other)));
        let given = family.run(node.take_id_for_async(other, WAIT)).unwrap();
        assert_eq!(
            family.run(node.owner_of_async(given, WAIT)),
            Ok(Some(other))
        );
        let id = family.run(node.take_id_async(WAIT)).unwrap();
        family.run(node.release_id_async(id, WAIT)).unwrap();
        let range = family.run(node.alloc_range_async(WAIT)).unwrap();
        family.run(node.release_range_async(range, WAIT)).unwrap();
        family.run(node.release_idle_ranges_async(WAIT)).unwrap();
        family.run(node.new_vmid_async(WAIT)).unwrap();
    }
    family.assert_idle();
}

#[test]
fn the_process_table_is_read_and_changed_by_futures() {
    let family = Family::new(3);
    for node in &family.nodes {
        let pid = node.pid().unwrap();
        let process = family.run(node.process_async(None, WAIT)).unwrap();
        assert_eq!(process.pid, pid);
        let moved = family.run(node.set_group_async(None, None, WAIT));
        // The leader's process leads a session.
        let is_leader = node.identity().is_leader();
        assert_eq!(
            moved
                == Err(Error::Refused {
                    errno: libos_ipc::Errno::EPERM,
                    by: None
                }),
            is_leader
        );
        assert_eq!(family.run(node.group_of_async(Some(pid), WAIT)), Ok(pid));
        let session = family.run(node.session_of_async(None, WAIT)).unwrap();
        let mark = ProcessChange::Subreaper;
        family.run(node.mark_async(mark, true, WAIT)).unwrap();
        family.run(node.watch_parent_async(true, WAIT)).unwrap();
        assert_ne!(Some(session), Pid::new(9_999));
    }
    let leader = family.leader();
    let mut found = Vec::new();
    let mut last = None;
    while let Some(next) = family
        .run(leader.next_process_async(last.as_ref(), WAIT))
        .unwrap()
    {
        found.push(next.pid);
        last = Some(next);
    }
    let pids: Vec<Pid> = family
        .nodes
        .iter()
        .filter_map(libos_ipc::Node::pid)
        .collect();
    assert_eq!(found, pids);
    family.assert_idle();
}

#[test]
fn signals_to_a_process_a_group_and_all_are_sent_by_futures() {
    let family = Family::new(3);
    // The default embedder refuses them, so each was delivered.
    let errno = libos_ipc::Errno::ENOSYS;
    for from in &family.nodes {
        for to in &family.nodes {
            let pid = to.pid().unwrap();
            let peer = to.identity().vmid;
            let refused = Err(Error::Refused {
                errno,
                by: Some(peer),
            });
            let target = Target::Process(pid);
            assert_eq!(family.run(from.kill_async(target, 15, WAIT)), refused);
            let undefined = family.run(from.kill_async(target, 99, WAIT));
            assert_eq!(
                undefined,
                Err(libos_ipc::Error::Invalid(libos_ipc::Invalid::Signal))
            );
            let metadata = family.run(from.credentials_async(pid, WAIT));
            assert_eq!(metadata.map(drop), refused);
        }
        let nobody = Target::Process(Pid::new(77_777).unwrap());
        let missed = family.run(from.kill_async(nobody, 15, WAIT));
        assert_eq!(missed, Err(Error::NoSuchProcess));
        let group = family.run(from.group_of_async(None, WAIT)).unwrap();
        for target in [Target::Group(None), Target::Group(Some(group))] {
            let refused = family.run(from.kill_async(target, 15, WAIT));
            assert_eq!(refused.map_err(Error::errno), Err(errno));
        }
        assert_eq!(family.run(from.kill_async(Target::All, 15, WAIT)), Ok(()));
    }
    family.assert_idle();
}

#[test]
fn a_group_of_more_members_than_requests_at_once_is_signalled_by_a_future() {
    // Fewer waiters than members: some of the signals go through the leader.
    let mut config = libos_ipc::Config::DEFAULT;
    config.capacities.waiters = 4;
    let family = Family::unjoined(4, config);
    for node in &family.nodes {
        family.run(node.join_async(WAIT)).unwrap();
    }
    let group = family
        .run(family.leader().group_of_async(None, WAIT))
        .unwrap();
    for member in &family.nodes[1..] {
        let target = Target::Group(Some(group));
        family.run(member.kill_async(target, 0, WAIT)).ok();
        family.assert_idle();
    }
}

#[test]
fn children_start_end_and_are_reaped_by_futures() {
    let family = Family::new(3);
    let parent = family.member(2);
    let child = family.run(parent.start_child_async(WAIT)).unwrap();
    let living = family.run(parent.peek_child_async(
        ChildSelector::Any,
        libos_ipc::Wait::at_most(core::time::Duration::ZERO),
    ));
    assert_eq!(living.map(drop), Err(Error::TimedOut));
    parent.abandon_child(child.vmid).unwrap();
    family.poll_all();
    let none = family.run(parent.wait_child_async(ChildSelector::Any, WAIT));
    assert_eq!(none.map(drop), Err(Error::NoChild));
    family.assert_idle();
}

#[test]
fn a_process_exits_and_the_leader_leaves_by_futures() {
    let family = Family::new(3);
    for number in [3, 2] {
        let member = family.member(number);
        let exit = Exit::default();
        family.run(member.exit_async(exit, WAIT)).unwrap();
        let again = family.run(member.exit_async(exit, WAIT));
        assert_eq!(again, Err(Error::ShuttingDown));
        assert!(member.shut_down(core::time::Duration::ZERO));
        family.poll_all();
    }
    let leader = family.leader();
    family
        .run(leader.exit_async(Exit::default(), WAIT))
        .unwrap();
    family.run(leader.leave_async(WAIT)).unwrap();
}

#[test]
fn file_locks_are_set_found_and_cleared_by_futures() {
    let family = Family::new(3);
    let lock = |kind, pid| FileLock {
        family: LockFamily::Posix,
        kind,
        start: 0,
        end: 9,
        pid,
        handle: 0,
        wait: false,
        path: b"file",
    };
    for (node, other) in [(1, 2), (2, 3), (3, 1)] {
        let (node, other) = (family.member(node), family.member(other));
        let ours = lock(LockKind::Write, node.pid().unwrap().get());
        let theirs = lock(LockKind::Write, other.pid().unwrap().get());
        family.run(node.set_lock_async(&ours, WAIT)).unwrap();
        let refused = family.run(other.set_lock_async(&theirs, WAIT));
        assert_eq!(
            refused,
            Err(Error::Refused {
                errno: libos_ipc::Errno::EAGAIN,
                by: None
            })
        );
        let found = family.run(other.find_lock_async(&theirs, WAIT)).unwrap();
        assert_eq!(found.map(|found| found.pid), Some(ours.pid));
        family
            .run(node.close_file_async(b"file", ours.pid, WAIT))
            .unwrap();
        family.run(other.set_lock_async(&theirs, WAIT)).unwrap();
        family
            .run(other.clear_locks_async(theirs.pid, WAIT))
            .unwrap();
        assert_eq!(family.run(node.find_lock_async(&ours, WAIT)), Ok(None));
    }
    family.assert_idle();
}

#[test]
fn open_files_are_given_and_closed_by_futures() {
    let family = Family::new(3);
    let (giver, taker) = (family.member(2), family.member(3));
    family.run(giver.hold_open_file_async(7, WAIT)).unwrap();
    family
        .run(giver.give_open_file_async(vmid(3), 7, WAIT))
        .unwrap();
    family.run(giver.close_open_file_async(7, WAIT)).unwrap();
    family.run(taker.close_open_file_async(7, WAIT)).unwrap();
    family
        .run(giver.give_open_file_async(vmid(3), 8, WAIT))
        .unwrap();
    family
        .run(giver.take_back_open_file_async(vmid(3), 8, WAIT))
        .unwrap();
    family.assert_idle();
}

#[test]
fn shared_values_are_read_written_and_awaited_by_futures() {
    let family = Family::new(3);
    let values: Vec<_> = family
        .nodes
        .iter()
        .map(|node| node.share::<u64>(Some(5)).unwrap())
        .collect();
    for round in 0..3_u64 {
        for value in &values {
            let mut writer = family.run(value.write_async(WAIT)).unwrap();
            *writer += 1;
        }
        for value in &values {
            assert_eq!(
                *family.run(value.read_async(WAIT)).unwrap(),
                3 * (round + 1)
            );
        }
    }
    let reader = family.run(values[1].read_async(WAIT)).unwrap();
    let mut writer = family.run(reader.upgrade_async(WAIT)).ok().unwrap();
    *writer = 100;
    drop(writer);
    let reader = family
        .run(values[2].wait_for_async(WAIT, |value| *value == 100))
        .unwrap();
    drop(reader);
    let node = family.member(2);
    let handle = node.open_sync(Some(6)).unwrap();
    let mut data = [0; 4];
    family
        .run(node.lock_sync_async(handle, SyncState::Exclusive, &mut data, WAIT))
        .unwrap();
    node.unlock_sync(handle, SyncState::Exclusive, Some(b"four"))
        .unwrap();
    family
        .run(node.lock_sync_async(handle, SyncState::Shared, &mut data, WAIT))
        .unwrap();
    assert_eq!(&data, b"four");
    family.run(node.upgrade_sync_async(handle, WAIT)).unwrap();
    node.unlock_sync(handle, SyncState::Exclusive, None)
        .unwrap();
    family.run(node.close_sync_async(handle, WAIT)).unwrap();
    family.assert_idle();
}

#[test]
fn a_family_joins_whatever_the_time_limits_of_its_configuration_are() {
    type Change = fn(&mut Config, Duration);
    let changes: [Change; 9] = [
        |config, limit| config.spin = limit,
        |config, limit| config.connect_limit = limit,
        |config, limit| config.recall_limit = limit,
        |config, limit| config.lease_limit = Some(limit),
        |config, limit| config.start_limit = limit,
        |config, limit| config.heir_patience = limit,
        |config, limit| config.stall_limit = limit,
        |config, limit| config.succession_limit = limit,
        |config, _| config.silence_limit = None,
    ];
    for (at, change) in changes.iter().enumerate() {
        for limit in [Duration::ZERO, Duration::MAX] {
            let mut config = Config {
                heirs: Heirs::Any,
                ..Config::DEFAULT
            };
            change(&mut config, limit);
            if let Err(error) = config.check() {
                assert!(limit.is_zero(), "{at}: {error}");
                continue;
            }
            let family = Family::unjoined(2, config);
            for node in &family.nodes {
                family.run(node.join_async(WAIT)).unwrap();
            }
            family.run(family.member(2).take_id_async(WAIT)).unwrap();
            family.assert_idle();
        }
    }
}
