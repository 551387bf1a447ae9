//! The buffers for the data of answers.

use crate::invariant::Count;
use crate::store::{Arena, Buffer, Table, bytes_for, memory_sum};
use crate::wire::PATH_MAX;

/// The length of a buffer: the data of an answer, or an unlock with a path of the same length, as a frame.
pub(in crate::node) const BUFFER_LENGTH: usize = PATH_MAX + UNLOCK_LENGTH;

/// The most bytes of the frame of an unlock besides its path. [`Call`](super::call::Call) checks the length.
const UNLOCK_LENGTH: usize = 64;

/// The buffer of a caller for the data of an answer, and the length of the data.
pub(crate) struct ReplyData<'a> {
    pub(crate) bytes: &'a mut [u8],
    pub(crate) length: usize,
}

impl ReplyData<'_> {
    /// Returns the place for an answer without data.
    pub(crate) const fn none() -> Self {
        ReplyData {
            bytes: &mut [],
            length: 0,
        }
    }
}

/// The buffers for the data of answers that their callers have not read yet: a stack of free ones.
pub(in crate::node) struct ReplyBuffers<'m> {
    stack: Table<'m, Option<Buffer<'m>>>,
    free: usize,
}

impl<'m> ReplyBuffers<'m> {
    pub(in crate::node) const fn bytes(count: usize, length: usize) -> usize {
        memory_sum!(
            bytes_for::<Option<Buffer<'_>>>(count),
            count.saturating_mul(length),
        )
    }

    pub(in crate::node) fn new(arena: &mut Arena<'m>, count: usize, length: usize) -> Self {
        let mut memory = arena.split_off(count.saturating_mul(length));
        ReplyBuffers {
            stack: arena.alloc_table(count, |_| Some(memory.alloc_buffer(length))),
            free: count,
        }
    }

    pub(in crate::node) fn alloc(&mut self) -> Option<Buffer<'m>> {
        let free = self.free.checked_sub(1)?;
        let buffer = self.stack.get_mut(free)?.take();
        self.free = free;
        buffer
    }

    pub(in crate::node) fn free(&mut self, buffer: Buffer<'m>) {
        if let Some(place) = self.stack.get_mut(self.free) {
            *place = Some(buffer);
            self.free.increment();
        }
    }
}
