//! The state machine at one end of a channel: streams on one side, the channel's bytes on the
//! other.

mod readers;
mod rx;
mod tx;
mod writers;

use heapless::Deque;

use super::frame::{FRAME, MuxError};
use super::streams::{RxStream, TxStream};
use crate::store::ByteRing;

/// The greatest number of bytes that wait to be sent on the channel.
const TX_BUFFER_LENGTH: usize = 16 * 1024;

/// One end of a channel: up to `STREAMS` streams that are written here and as many that are read
/// here, with up to `WINDOW` unread bytes of each.
///
/// It never blocks or waits and has no clock. [`Mux::poll_transmit`] returns the bytes to send.
/// [`Mux::receive`] checks every received byte and always accepts all: a stream's writer sends no
/// more than the reader has room for.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug)]
pub struct Mux<const STREAMS: usize, const WINDOW: usize> {
    outgoing: [TxStream; STREAMS],
    incoming: [RxStream<WINDOW>; STREAMS],
    /// The streams that were opened by the other end and not accepted here, with their targets.
    opened: Deque<(u16, u32), STREAMS>,
    tx_buffer: ByteRing<TX_BUFFER_LENGTH>,
    hello_sent: bool,
    /// All pending frames are in the buffer.
    all_queued: bool,
    /// The number of streams that the other end reads; none before its HELLO.
    peer_streams: Option<u16>,
    /// The frame of which a part was received, and the length of that part.
    header: [u8; FRAME],
    header_length: usize,
    /// The stream whose data follow, and the number of bytes that are left.
    incoming_data: Option<(u16, usize)>,
    /// The other end has accepted or refused a stream since [`Mux::take_changed`].
    changed: bool,
    /// No more bytes will be received.
    hung_up: bool,
    fault: Option<MuxError>,
}

impl<const STREAMS: usize, const WINDOW: usize> Mux<STREAMS, WINDOW> {
    const COUNT: u16 = {
        assert!(STREAMS > 0 && STREAMS <= u16::MAX as usize);
        // Credits are counted in 32 bits.
        assert!(WINDOW > 0 && WINDOW <= 1 << 30);
        #[allow(clippy::cast_possible_truncation, reason = "just checked")]
        {
            STREAMS as u16
        }
    };

    /// Makes one end of a new channel.
    pub const fn new() -> Self {
        Mux {
            outgoing: [TxStream::FREE; STREAMS],
            incoming: [const { RxStream::new() }; STREAMS],
            opened: Deque::new(),
            tx_buffer: ByteRing::new(),
            hello_sent: false,
            all_queued: false,
            peer_streams: None,
            header: [0; FRAME],
            header_length: 0,
            incoming_data: None,
            changed: false,
            hung_up: false,
            fault: None,
        }
    }

    /// Returns the protocol violation of the other end, if there was one. All streams are closed
    /// then.
    pub fn fault(&self) -> Option<MuxError> {
        self.fault
    }

    /// Returns the bytes to send next on the channel; empty if there are none.
    pub fn poll_transmit(&mut self) -> &[u8] {
        self.queue_pending();
        self.tx_buffer.front()
    }

    /// Records that the first `count` bytes of [`Mux::poll_transmit`] were sent.
    pub fn mark_sent(&mut self, count: usize) {
        self.tx_buffer.skip(count);
    }

    /// Returns true if the other end has accepted or refused a stream since the last call.
    pub fn take_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }
}

impl<const STREAMS: usize, const WINDOW: usize> Default for Mux<STREAMS, WINDOW> {
    fn default() -> Self {
        Self::new()
    }
}
