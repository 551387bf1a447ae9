//! The frames to the leader that a member keeps until they are proven to have arrived.
//!
//! When the leader dies, its successor knows how many of a member's counted frames were applied. The member
//! sends the later ones again, in their order. A frame is proven to have arrived by any answer to a request
//! that was sent after it, since the leader handles the frames of a member in order.

use crate::invariant::{Count, OrBroken};
use crate::store::{Arena, Buffer, Table, bytes_for, copy, memory_sum, move_to_front};
use crate::wire::TooSmall;

/// The minimum length of the buffer in bytes.
const MIN_BUFFER: usize = 16 << 10;

/// The length field with which a frame begins.
const SIZE: usize = size_of::<u64>();

/// A request that waits for its answer: its sequence number, and the number of counted frames before its
/// answer.
#[derive(Clone, Copy, Default)]
struct SentRequest {
    seq: u64,
    number: u64,
    is_counted: bool,
}

/// The kept frames, and the numbers of the requests that wait for their answers.
pub struct KeptFrames<'m> {
    bytes: Buffer<'m>,
    /// `start..end` are the kept frames.
    start: usize,
    end: usize,
    /// The place of the next frame that is sent again.
    resend: usize,
    /// The number of the first kept frame is one more than this.
    proven: u64,
    /// The number of counted frames that were sent.
    sent: u64,
    /// The requests by the slot of their waiter.
    requests: Table<'m, SentRequest>,
    /// A MARK with this number was sent: its answer proves the frames up to there.
    marked: u64,
}

impl<'m> KeptFrames<'m> {
    /// Returns the length of the buffer.
    pub const fn capacity(frame_length: usize) -> usize {
        let longest = memory_sum!(frame_length, frame_length);
        if longest > MIN_BUFFER {
            longest
        } else {
            MIN_BUFFER
        }
    }

    /// Returns the memory for frames of at most that length, and the requests of so many waiters,
    /// in bytes.
    pub const fn bytes(frame_length: usize, waiters: usize) -> usize {
        memory_sum!(
            KeptFrames::capacity(frame_length),
            bytes_for::<SentRequest>(waiters)
        )
    }

    /// Makes room for them in memory from `arena`.
    pub fn new(arena: &mut Arena<'m>, frame_length: usize, waiters: usize) -> Self {
        KeptFrames {
            requests: arena.alloc_filled(waiters, &SentRequest::default()),
            bytes: arena.alloc_buffer(KeptFrames::capacity(frame_length)),
            start: 0,
            end: 0,
            resend: 0,
            proven: 0,
            sent: 0,
            marked: 0,
        }
    }

    /// Returns the number of counted frames that were sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Returns true if a frame of that length can be kept.
    pub fn has_room(&self, length: usize) -> bool {
        length <= self.bytes.capacity().minus(self.end.minus(self.start))
    }

    /// Keeps a counted frame, for which there is room.
    pub fn keep(&mut self, frame: &[u8]) {
        self.keep_with(frame.len(), |buffer| {
            copy(buffer, frame);
            Ok(frame.len())
        });
    }

    /// Like [`KeptFrames::keep`], of a frame that `encode` writes. Returns false if it can't be
    /// written.
    pub fn keep_with(
        &mut self,
        length: usize,
        encode: impl FnOnce(&mut [u8]) -> Result<usize, TooSmall>,
    ) -> bool {
        if self.end.plus(length) > self.bytes.capacity() {
            move_to_front(self.bytes.initialized_mut(), self.start, self.end);
            self.end = self.end.minus(self.start);
            self.resend = self.resend.minus(self.start);
            self.start = 0;
        }
        let after = self.end.plus(length);
        let bytes = self.bytes.prefix_mut(after);
        let space = bytes.get_mut(self.end..).or_broken(&mut []);
        let is_kept = encode(space) == Ok(length);
        if is_kept {
            self.end = after;
            self.sent = self.sent.plus(1);
        }
        is_kept
    }

    /// Records that the request `seq` was sent; if `is_counted`, as the last frame that was kept.
    pub fn note_request(&mut self, seq: u64, is_counted: bool) {
        let number = self.sent;
        if let Some(place) = self.place(seq) {
            *place = SentRequest {
                seq,
                number,
                is_counted,
            };
        }
    }

    /// Returns true if the request `seq` was sent as a counted frame, and is not answered.
    pub fn is_counted(&mut self, seq: u64) -> bool {
        self.place(seq)
            .is_some_and(|place| place.seq == seq && place.is_counted)
    }

    /// Returns the number of counted requests that are not answered.
    pub fn waiting(&self) -> u32 {
        let waiting = self
            .requests
            .iter()
            .filter(|request| request.seq != 0 && request.is_counted);
        u32::try_from(waiting.count()).or_broken(u32::MAX)
    }

    /// Handles the answer to the request `seq`: the frames before that request have arrived.
    pub fn on_answer(&mut self, seq: u64) {
        let Some(place) = self.place(seq).filter(|place| place.seq == seq) else {
            return;
        };
        let number = core::mem::take(place).number;
        // Most answers are those to look-ups, with no frame since the answer before.
        if number > self.proven {
            self.prove(number);
        }
    }

    /// Handles the answer to a MARK: the frames up to its number have arrived.
    pub fn on_mark(&mut self, number: u64) {
        if number <= self.marked {
            self.prove(number);
        }
    }

    /// Returns the number for a MARK, if it is time to send one: half of the buffer is full, and no MARK
    /// that is not answered yet will empty it.
    pub fn mark_due(&self) -> Option<u64> {
        let is_half_full = self.end.minus(self.start) >= self.bytes.capacity() / 2;
        (is_half_full && self.marked <= self.proven && self.sent > self.proven).then_some(self.sent)
    }

    /// Like [`KeptFrames::mark_due`], at the end of this process: after the last frame.
    pub fn mark_at_end(&self) -> Option<u64> {
        (self.marked < self.sent && !self.is_proven()).then_some(self.sent)
    }

    /// Returns true if all frames are proven to have arrived.
    pub fn is_proven(&self) -> bool {
        self.proven >= self.sent
    }

    /// Records that a MARK with that number was sent.
    pub fn record_mark(&mut self, number: u64) {
        self.marked = number;
    }

    /// Drops the frames up to that number.
    pub fn prove(&mut self, number: u64) {
        while self.proven < number.min(self.sent) {
            let length = self.frame_at(self.start).len();
            self.start = self.start.plus(length);
            self.proven = self.proven.plus(1);
        }
        self.resend = self.resend.max(self.start);
        if self.start >= self.end {
            (self.start, self.end, self.resend) = (0, 0, 0);
        }
    }

    /// Returns true if a successor that has applied that many frames can go on with what is kept.
    pub fn covers(&self, taken: u64) -> bool {
        taken >= self.proven && taken <= self.sent
    }

    /// Returns the kept frame at that place; an empty slice if there is none.
    fn frame_at(&self, place: usize) -> &[u8] {
        let kept = self.bytes.initialized().get(place..self.end);
        let kept = kept.or_broken(&[]);
        let length = kept
            .first_chunk::<SIZE>()
            .map_or(0, |size| u64::from_le_bytes(*size));
        usize::try_from(length)
            .ok()
            .and_then(|length| kept.get(..length))
            .or_broken(&[])
    }

    /// Begins to send again what is kept, to a successor that has applied `taken` frames.
    pub fn begin_resend(&mut self, taken: u64) {
        self.prove(taken);
        self.marked = self.proven;
        self.resend = self.start;
    }

    /// Returns the next frame to send again; an empty slice if all are sent.
    pub fn next_to_resend(&self) -> &[u8] {
        self.frame_at(self.resend)
    }

    /// Records that the frame of [`KeptFrames::next_to_resend`] was sent.
    pub fn mark_resent(&mut self) {
        self.resend = self.resend.plus(self.next_to_resend().len());
    }

    fn place(&mut self, seq: u64) -> Option<&mut SentRequest> {
        let slot = seq
            .wrapping_sub(1)
            .checked_rem(self.requests.len() as u64)?;
        self.requests.get_mut(usize::try_from(slot).ok()?)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::boxed::Box;
    use std::vec::Vec;

    fn frame(number: u8, length: usize) -> Vec<u8> {
        let mut bytes = std::vec![number; length];
        copy(&mut bytes, &(length as u64).to_le_bytes());
        bytes
    }

    fn with_kept(test: impl FnOnce(&mut KeptFrames<'_>)) {
        let mut memory = Box::new_uninit_slice(KeptFrames::bytes(64, 4) + 64);
        test(&mut KeptFrames::new(&mut Arena::new(&mut memory), 64, 4));
    }

    fn resent(kept: &mut KeptFrames<'_>) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while !kept.next_to_resend().is_empty() {
            all.push(kept.next_to_resend().to_vec());
            kept.mark_resent();
        }
        all
    }

    #[test]
    fn frames_that_were_not_taken_are_sent_again_in_their_order_and_once() {
        with_kept(|kept| {
            let frames: Vec<_> = (0..5).map(|number| frame(number, 20)).collect();
            for frame in &frames {
                kept.keep(frame);
            }
            kept.begin_resend(2);
            let [_, _, third, ..] = &frames[..] else {
                panic!("there are five frames");
            };
            assert_eq!(kept.next_to_resend(), third);
            kept.mark_resent();
            // One that comes meanwhile is the last one.
            kept.keep(&frame(9, 30));
            let rest = [frames[3].clone(), frames[4].clone(), frame(9, 30)];
            assert_eq!(resent(kept), rest);
            // A second successor gets what the first one did not take.
            assert!(kept.covers(4) && !kept.covers(1) && !kept.covers(7));
            kept.begin_resend(4);
            assert_eq!(resent(kept), [frames[4].clone(), frame(9, 30)]);
        });
    }

    #[test]
    fn answer_to_a_later_request_proves_the_frames_before_it() {
        with_kept(|kept| {
            kept.keep(&frame(1, 20));
            kept.note_request(1, true);
            kept.keep(&frame(2, 20));
            kept.note_request(2, false);
            kept.keep(&frame(3, 20));
            assert!(kept.is_counted(1) && !kept.is_counted(2));
            assert_eq!(kept.waiting(), 1);
            kept.on_answer(2);
            assert!(!kept.covers(1) && kept.covers(2));
            // The answer to the first one comes late.
            kept.on_answer(1);
            assert_eq!(kept.waiting(), 0);
            kept.begin_resend(2);
            assert_eq!(resent(kept), [frame(3, 20)]);
        });
    }

    #[test]
    fn mark_is_due_when_half_of_the_room_is_full_and_its_answer_frees_it() {
        with_kept(|kept| {
            let length = KeptFrames::capacity(64) / 4;
            kept.keep(&frame(1, length));
            assert_eq!(kept.mark_due(), None);
            kept.keep(&frame(2, length));
            assert_eq!(kept.mark_due(), Some(2));
            kept.record_mark(2);
            assert_eq!(kept.mark_due(), None, "one is under way");
            kept.keep(&frame(3, length));
            kept.keep(&frame(4, length));
            assert!(!kept.has_room(1));
            // A number that was not asked for proves nothing.
            kept.on_mark(4);
            assert!(!kept.has_room(1));
            kept.on_mark(2);
            assert!(kept.has_room(2 * length));
            assert_eq!(kept.mark_due(), Some(4));
        });
    }
}
