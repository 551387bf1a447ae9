//! One stream: two rings of bytes, one each way, with a writer's and a reader's end.

use crate::pal::{Interest, StreamError, Token};
use crate::store::ByteRing;

/// Which end of a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Writer,
    Reader,
}

/// A pipe's number and one of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) pipe: usize,
    pub(super) role: Role,
}

/// A watch on an end: a link of its node's list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    pub(super) token: Token,
    pub(super) interest: Interest,
    pub(super) prev: Option<End>,
    pub(super) next: Option<End>,
}

#[derive(Debug)]
pub(super) struct Pipe<const BYTES: usize> {
    pub(super) writer_open: bool,
    pub(super) reader_open: bool,
    pub(super) writer_watch: Option<Watch>,
    pub(super) reader_watch: Option<Watch>,
    /// The next one in the same backlog, or the next free one.
    pub(super) next: Option<usize>,
    forward: ByteRing<BYTES>,
    /// Used by wrappers only, for a handshake.
    backward: ByteRing<BYTES>,
}

impl<const BYTES: usize> Pipe<BYTES> {
    pub(super) const fn new() -> Self {
        Pipe {
            writer_open: false,
            reader_open: false,
            writer_watch: None,
            reader_watch: None,
            next: None,
            forward: ByteRing::new(),
            backward: ByteRing::new(),
        }
    }

    /// Both ends are open, and nothing is in it.
    pub(super) fn open(&mut self) {
        self.writer_open = true;
        self.reader_open = true;
        self.next = None;
        self.forward.clear();
        self.backward.clear();
    }

    pub(super) fn watch(&mut self, role: Role) -> &mut Option<Watch> {
        match role {
            Role::Writer => &mut self.writer_watch,
            Role::Reader => &mut self.reader_watch,
        }
    }

    /// Whether the end across from that one is closed.
    fn is_hung_up(&self, role: Role) -> bool {
        match role {
            Role::Writer => !self.reader_open,
            Role::Reader => !self.writer_open,
        }
    }

    pub(super) fn write(&mut self, role: Role, parts: &[&[u8]]) -> Result<usize, StreamError> {
        if self.is_hung_up(role) {
            return Err(StreamError::Closed);
        }
        let ring = match role {
            Role::Writer => &mut self.forward,
            Role::Reader => &mut self.backward,
        };
        let prev = ring.len();
        for part in parts {
            ring.push(part);
        }
        match ring.len().saturating_sub(prev) {
            0 => Err(StreamError::WouldBlock),
            count => Ok(count),
        }
    }

    pub(super) fn read(&mut self, role: Role, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let hung_up = self.is_hung_up(role);
        let ring = match role {
            Role::Writer => &mut self.backward,
            Role::Reader => &mut self.forward,
        };
        match ring.pull(buffer) {
            0 if !hung_up => Err(StreamError::WouldBlock),
            count => Ok(count),
        }
    }

    /// What a watch with `interest` on that end reports now.
    pub(super) fn readiness(&self, role: Role, interest: Interest) -> Interest {
        let hung_up = self.is_hung_up(role);
        let (from, to) = match role {
            Role::Writer => (&self.backward, &self.forward),
            Role::Reader => (&self.forward, &self.backward),
        };
        let readable = hung_up || !from.is_empty();
        let writable = hung_up || to.room() > 0;
        interest.reported(readable, writable, hung_up)
    }
}
