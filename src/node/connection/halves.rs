//! The two one-way streams with a process, each with the buffer that belongs to it.

use crate::pal::Time;
use crate::wire::{FrameReader, FrameWriter};

/// The side a process sends to us on. A token: whoever holds it reads the stream, and calls the
/// worker after letting go if there are frames left: the worker may have found the token taken.
pub(crate) struct RxHalf<'m, S> {
    pub(crate) stream: Option<S>,
    pub(crate) frames: FrameReader<'m>,
    /// How often it was read since it is to be closed.
    pub(crate) last_reads: usize,
    /// Its requests stay unread until it reads our answers.
    pub(crate) reads_paused: bool,
    /// The frame at the head stands among the events: it is taken up again.
    pub(crate) is_traced: bool,
}

/// What was accepted for sending to a process. A spinlock.
pub(crate) struct Queue<'m> {
    pub(crate) filling: FrameWriter<'m>,
    pub(crate) closed: bool,
    /// The peer broke the protocol: nothing more of it is heard.
    pub(crate) faulty: bool,
    /// Nothing was put in yet since the peer came into the table.
    pub(crate) is_new: bool,
    /// Room that is kept for answers that the embedder owes.
    pub(crate) reserved: usize,
    pub(in crate::node) most: usize,
}

impl Queue<'_> {
    /// How many bytes can be put in, beside what room is kept for.
    pub(crate) fn room(&self) -> usize {
        self.filling.room().saturating_sub(self.reserved)
    }

    /// Notes that a frame was put in, and how full the queue is.
    pub(crate) fn record_push(&mut self) {
        self.is_new = false;
        self.most = self.most.max(self.filling.unsent().len());
    }
}

/// The side we send to a process on. A token: whoever holds it writes to the stream, and looks at
/// the queue again after letting go ([`Node::flush`](crate::Node)): others that found the token
/// taken have left that to it.
pub(crate) struct TxHalf<'m, S> {
    pub(crate) stream: Option<S>,
    /// How many bytes of our VMID, which goes first, are sent.
    pub(crate) vmid_sent: usize,
    /// What is being sent; swapped with the queue's when it is all out.
    pub(crate) draining: FrameWriter<'m>,
    /// The stream takes no more for now: the worker is told when it does.
    pub(crate) blocked: bool,
    /// Since when its backlog is full.
    pub(crate) connecting_since: Option<Time>,
    /// How long the last pause between two tries to connect was at most, in nanoseconds.
    pub(crate) pause: u64,
}

impl<S> TxHalf<'_, S> {
    /// Closes the stream and forgets everything.
    pub(crate) fn reset(&mut self) {
        self.draining.clear();
        self.vmid_sent = 0;
        self.blocked = false;
        self.connecting_since = None;
        self.pause = 0;
        // Where it is, not moved away first: it may have keys to wipe.
        self.stream = None;
    }
}

impl<S> RxHalf<'_, S> {
    /// Closes the stream and forgets everything.
    pub(crate) fn reset(&mut self) {
        self.frames.clear();
        self.reads_paused = false;
        self.is_traced = false;
        self.last_reads = 0;
        // As with the other.
        self.stream = None;
    }
}
