//! Records the frames of a member in a file for Wireshark.
//!
//! [`TracedPal`] is a PAL over any PAL. It extracts the frames from the bytes of its streams,
//! however they are split, and passes each to a [`Recorder`], which writes them to a pcapng file in
//! a thread of its own. Each process records its own frames; [`merge`] makes one file of all, which
//! has a frame that its sender and its receiver recorded once, with both times.
//!
//! Tracing never blocks a node: a frame is copied into a buffer of fixed size, or counted as lost
//! if there is no room. If the file can't be written, recording ends and [`Recorder::finish`]
//! returns the error; the node is not affected.
//!
//! `docs/debugging.md` documents the file and its use.

mod entry_header;
mod framer;
mod merge;
mod pcapng;
mod recorder;
mod stream;

use std::sync::Arc;

use crate::Vmid;
use crate::pal::{AcceptError, ConnectError, Deadline, Pal, StreamError};

use self::entry_header::RecordedEnd;
pub use self::merge::{Merged, merge};
use self::recorder::EntryQueue;
pub use self::recorder::{Recorder, Recording};
pub use self::stream::TracedStream;

/// A PAL whose frames are recorded. Without a recorder it only forwards, so that a program can
/// choose at its start.
#[derive(Debug)]
pub struct TracedPal<P: Pal> {
    // The streams read its clock.
    inner: Arc<P>,
    queue: Option<EntryQueue>,
    us: Vmid,
}

impl<P: Pal> TracedPal<P> {
    /// Wraps `inner`, which belongs to the member `us`, and records its frames in the recorder's
    /// file.
    pub fn new(inner: P, us: Vmid, recorder: Option<&Recorder>) -> TracedPal<P> {
        let queue = recorder.map(|recorder| recorder.open(us, inner.now()));
        TracedPal {
            inner: Arc::new(inner),
            queue,
            us,
        }
    }

    /// Returns the inner PAL.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    fn stream(&self, inner: P::Stream, end: RecordedEnd) -> TracedStream<P> {
        TracedStream::new(inner, Arc::clone(&self.inner), self.queue.clone(), end)
    }
}

impl<P: Pal> Pal for TracedPal<P> {
    type Stream = TracedStream<P>;
    type Event = P::Event;

    const SUPPORTS_CALLER_READ: bool = P::SUPPORTS_CALLER_READ;
    const MAY_BE_SECURE: bool = P::MAY_BE_SECURE;
    const HAS_HANDSHAKE: bool = P::HAS_HANDSHAKE;

    crate::forward_pal!(P: contended);
    crate::forward_pal!(inner: is_secure, requires_secure, end, clean_up_after, stop_listening, event, watch_listener, wait, wake, wait_event, now);
    crate::forward_pal!(inner, stream.inner: watch, rewatch, unwatch, wait_readable);

    fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError> {
        let stream = self.inner.connect(peer)?;
        Ok(self.stream(stream, RecordedEnd::sender(self.us, peer)))
    }

    fn accept(&self) -> Result<Self::Stream, AcceptError> {
        let stream = self.inner.accept()?;
        Ok(self.stream(stream, RecordedEnd::receiver(self.us)))
    }

    fn read_waiting(
        &self,
        stream: &Self::Stream,
        event: &P::Event,
        buffer: &mut [u8],
        until: Deadline,
    ) -> Result<usize, StreamError> {
        let count = self
            .inner
            .read_waiting(&stream.inner, event, buffer, until)?;
        stream.has_read(buffer, count);
        Ok(count)
    }
}
