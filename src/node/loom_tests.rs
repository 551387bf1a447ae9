//! Every interleaving of a few threads over the real waiters, peers and send queues.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib loom`

use core::mem::MaybeUninit;
use core::time::Duration;
use std::boxed::Box;
use std::vec::Vec;

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::connection::Peers;
use super::rpc::ReplyData;
use super::rpc::{Delivery, LateReply, Waiters};
use super::*;
use crate::error::Error;
use crate::pal::{
    AcceptError, ConnectError, Deadline, Event, Interest, OutOfResources, ReadyList, Stream,
    StreamError, Time, Token,
};
use crate::store::Arena;
use crate::wire::{self, Answer, Expected, FrameReader, Message, SyncCode, SyncState};
use crate::{Capacities, Vmid};

const PEER: Vmid = Vmid::LEADER;
const WHAT: (WaitReason, Time) = (WaitReason::Room, Time(0));

struct NoEvent;

impl Event for NoEvent {
    fn set(&self) {}
    fn clear(&self) {}
    fn is_set(&self) -> bool {
        false
    }
}

fn check(threads: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 10_000;
    builder.check(threads);
}

fn memory(bytes: usize) -> &'static mut [MaybeUninit<u8>] {
    Box::leak(Box::new_uninit_slice(bytes))
}

fn waiters(capacity: usize) -> Arc<Waiters<'static, NoEvent>> {
    let bytes = Waiters::<NoEvent>::bytes(capacity, 0);
    let mut arena = Arena::new(memory(bytes));
    Arc::new(Waiters::new(&mut arena, |_| {}, capacity, 0, || Ok(NoEvent)).unwrap())
}

/// A call times out, or not, while its answer arrives and the peer dies: it has one outcome, and
/// the waiter is freed once.
#[test]
fn loom_a_wait_has_one_outcome() {
    for late in [LateReply::Drop, LateReply::ReleaseRange] {
        check(move || {
            let waiters = waiters(1);
            let claim = waiters
                .claim(PEER, WHAT, Some(Expected::Owner), late, false)
                .unwrap();
            let answering = {
                let waiters = Arc::clone(&waiters);
                thread::spawn(move || waiters.answer(PEER, claim.seq, &[7, 0, 0, 0]))
            };
            let dying = {
                let waiters = Arc::clone(&waiters);
                thread::spawn(move || waiters.fail(Some(PEER), Error::NoSuchProcess))
            };
            let outcome = waiters.abandon(claim, &mut ReplyData::none());
            let delivery = answering.join().unwrap();
            dying.join().unwrap();
            match (outcome, delivery) {
                (Some(Ok(Answer::Owner(7))), Delivery::Done)
                | (Some(Err(Error::NoSuchProcess)) | None, Delivery::Dropped) => {}
                (None, Delivery::Late(LateReply::ReleaseRange, Answer::Owner(7))) => {
                    assert_eq!(late, LateReply::ReleaseRange);
                }
                (outcome, _) => panic!("{outcome:?}, and something else became of the answer"),
            }
            assert_eq!(waiters.fill().0, 0, "the waiter is free");
            waiters
                .claim(PEER, WHAT, None, LateReply::Drop, false)
                .unwrap();
            assert!(
                waiters
                    .claim(PEER, WHAT, None, LateReply::Drop, false)
                    .is_err(),
                "free only once"
            );
        });
    }
}

/// Two threads use a peer while the worker removes it: its slot is freed once.
#[test]
fn loom_a_peer_is_released_once() {
    check(|| {
        let bytes = Peers::<()>::bytes(1) + 3 * 256;
        let mut arena = Arena::new(memory(bytes));
        let peers: Arc<Peers<'static, ()>> = Arc::new(Peers::new(&mut arena, |_| {}, 1, 256, 512));
        let using: Vec<_> = (0..2)
            .map(|_| {
                let peers = Arc::clone(&peers);
                thread::spawn(move || {
                    if let Ok(peer) = peers.find_or_add(PEER) {
                        peer.stream_wanted.store(true, Ordering::SeqCst);
                        peers.schedule(&peer);
                    }
                })
            })
            .collect();
        if let Some(peer) = peers.find(PEER) {
            peers.remove(&peer);
        }
        for thread in using {
            thread.join().unwrap();
        }
        while let Some(peer) = peers.next_scheduled() {
            peers.remove(&peer);
        }
        if let Some(peer) = peers.find(PEER) {
            peers.remove(&peer);
        }
        assert_eq!(peers.fill().0, 0);
        let peer = peers.find_or_add(PEER);
        assert!(peer.is_ok(), "the place is free");
        assert!(
            peers.find_or_add(Vmid::new(2).unwrap()).is_err(),
            "and there is one only"
        );
        drop(peer);
        assert_eq!(peers.fill().0, 0, "nothing was sent to it");
    });
}

/// An event that threads wait for. If it is not set when all threads wait, a wake was lost.
struct Bell {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl Event for Bell {
    fn set(&self) {
        *self.is_set.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn clear(&self) {
        *self.is_set.lock().unwrap() = false;
    }

    fn is_set(&self) -> bool {
        *self.is_set.lock().unwrap()
    }
}

/// A platform with one stream, which accepts all bytes; the first attempts to connect may fail.
struct Sink {
    written: Arc<Mutex<Vec<u8>>>,
    failures: Mutex<Vec<ConnectError>>,
    /// The number of streams that were closed.
    closed: core::sync::atomic::AtomicU32,
    /// Each reading of the clock is later, so that pauses end.
    clock: core::sync::atomic::AtomicU64,
}

struct SinkStream(Arc<Mutex<Vec<u8>>>);

impl Stream for SinkStream {
    fn read(&self, _: &mut [u8]) -> Result<usize, StreamError> {
        Err(StreamError::WouldBlock)
    }

    fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError> {
        self.0.lock().unwrap().extend(parts.concat());
        Ok(parts.iter().map(|part| part.len()).sum())
    }
}

impl Pal for Sink {
    type Stream = SinkStream;
    type Event = Bell;
    const SUPPORTS_CALLER_READ: bool = false;
    const MAY_BE_SECURE: bool = false;

    fn event(&self) -> Result<Bell, OutOfResources> {
        Ok(Bell {
            is_set: Mutex::new(false),
            changed: Condvar::new(),
        })
    }

    fn connect(&self, _: Vmid) -> Result<SinkStream, ConnectError> {
        match self.failures.lock().unwrap().pop() {
            Some(failure) => Err(failure),
            None => Ok(SinkStream(Arc::clone(&self.written))),
        }
    }

    fn accept(&self) -> Result<SinkStream, AcceptError> {
        Err(AcceptError::WouldBlock)
    }

    fn watch_listener(&self, _: bool) {}

    fn watch(&self, _: &SinkStream, _: Token, _: Interest) -> Result<(), OutOfResources> {
        Ok(())
    }

    fn rewatch(&self, _: &SinkStream, _: Token, _: Interest) {}
    fn unwatch(&self, _: &SinkStream) {
        self.closed
            .fetch_add(1, core::sync::atomic::Ordering::Relaxed);
    }

    fn wait(&self, _: &mut ReadyList, _: Deadline) {}
    fn wake(&self) {}

    fn wait_event(&self, event: &Bell, _: Deadline) {
        let mut is_set = event.is_set.lock().unwrap();
        while !*is_set {
            is_set = event.changed.wait(is_set).unwrap();
        }
    }

    fn wait_readable(&self, _: &SinkStream, _: &Bell, _: Deadline) -> bool {
        false
    }

    fn now(&self) -> Time {
        let pause = 10_000_000;
        Time(
            self.clock
                .fetch_add(pause, core::sync::atomic::Ordering::Relaxed),
        )
    }
}

/// Makes a member whose leader is [`PEER`].
fn member(
    written: &Arc<Mutex<Vec<u8>>>,
    failures: &[ConnectError],
    sync_handles: usize,
) -> Node<'static, Sink> {
    let capacities = Capacities {
        peers: 1,
        unidentified: 0,
        waiters: 2,
        frame_length: 128,
        send_queue: 512,
        ranges: 0,
        own_ranges: 0,
        processes: 0,
        queued_signals: 0,
        children: 0,
        reply_buffers: 0,
        locks: crate::LockLimits::NONE,
        delegated_files: 0,
        sync_handles,
        sync_data: 8,
        leases: crate::LeaseLimits {
            handles: 0,
            clients: 0,
        },
        events: 0,
    };
    let config = Config {
        capacities,
        spin: Duration::ZERO,
        ..Config::DEFAULT
    };
    let identity = Identity::child(Vmid::new(2).unwrap(), PEER);
    let bytes = Node::<Sink>::memory(&identity, &config).total();
    let sink = Sink {
        written: Arc::clone(written),
        failures: Mutex::new(failures.to_vec()),
        closed: core::sync::atomic::AtomicU32::new(0),
        clock: core::sync::atomic::AtomicU64::new(1),
    };
    Node::new(sink, identity, config, memory(bytes)).unwrap()
}

const NOW: Wait<'static> = Wait::at_most(Duration::ZERO);

/// Two threads send at once, while the worker serves scheduled peers: no thread waits for another,
/// and every frame is sent whole, even if the peer's backlog is full at first.
#[test]
fn loom_no_frame_is_left_behind() {
    for failures in [&[][..], &[ConnectError::Busy]] {
        check(move || no_frame_is_left_behind(failures));
    }
}

fn no_frame_is_left_behind(failures: &[ConnectError]) {
    let node = two_threads_send(failures, Result::unwrap);
    let written = node.pal.written.lock().unwrap().clone();
    assert_eq!(
        written.get(..4),
        Some(&2_u32.to_le_bytes()[..]),
        "the VMID goes first"
    );
    let mut buffer = [0; 256];
    let mut reader = FrameReader::new(&mut buffer);
    reader.space()[..written.len() - 4].copy_from_slice(&written[4..]);
    reader.mark_filled(written.len() - 4);
    let (mut ids, mut hellos) = (Vec::new(), 0);
    while let Ok(Some(frame)) = reader.peek() {
        let length = frame.length();
        match frame.message() {
            Ok(Message::GetIdOwner(id)) => ids.push(id),
            Ok(Message::Hello(_)) if ids.is_empty() => hellos += 1,
            Ok(Message::Limits(_)) => {}
            other => panic!("{other:?}"),
        }
        reader.skip(length);
    }
    assert!(reader.is_empty());
    assert_eq!(hellos, 1, "HELLO is the first frame, once");
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
}

/// Nobody listens at the peer's address: the peer is removed, and no call waits for it.
#[test]
fn loom_a_peer_that_does_not_listen_is_removed() {
    check(|| {
        let node = two_threads_send(&[ConnectError::NotListening; 8], drop);
        assert_eq!(node.peers.fill().0, 0, "the peer is removed");
    });
}

/// One thread finds nobody listening, and another can open the stream: it stays open.
#[test]
fn loom_a_stream_that_is_opened_after_a_failed_attempt_stays_open() {
    check(|| {
        let node = two_threads_send(&[ConnectError::NotListening], drop);
        let closed = node.pal.closed.load(core::sync::atomic::Ordering::Relaxed);
        assert_eq!(closed, 0);
    });
}

/// Sends from two threads while the worker serves the scheduled peers, and until none is scheduled;
/// `check` gets the result of each call, which fails if the peer was found unreachable before.
fn two_threads_send(
    failures: &[ConnectError],
    check: fn(Result<(), Error>),
) -> Arc<Node<'static, Sink>> {
    let written = Arc::new(Mutex::new(Vec::new()));
    let node = Arc::new(member(&written, failures, 0));
    let send = move |node: &Node<'static, Sink>, id| {
        check(node.send_message(PEER, &Message::GetIdOwner(id), NOW));
    };
    let other = {
        let node = Arc::clone(&node);
        thread::spawn(move || send(&node, 1))
    };
    let worker = {
        let node = Arc::clone(&node);
        thread::spawn(move || node.poll(Deadline::Now))
    };
    send(&node, 2);
    other.join().unwrap();
    worker.join().unwrap();
    // The worker continues as long as a peer is scheduled.
    while node.peers.scheduled() > 0 {
        node.poll(Deadline::Now);
    }
    node
}

/// Two threads wait for a sync handle while the leader's grant arrives: both get it, one after the
/// other, and no thread stays asleep.
#[test]
fn loom_the_grant_of_a_handle_wakes_all_waiters() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 10_000;
    builder.check(|| {
        let written = Arc::new(Mutex::new(Vec::new()));
        let node = Arc::new(member(&written, &[], 1));
        let handle = node.open_sync(Some(1)).unwrap();
        let state = SyncState::Exclusive;
        // The leader gets the request.
        let asked = node.lock_sync(handle, state, &mut [], NOW);
        assert_eq!(asked.map(drop), Err(Error::TimedOut));
        let use_it = move |node: &Node<'static, Sink>| {
            node.lock_sync(handle, state, &mut [], Wait::FOREVER)
                .unwrap();
            node.unlock_sync(handle, state, None).unwrap();
        };
        let other = {
            let node = Arc::clone(&node);
            thread::spawn(move || use_it(&node))
        };
        let worker = {
            let node = Arc::clone(&node);
            thread::spawn(move || {
                let (id, data) = (1, &[][..]);
                let granted = wire::Sync { id, state, data };
                node.on_server_sync(SyncCode::ConfirmUpgrade, &granted)
                    .unwrap();
            })
        };
        use_it(&node);
        other.join().unwrap();
        worker.join().unwrap();
        assert_eq!(node.waiters.fill().0, 0);
    });
}
