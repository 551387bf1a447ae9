//! Hundreds of members that join a leader in C at once: its backlog is 1.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use libos_ipc::host::{HostNode, raise_descriptor_limit};
use libos_ipc::{Capacities, Config, Identity, LeaseLimits, Vmid, Wait};

use crate::leader::CLeader;

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(20));
const MEMBERS: u32 = 500;

/// Returns the smallest limits of a member, since there are hundreds in this process.
fn config() -> Config {
    Config {
        capacities: Capacities {
            peers: 2,
            waiters: 2,
            frame_length: 256,
            send_queue: 1024,
            own_ranges: 4,
            children: 1,
            reply_buffers: 1,
            delegated_files: 0,
            sync_handles: 0,
            sync_data: 0,
            leases: LeaseLimits {
                handles: 0,
                clients: 0,
            },
            events: 0,
            ..Capacities::DEFAULT
        },
        spin: Duration::ZERO,
        ..Config::DEFAULT
    }
}

#[test]
fn five_hundred_members_join_a_c_leader_at_once() {
    if raise_descriptor_limit().unwrap() < 10 * u64::from(MEMBERS) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("f");
    let leader = CLeader::start(&base);
    let nodes: Vec<_> = (2..2 + MEMBERS)
        .map(|vmid| {
            let identity = Identity::child(Vmid::new(vmid).unwrap(), Vmid::LEADER);
            HostNode::start(&base, identity, config()).unwrap()
        })
        .collect();
    let barrier = Barrier::new(nodes.len() + 1);
    let took = thread::scope(|scope| {
        for node in &nodes {
            let barrier = &barrier;
            let join = move || {
                barrier.wait();
                node.join(WAIT).unwrap();
                assert_eq!(node.statistics().refused_total(), 0);
            };
            let small = thread::Builder::new().stack_size(64 * 1024);
            small.spawn_scoped(scope, join).unwrap();
        }
        barrier.wait();
        Instant::now()
    })
    .elapsed();
    println!("{MEMBERS} members joined in {took:?}");
    drop(nodes);
    assert_eq!(leader.end().unwrap().members, MEMBERS as usize);
    // The time is a fraction of a second on an idle machine; without growing pauses many calls fail
    // after 5 s.
    assert!(took < Duration::from_secs(4), "{took:?}");
}
