//! Many frames, one write.

use super::answer::Answer;
use super::error::TooSmall;
use super::message::Message;
use crate::store::{Buffer, move_to_front};

/// Collects frames until the stream takes them, in whatever pieces it does.
///
/// The buffer is the caller's. [`push`](FrameWriter::push) any number of frames, write
/// [`unsent`](FrameWriter::unsent) to the stream, and say how much it took with
/// [`sent`](FrameWriter::mark_sent).
#[derive(Debug)]
pub struct FrameWriter<'m> {
    bytes: Buffer<'m>,
    /// `start..end` of the bytes are to be sent yet. Both are 0 when none are.
    start: usize,
    end: usize,
}

impl<'m> FrameWriter<'m> {
    /// A writer with nothing to send.
    pub const fn new(buffer: &'m mut [u8]) -> Self {
        FrameWriter::with_buffer(Buffer::from_slice(buffer))
    }

    /// As [`FrameWriter::new`].
    pub(crate) const fn with_buffer(bytes: Buffer<'m>) -> Self {
        FrameWriter {
            bytes,
            start: 0,
            end: 0,
        }
    }

    /// Adds a message.
    ///
    /// # Errors
    ///
    /// [`TooSmall`] if there is no room for the frame, or no frame can hold the message. Nothing
    /// is added then.
    #[inline]
    pub fn push(&mut self, seq: u64, message: &Message<'_>) -> Result<(), TooSmall> {
        // Most often it fits behind the others, and `encode` looks whether it does.
        let length = match message.encode(seq, self.free_space()) {
            Ok(length) => length,
            Err(TooSmall) => message.encode(seq, self.make_room(message.length())?)?,
        };
        self.end = self.end.saturating_add(length);
        Ok(())
    }

    /// Adds an answer.
    ///
    /// # Errors
    ///
    /// [`TooSmall`] if there is no room for the frame. Nothing is added then.
    #[inline]
    pub fn push_answer(&mut self, seq: u64, answer: &Answer<'_>) -> Result<(), TooSmall> {
        let length = match answer.encode(seq, self.free_space()) {
            Ok(length) => length,
            Err(TooSmall) => answer.encode(seq, self.make_room(answer.length())?)?,
        };
        self.end = self.end.saturating_add(length);
        Ok(())
    }

    /// What the stream should take next.
    #[inline]
    pub fn unsent(&self) -> &[u8] {
        let made = self.bytes.initialized();
        made.get(self.start..self.end).unwrap_or_default()
    }

    /// The stream took that many bytes of [`unsent`](FrameWriter::unsent).
    #[inline]
    pub fn mark_sent(&mut self, count: usize) {
        self.start = self.start.saturating_add(count);
        if self.start >= self.end {
            self.clear();
        }
    }

    /// How long a frame there is room for.
    #[inline]
    pub const fn room(&self) -> usize {
        self.bytes
            .capacity()
            .saturating_sub(self.end.saturating_sub(self.start))
    }

    /// Whether everything was sent.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// Forgets what was not sent, for a new stream.
    #[inline]
    pub const fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// How many bytes can wait at most.
    #[inline]
    pub const fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    fn free_space(&mut self) -> &mut [u8] {
        self.bytes
            .initialized_mut()
            .get_mut(self.end..)
            .unwrap_or_default()
    }

    /// Makes more of the buffer, or moves what is unsent to the front, if that helps. A stream that
    /// takes only pieces would otherwise never leave room again, for the front is free only once all
    /// is sent.
    #[cold]
    fn make_room(&mut self, length: usize) -> Result<&mut [u8], TooSmall> {
        if length > self.room() {
            return Err(TooSmall);
        }
        if self.end.saturating_add(length) > self.bytes.capacity() {
            move_to_front(self.bytes.initialized_mut(), self.start, self.end);
            self.end = self.end.saturating_sub(self.start);
            self.start = 0;
        }
        self.bytes.initialize(self.end.saturating_add(length));
        Ok(self.free_space())
    }
}
