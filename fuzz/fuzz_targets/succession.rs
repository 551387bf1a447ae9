//! A leader with an heir and a member, whose leader may end or leave at any moment, and two peers that send anything:
//! one may claim to be an heir, a member that returns, or the leader. The target checks that nothing panics, no
//! invariant is broken, and the process that leads at the end serves requests.
#![no_main]

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use libos_ipc::pal::{AcceptError, ConnectError, Pal, Stream, Time};
use libos_ipc::testing::leader_capacities;
use libos_ipc::testing::loopback::{Loopback, LoopbackStream, Network};
use libos_ipc::wire::{Hello, LimitFlags, Message, PeerLimits, SyncState, codes};
use libos_ipc::{
    Capacities, Config, FileLock, Heirs, Identity, LeaseLimits, LockFamily, LockKind, LockLimits,
    Node, Target, Vmid, Wait, forward_pal,
};

const PIPES: usize = 40;
const BYTES: usize = 2400;
type TestNetwork = Network<5, PIPES, BYTES>;
type Platform<'w> = Loopback<'w, 5, PIPES, BYTES>;
type End<'w> = LoopbackStream<'w, 5, PIPES, BYTES>;
type Process<'w> = Node<'w, Ticking<'w>>;

/// The platform of a node: its clock advances whenever it is read, so that every wait ends.
struct Ticking<'w>(Platform<'w>, &'w TestNetwork);

impl<'w> Pal for Ticking<'w> {
    type Stream = End<'w>;
    type Event = <Platform<'w> as Pal>::Event;
    const SUPPORTS_CALLER_READ: bool = false;
    const MAY_BE_SECURE: bool = false;

    forward_pal!(0: event, watch_listener, wait, wake, wait_event);
    forward_pal!(0, stream: watch, rewatch, unwatch, wait_readable);

    fn connect(&self, peer: Vmid) -> Result<End<'w>, ConnectError> {
        self.0.connect(peer)
    }

    fn accept(&self) -> Result<End<'w>, AcceptError> {
        self.0.accept()
    }

    fn now(&self) -> Time {
        self.1.advance(Duration::from_micros(2));
        self.1.now()
    }
}

const CONFIG: Config = Config {
    capacities: Capacities {
        peers: 6,
        unidentified: 2,
        waiters: 6,
        frame_length: 816,
        send_queue: 2 * 4400,
        ranges: 12,
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
    },
    heirs: Heirs::Any,
    spin: Duration::ZERO,
    recall_limit: Duration::from_millis(20),
    ..Config::DEFAULT
};

/// The codes that a peer sends most often: those of a succession, and some others.
const CODES: [u8; 14] = [
    codes::HEIRS,
    codes::LOG,
    codes::STATE,
    codes::HEIR_READY,
    codes::RESIGN,
    codes::LEADER,
    codes::REJOIN,
    codes::MARK,
    codes::WHO_LEADS,
    codes::DISMISS,
    codes::HELLO,
    codes::LIMITS,
    codes::HEARTBEAT,
    codes::SYNC_NOTE,
];

const SHORT: Wait<'_> = Wait::at_most(Duration::from_millis(5));

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).expect("not 0")
}

/// A process that the fuzzer controls.
struct Peer<'w> {
    vmid: u32,
    pal: Platform<'w>,
    to: [Option<End<'w>>; 3],
    from: Vec<End<'w>>,
}

impl<'w> Peer<'w> {
    /// Sends bytes to a process, after its VMID on a new stream.
    fn send(&mut self, to: usize, bytes: &[u8]) {
        let open = || {
            let stream = self.pal.connect(vmid(1 + to as u32)).ok()?;
            let _ = stream.write(&[&self.vmid.to_le_bytes()]);
            Some(stream)
        };
        let stream = self.to[to].take().or_else(open);
        if let Some(stream) = &stream {
            let _ = stream.write(&[bytes]);
        }
        self.to[to] = stream;
    }

    /// Sends the messages of a process that joins and can lead.
    fn join(&mut self, to: usize, features: u32) {
        let hash = (leader_capacities(&CONFIG).fingerprint() >> 40) as u32;
        let hello = Message::Hello(Hello {
            features: Hello::FOLLOWS_SUCCESSION | Hello::features_to_lead(hash) | features,
            ..Hello::NO_PROCESS
        });
        let limits = Message::Limits(PeerLimits {
            version: PeerLimits::VERSION,
            flags: LimitFlags::empty(),
            frame_length: u32::MAX,
            sync_data: 0,
        });
        for message in [hello, limits] {
            let mut bytes = [0; 128];
            if let Ok(length) = message.encode(0, &mut bytes) {
                self.send(to, &bytes[..length]);
            }
        }
    }

    /// Reads at most `limit` bytes of each stream.
    fn read(&mut self, limit: usize) {
        while let Ok(stream) = self.pal.accept() {
            self.from.push(stream);
        }
        let mut buffer = vec![0; limit];
        for stream in &self.from {
            let _ = stream.read(&mut buffer);
        }
    }
}

/// The processes that the fuzzer does not control.
struct Family<'w> {
    network: &'w TestNetwork,
    /// The leader, the heir and a member; none if the process has ended.
    nodes: [Option<Process<'w>>; 3],
}

impl<'w> Family<'w> {
    fn alive(&self) -> impl Iterator<Item = &Process<'w>> {
        self.nodes.iter().flatten()
    }

    /// Advances the clock and polls all nodes, that many times.
    fn advance(&self, times: usize) {
        for _ in 0..times {
            self.network.advance(Duration::from_millis(1));
            for node in self.alive() {
                node.poll_once();
            }
        }
    }

    /// Makes a call in the node with that index.
    fn call(&self, index: usize, what: u8) {
        let Some(node) = &self.nodes[index] else {
            return;
        };
        match what % 8 {
            0 => self.run(node.take_id_async(SHORT)),
            1 => self.run(node.new_vmid_async(SHORT)),
            2 => self.run(node.kill_async(Target::All, 10, SHORT)),
            3 | 4 => {
                let lock = FileLock {
                    family: LockFamily::Posix,
                    kind: [LockKind::Write, LockKind::Unlock][usize::from(what >> 6 & 1)],
                    start: u64::from(what >> 3 & 7),
                    end: u64::MAX,
                    pid: 1 + index as u32,
                    handle: 0,
                    wait: what >> 5 & 1 != 0,
                    path: b"file",
                };
                self.run(node.set_lock_async(&lock, SHORT));
            }
            5 => self.run(node.owner_of_async(u32::from(what), SHORT)),
            6 => {
                if let Ok(handle) = node.open_sync(Some(1 + u64::from(what >> 7))) {
                    let mut data = [0; 16];
                    let state =
                        [SyncState::Shared, SyncState::Exclusive][usize::from(what >> 6 & 1)];
                    self.run(node.lock_sync_async(handle, state, &mut data, SHORT));
                }
            }
            _ => self.run(node.start_child_async(SHORT)),
        }
    }

    /// Polls a call a few times, and then drops it.
    fn run<T>(&self, call: impl Future<Output = T>) {
        let mut call = pin!(call);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..6 {
            if call.as_mut().poll(&mut context).is_ready() {
                return;
            }
            self.advance(1);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let network = Box::new(TestNetwork::new());
    let identities = [
        Identity::LEADER,
        Identity::child(vmid(2), Vmid::LEADER),
        Identity::child(vmid(3), Vmid::LEADER),
    ];
    let mut memory = identities
        .map(|identity| Box::new_uninit_slice(Process::memory(&identity, &CONFIG).total()));
    let [one, two, three] = &mut memory;
    let start = |identity: Identity, memory| {
        let pal = Ticking(
            network.join(identity.vmid).expect("there is room"),
            &network,
        );
        Some(Node::new(pal, identity, CONFIG, memory).expect("enough memory"))
    };
    let mut family = Family {
        network: &network,
        nodes: [
            start(identities[0], one),
            start(identities[1], two),
            start(identities[2], three),
        ],
    };
    if let Some(leader) = &family.nodes[0] {
        leader.join(SHORT).expect("the first");
    }
    let mut peers = [4, 5].map(|number| Peer {
        vmid: number,
        pal: network.join(vmid(number)).expect("there is room"),
        to: [const { None }; 3],
        from: Vec::new(),
    });
    // Each step has an actor, an action, and what the action needs.
    let mut rest = bytes;
    while let [variant, action, tail @ ..] = rest {
        let peer = &mut peers[usize::from(variant & 1)];
        let to = usize::from(variant >> 1) % 3;
        rest = tail;
        match action {
            0..8 => family.advance(1 << (action % 8)),
            8..12 => peer.read(1 << (8 + action % 4)),
            12..16 => peer.join(to, [0, Hello::SHARES_LOGS][usize::from(action & 1)]),
            16 => peer.to[to] = None,
            17 => peer.from.clear(),
            18 => family.nodes[to] = None,
            19 => {
                if let Some(node) = &family.nodes[to] {
                    family.run(node.leave_async(SHORT));
                }
            }
            20..80 => family.call(to, *variant ^ action.rotate_left(3)),
            code => {
                let code = match code {
                    80..240 => CODES[usize::from(*code) % CODES.len()],
                    _ => variant.rotate_left(5) % 128,
                };
                let length = usize::from(variant >> 3).min(tail.len());
                let (payload, tail) = tail.split_at(length);
                rest = tail;
                let mut frame = (17 + payload.len() as u64).to_le_bytes().to_vec();
                frame.extend(u64::from(variant >> 4).to_le_bytes());
                frame.push(code);
                // Numbers are small, so that they match existing resources.
                for (at, byte) in payload.iter().enumerate() {
                    frame.push(if at % 4 == 0 || at >= 24 { *byte } else { 0 });
                }
                peer.send(to, &frame);
            }
        }
        family.advance(2);
    }
    drop(peers);
    family.advance(250);
    for node in family.alive() {
        assert!(node.check_invariants());
        assert_eq!(node.statistics().broken_invariants, 0);
    }
});
