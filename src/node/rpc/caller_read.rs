//! A call that waits for an answer reads the answer itself from the peer's stream, if the stream is
//! free.
//!
//! The worker does not watch the stream while the call has it. This costs two cheap system calls
//! and saves a switch between threads. Such a call handles answers, its own and those of other
//! calls, and the messages of the server of sync handles. At the first other frame the call returns
//! the stream to the worker, so that a thread that waits never calls the embedder.

use core::time::Duration;

use super::reply_buffers::ReplyData;
use super::wait::{Limits, interruptible};
use super::waiters::WaitToken;
use crate::config::Driving;
use crate::error::{Errno, Error};
use crate::node::{LateReply, Node, PeerRef, RxHalf};
use crate::pal::{Deadline, Event, Interest, Pal, Stream, StreamError, Time};
use crate::store::SpinLockGuard;
use crate::sync::Ordering;
use crate::wire::{Answer, Message, codes};

/// The pause before the cancellation of a request is sent again to a peer whose queue is full.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// A request that was sent.
#[derive(Clone, Copy)]
pub(in crate::node) struct SentRequest {
    pub(in crate::node) claim: WaitToken,
    /// The action on an answer that comes after the caller has returned.
    pub(in crate::node) late: LateReply,
    /// The time at which it was sent; used only if the node may spin.
    pub(in crate::node) sent: Time,
}

/// The events that may end a wait for bytes besides the bytes, the end of the stream and the time
/// limit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum Wake {
    /// Only the end of the connection, which need not be noticed at once.
    Bytes,
    /// The event of the call, which an interrupt or another thread of this process sets.
    Event,
}

impl<'m, P: Pal> Node<'m, P> {
    /// Takes the receiving half of the peer from the worker, if it is free.
    pub(in crate::node) fn acquire_rx<'a>(
        &self,
        peer: &'a PeerRef<'_, 'm, P::Stream>,
        claim: WaitToken,
    ) -> Option<SpinLockGuard<'a, RxHalf<'m, P::Stream>>> {
        if !P::SUPPORTS_CALLER_READ || self.config.driving == Driving::Caller {
            return None;
        }
        let rx = peer.rx.try_lock()?;
        if !rx.frames.is_empty() {
            drop(rx);
            self.call_worker(peer);
            return None;
        }
        let stream = rx.stream.as_ref().filter(|_| !rx.reads_paused)?;
        peer.reader.store(claim.name(), Ordering::SeqCst);
        self.pal.rewatch(stream, peer.incoming(), Interest::empty());
        Some(rx)
    }

    /// Returns the receiving half to the worker.
    pub(in crate::node) fn release_rx(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        rx: Option<SpinLockGuard<'_, RxHalf<'m, P::Stream>>>,
    ) {
        let Some(rx) = rx else { return };
        if let Some(stream) = &rx.stream {
            self.pal.rewatch(stream, peer.incoming(), Interest::READ);
        }
        let left_over = !rx.frames.is_empty();
        peer.reader.store(0, Ordering::SeqCst);
        drop(rx);
        // After the half is unlocked: a thread that failed to lock it has set `broken` before.
        if left_over || peer.broken.load(Ordering::SeqCst) {
            self.call_worker(peer);
        }
    }

    pub(in crate::node) fn await_outcome(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        asked: SentRequest,
        mut rx: Option<SpinLockGuard<'_, RxHalf<'m, P::Stream>>>,
        mut limits: Limits<'_>,
        data: &mut ReplyData<'_>,
    ) -> Result<Answer<'static>, Error> {
        let SentRequest { claim, late, sent } = asked;
        let mut cut_short = None;
        let mut give_up_at = None;
        loop {
            if let Some(event) = self.waiters.event(claim) {
                event.clear();
            }
            if let Some(outcome) = self.waiters.outcome(claim) {
                self.release_rx(peer, rx);
                self.waiters.finish(claim, data);
                return match (outcome, cut_short) {
                    (Ok(Answer::Status(Err(Errno::EINTR))), Some(error)) => Err(error),
                    (outcome, _) => outcome,
                };
            }
            if let Some(error) = limits.reached(&self.pal) {
                self.release_rx(peer, rx.take());
                if late == LateReply::Cancel {
                    cut_short = cut_short.or(Some(error));
                    let until =
                        *give_up_at.get_or_insert_with(|| self.now() + self.config.recall_limit);
                    limits = self.cancel_request(peer, claim, until);
                    continue;
                }
                return self.waiters.abandon(claim, data).unwrap_or(Err(error));
            }
            let goes_on = if let Some(rx) = rx.as_mut() {
                let wake = if limits.interrupt.is_some() {
                    Wake::Event
                } else {
                    Wake::Bytes
                };
                !peer.broken.load(Ordering::SeqCst)
                    && self.read_answers(peer, rx, claim, limits, (sent, wake))
            } else {
                self.sleep(claim, limits);
                true
            };
            if !goes_on {
                self.release_rx(peer, rx.take());
            }
        }
    }

    /// Cancels the request at the peer, and returns the time limit for the confirmation. At
    /// `give_up_at` the connection is closed: only the confirmation or the end of the connection
    /// shows that the peer holds no lock for this process that this process does not know of. The
    /// end of the connection ends the call.
    fn cancel_request(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        claim: WaitToken,
        give_up_at: Time,
    ) -> Limits<'static> {
        let now = self.now();
        if now >= give_up_at {
            self.disconnect_peer(peer);
            return Limits::default();
        }
        let message = Message::FileLockCancel(claim.seq);
        let until = if self.put(peer, 0, &message, Limits::NONE).is_ok() {
            self.flush(peer);
            give_up_at
        } else {
            // Until there may be room for the cancellation.
            give_up_at.min(now + TRY_AGAIN)
        };
        Limits {
            until: Deadline::At(until),
            interrupt: None,
        }
    }

    /// Waits for bytes on the peer's stream and handles the answers among them. False if a frame or
    /// an event is left for the worker.
    pub(in crate::node) fn read_answers(
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
        let spin = !self.config.spin.is_zero() && self.caller_spin.is_worth_it();
        let mut read = Err(StreamError::WouldBlock);
        interruptible(claim, limits, || {
            let space = rx.frames.space();
            if spin {
                read = self.spin_read(stream, event, space, limits.until);
            }
            if read != Err(StreamError::WouldBlock) || event.is_set() {
                return;
            }
            // After an unsuccessful spin the cost of one more system call does not matter.
            if wake == Wake::Bytes && !spin {
                read = self.pal.read_waiting(stream, event, space, limits.until);
            } else if self.pal.wait_readable(stream, event, limits.until) {
                read = stream.read(space);
            }
        });
        if !self.config.spin.is_zero() {
            // The time counts from before the request was sent: on a single core the peer runs at
            // that moment.
            self.caller_spin
                .learn(spin, self.now() - sent, self.config.spin);
        } else if self.events.is_enabled() {
            self.now();
        }
        match read {
            // The worker handles the end of a stream, since it closes connections.
            Ok(0) | Err(StreamError::Closed) => false,
            Err(StreamError::WouldBlock | StreamError::Interrupted) => true,
            Ok(count) => {
                rx.frames.mark_filled(count);
                self.counters.reads.add(1);
                self.counters.bytes_in.add(count);
                self.handle_answers(peer, rx)
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
            if read != Err(StreamError::WouldBlock) {
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

    /// Handles the answers at the head of the bytes that were read. False if another frame comes
    /// first.
    fn handle_answers(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        rx: &mut RxHalf<'m, P::Stream>,
    ) -> bool {
        loop {
            let frame = match rx.frames.peek() {
                Ok(Some(frame)) => frame,
                // The frame is incomplete: the call reads on.
                Ok(None) => return true,
                Err(_) => return false,
            };
            self.trace_rx(peer, &frame, &mut rx.is_traced);
            let length = frame.length();
            if frame.code == codes::RESP {
                if self.handle_answer(peer, frame.seq, frame.payload).is_err() {
                    return false;
                }
            } else if Some(peer.vmid()) == self.identity.leader {
                let handled = match frame.message() {
                    Ok(Message::Sync(code, sync)) if !code.is_for_server() => {
                        self.on_server_sync(code, &sync)
                    }
                    _ => return false,
                };
                // The worker handles an invalid message, since it finds the same error.
                if handled.is_err() {
                    return false;
                }
            } else {
                return false;
            }
            rx.is_traced = false;
            self.counters.frames_in.add(1);
            rx.frames.skip(length);
        }
    }
}
