//! The limit of a call is for all of its steps together. The leader answers each request late, in
//! simulated time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use libos_ipc::pal::{AcceptError, ConnectError, Deadline, Pal, ReadyList, Stream, Time};
use libos_ipc::testing::loopback::{Loopback, Network};
use libos_ipc::wire::{DelegatedLocks, FileLock, IdRange, LockFamily, LockKind, Message, codes};
use libos_ipc::{
    Capacities, ChildSelector, Config, Driving, Error, Identity, Interrupt, LockLimits, Node, Pid,
    Target, Vmid, Wait, forward_pal,
};

type Net = Network<4, 16, 4096>;
type Inner<'w> = Loopback<'w, 4, 16, 4096>;

/// The platform of a member whose leader is polled only from time to time. No other process
/// listens.
struct Slow<'w> {
    network: &'w Net,
    inner: Inner<'w>,
    woken: AtomicBool,
    pause: Duration,
    next_turn: Mutex<Time>,
    leader: &'w (dyn Fn() + Sync),
    /// The leader's backlog is full.
    is_busy: AtomicBool,
}

impl Slow<'_> {
    fn sleep(&self, until: Deadline) {
        let mut next = self.next_turn.lock().unwrap();
        let left = until.min(Deadline::At(*next)).left(|| self.network.now());
        self.network.advance(left.unwrap_or_default());
        if self.network.now() >= *next {
            (self.leader)();
            *next = self.network.now() + self.pause;
        }
    }
}

impl<'w> Pal for &Slow<'w> {
    type Stream = <Inner<'w> as Pal>::Stream;
    type Event = <Inner<'w> as Pal>::Event;
    const SUPPORTS_CALLER_READ: bool = false;

    forward_pal!(inner: event, watch_listener);
    forward_pal!(inner, stream: watch, rewatch, unwatch);

    fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError> {
        if self.is_busy.load(Relaxed) {
            return Err(ConnectError::Busy);
        }
        self.inner.connect(peer)
    }

    fn accept(&self) -> Result<Self::Stream, AcceptError> {
        self.inner.accept()
    }

    fn wait(&self, ready: &mut ReadyList, until: Deadline) {
        self.inner.wait(ready, until);
        if ready.is_empty() && until != Deadline::Now && !self.woken.swap(false, Relaxed) {
            self.sleep(until);
        }
    }

    fn wake(&self) {
        self.woken.store(true, Relaxed);
    }

    fn wait_event(&self, _: &Self::Event, until: Deadline) {
        self.sleep(until);
    }

    fn wait_readable(&self, _: &Self::Stream, _: &Self::Event, _: Deadline) -> bool {
        false
    }

    fn now(&self) -> Time {
        self.network.now()
    }
}

type Member<'m, 'a, 'w> = Node<'m, &'a Slow<'w>>;

fn config() -> Config {
    Config {
        driving: Driving::Caller,
        spin: Duration::ZERO,
        capacities: Capacities {
            frame_length: 4200,
            send_queue: 16_384,
            locks: LockLimits {
                // No request can wait at the leader.
                waiting: 0,
                ..Capacities::DEFAULT.locks
            },
            ..Capacities::DEFAULT
        },
        ..Config::DEFAULT
    }
}

fn with_node<P: Pal, T>(pal: P, identity: Identity, test: impl FnOnce(&Node<'_, P>) -> T) -> T {
    let size = Node::<P>::memory(&identity, &config()).total();
    let mut memory = Box::new_uninit_slice(size);
    test(&Node::new(pal, identity, config(), &mut memory).unwrap())
}

/// Runs a test with a member whose leader is polled after each `pause`. The first argument is the
/// clock.
fn with_slow_leader<T>(
    pause: Duration,
    leader: &(dyn Fn() + Sync),
    network: &Net,
    test: impl FnOnce(&Slow<'_>, &Member<'_, '_, '_>) -> T,
) -> T {
    let two = Vmid::new(2).unwrap();
    let slow = Slow {
        network,
        inner: network.join(two).unwrap(),
        woken: AtomicBool::new(false),
        pause,
        next_turn: Mutex::new(network.now() + pause),
        leader,
        is_busy: AtomicBool::new(false),
    };
    let identity = Identity::child(two, Vmid::LEADER);
    with_node(&slow, identity, |node| test(&slow, node))
}

/// The same with a leader of this crate.
fn with_slow_family<T>(
    pause: Duration,
    test: impl FnOnce(&Net, &Member<'_, '_, '_>, &Node<'_, Inner<'_>>) -> T,
) -> T {
    let network = Box::new(Net::new());
    let pal = network.join(Vmid::LEADER).unwrap();
    with_node(pal, Identity::LEADER, |leader| {
        leader.join(Wait::FOREVER).unwrap();
        let turn = || {
            for _ in 0..10 {
                leader.poll(Deadline::Now);
            }
        };
        with_slow_leader(pause, &turn, &network, |slow, node| {
            test(slow.network, node, leader)
        })
    })
}

const NO_TIME: Wait<'static> = Wait::at_most(Duration::ZERO);
const PAUSE: Duration = Duration::from_millis(60);
/// More than one pause, and less than two.
const LIMIT: Duration = Duration::from_millis(100);

type Call = fn(&Member<'_, '_, '_>, Wait<'_>) -> Result<(), Error>;

/// Makes the call with enough time, and then on another member with so little that it ends after
/// its first step.
fn ends_at_its_limit(name: &str, is_joined: bool, call: Call) {
    let family = |test: &dyn Fn(&Net, &Member<'_, '_, '_>)| {
        with_slow_family(PAUSE, |network, node, _| {
            if is_joined {
                node.join(Wait::FOREVER).unwrap();
            }
            test(network, node);
        });
    };
    family(&|network, node| {
        let start = network.now();
        let outcome = call(node, Wait::FOREVER);
        assert!(
            network.now() - start > LIMIT,
            "{name} is a single step: {outcome:?}"
        );
    });
    family(&|network, node| {
        let start = network.now();
        assert_eq!(
            call(node, Wait::at_most(LIMIT)),
            Err(Error::TimedOut),
            "{name}"
        );
        assert_eq!(network.now() - start, LIMIT, "{name}");
        // The interrupt stays for all steps, too.
        let interrupt = Interrupt::new();
        interrupt.raise(node);
        let start = network.now();
        let outcome = call(node, Wait::at_most(LIMIT).or_until(&interrupt));
        assert_eq!(outcome, Err(Error::Interrupted), "{name}");
        assert_eq!(network.now(), start, "{name}");
    });
}

#[test]
fn a_call_of_several_steps_ends_at_its_limit() {
    ends_at_its_limit("join", false, |node, wait| node.join(wait).map(drop));
    ends_at_its_limit("hold_open_file", false, |node, wait| {
        node.hold_open_file(7, wait)
    });
    ends_at_its_limit("close_open_file", false, |node, wait| {
        // This process knows it from now on, and the leader does not.
        let _ = node.give_open_file(Vmid::LEADER, 7, Wait::at_most(Duration::ZERO));
        node.close_open_file(7, wait)
    });
    ends_at_its_limit("start_child", true, |node, wait| {
        node.start_child(wait).map(drop)
    });
    ends_at_its_limit("take_id_for", true, |node, wait| {
        // Children's IDs are from a range of their own from now on.
        let _ = node.take_id(Wait::at_most(Duration::ZERO));
        node.take_id_for(Vmid::new(9).unwrap(), wait).map(drop)
    });
    ends_at_its_limit("kill", true, |node, wait| {
        node.kill(Target::Process(Pid::new(1).unwrap()), 0, wait)
    });
    ends_at_its_limit("kill of a group", true, |node, wait| {
        node.kill(Target::Group(None), 0, wait)
    });
    ends_at_its_limit("credentials", true, |node, wait| {
        node.credentials(Pid::new(1).unwrap(), wait).map(drop)
    });
    ends_at_its_limit("set_group", true, |node, wait| {
        node.set_group(Pid::new(31), None, wait)
    });
}

#[test]
fn a_wait_without_a_limit_makes_all_its_requests_in_one_second() {
    with_slow_family(Duration::from_millis(600), |network, node, _| {
        node.join(Wait::FOREVER).unwrap();
        let start = network.now();
        let now = Wait::at_most(Duration::ZERO);
        assert_eq!(
            node.wait_child(ChildSelector::Group(None), now),
            Err(Error::TimedOut)
        );
        assert!(network.now() - start <= Duration::from_secs(1));
    });
}

/// Polls the member, and with it its leader, for some time.
fn poll_for(span: Duration, network: &Net, node: &Member<'_, '_, '_>) {
    let until = network.now() + span;
    while network.now() < until {
        node.poll(Deadline::At(until));
    }
}

#[test]
fn a_child_is_abandoned_without_waiting_for_room() {
    with_slow_family(PAUSE, |network, node, leader| {
        node.join(Wait::FOREVER).unwrap();
        let child = node.start_child(Wait::FOREVER).unwrap();
        let filler = Message::ReleaseIdRange(IdRange { start: 0, end: 0 });
        while node.send(Vmid::LEADER, &filler, NO_TIME).is_ok() {}
        let start = network.now();
        node.abandon_child(child.vmid).unwrap();
        assert_eq!(network.now(), start);
        // A waiting call learns that there is no child when the leader has handled that.
        let waited = node.wait_child(ChildSelector::Pid(child.pid.unwrap()), Wait::FOREVER);
        assert_eq!(waited, Err(Error::NoChild));
        poll_for(Duration::from_secs(1), network, node);
        assert_eq!(leader.owner_of(child.pid.unwrap().get(), NO_TIME), Ok(None));
        assert_eq!(node.statistics().pools.children.now, 0);
    });
}

#[test]
fn a_start_that_times_out_at_any_step_leaves_nothing() {
    for limit in (5..400).step_by(15).map(Duration::from_millis) {
        with_slow_family(PAUSE, |network, node, leader| {
            node.join(Wait::FOREVER).unwrap();
            // Its children's IDs are from a range that it does not have yet.
            node.take_id(NO_TIME).unwrap();
            let ranges = leader.statistics().pools.ranges.now;
            let ids = node.ids_in_use();
            let start = network.now();
            let Err(error) = node.start_child(Wait::at_most(limit)) else {
                assert!(limit > 3 * PAUSE, "{limit:?}");
                return;
            };
            assert_eq!(error, Error::TimedOut);
            assert_eq!(network.now() - start, limit);
            poll_for(Duration::from_secs(1), network, node);
            assert_eq!(node.ids_in_use(), ids, "{limit:?}");
            assert_eq!(node.statistics().pools.children.now, 0, "{limit:?}");
            assert_eq!(leader.statistics().pools.processes.now, 2, "{limit:?}");
            let waited = node.wait_child(ChildSelector::Any, Wait::FOREVER);
            assert_eq!(waited, Err(Error::NoChild), "{limit:?}");
            node.release_idle_ranges(Wait::FOREVER).unwrap();
            poll_for(Duration::from_secs(1), network, node);
            let now = leader.statistics().pools.ranges.now;
            assert!(now <= ranges, "{limit:?}: {now} ranges of {ranges}");
        });
    }
}

#[test]
fn a_child_is_abandoned_at_a_c_leader_when_the_backlog_has_room() {
    let network = Box::new(Net::new());
    let inner = network.join(Vmid::LEADER).unwrap();
    let said = Mutex::new(Vec::new());
    let turn = || {
        while let Ok(stream) = inner.accept() {
            let mut bytes = [0; 4];
            assert_eq!(stream.read(&mut bytes), Ok(4));
            said.lock().unwrap().push(u32::from_le_bytes(bytes));
        }
    };
    with_slow_leader(PAUSE, &turn, &network, |slow, node| {
        slow.is_busy.store(true, Relaxed);
        node.abandon_child(Vmid::new(9).unwrap()).unwrap();
        poll_for(Duration::from_secs(1), &network, node);
        assert!(said.lock().unwrap().is_empty());
        slow.is_busy.store(false, Relaxed);
        poll_for(Duration::from_secs(1), &network, node);
        assert_eq!(*said.lock().unwrap(), [9]);
        assert_eq!(node.statistics().pools.children.now, 0);
    });
}

/// Returns a lock of a process on some bytes of a file.
fn lock_on(kind: LockKind, start: u64, end: u64) -> FileLock<'static> {
    FileLock {
        family: LockFamily::Posix,
        kind,
        start,
        end,
        pid: 2,
        handle: 0,
        wait: false,
        path: b"a",
    }
}

#[test]
fn an_unlock_of_a_file_without_room_for_its_return_follows_the_return() {
    with_slow_family(PAUSE, |network, node, leader| {
        node.join(Wait::FOREVER).unwrap();
        // These are as many locks as the member can grant itself, without a message to the leader.
        for at in 1..DelegatedLocks::MAX as u64 {
            let lock = lock_on(LockKind::Write, 10 * at, 10 * at + 2);
            node.set_lock(&lock, Wait::FOREVER).unwrap();
        }
        assert_eq!(leader.statistics().pools.delegations.now, 1);
        // There is room again when these are sent.
        let filler = Message::ReleaseIdRange(IdRange { start: 0, end: 0 });
        while node.queue(Vmid::LEADER, &filler, NO_TIME).is_ok() {}
        let unlock = lock_on(LockKind::Unlock, 11, 11);
        assert_eq!(node.set_lock(&unlock, Wait::FOREVER), Ok(()));
        assert!(network.now() >= Time(0) + PAUSE, "the leader is asked");
        assert_eq!(leader.statistics().pools.locks.now, DelegatedLocks::MAX);
    });
}

/// A leader in C: every lock conflicts, and each answer takes one poll.
fn refuse_all<'w>(inner: &Inner<'w>, streams: &Mutex<Vec<Streams<'w>>>) {
    let mut streams = streams.lock().unwrap();
    while let Ok(from) = inner.accept() {
        let to = inner.connect(Vmid::new(2).unwrap()).unwrap();
        to.write(&[&1_u32.to_le_bytes()]).unwrap();
        streams.push(Streams {
            from,
            to,
            received: Vec::new(),
        });
    }
    for stream in streams.iter_mut() {
        let mut bytes = [0; 500];
        while let Ok(length @ 1..) = stream.from.read(&mut bytes) {
            stream.received.extend(&bytes[..length]);
        }
        // After the VMID: length, sequence number, code.
        let mut at = 4;
        while let Some(header) = stream.received.get(at..at + 17) {
            let length = usize::try_from(u64::from_le_bytes(header[..8].try_into().unwrap()));
            if header[16] == codes::FILE_LOCK_SET {
                let mut answer = [0; 21];
                answer[0] = 21;
                answer[8..16].copy_from_slice(&header[8..16]);
                answer[17..].copy_from_slice(&(-11_i32).to_le_bytes());
                stream.to.write(&[&answer]).unwrap();
            }
            at += length.unwrap();
        }
        stream
            .received
            .drain(4.min(at)..at.max(4).min(stream.received.len()));
    }
}

struct Streams<'w> {
    from: <Inner<'w> as Pal>::Stream,
    to: <Inner<'w> as Pal>::Stream,
    received: Vec<u8>,
}

#[test]
fn a_lock_that_is_requested_repeatedly_is_not_requested_after_the_limit() {
    let network = Box::new(Net::new());
    let inner = network.join(Vmid::LEADER).unwrap();
    let streams = Mutex::new(Vec::new());
    let turn = || refuse_all(&inner, &streams);
    with_slow_leader(PAUSE, &turn, &network, |slow, node| {
        let network = slow.network;
        let lock = FileLock {
            wait: true,
            ..lock_on(LockKind::Write, 0, 9)
        };
        let start = network.now();
        let outcome = node.set_lock(&lock, Wait::at_most(LIMIT));
        assert_eq!(outcome, Err(Error::TimedOut));
        assert_eq!(
            network.now() - start,
            LIMIT,
            "the second request has a limit of its own"
        );
    });
}
