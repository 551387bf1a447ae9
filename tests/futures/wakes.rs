//! When a task is woken, and that nothing else is.

use core::time::Duration;

use libos_ipc::pal::Deadline;
use libos_ipc::{ChildSelector, Config, Error, Interrupt, Wait, WaitReason};

use crate::common::{Family, Task, WAIT};

#[test]
fn a_task_is_woken_once_and_only_by_its_answer() {
    let family = Family::new(2);
    let member = family.member(2);
    let mut first = Task::waiting(member.owner_of_async(1, Wait::FOREVER));
    member.poll_once();
    assert_eq!(first.wakes(), 0, "the leader has not answered");
    let mut second = Task::waiting(member.owner_of_async(2, Wait::FOREVER));
    family.poll_all();
    assert_eq!((first.wakes(), second.wakes()), (1, 1));
    assert!(first.poll_if_woken().is_some() && second.poll_if_woken().is_some());
    family.poll_all();
    assert_eq!((first.wakes(), second.wakes()), (1, 1));
    family.assert_idle();
}

#[test]
fn a_future_that_is_polled_by_another_task_wakes_that_one() {
    let family = Family::new(2);
    let member = family.member(2);
    let mut future = core::pin::pin!(member.owner_of_async(1, Wait::FOREVER));
    let mut first = Task::waiting(future.as_mut());
    assert!(first.poll().is_none());
    let old = first.wakes();
    drop(first);
    let mut second = Task::waiting(future.as_mut());
    family.poll_all();
    assert_eq!(second.wakes(), old + 1);
    assert!(second.poll_if_woken().is_some());
}

#[test]
fn a_future_whose_time_limit_has_passed_is_woken_by_the_node() {
    let family = Family::new(2);
    let member = family.member(2);
    let limit = Duration::from_millis(30);
    let mut call = Task::waiting(member.owner_of_async(1, Wait::at_most(limit)));
    // The leader is not polled.
    let due = Deadline::At(family.net.now() + limit);
    while member.poll_once() == Some(Deadline::Now) {}
    assert_eq!(member.poll_once(), Some(due));
    family.net.advance(Duration::from_nanos(29_999_999));
    member.poll_once();
    assert_eq!(call.wakes(), 0);
    family.net.advance(Duration::from_nanos(1));
    member.poll_once();
    assert_eq!(call.poll_if_woken(), Some(Err(Error::TimedOut)));
    assert_eq!(member.poll_once(), Some(Deadline::Never));
    family.assert_idle();
}

#[test]
fn an_earlier_limit_than_that_of_another_future_is_kept() {
    let family = Family::new(2);
    let member = family.member(2);
    let spans = [70, 30, 50].map(Duration::from_millis);
    let mut calls = spans.map(|span| Task::waiting(member.owner_of_async(1, Wait::at_most(span))));
    let mut ended = Vec::new();
    for now in 1..=80 {
        family.net.advance(Duration::from_millis(1));
        member.poll_once();
        for (number, call) in calls.iter_mut().enumerate() {
            if let Some(outcome) = call.poll_if_woken() {
                assert_eq!(outcome, Err(Error::TimedOut));
                ended.push((now, number));
            }
        }
    }
    assert_eq!(ended, [(30, 1), (50, 2), (70, 0)]);
    family.assert_idle();
}

#[test]
fn a_future_without_time_ends_at_its_first_poll() {
    let family = Family::new(2);
    let member = family.member(2);
    let none = Wait::at_most(Duration::ZERO);
    let mut call = Task::new(member.owner_of_async(1, none));
    assert_eq!(call.poll(), Some(Err(Error::TimedOut)));
    family.assert_idle();
}

#[test]
fn an_interrupt_wakes_the_future_that_waits_with_it() {
    let family = Family::new(2);
    let member = family.member(2);
    let interrupt = Interrupt::new();
    let wait = Wait::FOREVER.or_until(&interrupt);
    let mut call = Task::waiting(member.owner_of_async(1, wait));
    let mut other = Task::waiting(member.owner_of_async(1, Wait::FOREVER));
    interrupt.raise(member);
    assert_eq!(call.poll_if_woken(), Some(Err(Error::Interrupted)));
    assert_eq!(other.wakes(), 0);
    family.poll_all();
    assert!(other.poll_if_woken().unwrap().is_ok());
    family.assert_idle();
}

#[test]
fn shutting_down_wakes_every_future() {
    let family = Family::new(2);
    let member = family.member(2);
    let _child = family.run(member.start_child_async(WAIT)).unwrap();
    let value = member.share::<u64>(Some(9)).unwrap();
    let mut call = Task::waiting(member.owner_of_async(1, Wait::FOREVER));
    let mut child = Task::waiting(member.wait_child_async(ChildSelector::Any, Wait::FOREVER));
    let mut read = Task::waiting(value.read_async(Wait::FOREVER));
    member.shut_down(Duration::ZERO);
    assert_eq!(call.poll_if_woken(), Some(Err(Error::ShuttingDown)));
    assert_eq!(child.poll_if_woken(), Some(Err(Error::ShuttingDown)));
    let read = read.poll_if_woken().expect("it was woken");
    assert_eq!(read.map(drop), Err(Error::ShuttingDown));
}

#[test]
fn the_end_of_the_leader_wakes_every_future() {
    let family = Family::new(2);
    let member = family.member(2);
    let mut call = Task::waiting(member.owner_of_async(1, Wait::FOREVER));
    family.leader().shut_down(Duration::ZERO);
    family.poll_all();
    assert_eq!(call.poll_if_woken(), Some(Err(Error::LeaderGone)));
}

#[test]
fn a_request_without_room_is_sent_when_there_is_room() {
    let mut config = Config::DEFAULT;
    let capacities = &mut config.capacities;
    (
        capacities.frame_length,
        capacities.send_queue,
        capacities.sync_data,
    ) = (256, 800, 64);
    let family = Family::unjoined(2, config);
    let member = family.member(2);
    // The leader reads nothing, so the queue and the stream fill up.
    let mut calls = Vec::new();
    for _ in 0..200 {
        let mut call = Task::new(member.owner_of_async(1, Wait::FOREVER));
        match call.poll() {
            None => calls.push(call),
            Some(Err(Error::Full(libos_ipc::Resource::Waiters))) => break,
            Some(other) => panic!("{other:?}"),
        }
    }
    let full = |call: libos_ipc::PendingCall| call.what == WaitReason::Room;
    let waited = member.pending_calls().any(full);
    for _ in 0..calls.len() {
        family.poll_all();
        calls.retain_mut(|call| call.poll_if_woken().is_none());
    }
    assert!(calls.is_empty());
    assert!(waited, "the queue was never full");
    family.assert_idle();
}

#[test]
fn a_change_of_a_shared_value_wakes_the_future_that_waits_for_it() {
    let family = Family::new(3);
    let [_, ours, theirs] =
        [1, 2, 3].map(|number| family.member(number).share::<u64>(Some(4)).unwrap());
    let mut waits = Task::waiting(ours.wait_for_async(WAIT, |value| *value == 2));
    for value in 1..=2 {
        // The waiting task runs beside this one.
        let mut write = Task::new(theirs.write_async(WAIT));
        let mut writer = loop {
            if let Some(writer) = write.poll_if_woken() {
                break writer.unwrap();
            }
            family.poll_all();
            assert!(waits.poll_if_woken().is_none());
        };
        *writer = value;
    }
    for _ in 0..20 {
        family.poll_all();
        if let Some(reader) = waits.poll_if_woken() {
            assert_eq!(*reader.unwrap(), 2);
            return;
        }
    }
    panic!("the change woke no task");
}
