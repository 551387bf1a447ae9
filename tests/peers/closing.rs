//! Members that leave a leader in C, which ends if a stream breaks while it answers.

use std::path::Path;
use std::time::{Duration, Instant};

use libos_ipc::host::{Host, HostNode};
use libos_ipc::wire::SyncState;
use libos_ipc::{Config, Driving, Identity, Node, SyncHandle, Vmid, Wait};

use crate::leader::CLeader;
use crate::peer::Peer;

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(10));
const HANDLES: u64 = 12;
const ROUNDS: u32 = 20;

fn identity(vmid: u32) -> Identity {
    Identity::child(Vmid::new(vmid).unwrap(), Vmid::LEADER)
}

fn open_all(node: &Node<'_, Host>) -> Vec<SyncHandle> {
    let handles: Vec<_> = (1..=HANDLES)
        .map(|id| node.open_sync(Some(id)).unwrap())
        .collect();
    for (handle, state) in handles
        .iter()
        .zip([SyncState::Exclusive, SyncState::Shared].iter().cycle())
    {
        node.lock_sync(*handle, *state, &mut [], WAIT).unwrap();
        node.unlock_sync(*handle, *state, None).unwrap();
    }
    handles
}

/// Members connect and leave, each in that way; the leader stays alive.
fn leader_outlives(leave: impl Fn(HostNode, &[SyncHandle])) {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("f");
    let leader = CLeader::start(&base);
    for round in 0..ROUNDS {
        let node = HostNode::start(&base, identity(2 + round), Config::DEFAULT).unwrap();
        let handles = open_all(&node);
        leave(node, &handles);
    }
    leader.end().unwrap();
}

#[test]
fn shutting_down_with_open_handles_waits_for_a_c_leader_to_confirm() {
    leader_outlives(|node, _| assert!(node.shut_down(Duration::from_secs(5))));
}

#[test]
fn dropping_a_node_with_open_handles_leaves_a_c_leader_alive() {
    leader_outlives(|node, _| drop(node));
}

#[test]
fn handles_in_use_at_the_end_leave_a_c_leader_alive() {
    leader_outlives(|node, handles| {
        let state = SyncState::Exclusive;
        node.lock_sync(handles[0], state, &mut [], WAIT).unwrap();
        let state = SyncState::Shared;
        node.lock_sync(handles[1], state, &mut [], WAIT).unwrap();
        assert!(node.shut_down(Duration::from_secs(5)));
    });
}

#[test]
fn closing_without_waiting_and_then_leaving_leaves_a_c_leader_alive() {
    leader_outlives(|node, handles| {
        for handle in handles {
            let _ = node.close_sync(*handle, Wait::at_most(Duration::ZERO));
        }
        assert!(node.shut_down(Duration::from_secs(5)));
    });
}

#[test]
fn a_node_without_a_worker_waits_for_a_c_leader_when_it_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("f");
    let leader = CLeader::start(&base);
    let config = Config {
        driving: Driving::Caller,
        ..Config::DEFAULT
    };
    for round in 0..ROUNDS {
        let identity = identity(2 + round);
        let bytes = Node::<Host>::memory(&identity, &config).total();
        let mut memory = vec![std::mem::MaybeUninit::uninit(); bytes];
        let host = Host::listen(&base, identity.vmid).unwrap();
        let node = Node::new(host, identity, config, &mut memory).unwrap();
        open_all(&node);
    }
    leader.end().unwrap();
}

#[test]
fn a_leader_that_never_confirms_is_disconnected_at_the_limit() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("f");
    let (_silent, node) = with_silent_leader(&base);
    let handle = node.open_sync(Some(1)).unwrap();
    let now = Wait::at_most(Duration::ZERO);
    let _ = node.lock_sync(handle, SyncState::Shared, &mut [], now);
    let before = Instant::now();
    let limit = Duration::from_millis(50);
    assert!(!node.shut_down(limit));
    assert!(before.elapsed() >= limit);
    assert!(before.elapsed() < Duration::from_secs(5));
}

/// Makes a leader that reads all and sends nothing.
fn with_silent_leader(base: &Path) -> (std::os::unix::net::UnixListener, HostNode) {
    let listener = std::os::unix::net::UnixListener::bind(format!("{}.1", base.display())).unwrap();
    let node = HostNode::start(base, identity(2), Config::DEFAULT).unwrap();
    (listener, node)
}

#[test]
fn leaving_a_leader_of_this_crate_needs_no_confirmation_of_open_handles() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("f");
    let leader = HostNode::start(&base, Identity::LEADER, Config::DEFAULT).unwrap();
    let node = HostNode::start(&base, identity(2), Config::DEFAULT).unwrap();
    open_all(&node);
    assert!(node.shut_down(Duration::from_secs(5)));
    let mut peer = Peer::join(&base, 9);
    while leader.statistics().pools.sync_clients.now > 0 {
        assert_eq!(peer.owner_of(1), 0);
    }
}
