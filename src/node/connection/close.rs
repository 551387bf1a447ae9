//! Closing connections: the last frames of the peer, the end of its streams, and the notice to all that depends on them.

use crate::invariant::Count;
use crate::sync::Ordering;

use super::poll_loop::{Retry, WorkerState};
use super::rx::ReadOutcome;
use super::rx::ReadingThread;
use crate::error::Error;
use crate::log::log_event;
use crate::node::succession::Succession;
use crate::node::{Node, PeerRef, Phase, RxHalf, TxHalf};
use crate::pal::{Interest, Pal};

/// The most reads of a stream before it is closed. A peer that is gone can't have written more than
/// the stream holds; a peer that only pretends to be gone could write for ever.
const LAST_READS: usize = 256;

impl<'m, P: Pal> Node<'m, P> {
    /// Reads the peer's stream once, and closes the connection if the end has arrived.
    pub(super) fn read_to_end_of_stream(
        &self,
        state: &mut WorkerState<'m, P::Stream>,
        peer: &PeerRef<'_, 'm, P::Stream>,
    ) -> StreamEnd {
        let Some(mut rx) = peer.rx.try_lock() else {
            return StreamEnd::Open;
        };
        let read = self.read(&mut rx);
        let retry = self.handle_frames(peer, &mut rx, ReadingThread::Worker);
        rx.last_reads = match read {
            ReadOutcome::Some | ReadOutcome::NotNow => rx.last_reads.plus(1),
            ReadOutcome::Nothing | ReadOutcome::End => 0,
        };
        let has_time = rx.last_reads < LAST_READS;
        drop(rx);
        self.flush(peer);
        if retry != Retry::No {
            self.peers.schedule(peer);
        }
        match read {
            ReadOutcome::Some | ReadOutcome::NotNow if has_time => StreamEnd::Unknown,
            ReadOutcome::Some | ReadOutcome::NotNow | ReadOutcome::Nothing => StreamEnd::Open,
            ReadOutcome::End => {
                peer.broken.store(true, Ordering::SeqCst);
                if self.close(state, peer) == Retry::No {
                    StreamEnd::Closed
                } else {
                    self.peers.schedule(peer);
                    StreamEnd::Unknown
                }
            }
        }
    }

    /// Closes the connection with a peer, and notifies the calls and tables that depend on it.
    /// Returns a retry if another thread holds one of its streams.
    pub(super) fn close(
        &self,
        state: &mut WorkerState<'m, P::Stream>,
        peer: &PeerRef<'_, 'm, P::Stream>,
    ) -> Retry {
        let Some(mut rx) = peer.rx.try_lock() else {
            self.waiters.wake(peer.reader.load(Ordering::SeqCst));
            return Retry::Soon;
        };
        let Some(mut tx) = peer.tx.try_lock() else {
            return Retry::Soon;
        };
        let faulty = {
            let mut queue = peer.queue.lock();
            queue.closed = true;
            queue.faulty
        };
        // The streams were closed before the first portion was reclaimed.
        let is_closed = rx.stream.is_none() && !peer.lacks_inbound();
        if !faulty && !is_closed {
            let retry = self.handle_last_frames(peer, &mut rx, &mut tx);
            if retry != Retry::No {
                return retry;
            }
        }
        let is_reclaiming = is_closed && Self::kept_until(peer).is_none();
        if !is_reclaiming && self.keeps_resources(peer, &mut rx, &mut tx) {
            return Retry::Soon;
        }
        // The streams end before other processes get the locks and leases of the peer: its process may live, and must not
        // use a lock that another process has by then.
        self.end_contact(peer, &rx);
        self.close_streams(&mut rx, &mut tx);
        {
            let mut queue = peer.queue.lock();
            queue.filling.clear();
            queue.reserved = 0;
        }
        // Also a member of the previous leader that has not rejoined: it has left if this process can't reach it.
        let was_connected = peer.is_member();
        if was_connected && !self.reclaim_all_of(peer) {
            return Retry::Now;
        }
        self.end_resend(peer);
        drop(tx);
        drop(rx);
        self.finish_close(peer, was_connected);
        if state.exhausted_until.take().is_some() {
            self.pal.watch_listener(true);
        }
        self.notify_shutdown();
        Retry::No
    }

    /// Handles the frames that the peer sent before the end of its stream. A leader that has resigned handles none of
    /// them: the peer sends them again to its heir. Returns a retry if there may be more of them.
    #[inline]
    fn handle_last_frames(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        rx: &mut RxHalf<'m, P::Stream>,
        tx: &mut TxHalf<'m, P::Stream>,
    ) -> Retry {
        while !self.is_resigning() && rx.last_reads < LAST_READS && Self::kept_until(peer).is_none()
        {
            let read = self.read(rx);
            // The stream of a leader that has ended is read to its end: no other process has the leader's last frames.
            let is_counted = read != ReadOutcome::NotNow && !self.awaits_rest_of(peer);
            rx.last_reads = rx.last_reads.plus(usize::from(is_counted));
            let retry = self.handle_frames(peer, rx, ReadingThread::Worker);
            if retry != Retry::No {
                // A node that closes makes no more calls to the embedder, so the room that a frame waits for may never
                // come.
                if self.is_closing() {
                    rx.last_reads.increment();
                }
                self.pause_watch(peer, rx, tx);
                return retry;
            }
            match read {
                ReadOutcome::Some => {}
                ReadOutcome::NotNow => {
                    self.pause_watch(peer, rx, tx);
                    return Retry::Now;
                }
                // The last bytes of the peer may not have arrived yet.
                ReadOutcome::Nothing
                    if peer.hung_up.load(Ordering::SeqCst) && !peer.lacks_inbound() =>
                {
                    // The incoming stream reports these bytes, and its end. The watch of the outgoing stream is changed
                    // once, because its end is reported once more after each change: a member that polls all the time
                    // takes the processor from the process that ends.
                    if let Some(stream) = tx.stream.as_ref().filter(|_| !tx.is_muted) {
                        self.pal.rewatch(stream, peer.outgoing(), Interest::empty());
                    }
                    tx.is_muted = true;
                    return Retry::Soon;
                }
                ReadOutcome::Nothing | ReadOutcome::End => break,
            }
        }
        Retry::No
    }

    /// Removes a peer whose streams are closed, and notifies the calls and tables that depend on the connection.
    /// `was_connected`: the peer was a member, and its resources are reclaimed.
    #[inline]
    fn finish_close(&self, peer: &PeerRef<'_, 'm, P::Stream>, was_connected: bool) {
        let vmid = peer.vmid();
        self.peers.remove(peer);
        self.note_end_of(vmid);
        self.retry_output(peer);
        let was_leader = Some(vmid) == self.led_by();
        let succession = self.begin_succession(vmid);
        let error = self.gone_error(vmid);
        if was_leader && succession == Succession::None {
            self.leader_gone.store(true, Ordering::Release);
            self.log_leader_gone();
        } else {
            log_event!(debug, "process {vmid} is gone");
        }
        self.handle_parent_gone(vmid);
        // A process that never opened a stream has not left: this process has only tried to connect to that process.
        if was_connected {
            // The tables change before the calls fail, so that the callers find the child to be a zombie.
            self.handle_peer_gone(vmid);
        }
        // Calls that wait for children, or for all others to leave, check again.
        self.waiters.wake_for_room(self.identity.vmid);
        if succession == Succession::None {
            self.waiters.fail(Some(vmid), error);
        } else {
            // A call whose request is not kept makes it again, of the next leader.
            self.waiters.fail(Some(vmid), Error::NoSuchProcess);
        }
        self.announce_end_of_contact();
        self.events.disconnected(vmid);
        self.counters.disconnects.add(1);
        if self.leads() {
            self.pal.clean_up_after(vmid);
        }
    }

    fn log_leader_gone(&self) {
        if self.leader_is_full.load(Ordering::SeqCst) {
            log_event!(
                error,
                "the leader has no room for this process: raise Capacities::peers there (in C libos_ipc_limits.peers)"
            );
        } else if self.phase() == Phase::Running {
            // During a shutdown both sides close their streams, so that is no cause for a warning.
            log_event!(warn, "the leader is gone");
        }
    }

    /// Closes the streams of a peer. The outgoing one goes first: a peer that sees the end of its own
    /// stream then finds the end of this one, and the bytes before it, without waiting.
    pub(in crate::node) fn close_streams(
        &self,
        rx: &mut RxHalf<'m, P::Stream>,
        tx: &mut TxHalf<'m, P::Stream>,
    ) {
        if let Some(stream) = &tx.stream {
            self.pal.unwatch(stream);
        }
        tx.reset();
        if let Some(stream) = &rx.stream {
            self.pal.unwatch(stream);
        }
        rx.reset();
    }

    /// Pauses the watch of a peer that is closing and will be served again soon. Until then the
    /// platform would report its streams again and again.
    fn pause_watch(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        rx: &RxHalf<'m, P::Stream>,
        tx: &TxHalf<'m, P::Stream>,
    ) {
        let incoming = (&rx.stream, peer.incoming());
        for (stream, token) in [incoming, (&tx.stream, peer.outgoing())] {
            if let Some(stream) = stream {
                self.pal.rewatch(stream, token, Interest::empty());
            }
        }
    }
}

/// Whether the stream of a peer has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamEnd {
    /// The stream has ended, and the connection is closed.
    Closed,
    /// The stream has not ended.
    Open,
    /// The end may be behind bytes that are not handled yet.
    Unknown,
}
