//! Hundreds of members that join a leader in C at once: its backlog is 1.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use libos_ipc::host::{Host, HostNode, raise_descriptor_limit};
use libos_ipc::pal::{AcceptError, ConnectError, Pal};
use libos_ipc::{Capacities, Config, Embedder, Identity, LeaseLimits, Vmid, Wait, forward_pal};

use crate::leader::CLeader;

/// Longer than a busy machine needs for all of them.
const LONG: Duration = Duration::from_mins(10);
const MEMBERS: u32 = 500;

/// The host's platform, with the number of its attempts to connect.
struct Counted {
    host: Host,
    attempts: Arc<AtomicU32>,
}

impl Pal for Counted {
    type Stream = <Host as Pal>::Stream;
    type Event = <Host as Pal>::Event;

    const SUPPORTS_CALLER_READ: bool = Host::SUPPORTS_CALLER_READ;

    forward_pal!(host: event, watch_listener, wait, wake, wait_event, now);
    forward_pal!(host, stream: watch, rewatch, unwatch, wait_readable);

    fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.host.connect(peer)
    }

    fn accept(&self) -> Result<Self::Stream, AcceptError> {
        self.host.accept()
    }
}

struct NoEmbedder;
impl<P: Pal> Embedder<P> for NoEmbedder {}

/// A member, and its attempts to connect.
struct Member {
    node: HostNode<Counted>,
    attempts: Arc<AtomicU32>,
}

impl Member {
    fn start(base: &Path, vmid: u32) -> Member {
        let identity = Identity::child(Vmid::new(vmid).unwrap(), Vmid::LEADER);
        let attempts = Arc::<AtomicU32>::default();
        let pal = Counted {
            host: Host::listen(base, identity.vmid).unwrap(),
            attempts: Arc::clone(&attempts),
        };
        let node = HostNode::over(pal, identity, config(), Box::new(NoEmbedder)).unwrap();
        Member { node, attempts }
    }

    /// Joins, and checks that it was not tried too often to reach the leader.
    fn join(&self) {
        let begin = Instant::now();
        self.node.join(Wait::at_most(LONG)).unwrap();
        let took = begin.elapsed();
        assert_eq!(self.node.statistics().refused_total(), 0);
        let attempts = self.attempts.load(Ordering::Relaxed);
        // The pauses grow from 1 to 64 ms, and each is longer than half of that.
        let most = 8 + took.as_millis() / 32;
        assert!(u128::from(attempts) <= most, "{attempts} in {took:?}");
    }
}

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
        connect_limit: LONG,
        ..Config::DEFAULT
    }
}

/// Without growing pauses the members keep the machine busy with attempts, and many calls fail after 5 s.
#[test]
fn five_hundred_members_join_a_c_leader_at_once_with_few_attempts_each() {
    if raise_descriptor_limit().unwrap() < 10 * u64::from(MEMBERS) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("f");
    let leader = CLeader::start(&base);
    let members: Vec<_> = (2..2 + MEMBERS)
        .map(|vmid| Member::start(&base, vmid))
        .collect();
    let barrier = Barrier::new(members.len() + 1);
    let took = thread::scope(|scope| {
        for member in &members {
            let barrier = &barrier;
            let join = move || {
                barrier.wait();
                member.join();
            };
            let small = thread::Builder::new().stack_size(64 * 1024);
            small.spawn_scoped(scope, join).unwrap();
        }
        barrier.wait();
        Instant::now()
    })
    .elapsed();
    println!("{MEMBERS} members joined in {took:?}");
    drop(members);
    assert_eq!(leader.end().unwrap().members, MEMBERS as usize);
}
