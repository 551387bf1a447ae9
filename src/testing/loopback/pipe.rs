//! One stream: two rings of bytes, one for each direction, with a writer's and a reader's end.

use crate::invariant::Count;
use crate::pal::{Interest, StreamError, Token};
use crate::store::ByteRing;

/// The end of a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Writer,
    Reader,
}

/// The number of a pipe, and one of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PipeEnd {
    pub(super) pipe: usize,
    pub(super) role: Role,
}

/// A watch on an end: an element of its node's list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    pub(super) token: Token,
    pub(super) interest: Interest,
    pub(super) prev: Option<PipeEnd>,
    pub(super) next: Option<PipeEnd>,
}

#[derive(Debug)]
pub(super) struct Pipe<const BYTES: usize> {
    /// The index of the node that has opened it.
    pub(super) opener: usize,
    pub(super) writer_open: bool,
    pub(super) reader_open: bool,
    pub(super) writer_watch: Option<Watch>,
    pub(super) reader_watch: Option<Watch>,
    /// The next pipe in the same backlog, or the next free one.
    pub(super) next: Option<usize>,
    /// The bytes of the writer's end.
    forward: ByteRing<BYTES>,
    /// The bytes of the reader's end. Only wrappers of the platform write any, for a handshake.
    backward: ByteRing<BYTES>,
}

impl<const BYTES: usize> Pipe<BYTES> {
    pub(super) const fn new() -> Self {
        Pipe {
            opener: 0,
            writer_open: false,
            reader_open: false,
            writer_watch: None,
            reader_watch: None,
            next: None,
            forward: ByteRing::new(),
            backward: ByteRing::new(),
        }
    }

    /// Opens both ends of the empty pipe, as the node with the index `opener`.
    pub(super) fn open(&mut self, opener: usize) {
        self.opener = opener;
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

    /// Returns true if the other end is closed.
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
        match ring.len().minus(prev) {
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

    /// Returns the report of a watch with `interest` on that end.
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
