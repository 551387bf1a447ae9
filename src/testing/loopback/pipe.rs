//! One stream: two rings of bytes, one each way, with a writer's and a reader's end.

use crate::pal::{Interest, Readiness, StreamError, Token};
use crate::store::Ring;

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
        let before = ring.len();
        for part in parts {
            ring.push(part);
        }
        match ring.len().saturating_sub(before) {
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
        match ring.pull(buffer) {
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
        let readable = hung_up || !from.is_empty();
        let writable = hung_up || to.room() > 0;
        Readiness::of(interest, readable, writable, hung_up)
    }
}
