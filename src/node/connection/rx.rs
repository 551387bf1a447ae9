//! From the bytes of a stream to its frames.

use crate::sync::Ordering;

use super::poll_loop::{Again, incoming_interest};
use crate::counters::Refusal;
use crate::node::{Node, PeerRef, Reading};
use crate::pal::{Pal, Stream, StreamError};
use crate::wire::{Expected, Frame};

/// What a read came to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    Some,
    Nothing,
    End,
}

impl<'m, P: Pal> Node<'m, P> {
    /// Reads the peer's stream once, and does what it asks for.
    pub(crate) fn receive(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        // Not the worker's now: a call reads its answer there. It gives the stream back.
        let Some(mut reading) = peer.reading.try_lock() else {
            return;
        };
        let read = self.read(&mut reading);
        let again = self.take_frames(peer, &mut reading);
        drop(reading);
        self.flush(peer);
        if read == Read::End {
            self.give_up_on(peer);
        } else if again != Again::Whenever {
            self.peers.attend(peer);
        }
    }

    /// Reads once.
    pub(super) fn read(&self, reading: &mut Reading<'m, P::Stream>) -> Read {
        let Some(stream) = &reading.stream else {
            return Read::Nothing;
        };
        let space = reading.frames.space();
        if space.is_empty() {
            return Read::Nothing;
        }
        match stream.read(space) {
            Ok(0) | Err(StreamError::Closed) => Read::End,
            Err(StreamError::WouldBlock | StreamError::Interrupted) => Read::Nothing,
            Ok(count) => {
                reading.frames.mark_filled(count);
                self.counters.reads.add(1);
                self.counters.bytes_in.add(count);
                Read::Some
            }
        }
    }

    /// Goes on with what was left unread, or read and not taken up.
    pub(super) fn resume(&self, peer: &PeerRef<'_, 'm, P::Stream>) -> Again {
        let Some(mut reading) = peer.reading.try_lock() else {
            return Again::Whenever;
        };
        if reading.frames.is_empty() {
            return Again::Whenever;
        }
        let again = self.take_frames(peer, &mut reading);
        if again == Again::Soon && !reading.held_back {
            // That more has come is no news until then, and would be reported again and again.
            self.hold_back(peer, &mut reading, true);
        }
        drop(reading);
        self.flush(peer);
        again
    }

    /// Takes up the whole frames that were read.
    pub(super) fn take_frames(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        reading: &mut Reading<'m, P::Stream>,
    ) -> Again {
        loop {
            let frame = match reading.frames.peek() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(malformed) => {
                    self.fault(peer, Refusal::Malformed(malformed));
                    return Again::Whenever;
                }
            };
            if Expected::of(frame.code).is_some() && !peer.has_room() {
                if !reading.held_back {
                    self.counters.paused_reads.add(1);
                    self.hold_back(peer, reading, true);
                    // Room may have been made before the wish was known.
                    if peer.has_room() {
                        continue;
                    }
                }
                return Again::Whenever;
            }
            let length = frame.length();
            self.note_in(peer, &frame, &mut reading.is_noted);
            match self.take_frame(peer, &frame) {
                Ok(Again::Whenever) => {}
                Ok(again) => return again,
                Err(refusal) => {
                    self.fault(peer, refusal);
                    return Again::Whenever;
                }
            }
            self.counters.frames_in.add(1);
            reading.is_noted = false;
            reading.frames.skip(length);
        }
        if reading.held_back {
            self.hold_back(peer, reading, false);
        }
        Again::Whenever
    }

    /// Puts a frame that is to be taken up among the events, once.
    pub(crate) fn note_in(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        frame: &Frame<'_>,
        is_noted: &mut bool,
    ) {
        if !core::mem::replace(is_noted, true) {
            let (code, seq) = (frame.code, frame.seq);
            self.events.frame_in(peer.vmid(), code, seq, frame.length());
        }
    }

    /// Leaves the peer's requests unread from now on, or no more.
    fn hold_back(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        reading: &mut Reading<'m, P::Stream>,
        held_back: bool,
    ) {
        reading.held_back = held_back;
        peer.held_back.store(held_back, Ordering::SeqCst);
        if let Some(stream) = &reading.stream {
            self.pal
                .rewatch(stream, peer.incoming(), incoming_interest(held_back));
        }
    }

    /// Closes the connection of a peer that broke the protocol.
    pub(super) fn fault(&self, peer: &PeerRef<'_, 'm, P::Stream>, refusal: Refusal) {
        if !peer.broken.swap(true, Ordering::SeqCst) {
            self.refuse(Some(peer.vmid()), refusal);
        }
        // Nothing of what it sent besides is worth anything.
        let mut queue = peer.queue.lock();
        queue.closed = true;
        queue.faulty = true;
        drop(queue);
        self.give_up_on(peer);
    }
}
