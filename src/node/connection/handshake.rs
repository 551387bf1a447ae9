//! Accepting and identifying connections.

use crate::invariant::{Count, OrBroken};
use crate::sync::Ordering;

use super::close::StreamEnd;
use super::poll_loop::{RETRY, RETRY_ACCEPT, Retry, UnidentifiedStream, VMID_LENGTH, WorkerState};
use crate::config::Config;
use crate::counters::Refusal;
use crate::leader::Op;
use crate::log::log_event;
use crate::node::outbox::confirm_grants;
use crate::node::succession::{LogClaim, LogKeyFrame};
use crate::node::{Node, PeerRef, StreamKey, Upcall};
use crate::pal::fault::checked_read;
use crate::pal::{AcceptError, Deadline, Interest, Pal, Stream, StreamError, Time};
use crate::store::{copy, total};
use crate::wire::{Frame, Hello, Message, codes};
use crate::{Admission, Vmid, parts};

/// The most streams that one poll iteration accepts because the listener is ready, so that other peers are served too: each
/// takes some system calls, and a member that joins one more, for a stream to it.
const ACCEPTED_AT_ONCE: usize = 16;

/// The most streams that one poll iteration accepts if the last frames of a process may be on one of them.
const ACCEPTED_AT_MOST: usize = 256;

impl<'m, P: Pal> Node<'m, P> {
    /// Accepts waiting streams, some in each poll iteration.
    pub(super) fn accept(&self, state: &mut WorkerState<'m, P::Stream>) {
        self.accept_up_to(state, ACCEPTED_AT_ONCE);
    }

    /// Accepts the streams that wait now, since the last frames of a process may be on one of them.
    pub(super) fn accept_last(&self, state: &mut WorkerState<'m, P::Stream>) {
        self.accept_up_to(state, ACCEPTED_AT_MOST);
    }

    fn accept_up_to(&self, state: &mut WorkerState<'m, P::Stream>, most: usize) {
        while state.accepted < most {
            state.accepted.increment();
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
            key: LogKeyFrame::default(),
            until: self.now() + self.config.connect_limit,
            is_watched: true,
        };
        match read_vmid(&mut candidate) {
            Identification::Vmid(vmid) if !self.may_be_log(state, vmid, None) => {
                self.handle_vmid(state, candidate, vmid);
            }
            Identification::Vmid(_) => {
                candidate.is_watched = false;
                self.keep_unidentified(state, candidate);
            }
            Identification::Partial => self.keep_unidentified(state, candidate),
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
            self.unwatch_unidentified(&oldest);
            self.refuse(None, Refusal::NoVmid);
        } else {
            state.unidentified_count.increment();
        }
        let token = StreamKey::Unidentified(index).token();
        let watch = || self.pal.watch(&candidate.stream, token, Interest::READ);
        if !candidate.is_watched || watch().is_ok() {
            *place = Some(candidate);
        } else {
            state.unidentified_count.decrement();
        }
    }

    pub(super) fn unwatch_unidentified(&self, candidate: &UnidentifiedStream<P::Stream>) {
        if candidate.is_watched {
            self.pal.unwatch(&candidate.stream);
        }
    }

    /// Reads from an unidentified connection.
    pub(super) fn read_unidentified(&self, state: &mut WorkerState<'m, P::Stream>, index: usize) {
        let Some(place) = state.unidentified.get_mut(index) else {
            return;
        };
        let Some(candidate) = place else { return };
        let identification = read_vmid(candidate);
        let since = (candidate.until, index);
        match identification {
            Identification::Partial => return,
            // It is tried again. What has come behind its VMID would be reported all the time.
            Identification::Vmid(vmid) if self.may_be_log(state, vmid, Some(since)) => {
                if let Some(Some(candidate)) = state.unidentified.get_mut(index) {
                    self.unwatch_unidentified(candidate);
                    candidate.is_watched = false;
                }
                return;
            }
            _ => {}
        }
        let Some(candidate) = state.unidentified.get_mut(index).and_then(Option::take) else {
            return;
        };
        state.unidentified_count.decrement();
        self.unwatch_unidentified(&candidate);
        match identification {
            Identification::Vmid(vmid) => self.handle_vmid(state, candidate, vmid),
            _ => self.refuse(None, Refusal::NoVmid),
        }
    }

    /// Whether a stream of the leader may be its log, although none of its streams is identified: the first one may
    /// be one that was accepted before, and whose VMID has not come. Its VMID was written earlier. `since` orders the
    /// streams: none for one that was just accepted.
    fn may_be_log(
        &self,
        state: &WorkerState<'m, P::Stream>,
        vmid: u32,
        since: Option<(Time, usize)>,
    ) -> bool {
        let vmid = Vmid::new(vmid);
        if !self.follows() || vmid.is_none() || vmid != self.led_by() {
            return false;
        }
        let lacks_first = |vmid| {
            self.peers
                .find(vmid)
                .is_none_or(|leader| leader.lacks_inbound())
        };
        let mut all = state.unidentified.iter().enumerate();
        let is_first = |(at, other): (usize, &Option<UnidentifiedStream<P::Stream>>)| {
            let other = other.as_ref();
            other.is_some_and(|other| {
                let is_older = since.is_none_or(|since| (other.until, at) < since);
                other.length < VMID_LENGTH && is_older
            })
        };
        vmid.is_some_and(lacks_first) && all.any(is_first)
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
            self.unwatch_unidentified(candidate);
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

    /// Handles a stream whose VMID has come.
    #[inline]
    fn handle_vmid(
        &self,
        state: &mut WorkerState<'m, P::Stream>,
        candidate: UnidentifiedStream<P::Stream>,
        vmid: u32,
    ) {
        let stream = match Vmid::new(vmid) {
            // A second stream of the leader is its log.
            Some(vmid) if Config::HAS_SUCCESSION => match self.accept_log(vmid, candidate) {
                LogClaim::Accepted => return,
                LogClaim::Undecided(candidate) => return self.keep_unidentified(state, candidate),
                LogClaim::False(_stream) => return self.refuse(Some(vmid), Refusal::NotHeir),
                LogClaim::None(stream) => stream,
            },
            _ => candidate.stream,
        };
        self.identify(state, stream, vmid);
    }

    /// Makes a stream the incoming stream of the process `vmid`.
    fn identify(&self, state: &mut WorkerState<'m, P::Stream>, mut stream: P::Stream, vmid: u32) {
        let vmid = match Vmid::new(vmid) {
            Some(vmid) if vmid != self.identity.vmid => vmid,
            _ => return self.refuse(None, Refusal::BadVmid),
        };
        let has_left = self.has_left(vmid);
        if !self.admits(vmid) && !has_left {
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
            if peer.broken.load(Ordering::SeqCst) && !self.may_be_refused(&peer) {
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
            if parts::EXTENSIONS && leader.is_some() && is_greeting(&mut stream) {
                self.send_no_room(vmid);
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
        self.children.lock().note_connected(vmid);
        // A member that rejoins was connected with the leader before this one.
        if let Some(leader) = self.leading() {
            if has_left {
                Self::note_departed(&peer);
            }
            if Config::HAS_SUCCESSION && (has_left || peer.awaits_rejoin.load(Ordering::SeqCst)) {
                self.announce_to(&peer);
            } else {
                leader.lock().apply(&Op::Connected(vmid));
                confirm_grants(leader, vmid, false);
            }
        }
        log_event!(debug, "process {vmid} is connected");
        self.events.connected(vmid);
        if !has_left {
            self.enqueue_upcall(Upcall::Joined(vmid));
        }
        // The bytes that came with the VMID are read now; the platform need not report them.
        self.receive(&peer);
    }

    /// As the leader: notifies a process that this one has no room for it, so that it does not take the leader for gone. It has
    /// no peer entry, so this is tried once: the new stream has room for the frame, unless its platform has a handshake.
    fn send_no_room(&self, vmid: Vmid) {
        let hello = Message::Hello(Hello {
            features: Hello::NO_ROOM,
            ..Hello::NO_PROCESS
        });
        let mut bytes = [0; VMID_LENGTH + GREETING];
        let Some((own, frame)) = bytes.split_at_mut_checked(VMID_LENGTH) else {
            return;
        };
        copy(own, &self.identity.vmid.get().to_le_bytes());
        if hello.encode(0, frame).is_ok()
            && let Ok(stream) = self.pal.connect(vmid)
        {
            let _ = stream.write(&[&bytes]);
        }
    }

    /// Whether the peer is a leader that has opened no stream yet. If its end of the other stream is closed, it may have opened
    /// one to say why.
    pub(super) fn may_be_refused(&self, peer: &PeerRef<'_, 'm, P::Stream>) -> bool {
        peer.lacks_inbound() && Some(peer.vmid()) == self.led_by()
    }

    /// As a leader that has taken over: whether the process was a member of the leader before, and had left.
    fn has_left(&self, vmid: Vmid) -> bool {
        let Some(leader) = self.leading().filter(|_| self.follows()) else {
            return false;
        };
        let leader = leader.lock();
        leader.epoch() > 1 && leader.has_left(vmid) && !self.is_connected(vmid)
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
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Identification {
    Vmid(u32),
    Partial,
    End,
}

/// The length of a frame with HELLO.
const GREETING: usize = Hello::FRAME_LENGTH;

/// Whether the first frame of a stream is HELLO, as far as it has arrived: a process in C sends none.
fn is_greeting<S: Stream>(stream: &mut S) -> bool {
    let mut bytes = [0; GREETING];
    let read = checked_read(stream.read(&mut bytes), GREETING);
    let frame = Frame::parse(&bytes, GREETING);
    read == Ok(GREETING) && matches!(frame, Ok(Some(frame)) if frame.code == codes::HELLO)
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
