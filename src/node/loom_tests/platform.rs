//! A platform whose streams take everything, and a member on it.

use core::time::Duration;
use std::vec::Vec;

use loom::sync::{Arc, Condvar, Mutex};

use super::{PEER, memory};
use crate::node::*;
use crate::pal::{
    AcceptError, ConnectError, Deadline, Event, Interest, OutOfResources, ReadyList, Stream,
    StreamError, Time, Token,
};
use crate::{Capacities, Vmid};

/// An event that threads wait for. If it is not set when all threads wait, a wake was lost.
pub(super) struct Bell {
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
pub(super) struct Sink {
    pub(super) written: Arc<Mutex<Vec<u8>>>,
    failures: Mutex<Vec<ConnectError>>,
    /// The number of streams that were closed.
    pub(super) closed: core::sync::atomic::AtomicU32,
    /// Each reading of the clock is later, so that pauses end.
    clock: core::sync::atomic::AtomicU64,
}

pub(super) struct SinkStream(Arc<Mutex<Vec<u8>>>);

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
pub(super) fn member(
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
