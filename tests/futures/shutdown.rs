//! The end of a node as a future.

use core::time::Duration;

use libos_ipc::{Error, Id, Wait};

use crate::common::{Family, Member, Task, WAIT};

/// Fills the stream to the leader, which reads nothing meanwhile.
fn fill(
    member: &Member,
) -> Vec<Task<impl Future<Output = Result<Option<libos_ipc::Vmid>, Error>> + '_>> {
    let ask = |id: Id| Task::waiting(member.owner_of_async(id, Wait::FOREVER));
    let calls: Vec<_> = (1..=40).map(ask).collect();
    member.poll_once();
    calls
}

#[test]
fn the_task_that_shuts_a_node_down_is_woken_when_all_is_sent() {
    let family = Family::new(2);
    let member = family.member(2);
    let mut calls = fill(member);
    let mut end = Task::waiting(member.shut_down_async(Duration::from_secs(1)));
    let is_over = |call: &mut Task<_>| call.poll_if_woken() == Some(Err(Error::ShuttingDown));
    assert!(calls.iter_mut().all(is_over));
    member.poll_once();
    assert_eq!(end.poll_if_woken(), None, "the leader has read nothing");
    assert!(family.run(async { end.future().await }));
    assert_eq!(member.poll_once(), None, "the node is closed");
    family.leader().check_invariants();
}

#[test]
fn the_task_that_shuts_a_node_down_is_woken_at_its_time_limit() {
    let family = Family::new(2);
    let member = family.member(2);
    let _calls = fill(member);
    let limit = Duration::from_millis(30);
    let mut end = Task::waiting(member.shut_down_async(limit));
    let until = family.net.now() + limit;
    while family.net.now() < until {
        member.poll_once();
        assert_eq!(end.poll_if_woken(), None);
        family.net.advance(Duration::from_millis(1));
    }
    let mut outcome = None;
    while outcome.is_none() && family.net.now() < until + Duration::from_millis(10) {
        member.poll_once();
        outcome = end.poll_if_woken();
        family.net.advance(Duration::from_millis(1));
    }
    assert_eq!(outcome, Some(false), "something was not sent");
    assert_eq!(member.poll_once(), None, "the node is closed");
}

#[test]
fn a_dropped_shutdown_goes_on_and_can_be_repeated() {
    let family = Family::new(2);
    let member = family.member(2);
    drop(fill(member));
    drop(Task::waiting(
        member.shut_down_async(Duration::from_secs(1)),
    ));
    assert_eq!(
        family.run(member.owner_of_async(1, WAIT)),
        Err(Error::ShuttingDown)
    );
    family.poll_all();
    assert!(family.run(member.shut_down_async(Duration::from_secs(1))));
    assert_eq!(member.poll_once(), None, "the node is closed");
}
