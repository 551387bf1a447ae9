//! A stream whose frames are recorded.

use std::sync::{Arc, Mutex, PoisonError};

use super::framer::{Cutter, Piece};
use super::record::{Kind, Side};
use super::recorder::Book;
use crate::pal::{Pal, Stream, StreamError, Time};

/// A stream of a [`Traced`](super::Traced) node.
#[derive(Debug)]
pub struct TracedStream<P: Pal> {
    pub(super) inner: P::Stream,
    pal: Arc<P>,
    trace: Option<Mutex<Trace>>,
}

/// What is known of a stream so far.
#[derive(Debug)]
struct Trace {
    book: Book,
    side: Side,
    cutter: Cutter,
    /// The number of the next entry.
    next: u64,
}

impl Trace {
    fn take(&mut self, time: Time, bytes: &[u8]) {
        let Trace {
            book,
            side,
            cutter,
            next,
        } = self;
        cutter.take(bytes, |piece| {
            let (kind, bytes) = match piece {
                Piece::Vmid(vmid) => return side.comes_from(vmid),
                Piece::Frame(bytes) => (Kind::Frame, bytes),
                Piece::NoFrame(bytes) => (Kind::NoFrame, bytes),
            };
            book.write(&side.record(kind, *next, time), bytes);
            *next = next.saturating_add(1);
        });
    }
}

impl<P: Pal> TracedStream<P> {
    pub(super) fn new(inner: P::Stream, pal: Arc<P>, book: Option<Book>, side: Side) -> Self {
        let trace = book.map(|book| {
            Mutex::new(Trace {
                book,
                side,
                cutter: Cutter::default(),
                next: 0,
            })
        });
        TracedStream { inner, pal, trace }
    }

    /// Bytes were read into the buffer.
    pub(super) fn has_read(&self, buffer: &[u8], count: usize) {
        if let Some(trace) = &self.trace
            && let Some(bytes) = buffer.get(..count)
        {
            let mut trace = trace.lock().unwrap_or_else(PoisonError::into_inner);
            trace.take(self.pal.now(), bytes);
        }
    }
}

impl<P: Pal> Stream for TracedStream<P> {
    fn read(&self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let count = self.inner.read(buffer)?;
        self.has_read(buffer, count);
        Ok(count)
    }

    fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError> {
        let Some(trace) = &self.trace else {
            return self.inner.write(parts);
        };
        // Before they go: afterwards the other side may have read them already.
        let time = self.pal.now();
        let count = self.inner.write(parts)?;
        let mut trace = trace.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = count;
        for part in parts {
            let taken = part.get(..left).unwrap_or(part);
            trace.take(time, taken);
            left = left.saturating_sub(taken.len());
        }
        Ok(count)
    }
}

impl<P: Pal> Drop for TracedStream<P> {
    fn drop(&mut self) {
        let Some(trace) = &mut self.trace else { return };
        let trace = trace.get_mut().unwrap_or_else(PoisonError::into_inner);
        let bytes = trace.cutter.left_over();
        // What was sent of it is what came of it.
        if !bytes.is_empty() && !trace.side.is_sender() {
            let record = trace.side.record(Kind::CutOff, trace.next, self.pal.now());
            trace.book.write(&record, bytes);
        }
    }
}
