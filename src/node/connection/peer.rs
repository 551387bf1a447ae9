//! A process that this node is connected to.

use super::halves::{RxHalf, SendQueue, TxHalf};
use super::member_state::MemberState;
use super::rejoin_state::RejoinState;
use super::stream_key::StreamKey;
use crate::invariant::{Count, OrBroken};
use crate::pal::{Time, Token};
use crate::parts;
use crate::store::{Contended, Rank, SpinLock};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The length of the longest frame that a peer accepts, before it is known.
const UNKNOWN_LENGTH: u32 = u32::MAX;

/// No frame is longer.
const LONGEST: u32 = UNKNOWN_LENGTH - 1;

/// The state of the connection to one process. In the comments of the fields, "the peer" is that
/// process.
pub(crate) struct Peer<'m, S> {
    pub(super) index: u32,
    /// Changes when another process gets the slot, so that stale keys are recognised.
    pub(super) generation: AtomicU32,
    pub(super) vmid: AtomicU32,
    pub(crate) rx: SpinLock<RxHalf<'m, S>>,
    pub(crate) queue: SpinLock<SendQueue<'m>>,
    pub(crate) tx: SpinLock<TxHalf<'m, S>>,
    /// The peer is in the ring of scheduled peers.
    pub(super) is_scheduled: AtomicBool,
    /// The worker must close the connection.
    pub(crate) broken: AtomicBool,
    /// The peer has closed its end of the outgoing stream, so the end of the incoming stream will
    /// come.
    pub(crate) hung_up: AtomicBool,
    /// The worker has paused the reads of the peer's requests; the thread that makes room schedules
    /// the peer.
    pub(crate) reads_paused: AtomicBool,
    /// A call waits for room in the send queue.
    pub(crate) room_wanted: AtomicBool,
    /// A stream to the peer must be opened though no frame is queued yet.
    pub(crate) stream_wanted: AtomicBool,
    /// The peer's backlog was full, so the worker will try again to connect.
    pub(crate) connecting: AtomicBool,
    /// The time of the next attempt to connect.
    pub(crate) retry_at: AtomicU64,
    /// No process listened at the peer's address. If the peer has opened a stream to this process
    /// meanwhile, it listens by now.
    pub(crate) unreachable: AtomicBool,
    /// The peer has opened a stream to this process.
    pub(crate) has_inbound: AtomicBool,
    /// The peer has sent HELLO, so it knows the extensions of this crate.
    pub(crate) extended: AtomicBool,
    /// The peer's first frame was no HELLO: it is a process in C.
    pub(crate) lacks_hello: AtomicBool,
    /// LIMITS of this process was queued for the peer.
    pub(crate) limits_sent: AtomicBool,
    /// The longest frame that the peer accepts, from its LIMITS; [`UNKNOWN_LENGTH`] before that.
    pub(super) max_frame: AtomicU32,
    /// The number of frames that are charged to the peer for the present one, besides its usual cost.
    pub(crate) charge: AtomicU32,
    /// The number of the waiter whose call reads the incoming stream; 0 for none.
    pub(crate) reader: AtomicU32,
    /// What this process knows of the peer as the leader.
    pub(crate) member: MemberState,
    /// What this process knows of the peer as a leader that has taken over.
    pub(crate) rejoin: RejoinState,
}

impl<'m, S> Peer<'m, S> {
    /// Makes a free slot of the table of peers.
    pub(super) fn new(
        index: u32,
        contended: Contended,
        rx: RxHalf<'m, S>,
        queue: SendQueue<'m>,
        tx: TxHalf<'m, S>,
    ) -> Self {
        Peer {
            index,
            generation: AtomicU32::new(0),
            vmid: AtomicU32::new(0),
            rx: SpinLock::new(Rank::Token, contended, rx),
            queue: SpinLock::new(Rank::SendQueue, contended, queue),
            tx: SpinLock::new(Rank::Token, contended, tx),
            is_scheduled: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            hung_up: AtomicBool::new(false),
            reads_paused: AtomicBool::new(false),
            room_wanted: AtomicBool::new(false),
            stream_wanted: AtomicBool::new(false),
            connecting: AtomicBool::new(false),
            retry_at: AtomicU64::new(0),
            unreachable: AtomicBool::new(false),
            has_inbound: AtomicBool::new(false),
            extended: AtomicBool::new(false),
            lacks_hello: AtomicBool::new(false),
            limits_sent: AtomicBool::new(false),
            max_frame: AtomicU32::new(UNKNOWN_LENGTH),
            charge: AtomicU32::new(0),
            reader: AtomicU32::new(0),
            member: MemberState::default(),
            rejoin: RejoinState::default(),
        }
    }
}

impl<S> Peer<'_, S> {
    /// Clears the state of the peer that had the slot, for the next one.
    pub(super) fn reset(&self) {
        for flag in [
            &self.broken,
            &self.hung_up,
            &self.reads_paused,
            &self.room_wanted,
            &self.stream_wanted,
            &self.connecting,
            &self.unreachable,
            &self.has_inbound,
            &self.extended,
            &self.lacks_hello,
            &self.limits_sent,
        ] {
            flag.store(false, Ordering::Relaxed);
        }
        self.max_frame.store(UNKNOWN_LENGTH, Ordering::Relaxed);
        self.member.clear();
        self.rejoin.clear();
    }

    /// Returns true if the peer knows the extensions of the protocol.
    pub(crate) fn is_extended(&self) -> bool {
        parts::EXTENSIONS && self.extended.load(Ordering::SeqCst)
    }

    /// Returns true if the peer has opened no stream to this process yet. For the worker, which
    /// accepts and closes streams; it does not matter whether a thread has locked the receiving
    /// half.
    pub(crate) fn lacks_inbound(&self) -> bool {
        !self.has_inbound.load(Ordering::SeqCst)
    }

    /// As a leader that has taken over: returns true if the peer is a member of the family that has not rejoined it yet.
    pub(crate) fn awaits_rejoin(&self) -> bool {
        self.rejoin.is_awaited.load(Ordering::SeqCst)
    }

    /// As the leader: returns true if the peer is a member of the family. A member of the previous leader may
    /// have opened no stream to this process yet.
    pub(crate) fn is_member(&self) -> bool {
        !self.lacks_inbound() || self.awaits_rejoin()
    }

    /// Returns true if the peer has a stream to this process, or the outgoing stream is open or
    /// will be opened. The worker sees the end of either stream and then removes the peer; nothing
    /// would remove a peer that has none.
    pub(crate) fn has_connection(&self) -> bool {
        self.has_inbound.load(Ordering::SeqCst)
            || self.stream_wanted.load(Ordering::SeqCst)
            || !self.queue.lock().is_new
    }

    /// Returns true if the peer's backlog was full at the last attempt to connect.
    pub(crate) fn is_connecting(&self) -> bool {
        self.connecting.load(Ordering::SeqCst)
    }

    /// Returns the time of the next attempt to connect, if the backlog was full.
    pub(crate) fn next_try(&self) -> Option<Time> {
        self.is_connecting()
            .then(|| Time(self.retry_at.load(Ordering::SeqCst)))
    }

    /// Returns true if an answer can be queued; also true for a connection that is closing, whose
    /// answers are dropped.
    pub(crate) fn has_room(&self) -> bool {
        let queue = self.queue.lock();
        queue.closed || queue.room() >= crate::node::ANSWER_RESERVE
    }

    /// Reserves room for an answer that comes later. The caller has checked that there is room for
    /// any answer.
    pub(crate) fn reserve_reply(&self, room: usize) {
        let mut queue = self.queue.lock();
        queue.reserved = queue.reserved.plus(room);
    }

    /// Sets the longest frame that the peer accepts. Every process accepts frames of
    /// [`crate::node::ANSWER_RESERVE`] bytes.
    pub(in crate::node) fn set_max_frame(&self, length: u32) {
        let least = u32::try_from(crate::node::ANSWER_RESERVE).or_broken(u32::MAX);
        let length = length.max(least).min(LONGEST);
        self.max_frame.store(length, Ordering::SeqCst);
    }

    /// Returns true if LIMITS of the peer has come. It sends that to its leader after it has got LIMITS of the
    /// leader.
    pub(in crate::node) fn has_limits(&self) -> bool {
        self.max_frame() != UNKNOWN_LENGTH
    }

    /// Returns the longest frame that the peer accepts, as far as it is known.
    pub(in crate::node) fn max_frame(&self) -> u32 {
        self.max_frame.load(Ordering::SeqCst)
    }

    /// Returns true if the peer accepts a frame of that length, as far as its limit is known.
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
