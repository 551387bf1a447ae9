//! Requests for file locks whose future is dropped: the lock is not held afterwards, and no other lock is lost.

use core::time::Duration;

use libos_ipc::wire::{FileLock, LockFamily, LockKind};
use libos_ipc::{Errno, Error, Pid, Resource, Wait};

use crate::common::{Family, Member, Task, WAIT};

/// Returns a request of the node's process that waits.
pub(crate) fn lock(node: &Member, kind: LockKind, (start, end): (u64, u64)) -> FileLock<'static> {
    FileLock {
        family: LockFamily::Posix,
        kind,
        start,
        end,
        pid: node.pid().map_or(0, Pid::get),
        handle: 0,
        wait: true,
        path: b"file",
    }
}

fn write(node: &Member, range: (u64, u64)) -> FileLock<'static> {
    lock(node, LockKind::Write, range)
}

/// Returns true if another process could set a write lock on each byte of the range, found from the
/// leader.
fn is_free(family: &Family, range: (u64, u64)) -> bool {
    let leader = family.leader();
    family
        .run(leader.find_lock_async(&write(leader, range), WAIT))
        .unwrap()
        .is_none()
}

#[test]
fn a_dropped_request_that_waits_is_cancelled() {
    for requester in [1, 2] {
        let family = Family::new(3);
        let (node, holder) = (family.member(requester), family.member(3));
        let all = (0, 9);
        let held = write(holder, all);
        family.run(holder.set_lock_async(&held, WAIT)).unwrap();
        let wanted = write(node, all);
        let waits = Task::waiting(node.set_lock_async(&wanted, Wait::FOREVER));
        family.poll_all();
        drop(waits);
        family.poll_all();
        let unlock = lock(holder, LockKind::Unlock, all);
        family.run(holder.set_lock_async(&unlock, WAIT)).unwrap();
        family.poll_all();
        let probe = family.run(holder.find_lock_async(&held, WAIT));
        assert_eq!(probe, Ok(None), "the dropped request got the lock");
        family.assert_idle();
    }
}

#[test]
fn a_lock_that_was_granted_when_the_future_is_dropped_is_released() {
    for requester in [1, 2] {
        // The grant is under way, or has arrived.
        for arrives in [false, true] {
            let family = Family::new(3);
            let (node, holder) = (family.member(requester), family.member(3));
            let all = (0, 9);
            let held = write(holder, all);
            family.run(holder.set_lock_async(&held, WAIT)).unwrap();
            let wanted = write(node, all);
            let waits = Task::waiting(node.set_lock_async(&wanted, Wait::FOREVER));
            family.poll_all();
            let unlock = lock(holder, LockKind::Unlock, all);
            let mut unlocks = Task::waiting(holder.set_lock_async(&unlock, WAIT));
            for _ in 0..4 {
                holder.poll_once();
                family.leader().poll_once();
            }
            if arrives {
                family.poll_all();
                assert_eq!(waits.wakes(), 1);
            }
            drop(waits);
            family.poll_all();
            assert_eq!(unlocks.poll_if_woken(), Some(Ok(())));
            let probe = family.run(holder.find_lock_async(&held, WAIT));
            assert_eq!(probe, Ok(None));
            family.assert_idle();
        }
    }
}

/// Requests the lock and drops the future after that many steps of the family. Returns true if it was granted
/// before.
fn set_and_drop(family: &Family, node: &Member, wanted: &FileLock<'_>, steps: usize) -> bool {
    let mut set = Task::waiting(node.set_lock_async(wanted, Wait::FOREVER));
    (0..steps).any(|step| {
        family.nodes[step % 3].poll_once();
        set.poll_if_woken().is_some()
    })
}

#[test]
fn a_request_that_was_granted_at_once_and_dropped_is_undone() {
    for steps in 0..8 {
        let family = Family::new(3);
        let node = family.member(2);
        let wanted = write(node, (0, 9));
        let is_held = set_and_drop(&family, node, &wanted, steps);
        family.poll_all();
        assert_eq!(is_free(&family, (0, 9)), !is_held, "after {steps} steps");
        family.assert_idle();
    }
}

#[test]
fn a_lock_that_is_set_after_the_drop_stays() {
    for steps in 0..8 {
        let family = Family::new(3);
        let node = family.member(2);
        let wanted = write(node, (0, 9));
        set_and_drop(&family, node, &wanted, steps);
        // The same owner wants a part of the same range.
        let again = write(node, (3, 5));
        family.run(node.set_lock_async(&again, WAIT)).unwrap();
        family.poll_all();
        assert!(!is_free(&family, (3, 5)), "after {steps} steps");
        family.assert_idle();
    }
}

#[test]
fn locks_of_the_owner_outside_the_range_of_a_dropped_request_stay() {
    let family = Family::new(3);
    let (node, holder) = (family.member(2), family.member(3));
    for range in [(0, 9), (20, 29)] {
        let held = write(node, range);
        family.run(node.set_lock_async(&held, WAIT)).unwrap();
    }
    let theirs = write(holder, (10, 19));
    family.run(holder.set_lock_async(&theirs, WAIT)).unwrap();
    let wanted = write(node, (10, 19));
    let waits = Task::waiting(node.set_lock_async(&wanted, Wait::FOREVER));
    family.poll_all();
    let unlock = lock(holder, LockKind::Unlock, (10, 19));
    family.run(holder.set_lock_async(&unlock, WAIT)).unwrap();
    assert_eq!(waits.wakes(), 1, "it was granted");
    drop(waits);
    family.poll_all();
    assert!(is_free(&family, (10, 19)));
    assert!(!is_free(&family, (0, 9)) && !is_free(&family, (20, 29)));
}

#[test]
fn a_lock_that_the_owner_had_in_the_range_stays_if_the_request_was_not_granted() {
    let family = Family::new(3);
    let (node, holder) = (family.member(2), family.member(3));
    let read = lock(node, LockKind::Read, (0, 9));
    family.run(node.set_lock_async(&read, WAIT)).unwrap();
    let theirs = lock(holder, LockKind::Read, (0, 9));
    family.run(holder.set_lock_async(&theirs, WAIT)).unwrap();
    let wanted = write(node, (0, 9));
    let waits = Task::waiting(node.set_lock_async(&wanted, Wait::FOREVER));
    family.poll_all();
    drop(waits);
    family.poll_all();
    let unlock = lock(holder, LockKind::Unlock, (0, 9));
    family.run(holder.set_lock_async(&unlock, WAIT)).unwrap();
    assert!(!is_free(&family, (0, 9)), "the read lock is held");
}

#[test]
fn a_request_that_its_wait_ends_has_an_outcome_and_keeps_the_lock_before() {
    let family = Family::new(3);
    let (node, holder) = (family.member(2), family.member(3));
    let read = lock(node, LockKind::Read, (0, 9));
    family.run(node.set_lock_async(&read, WAIT)).unwrap();
    let theirs = lock(holder, LockKind::Read, (0, 9));
    family.run(holder.set_lock_async(&theirs, WAIT)).unwrap();
    let limit = Duration::from_millis(3);
    let wanted = write(node, (0, 9));
    let ended = family.run(node.set_lock_async(&wanted, Wait::at_most(limit)));
    assert_eq!(ended, Err(Error::TimedOut));
    assert!(!is_free(&family, (0, 9)));
    family.assert_idle();
}

#[test]
fn the_limit_of_requests_that_may_be_dropped_is_named() {
    let mut config = libos_ipc::Config::DEFAULT;
    config.capacities.reply_buffers = 1;
    let family = Family::unjoined(2, config);
    for node in &family.nodes {
        family.run(node.join_async(WAIT)).unwrap();
    }
    let (leader, member) = (family.leader(), family.member(2));
    let held = write(leader, (0, 9));
    family.run(leader.set_lock_async(&held, WAIT)).unwrap();
    let wanted = write(member, (0, 9));
    let waits = Task::waiting(member.set_lock_async(&wanted, Wait::FOREVER));
    let full = family.run(member.set_lock_async(&wanted, WAIT));
    assert_eq!(full, Err(Error::Full(Resource::ReplyBuffers)));
    // A call that blocks needs none: its cancellation has an outcome.
    let refused = family.run(member.set_lock_async(
        &FileLock {
            wait: false,
            ..wanted
        },
        WAIT,
    ));
    assert!(matches!(
        refused,
        Err(Error::Full(_)
            | Error::Refused {
                errno: Errno::EAGAIN,
                by: None
            })
    ));
    drop(waits);
    family.poll_all();
    let unlock = lock(leader, LockKind::Unlock, (0, 9));
    family.run(leader.set_lock_async(&unlock, WAIT)).unwrap();
    family.run(member.set_lock_async(&wanted, WAIT)).unwrap();
    family.assert_idle();
}

#[test]
fn a_leader_that_does_not_confirm_a_dropped_request_in_time_is_disconnected() {
    let family = Family::new(2);
    let member = family.member(2);
    let wanted = write(member, (0, 9));
    drop(Task::waiting(member.set_lock_async(&wanted, Wait::FOREVER)));
    // The leader does not run.
    let again = write(member, (5, 5));
    let mut next = Task::waiting(member.set_lock_async(&again, Wait::FOREVER));
    for _ in 0..100 {
        family.net.advance(Duration::from_millis(200));
        member.poll_once();
        if let Some(ended) = next.poll_if_woken() {
            assert_eq!(ended, Err(Error::LeaderGone));
            return;
        }
    }
    panic!("it waits for ever");
}
