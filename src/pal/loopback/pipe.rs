//! One stream: a ring of bytes with a writer's and a reader's end.

use crate::pal::{Interest, Readiness, StreamError, Token};

/// Which end of a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Writer,
    Reader,
}

/// A pipe's number and one of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) pipe: usize,
    pub(super) side: Side,
}

/// A watch on an end: a link of its node's list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    pub(super) token: Token,
    pub(super) interest: Interest,
    pub(super) before: Option<End>,
    pub(super) after: Option<End>,
}

#[derive(Debug)]
pub(super) struct Pipe<const BYTES: usize> {
    pub(super) writer_open: bool,
    pub(super) reader_open: bool,
    pub(super) writer_watch: Option<Watch>,
    pub(super) reader_watch: Option<Watch>,
    /// The next one in the same backlog, or the next free one.
    pub(super) next: Option<usize>,
    bytes: [u8; BYTES],
    first: usize,
    length: usize,
}

impl<const BYTES: usize> Pipe<BYTES> {
    pub(super) const fn new() -> Self {
        Pipe {
            writer_open: false,
            reader_open: false,
            writer_watch: None,
            reader_watch: None,
            next: None,
            bytes: [0; BYTES],
            first: 0,
            length: 0,
        }
    }

    /// Both ends are open, and nothing is in it.
    pub(super) fn open(&mut self) {
        self.writer_open = true;
        self.reader_open = true;
        self.next = None;
        self.first = 0;
        self.length = 0;
    }

    pub(super) fn watch(&mut self, side: Side) -> &mut Option<Watch> {
        match side {
            Side::Writer => &mut self.writer_watch,
            Side::Reader => &mut self.reader_watch,
        }
    }

    pub(super) fn write(&mut self, parts: &[&[u8]]) -> Result<usize, StreamError> {
        if !self.reader_open {
            return Err(StreamError::Closed);
        }
        let before = self.length;
        for part in parts {
            self.push(part);
        }
        match self.length.saturating_sub(before) {
            0 => Err(StreamError::WouldBlock),
            count => Ok(count),
        }
    }

    /// Puts in as many of `bytes` as fit, in two pieces where the ring wraps.
    fn push(&mut self, bytes: &[u8]) {
        let room = BYTES.saturating_sub(self.length);
        let (bytes, _) = bytes.split_at(bytes.len().min(room));
        let end = self
            .first
            .saturating_add(self.length)
            .checked_rem(BYTES)
            .unwrap_or(0);
        let (front, back) = self.bytes.split_at_mut(end);
        let (to_end, from_start) = bytes.split_at(bytes.len().min(back.len()));
        copy(to_end, back);
        copy(from_start, front);
        self.length = self.length.saturating_add(bytes.len());
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        if self.length == 0 {
            return if self.writer_open {
                Err(StreamError::WouldBlock)
            } else {
                Ok(0)
            };
        }
        let count = buffer.len().min(self.length);
        let (buffer, _) = buffer.split_at_mut(count);
        let (front, back) = self.bytes.split_at(self.first);
        let (from_back, from_front) = buffer.split_at_mut(count.min(back.len()));
        copy(back, from_back);
        copy(front, from_front);
        self.first = self
            .first
            .saturating_add(count)
            .checked_rem(BYTES)
            .unwrap_or(0);
        self.length = self.length.saturating_sub(count);
        Ok(count)
    }

    /// What a watch with `interest` on that end reports now.
    pub(super) fn readiness(&self, side: Side, interest: Interest) -> Readiness {
        let hung_up = match side {
            Side::Writer => !self.reader_open,
            Side::Reader => !self.writer_open,
        };
        let readable = side == Side::Reader && (self.length > 0 || hung_up);
        let writable = side == Side::Writer && (self.length < BYTES || hung_up);
        let mut ready = Readiness::empty();
        ready.set(
            Readiness::READ,
            readable && interest.contains(Interest::READ),
        );
        ready.set(
            Readiness::WRITE,
            writable && interest.contains(Interest::WRITE),
        );
        ready.set(Readiness::HANG_UP, hung_up && !interest.is_empty());
        ready
    }
}

/// Copies as much as there is in `from` and fits in `to`.
fn copy(from: &[u8], to: &mut [u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}
