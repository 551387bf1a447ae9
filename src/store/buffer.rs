//! Bytes that become real as they are first used.
#![allow(unsafe_code)]

use core::mem::MaybeUninit;

/// How many bytes are made at once: a page of most machines.
const CHUNK: usize = 4096;

/// A buffer whose bytes are made, that is set to zero, only when they are first wanted: a generous
/// limit costs address space only.
#[derive(Debug, Default)]
pub(crate) struct Buffer<'m> {
    /// The first `made` bytes are initialised, for good.
    memory: &'m mut [MaybeUninit<u8>],
    initialized: usize,
}

impl<'m> Buffer<'m> {
    /// A buffer of which nothing is made yet.
    pub(crate) const fn uninit(memory: &'m mut [MaybeUninit<u8>]) -> Self {
        Buffer {
            memory,
            initialized: 0,
        }
    }

    /// A buffer of which all is made.
    pub(crate) const fn from_slice(bytes: &'m mut [u8]) -> Self {
        let initialized = bytes.len();
        let first = bytes.as_mut_ptr().cast();
        // SAFETY: the same bytes, exclusively ours for 'm. Through `room` nobody ever writes an
        // uninitialised byte, so `bytes` is all initialised when it is its owner's again.
        let memory = unsafe { core::slice::from_raw_parts_mut(first, initialized) };
        Buffer {
            memory,
            initialized,
        }
    }

    /// How many bytes it can have.
    pub(crate) const fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// What is made of it.
    #[inline]
    pub(crate) const fn initialized(&self) -> &[u8] {
        // SAFETY: the first `made` bytes of `room`, which is at least that long, are initialised.
        unsafe { core::slice::from_raw_parts(self.memory.as_ptr().cast(), self.initialized) }
    }

    /// What is made of it, to be changed.
    #[inline]
    pub(crate) const fn initialized_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `made`; and they are exclusively ours as long as `self` is borrowed.
        unsafe {
            core::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.initialized)
        }
    }

    /// Its first `count` bytes, or all if it has fewer.
    pub(crate) fn prefix_mut(&mut self, count: usize) -> &mut [u8] {
        self.initialize(count);
        let count = count.min(self.initialized);
        self.initialized_mut().get_mut(..count).unwrap_or_default()
    }

    /// Sees to it that at least the first `count` bytes are made, or all if it has fewer.
    pub(crate) fn initialize(&mut self, count: usize) {
        if count <= self.initialized {
            return;
        }
        let end = count.saturating_add(CHUNK - 1).min(self.capacity());
        for byte in self
            .memory
            .get_mut(self.initialized..end)
            .unwrap_or_default()
        {
            byte.write(0);
        }
        self.initialized = self.initialized.max(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn a_buffer_initialises_the_requested_bytes_and_keeps_the_others() {
        let mut memory = vec![MaybeUninit::new(7); 3 * CHUNK];
        let mut buffer = Buffer::uninit(&mut memory);
        assert!(buffer.initialized().is_empty());
        assert_eq!(buffer.prefix_mut(2), [0, 0]);
        buffer.prefix_mut(2).fill(1);
        let made = buffer.initialized().len();
        assert!((2..=CHUNK + 2).contains(&made), "{made}");
        assert_eq!(buffer.prefix_mut(usize::MAX).len(), 3 * CHUNK);
        assert_eq!(buffer.initialized().get(..3), Some(&[1, 1, 0][..]));
    }

    #[test]
    fn initialised_bytes_are_not_written_again() {
        let mut bytes = [1, 2, 3];
        let mut buffer = Buffer::from_slice(&mut bytes);
        assert_eq!(
            (buffer.initialized(), buffer.capacity()),
            (&[1, 2, 3][..], 3)
        );
        buffer.initialize(4);
        buffer.prefix_mut(1).fill(9);
        assert_eq!(bytes, [9, 2, 3]);
    }
}
