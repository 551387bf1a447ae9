//! Every interleaving of a few threads over the real waiters, peers and send queues.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib loom`

mod platform;

use core::mem::MaybeUninit;
use core::time::Duration;
use std::boxed::Box;
use std::vec::Vec;

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use self::platform::{Sink, member};
use super::connection::Peers;
use super::rpc::ReplyData;
use super::rpc::{Delivery, LateReply, Waiters, WakeTarget};
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
                .claim(PEER, WHAT, Some((Expected::Owner, false)), late, false)
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
            assert_eq!(waiters.usage().0, 0, "the waiter is free");
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

/// Counts its wakes. It is not part of the model.
#[derive(Default)]
struct Wakes(core::sync::atomic::AtomicU32);

impl std::task::Wake for Wakes {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
    }
}

impl Wakes {
    fn new() -> std::sync::Arc<Wakes> {
        std::sync::Arc::default()
    }

    fn target(self: &std::sync::Arc<Self>) -> WakeTarget {
        WakeTarget::Task(std::sync::Arc::clone(self).into())
    }

    fn count(&self) -> u32 {
        self.0.load(core::sync::atomic::Ordering::Relaxed)
    }
}

/// A future is polled, at first by one task and then by another, while its answer arrives: the task that has
/// found no answer is woken, and the one that has found it sees it whole.
#[test]
fn loom_the_task_that_finds_no_answer_is_woken() {
    check(|| {
        let waiters = waiters(1);
        let expected = Some((Expected::Owner, false));
        let claim = waiters
            .claim(PEER, WHAT, expected, LateReply::Drop, false)
            .unwrap();
        let answering = {
            let waiters = Arc::clone(&waiters);
            thread::spawn(move || waiters.answer(PEER, claim.seq, &[7, 0, 0, 0]))
        };
        let tasks = [Wakes::new(), Wakes::new()];
        let mut found = None;
        for task in &tasks {
            waiters.set_target(claim, task.target());
            found = waiters.outcome(claim);
            if found.is_some() {
                break;
            }
        }
        answering.join().unwrap();
        if found.is_none() {
            assert_eq!(tasks[1].count(), 1, "the last task that has polled");
            found = waiters.outcome(claim);
        }
        assert_eq!(found, Some(Ok(Answer::Owner(7))));
        assert!(tasks.iter().all(|task| task.count() <= 1));
        waiters.release(claim);
    });
}

/// A call that waits for several answers is woken through a waiter of its own: by the first that arrives after it
/// has looked.
#[test]
fn loom_a_task_that_waits_for_several_answers_is_woken() {
    check(|| {
        let waiters = waiters(3);
        let claim = |expected| waiters.claim(PEER, WHAT, expected, LateReply::Drop, false);
        let owner = claim(None).unwrap();
        let calls = [0; 2].map(|_| claim(Some((Expected::Owner, false))).unwrap());
        for call in calls {
            waiters.set_target(call, WakeTarget::Waiter(owner.name()));
        }
        let answering = calls.map(|call| {
            let waiters = Arc::clone(&waiters);
            thread::spawn(move || waiters.answer(PEER, call.seq, &[7, 0, 0, 0]))
        });
        let task = Wakes::new();
        waiters.arm(owner);
        waiters.set_target(owner, task.target());
        let found = calls.map(|call| waiters.outcome(call).is_some());
        let is_woken = waiters.is_woken(owner);
        for thread in answering {
            thread.join().unwrap();
        }
        assert!(found == [true; 2] || is_woken || task.count() == 1);
        assert!(waiters.is_woken(owner) || found == [true; 2]);
        for call in calls.into_iter().chain([owner]) {
            waiters.release(call);
        }
    });
}

/// A future sets its time limit while the worker wakes another whose time has come: the worker knows the new
/// limit, or is woken for it.
#[test]
fn loom_no_time_limit_of_a_task_is_lost() {
    check(|| {
        let waiters = waiters(2);
        let claim = || waiters.claim(PEER, WHAT, None, LateReply::Drop, false);
        let [first, second] = [claim().unwrap(), claim().unwrap()];
        let overdue = Wakes::new();
        waiters.set_target(first, overdue.target());
        waiters.limit_task(first, Deadline::At(Time(3)));
        let worker = {
            let waiters = Arc::clone(&waiters);
            thread::spawn(move || waiters.wake_overdue(|| Time(4)))
        };
        let task = Wakes::new();
        waiters.set_target(second, task.target());
        let limit = Deadline::At(Time(5));
        let is_worker_woken = waiters.limit_task(second, limit);
        let next = worker.join().unwrap();
        assert_eq!(overdue.count(), 1);
        assert!(
            is_worker_woken || next <= limit,
            "the worker sleeps until {next:?}"
        );
        waiters.wake_overdue(|| Time(5));
        assert_eq!(task.count(), 1);
    });
}

/// The future of a shutdown is polled while the worker sees that all is sent.
#[test]
fn loom_the_task_that_shuts_the_node_down_is_woken() {
    check(|| {
        let waiters = waiters(1);
        let is_sent = Arc::new(AtomicBool::new(false));
        let worker = {
            let (waiters, is_sent) = (Arc::clone(&waiters), Arc::clone(&is_sent));
            thread::spawn(move || {
                is_sent.store(true, Ordering::SeqCst);
                waiters.notify_shutdown_task();
            })
        };
        let task = Wakes::new();
        waiters.set_shutdown_task(std::sync::Arc::clone(&task).into(), Deadline::Never);
        let is_done = is_sent.load(Ordering::SeqCst);
        worker.join().unwrap();
        assert!(is_done || task.count() == 1);
        waiters.clear_shutdown_task();
    });
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
        assert_eq!(peers.usage().0, 0);
        let peer = peers.find_or_add(PEER);
        assert!(peer.is_ok(), "the place is free");
        assert!(
            peers.find_or_add(Vmid::new(2).unwrap()).is_err(),
            "and there is one only"
        );
        drop(peer);
        assert_eq!(peers.usage().0, 0, "nothing was sent to it");
    });
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
        assert_eq!(node.peers.usage().0, 0, "the peer is removed");
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
        assert_eq!(node.waiters.usage().0, 0);
    });
}

/// A future waits for a sync handle while the leader's grant arrives, and is dropped or polled again only after its
/// task was woken: the grant is used or given back, and nothing is left of the call.
#[test]
fn loom_the_grant_of_a_handle_wakes_the_future() {
    for is_dropped in [false, true] {
        check(move || the_grant_of_a_handle_wakes_the_future(is_dropped));
    }
}

fn the_grant_of_a_handle_wakes_the_future(is_dropped: bool) {
    let written = Arc::new(Mutex::new(Vec::new()));
    let node = Arc::new(member(&written, &[], 1));
    let handle = node.open_sync(Some(1)).unwrap();
    let state = SyncState::Exclusive;
    let worker = {
        let node = Arc::clone(&node);
        // The leader gets the request.
        let asked = node.lock_sync(handle, state, &mut [], NOW);
        assert_eq!(asked.map(drop), Err(Error::TimedOut));
        thread::spawn(move || {
            let (id, data) = (1, &[][..]);
            let granted = wire::Sync { id, state, data };
            node.on_server_sync(SyncCode::ConfirmUpgrade, &granted)
                .unwrap();
        })
    };
    let task = Wakes::new();
    let waker = std::sync::Arc::clone(&task).into();
    let mut context = core::task::Context::from_waker(&waker);
    {
        let mut data = [];
        let future = node.lock_sync_async(handle, state, &mut data, Wait::FOREVER);
        let mut future = core::pin::pin!(future);
        let mut polled = future.as_mut().poll(&mut context);
        if polled.is_pending() && !is_dropped {
            worker.join().unwrap();
            assert!(task.count() > 0, "the grant has woken the task");
            polled = future.as_mut().poll(&mut context);
            assert!(polled.is_ready());
        } else if polled.is_ready() {
            worker.join().unwrap();
        }
        if polled.is_ready() {
            node.unlock_sync(handle, state, None).unwrap();
        }
    }
    assert_eq!(node.waiters.usage().0, 0);
}
