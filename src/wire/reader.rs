//! Frames out of a stream that brings them in any pieces.

use super::error::Malformed;
use super::frame::{Frame, HEADER_LENGTH, frame_size};
use crate::store::{Buffer, move_to_front};

/// Takes bytes as they come and gives whole frames, in place.
///
/// The buffer is the caller's, and its length is the limit of a frame. To read: fill
/// [`space`](FrameReader::space) from the stream, say how much came with
/// [`mark_filled`](FrameReader::mark_filled), then [`peek`](FrameReader::peek) and
/// [`skip`](FrameReader::skip) until no whole frame is left.
#[derive(Debug)]
pub struct FrameReader<'m> {
    bytes: Buffer<'m>,
    /// `start..end` of the bytes came and were not skipped yet. Both are 0 when there are none.
    start: usize,
    end: usize,
}

impl<'m> FrameReader<'m> {
    /// A reader that has read nothing yet.
    pub const fn new(buffer: &'m mut [u8]) -> Self {
        FrameReader::with_buffer(Buffer::from_slice(buffer))
    }

    /// As [`FrameReader::new`].
    pub(crate) const fn with_buffer(bytes: Buffer<'m>) -> Self {
        FrameReader {
            bytes,
            start: 0,
            end: 0,
        }
    }

    /// Where the next bytes of the stream go.
    ///
    /// Never empty, unless a whole frame waits or the buffer is full.
    #[inline]
    pub fn space(&mut self) -> &mut [u8] {
        // Only a frame that has begun and would not fit is worth moving. With a bad size nothing
        // more will be read, so that is left to `peek`.
        if self.start > 0
            && let Ok(size) = frame_size(self.pending(), self.bytes.capacity())
        {
            let wanted = self.start.saturating_add(size.unwrap_or(HEADER_LENGTH));
            if wanted > self.bytes.capacity() {
                move_to_front(self.bytes.initialized_mut(), self.start, self.end);
                self.end = self.buffered();
                self.start = 0;
            }
        }
        // As long as the bytes that are made suffice, no more of them are.
        self.bytes.initialize(self.end.saturating_add(1));
        self.bytes
            .initialized_mut()
            .get_mut(self.end..)
            .unwrap_or_default()
    }

    /// That many bytes came into [`space`](FrameReader::space).
    #[inline]
    pub fn mark_filled(&mut self, count: usize) {
        self.end = self
            .end
            .saturating_add(count)
            .min(self.bytes.initialized().len());
    }

    /// The next whole frame, if it is all there. It stays until it is skipped.
    ///
    /// # Errors
    ///
    /// [`Malformed`] as soon as the frame has said a length that is less than a header's or more
    /// than the buffer's. Nothing more can be read from the stream then.
    #[inline]
    pub fn peek(&self) -> Result<Option<Frame<'_>>, Malformed> {
        Frame::parse(self.pending(), self.bytes.capacity())
    }

    /// Drops that many bytes, normally the [`length`](Frame::length) of the frame that was peeked
    /// at.
    #[inline]
    pub fn skip(&mut self, length: usize) {
        self.start = self.start.saturating_add(length);
        if self.start >= self.end {
            self.clear();
        }
    }

    /// Whether nothing is waiting, not even a piece of a frame.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.buffered() == 0
    }

    /// How many bytes came and were not skipped yet.
    #[inline]
    pub const fn buffered(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// Forgets what came, for a new stream.
    #[inline]
    pub const fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    #[inline]
    fn pending(&self) -> &[u8] {
        let made = self.bytes.initialized();
        made.get(self.start..self.end).unwrap_or_default()
    }
}
