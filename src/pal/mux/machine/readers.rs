//! Streams that are read at this end.

use super::Mux;
use crate::invariant::Count;
use crate::pal::StreamError;
use crate::pal::mux::frame::Stop;
use crate::pal::mux::streams::RxState;

impl<const STREAMS: usize, const WINDOW: usize> Mux<STREAMS, WINDOW> {
    /// Returns the next stream that the other end has opened, and the VMID of its target.
    pub fn next_opened(&mut self) -> Option<(u16, u32)> {
        self.opened.pop_front()
    }

    /// Returns true if [`Mux::next_opened`] has a stream.
    pub fn has_opened(&self) -> bool {
        !self.opened.is_empty()
    }

    /// Accepts the stream: its writer may send.
    pub fn accept(&mut self, stream: u16) {
        if let Ok(incoming) = self.rx_stream(stream) {
            incoming.consumed = WINDOW;
            self.all_queued = false;
            self.queue_pending();
        }
    }

    /// Returns the number of bytes that can be read.
    pub fn readable(&self, stream: u16) -> usize {
        self.incoming
            .get(usize::from(stream))
            .map_or(0, |incoming| incoming.ring.len())
    }

    /// Returns true if the writer has closed the stream: no bytes follow those that can be read.
    pub fn is_ended(&self, stream: u16) -> bool {
        let incoming = self.incoming.get(usize::from(stream));
        self.hung_up || incoming.is_none_or(|incoming| incoming.life.contains(RxState::ENDED))
    }

    /// Reads as many bytes as are available and fit; 0 after the last byte of a closed stream.
    ///
    /// # Errors
    /// [`StreamError::WouldBlock`] if there is nothing to read at present.
    pub fn read(&mut self, stream: u16, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let is_ended = self.is_ended(stream);
        let Ok(incoming) = self.rx_stream(stream) else {
            return Err(StreamError::Closed);
        };
        let count = incoming.ring.pull(buffer);
        self.add_consumed(stream, count);
        if count == 0 && !is_ended {
            Err(StreamError::WouldBlock)
        } else {
            Ok(count)
        }
    }

    /// Returns the bytes that can be read, or the first part of them. [`Mux::skip`] removes them.
    pub fn front(&self, stream: u16) -> &[u8] {
        self.incoming
            .get(usize::from(stream))
            .map_or(&[], |incoming| incoming.ring.front())
    }

    /// Drops the first `count` bytes of [`Mux::front`].
    pub fn skip(&mut self, stream: u16, count: usize) {
        if let Ok(incoming) = self.rx_stream(stream) {
            incoming.ring.skip(count);
            self.add_consumed(stream, count);
        }
    }

    fn add_consumed(&mut self, stream: u16, count: usize) {
        let Ok(incoming) = self.rx_stream(stream) else {
            return;
        };
        incoming.consumed = incoming.consumed.plus(count);
        if incoming.pending_credit() > 0 {
            self.all_queued = false;
            self.queue_pending();
        }
    }

    /// Closes the stream. Further bytes are dropped.
    pub fn stop(&mut self, stream: u16, stop: Stop) {
        let Ok(incoming) = self.rx_stream(stream) else {
            return;
        };
        if incoming.life.contains(RxState::OPENED) {
            incoming.life |= RxState::STOPPED;
            incoming.stop = stop;
            incoming.ring.clear();
            self.all_queued = false;
            self.queue_pending();
        }
    }
}
