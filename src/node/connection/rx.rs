//! Reading a stream: from its bytes to its frames.

use crate::store::assert_none_held;
use crate::sync::Ordering;

use super::peer_share::Cost;
use super::poll_loop::{Retry, incoming_interest};
use crate::counters::Refusal;
use crate::invariant::Count;
use crate::node::{Node, PeerRef, RxHalf};
use crate::pal::fault::checked_read;
use crate::pal::{Pal, Stream, StreamError};
use crate::wire::{Expected, Frame, codes};

/// The thread that reads a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum ReadingThread {
    /// The worker, which handles all frames, as far as the peer's share of the poll iteration goes.
    Worker,
    /// A call that waits for an answer. It handles the frames of [`Node::is_for_caller`] and leaves the
    /// first other one to the worker, so that a thread that waits never calls the embedder.
    Caller,
}

/// The result of a read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    Some,
    Nothing,
    /// The stream was read in this poll iteration already, or the buffer has no room.
    NotNow,
    End,
}

impl<'m, P: Pal> Node<'m, P> {
    /// Reads the peer's stream once, and handles the frames.
    pub(crate) fn receive(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        // If a call has the receiving half, the call reads and returns it to the worker later.
        let Some(mut rx) = peer.rx.try_lock() else {
            return;
        };
        let read = self.read(&mut rx);
        let retry = self.handle_frames(peer, &mut rx, ReadingThread::Worker);
        drop(rx);
        self.flush(peer);
        if read == ReadOutcome::End {
            self.disconnect_peer(peer);
        } else if retry != Retry::No {
            self.peers.schedule(peer);
        }
    }

    /// Reads, once in a poll iteration.
    pub(super) fn read(&self, rx: &mut RxHalf<'m, P::Stream>) -> ReadOutcome {
        let Some(stream) = &rx.stream else {
            return ReadOutcome::Nothing;
        };
        let space = rx.frames.space();
        if space.is_empty() || !self.is_closing() && !rx.share.take_read(self.iteration()) {
            return ReadOutcome::NotNow;
        }
        assert_none_held();
        let room = space.len();
        match checked_read(stream.read(space), room) {
            Ok(0) => {
                rx.has_ended = true;
                ReadOutcome::End
            }
            Err(StreamError::Closed) => ReadOutcome::End,
            Err(StreamError::WouldBlock | StreamError::Interrupted) => ReadOutcome::Nothing,
            Ok(count) => {
                self.record_read(rx, count);
                ReadOutcome::Some
            }
        }
    }

    /// Records that so many bytes of the peer were read.
    #[inline]
    pub(in crate::node) fn record_read(&self, rx: &mut RxHalf<'m, P::Stream>, count: usize) {
        rx.frames.mark_filled(count);
        self.counters.reads.add(1);
        self.counters.bytes_in.add(count);
    }

    /// Handles the frames that were read before and not handled.
    pub(super) fn resume(&self, peer: &PeerRef<'_, 'm, P::Stream>) -> Retry {
        let Some(mut rx) = peer.rx.try_lock() else {
            return Retry::No;
        };
        if rx.frames.is_empty() {
            return Retry::No;
        }
        let retry = self.handle_frames(peer, &mut rx, ReadingThread::Worker);
        if retry == Retry::Soon && !rx.reads_paused {
            // Until the retry, the platform would report readiness again and again.
            self.pause_reads(peer, &mut rx, true);
        }
        drop(rx);
        self.flush(peer);
        retry
    }

    /// Handles the complete frames in the buffer. The worker stops at the end of the peer's share of this
    /// poll iteration, and a caller at the first frame that is not for it.
    pub(in crate::node) fn handle_frames(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        rx: &mut RxHalf<'m, P::Stream>,
        reader: ReadingThread,
    ) -> Retry {
        let is_caller = reader == ReadingThread::Caller;
        // No other peer was served in this poll iteration.
        let is_alone = !is_caller && self.iterations.serve(peer.index);
        let mut handled = 0_usize;
        let retry = loop {
            let frame = match rx.frames.peek() {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    if rx.reads_paused {
                        self.pause_reads(peer, rx, false);
                    }
                    break Retry::No;
                }
                Err(malformed) => {
                    self.fault(peer, Refusal::Malformed(malformed));
                    break Retry::No;
                }
            };
            if is_caller {
                // None of the messages for a caller has an answer, for which there had to be room.
                if !self.is_for_caller(peer, frame.code) {
                    break Retry::Now;
                }
            } else {
                if Expected::of(frame.code).is_some() && !peer.has_room() {
                    if !rx.reads_paused {
                        self.counters.paused_reads.add(1);
                        self.pause_reads(peer, rx, true);
                        // Another thread may have made room before it could see the flag.
                        if peer.has_room() {
                            continue;
                        }
                    }
                    break Retry::No;
                }
                let cost = self.cost_of(frame.code);
                if !self.is_closing()
                    && (rx.share.is_used_up(&self.iterations, is_alone)
                        || cost.is_scan && !self.iterations.take_scan(cost))
                {
                    break Retry::Now;
                }
                rx.share.charge(cost);
            }
            let length = frame.length();
            self.trace_rx(peer, &frame, &mut rx.is_traced);
            let outcome = self.handle_frame(peer, &frame);
            // Few frames are charged more than they cost themselves, and a swap takes longer.
            if peer.charge.load(Ordering::Relaxed) != 0 {
                let frames = peer.charge.swap(0, Ordering::Relaxed);
                rx.share.charge(Cost {
                    frames,
                    is_cheap: false,
                    is_scan: false,
                });
            }
            match outcome {
                Ok(Retry::No) => {}
                Ok(retry) => break retry,
                Err(refusal) => {
                    self.fault(peer, refusal);
                    break Retry::No;
                }
            }
            handled.increment();
            rx.is_traced = false;
            rx.frames.skip(length);
        };
        if handled > 0 {
            self.counters.frames_in.add(handled);
        }
        retry
    }

    /// Returns true if a call that waits may handle the frame: an answer, the answer to a heartbeat, or a
    /// message of the server of shared values. None of them calls the embedder.
    fn is_for_caller(&self, peer: &PeerRef<'_, 'm, P::Stream>, code: u8) -> bool {
        match code {
            codes::RESP => true,
            codes::HEARTBEAT
            | codes::SYNC_REQUEST_DOWNGRADE
            | codes::SYNC_CONFIRM_UPGRADE
            | codes::SYNC_CONFIRM_CLOSE => Some(peer.vmid()) == self.led_by(),
            _ => false,
        }
    }

    /// Records a received frame among the events, once.
    fn trace_rx(&self, peer: &PeerRef<'_, 'm, P::Stream>, frame: &Frame<'_>, is_traced: &mut bool) {
        if !core::mem::replace(is_traced, true) {
            let (code, seq) = (frame.code, frame.seq);
            self.events.frame_in(peer.vmid(), code, seq, frame.length());
        }
    }

    /// Pauses or resumes the reads of the peer's stream.
    fn pause_reads(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        rx: &mut RxHalf<'m, P::Stream>,
        reads_paused: bool,
    ) {
        rx.reads_paused = reads_paused;
        peer.reads_paused.store(reads_paused, Ordering::SeqCst);
        if let Some(stream) = &rx.stream {
            self.pal
                .rewatch(stream, peer.incoming(), incoming_interest(reads_paused));
        }
    }

    /// Closes the connection of a peer that violated the protocol.
    pub(super) fn fault(&self, peer: &PeerRef<'_, 'm, P::Stream>, refusal: Refusal) {
        if !peer.broken.swap(true, Ordering::SeqCst) {
            self.refuse(Some(peer.vmid()), refusal);
        }
        // The other frames of such a peer are not trusted.
        let mut queue = peer.queue.lock();
        queue.closed = true;
        queue.faulty = true;
        drop(queue);
        self.disconnect_peer(peer);
    }
}
