//! What a member sends and gets, in a file that Wireshark reads.
//!
//! [`TracedPal`] is a PAL over any PAL. It cuts what goes through its streams into frames, however they
//! are split, and hands each to a [`Recorder`], which writes them to a pcapng file in a thread of
//! its own. Each process records itself; [`merge`] makes one file of all, in which a frame that was
//! seen by its sender and by its receiver stands once, with both times.
//!
//! Tracing never holds a node up: a frame is copied into a buffer of fixed size, or is counted as
//! lost if there is no room. If the file can't be written, recording ends and
//! [`Recorder::finish`] says why; the node does not notice.
//!
//! `docs/debugging.md` says what the file holds and how to look at it.

mod framer;
mod merge;
mod pcapng;
mod record;
mod recorder;
mod stream;

use std::sync::Arc;

use crate::Vmid;
use crate::pal::{AcceptError, ConnectError, Pal, StreamError, Time};

pub use self::merge::{Merged, merge};
use self::record::StreamEnd;
use self::recorder::EntryQueue;
pub use self::recorder::{Recorder, Recording};
pub use self::stream::TracedStream;

/// A PAL whose frames are recorded. Without a recorder it only passes on, so that a program can
/// decide at its start.
#[derive(Debug)]
pub struct TracedPal<P: Pal> {
    // Its streams read its clock.
    inner: Arc<P>,
    queue: Option<EntryQueue>,
    us: Vmid,
}

impl<P: Pal> TracedPal<P> {
    /// `inner`, which belongs to the member `us`, with what goes through it in the recorder's file.
    pub fn new(inner: P, us: Vmid, recorder: Option<&Recorder>) -> TracedPal<P> {
        let queue = recorder.map(|recorder| recorder.open(us, inner.now()));
        TracedPal {
            inner: Arc::new(inner),
            queue,
            us,
        }
    }

    /// The PAL underneath.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    fn stream(&self, inner: P::Stream, end: StreamEnd) -> TracedStream<P> {
        TracedStream::new(inner, Arc::clone(&self.inner), self.queue.clone(), end)
    }
}

impl<P: Pal> Pal for TracedPal<P> {
    type Stream = TracedStream<P>;
    type Event = P::Event;

    const SUPPORTS_CALLER_READ: bool = P::SUPPORTS_CALLER_READ;

    crate::forward_pal!(inner: event, watch_listener, wait, wake, wait_event, now);
    crate::forward_pal!(inner, stream.inner: watch, rewatch, unwatch, wait_readable);

    fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError> {
        let stream = self.inner.connect(peer)?;
        Ok(self.stream(stream, StreamEnd::sender(self.us, peer)))
    }

    fn accept(&self) -> Result<Self::Stream, AcceptError> {
        let stream = self.inner.accept()?;
        Ok(self.stream(stream, StreamEnd::receiver(self.us)))
    }

    fn read_waiting(
        &self,
        stream: &Self::Stream,
        event: &P::Event,
        buffer: &mut [u8],
        until: Option<Time>,
    ) -> Result<usize, StreamError> {
        let count = self
            .inner
            .read_waiting(&stream.inner, event, buffer, until)?;
        stream.has_read(buffer, count);
        Ok(count)
    }
}
