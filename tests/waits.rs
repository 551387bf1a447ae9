//! The waits of a node on a platform that really waits: time advances only in a wait without a
//! ready stream.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

use libos_ipc::pal::{AcceptError, ConnectError, Deadline, Event, Pal, ReadyList, Stream, Time};
use libos_ipc::testing::loopback::{Loopback, Network};
use libos_ipc::wire::{
    FrameWriter, Hello, IdRange, Message, MetaCode, Sync, SyncCode, SyncState, codes,
};
use libos_ipc::{Capacities, Config, Driving, Identity, Node, Vmid, Wait, forward_pal};

type Net = Network<4, 8, 200>;
type Inner<'w> = Loopback<'w, 4, 8, 200>;

/// A loopback on which a wait takes all of its time limit.
struct SleepingPal<'w> {
    network: &'w Net,
    inner: Inner<'w>,
    woken: AtomicBool,
    /// No peer can be connected to at present.
    is_busy: AtomicBool,
    /// The number of waits that took no time, and of connects that failed.
    idle_calls: AtomicU32,
}

impl<'w> SleepingPal<'w> {
    fn new(network: &'w Net, vmid: u32) -> Self {
        let inner = network.join(Vmid::new(vmid).unwrap()).unwrap();
        SleepingPal {
            network,
            inner,
            woken: AtomicBool::new(false),
            is_busy: AtomicBool::new(false),
            idle_calls: AtomicU32::new(0),
        }
    }

    /// Counts a call that took no time. A node that makes so many only polls.
    fn count_idle_call(&self, limit: u32) {
        let idle_calls = self.idle_calls.fetch_add(1, Relaxed);
        assert!(idle_calls < limit, "the node only polls");
    }

    fn sleep(&self, until: Deadline) {
        let until = until.time().expect("it would wait for ever");
        self.network.advance(until - self.network.now());
    }
}

impl<'w> Pal for &SleepingPal<'w> {
    type Stream = <Inner<'w> as Pal>::Stream;
    type Event = <Inner<'w> as Pal>::Event;
    const SUPPORTS_CALLER_READ: bool = false;

    forward_pal!(inner: event, watch_listener);
    forward_pal!(inner, stream: watch, rewatch, unwatch);

    fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError> {
        if self.is_busy.load(Relaxed) {
            self.count_idle_call(1000);
            return Err(ConnectError::Busy);
        }
        self.inner.connect(peer)
    }

    fn accept(&self) -> Result<Self::Stream, AcceptError> {
        self.inner.accept()
    }

    fn wait(&self, ready: &mut ReadyList, until: Deadline) {
        self.inner.wait(ready, until);
        if !ready.is_empty() {
            self.count_idle_call(100);
        } else if !self.woken.swap(false, Relaxed) {
            self.sleep(until);
        }
    }

    fn wake(&self) {
        self.woken.store(true, Relaxed);
    }

    fn wait_event(&self, event: &Self::Event, until: Deadline) {
        if event.is_set() {
            self.count_idle_call(100);
        } else {
            self.sleep(until);
        }
    }

    fn wait_readable(&self, _: &Self::Stream, _: &Self::Event, _: Deadline) -> bool {
        false
    }

    fn now(&self) -> Time {
        self.network.now()
    }
}

fn config(driving: Driving) -> Config {
    Config {
        driving,
        spin: Duration::ZERO,
        capacities: Capacities {
            frame_length: 200,
            send_queue: 1000,
            sync_data: 16,
            ..Capacities::DEFAULT
        },
        ..Config::DEFAULT
    }
}

/// Polls the node a few times, without waiting.
fn poll_without_waiting(node: &Node<'_, &SleepingPal<'_>>) {
    for _ in 0..4 {
        node.poll(Deadline::Now);
    }
}

/// Polls the node for a simulated second.
fn poll_for_a_second(node: &Node<'_, &SleepingPal<'_>>, network: &Net) {
    let until = network.now() + Duration::from_secs(1);
    while network.now() < until {
        node.poll(Deadline::At(until));
    }
}

/// Runs a test with a node of that family.
fn with_node<T>(
    pal: &SleepingPal<'_>,
    identity: Identity,
    config: Config,
    test: impl FnOnce(&Node<'_, &SleepingPal<'_>>) -> T,
) -> T {
    let size = Node::<&SleepingPal<'_>>::memory(&identity, &config).total();
    let mut memory = Box::new_uninit_slice(size);
    test(&Node::new(pal, identity, config, &mut memory).unwrap())
}

/// Runs a test with a leader that its caller polls.
fn with_leader<T>(pal: &SleepingPal<'_>, test: impl FnOnce(&Node<'_, &SleepingPal<'_>>) -> T) -> T {
    with_node(pal, Identity::LEADER, config(Driving::Caller), test)
}

/// Runs a test with a leader that can connect to no peer.
fn with_unreachable_peers(test: impl FnOnce(&Node<'_, &SleepingPal<'_>>, &Net)) {
    let network = Box::new(Net::new());
    let pal = SleepingPal::new(&network, 1);
    pal.is_busy.store(true, Relaxed);
    with_leader(&pal, |node| test(node, &network));
}

#[test]
fn a_duration_is_a_wait_of_that_time() {
    for limit in [Duration::ZERO, Duration::from_millis(3)] {
        let wait = format!("{:?}", Wait::from(limit));
        assert_eq!(wait, format!("{:?}", Wait::at_most(limit)));
    }
}

#[test]
fn a_full_backlog_is_tried_again_with_pauses() {
    with_unreachable_peers(|node, network| {
        node.connect(Vmid::new(2).unwrap()).unwrap();
        poll_for_a_second(node, network);
    });
}

#[test]
fn the_worker_sleeps_while_it_waits_for_the_last_bytes_of_a_peer() {
    let network = Box::new(Net::new());
    let (pal, peer) = (SleepingPal::new(&network, 1), SleepingPal::new(&network, 2));
    with_leader(&pal, |node| {
        let vmid = Vmid::new(2).unwrap();
        node.connect(vmid).unwrap();
        let words = (&&peer).connect(Vmid::LEADER).unwrap();
        words.write(&[&2_u32.to_le_bytes()]).unwrap();
        poll_without_waiting(node);
        // The peer reads no more, and its last bytes are still under way.
        drop((&&peer).accept().unwrap());
        let until = network.now() + Duration::from_millis(100);
        while network.now() < until {
            node.poll(Deadline::At(until));
        }
        assert_eq!(node.statistics().disconnects, 0, "it was not waited for");
    });
}

#[test]
fn a_leader_with_one_thread_gets_its_own_handle_at_once() {
    let network = Box::new(Net::new());
    let pal = SleepingPal::new(&network, 1);
    with_leader(&pal, |node| {
        let start = network.now();
        let handle = node.open_sync(Some(7)).unwrap();
        let hour = Wait::at_most(Duration::from_hours(1));
        for state in [SyncState::Shared, SyncState::Exclusive] {
            node.lock_sync(handle, state, &mut [], hour).unwrap();
            node.unlock_sync(handle, state, None).unwrap();
        }
        assert_eq!(network.now(), start, "what is here needs no waiting");
    });
}

/// Queues more than the stream holds, so that nothing can follow.
fn queue_too_much(node: &Node<'_, &SleepingPal<'_>>, to: Vmid) {
    let message = Message::ReleaseIdRange(IdRange { start: 1, end: 2 });
    for _ in 0..12 {
        let now = Wait::at_most(Duration::ZERO);
        node.queue(to, &message, now).unwrap();
    }
}

#[test]
fn shut_down_sleeps_while_a_peer_does_not_read() {
    let network = Box::new(Net::new());
    let (pal, _unresponsive) = (SleepingPal::new(&network, 2), SleepingPal::new(&network, 1));
    let identity = Identity::child(Vmid::new(2).unwrap(), Vmid::LEADER);
    with_node(&pal, identity, config(Driving::Worker), |node| {
        queue_too_much(node, Vmid::LEADER);
        node.flush_to(Vmid::LEADER);
        assert!(!node.shut_down(Duration::from_secs(1)), "it never reads");
    });
}

#[test]
fn shut_down_sleeps_while_a_peer_cannot_be_reached() {
    with_unreachable_peers(|node, _| {
        let message = Message::ReleaseIdRange(IdRange { start: 1, end: 2 });
        let now = Wait::at_most(Duration::ZERO);
        node.send(Vmid::new(2).unwrap(), &message, now).unwrap();
        let limit = Duration::from_millis(400);
        assert!(!node.shut_down(limit), "it is not there");
    });
}

fn frame(seq: u64, message: &Message<'_>) -> Vec<u8> {
    let mut bytes = [0; 200];
    let mut writer = FrameWriter::new(&mut bytes);
    writer.push(seq, message).unwrap();
    writer.unsent().to_vec()
}

/// Makes the greeting of a process.
fn hello(pid: u32) -> Message<'static> {
    Message::Hello(Hello {
        version: Hello::VERSION,
        features: 0,
        pid,
        parent: 1,
    })
}

/// Makes a request for a handle.
fn wish(id: u64) -> Vec<u8> {
    let (state, data) = (SyncState::Exclusive, &[][..]);
    let sync = Sync { id, state, data };
    frame(0, &Message::Sync(SyncCode::RequestUpgrade, sync))
}

#[test]
fn a_request_that_can_never_fit_is_refused() {
    let network = Box::new(Net::new());
    let (pal, peer) = (SleepingPal::new(&network, 1), SleepingPal::new(&network, 2));
    with_leader(&pal, |node| {
        let words = (&&peer).connect(Vmid::LEADER).unwrap();
        // A path would not fit the queue. Later frames must not wait for it.
        let (pid, code) = (1, MetaCode::Root);
        let path = frame(1, &Message::PidGetMeta { pid, code });
        let owner = frame(2, &Message::GetIdOwner(1));
        words.write(&[&2_u32.to_le_bytes(), &path, &owner]).unwrap();
        poll_without_waiting(node);
        let answers = (&&peer).accept().unwrap();
        let mut bytes = [0; 100];
        let length = answers.read(&mut bytes).unwrap();
        let (first, second) = (4, 4 + 17 + 12);
        assert_eq!(length, second + 17 + 4, "both are answered");
        assert_eq!(bytes[first + 8], 1);
        assert_eq!(bytes[first + 17 + 8..second], (-12_i32).to_le_bytes());
        assert_eq!(bytes[second + 8], 2);
    });
}

#[test]
fn a_peer_that_reads_no_answers_does_not_keep_the_worker_awake() {
    let network = Box::new(Net::new());
    let (pal, peer) = (SleepingPal::new(&network, 1), SleepingPal::new(&network, 2));
    let mut config = config(Driving::Caller);
    // Every request is refused, and the answer finds no room in the end.
    config.capacities.leases.handles = 0;
    with_node(&pal, Identity::LEADER, config, |node| {
        let words = (&&peer).connect(Vmid::LEADER).unwrap();
        let hello = frame(0, &hello(2));
        words.write(&[&2_u32.to_le_bytes(), &hello]).unwrap();
        let ask = wish(7);
        // The member writes until no more bytes are accepted.
        while words.write(&[&ask]) == Ok(ask.len()) {
            node.poll(Deadline::Now);
        }
        poll_for_a_second(node, &network);
    });
}

/// The leader has one handle, which a client holds. Another client requests a second one so often
/// that the answers fill its queue, which it does not read; and then the first. Returns true if the
/// recall was sent at once.
fn recalls_at_once(requests: u32) -> bool {
    let network = Box::new(Net::new());
    let [pal, holder, requester] = [1, 2, 3].map(|vmid| SleepingPal::new(&network, vmid));
    let mut config = config(Driving::Caller);
    config.capacities.leases.handles = 1;
    with_node(&pal, Identity::LEADER, config, |node| {
        let [of_holder, of_requester] = [(&holder, 2_u32), (&requester, 3)].map(|(peer, vmid)| {
            let words = peer.inner.connect(Vmid::LEADER).unwrap();
            let hello = frame(0, &hello(vmid));
            words.write(&[&vmid.to_le_bytes(), &hello]).unwrap();
            words
        });
        of_holder.write(&[&wish(1)]).unwrap();
        poll_without_waiting(node);
        let [to_holder, to_requester] =
            [&holder, &requester].map(|peer| peer.inner.accept().unwrap());
        let mut bytes = [0; 200];
        while to_holder.read(&mut bytes).is_ok() {}

        for _ in 0..requests {
            of_requester.write(&[&wish(2)]).unwrap();
            poll_without_waiting(node);
        }
        of_requester.write(&[&wish(2), &wish(1)]).unwrap();
        poll_without_waiting(node);
        if to_holder.read(&mut bytes).is_ok() {
            return false;
        }
        let start = network.now();
        while to_requester.read(&mut bytes).is_ok() {}
        while network.now() == start {
            node.poll(Deadline::At(start + Duration::from_secs(1)));
        }
        assert!(to_holder.read(&mut bytes).is_ok(), "the worker slept on it");
        true
    })
}

#[test]
fn a_peer_scheduled_during_a_poll_is_served_without_sleeping() {
    let waited = (0..100).any(recalls_at_once);
    assert!(waited, "there was always room for its answers");
}

#[test]
fn a_leader_that_shuts_down_does_not_look_like_a_c_leader() {
    let network = Box::new(Net::new());
    let [pal, _unresponsive, late] = [1, 2, 3].map(|vmid| SleepingPal::new(&network, vmid));
    with_leader(&pal, |node| {
        let words = late.inner.connect(Vmid::LEADER).unwrap();
        words.write(&[&3_u32.to_le_bytes()]).unwrap();
        node.poll(Deadline::Now);
        // The shutdown is not finished as long as this is not read.
        queue_too_much(node, Vmid::new(2).unwrap());
        let hello = frame(0, &hello(3));
        let question = frame(1, &Message::GetIdOwner(1));
        words.write(&[&hello, &question]).unwrap();
        assert!(!node.shut_down(Duration::from_secs(1)), "no peer reads");
        let answers = late.inner.accept().unwrap();
        let mut bytes = [0; 200];
        let length = answers.read(&mut bytes).unwrap();
        // A process that gets an answer without the leader's HELLO takes the leader for one in C.
        let code = 4 + 16;
        assert_eq!(bytes[..length].get(code), Some(&codes::HELLO));
    });
}
