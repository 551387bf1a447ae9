//! The VMIDs with which the leader lets a process connect. The oracle is the protocol: a VMID is never used
//! twice.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::{Admission, Config, Error, Identity, Invalid, Refusal, Vmid, Wait};

use crate::peer::{GET_NEW_VMID, Peer, connect, numbers};

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(10));

fn with_leader(admission: Admission, test: impl FnOnce(&Path, &HostNode)) {
    let directory = tempfile::tempdir().unwrap();
    let base: PathBuf = directory.path().join("f");
    let config = Config {
        admission,
        ..Config::DEFAULT
    };
    let leader = HostNode::start(&base, Identity::LEADER, config).unwrap();
    leader.join(WAIT).unwrap();
    test(&base, &leader);
}

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

/// Connects with that VMID. Returns after the leader has closed the stream.
fn is_refused(base: &Path, number: u32) {
    let mut stream = connect(base, number);
    let end = stream.read(&mut [0]);
    assert!(matches!(end, Ok(0) | Err(_)), "{number}: {end:?}");
}

/// Drops the member, and waits until the leader has seen its end.
fn leaves(leader: &HostNode, peer: Peer) {
    let before = leader.statistics().disconnects;
    drop(peer);
    while leader.statistics().disconnects == before {
        std::thread::yield_now();
    }
}

#[test]
fn vmid_that_the_leader_gave_out_is_used_by_one_process() {
    for admission in [Admission::Any, Admission::Known] {
        with_leader(admission, |base, leader| {
            let given = leader.new_vmid(WAIT).unwrap().get();
            let mut parent = Peer::join(base, given);
            let child = numbers(&parent.ask(GET_NEW_VMID, &[]))[0];
            let mut one = Peer::join(base, child);
            assert_eq!(one.owner_of(u32::MAX >> 11), 0);
            // The VMID is refused also while its process is connected.
            is_refused(base, child);
            assert_eq!(leader.statistics().refused(Refusal::VmidTaken), 1);
            leaves(leader, one);
            for _ in 0..3 {
                is_refused(base, child);
            }
            assert_eq!(leader.statistics().refused(Refusal::VmidNotAdmitted), 3);
            assert_ne!(numbers(&parent.ask(GET_NEW_VMID, &[]))[0], child);
        });
    }
}

#[test]
fn process_whose_connection_the_leader_closed_may_come_back() {
    with_leader(Admission::Known, |base, leader| {
        let given = leader.new_vmid(WAIT).unwrap();
        for _ in 0..3 {
            let mut one = Peer::join(base, given.get());
            assert_eq!(one.owner_of(u32::MAX >> 11), 0);
            let before = leader.statistics().disconnects;
            leader.disconnect(given);
            while leader.statistics().disconnects == before {
                std::thread::yield_now();
            }
        }
        let one = Peer::join(base, given.get());
        while leader.statistics().pools.peers.now == 0 {
            std::thread::yield_now();
        }
        leaves(leader, one);
        is_refused(base, given.get());
    });
}

#[test]
fn vmid_that_a_process_has_chosen_needs_an_announcement_if_only_known_ones_are_admitted() {
    with_leader(Admission::Known, |base, leader| {
        is_refused(base, 9);
        assert_eq!(leader.statistics().refused(Refusal::VmidNotAdmitted), 1);
        leader.announce(vmid(9)).unwrap();
        let mut one = Peer::join(base, 9);
        assert_eq!(one.owner_of(u32::MAX >> 11), 0);
        leaves(leader, one);
        is_refused(base, 9);
        assert_eq!(leader.announce(vmid(9)), Err(Error::Invalid(Invalid::Vmid)));
        assert_eq!(
            leader.announce(Vmid::LEADER),
            Err(Error::Invalid(Invalid::Vmid))
        );
    });
    // The number is free again if the leader has not given it out.
    with_leader(Admission::Any, |base, leader| {
        for _ in 0..3 {
            let mut one = Peer::join(base, 9);
            assert_eq!(one.owner_of(u32::MAX >> 11), 0);
            leaves(leader, one);
        }
    });
}

#[test]
fn process_that_was_abandoned_is_not_admitted() {
    with_leader(Admission::Any, |base, leader| {
        let child = leader.start_child(WAIT).unwrap();
        leader.abandon_child(child.vmid).unwrap();
        is_refused(base, child.vmid.get());
    });
}

#[test]
fn only_the_leader_announces() {
    with_leader(Admission::Known, |base, leader| {
        let identity = leader.start_child(WAIT).unwrap();
        let member = HostNode::start(base, identity, Config::DEFAULT).unwrap();
        member.join(WAIT).unwrap();
        assert_eq!(member.announce(vmid(9)), Err(Error::NotLeader));
    });
}
