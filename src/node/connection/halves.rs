//! The two one-way streams with a process, each with its buffer.

use super::peer_share::Share;
use crate::invariant::Count;
use crate::pal::Time;
use crate::store::Buffer;
use crate::wire::{FrameReader, FrameWriter, VMID_LENGTH};

/// The incoming stream of a peer. Its lock is a token: the thread that holds it reads the stream,
/// and calls the worker after it unlocks if frames are left, since the worker may have failed to
/// lock it.
pub(crate) struct RxHalf<'m, S> {
    pub(crate) stream: Option<S>,
    pub(crate) frames: FrameReader<'m>,
    /// The end of the stream was read: on secure streams, the peer has ended it itself.
    pub(crate) has_ended: bool,
    /// The number of reads since the connection is closing, or since another stream claims the
    /// VMID of the peer.
    pub(crate) last_reads: usize,
    /// The part of its share that the peer has used in this poll iteration.
    pub(crate) share: Share,
    /// The reads are paused until the peer reads its answers.
    pub(crate) reads_paused: bool,
    /// The frame at the head was traced already; it is handled again.
    pub(crate) is_traced: bool,
}

/// The frames that were accepted for sending to a process. Its lock is a spinlock.
pub(crate) struct SendQueue<'m> {
    /// The frames that senders append; swapped with [`TxHalf::draining`] when that is empty.
    pub(crate) filling: FrameWriter<'m>,
    /// The queue takes no more frames.
    pub(crate) closed: bool,
    /// The peer violated the protocol: its remaining frames are dropped.
    pub(crate) faulty: bool,
    /// No frame was queued since the peer was added to the table.
    pub(crate) is_new: bool,
    /// The bytes that are reserved for answers of the embedder and of the leader.
    pub(crate) reserved: usize,
    /// The highest number of bytes so far in `filling`.
    pub(in crate::node) peak: usize,
    /// The number of frames that were queued, for this peer and others in the same slot before.
    pub(super) accepted: u64,
}

/// The usage of the send queues of all peers.
#[derive(Default)]
pub(crate) struct QueueUsage {
    /// The bytes in the fullest queue.
    pub(crate) now: usize,
    /// The highest number of bytes so far in any queue.
    pub(crate) peak: usize,
    /// The number of frames that were queued.
    pub(crate) accepted: u64,
}

impl<'m> SendQueue<'m> {
    /// Makes a closed queue.
    pub(super) fn new(filling: Buffer<'m>) -> Self {
        SendQueue {
            filling: FrameWriter::with_buffer(filling),
            closed: true,
            faulty: false,
            is_new: false,
            reserved: 0,
            peak: 0,
            accepted: 0,
        }
    }

    /// Returns the free bytes, without the reserved ones.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        self.filling.room().minus(self.reserved)
    }

    /// Records that a frame was queued, and the usage of the queue.
    #[inline]
    pub(crate) fn record_push(&mut self) {
        self.is_new = false;
        self.accepted.increment();
        self.peak = self.peak.max(self.filling.unsent().len());
    }
}

/// The outgoing stream to a peer. Its lock is a token: the thread that holds it writes to the
/// stream, and checks the queue again after it unlocks ([`Node::flush`](crate::Node)), since other
/// threads that failed to lock it have left their frames to it.
pub(crate) struct TxHalf<'m, S> {
    pub(crate) stream: Option<S>,
    /// The number of bytes of this process's VMID that were sent; the VMID goes first.
    pub(crate) vmid_sent: usize,
    /// The frames that are being written; swapped with those of the queue when all are written.
    pub(crate) draining: FrameWriter<'m>,
    /// The stream accepts no more bytes for now; the platform reports when it does.
    pub(crate) blocked: bool,
    /// The end of the stream was reported, and is not to be reported again.
    pub(crate) is_muted: bool,
    /// The time since which the peer's backlog is full.
    pub(crate) connecting_since: Option<Time>,
    /// The upper limit of the last pause between two attempts to connect, in nanoseconds.
    pub(crate) pause: u64,
}

impl<'m, S> TxHalf<'m, S> {
    /// Makes a half without a stream.
    pub(super) fn new(draining: Buffer<'m>) -> Self {
        TxHalf {
            stream: None,
            vmid_sent: 0,
            draining: FrameWriter::with_buffer(draining),
            blocked: false,
            is_muted: false,
            connecting_since: None,
            pause: 0,
        }
    }

    /// Returns true if the stream is open, and the peer can see whose it is.
    pub(in crate::node) fn is_identified(&self) -> bool {
        self.stream.is_some() && self.vmid_sent >= VMID_LENGTH
    }

    /// Closes the stream and resets the state.
    pub(crate) fn reset(&mut self) {
        self.draining.clear();
        self.vmid_sent = 0;
        self.blocked = false;
        self.is_muted = false;
        self.connecting_since = None;
        self.pause = 0;
        // The stream is dropped in place: it may have keys to wipe.
        self.stream = None;
    }
}

impl<'m, S> RxHalf<'m, S> {
    /// Makes a half without a stream. The buffer is as long as the longest frame.
    pub(super) fn new(frames: Buffer<'m>) -> Self {
        RxHalf {
            stream: None,
            frames: FrameReader::with_buffer(frames),
            has_ended: false,
            last_reads: 0,
            share: Share::default(),
            reads_paused: false,
            is_traced: false,
        }
    }

    /// Closes the stream and resets the state.
    pub(crate) fn reset(&mut self) {
        self.frames.clear();
        self.reads_paused = false;
        self.is_traced = false;
        self.has_ended = false;
        self.last_reads = 0;
        self.share = Share::default();
        // The stream is dropped in place, as in [`TxHalf`].
        self.stream = None;
    }
}
