//! A platform that injects faults at random, but repeatably.
//!
//! [`FaultInjector`] wraps any PAL. Its streams read and write fewer bytes than they could, report
//! that they would block or were interrupted, and break; its connects report busy peers. The seed
//! determines the faults: one thread that repeats its calls gets the same faults. A node over it
//! must stay correct and make progress with any [`Faults`] but `disconnect` and `cut_after`, and
//! stay correct with these.

mod operation_log;
mod state;
mod stream;

use spin::Mutex;

use crate::Vmid;
use crate::pal::{AcceptError, ConnectError, Deadline, Event, Interest, Pal, ReadyList};
pub use operation_log::{LOG_LENGTH, LogEntry, Operation, OperationLog, Outcome};
use state::State;
pub use stream::FaultInjectorStream;

/// The kinds of faults, with their rates: the number of faults in 1024 calls that can have one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A read returns fewer bytes than are available.
    pub short_read: u16,
    /// A write accepts fewer bytes than there is room for.
    pub short_write: u16,
    /// A read or write that could proceed reports that it would block.
    pub would_block: u16,
    /// A read or write reports that it was interrupted.
    pub interrupted: u16,
    /// A read or write finds the stream broken; the peer sees it closed.
    pub disconnect: u16,
    /// A connect reports a busy peer.
    pub connect_busy: u16,
    /// The number of bytes, read and written by this node, after which the stream that moved the
    /// last of them breaks. It happens once.
    pub cut_after: Option<u64>,
}

impl Faults {
    /// No faults.
    pub const NONE: Faults = Faults {
        short_read: 0,
        short_write: 0,
        would_block: 0,
        interrupted: 0,
        disconnect: 0,
        connect_busy: 0,
        cut_after: None,
    };

    /// The faults that a node must tolerate: each call may do less than it could, and no stream ends.
    pub const HARMLESS: Faults = Faults {
        short_read: 300,
        short_write: 300,
        would_block: 300,
        interrupted: 200,
        connect_busy: 512,
        ..Faults::NONE
    };
}

/// A PAL with faults. The PAL for a node is a reference to it, so that its owner can read the log
/// while the node runs.
#[derive(Debug)]
pub struct FaultInjector<P: Pal> {
    inner: P,
    faults: Faults,
    state: Mutex<State>,
}

impl<P: Pal> FaultInjector<P> {
    /// Wraps `inner`, with faults in the order that `seed` determines.
    pub const fn new(inner: P, faults: Faults, seed: u64) -> FaultInjector<P> {
        FaultInjector {
            inner,
            faults,
            state: Mutex::new(State::new(seed, faults.cut_after)),
        }
    }

    /// Returns the inner PAL.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    /// Returns the last [`LOG_LENGTH`] operations, oldest first.
    pub fn log(&self) -> OperationLog {
        self.state.lock().log.all()
    }

    /// Returns the number of bytes that this node has read and written.
    pub fn bytes_moved(&self) -> u64 {
        self.state.lock().moved
    }

    fn record(&self, operation: Operation, asked: usize, outcome: Outcome) {
        self.state.lock().log.add(LogEntry {
            operation,
            asked,
            outcome,
        });
    }

    /// Returns true if a fault with this rate (of 1024) occurs now.
    fn roll(&self, rate: u16) -> bool {
        rate > 0 && self.state.lock().rng.roll(rate)
    }
}

impl<'p, P: Pal> Pal for &'p FaultInjector<P> {
    type Stream = FaultInjectorStream<'p, P>;
    type Event = P::Event;

    const SUPPORTS_CALLER_READ: bool = P::SUPPORTS_CALLER_READ;
    const MAY_BE_SECURE: bool = P::MAY_BE_SECURE;
    const HAS_HANDSHAKE: bool = P::HAS_HANDSHAKE;

    crate::forward_pal!(P: contended);
    crate::forward_pal!(inner: is_secure, requires_secure, end, clean_up_after, stop_listening, event, watch_listener, wake, wait_event, now);
    crate::forward_pal!(stream.itself: watch, rewatch, unwatch);

    fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError> {
        let result = if self.roll(self.faults.connect_busy) {
            Err(ConnectError::Busy)
        } else {
            self.inner.connect(peer)
        };
        self.record(Operation::Connect(peer), 0, Outcome::of_connect(&result));
        Ok(FaultInjectorStream::new(self, result?))
    }

    fn accept(&self) -> Result<Self::Stream, AcceptError> {
        let stream = self.inner.accept()?;
        self.record(Operation::Accept, 0, Outcome::Done);
        Ok(FaultInjectorStream::new(self, stream))
    }

    fn wait(&self, ready: &mut ReadyList, until: Deadline) {
        // The inner PAL does not watch the broken streams of this node any more.
        let broken = !self.state.lock().broken.is_empty();
        self.inner
            .wait(ready, if broken { Deadline::Now } else { until });
        let state = self.state.lock();
        for (token, interest) in &state.broken {
            let mut readiness = Interest::HANG_UP;
            readiness.set(Interest::READ, interest.contains(Interest::READ));
            readiness.set(Interest::WRITE, interest.contains(Interest::WRITE));
            let _ = ready.push((*token, readiness));
        }
    }

    fn wait_readable(&self, stream: &Self::Stream, event: &P::Event, until: Deadline) -> bool {
        if event.is_set() {
            false
        } else {
            stream.wait_readable(event, until)
        }
    }
}
