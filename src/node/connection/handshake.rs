//! Accepting, identifying and closing connections.

use crate::invariant::{Count, OrBroken};
use crate::sync::Ordering;

use super::poll_loop::{RETRY, RETRY_ACCEPT, Retry, UnidentifiedStream, VMID_LENGTH, WorkerState};
use super::rx::ReadOutcome;
use super::rx::Reader;
use crate::counters::Refusal;
use crate::error::Error;
use crate::leader::{Op, Outcome};
use crate::log::log_event;
use crate::node::outbox::confirm_grants;
use crate::node::succession::Succession;
use crate::node::{LeaderTables, Node, PeerRef, Phase, RxHalf, StreamKey, TxHalf, Upcall};
use crate::pal::fault::checked_read;
use crate::pal::{AcceptError, Deadline, Interest, Pal, Stream, StreamError, Time};
use crate::store::total;
use crate::{Admission, Vmid};

/// The most streams that one poll iteration accepts, so that other streams are served too.
const ACCEPTED_AT_ONCE: usize = 256;

/// The most reads of a stream before it is closed. A peer that is gone can't have written more than
/// the stream holds; a peer that only pretends to be gone could write for ever.
const LAST_READS: usize = 256;

impl<'m, P: Pal> Node<'m, P> {
    /// Accepts the waiting streams.
    pub(super) fn accept(&self, state: &mut WorkerState<'m, P::Stream>) {
        for _ in 0..ACCEPTED_AT_ONCE {
            self.run_upcalls();
            if P::HAS_HANDSHAKE && self.unidentified_are_recent(state) {
                state.exhausted_until = Some(self.pal.now() + RETRY);
                self.pal.watch_listener(false);
                return;
            }
            match self.pal.accept() {
                Ok(stream) => {
                    self.counters.accepted.add(1);
                    self.handle_accept(state, stream);
                }
                Err(AcceptError::WouldBlock) => return,
                Err(AcceptError::NotAllowed) => self.refuse(None, Refusal::NotAllowed),
                Err(AcceptError::Exhausted) => {
                    state.exhausted_until = Some(self.now() + RETRY_ACCEPT);
                    self.pal.watch_listener(false);
                    log_event!(
                        warn,
                        "the platform has no more streams: nobody is accepted for now"
                    );
                    return;
                }
            }
        }
    }

    /// Whether no slot is free for one more unidentified connection, and none of them has had its
    /// time for the handshake.
    fn unidentified_are_recent(&self, state: &WorkerState<'m, P::Stream>) -> bool {
        if state.unidentified_count < state.unidentified.len() {
            return false;
        }
        let now = self.pal.now();
        let half = self.config.connect_limit.checked_div(2);
        let mut unidentified = state.unidentified.iter().flatten();
        unidentified.all(|candidate| {
            candidate.until.since(now) > half.or_broken(core::time::Duration::ZERO)
        })
    }

    /// Watches the listener again when it is time. Returns when the worker must run again.
    pub(super) fn accept_again(
        &self,
        state: &mut WorkerState<'m, P::Stream>,
        until: Deadline,
    ) -> Deadline {
        let Some(retry) = state.exhausted_until else {
            return until;
        };
        if self.now() >= retry {
            state.exhausted_until = None;
            self.pal.watch_listener(true);
            return until;
        }
        until.min(Deadline::At(retry))
    }

    /// Reads the VMID of a new stream, or keeps the stream as an unidentified connection until the
    /// VMID arrives.
    fn handle_accept(&self, state: &mut WorkerState<'m, P::Stream>, stream: P::Stream) {
        let mut candidate = UnidentifiedStream {
            stream,
            vmid: [0; VMID_LENGTH],
            length: 0,
            until: Time(0),
        };
        match read_vmid(&mut candidate) {
            Identification::Vmid(vmid) => self.identify(state, candidate.stream, vmid),
            Identification::Partial => {
                candidate.until = self.now() + self.config.connect_limit;
                self.keep_unidentified(state, candidate);
            }
            Identification::End => self.refuse(None, Refusal::NoVmid),
        }
    }

    fn keep_unidentified(
        &self,
        state: &mut WorkerState<'m, P::Stream>,
        candidate: UnidentifiedStream<P::Stream>,
    ) {
        // If no slot is free, the oldest unidentified connection is closed.
        let Some((index, place)) = state
            .unidentified
            .iter_mut()
            .enumerate()
            .min_by_key(|(_, place)| place.as_ref().map(|candidate| candidate.until))
        else {
            self.refuse(None, Refusal::NoVmid);
            return;
        };
        if let Some(oldest) = place.take() {
            self.pal.unwatch(&oldest.stream);
            self.refuse(None, Refusal::NoVmid);
        } else {
            state.unidentified_count.increment();
        }
        let token = StreamKey::Unidentified(index).token();
        if self
            .pal
            .watch(&candidate.stream, token, Interest::READ)
            .is_ok()
        {
            *place = Some(candidate);
        } else {
            state.unidentified_count.decrement();
        }
    }

    /// Reads from an unidentified connection.
    pub(super) fn read_unidentified(&self, state: &mut WorkerState<'m, P::Stream>, index: usize) {
        let Some(place) = state.unidentified.get_mut(index) else {
            return;
        };
        let Some(candidate) = place else { return };
        let identification = read_vmid(candidate);
        if identification == Identification::Partial {
            return;
        }
        let Some(candidate) = place.take() else {
            return;
        };
        state.unidentified_count.decrement();
        self.pal.unwatch(&candidate.stream);
        match identification {
            Identification::Vmid(vmid) => self.identify(state, candidate.stream, vmid),
            _ => self.refuse(None, Refusal::NoVmid),
        }
    }

    /// Closes the unidentified streams whose time is over. Returns when the worker must check
    /// again.
    pub(super) fn expire_unidentified(
        &self,
        state: &mut WorkerState<'m, P::Stream>,
        until: Deadline,
    ) -> Deadline {
        if state.unidentified_count == 0 {
            return until;
        }
        self.retry_identified(state);
        if until == Deadline::Now {
            return until;
        }
        let now = self.now();
        let mut until = until;
        for place in state.unidentified.iter_mut() {
            let Some(candidate) = place else { continue };
            if candidate.length == VMID_LENGTH {
                let soon = now + RETRY;
                until = until.min(Deadline::At(soon));
                continue;
            }
            if candidate.until > now {
                until = until.min(Deadline::At(candidate.until));
                continue;
            }
            self.pal.unwatch(&candidate.stream);
            *place = None;
            state.unidentified_count.decrement();
            self.refuse(None, Refusal::NoVmid);
        }
        until
    }

    /// Retries the connections whose VMID is known but whose peer slot was not free yet.
    fn retry_identified(&self, state: &mut WorkerState<'m, P::Stream>) {
        for index in 0..state.unidentified.len() {
            let place = state.unidentified.get(index).and_then(Option::as_ref);
            if place.is_some_and(|candidate| candidate.length == VMID_LENGTH) {
                self.read_unidentified(state, index);
            }
        }
    }

    /// Makes a stream the incoming stream of the process `vmid`.
    fn identify(&self, state: &mut WorkerState<'m, P::Stream>, stream: P::Stream, vmid: u32) {
        let vmid = match Vmid::new(vmid) {
            Some(vmid) if vmid != self.identity.vmid => vmid,
            _ => return self.refuse(None, Refusal::BadVmid),
        };
        // A second stream of the leader is its log.
        let mut stream = match self.accept_log(vmid, stream) {
            Ok(()) => return,
            Err(stream) => stream,
        };
        if !self.admits(vmid) {
            let refusal = if self.is_connected(vmid) {
                Refusal::VmidTaken
            } else {
                Refusal::VmidNotAdmitted
            };
            return self.refuse(Some(vmid), refusal);
        }
        if let Some(peer) = self.peers.find(vmid) {
            // The process that had this VMID before may be gone, and only the end of its stream not
            // have been read yet.
            let kept_until = Self::kept_until(&peer);
            if kept_until.is_some_and(|until| self.now() < until) {
                return self.refuse(Some(vmid), Refusal::VmidTaken);
            }
            if peer.broken.load(Ordering::SeqCst) {
                if self.close(state, &peer) != Retry::No {
                    // A call still holds one of its streams.
                    return self.keep_unidentified(
                        state,
                        UnidentifiedStream::of(stream, vmid, self.now()),
                    );
                }
            } else if !peer.lacks_inbound() {
                let claimed = UnidentifiedStream::of(stream, vmid, self.now());
                match self.read_to_end_of_stream(state, &peer) {
                    StreamEnd::Closed => stream = claimed.stream,
                    // The end may be behind these bytes. One stream waits to see it.
                    StreamEnd::Unknown if !state.has_claim(&claimed) => {
                        return self.keep_unidentified(state, claimed);
                    }
                    StreamEnd::Unknown | StreamEnd::Open => {
                        return self.refuse(Some(vmid), Refusal::VmidTaken);
                    }
                }
            }
        }
        let Ok(peer) = self.peers.find_or_add(vmid) else {
            let leader = self.leading();
            if leader.is_some_and(|leader| leader.lock().processes().is_starting(vmid)) {
                // The leader has let it start, so the connection of another process that has ended is
                // about to be closed.
                let claimed = UnidentifiedStream::of(stream, vmid, self.now());
                return self.keep_unidentified(state, claimed);
            }
            return self.refuse(Some(vmid), Refusal::PeersFull);
        };
        if self
            .pal
            .watch(&stream, peer.incoming(), Interest::READ)
            .is_err()
        {
            return self.refuse(Some(vmid), Refusal::PeersFull);
        }
        peer.rx.lock().stream = Some(stream);
        peer.has_inbound.store(true, Ordering::SeqCst);
        // A member that rejoins was connected with the leader before this one.
        if let Some(leader) = self.leading()
            && !peer.awaits_rejoin.load(Ordering::SeqCst)
        {
            leader.lock().apply(&Op::Connected(vmid));
            confirm_grants(leader, vmid, false);
        }
        log_event!(debug, "process {vmid} is connected");
        self.events.connected(vmid);
        self.enqueue_upcall(Upcall::Joined(vmid));
        // The bytes that came with the VMID are read now; the platform need not report them.
        self.receive(&peer);
    }

    /// Whether a process may connect with that VMID. Only the leader knows which VMIDs are used up.
    fn admits(&self, vmid: Vmid) -> bool {
        let is_known = self.config.admission == Admission::Known;
        let Some(leader) = self.leading() else {
            return true;
        };
        // A member of the leader before this one rejoins with the VMID that it has.
        let is_awaited = |peer: PeerRef<'_, 'm, P::Stream>| {
            peer.awaits_rejoin.load(Ordering::SeqCst) && peer.lacks_inbound()
        };
        self.peers.find(vmid).is_some_and(is_awaited) || leader.lock().admits(vmid, is_known)
    }

    /// Reads the peer's stream once, and closes the connection if the end has arrived.
    fn read_to_end_of_stream(
        &self,
        state: &mut WorkerState<'m, P::Stream>,
        peer: &PeerRef<'_, 'm, P::Stream>,
    ) -> StreamEnd {
        let Some(mut rx) = peer.rx.try_lock() else {
            return StreamEnd::Open;
        };
        let read = self.read(&mut rx);
        let retry = self.handle_frames(peer, &mut rx, Reader::Worker);
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
        // The frames that came before the end are handled, but not by a leader that has resigned: they are sent
        // again to its heir.
        while !faulty
            && !is_closed
            && !self.is_resigning()
            && rx.last_reads < LAST_READS
            && Self::kept_until(peer).is_none()
        {
            let read = self.read(&mut rx);
            rx.last_reads = rx.last_reads.plus(usize::from(read != ReadOutcome::NotNow));
            let retry = self.handle_frames(peer, &mut rx, Reader::Worker);
            if retry != Retry::No {
                // A node that closes makes no more calls to the embedder, so what a frame waits for
                // may never come.
                if self.is_closing() {
                    rx.last_reads.increment();
                }
                self.pause_watch(peer, &rx, &tx);
                return retry;
            }
            match read {
                ReadOutcome::Some => {}
                ReadOutcome::NotNow => {
                    self.pause_watch(peer, &rx, &tx);
                    return Retry::Now;
                }
                // The last bytes of the peer may not have arrived yet.
                ReadOutcome::Nothing
                    if peer.hung_up.load(Ordering::SeqCst) && !peer.lacks_inbound() =>
                {
                    self.pause_watch(peer, &rx, &tx);
                    return Retry::Soon;
                }
                ReadOutcome::Nothing | ReadOutcome::End => break,
            }
        }
        let is_reclaiming = is_closed && Self::kept_until(peer).is_none();
        if !is_reclaiming && self.keeps_possessions(peer, &mut rx, &mut tx) {
            return Retry::Soon;
        }
        // The streams end before others get what the process had: it may live, and must not use a lock that
        // is another's by then.
        self.end_contact(peer, &rx);
        self.close_streams(&mut rx, &mut tx);
        {
            let mut queue = peer.queue.lock();
            queue.filling.clear();
            queue.reserved = 0;
        }
        // A member of the leader before this one has left, too, if this process can't reach it.
        let was_connected = peer.is_member();
        if was_connected && !self.reclaim_all_of(peer) {
            return Retry::Now;
        }
        self.end_resend(peer);
        drop(tx);
        drop(rx);
        let vmid = peer.vmid();
        self.peers.remove(peer);
        self.retry_output(peer);
        let was_leader = Some(vmid) == self.led_by();
        let succession = self.begin_succession(vmid);
        let error = self.gone(vmid);
        if was_leader && succession == Succession::None {
            self.leader_gone.store(true, Ordering::Release);
            // During a shutdown both sides close their streams, so that is no cause for a warning.
            if self.phase() == Phase::Running {
                log_event!(warn, "the leader is gone");
            }
        } else {
            log_event!(debug, "process {vmid} is gone");
        }
        self.handle_parent_gone(vmid);
        // A process that never opened a stream has not left: this process only tried to connect to
        // it.
        if was_connected {
            self.reclaim_ids(vmid);
            // The tables change before the calls fail, so that the callers find the child to be a
            // zombie.
            self.handle_peer_gone(vmid);
        }
        // Calls that wait for children, or for all others to leave, check again.
        self.waiters.wake_for_room(self.identity.vmid);
        if succession == Succession::None {
            self.waiters.fail(Some(vmid), error);
        } else {
            // A call that is not kept makes its request again, of the next leader.
            self.waiters.fail(Some(vmid), Error::NoSuchProcess);
        }
        self.announce_end_of_contact();
        self.events.disconnected(vmid);
        self.counters.disconnects.add(1);
        if self.leads() {
            self.pal.clean_up_after(vmid);
        }
        if state.exhausted_until.take().is_some() {
            self.pal.watch_listener(true);
        }
        self.notify_shutdown();
        Retry::No
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

    /// On the leader: releases everything that the process owned.
    pub(crate) fn reclaim_ids(&self, vmid: Vmid) {
        let Some(leader) = self.leading() else { return };
        // If the leader itself closes, the others live on, so their IDs are not released.
        if self.phase() >= Phase::Closing {
            return;
        }
        self.reclaim_member(leader, vmid);
        revoke_grants(leader, vmid);
        if self.config.keep_ranges_of_dead {
            return;
        }
        let mut left = leader.lock().ranges_to_reclaim(vmid);
        while left > 0 {
            let portion = Op::ReclaimRanges { owner: vmid, left };
            left = match leader.lock().apply(&portion) {
                Outcome::Remaining(left) => left,
                _ => 0,
            };
        }
    }
}

/// As the leader: reclaims the IDs that the process had given to others that have not connected.
pub(in crate::node) fn revoke_grants(leader: &LeaderTables<'_>, giver: Vmid) {
    // One step for each lock, since there may be many entries.
    while matches!(
        leader.lock().apply(&Op::RevokeGrants(giver)),
        Outcome::Remaining(1..)
    ) {}
}

/// Whether the stream of a peer has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamEnd {
    /// It has ended, and the connection is closed.
    Closed,
    /// It has not ended.
    Open,
    /// The end may be behind bytes that are not handled yet.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Identification {
    Vmid(u32),
    Partial,
    End,
}

/// Reads the VMID and no further byte.
fn read_vmid<S: Stream>(candidate: &mut UnidentifiedStream<S>) -> Identification {
    loop {
        let Some(missing) = candidate
            .vmid
            .get_mut(candidate.length..)
            .filter(|rest| !rest.is_empty())
        else {
            return Identification::Vmid(u32::from_le_bytes(candidate.vmid));
        };
        let room = missing.len();
        match checked_read(candidate.stream.read(missing), room) {
            Ok(0) | Err(StreamError::Closed) => return Identification::End,
            Ok(count) => candidate.length = total!(candidate.length, count),
            Err(StreamError::Interrupted) => {}
            Err(StreamError::WouldBlock) => return Identification::Partial,
        }
    }
}
