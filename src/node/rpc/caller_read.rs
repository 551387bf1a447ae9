//! A call that waits for an answer reads the answer itself from the peer's stream, if the stream is
//! free.
//!
//! The worker does not watch the stream while the call has it. This costs two cheap system calls
//! and saves a switch between threads. Such a call handles answers, its own and those of other
//! calls, and the messages of the server of sync handles. At the first other frame the call returns
//! the stream to the worker, so that a thread that waits never calls the embedder.

use super::wait::{Limits, interruptible};
use super::waiter::WaitToken;
use crate::config::Driving;
use crate::node::connection::{ReadingThread, Retry};
use crate::node::{Node, PeerRef, RxHalf};
use crate::pal::fault::checked_read;
use crate::pal::{Deadline, Event, Interest, Pal, Stream, StreamError, Time};
use crate::store::SpinLockGuard;
use crate::sync::Ordering;

/// The events that may end a wait for bytes besides the bytes, the end of the stream and the time
/// limit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum Wake {
    /// Only the end of the connection, which need not be noticed at once.
    Bytes,
    /// The event of the call, which an interrupt or another thread of this process sets.
    Event,
}

/// The receiving half of a peer that a waiting thread takes from the worker, to read the answer itself.
pub(in crate::node) struct CallerRead<'a, 'n, 'm, P: Pal> {
    node: &'n Node<'m, P>,
    peer: &'a PeerRef<'n, 'm, P::Stream>,
    token: WaitToken,
    rx: Option<SpinLockGuard<'a, RxHalf<'m, P::Stream>>>,
    /// The time at which the thread tried to take the half: it tries once. Used only if the node may
    /// spin.
    since: Option<Time>,
}

impl<'a, 'n, 'm, P: Pal> CallerRead<'a, 'n, 'm, P> {
    /// Makes the read of a call with that waiter. The thread has not taken the half yet.
    pub(in crate::node) fn new(
        node: &'n Node<'m, P>,
        peer: &'a PeerRef<'n, 'm, P::Stream>,
        token: WaitToken,
    ) -> Self {
        CallerRead {
            node,
            peer,
            token,
            rx: None,
            since: None,
        }
    }

    /// Takes the half, if it is free.
    #[inline]
    pub(super) fn take(&mut self, now: Time) {
        self.since = Some(now);
        let (node, peer) = (self.node, self.peer);
        if !node.pal.supports_caller_read() || node.config.driving == Driving::Caller {
            return;
        }
        let Some(rx) = peer.rx.try_lock() else { return };
        if !rx.frames.is_empty() {
            drop(rx);
            return node.call_worker(peer);
        }
        let Some(stream) = rx.stream.as_ref().filter(|_| !rx.reads_paused) else {
            return;
        };
        peer.reader.store(self.token.name(), Ordering::SeqCst);
        node.pal.rewatch(stream, peer.incoming(), Interest::empty());
        self.rx = Some(rx);
    }

    /// Gives the half back to the worker, if the thread has it.
    #[inline]
    pub(super) fn return_half(&mut self) {
        let Some(rx) = self.rx.take() else { return };
        let (node, peer) = (self.node, self.peer);
        if let Some(stream) = &rx.stream {
            node.pal.rewatch(stream, peer.incoming(), Interest::READ);
        }
        let left_over = !rx.frames.is_empty();
        peer.reader.store(0, Ordering::SeqCst);
        drop(rx);
        // After the half is unlocked: a thread that failed to lock it has set `broken` before.
        if left_over || peer.broken.load(Ordering::SeqCst) {
            node.call_worker(peer);
        }
    }

    /// Waits for bytes of the peer, and handles the answers among them. Gives the half back if a frame
    /// or an event is left for the worker. Only takes the half if the thread has not tried that before.
    /// Returns false if the thread does not have it.
    #[inline]
    pub(super) fn read(&mut self, limits: Limits<'_>, wake: Wake) -> bool {
        let Some(since) = self.since else {
            self.take(self.node.now());
            return true;
        };
        let Some(rx) = &mut self.rx else {
            return false;
        };
        let goes_on = !self.peer.broken.load(Ordering::SeqCst)
            && self
                .node
                .read_answers(self.peer, rx, self.token, limits, (since, wake));
        if !goes_on {
            self.return_half();
        }
        true
    }
}

impl<P: Pal> Drop for CallerRead<'_, '_, '_, P> {
    fn drop(&mut self) {
        self.return_half();
    }
}

impl<'m, P: Pal> Node<'m, P> {
    /// Waits for bytes on the peer's stream and handles the answers among them. Returns false if a
    /// frame or an event is left for the worker.
    #[inline]
    fn read_answers(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        rx: &mut RxHalf<'m, P::Stream>,
        claim: WaitToken,
        limits: Limits<'_>,
        (sent, wake): (Time, Wake),
    ) -> bool {
        let (Some(stream), Some(event)) = (&rx.stream, self.waiters.event(claim)) else {
            return false;
        };
        let wake = if limits.interrupt.is_some() {
            Wake::Event
        } else {
            wake
        };
        let spin = !self.config.spin.is_zero() && self.caller_spin.is_worth_it();
        let mut read = Err(StreamError::WouldBlock);
        let mut room = 0;
        interruptible(claim, limits, || {
            let space = rx.frames.space();
            room = space.len();
            if spin {
                read = self.spin_read(stream, event, space, limits.until);
            }
            if !matches!(read, Err(StreamError::WouldBlock)) || event.is_set() {
                return;
            }
            // After an unsuccessful spin the cost of one more system call does not matter.
            if wake == Wake::Bytes && !spin {
                read = self.pal.read_waiting(stream, event, space, limits.until);
            } else if self.pal.wait_readable(stream, event, limits.until) {
                read = stream.read(space);
            }
        });
        if self.config.spin.is_zero() {
            self.update_event_time();
        } else {
            // The time counts from before the request was sent: on a single core the peer runs at
            // that moment.
            self.caller_spin
                .learn(spin, self.now() - sent, self.config.spin);
        }
        match checked_read(read, room) {
            // The worker handles the end of a stream, since it closes connections.
            Ok(0) | Err(StreamError::Closed) => false,
            Err(StreamError::WouldBlock | StreamError::Interrupted) => true,
            Ok(count) => {
                self.record_read(rx, count);
                self.handle_frames(peer, rx, ReadingThread::Caller) == Retry::No
            }
        }
    }

    /// Reads repeatedly for the time of `spin`; not beyond `until`, nor if the event is set.
    fn spin_read(
        &self,
        stream: &P::Stream,
        event: &P::Event,
        space: &mut [u8],
        until: Deadline,
    ) -> Result<usize, StreamError> {
        let start = self.now();
        loop {
            let read = stream.read(space);
            if !matches!(read, Err(StreamError::WouldBlock)) {
                self.counters.spins_won.add(1);
                return read;
            }
            let now = self.now();
            let is_over = until.is_over(|| now) || event.is_set();
            if is_over || now - start >= self.config.spin {
                self.counters.spins_lost.add(1);
                return read;
            }
            core::hint::spin_loop();
        }
    }
}
