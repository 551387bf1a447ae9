//! The ends of calls: time limits, interrupts, and peers that die, violate the protocol, stall or
//! stay silent. The peer is a bare socket, so the test controls every byte.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use libos_ipc::events::EventKind;
use libos_ipc::host::{Host, HostNode};
use libos_ipc::pal::Deadline;
use libos_ipc::wire::{
    Answer, FileLock, IdRange, LockFamily, LockKind, Message, MetaCode, SyncState,
};
use libos_ipc::{
    Capacities, ChildSelector, Config, Driving, Errno, Error, Identity, Interrupt, Invalid, Node,
    Refusal, Resource, Vmid, Wait, WaitReason,
};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(10);
const WAIT: Wait<'static> = Wait::at_most(LONG);

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

/// The directory of a family, whose leader and peers the test makes.
struct TestFamily {
    _directory: TempDir,
    base: PathBuf,
}

impl TestFamily {
    fn new() -> TestFamily {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("f");
        TestFamily {
            _directory: directory,
            base,
        }
    }

    fn member(&self, number: u32, config: Config) -> HostNode {
        let identity = Identity::child(vmid(number), Vmid::LEADER);
        HostNode::start(&self.base, identity, config).unwrap()
    }

    fn leader(&self) -> HostNode {
        HostNode::start(&self.base, Identity::LEADER, Config::DEFAULT).unwrap()
    }

    fn raw_peer(&self, number: u32) -> RawPeer {
        RawPeer::listen(&self.base, number)
    }
}

/// A peer that consists of sockets only.
struct RawPeer {
    base: PathBuf,
    number: u32,
    listener: UnixListener,
}

impl RawPeer {
    fn listen(base: &Path, number: u32) -> RawPeer {
        let listener = UnixListener::bind(address(base, number)).unwrap();
        RawPeer {
            base: base.to_owned(),
            number,
            listener,
        }
    }

    /// Accepts the stream that a member opened to this peer.
    fn accept(&self) -> UnixStream {
        let (mut stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut vmid = [0; 4];
        stream.read_exact(&mut vmid).unwrap();
        stream
    }

    /// Opens a stream of this peer to a member.
    fn connect(&self, number: u32) -> UnixStream {
        let mut stream = UnixStream::connect(address(&self.base, number)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(&self.number.to_le_bytes()).unwrap();
        stream
    }
}

/// Returns the address of a member.
fn address(base: &Path, number: u32) -> PathBuf {
    let mut path = base.as_os_str().to_owned();
    path.push(format!(".{number}"));
    path.into()
}

/// Returns the bytes of a frame.
fn frame(seq: u64, code: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (17 + payload.len() as u64).to_le_bytes().to_vec();
    bytes.extend(seq.to_le_bytes());
    bytes.push(code);
    bytes.extend(payload);
    bytes
}

/// Returns the sequence number, the code and the payload of the next frame after HELLO.
fn next_frame(stream: &mut UnixStream) -> (u64, u8, Vec<u8>) {
    loop {
        let frame = any_frame(stream);
        if frame.1 != 64 {
            return frame;
        }
    }
}

/// The same for any frame.
fn any_frame(stream: &mut UnixStream) -> (u64, u8, Vec<u8>) {
    let mut header = [0; 17];
    stream.read_exact(&mut header).unwrap();
    let size = u64::from_le_bytes(header[..8].try_into().unwrap());
    let mut payload = vec![0; usize::try_from(size - 17).unwrap()];
    stream.read_exact(&mut payload).unwrap();
    (
        u64::from_le_bytes(header[8..16].try_into().unwrap()),
        header[16],
        payload,
    )
}

/// Waits for a condition that another thread makes true.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LONG, "never: {what}");
        thread::yield_now();
    }
}

#[test]
fn a_time_limit_ends_a_call_and_the_late_answer_is_dropped() {
    let stage = TestFamily::new();
    let leader = stage.raw_peer(1);
    let member = stage.member(2, Config::DEFAULT);
    let limit = Wait::at_most(Duration::from_millis(20));
    assert_eq!(member.owner_of(7, limit), Err(Error::TimedOut));
    let mut requests = leader.accept();
    let (seq, code, payload) = next_frame(&mut requests);
    assert_eq!((code, payload), (6, 7_u32.to_le_bytes().to_vec()));
    let mut answers = leader.connect(2);
    answers
        .write_all(&frame(seq, 0, &9_u32.to_le_bytes()))
        .unwrap();
    until("the answer is counted as late", || {
        member.statistics().late_answers == 1
    });
    // The stream stays open, and the next call uses it.
    thread::scope(|scope| {
        let call = scope.spawn(|| member.owner_of(8, WAIT));
        let (seq, ..) = next_frame(&mut requests);
        answers
            .write_all(&frame(seq, 0, &3_u32.to_le_bytes()))
            .unwrap();
        assert_eq!(call.join().unwrap(), Ok(Some(vmid(3))));
    });
    assert_eq!(member.statistics().pools.waiters.now, 0);
}

#[test]
fn a_range_that_arrives_after_the_time_limit_is_released() {
    let stage = TestFamily::new();
    let leader = stage.raw_peer(1);
    let member = stage.member(2, Config::DEFAULT);
    let limit = Wait::at_most(Duration::from_millis(20));
    assert_eq!(member.take_id(limit), Err(Error::TimedOut));
    assert_late_range_is_released(&leader, &member);
}

/// Answers the member's request for a range of IDs, and checks that the member releases the range.
fn assert_late_range_is_released(leader: &RawPeer, member: &HostNode) {
    let mut requests = leader.accept();
    let (seq, code, _) = next_frame(&mut requests);
    assert_eq!(code, 3);
    let range = [33_u32.to_le_bytes(), 64_u32.to_le_bytes()].concat();
    leader.connect(2).write_all(&frame(seq, 0, &range)).unwrap();
    let (seq, code, payload) = next_frame(&mut requests);
    assert_eq!((seq, code, payload), (0, 4, range));
    until("the waiter is free", || {
        member.statistics().pools.waiters.now == 0
    });
}

#[test]
fn a_range_that_arrives_after_its_request_was_dropped_is_released() {
    let stage = TestFamily::new();
    let leader = stage.raw_peer(1);
    let member = stage.member(2, Config::DEFAULT);
    drop(
        member
            .request(Vmid::LEADER, &Message::AllocIdRange)
            .unwrap(),
    );
    assert_late_range_is_released(&leader, &member);
}

/// Threads that wait for locks leave waiters for calls that end with an answer.
#[test]
fn a_process_whose_threads_wait_for_locks_can_unlock_signal_and_take_an_id() {
    let stage = TestFamily::new();
    let capacities = Capacities {
        waiters: 10,
        ..Capacities::DEFAULT
    };
    let config = Config {
        capacities,
        ..Config::DEFAULT
    };
    let leader = stage.leader();
    let member = stage.member(2, config);
    let lock = |node: &HostNode, kind, start, (waits, wait)| {
        let lock = FileLock {
            family: LockFamily::Posix,
            kind,
            start,
            end: start,
            pid: node.identity().vmid.get(),
            handle: 0,
            wait: waits,
            path: b"/f",
        };
        node.set_lock(&lock, wait)
    };
    let (write, unlock) = (LockKind::Write, LockKind::Unlock);
    lock(&leader, write, 0, (false, WAIT)).unwrap();
    lock(&member, write, 9, (false, WAIT)).unwrap();
    let interrupts: [Interrupt; 8] = Default::default();
    thread::scope(|scope| {
        let waiting = interrupts.each_ref().map(|interrupt| {
            let (member, wait) = (&member, WAIT.or_until(interrupt));
            scope.spawn(move || lock(member, write, 0, (true, wait)))
        });
        until("all wait", || member.statistics().pools.waiters.now == 8);
        let full = Err(Error::Full(Resource::Waiters));
        assert_eq!(lock(&member, write, 0, (true, WAIT)), full);
        assert_eq!(lock(&member, unlock, 9, (true, WAIT)), Ok(()));
        let ended = member.wait_child(ChildSelector::Any, Wait::at_most(Duration::ZERO));
        assert_eq!(ended, Err(Error::NoChild));
        let refused = Err(Error::Refused {
            errno: Errno::EAGAIN,
            by: None,
        });
        assert_eq!(lock(&member, write, 0, (false, WAIT)), refused);
        assert!(member.take_id(WAIT).is_ok());
        assert_eq!(member.clear_locks(77, WAIT), Ok(()));
        for (interrupt, waiting) in interrupts.iter().zip(waiting) {
            interrupt.raise(&member);
            assert_eq!(waiting.join().unwrap(), Err(Error::Interrupted));
        }
    });
}

#[test]
fn a_request_waits_for_room_with_the_waiter_of_its_answer() {
    let stage = TestFamily::new();
    let leader = stage.raw_peer(1);
    let capacities = Capacities {
        waiters: 1,
        ..Capacities::DEFAULT
    };
    let member = stage.member(
        2,
        Config {
            capacities,
            ..Config::DEFAULT
        },
    );
    let message = Message::ReleaseIdRange(IdRange { start: 1, end: 1 });
    let now = Wait::at_most(Duration::ZERO);
    while member.send(Vmid::LEADER, &message, now).is_ok() {}
    let full = Err(Error::Full(Resource::SendQueue));
    assert_eq!(member.owner_of(1, now), full, "without a wait");
    let soon = Wait::at_most(Duration::from_millis(20));
    assert_eq!(member.owner_of(1, soon), Err(Error::TimedOut));
    assert_eq!(member.statistics().pools.waiters.now, 0);
    thread::scope(|scope| {
        let call = scope.spawn(|| member.owner_of(1, WAIT));
        until("it waits for room", || {
            let mut waits = member.pending_calls();
            waits.any(|wait| wait.what == WaitReason::Room)
        });
        let mut requests = leader.accept();
        let seq = loop {
            let (seq, code, _) = next_frame(&mut requests);
            if code == 6 {
                break seq;
            }
        };
        let answer = frame(seq, 0, &3_u32.to_le_bytes());
        leader.connect(2).write_all(&answer).unwrap();
        assert_eq!(call.join().unwrap(), Ok(Some(vmid(3))));
    });
    assert_eq!(member.statistics().pools.waiters.now, 0);
}

/// A cancelled request for a lock ends, whatever the leader does: with its answer, or without it if
/// the leader does not answer.
#[test]
fn a_leader_that_does_not_cancel_a_wait_is_disconnected() {
    // The lock was granted at the last moment; it was not.
    lock_that_is_cancelled(
        LONG,
        &[
            (true, Some(0), Ok(())),
            (true, Some(-4), Err(Error::TimedOut)),
            (false, Some(0), Ok(())),
            (
                false,
                Some(-11),
                Err(Error::Refused {
                    errno: Errno::EAGAIN,
                    by: None,
                }),
            ),
        ],
    );
    // The leader does not answer.
    let limit = Duration::from_millis(300);
    lock_that_is_cancelled(limit, &[(false, None, Err(Error::LeaderGone))]);
}

/// Requests locks whose time limit passes: each that waits or not, the status with which the leader answers the
/// cancellation, if it does, and what becomes of the request.
fn lock_that_is_cancelled(
    recall_limit: Duration,
    cases: &[(bool, Option<i32>, Result<(), Error>)],
) {
    let stage = TestFamily::new();
    let leader = stage.raw_peer(1);
    let config = Config {
        recall_limit,
        ..Config::DEFAULT
    };
    let member = stage.member(2, config);
    member.connect(Vmid::LEADER).unwrap();
    let mut requests = leader.accept();
    // The leader knows the extensions.
    let mut answers = leader.connect(2);
    let hello = [1_u32, 0, 0, 0].map(u32::to_le_bytes).concat();
    answers.write_all(&frame(0, 64, &hello)).unwrap();
    until("the frame has come", || member.statistics().frames_in == 1);
    let lock = |wait| FileLock {
        family: LockFamily::Flock,
        kind: LockKind::Write,
        start: 0,
        end: u64::MAX,
        pid: 2,
        handle: 9,
        wait,
        path: b"file",
    };
    let soon = Wait::at_most(Duration::from_millis(20));
    for &(wait, status, becomes) in cases {
        let lock = lock(wait);
        let start = Instant::now();
        thread::scope(|scope| {
            let call = scope.spawn(|| member.set_lock(&lock, soon));
            let (seq, code, _) = next_frame(&mut requests);
            assert_eq!(code, 15);
            let (_, code, called_off) = next_frame(&mut requests);
            assert_eq!((code, called_off), (71, seq.to_le_bytes().to_vec()));
            if let Some(status) = status {
                let status = i32::to_le_bytes(status);
                answers.write_all(&frame(seq, 0, &status)).unwrap();
            } else {
                assert_eq!(requests.read(&mut [0]).unwrap(), 0, "the connection ends");
                assert!(start.elapsed() >= recall_limit);
            }
            assert_eq!(call.join().unwrap(), becomes);
        });
    }
    assert_eq!(member.statistics().pools.waiters.now, 0);
}

#[test]
fn an_interrupt_ends_a_call_wherever_it_waits() {
    let stage = TestFamily::new();
    let leader = stage.raw_peer(1);
    let member = stage.member(
        2,
        Config {
            spin: Duration::ZERO,
            ..Config::DEFAULT
        },
    );
    let mut requests = None;
    let mut answers: Option<UnixStream> = None;
    // At first the call sleeps on its event; then, once the leader has a stream, it reads that
    // itself.
    for round in 0..3 {
        let interrupt = Interrupt::new();
        thread::scope(|scope| {
            let call = scope.spawn(|| member.owner_of(1, Wait::FOREVER.or_until(&interrupt)));
            let requests = requests.get_or_insert_with(|| leader.accept());
            let (seq, ..) = next_frame(requests);
            interrupt.raise(&member);
            assert_eq!(
                call.join().unwrap(),
                Err(Error::Interrupted),
                "round {round}"
            );
            let answers = answers.get_or_insert_with(|| leader.connect(2));
            answers
                .write_all(&frame(seq, 0, &0_u32.to_le_bytes()))
                .unwrap();
        });
        until("the late answer", || {
            member.statistics().late_answers == round + 1
        });
    }
}

#[test]
fn an_answer_before_the_end_is_delivered_and_one_after_is_not() {
    let stage = TestFamily::new();
    let member = stage.member(2, Config::DEFAULT);
    let peer = stage.raw_peer(3);
    thread::scope(|scope| {
        let call = scope.spawn(|| member.ask(vmid(3), &Message::GetIdOwner(1), WAIT));
        let mut requests = peer.accept();
        let (seq, ..) = next_frame(&mut requests);
        // The answers come on a new stream, which ends at once, as does the peer.
        let mut answers = peer.connect(2);
        answers
            .write_all(&frame(seq, 0, &5_u32.to_le_bytes()))
            .unwrap();
        drop((answers, requests));
        assert_eq!(call.join().unwrap(), Ok(Answer::Owner(5)));
    });
    drop(peer);
    until("the peer is gone", || {
        member.statistics().pools.peers.now == 0
    });
    std::fs::remove_file(address(&stage.base, 3)).unwrap();
    let peer = stage.raw_peer(3);
    thread::scope(|scope| {
        let call = scope.spawn(|| member.ask(vmid(3), &Message::GetIdOwner(1), WAIT));
        let mut requests = peer.accept();
        next_frame(&mut requests);
        drop(requests);
        assert_eq!(call.join().unwrap(), Err(Error::NoSuchProcess));
    });
}

#[test]
fn an_answer_from_another_peer_is_dropped() {
    let stage = TestFamily::new();
    let leader = stage.raw_peer(1);
    let member = stage.member(2, Config::DEFAULT);
    let liar = stage.raw_peer(3);
    thread::scope(|scope| {
        let call = scope.spawn(|| member.owner_of(1, WAIT));
        let mut requests = leader.accept();
        let (seq, ..) = next_frame(&mut requests);
        let mut lies = liar.connect(2);
        lies.write_all(&frame(seq, 0, &66_u32.to_le_bytes()))
            .unwrap();
        until("the lie is dropped", || {
            member.statistics().late_answers == 1
        });
        leader
            .connect(2)
            .write_all(&frame(seq, 0, &4_u32.to_le_bytes()))
            .unwrap();
        assert_eq!(call.join().unwrap(), Ok(Some(vmid(4))));
    });
}

#[test]
fn a_malformed_answer_ends_the_connection() {
    let stage = TestFamily::new();
    let leader = stage.raw_peer(1);
    let member = stage.member(2, Config::DEFAULT);
    thread::scope(|scope| {
        let call = scope.spawn(|| member.owner_of(1, WAIT));
        let mut requests = leader.accept();
        let (seq, ..) = next_frame(&mut requests);
        let mut answers = leader.connect(2);
        answers.write_all(&frame(seq, 0, &[1, 2, 3])).unwrap();
        assert_eq!(call.join().unwrap(), Err(Error::LeaderGone));
        assert_eq!(answers.read(&mut [0]).unwrap(), 0, "closed");
    });
    assert_eq!(member.statistics().refused(Refusal::WrongAnswer), 1);
    assert_eq!(
        member.owner_of(1, WAIT),
        Err(Error::LeaderGone),
        "at once, from now on"
    );
}

#[test]
fn a_request_to_an_address_without_a_listener_fails_at_once() {
    let stage = TestFamily::new();
    let leader = stage.leader();
    assert_eq!(
        leader.ask(vmid(9), &Message::GetIdOwner(1), WAIT),
        Err(Error::NoSuchProcess)
    );
    assert_eq!(
        leader.ask(vmid(1), &Message::GetIdOwner(1), WAIT),
        Err(Error::Invalid(Invalid::Itself))
    );
    assert_eq!(
        leader.ask(vmid(9), &Message::AllocIdRange, WAIT),
        Err(Error::NoSuchProcess)
    );
}

#[test]
fn a_peer_that_does_not_read_fills_its_own_queue_only() {
    let stage = TestFamily::new();
    let leader = stage.leader();
    let silent_peer = stage.raw_peer(2);
    let friend = stage.member(3, Config::DEFAULT);
    friend.take_id(WAIT).unwrap();
    let message = Message::ReleaseIdRange(IdRange { start: 1, end: 1 });
    let now = Wait::at_most(Duration::ZERO);
    let mut sent = 0;
    let error = loop {
        match leader.send(vmid(2), &message, now) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, Error::Full(Resource::SendQueue));
    let soon = Wait::at_most(Duration::from_millis(20));
    assert_eq!(leader.send(vmid(2), &message, soon), Err(Error::TimedOut));
    assert_eq!(
        friend.owner_of(1, WAIT),
        Ok(Some(vmid(3))),
        "the requests of the others are answered"
    );
    // As soon as the peer reads, calls that wait for room continue, and every frame arrives whole.
    thread::scope(|scope| {
        let call = scope.spawn(|| leader.send(vmid(2), &message, WAIT));
        let mut stream = silent_peer.accept();
        for _ in 0..=sent {
            assert_eq!(next_frame(&mut stream).1, 4);
        }
        assert_eq!(call.join().unwrap(), Ok(()));
    });
}

#[test]
fn a_peer_that_reads_no_answers_does_not_block_other_peers() {
    let stage = TestFamily::new();
    let config = Config {
        connect_limit: LONG * 2,
        ..Config::DEFAULT
    };
    let leader = HostNode::start(&stage.base, Identity::LEADER, config).unwrap();
    let friend = stage.member(3, Config::DEFAULT);
    friend.take_id(WAIT).unwrap();
    // The new process sends a request, so an answer must be sent to it, but no process listens at
    // its address.
    let mut asks = UnixStream::connect(address(&stage.base, 1)).unwrap();
    asks.write_all(&2_u32.to_le_bytes()).unwrap();
    asks.write_all(&frame(1, 6, &7_u32.to_le_bytes())).unwrap();
    // The frames of the friend are no sign of that.
    until("it is read", || {
        let is_from_it = |kind| matches!(kind, EventKind::FrameIn(frame) if frame.peer == vmid(2));
        leader.events().any(|event| is_from_it(event.kind))
    });
    // The leader disconnects it later than these may take.
    for _ in 0..20 {
        assert_eq!(friend.owner_of(1, WAIT), Ok(Some(vmid(3))));
    }
    assert_eq!(leader.statistics().pools.peers.now, 2);
    // When its own stream has ended it is disconnected, before the time for connecting to it is over.
    drop(asks);
    until("it is gone", || leader.statistics().pools.peers.now == 1);
}

#[test]
fn queued_frames_are_sent_before_shut_down_returns() {
    let stage = TestFamily::new();
    let peer = stage.raw_peer(1);
    let member = stage.member(2, Config::DEFAULT);
    let message = Message::ReleaseIdRange(IdRange { start: 1, end: 1 });
    for _ in 0..100 {
        member.queue(Vmid::LEADER, &message, WAIT).unwrap();
    }
    assert!(member.shut_down(LONG));
    assert_eq!(member.owner_of(1, WAIT), Err(Error::ShuttingDown));
    let mut stream = peer.accept();
    for _ in 0..100 {
        assert_eq!(next_frame(&mut stream).1, 4);
    }
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn shutting_down_ends_calls_that_wait() {
    let stage = TestFamily::new();
    let leader = stage.raw_peer(1);
    let member = stage.member(2, Config::DEFAULT);
    let mut answers = leader.connect(2);
    thread::scope(|scope| {
        let call = scope.spawn(|| member.owner_of(1, Wait::FOREVER));
        let mut requests = leader.accept();
        let (seq, ..) = next_frame(&mut requests);
        answers
            .write_all(&frame(seq, 0, &0_u32.to_le_bytes()))
            .unwrap();
        call.join().unwrap().unwrap();
        // This call reads the leader's stream itself.
        let call = scope.spawn(|| member.owner_of(2, Wait::FOREVER));
        next_frame(&mut requests);
        member.shut_down(LONG);
        assert_eq!(call.join().unwrap(), Err(Error::ShuttingDown));
    });
}

#[test]
fn a_single_thread_drives_its_node_itself() {
    let stage = TestFamily::new();
    let leader = stage.leader();
    let config = Config {
        driving: Driving::Caller,
        ..Config::DEFAULT
    };
    let identity = Identity::child(vmid(2), Vmid::LEADER);
    let mut memory = Box::new_uninit_slice(Node::<Host>::memory(&identity, &config).total());
    let host = Host::listen(&stage.base, vmid(2)).unwrap();
    let node = Node::new(host, identity, config, &mut memory).unwrap();
    let id = node.take_id(WAIT).unwrap();
    assert_eq!(node.owner_of(id, WAIT), Ok(Some(vmid(2))));
    assert_eq!(leader.owner_of(id, WAIT), Ok(Some(vmid(2))));
    let limit = Wait::at_most(Duration::from_millis(10));
    let silent = stage.raw_peer(3);
    assert_eq!(
        node.ask(vmid(3), &Message::GetIdOwner(1), limit),
        Err(Error::TimedOut)
    );
    drop(silent);
    let mut request = node.request(Vmid::LEADER, &Message::GetNewVmid).unwrap();
    let answer = loop {
        if let Some(answer) = request.poll() {
            break answer;
        }
        node.poll(Deadline::Never);
    };
    assert_eq!(answer, Ok(Answer::Vmid(3)), "this node goes by 2 already");
    drop(request);
    assert!(node.shut_down(LONG));
}

#[test]
fn a_leader_without_a_worker_gets_its_own_handle_at_once() {
    let stage = TestFamily::new();
    let config = Config {
        driving: Driving::Caller,
        ..Config::DEFAULT
    };
    let mut memory =
        Box::new_uninit_slice(Node::<Host>::memory(&Identity::LEADER, &config).total());
    let host = Host::listen(&stage.base, Vmid::LEADER).unwrap();
    let leader = Node::new(host, Identity::LEADER, config, &mut memory).unwrap();
    let handle = leader.open_sync(Some(7)).unwrap();
    let start = Instant::now();
    for state in [SyncState::Shared, SyncState::Exclusive] {
        leader.lock_sync(handle, state, &mut [], WAIT).unwrap();
        leader.unlock_sync(handle, state, None).unwrap();
    }
    leader.close_sync(handle, WAIT).unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "nothing was waited for"
    );
}

#[test]
fn requests_of_many_threads_get_their_own_answers() {
    let stage = TestFamily::new();
    let leader = stage.leader();
    let member = stage.member(2, Config::DEFAULT);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let id = member.take_id(WAIT).unwrap();
                    assert_eq!(member.owner_of(id, WAIT), Ok(Some(vmid(2))));
                    member.release_id(id, WAIT).unwrap();
                }
            });
        }
    });
    assert_eq!(member.ids_in_use(), 0);
    member.release_idle_ranges(WAIT).unwrap();
    assert_eq!(member.owner_of(1, WAIT), Ok(None));
    assert_eq!(leader.statistics().pools.ranges.now, 0);
    assert!(leader.check_invariants());
    assert_eq!(member.statistics().late_answers, 0);
}

#[test]
fn the_id_of_an_abandoned_child_is_freed() {
    let stage = TestFamily::new();
    let leader = stage.leader();
    let parent = stage.member(2, Config::DEFAULT);
    let child = parent.new_vmid(WAIT).unwrap();
    let pid = parent.take_id_for(child, WAIT).unwrap();
    assert_eq!(parent.owner_of(pid, WAIT), Ok(Some(child)));
    parent.abandon_child(child).unwrap();
    until("it is nobody's", || parent.owner_of(pid, WAIT) == Ok(None));
    // No ID can be transferred to it any more.
    let pid = parent.take_id(WAIT).unwrap();
    assert_eq!(
        parent.transfer_id(pid, child, WAIT),
        Err(Error::NoSuchProcess)
    );
    assert_eq!(parent.owner_of(pid, WAIT), Ok(Some(vmid(2))));
    // A live process is not abandoned.
    parent.abandon_child(vmid(2)).unwrap();
    until("it was tried", || {
        leader.statistics().refused(Refusal::VmidTaken) == 1
    });
    assert_eq!(parent.owner_of(pid, WAIT), Ok(Some(vmid(2))));
}

/// A C function could do so. The leader's resources stay its own.
#[test]
fn the_leader_cannot_be_abandoned() {
    let stage = TestFamily::new();
    let leader = stage.leader();
    let id = leader.take_id(WAIT).unwrap();
    let value = leader.share::<u64>(None).unwrap();
    *value.write(WAIT).unwrap() = 7;
    leader.abandon_child(Vmid::LEADER).unwrap();
    assert_eq!(leader.owner_of(id, WAIT), Ok(Some(Vmid::LEADER)));
    assert_eq!(leader.statistics().pools.sync_clients.now, 1);
    drop(value);
    assert_eq!(leader.statistics().pools.sync_handles.now, 0);
}

#[test]
fn an_error_of_a_full_table_names_the_table() {
    let stage = TestFamily::new();
    let _leader = stage.leader();
    let capacities = Capacities {
        waiters: 0,
        peers: 1,
        ..Capacities::DEFAULT
    };
    let member = stage.member(
        2,
        Config {
            capacities,
            ..Config::DEFAULT
        },
    );
    assert_eq!(
        member.owner_of(1, WAIT),
        Err(Error::Full(Resource::Waiters))
    );
    member.connect(Vmid::LEADER).unwrap();
    assert_eq!(member.connect(vmid(3)), Err(Error::Full(Resource::Peers)));
}

#[test]
fn a_call_that_fails_before_it_sends_leaves_no_peer() {
    let stage = TestFamily::new();
    let capacities = Capacities {
        reply_buffers: 0,
        ..Capacities::DEFAULT
    };
    let config = Config {
        capacities,
        ..Config::DEFAULT
    };
    let leader = HostNode::start(&stage.base, Identity::LEADER, config).unwrap();
    let question = Message::PidGetMeta {
        pid: 7,
        code: MetaCode::Executable,
    };
    let gone = vmid(9);
    assert_eq!(
        leader.ask(gone, &question, WAIT),
        Err(Error::Full(Resource::ReplyBuffers))
    );
    assert_eq!(
        leader.request(gone, &question).err(),
        Some(Error::Full(Resource::ReplyBuffers))
    );
    let too_long = [0; 5000];
    assert_eq!(
        leader.send(gone, &Message::Response(&too_long), WAIT),
        Err(Error::Full(Resource::FrameLength))
    );
    // The call fails at once, without an attempt to connect.
    assert_eq!(leader.statistics().pools.peers.now, 0);
    assert_eq!(leader.statistics().refused_total(), 0);
    leader.leave(WAIT).unwrap();
}

#[test]
fn unsent_frames_do_not_keep_the_leader_running() {
    let stage = TestFamily::new();
    let leader = stage.leader();
    leader
        .queue(vmid(9), &Message::FileLockClearPid(7), WAIT)
        .unwrap();
    assert_eq!(leader.statistics().pools.peers.now, 1);
    let start = Instant::now();
    leader.leave(WAIT).unwrap();
    assert!(start.elapsed() < LONG / 2, "nothing woke the call");
    assert_eq!(leader.statistics().pools.peers.now, 0);
}

#[test]
fn the_worker_is_woken_only_when_it_has_work() {
    let stage = TestFamily::new();
    let leader = stage.leader();
    let quiet = stage.raw_peer(2);
    let asks = stage.raw_peer(3);
    // This is a one-way frame of a kind that causes no answer.
    let mut to_leader = quiet.connect(1);
    to_leader.write_all(&frame(0, 200, &[])).unwrap();
    until("it is read", || leader.statistics().unknown_codes == 1);
    // The worker has polled since.
    let mut question = asks.connect(1);
    question
        .write_all(&frame(1, 6, &7_u32.to_le_bytes()))
        .unwrap();
    let mut answers = asks.accept();
    assert_eq!(next_frame(&mut answers).1, 0);
    quiet.listener.set_nonblocking(true).unwrap();
    let called = quiet.listener.accept().map(|_| ());
    assert_eq!(
        called.map_err(|error| error.kind()),
        Err(std::io::ErrorKind::WouldBlock)
    );
}
