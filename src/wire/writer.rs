//! Collects frames, so that many go out in one write.

use super::answer::Answer;
use super::error::TooSmall;
use super::message::Message;
use crate::invariant::{Count, OrBroken};
use crate::store::{Buffer, copy, move_to_front, total};

/// Collects frames until the stream accepts them, in any pieces.
///
/// The caller provides the buffer. [`push`](FrameWriter::push) any number of frames, write
/// [`unsent`](FrameWriter::unsent) to the stream, and report the number of bytes that it accepted
/// with [`mark_sent`](FrameWriter::mark_sent).
#[derive(Debug)]
pub struct FrameWriter<'m> {
    bytes: Buffer<'m>,
    /// `start..end` are the bytes that are not sent yet. Both are 0 if there are none.
    start: usize,
    end: usize,
}

impl<'m> FrameWriter<'m> {
    /// Makes an empty writer.
    pub const fn new(buffer: &'m mut [u8]) -> Self {
        FrameWriter::with_buffer(Buffer::from_slice(buffer))
    }

    /// Like [`FrameWriter::new`].
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
    /// [`TooSmall`] if there is no room for the frame, or no frame can hold the message. Then
    /// nothing is added.
    #[inline]
    pub fn push(&mut self, seq: u64, message: &Message<'_>) -> Result<(), TooSmall> {
        // The frame usually fits behind the others, and `encode` checks that it does.
        let length = match message.encode(seq, self.free_space()) {
            Ok(length) => length,
            Err(TooSmall) => message.encode(seq, self.make_room(message.length())?)?,
        };
        self.end = self.end.plus(length);
        Ok(())
    }

    /// Adds an answer.
    ///
    /// # Errors
    ///
    /// [`TooSmall`] if there is no room for the frame. Then nothing is added.
    #[inline]
    pub fn push_answer(&mut self, seq: u64, answer: &Answer<'_>) -> Result<(), TooSmall> {
        let length = match answer.encode(seq, self.free_space()) {
            Ok(length) => length,
            Err(TooSmall) => answer.encode(seq, self.make_room(answer.length())?)?,
        };
        self.end = self.end.plus(length);
        Ok(())
    }

    /// Adds a frame that is encoded already.
    ///
    /// # Errors
    ///
    /// [`TooSmall`] if there is no room for it. Then nothing is added.
    pub(crate) fn push_frame(&mut self, frame: &[u8]) -> Result<(), TooSmall> {
        let space = match self.free_space().get_mut(..frame.len()) {
            Some(space) => space,
            None => self.make_room(frame.len())?,
        };
        copy(space, frame);
        self.end = self.end.plus(frame.len());
        Ok(())
    }

    /// Returns the bytes for the stream's next write.
    #[inline]
    pub fn unsent(&self) -> &[u8] {
        let made = self.bytes.initialized();
        made.get(self.start..self.end).or_broken(&[])
    }

    /// Returns all frames, from the first one that is not sent as a whole, if nothing was added since a part of that was
    /// sent; there may be others before it.
    pub(crate) fn frames(&self) -> &[u8] {
        self.bytes.initialized().get(..self.end).or_broken(&[])
    }

    /// Reports that the stream accepted that many bytes of [`unsent`](FrameWriter::unsent).
    #[inline]
    pub fn mark_sent(&mut self, count: usize) {
        self.start = total!(self.start, count);
        if self.start >= self.end {
            self.clear();
        }
    }

    /// Returns the length of the longest frame that fits, in bytes.
    #[inline]
    pub fn room(&self) -> usize {
        self.bytes.capacity().minus(self.end.minus(self.start))
    }

    /// Returns true if all bytes were sent.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// Drops all unsent bytes, for a new stream.
    #[inline]
    pub const fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// Returns the length of the buffer, in bytes.
    #[inline]
    pub const fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    fn free_space(&mut self) -> &mut [u8] {
        self.bytes
            .initialized_mut()
            .get_mut(self.end..)
            .or_broken(&mut [])
    }

    /// Initialises more of the buffer, or moves the unsent bytes to the front, if the frame fits
    /// then. Otherwise a stream that accepts only parts would never leave room again, since the
    /// front is free only when all bytes are sent.
    #[cold]
    fn make_room(&mut self, length: usize) -> Result<&mut [u8], TooSmall> {
        if length > self.room() {
            return Err(TooSmall);
        }
        if self.end.plus(length) > self.bytes.capacity() {
            move_to_front(self.bytes.initialized_mut(), self.start, self.end);
            self.end = self.end.minus(self.start);
            self.start = 0;
        }
        self.bytes.initialize(self.end.plus(length));
        Ok(self.free_space())
    }
}
