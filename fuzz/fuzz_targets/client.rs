//! A member with all its roles, whose leader and whose peer send anything while it makes calls. The
//! target checks that nothing panics, every call ends, and when the peers have ended every call
//! reports that and nothing is left.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use libos_ipc::pal::{AcceptError, ConnectError, Deadline, Pal, ReadyList, Stream};
use libos_ipc::testing::loopback::{Loopback, LoopbackStream, Network};
use libos_ipc::wire::{FileLock, LockFamily, LockKind, Message, MetaCode, SyncState};
use libos_ipc::{
    Capacities, ChildSelector, Config, Driving, Error, Exit, Identity, LeaseLimits, LockLimits,
    Node, PATH_MAX, Pid, SyncHandle, Target, Vmid, Wait, forward_pal,
};

type TestNetwork = Network<3, 24, 600>;
type Platform<'w> = Loopback<'w, 3, 24, 600>;
type Pipe<'w> = LoopbackStream<'w, 3, 24, 600>;
type Flag<'w> = <Platform<'w> as Pal>::Event;

/// The member's platform: its clock advances when it waits.
struct Ticking<'w>(Platform<'w>, &'w TestNetwork);

impl<'w> Pal for Ticking<'w> {
    type Stream = Pipe<'w>;
    type Event = Flag<'w>;
    const SUPPORTS_CALLER_READ: bool = false;

    forward_pal!(0: event, watch_listener, wake, wait_event, now);
    forward_pal!(0, stream: watch, rewatch, unwatch);

    fn connect(&self, peer: Vmid) -> Result<Pipe<'w>, ConnectError> {
        self.0.connect(peer)
    }
    fn accept(&self) -> Result<Pipe<'w>, AcceptError> {
        self.0.accept()
    }
    fn wait(&self, ready: &mut ReadyList, until: Deadline) {
        self.0.wait(ready, until);
        if ready.is_empty() && !until.is_over(|| self.now()) {
            self.1.advance(Duration::from_millis(1));
        }
    }
    fn wait_readable(&self, _: &Pipe<'w>, _: &Flag<'w>, _: Deadline) -> bool {
        false
    }
}

const HELLO: u8 = 64;

/// The leader, or another process: the fuzzer controls its streams.
struct Peer<'w> {
    number: u32,
    pal: Platform<'w>,
    to: Option<Pipe<'w>>,
    from: Vec<Pipe<'w>>,
}

impl Peer<'_> {
    fn send(&mut self, bytes: &[u8]) {
        if self.to.is_none() {
            self.to = self.pal.connect(vmid(2)).ok();
            if let Some(stream) = &self.to {
                let _ = stream.write(&[&self.number.to_le_bytes()]);
            }
        }
        if let Some(stream) = &self.to {
            let _ = stream.write(&[bytes]);
        }
    }

    fn read(&mut self) {
        while let Ok(stream) = self.pal.accept() {
            self.from.push(stream);
        }
        for stream in &self.from {
            while stream.read(&mut [0; 600]).is_ok_and(|count| count > 0) {}
        }
    }
}

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).expect("not 0")
}

fn frame(seq: u64, code: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = (17 + payload.len() as u64).to_le_bytes().to_vec();
    frame.extend(seq.to_le_bytes());
    frame.push(code);
    frame.extend(payload);
    frame
}

fuzz_target!(|bytes: &[u8]| {
    let capacities = Capacities {
        peers: 3,
        unidentified: 1,
        waiters: 6,
        frame_length: 4352,
        send_queue: 2 * 4480,
        own_ranges: 4,
        children: 3,
        reply_buffers: 1,
        delegated_files: 2,
        events: 8,
        sync_handles: 2,
        sync_data: 16,
        ranges: 0,
        processes: 0,
        queued_signals: 0,
        locks: LockLimits::NONE,
        leases: LeaseLimits {
            handles: 0,
            clients: 0,
        },
    };
    let config = Config {
        capacities,
        driving: Driving::Caller,
        spin: Duration::ZERO,
        recall_limit: Duration::from_millis(20),
        ..Config::DEFAULT
    };
    let network = Box::new(TestNetwork::new());
    let join = |number| network.join(vmid(number)).expect("there is room");
    let identity = Identity {
        pid: Pid::new(5),
        parent_pid: Pid::new(1),
        ..Identity::child(vmid(2), Vmid::LEADER)
    };
    let mut memory = Box::new_uninit_slice(Node::<Ticking<'_>>::memory(&identity, &config).total());
    let platform = Ticking(join(2), &network);
    let member = Node::new(platform, identity, config, &mut memory).expect("enough memory");
    let mut peers = [1, 3].map(|number| Peer {
        number,
        pal: join(number),
        to: None,
        from: Vec::new(),
    });
    let mut handles = Vec::new();
    let mut ids = Vec::new();
    // Each step has an actor or action, a number, and the content of a frame.
    let mut rest = bytes;
    while let [what, number, tail @ ..] = rest {
        rest = tail;
        let peer = &mut peers[usize::from(what >> 7)];
        match what % 64 {
            // The frame is received at once, or only by the next call.
            0..24 => {
                let (code, seq) = match what % 6 {
                    0 => (HELLO, 0),
                    1..4 => (0, u64::from(number % 24)),
                    _ => (number % 128, u64::from(number >> 6)),
                };
                let length = tail.first().map_or(0, |length| usize::from(length % 96));
                let tail = tail.get(1..).unwrap_or(&[]);
                let (payload, tail) = tail.split_at(length.min(tail.len()));
                rest = tail;
                let mut payload = payload.to_vec();
                for (at, byte) in payload.iter_mut().enumerate() {
                    // Numbers are small, so that they match existing resources.
                    if at % 4 != 0 && at < 48 && *byte < 250 {
                        *byte = 0;
                    }
                }
                if code == HELLO && what & 0x40 != 0 {
                    payload = [1_u32, 0, 0, 0].map(u32::to_le_bytes).concat();
                }
                peer.send(&frame(seq, code, &payload));
            }
            24 => peer.send(&[*number; 9]),
            25 => peer.to = None,
            26 => peer.from.clear(),
            27 => peer.read(),
            28..32 => {
                network.advance(Duration::from_millis(u64::from(*number)));
                member.poll(Deadline::Now);
            }
            _ => call(&member, &network, *what, *number, &mut handles, &mut ids),
        }
        assert!(member.check_invariants());
    }
    drop(peers);
    for number in [1, 3] {
        member.disconnect(vmid(number));
    }
    // Advances the clock by twenty seconds.
    let advance = || {
        for _ in 0..20 {
            network.advance(Duration::from_secs(1));
            member.poll(Deadline::Now);
        }
    };
    advance();
    let request = member.request(Vmid::LEADER, &Message::GetIdOwner(7));
    advance();
    let outcome = request.map(|mut request| request.poll());
    assert!(
        matches!(
            outcome,
            // A member whose exit was confirmed makes no more calls, and a leader may have said that it has no room.
            Err(Error::LeaderGone | Error::ShuttingDown | Error::Refused { .. }) | Ok(Some(Err(_)))
        ),
        "{outcome:?}"
    );
    advance();
    let pools = member.statistics().pools;
    assert_eq!(pools.waiters.now, 0, "{pools:?}");
    assert_eq!(pools.peers.now, 0, "{pools:?}");
});

/// Makes a call that times out at once or after a while.
fn call<'w>(
    member: &Node<'_, Ticking<'w>>,
    network: &'w TestNetwork,
    what: u8,
    number: u8,
    handles: &mut Vec<SyncHandle>,
    ids: &mut Vec<u32>,
) {
    let wait = Wait::at_most(Duration::ZERO);
    let id = u32::from(number % 40);
    let pid = Pid::new(id.max(1)).expect("it is not 0");
    let lock = FileLock {
        family: LockFamily::ALL[usize::from(number) % 3],
        kind: LockKind::ALL[usize::from(number >> 2) % 3],
        start: u64::from(number >> 4),
        end: u64::from(number >> 4) + 5,
        pid: 5,
        handle: u64::from(number % 4),
        // A waiting call is cancelled, and the leader may never confirm that.
        wait: number & 0x40 != 0,
        path: &[b'a' + number % 3],
    };
    let mut data = [0; PATH_MAX];
    let handle = handles
        .get(usize::from(number) % handles.len().max(1))
        .copied();
    let state = SyncState::ALL[usize::from(number) % 4];
    match what % 64 {
        32 => drop(member.join(wait)),
        33 => ids.extend(member.take_id(wait)),
        34 => {
            if let Some(id) = ids.pop() {
                let _ = member.release_id(id, wait);
            }
        }
        35 => {
            if let Some(id) = ids.pop() {
                let _ = member.transfer_id(id, vmid(3), wait);
            }
        }
        36 => drop(member.owner_of(id, wait)),
        37 => drop(member.new_vmid(wait)),
        38 => drop(member.accept_id(id)),
        39 => drop(member.release_idle_ranges(wait)),
        40 => drop(member.kill(Target::Process(pid), i32::from(number % 20), wait)),
        41 => drop(member.kill(Target::All, 1, wait)),
        42 => drop(member.kill(Target::Group(Pid::new(id)), 1, wait)),
        43 => drop(member.credentials(pid, wait)),
        44 => drop(member.path_of(pid, MetaCode::Executable, &mut data, wait)),
        45 => drop(member.start_child(wait)),
        46 => drop(member.abandon_child(vmid(id + 4))),
        47 => drop(member.wait_child(ChildSelector::Any, wait)),
        48 => drop(member.process(Pid::new(id), wait)),
        49 => drop(member.set_group(None, Pid::new(id), wait)),
        50..53 => drop(member.set_lock(&lock, wait)),
        53 => drop(member.find_lock(&lock, wait)),
        54 => drop(member.clear_locks(5, wait)),
        55 => drop(member.close_open_file(u64::from(number % 4), wait)),
        56 => handles.extend(member.open_sync(Some(u64::from(number % 3)))),
        57 => {
            if let Some(handle) = handle {
                let _ = member.close_sync(handle, wait);
            }
        }
        58 => {
            if let Some(handle) = handle {
                let outcome = member.lock_sync(handle, state, &mut data, wait);
                assert!(
                    outcome.is_err() || matches!(state, SyncState::Shared | SyncState::Exclusive)
                );
            }
        }
        59 => {
            if let Some(handle) = handle {
                let changed = (state == SyncState::Exclusive).then_some(&data[..8]);
                let _ = member.unlock_sync(handle, state, changed);
            }
        }
        60 => {
            if let Some(handle) = handle {
                let _ = member.upgrade_sync(handle, wait);
            }
        }
        61 => drop(member.exit(Exit::default(), wait)),
        62 => drop(member.connect(vmid(3))),
        _ => {
            network.advance(Duration::from_millis(1));
            member.poll(Deadline::Now);
        }
    }
}
