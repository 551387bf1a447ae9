//! The data that comes with an answer.

use crate::error::Error;
use crate::store::{Arena, Buffer, Table, bytes_for};

/// Where a caller wants the data of an answer, and how long that turned out to be.
pub(crate) struct ReplyData<'a> {
    pub(crate) bytes: &'a mut [u8],
    pub(crate) length: usize,
}

impl ReplyData<'_> {
    /// For an answer without.
    pub(crate) const fn none() -> Self {
        ReplyData {
            bytes: &mut [],
            length: 0,
        }
    }
}

/// Buffers for the data of answers that wait for their callers: a stack.
pub(in crate::node) struct ReplyBuffers<'m> {
    stack: Table<'m, Option<Buffer<'m>>>,
    free: usize,
}

impl<'m> ReplyBuffers<'m> {
    pub(in crate::node) const fn bytes(count: usize, length: usize) -> usize {
        bytes_for::<Option<Buffer<'_>>>(count).saturating_add(count.saturating_mul(length))
    }

    pub(in crate::node) fn new(
        arena: &mut Arena<'m>,
        count: usize,
        length: usize,
    ) -> Result<Self, Error> {
        let mut memory = arena.split_off(count.saturating_mul(length))?;
        Ok(ReplyBuffers {
            stack: arena.alloc_table(count, |_| Ok(Some(memory.alloc_buffer(length)?)))?,
            free: count,
        })
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
            self.free = self.free.saturating_add(1);
        }
    }
}
