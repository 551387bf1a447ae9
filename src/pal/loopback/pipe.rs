//! One stream: two rings of bytes, one each way, with a writer's and a reader's end.

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
    there: Ring<BYTES>,
    /// Used by wrappers only, for a handshake.
    back: Ring<BYTES>,
}

impl<const BYTES: usize> Pipe<BYTES> {
    pub(super) const fn new() -> Self {
        Pipe {
            writer_open: false,
            reader_open: false,
            writer_watch: None,
            reader_watch: None,
            next: None,
            there: Ring::new(),
            back: Ring::new(),
        }
    }

    /// Both ends are open, and nothing is in it.
    pub(super) fn open(&mut self) {
        self.writer_open = true;
        self.reader_open = true;
        self.next = None;
        self.there.clear();
        self.back.clear();
    }

    pub(super) fn watch(&mut self, side: Side) -> &mut Option<Watch> {
        match side {
            Side::Writer => &mut self.writer_watch,
            Side::Reader => &mut self.reader_watch,
        }
    }

    /// Whether the end across from that one is closed.
    fn is_hung_up(&self, side: Side) -> bool {
        match side {
            Side::Writer => !self.reader_open,
            Side::Reader => !self.writer_open,
        }
    }

    pub(super) fn write(&mut self, side: Side, parts: &[&[u8]]) -> Result<usize, StreamError> {
        if self.is_hung_up(side) {
            return Err(StreamError::Closed);
        }
        let ring = match side {
            Side::Writer => &mut self.there,
            Side::Reader => &mut self.back,
        };
        let before = ring.length;
        for part in parts {
            ring.push(part);
        }
        match ring.length.saturating_sub(before) {
            0 => Err(StreamError::WouldBlock),
            count => Ok(count),
        }
    }

    pub(super) fn read(&mut self, side: Side, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let hung_up = self.is_hung_up(side);
        let ring = match side {
            Side::Writer => &mut self.back,
            Side::Reader => &mut self.there,
        };
        match ring.pop(buffer) {
            0 if !hung_up => Err(StreamError::WouldBlock),
            count => Ok(count),
        }
    }

    /// What a watch with `interest` on that end reports now.
    pub(super) fn readiness(&self, side: Side, interest: Interest) -> Readiness {
        let hung_up = self.is_hung_up(side);
        let (from, to) = match side {
            Side::Writer => (&self.back, &self.there),
            Side::Reader => (&self.there, &self.back),
        };
        let readable = from.length > 0 || hung_up;
        let writable = to.length < BYTES || hung_up;
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

/// The bytes that go one way.
#[derive(Debug)]
struct Ring<const BYTES: usize> {
    bytes: [u8; BYTES],
    first: usize,
    length: usize,
}

impl<const BYTES: usize> Ring<BYTES> {
    const fn new() -> Self {
        Ring {
            bytes: [0; BYTES],
            first: 0,
            length: 0,
        }
    }

    fn clear(&mut self) {
        self.first = 0;
        self.length = 0;
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

    /// Takes out as many as there are and fit, and says how many.
    fn pop(&mut self, buffer: &mut [u8]) -> usize {
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
        count
    }
}

/// Copies as much as there is in `from` and fits in `to`.
fn copy(from: &[u8], to: &mut [u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}
