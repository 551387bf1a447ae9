//! The machine at one end of a line: streams on one side, the line's bytes on the other.

mod readers;
mod rx;
mod tx;
mod writers;

use heapless::Deque;

use super::frame::{FRAME, MuxError};
use super::streams::{RxStream, TxStream};
use crate::store::ByteRing;

/// How many bytes wait to go out on the line at most.
const TX_BUFFER_LENGTH: usize = 16 * 1024;

/// One end of a line: up to `STREAMS` streams that are written here and as many that are read here,
/// with up to `WINDOW` bytes of each that came and were not read.
///
/// Nothing in it blocks, waits or asks the time. What it has to say is taken with
/// [`Mux::poll_transmit`]; what came is given to [`Mux::receive`], which checks every byte of it, and
/// always takes all: a stream's writer sends no more than the reader has room for.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug)]
pub struct Mux<const STREAMS: usize, const WINDOW: usize> {
    outgoing: [TxStream; STREAMS],
    incoming: [RxStream<WINDOW>; STREAMS],
    /// Streams that were opened there and not yet looked at here, with whom they are for.
    opened: Deque<(u16, u32), STREAMS>,
    tx_buffer: ByteRing<TX_BUFFER_LENGTH>,
    hello_sent: bool,
    /// Nothing is to be said that is not on the line.
    all_queued: bool,
    /// How many streams the other end reads; none before it has said so.
    peer_streams: Option<u16>,
    /// A frame that came in part.
    head: [u8; FRAME],
    head_length: usize,
    /// The stream whose data comes, and how much of it.
    incoming_data: Option<(u16, usize)>,
    /// Something became of a stream that was opened here.
    changed: bool,
    /// Nothing comes any more.
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

    /// One end of a fresh line.
    pub const fn new() -> Self {
        Mux {
            outgoing: [TxStream::FREE; STREAMS],
            incoming: [const { RxStream::new() }; STREAMS],
            opened: Deque::new(),
            tx_buffer: ByteRing::new(),
            hello_sent: false,
            all_queued: false,
            peer_streams: None,
            head: [0; FRAME],
            head_length: 0,
            incoming_data: None,
            changed: false,
            hung_up: false,
            fault: None,
        }
    }

    /// What the other end did that it must not, if anything. All streams are closed then.
    pub fn fault(&self) -> Option<MuxError> {
        self.fault
    }

    /// What is to go out on the line next; empty if nothing is.
    pub fn poll_transmit(&mut self) -> &[u8] {
        self.queue_pending();
        self.tx_buffer.front()
    }

    /// The first `count` bytes of [`Mux::poll_transmit`] are on their way.
    pub fn mark_sent(&mut self, count: usize) {
        self.tx_buffer.skip(count);
    }

    /// Whether the other end has accepted or refused a stream since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }
}

impl<const STREAMS: usize, const WINDOW: usize> Default for Mux<STREAMS, WINDOW> {
    fn default() -> Self {
        Self::new()
    }
}
