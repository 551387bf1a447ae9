//! Extracts frames from a stream that delivers bytes in any pieces.

use super::error::Malformed;
use super::frame::{Frame, HEADER_LENGTH, frame_size};
use crate::invariant::{Count, OrBroken};
use crate::store::{Buffer, move_to_front, total};

/// Collects bytes from a stream and returns whole frames, without copying them.
///
/// The caller provides the buffer, and its length is the limit of a frame. To read: fill
/// [`space`](FrameReader::space) from the stream, report the number of bytes with
/// [`mark_filled`](FrameReader::mark_filled), then call [`peek`](FrameReader::peek) and
/// [`skip`](FrameReader::skip) until no whole frame is left.
#[derive(Debug)]
pub struct FrameReader<'m> {
    bytes: Buffer<'m>,
    /// `start..end` are the bytes that were filled in and not skipped. Both are 0 if there are
    /// none.
    start: usize,
    end: usize,
}

impl<'m> FrameReader<'m> {
    /// Makes an empty reader.
    pub const fn new(buffer: &'m mut [u8]) -> Self {
        FrameReader::with_buffer(Buffer::from_slice(buffer))
    }

    /// Like [`FrameReader::new`].
    pub(crate) const fn with_buffer(bytes: Buffer<'m>) -> Self {
        FrameReader {
            bytes,
            start: 0,
            end: 0,
        }
    }

    /// Returns the space for the next bytes of the stream.
    ///
    /// It is never empty, unless a whole frame waits or the buffer is full.
    #[inline]
    pub fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.make_space();
        }
        // The buffer is initialised further only when the initialised part is full.
        self.bytes.initialize(self.end.plus(1));
        self.bytes
            .initialized_mut()
            .get_mut(self.end..)
            .or_broken(&mut [])
    }

    /// Moves the bytes of a frame that has begun and would not fit. After a bad size nothing more is read, and
    /// `peek` reports it.
    #[inline(never)]
    fn make_space(&mut self) {
        if let Ok(size) = frame_size(self.pending(), self.bytes.capacity()) {
            let wanted = total!(self.start, size.unwrap_or(HEADER_LENGTH));
            if wanted > self.bytes.capacity() {
                move_to_front(self.bytes.initialized_mut(), self.start, self.end);
                self.end = self.buffered();
                self.start = 0;
            }
        }
    }

    /// Reports that many bytes were written to [`space`](FrameReader::space).
    #[inline]
    pub fn mark_filled(&mut self, count: usize) {
        // A stream of another crate may return any number.
        let end = total!(self.end, count);
        self.end = end.min(self.bytes.initialized().len());
    }

    /// Returns the next frame, if it is complete. It stays until it is skipped.
    ///
    /// # Errors
    ///
    /// [`Malformed`] as soon as the size field is less than a header's length or more than the
    /// buffer's. Nothing more can be read from the stream then.
    #[inline]
    pub fn peek(&self) -> Result<Option<Frame<'_>>, Malformed> {
        Frame::parse(self.pending(), self.bytes.capacity())
    }

    /// Drops that many bytes, normally the [`length`](Frame::length) of the frame that `peek`
    /// returned.
    #[inline]
    pub fn skip(&mut self, length: usize) {
        self.start = total!(self.start, length);
        if self.start >= self.end {
            self.clear();
        }
    }

    /// Returns true if the reader has no bytes, not even a part of a frame.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.buffered() == 0
    }

    /// Returns the number of bytes that were filled in and not skipped.
    #[inline]
    pub fn buffered(&self) -> usize {
        self.end.minus(self.start)
    }

    /// Drops all bytes, for a new stream.
    #[inline]
    pub const fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    #[inline]
    fn pending(&self) -> &[u8] {
        let made = self.bytes.initialized();
        made.get(self.start..self.end).or_broken(&[])
    }
}
