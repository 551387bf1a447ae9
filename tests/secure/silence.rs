//! A host that cuts streams of a family, or keeps them silent, makes no two owners of one thing.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use libos_ipc::pal::secure::SecurePal;
use libos_ipc::pal::{
    AcceptError, ConnectError, Deadline, Pal, ReadyList, Stream, StreamError, Time,
};
use libos_ipc::testing::loopback::{Loopback, LoopbackStream, Network};
use libos_ipc::wire::{FileLock, LockFamily, LockKind, SyncState};
use libos_ipc::{
    Capacities, Config, Driving, Embedder, Errno, Error, Identity, Node, Refusal, SyncHandle, Vmid,
    Wait, forward_pal,
};

use super::{key, random, vmid};

const PIPE: usize = 600;
type Net = Network<4, 24, PIPE>;
type Inner<'w> = Loopback<'w, 4, 24, PIPE>;
type InnerStream<'w> = LoopbackStream<'w, 4, 24, PIPE>;

/// The limit of silence of the family.
const SILENCE: Duration = Duration::from_secs(2);
const CONFIG: Config = Config {
    driving: Driving::Caller,
    spin: Duration::ZERO,
    capacities: Capacities {
        peers: 8,
        ..Capacities::DEFAULT
    },
    recall_limit: Duration::from_secs(30),
    ..Config::DEFAULT
};

/// The streams of one process, as the host makes them.
struct Host<'w> {
    net: &'w Net,
    inner: Inner<'w>,
    /// Runs another process while this one waits.
    poll_others: &'w (dyn Fn() + Sync),
    streams: Mutex<Vec<Weak<Mutex<Option<InnerStream<'w>>>>>>,
    /// The other ends are closed, and this process does not notice.
    is_cut: AtomicBool,
    /// Nothing arrives at this process.
    is_silent: AtomicBool,
}

struct HostStream<'a, 'w> {
    host: &'a Host<'w>,
    inner: Arc<Mutex<Option<InnerStream<'w>>>>,
}

impl<'w> Host<'w> {
    fn new(net: &'w Net, number: u32, poll_others: &'w (dyn Fn() + Sync)) -> Host<'w> {
        Host {
            net,
            inner: net.join(vmid(number)).unwrap(),
            poll_others,
            streams: Mutex::default(),
            is_cut: AtomicBool::new(false),
            is_silent: AtomicBool::new(false),
        }
    }

    /// Cuts the other ends of all streams of this process.
    fn cut(&self) {
        self.is_cut.store(true, Relaxed);
        for stream in self.streams.lock().unwrap().drain(..) {
            if let Some(stream) = stream.upgrade() {
                stream.lock().unwrap().take();
            }
        }
    }

    fn stream<'a>(&'a self, inner: InnerStream<'w>) -> HostStream<'a, 'w> {
        let inner = Arc::new(Mutex::new(Some(inner)));
        self.streams.lock().unwrap().push(Arc::downgrade(&inner));
        HostStream { host: self, inner }
    }
}

impl Stream for HostStream<'_, '_> {
    fn read(&self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let inner = self.inner.lock().unwrap();
        match &*inner {
            Some(inner) if !self.host.is_silent.load(Relaxed) => inner.read(buffer),
            _ => Err(StreamError::WouldBlock),
        }
    }

    fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError> {
        match &*self.inner.lock().unwrap() {
            Some(inner) => inner.write(parts),
            None => Ok(parts.iter().map(|part| part.len()).sum()),
        }
    }
}

impl<'a, 'w> Pal for &'a Host<'w> {
    type Stream = HostStream<'a, 'w>;
    type Event = <Inner<'w> as Pal>::Event;
    const SUPPORTS_CALLER_READ: bool = false;

    forward_pal!(inner: event, watch_listener, wake);

    fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError> {
        Ok(self.stream(self.inner.connect(peer)?))
    }

    fn accept(&self) -> Result<Self::Stream, AcceptError> {
        Ok(self.stream(self.inner.accept()?))
    }

    fn watch(
        &self,
        stream: &Self::Stream,
        token: libos_ipc::pal::Token,
        interest: libos_ipc::pal::Interest,
    ) -> Result<(), libos_ipc::pal::OutOfResources> {
        let inner = stream.inner.lock().unwrap();
        inner
            .as_ref()
            .map_or(Ok(()), |inner| self.inner.watch(inner, token, interest))
    }

    fn rewatch(
        &self,
        stream: &Self::Stream,
        token: libos_ipc::pal::Token,
        interest: libos_ipc::pal::Interest,
    ) {
        if let Some(inner) = &*stream.inner.lock().unwrap() {
            self.inner.rewatch(inner, token, interest);
        }
    }

    fn unwatch(&self, stream: &Self::Stream) {
        if let Some(inner) = &*stream.inner.lock().unwrap() {
            self.inner.unwatch(inner);
        }
    }

    fn wait(&self, ready: &mut ReadyList, until: Deadline) {
        if !self.is_cut.load(Relaxed) {
            self.inner.wait(ready, until);
        }
        if self.is_silent.load(Relaxed) {
            ready.clear();
        }
        (self.poll_others)();
        if ready.is_empty() && until != Deadline::Now {
            self.net.advance(Duration::from_millis(1));
        }
    }

    fn wait_event(&self, _: &Self::Event, _: Deadline) {
        (self.poll_others)();
        self.net.advance(Duration::from_millis(1));
    }

    fn wait_readable(&self, _: &Self::Stream, _: &Self::Event, _: Deadline) -> bool {
        false
    }

    fn now(&self) -> Time {
        self.net.now()
    }
}

/// Counts the calls of `cut_off`, and of `member_left` for process 2.
#[derive(Default)]
struct Notices {
    cut_off: AtomicU32,
    left: AtomicU32,
}

impl<P: Pal> Embedder<P> for Notices {
    fn cut_off(&self, _: &Node<'_, P>) {
        self.cut_off.fetch_add(1, Relaxed);
    }

    fn member_left(&self, _: &Node<'_, P>, vmid: Vmid) {
        self.left.fetch_add(u32::from(vmid.get() == 2), Relaxed);
    }
}

fn node<'m, P: Pal + 'm>(pal: P, number: u32, config: Config, notices: &'m Notices) -> Node<'m, P> {
    let identity = match number {
        1 => Identity::LEADER,
        _ => Identity::child(vmid(number), Vmid::LEADER),
    };
    let bytes = Node::<P>::memory(&identity, &config).total();
    let memory = Box::leak(Box::new_uninit_slice(bytes));
    let node = Node::new(pal, identity, config, memory).unwrap();
    node.with_embedder(notices)
}

type Member = Node<'static, &'static SecurePal<&'static Host<'static>>>;

/// A family of a leader and two members, of which the host can cut off the first. All of it lives until
/// the end of the tests.
struct Family {
    net: &'static Net,
    host: &'static Host<'static>,
    one: Member,
    two: Member,
    notices: &'static [Notices; 3],
    leader: &'static Node<'static, &'static SecurePal<Inner<'static>>>,
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn with_family(config: Config, test: impl FnOnce(&Family)) {
    let net = leak(Net::new());
    let notices: &[Notices; 3] = leak(std::array::from_fn(|_| Notices::default()));
    let place = net.join(Vmid::LEADER).unwrap();
    let pal = leak(SecurePal::new(place, Vmid::LEADER, key(), random));
    let leader = leak(node(pal, 1, config, &notices[0]));
    let turn = leak(|| {
        leader.poll(Deadline::Now);
    });
    let hosts: &[Host<'static>; 2] = leak([2, 3].map(|number| Host::new(net, number, turn)));
    let member = |at: usize| {
        let number = at as u32 + 2;
        let pal = leak(SecurePal::new(&hosts[at], vmid(number), key(), random));
        node(pal, number, config, &notices[at + 1])
    };
    let family = Family {
        net,
        host: &hosts[0],
        one: member(0),
        two: member(1),
        notices,
        leader,
    };
    for member in [&family.one, &family.two] {
        member.owner_of(1, WAIT).unwrap();
    }
    family.run(Duration::from_millis(100));
    test(&family);
}

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(10));
const NO_WAIT: Wait<'static> = Wait::at_most(Duration::ZERO);

fn lock(family: LockFamily, kind: LockKind, pid: u32) -> FileLock<'static> {
    FileLock {
        family,
        kind,
        start: 0,
        end: u64::MAX,
        pid,
        handle: pid.into(),
        wait: false,
        path: b"/file",
    }
}

impl Family {
    /// Lets all processes run for that time.
    fn run(&self, span: Duration) {
        let until = self.net.now() + span;
        while self.net.now() < until {
            self.one.poll(Deadline::Now);
            self.two.poll(Deadline::Now);
            self.leader.poll(Deadline::Now);
            self.net.advance(Duration::from_millis(1));
        }
    }

    /// Has both members use one thing, from before a cut until the second one gets it. `uses` is a use
    /// by the first one, which has it; `gets` an attempt of the second one. Checks that the first one
    /// does not use it after the second one has got it, and that the second one gets it after 1.25
    /// times the limit of silence.
    fn never_two_owners(
        &self,
        mut uses: impl FnMut() -> Result<(), Error>,
        mut gets: impl FnMut() -> bool,
    ) {
        uses().unwrap();
        assert!(!gets());
        self.run(SILENCE * 2);
        uses().unwrap();
        self.host.cut();
        let cut = self.net.now();
        let mut last_use = cut;
        loop {
            let result = uses();
            if result.is_ok() {
                last_use = self.net.now();
            } else {
                assert_eq!(result, Err(Error::CutOff));
            }
            if gets() {
                break;
            }
            assert!(self.net.now() < cut + SILENCE * 2, "it is never free");
            self.run(Duration::from_millis(100));
        }
        let got = self.net.now() - cut;
        assert!(got >= SILENCE * 5 / 4, "{got:?}");
        assert!(
            got < SILENCE * 5 / 4 + Duration::from_millis(200),
            "{got:?}"
        );
        let usable = last_use - cut;
        assert!(usable <= SILENCE, "{usable:?}");
        assert!(usable > SILENCE / 2, "{usable:?}");
        for _ in 0..3 {
            assert_eq!(uses(), Err(Error::CutOff));
            self.run(SILENCE);
        }
        assert_eq!(self.notices[1].cut_off.load(Relaxed), 1);
        assert_eq!(self.notices[2].cut_off.load(Relaxed), 0);
        assert_eq!(self.notices[0].left.load(Relaxed), 1);
    }
}

#[test]
fn member_that_is_cut_off_uses_no_delegation_after_another_member_has_got_its_lock() {
    with_family(CONFIG, |family| {
        let write = |pid| lock(LockFamily::Posix, LockKind::Write, pid);
        let unlock = lock(LockFamily::Posix, LockKind::Unlock, 20);
        family.never_two_owners(
            || {
                family.one.set_lock(&unlock, WAIT)?;
                family.one.set_lock(&write(20), WAIT)
            },
            || {
                // Until the cut the first member would return the file.
                if !family.host.is_cut.load(Relaxed) {
                    return false;
                }
                let limit = Wait::at_most(Duration::from_millis(20));
                let request = FileLock {
                    wait: true,
                    ..write(30)
                };
                family.two.set_lock(&request, limit).is_ok()
            },
        );
    });
}

#[test]
fn member_that_is_cut_off_keeps_its_lock_until_its_time_is_over() {
    with_family(CONFIG, |family| {
        let lock = |kind, pid| lock(LockFamily::Flock, kind, pid);
        family
            .one
            .set_lock(&lock(LockKind::Write, 20), WAIT)
            .unwrap();
        family.host.cut();
        let cut = family.net.now();
        let request = FileLock {
            wait: true,
            ..lock(LockKind::Write, 30)
        };
        family.two.set_lock(&request, WAIT).unwrap();
        let waited = family.net.now() - cut;
        assert!(waited >= SILENCE * 5 / 4, "{waited:?}");
        assert!(
            waited < SILENCE * 5 / 4 + Duration::from_millis(100),
            "{waited:?}"
        );
        family.run(Duration::from_millis(10));
        assert_eq!(family.notices[1].cut_off.load(Relaxed), 1);
        let again = family.one.set_lock(&lock(LockKind::Unlock, 20), WAIT);
        assert_eq!(again, Err(Error::CutOff));
    });
}

#[test]
fn member_that_is_cut_off_uses_no_lease_after_another_member_has_got_it() {
    with_family(CONFIG, |family| {
        let (ours, theirs) = (family.one.open_sync(Some(7)), family.two.open_sync(Some(7)));
        let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
        let state = SyncState::Exclusive;
        // The first member holds it all the time, so that the lease is not given back.
        let (length, _) = family
            .one
            .lock_sync(ours, state, &mut [0; 8], WAIT)
            .unwrap();
        assert_eq!(length, 0);
        let store = |handle: SyncHandle| {
            family.one.unlock_sync(handle, state, Some(&[1]))?;
            family.one.lock_sync(handle, state, &mut [0; 8], NO_WAIT)
        };
        let mut is_held = true;
        family.never_two_owners(
            || {
                if !is_held {
                    return family
                        .one
                        .lock_sync(ours, state, &mut [0; 8], NO_WAIT)
                        .map(drop);
                }
                let stored = store(ours).map(drop);
                is_held = stored.is_ok();
                stored
            },
            || {
                if !family.host.is_cut.load(Relaxed) {
                    return false;
                }
                let limit = Wait::at_most(Duration::from_millis(20));
                family
                    .two
                    .lock_sync(theirs, state, &mut [0; 8], limit)
                    .is_ok()
            },
        );
    });
}

#[test]
fn member_that_is_cut_off_uses_no_id_that_is_free() {
    with_family(CONFIG, |family| {
        let first = family.one.take_id(WAIT).unwrap();
        family.never_two_owners(
            || {
                let id = family.one.take_id(NO_WAIT)?;
                family.one.release_id(id, NO_WAIT)
            },
            || family.two.owner_of(first, WAIT).unwrap().is_none(),
        );
    });
}

#[test]
fn delegation_of_a_silent_member_that_is_not_returned_goes_to_nobody_before_the_member_is_cut_off()
{
    let config = Config {
        recall_limit: SILENCE / 4,
        ..CONFIG
    };
    with_family(config, |family| {
        let write = |pid| lock(LockFamily::Posix, LockKind::Write, pid);
        family.one.set_lock(&write(20), WAIT).unwrap();
        family.run(SILENCE);
        family.host.is_silent.store(true, Relaxed);
        let begin = family.net.now();
        let request = FileLock {
            wait: true,
            ..write(30)
        };
        let limit = Wait::at_most(SILENCE / 20);
        while family.two.set_lock(&request, limit).is_err() {}
        let got = family.net.now() - begin;
        assert!(got >= SILENCE * 6 / 4, "{got:?}");
        assert!(got < SILENCE * 7 / 4, "{got:?}");
        assert_eq!(family.one.set_lock(&write(20), WAIT), Err(Error::CutOff));
        assert_eq!(family.leader.statistics().refused(Refusal::NotReturned), 1);
    });
}

#[test]
fn answers_that_the_host_delays_do_not_lengthen_the_time() {
    with_family(CONFIG, |family| {
        let write = lock(LockFamily::Posix, LockKind::Write, 20);
        family.one.set_lock(&write, WAIT).unwrap();
        family.run(SILENCE);
        // The leader answers all the time, and each answer arrives late.
        let begin = family.net.now();
        loop {
            family.host.is_silent.store(true, Relaxed);
            family.run(SILENCE * 9 / 10);
            family.host.is_silent.store(false, Relaxed);
            if family.one.set_lock(&write, NO_WAIT).is_err() {
                break;
            }
            family.one.poll(Deadline::Now);
        }
        let usable = family.net.now() - begin;
        assert!(usable < SILENCE * 2, "{usable:?}");
        assert_eq!(family.one.set_lock(&write, WAIT), Err(Error::CutOff));
    });
}

#[test]
fn member_whose_stream_comes_back_stays_cut_off() {
    with_family(CONFIG, |family| {
        family.run(SILENCE);
        family.host.is_silent.store(true, Relaxed);
        family.run(SILENCE + SILENCE / 4);
        assert_eq!(family.notices[1].cut_off.load(Relaxed), 1);
        family.host.is_silent.store(false, Relaxed);
        family.run(SILENCE);
        assert_eq!(family.one.take_id(WAIT), Err(Error::CutOff));
        assert_eq!(family.one.owner_of(1, WAIT), Err(Error::CutOff));
        assert_eq!(family.notices[1].cut_off.load(Relaxed), 1);
        // The member has ended its stream itself, so what it had was free at once.
        assert_eq!(family.notices[0].left.load(Relaxed), 1);
    });
}

#[test]
fn process_that_the_host_cuts_off_while_it_joins_is_cut_off_and_its_call_ends() {
    let net = leak(Net::new());
    let notices: &[Notices; 2] = leak(std::array::from_fn(|_| Notices::default()));
    let place = net.join(Vmid::LEADER).unwrap();
    let pal = leak(SecurePal::new(place, Vmid::LEADER, key(), random));
    let leader = leak(node(pal, 1, CONFIG, &notices[0]));
    let turn = leak(|| {
        leader.poll(Deadline::Now);
    });
    let host = leak(Host::new(net, 2, turn));
    let pal = leak(SecurePal::new(host, vmid(2), key(), random));
    let one = node(pal, 2, CONFIG, &notices[1]);
    // The handshake is done, and nothing of the leader arrives behind it.
    let hour = Wait::at_most(Duration::from_hours(1));
    for _ in 0..20 {
        assert_eq!(one.owner_of(1, NO_WAIT), Err(Error::TimedOut));
    }
    host.is_silent.store(true, Relaxed);
    let began = net.now();
    assert_eq!(one.owner_of(1, hour), Err(Error::CutOff));
    let took = net.now() - began;
    assert!(took <= SILENCE + Duration::from_millis(20), "{took:?}");
    assert_eq!(notices[1].cut_off.load(Relaxed), 1);
}

#[test]
fn member_that_leaves_frees_its_lock_at_once() {
    with_family(CONFIG, |family| {
        let lock = |kind, pid| lock(LockFamily::Flock, kind, pid);
        family
            .one
            .set_lock(&lock(LockKind::Write, 20), WAIT)
            .unwrap();
        family.one.shut_down(Duration::ZERO);
        family.run(Duration::from_millis(20));
        family
            .two
            .set_lock(&lock(LockKind::Write, 30), WAIT)
            .unwrap();
        assert_eq!(family.notices[0].left.load(Relaxed), 1);
        assert_eq!(family.notices[1].cut_off.load(Relaxed), 0);
    });
}

#[test]
fn vmid_of_a_member_that_is_lost_is_taken_until_its_time_is_over() {
    with_family(CONFIG, |family| {
        family.host.cut();
        family.run(Duration::from_millis(20));
        let refused = family.leader.statistics().refused(Refusal::VmidTaken);
        assert_eq!(refused, 0);
        assert_eq!(family.leader.statistics().pools.peers.now, 2);
        family.run(SILENCE * 3 / 2);
        assert_eq!(family.leader.statistics().pools.peers.now, 1);
    });
}

#[test]
fn family_without_a_limit_of_silence_frees_at_once_what_a_lost_member_had() {
    let config = Config {
        silence_limit: None,
        ..CONFIG
    };
    with_family(config, |family| {
        let lock = |kind, pid| lock(LockFamily::Flock, kind, pid);
        family
            .one
            .set_lock(&lock(LockKind::Write, 20), WAIT)
            .unwrap();
        let sent = family.leader.statistics().frames_in;
        family.run(SILENCE * 3);
        assert_eq!(family.leader.statistics().frames_in, sent, "no heartbeats");
        family.host.cut();
        family.run(Duration::from_millis(20));
        family
            .two
            .set_lock(&lock(LockKind::Write, 30), WAIT)
            .unwrap();
    });
}

#[test]
fn fencing_number_of_the_next_holder_is_higher_than_those_of_a_member_that_was_cut_off() {
    with_family(CONFIG, |family| {
        let write = |pid| lock(LockFamily::Posix, LockKind::Write, pid);
        family.one.set_lock(&write(20), WAIT).unwrap();
        let first = family.one.fencing_number(&write(20), WAIT).unwrap();
        // The file is delegated, so no message is needed.
        let second = family.one.fencing_number(&write(20), NO_WAIT).unwrap();
        assert_eq!(second, first.map(|first| first + 1));
        let not_held = family.one.fencing_number(&write(21), WAIT);
        assert_eq!(
            not_held,
            Err(Error::Refused {
                errno: Errno::EPERM,
                by: None
            })
        );
        let (ours, theirs) = (family.one.share::<u64>(Some(7)), family.two.share(Some(7)));
        let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
        let writer = ours.write(WAIT).unwrap();
        let of_lease = writer.fencing_number(WAIT).unwrap();
        assert!(of_lease > second);
        drop(writer);
        family.host.cut();
        let request = FileLock {
            wait: true,
            ..write(30)
        };
        family.two.set_lock(&request, WAIT).unwrap();
        let third = family.two.fencing_number(&write(30), WAIT).unwrap();
        assert!(third > second);
        let mut writer = theirs.write(WAIT).unwrap();
        *writer = 1;
        assert!(writer.fencing_number(WAIT).unwrap() > of_lease);
        let late = family.one.fencing_number(&write(20), WAIT);
        assert_eq!(late, Err(Error::CutOff));
        assert!(matches!(ours.write(WAIT), Err(Error::CutOff)));
    });
}
