//! Writing queued frames to the stream, which is opened first if need be.

use core::time::Duration;

use crate::invariant::{Count, OrBroken};
use crate::sync::Ordering;

use super::SendQueue;
use crate::Vmid;
use crate::counters::Refusal;
use crate::member::KeptFrames;
use crate::node::succession::{FrameToLeader, KeepOutcome, keep_answer};
use crate::node::{Node, PeerRef, TxHalf};
use crate::pal::fault::checked_write;
use crate::pal::{ConnectError, Interest, Pal, Stream, StreamError, Time};
use crate::store::{SpinLockGuard, assert_none_held, hash64};
use crate::wire::{Answer, Message, TooSmall, codes};

/// The most full queues that one flush writes. Other threads may fill the queue as fast, and the
/// flushing thread has other work.
const BATCHES_AT_ONCE: u32 = if cfg!(loom) { 1 } else { 16 };

/// The result of a drain.
enum Drained {
    /// All frames that were queued were written.
    All,
    /// Nothing can be written now; the event that changes this brings the worker back to the peer.
    Blocked,
    /// The stream could not be opened, since nobody listens.
    Unreachable,
}

/// The pauses between attempts to connect to a peer whose backlog is full, in nanoseconds: the
/// first is at most this long, and each is twice as long as the one before. Hundreds of processes
/// may try at once, and the peer needs time to accept them.
const FIRST_PAUSE: u64 = 1_000_000;
const LONGEST_PAUSE: u64 = 64_000_000;

/// Returns the pause that follows `pause`.
pub(crate) fn longer_pause(pause: u64) -> u64 {
    pause.saturating_mul(2).clamp(FIRST_PAUSE, LONGEST_PAUSE)
}

impl<'m, P: Pal> Node<'m, P> {
    /// Writes the frames that are queued for the peer, as far as the stream accepts them without
    /// blocking. Any thread may call this; if another thread holds the sending half, that thread
    /// writes these frames too.
    pub(crate) fn flush(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        self.try_flush(peer);
        // The thread that shuts the node down may have failed to lock the half, and checks again
        // now. Not while the peer can't be reached: a thread that shuts down by polling would never
        // sleep.
        if !peer.is_connecting() {
            self.notify_shutdown();
        }
    }

    /// Like [`Node::flush`], but does not notify the thread that shuts the node down.
    pub(crate) fn try_flush(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        for _ in 0..BATCHES_AT_ONCE {
            let Some(mut tx) = peer.tx.try_lock() else {
                return;
            };
            let drained = self.drain(peer, &mut tx);
            drop(tx);
            match drained {
                Drained::Blocked => return,
                // Only after the half is unlocked, since the worker could not lock it before.
                Drained::Unreachable => return self.call_worker(peer),
                // A thread that queued a frame while the half was locked relies on this check.
                Drained::All if peer.queue.lock().filling.is_empty() => return,
                Drained::All => {}
            }
        }
        self.call_worker(peer);
    }

    /// Writes the frames that are queued now, until all are written or the stream accepts no more.
    fn drain(&self, peer: &PeerRef<'_, 'm, P::Stream>, tx: &mut TxHalf<'m, P::Stream>) -> Drained {
        if tx.blocked || peer.broken.load(Ordering::SeqCst) {
            return Drained::Blocked;
        }
        if tx.stream.is_none() {
            // A stream is opened only for a frame or a wish to connect: two processes that open
            // streams without one may end each other's new streams with their old ones, for ever.
            let idle = tx.draining.is_empty() && peer.queue.lock().filling.is_empty();
            if idle && !peer.stream_wanted.load(Ordering::SeqCst) {
                return Drained::All;
            }
            if !self.open(peer, tx) {
                return if peer.unreachable.load(Ordering::SeqCst) {
                    Drained::Unreachable
                } else {
                    Drained::Blocked
                };
            }
        }
        let vmid = self.identity.vmid.get().to_le_bytes();
        let mut has_room = false;
        if tx.draining.is_empty() {
            let mut queue = peer.queue.lock();
            has_room = !queue.filling.is_empty();
            if has_room {
                core::mem::swap(&mut queue.filling, &mut tx.draining);
            }
        }
        let done = loop {
            let rest_of_vmid = vmid.get(tx.vmid_sent..).or_broken(&[]);
            if tx.draining.is_empty() && rest_of_vmid.is_empty() {
                break Drained::All;
            }
            let Some(stream) = &tx.stream else {
                break Drained::Blocked;
            };
            // A frame may reveal an operation that the heir does not have yet.
            if !self.flush_log() {
                break Drained::Blocked;
            }
            let frames = tx.draining.unsent();
            assert_none_held();
            let written = if rest_of_vmid.is_empty() {
                stream.write(&[frames])
            } else {
                self.note_first_write(peer);
                stream.write(&[rest_of_vmid, frames])
            };
            match checked_write(written, rest_of_vmid.len().plus(frames.len())) {
                Ok(count) => {
                    self.counters.writes.add(1);
                    self.counters.bytes_out.add(count);
                    let of_vmid = count.min(rest_of_vmid.len());
                    tx.vmid_sent = tx.vmid_sent.plus(of_vmid);
                    tx.draining.mark_sent(count.minus(of_vmid));
                }
                Err(StreamError::Interrupted) => {}
                Err(StreamError::WouldBlock) => {
                    tx.blocked = true;
                    let interest = Interest::HANG_UP | Interest::WRITE;
                    self.pal.rewatch(stream, peer.outgoing(), interest);
                    break Drained::Blocked;
                }
                Err(StreamError::Closed) => {
                    peer.hung_up.store(true, Ordering::SeqCst);
                    self.disconnect_peer(peer);
                    break Drained::Blocked;
                }
            }
        };
        if tx.draining.is_empty() && peer.member.unsettled.load(Ordering::Relaxed) != 0 {
            let before = peer.member.unsettled.load(Ordering::SeqCst);
            peer.member
                .unsettled
                .store(before.checked_sub(1).or_broken(0), Ordering::SeqCst);
        }
        if has_room {
            self.notify_room(peer);
        }
        done
    }

    /// Unlocks the sending half and the queue of a peer after a look at them. The worker writes the frame of a thread that
    /// could not lock the half meanwhile.
    pub(in crate::node) fn unlock_tx(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        tx: SpinLockGuard<'_, TxHalf<'m, P::Stream>>,
        queue: SpinLockGuard<'_, SendQueue<'m>>,
    ) {
        let is_left = !tx.blocked && !queue.filling.is_empty();
        // First the half: a thread that queues a frame after this can lock it.
        drop(tx);
        drop(queue);
        if is_left {
            self.peers.schedule(peer);
        }
    }

    /// Wakes the threads that wait for room in the peer's queue.
    fn notify_room(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        if peer.room_wanted.load(Ordering::SeqCst) && peer.room_wanted.swap(false, Ordering::SeqCst)
        {
            self.waiters.wake_for_room(peer.vmid());
        }
        if peer.reads_paused.load(Ordering::SeqCst) {
            self.call_worker(peer);
        }
        self.retry_output(peer);
    }

    /// Handles that the stream accepts bytes again.
    pub(super) fn unblock(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        match peer.tx.try_lock() {
            Some(mut tx) => {
                if let Some(stream) = &tx.stream {
                    self.pal.rewatch(stream, peer.outgoing(), Interest::HANG_UP);
                    tx.blocked = false;
                }
            }
            // The thread that holds the half writes, or finds the stream blocked and returns; the
            // platform reports again.
            None => return,
        }
        self.flush(peer);
    }

    /// Opens the stream to the peer. Returns false if that is not possible now.
    fn open(&self, peer: &PeerRef<'_, 'm, P::Stream>, tx: &mut TxHalf<'m, P::Stream>) -> bool {
        if peer.next_try().is_some_and(|next| self.now() < next) {
            return false;
        }
        assert_none_held();
        peer.unreachable.store(false, Ordering::SeqCst);
        match self.pal.connect(peer.vmid()) {
            Ok(stream) => {
                if self
                    .pal
                    .watch(&stream, peer.outgoing(), Interest::HANG_UP)
                    .is_err()
                {
                    self.disconnect_peer(peer);
                    return false;
                }
                self.counters.connected.add(1);
                tx.stream = Some(stream);
                tx.connecting_since = None;
                tx.pause = 0;
                peer.connecting.store(false, Ordering::SeqCst);
                true
            }
            // A peer that has opened a stream to this process listens, even if it did not a moment
            // ago.
            Err(error)
                if error == ConnectError::Busy
                    || error == ConnectError::NotListening && !peer.lacks_inbound() =>
            {
                let now = self.now();
                let since = *tx.connecting_since.get_or_insert(now);
                if now.since(since) >= self.config.connect_limit {
                    self.refuse(Some(peer.vmid()), Refusal::Unreachable);
                    self.disconnect_peer(peer);
                } else {
                    tx.pause = longer_pause(tx.pause);
                    let next = self.jittered(now, tx.pause);
                    peer.retry_at.store(next.0, Ordering::SeqCst);
                    // From now on the worker retries by itself.
                    if !peer.connecting.swap(true, Ordering::SeqCst) {
                        self.call_worker(peer);
                    }
                }
                false
            }
            Err(ConnectError::NotAllowed) => {
                self.refuse(Some(peer.vmid()), Refusal::NotAllowed);
                self.disconnect_peer(peer);
                false
            }
            Err(_) => {
                // The worker knows whether the peer has opened a stream meanwhile.
                peer.unreachable.store(true, Ordering::SeqCst);
                false
            }
        }
    }

    /// Returns the time after a pause of that many nanoseconds, or after more than half of it: not all processes try at the
    /// same time.
    pub(in crate::node) fn jittered(&self, now: Time, pause: u64) -> Time {
        let seed = now.0 ^ u64::from(self.identity.vmid.get()).rotate_left(32);
        let less = hash64(seed).checked_rem((pause >> 1).max(1)).or_broken(0);
        now + Duration::from_nanos(pause.minus(less))
    }

    /// Records among the events that a message with a frame of that length was queued.
    #[inline]
    pub(crate) fn trace_tx(&self, peer: Vmid, seq: u64, message: &Message<'_>, length: usize) {
        if self.events.is_enabled() {
            self.events.frame_out(peer, message.code(), seq, length);
        }
    }

    /// Records among the events that an answer was queued.
    pub(crate) fn trace_answer_tx(&self, peer: Vmid, seq: u64, answer: &Answer<'_>) {
        self.events
            .frame_out(peer, codes::RESP, seq, answer.length());
    }

    /// Queues a message that answers one of the peer, in the room for an answer. There is room, since a message
    /// with such an answer is handled only if there is.
    pub(in crate::node) fn answer_with(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        message: &Message<'_>,
    ) {
        let result = {
            let mut queue = peer.queue.lock();
            if queue.closed {
                return;
            }
            self.queue_hello_first(peer, &mut queue);
            let result = queue.filling.push(0, message);
            queue.record_push();
            result
        };
        match result {
            Ok(()) => self.trace_tx(peer.vmid(), 0, message, message.length()),
            Err(_) => self.disconnect_peer(peer),
        }
    }

    /// Queues an answer. There is room for it, since a request is handled only if there is.
    pub(in crate::node) fn answer(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        answer: &Answer<'_>,
    ) {
        if self.follows()
            && let Some(kept) = self.answer_to_leader(peer.vmid(), seq)
        {
            return self.answer_kept(peer, seq, answer, kept);
        }
        let queued = self.push_answer(peer, &mut peer.queue.lock(), seq, answer);
        self.finish_answer(peer, seq, answer, queued);
    }

    /// Like [`Node::answer`], of an answer to a leader that may change. A leader that sent more signals than it
    /// may ([`MAX_UNANSWERED`](crate::leader::MAX_UNANSWERED)) loses its connection.
    #[inline(never)]
    fn answer_kept(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        answer: &Answer<'_>,
        kept: FrameToLeader<'_, 'm>,
    ) {
        let length = answer.length();
        let mut is_mark_due = false;
        let queued = {
            let mut queue = peer.queue.lock();
            let keep = |kept: &mut KeptFrames<'m>| keep_answer(kept, seq, answer);
            let keeping = match kept.check(length, queue.closed, keep) {
                Ok(KeepOutcome::Queue(keeping)) => keeping,
                // While there is no leader, or it is sent again what was not taken, the answer comes after that.
                Ok(KeepOutcome::Kept) => return,
                Err(_) => {
                    drop(queue);
                    return self.disconnect_peer(peer);
                }
            };
            let queued = self.push_answer(peer, &mut queue, seq, answer);
            if queued == Some(Ok(())) {
                is_mark_due = keeping.record(&queue, length);
            }
            queued
        };
        if is_mark_due {
            self.mark_if_due(peer);
        }
        self.finish_answer(peer, seq, answer, queued);
    }

    /// Puts an answer into the queue of the peer. None if that is closed.
    #[inline]
    fn push_answer(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        queue: &mut SendQueue<'m>,
        seq: u64,
        answer: &Answer<'_>,
    ) -> Option<Result<(), TooSmall>> {
        if queue.closed {
            return None;
        }
        self.queue_hello_first(peer, queue);
        let queued = queue.filling.push_answer(seq, answer);
        queue.record_push();
        Some(queued)
    }

    /// Records an answer that was queued. A peer for whose answer there was no room is disconnected.
    #[inline]
    fn finish_answer(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        answer: &Answer<'_>,
        queued: Option<Result<(), TooSmall>>,
    ) {
        match queued {
            Some(Ok(())) => self.trace_answer_tx(peer.vmid(), seq, answer),
            Some(Err(_)) => self.disconnect_peer(peer),
            None => {}
        }
    }
}
