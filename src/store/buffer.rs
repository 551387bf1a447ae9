//! Buffers whose bytes are initialised at their first use.
#![allow(unsafe_code)]

use crate::invariant::OrBroken;
use core::mem::MaybeUninit;

/// The number of bytes that are initialised at once: a page of most machines.
const CHUNK: usize = 4096;

/// A buffer whose bytes are set to zero only when they are first needed. So a generous limit costs only
/// address space.
#[derive(Debug, Default)]
pub(crate) struct Buffer<'m> {
    /// The first `initialized` bytes are initialised, and stay so.
    memory: &'m mut [MaybeUninit<u8>],
    initialized: usize,
}

impl<'m> Buffer<'m> {
    /// Makes a buffer of uninitialised bytes.
    pub(crate) const fn uninit(memory: &'m mut [MaybeUninit<u8>]) -> Self {
        Buffer {
            memory,
            initialized: 0,
        }
    }

    /// Makes a buffer of initialised bytes.
    pub(crate) const fn from_slice(bytes: &'m mut [u8]) -> Self {
        let initialized = bytes.len();
        let first = bytes.as_mut_ptr().cast();
        // SAFETY: the same bytes, exclusively the buffer's for 'm. No uninitialised byte is ever
        // written through `memory`, so `bytes` is wholly initialised when its owner has it again.
        let memory = unsafe { core::slice::from_raw_parts_mut(first, initialized) };
        Buffer {
            memory,
            initialized,
        }
    }

    /// Returns the length of the buffer, in bytes.
    pub(crate) const fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// Returns the initialised bytes.
    #[inline]
    pub(crate) const fn initialized(&self) -> &[u8] {
        // SAFETY: the first `initialized` bytes of `memory`, which is at least that long, are
        // initialised.
        unsafe { core::slice::from_raw_parts(self.memory.as_ptr().cast(), self.initialized) }
    }

    /// Returns the initialised bytes for writing.
    #[inline]
    pub(crate) const fn initialized_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `initialized`; and they are exclusively the caller's as long as `self` is
        // borrowed.
        unsafe {
            core::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.initialized)
        }
    }

    /// Initialises the first `count` bytes, or all if the buffer has fewer, and returns them.
    #[inline]
    pub(crate) fn prefix_mut(&mut self, count: usize) -> &mut [u8] {
        self.initialize(count);
        let count = count.min(self.initialized);
        self.initialized_mut().get_mut(..count).or_broken(&mut [])
    }

    /// Ensures that at least the first `count` bytes are initialised, or all if the buffer has
    /// fewer.
    #[inline]
    pub(crate) fn initialize(&mut self, count: usize) {
        if count > self.initialized {
            self.initialize_more(count);
        }
    }

    /// Initialises bytes up to `count`, and a chunk more.
    #[cold]
    fn initialize_more(&mut self, count: usize) {
        let end = count.saturating_add(CHUNK - 1).min(self.capacity());
        for byte in self
            .memory
            .get_mut(self.initialized..end)
            .or_broken(&mut [])
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
