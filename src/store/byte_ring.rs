//! A ring buffer of bytes.

use crate::invariant::{Count, OrBroken};

/// A ring with up to `BYTES` bytes.
#[derive(Debug)]
pub(crate) struct ByteRing<const BYTES: usize> {
    bytes: [u8; BYTES],
    first: usize,
    length: usize,
}

impl<const BYTES: usize> ByteRing<BYTES> {
    pub(crate) const fn new() -> Self {
        ByteRing {
            bytes: [0; BYTES],
            first: 0,
            length: 0,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.first = 0;
        self.length = 0;
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(crate) fn room(&self) -> usize {
        BYTES.minus(self.length)
    }

    /// Appends as many of `bytes` as fit, in two pieces where the ring wraps, and returns their
    /// number.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> usize {
        let (bytes, _) = bytes.split_at(bytes.len().min(self.room()));
        let end = self.after_first(self.length);
        let (front, back) = self.bytes.split_at_mut(end);
        let (to_end, from_start) = bytes.split_at(bytes.len().min(back.len()));
        copy(to_end, back);
        copy(from_start, front);
        self.length = self.length.plus(bytes.len());
        bytes.len()
    }

    /// Moves the oldest bytes to `buffer`, as many as fit, and returns their number.
    pub(crate) fn pull(&mut self, buffer: &mut [u8]) -> usize {
        let count = buffer.len().min(self.length);
        let (buffer, _) = buffer.split_at_mut(count);
        let (front, back) = self.bytes.split_at(self.first);
        let (from_back, from_front) = buffer.split_at_mut(count.min(back.len()));
        copy(back, from_back);
        copy(front, from_front);
        self.skip(count);
        count
    }

    /// Returns the oldest bytes: all of them, or those up to the place where the ring wraps.
    pub(crate) fn front(&self) -> &[u8] {
        let (_, back) = self.bytes.split_at(self.first);
        let (front, _) = back.split_at(back.len().min(self.length));
        front
    }

    /// Drops the `count` oldest bytes.
    pub(crate) fn skip(&mut self, count: usize) {
        let count = count.min(self.length);
        self.first = self.after_first(count);
        self.length = self.length.minus(count);
    }

    /// Returns the index in the ring that is `count` bytes after the first one.
    fn after_first(&self, count: usize) -> usize {
        self.first.plus(count).checked_rem(BYTES).or_broken(0)
    }
}

/// Copies as many bytes as both slices have.
fn copy(from: &[u8], to: &mut [u8]) {
    let count = from.len().min(to.len());
    let (to, _) = to.split_at_mut(count);
    let (from, _) = from.split_at(count);
    to.copy_from_slice(from);
}
