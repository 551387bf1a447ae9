//! One process that this node is connected with.

use super::halves::{Queue, RxHalf, TxHalf};
use super::stream_key::StreamKey;
use crate::Vmid;
use crate::pal::{Time, Token};
use crate::store::SpinLock;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// One process.
pub(crate) struct Peer<'m, S> {
    pub(super) index: u32,
    /// Changes when the place goes to another process, so that stale names are known as such.
    pub(super) generation: AtomicU32,
    pub(super) vmid: AtomicU32,
    pub(crate) rx: SpinLock<RxHalf<'m, S>>,
    pub(crate) queue: SpinLock<Queue<'m>>,
    pub(crate) tx: SpinLock<TxHalf<'m, S>>,
    /// It is in the attention queue.
    pub(super) is_scheduled: AtomicBool,
    /// It is to be closed.
    pub(crate) broken: AtomicBool,
    /// It has closed its end of our stream to it: the end of its own is sure to come.
    pub(crate) hung_up: AtomicBool,
    /// Its requests are held back: tell the worker when there is room again.
    pub(crate) reads_paused: AtomicBool,
    /// A call waits for room to send to it.
    pub(crate) room_wanted: AtomicBool,
    /// A stream to it is to be opened though nothing is to be sent yet.
    pub(crate) stream_wanted: AtomicBool,
    /// Its backlog was full: to be tried again.
    pub(crate) connecting: AtomicBool,
    /// Not before that time.
    pub(crate) retry_at: AtomicU64,
    /// Nobody listened there when we tried. If it has come to us meanwhile, it does by now.
    pub(crate) unreachable: AtomicBool,
    /// It has a stream to us.
    pub(crate) has_inbound: AtomicBool,
    /// It has said that it knows this crate's extensions.
    pub(crate) extended: AtomicBool,
    /// As the leader: its process has ended, and has nothing to say any more.
    pub(crate) ended: AtomicBool,
    /// It has sent something, and no HELLO before: it is a process in C.
    pub(crate) lacks_hello: AtomicBool,
    /// It was told the limits of this process.
    pub(crate) limits_sent: AtomicBool,
    /// The longest frame that it takes, as it said itself; no limit is known before.
    pub(super) max_frame: AtomicU32,
    /// As the leader: its sync handles do not fit those of this process.
    pub(crate) syncs_refused: AtomicBool,
    /// As the leader: signals for it may wait to be sent.
    pub(crate) has_pending_signals: AtomicBool,
    /// The name of the waiter whose call reads its stream; 0 for none.
    pub(crate) reader: AtomicU32,
}

impl<S> Peer<'_, S> {
    /// The process's VMID. Only a [`PeerRef`](super::PeerRef) reaches it, and keeps the place from being reused.
    pub(crate) fn vmid(&self) -> Vmid {
        Vmid::new(self.vmid.load(Ordering::Relaxed)).unwrap_or(Vmid::LEADER)
    }

    /// Whether it has no stream to us yet. For the worker, which opens and closes them; whoever
    /// has the reading token just then makes no difference.
    pub(crate) fn lacks_inbound(&self) -> bool {
        !self.has_inbound.load(Ordering::SeqCst)
    }

    /// Whether it has a stream to us, or ours to it is open or will be opened. The worker sees the end of
    /// either, and then removes the peer; nobody would remove one that has none.
    pub(super) fn has_connection(&self) -> bool {
        self.has_inbound.load(Ordering::SeqCst)
            || self.stream_wanted.load(Ordering::SeqCst)
            || !self.queue.lock().is_new
    }

    /// Whether its backlog was full when we last tried.
    pub(crate) fn is_connecting(&self) -> bool {
        self.connecting.load(Ordering::SeqCst)
    }

    /// When to try again to connect, if its backlog was full.
    pub(crate) fn next_try(&self) -> Option<Time> {
        self.is_connecting()
            .then(|| Time(self.retry_at.load(Ordering::SeqCst)))
    }

    /// Whether an answer to it can be queued, or will be dropped as it is going.
    pub(crate) fn has_room(&self) -> bool {
        let queue = self.queue.lock();
        queue.closed || queue.room() >= crate::node::ANSWER_RESERVE
    }

    /// Keeps room for an answer that comes later: there is enough for any.
    pub(crate) fn reserve_reply(&self, room: usize) {
        let mut queue = self.queue.lock();
        queue.reserved = queue.reserved.saturating_add(room);
    }

    /// It takes no longer frames than that. Every process takes those of [`crate::node::ANSWER_RESERVE`] bytes.
    pub(in crate::node) fn set_max_frame(&self, length: u32) {
        let least = u32::try_from(crate::node::ANSWER_RESERVE).unwrap_or(u32::MAX);
        self.max_frame.store(length.max(least), Ordering::SeqCst);
    }

    /// The longest frame that it takes, as far as that is known.
    pub(in crate::node) fn max_frame(&self) -> u32 {
        self.max_frame.load(Ordering::SeqCst)
    }

    /// Whether it takes a frame of that length, as far as that is known.
    pub(in crate::node) fn accepts_length(&self, length: usize) -> bool {
        length <= self.max_frame() as usize
    }

    pub(crate) fn incoming(&self) -> Token {
        let generation = self.generation.load(Ordering::Relaxed);
        StreamKey::Incoming {
            index: self.index,
            generation,
        }
        .token()
    }

    pub(crate) fn outgoing(&self) -> Token {
        let generation = self.generation.load(Ordering::Relaxed);
        StreamKey::Outgoing {
            index: self.index,
            generation,
        }
        .token()
    }
}
