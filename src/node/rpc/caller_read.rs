//! A call that waits for an answer reads it off the peer's stream itself where it can.
//!
//! The stream is taken from the worker's watch for as long as the call lasts, which costs two cheap
//! system calls and saves a hand-over between threads. Such a call takes in answers, its own and
//! others', and what the server says about sync handles; the first other frame sends the stream back
//! to the worker, so that nothing that calls the embedder ever runs in a thread that waits.

use core::time::Duration;

use super::reply_buffers::Data;
use super::wait::{Limits, interruptible};
use super::waiters::Claim;
use crate::arch::spin_hint;
use crate::config::Driving;
use crate::error::{Error, errno};
use crate::node::{Late, Node, PeerRef, Reading};
use crate::pal::{Event, Interest, Pal, Stream, StreamError, Time, Woken};
use crate::store::SpinLockGuard;
use crate::sync::Ordering;
use crate::wire::{Answer, Message, codes};

/// How soon a peer with a full queue is told again that a call is off.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// A request that was sent.
#[derive(Clone, Copy)]
pub(in crate::node) struct Asked {
    pub(in crate::node) claim: Claim,
    /// What is to happen if its caller gives up.
    pub(in crate::node) late: Late,
    /// When; only kept where spinning is an option.
    pub(in crate::node) sent: Time,
}

/// What may end a wait for bytes beside the bytes, the end of the stream and the time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum Wake {
    /// Nothing but the end of the connection, which need not be noticed at once.
    Bytes,
    /// The event of the call: an interrupt, or another thread of this process.
    Event,
}

/// What a peer answers that was told to give up.
pub(in crate::node) const INTERRUPTED: i32 = -errno::EINTR;

impl<'m, P: Pal> Node<'m, P> {
    /// Takes the stream that the peer's answers come on from the worker, if that can be done.
    pub(in crate::node) fn take_reading<'a>(
        &self,
        peer: &'a PeerRef<'_, 'm, P::Stream>,
        claim: Claim,
    ) -> Option<SpinLockGuard<'a, Reading<'m, P::Stream>>> {
        if !P::SUPPORTS_CALLER_READ || self.config.driving == Driving::Caller {
            return None;
        }
        let reading = peer.reading.try_lock()?;
        if !reading.frames.is_empty() {
            drop(reading);
            self.call_worker(peer);
            return None;
        }
        let stream = reading.stream.as_ref().filter(|_| !reading.held_back)?;
        peer.reader.store(claim.name(), Ordering::SeqCst);
        self.pal.rewatch(stream, peer.incoming(), Interest::empty());
        Some(reading)
    }

    /// Gives the stream back to the worker.
    pub(in crate::node) fn give_reading(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        reading: Option<SpinLockGuard<'_, Reading<'m, P::Stream>>>,
    ) {
        let Some(reading) = reading else { return };
        if let Some(stream) = &reading.stream {
            self.pal.rewatch(stream, peer.incoming(), Interest::READ);
        }
        let left_over = !reading.frames.is_empty();
        peer.reader.store(0, Ordering::SeqCst);
        drop(reading);
        // After the token is free: whoever wanted it in vain has set `broken` before.
        if left_over || peer.broken.load(Ordering::SeqCst) {
            self.call_worker(peer);
        }
    }

    pub(in crate::node) fn await_outcome(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        asked: Asked,
        mut reading: Option<SpinLockGuard<'_, Reading<'m, P::Stream>>>,
        mut limits: Limits<'_>,
        data: &mut Data<'_>,
    ) -> Result<Answer<'static>, Error> {
        let Asked { claim, late, sent } = asked;
        let mut cut_short = None;
        let mut give_up = None;
        loop {
            if let Some(event) = self.waiters.event(claim) {
                event.clear();
            }
            if let Some(outcome) = self.waiters.outcome(claim) {
                self.give_reading(peer, reading);
                self.waiters.finish(claim, data);
                return match (outcome, cut_short) {
                    (Ok(Answer::Status(INTERRUPTED)), Some(error)) => Err(error),
                    (outcome, _) => outcome,
                };
            }
            if let Some(error) = limits.reached(&self.pal) {
                self.give_reading(peer, reading.take());
                if late == Late::Cancel {
                    cut_short = cut_short.or(Some(error));
                    let until =
                        *give_up.get_or_insert_with(|| self.now() + self.config.recall_limit);
                    limits = self.call_off(peer, claim, until);
                    continue;
                }
                return self.waiters.give_up(claim, data).unwrap_or(Err(error));
            }
            let goes_on = if let Some(reading) = reading.as_mut() {
                let wake = if limits.interrupt.is_some() {
                    Wake::Event
                } else {
                    Wake::Bytes
                };
                !peer.broken.load(Ordering::SeqCst)
                    && self.read_answers(peer, reading, claim, limits, (sent, wake))
            } else {
                self.sleep(claim, limits);
                true
            };
            if !goes_on {
                self.give_reading(peer, reading.take());
            }
        }
    }

    /// Tells the peer to give up what the call waits for, and returns how long to wait for it to say
    /// so. One that has not by then is no peer any more: only so is it known that it holds nothing
    /// for this process that nobody knows of. Its end ends the call.
    fn call_off(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        claim: Claim,
        give_up: Time,
    ) -> Limits<'static> {
        let now = self.now();
        if now >= give_up {
            self.give_up_on(peer);
            return Limits::default();
        }
        let message = Message::FileLockCancel(claim.seq);
        let until = if self.put(peer, 0, &message, Limits::NONE).is_ok() {
            self.flush(peer);
            give_up
        } else {
            // Until there is more room to tell it.
            give_up.min(now + TRY_AGAIN)
        };
        Limits {
            until: Some(until),
            interrupt: None,
        }
    }

    /// Waits for bytes on the peer's stream and takes in the answers among them. False if there is
    /// something for the worker.
    pub(in crate::node) fn read_answers(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        reading: &mut Reading<'m, P::Stream>,
        claim: Claim,
        limits: Limits<'_>,
        (sent, wake): (Time, Wake),
    ) -> bool {
        let (Some(stream), Some(event)) = (&reading.stream, self.waiters.event(claim)) else {
            return false;
        };
        let spin = !self.config.spin.is_zero() && self.caller_spin.is_worth_it();
        let mut read = Err(StreamError::WouldBlock);
        interruptible(claim, limits, || {
            let space = reading.frames.space();
            if spin {
                read = self.spin_read(stream, event, space, limits.until);
            }
            if read != Err(StreamError::WouldBlock) || event.is_set() {
                return;
            }
            // After a spin in vain one system call more is nothing.
            if wake == Wake::Bytes && !spin {
                read = self.pal.read_waiting(stream, event, space, limits.until);
            } else if self.pal.wait_readable(stream, event, limits.until) == Woken::Readable {
                read = stream.read(space);
            }
        });
        if !self.config.spin.is_zero() {
            // From before the request went out: on a single core that is when the peer gets to run.
            self.caller_spin
                .learn(spin, self.now() - sent, self.config.spin);
        } else if self.events.is_enabled() {
            self.now();
        }
        match read {
            // The end is for the worker to see: it closes connections.
            Ok(0) | Err(StreamError::Closed) => false,
            Err(StreamError::WouldBlock | StreamError::Interrupted) => true,
            Ok(count) => {
                reading.frames.mark_filled(count);
                self.counters.reads.add(1);
                self.counters.bytes_in.add(count);
                self.take_answers(peer, reading)
            }
        }
    }

    /// Reads again and again for a while; not beyond `until`, nor if the event is set.
    fn spin_read(
        &self,
        stream: &P::Stream,
        event: &P::Event,
        space: &mut [u8],
        until: Option<Time>,
    ) -> Result<usize, StreamError> {
        let start = self.now();
        loop {
            let read = stream.read(space);
            if read != Err(StreamError::WouldBlock) {
                self.counters.spins_won.add(1);
                return read;
            }
            let now = self.now();
            let is_over = until.is_some_and(|until| now >= until) || event.is_set();
            if is_over || now - start >= self.config.spin {
                self.counters.spins_lost.add(1);
                return read;
            }
            spin_hint();
        }
    }

    /// Takes in the answers at the head of what was read. False if something else comes first.
    fn take_answers(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        reading: &mut Reading<'m, P::Stream>,
    ) -> bool {
        loop {
            let frame = match reading.frames.peek() {
                Ok(Some(frame)) => frame,
                // A partial frame: what follows will tell.
                Ok(None) => return true,
                Err(_) => return false,
            };
            self.note_in(peer, &frame, &mut reading.is_noted);
            let length = frame.length();
            if frame.code == codes::RESP {
                if self.take_answer(peer, frame.seq, frame.payload).is_err() {
                    return false;
                }
            } else if Some(peer.vmid()) == self.identity.leader {
                let heard = match frame.message() {
                    Ok(Message::Sync(code, sync)) if !code.is_for_server() => {
                        self.on_server_sync(code, &sync)
                    }
                    _ => return false,
                };
                // What does not fit is left to the worker, which sees that, too.
                if heard.is_err() {
                    return false;
                }
            } else {
                return false;
            }
            reading.is_noted = false;
            self.counters.frames_in.add(1);
            reading.frames.skip(length);
        }
    }
}
