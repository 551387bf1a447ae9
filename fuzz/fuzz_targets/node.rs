//! A leader and a member with all their roles, and two peers that send anything. The target checks
//! that nothing panics, both continue to serve each other, and when the peers have ended nothing of
//! them is left.
#![no_main]

use std::cell::RefCell;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use libos_ipc::pal::{Deadline, Pal, Stream};
use libos_ipc::testing::loopback::{Loopback, LoopbackStream, Network};
use libos_ipc::wire::MetaCode;
use libos_ipc::{
    Capacities, Config, Driving, Embedder, Errno, Identity, LeaseLimits, LockLimits, Metadata,
    MetadataReply, Node, Pid, Signal, SignalReply, Target, Vmid, Wait,
};

type TestNetwork = Network<4, 24, 600>;
type Platform<'w> = Loopback<'w, 4, 24, 600>;

/// Answers some signals at once, some later.
#[derive(Default)]
struct Os(RefCell<Vec<SignalReply>>);

/// The library OS of a node. All of this target runs in one thread.
struct Single(Os);

#[allow(unsafe_code)]
// SAFETY: there is one thread only.
unsafe impl Sync for Single {}

impl<P: Pal> Embedder<P> for Single {
    fn signal(&self, node: &Node<'_, P>, signal: &Signal, reply: SignalReply) {
        if signal.signal % 2 == 0 {
            let _ = reply.send(node, Ok(()));
        } else {
            self.0.0.borrow_mut().push(reply);
        }
    }

    fn metadata(&self, node: &Node<'_, P>, pid: Pid, _: MetaCode, reply: MetadataReply) {
        let answer = match pid.get() % 3 {
            0 => Err(Errno::ESRCH),
            1 => Ok(Metadata::Credentials { uid: 1, gid: 2 }),
            _ => Ok(Metadata::Path(c"/somewhere")),
        };
        let _ = reply.send(node, answer);
    }
}

/// A process that the fuzzer controls, with its streams to the leader and to the member.
struct Peer<'w> {
    pal: Platform<'w>,
    to: [Option<LoopbackStream<'w, 4, 24, 600>>; 2],
}

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).expect("not 0")
}

fuzz_target!(|bytes: &[u8]| {
    let capacities = Capacities {
        peers: 4,
        unidentified: 2,
        waiters: 6,
        frame_length: 816,
        send_queue: 2 * 4400,
        ranges: 24,
        own_ranges: 4,
        processes: 8,
        queued_signals: 2,
        children: 4,
        reply_buffers: 1,
        locks: LockLimits {
            locks: 72,
            files: 3,
            waiting: 3,
            open_files: 4,
        },
        delegated_files: 2,
        sync_handles: 2,
        sync_data: 16,
        leases: LeaseLimits {
            handles: 2,
            clients: 4,
        },
        events: 8,
    };
    let config = Config {
        capacities,
        driving: Driving::Caller,
        spin: Duration::ZERO,
        wrap_ids: true,
        recall_limit: Duration::from_millis(20),
        ..Config::DEFAULT
    };
    let network = Box::new(TestNetwork::new());
    let join = |number| network.join(vmid(number)).expect("there is room");
    let (leader_os, member_os) = (Single(Os::default()), Single(Os::default()));
    let identity = Identity::child(vmid(2), Vmid::LEADER);
    let mut leader_memory =
        Box::new_uninit_slice(Node::<Platform<'_>>::memory(&Identity::LEADER, &config).total());
    let mut member_memory =
        Box::new_uninit_slice(Node::<Platform<'_>>::memory(&identity, &config).total());
    let leader = Node::new(join(1), Identity::LEADER, config, &mut leader_memory)
        .expect("enough memory")
        .with_embedder(&leader_os);
    let member = Node::new(join(2), identity, config, &mut member_memory)
        .expect("enough memory")
        .with_embedder(&member_os);
    // Advances the clock and polls both nodes, that many times.
    let advance = |times: usize| {
        for _ in 0..times {
            network.advance(Duration::from_millis(1));
            leader.poll(Deadline::Now);
            member.poll(Deadline::Now);
        }
    };
    let now = Wait::at_most(Duration::ZERO);
    leader.join(now).expect("the first");
    let mut peers = [3, 4].map(|number| Peer {
        pal: join(number),
        to: [None, None],
    });
    // Each step has an actor, an action, a length, and that many bytes.
    let mut rest = bytes;
    while let [variant, code, tail @ ..] = rest {
        let peer = &mut peers[usize::from(variant & 1)];
        let to = usize::from(variant >> 1 & 1);
        let own = 3 + u32::from(variant & 1);
        let length = usize::from(variant >> 2).min(tail.len());
        let (payload, tail) = tail.split_at(length);
        rest = tail;
        match code % 128 {
            // These bytes are no frame.
            94 => {
                if let Some(stream) = &peer.to[to] {
                    let _ = stream.write(&[payload]);
                }
            }
            95 => peer.to[to] = None,
            93 => {
                while let Ok(stream) = peer.pal.accept() {
                    let _ = stream.read(&mut [0; 600]);
                }
            }
            92 => {
                let _ = member.kill(Target::All, i32::from(*variant), now);
                if let Some(pid) = Pid::new(u32::from(*variant)) {
                    let _ = leader.kill(Target::Process(pid), 2, now);
                }
            }
            91 => {
                for os in [&leader_os, &member_os] {
                    for reply in os.0.0.borrow_mut().drain(..) {
                        let _ = reply.send(&leader, Ok(()));
                        let _ = reply.send(&member, Err(Errno::EPERM));
                    }
                }
            }
            code => {
                let stream = peer.to[to].take().or_else(|| {
                    let stream = peer.pal.connect(vmid(1 + to as u32)).ok()?;
                    let _ = stream.write(&[&own.to_le_bytes()]);
                    Some(stream)
                });
                let Some(stream) = stream else { continue };
                let mut frame = (17 + payload.len() as u64).to_le_bytes().to_vec();
                frame.extend(u64::from(*variant).to_le_bytes());
                frame.push(code);
                // Numbers are small, so that they match existing resources.
                for (at, byte) in payload.iter().enumerate() {
                    frame.push(if at % 4 == 0 || at >= 24 { *byte } else { 0 });
                }
                let _ = stream.write(&[&frame]);
                peer.to[to] = Some(stream);
            }
        }
        advance(2);
    }
    drop(peers);
    for number in [3, 4] {
        leader.disconnect(vmid(number));
        member.disconnect(vmid(number));
    }
    advance(40);
    assert!(leader.check_invariants());
    // The well-behaved member is still served.
    let mut request = member
        .request(Vmid::LEADER, &libos_ipc::wire::Message::GetIdOwner(1))
        .expect("there is room");
    advance(40);
    assert!(
        matches!(request.poll(), Some(Ok(_))),
        "the leader serves no more: {:?}",
        leader.statistics()
    );
    let (of_leader, of_member) = (leader.statistics().pools, member.statistics().pools);
    assert!(of_leader.peers.now <= 1, "{of_leader:?}");
    assert_eq!(of_leader.waiters.now + of_member.waiters.now, 0);
    let locks = [
        of_leader.locks,
        of_leader.locked_files,
        of_leader.waiting_for_locks,
        of_leader.lock_handles,
        of_leader.delegations,
        of_leader.queued_signals,
    ];
    assert!(locks.iter().all(|fill| fill.now == 0), "{locks:?}");
});
