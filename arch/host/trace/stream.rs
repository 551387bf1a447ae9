//! A stream whose frames are recorded.

use std::sync::{Arc, Mutex, PoisonError};

use super::entry_header::{Kind, RecordedEnd};
use super::framer::{Framer, Piece};
use super::recorder::EntryQueue;
use crate::invariant::Count;
use crate::pal::{LogWriterEnd, Pal, Stream, StreamError, Time};

/// A stream of a [`TracedPal`](super::TracedPal) node.
#[derive(Debug)]
pub struct TracedStream<P: Pal> {
    pub(super) inner: P::Stream,
    pal: Arc<P>,
    trace: Option<Mutex<Trace>>,
}

/// The state of a stream's recording.
#[derive(Debug)]
struct Trace {
    queue: EntryQueue,
    end: RecordedEnd,
    framer: Framer,
    /// The number of the next entry.
    next: u64,
}

impl Trace {
    /// Records the frames that these bytes complete.
    fn record(&mut self, time: Time, bytes: &[u8]) {
        let Trace {
            queue,
            end,
            framer,
            next,
        } = self;
        framer.push(bytes, |piece| {
            let (kind, bytes) = match piece {
                Piece::Vmid(vmid) => return end.comes_from(vmid),
                Piece::Frame(bytes) => (Kind::Frame, bytes),
                Piece::NoFrame(bytes) => (Kind::NoFrame, bytes),
            };
            queue.write(&end.header(kind, *next, time), bytes);
            next.increment();
        });
    }
}

impl<P: Pal> TracedStream<P> {
    pub(super) fn new(
        inner: P::Stream,
        pal: Arc<P>,
        queue: Option<EntryQueue>,
        end: RecordedEnd,
    ) -> Self {
        let trace = queue.map(|queue| {
            Mutex::new(Trace {
                queue,
                end,
                framer: Framer::default(),
                next: 0,
            })
        });
        TracedStream { inner, pal, trace }
    }

    /// Records bytes that were read into the buffer.
    pub(super) fn has_read(&self, buffer: &[u8], count: usize) {
        if let Some(trace) = &self.trace
            && let Some(bytes) = buffer.get(..count)
        {
            let mut trace = trace.lock().unwrap_or_else(PoisonError::into_inner);
            trace.record(self.pal.now(), bytes);
        }
    }
}

impl<P: Pal> Stream for TracedStream<P> {
    const SHARES_LOGS: bool = P::Stream::SHARES_LOGS;

    fn read(&self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let count = self.inner.read(buffer)?;
        self.has_read(buffer, count);
        Ok(count)
    }

    fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError> {
        let Some(trace) = &self.trace else {
            return self.inner.write(parts);
        };
        // The time is read before the write: after it the other end may have read the bytes
        // already.
        let time = self.pal.now();
        let count = self.inner.write(parts)?;
        let mut trace = trace.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = count;
        for part in parts {
            let taken = part.get(..left).unwrap_or(part);
            trace.record(time, taken);
            left = left.minus(taken.len());
        }
        Ok(count)
    }

    fn opener(&self) -> Option<u32> {
        self.inner.opener()
    }

    fn begin_log(&mut self) -> Result<usize, StreamError> {
        self.inner.begin_log()
    }

    fn accept_log(&mut self) {
        self.inner.accept_log();
    }

    fn revoke_log(&self) {
        self.inner.revoke_log();
    }

    fn end_of_log(&self) -> LogWriterEnd {
        self.inner.end_of_log()
    }
}

impl<P: Pal> Drop for TracedStream<P> {
    fn drop(&mut self) {
        let Some(trace) = &mut self.trace else { return };
        let trace = trace.get_mut().unwrap_or_else(PoisonError::into_inner);
        let bytes = trace.framer.partial();
        // The sender records the part that it has sent, so only the receiver records a frame that
        // was cut off.
        if !bytes.is_empty() && !trace.end.is_sender() {
            let header = trace.end.header(Kind::CutOff, trace.next, self.pal.now());
            trace.queue.write(&header, bytes);
        }
    }
}
