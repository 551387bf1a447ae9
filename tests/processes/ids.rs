//! IDs of processes that have not connected yet, or never do.

use std::time::Duration;

use libos_ipc::{Config, Id, Identity};

use crate::family::{Family, Process, WAIT, until};
use crate::members::UnresponsiveMember;

/// Lets the member transfer an ID to a process that is being started, and die.
fn transfer_and_die(family: &Family, giver: Process, to: &Identity) -> Id {
    let id = giver.node.take_id(WAIT).unwrap();
    giver.node.transfer_id(id, to.vmid, WAIT).unwrap();
    let vmid = giver.vmid();
    giver.die();
    await_departure(family, vmid.get());
    id
}

/// Waits until the embedder of the leader is notified that the member has left.
fn await_departure(family: &Family, vmid: u32) {
    let left = || family.first.os.recorded.lock().left.clone();
    until("its end is reported", || {
        left().iter().any(|left| left.get() == vmid)
    });
}

#[test]
fn ids_transferred_to_a_child_before_it_joins_stay_with_the_child() {
    let family = Family::new();
    let giver = family.child();
    let identity = family.first.node.start_child(WAIT).unwrap();
    let id = transfer_and_die(&family, giver, &identity);
    let child = family.start(identity);
    child.node.accept_id(id).unwrap();
    let owner = family.first.node.owner_of(id, WAIT).unwrap();
    assert_eq!(owner, Some(child.vmid()));
}

#[test]
fn ids_transferred_to_a_child_that_never_joins_are_freed() {
    let family = Family::led_with(Config {
        start_limit: Duration::ZERO,
        ..Config::DEFAULT
    });
    let first = &family.first.node;
    // The parent abandons the child.
    let giver = family.child();
    let identity = first.start_child(WAIT).unwrap();
    let id = transfer_and_die(&family, giver, &identity);
    first.abandon_child(identity.vmid).unwrap();
    assert_eq!(first.owner_of(id, WAIT), Ok(None));
    // The parent has ended, and the child has not joined in time.
    let (giver, parent) = (family.child(), family.child());
    let identity = parent.node.start_child(WAIT).unwrap();
    let id = transfer_and_die(&family, giver, &identity);
    assert_eq!(first.owner_of(id, WAIT), Ok(Some(identity.vmid)));
    parent.die();
    until("the ID is free", || first.owner_of(id, WAIT) == Ok(None));
}

#[test]
fn the_vmid_of_a_process_that_has_left_can_be_given_to_a_child() {
    let family = Family::new();
    drop(UnresponsiveMember::join(&family, 2));
    await_departure(&family, 2);
    let child = family.child();
    assert_eq!(child.vmid().get(), 2);
}
