//! Bytes that become real as they are first used.
#![allow(unsafe_code)]

use core::mem::MaybeUninit;

/// How many bytes are made at once: a page of most machines.
const AT_ONCE: usize = 4096;

/// A buffer whose bytes are made, that is set to zero, only when they are first wanted: a generous
/// limit costs address space only.
#[derive(Debug, Default)]
pub(crate) struct Buffer<'m> {
    /// The first `made` bytes are initialised, for good.
    room: &'m mut [MaybeUninit<u8>],
    made: usize,
}

impl<'m> Buffer<'m> {
    /// A buffer of which nothing is made yet.
    pub(crate) const fn unmade(room: &'m mut [MaybeUninit<u8>]) -> Self {
        Buffer { room, made: 0 }
    }

    /// A buffer of which all is made.
    pub(crate) const fn of(bytes: &'m mut [u8]) -> Self {
        let made = bytes.len();
        let first = bytes.as_mut_ptr().cast();
        // SAFETY: the same bytes, exclusively ours for 'm. Through `room` nobody ever writes an
        // uninitialised byte, so `bytes` is all initialised when it is its owner's again.
        let room = unsafe { core::slice::from_raw_parts_mut(first, made) };
        Buffer { room, made }
    }

    /// How many bytes it can have.
    pub(crate) const fn capacity(&self) -> usize {
        self.room.len()
    }

    /// What is made of it.
    #[inline]
    pub(crate) const fn made(&self) -> &[u8] {
        // SAFETY: the first `made` bytes of `room`, which is at least that long, are initialised.
        unsafe { core::slice::from_raw_parts(self.room.as_ptr().cast(), self.made) }
    }

    /// What is made of it, to be changed.
    #[inline]
    pub(crate) const fn made_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `made`; and they are exclusively ours as long as `self` is borrowed.
        unsafe { core::slice::from_raw_parts_mut(self.room.as_mut_ptr().cast(), self.made) }
    }

    /// Its first `count` bytes, or all if it has fewer.
    pub(crate) fn first(&mut self, count: usize) -> &mut [u8] {
        self.make(count);
        let count = count.min(self.made);
        self.made_mut().get_mut(..count).unwrap_or_default()
    }

    /// Sees to it that at least the first `count` bytes are made, or all if it has fewer.
    pub(crate) fn make(&mut self, count: usize) {
        if count <= self.made {
            return;
        }
        let end = count.saturating_add(AT_ONCE - 1).min(self.capacity());
        for byte in self.room.get_mut(self.made..end).unwrap_or_default() {
            byte.write(0);
        }
        self.made = self.made.max(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn a_buffer_makes_what_is_wanted_and_keeps_what_is_in_it() {
        let mut room = vec![MaybeUninit::new(7); 3 * AT_ONCE];
        let mut buffer = Buffer::unmade(&mut room);
        assert!(buffer.made().is_empty());
        assert_eq!(buffer.first(2), [0, 0]);
        buffer.first(2).fill(1);
        let made = buffer.made().len();
        assert!((2..=AT_ONCE + 2).contains(&made), "{made}");
        assert_eq!(buffer.first(usize::MAX).len(), 3 * AT_ONCE);
        assert_eq!(buffer.made().get(..3), Some(&[1, 1, 0][..]));
    }

    #[test]
    fn bytes_that_are_there_need_no_making() {
        let mut bytes = [1, 2, 3];
        let mut buffer = Buffer::of(&mut bytes);
        assert_eq!((buffer.made(), buffer.capacity()), (&[1, 2, 3][..], 3));
        buffer.make(4);
        buffer.first(1).fill(9);
        assert_eq!(bytes, [9, 2, 3]);
    }
}
