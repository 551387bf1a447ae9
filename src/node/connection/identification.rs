//! Identifying connections: which process a stream with a VMID is of, and whether it is admitted.

use super::close::StreamEnd;
use super::poll_loop::{Retry, UnidentifiedStream, WorkerState};
use crate::config::Config;
use crate::counters::Refusal;
use crate::leader::Op;
use crate::log::log_event;
use crate::node::outbox::confirm_grants;
use crate::node::succession::LogClaim;
use crate::node::{Node, PeerRef, Upcall};
use crate::pal::fault::checked_read;
use crate::pal::{Interest, Pal, Stream};
use crate::store::copy;
use crate::sync::Ordering;
use crate::wire::{Frame, Hello, Message, VMID_LENGTH, codes};
use crate::{Admission, Vmid, parts};

impl<'m, P: Pal> Node<'m, P> {
    /// Handles a stream whose VMID has come.
    #[inline]
    pub(super) fn handle_vmid(
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
            let Some(claimed) = self.close_predecessor(state, &peer, stream) else {
                return;
            };
            stream = claimed;
        }
        let Ok(peer) = self.peers.find_or_add(vmid) else {
            let leader = self.leading();
            if leader.is_some_and(|leader| leader.lock().processes().is_starting(vmid)) {
                // The leader starts no more processes than it has room for, so the connection of another process that
                // has ended is about to be closed.
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
        // A member that rejoins was connected with the previous leader, so it is not connected anew.
        if let Some(leader) = self.leading() {
            if has_left {
                Self::note_departed(&peer);
            }
            if Config::HAS_SUCCESSION && (has_left || peer.awaits_rejoin()) {
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

    /// Closes the connection of the process that had the VMID of the stream before, if that process is gone and only the
    /// end of its stream was not read yet. Returns the stream; none if it was refused, or is kept as an unidentified
    /// connection until the end is certain.
    #[inline]
    fn close_predecessor(
        &self,
        state: &mut WorkerState<'m, P::Stream>,
        peer: &PeerRef<'_, 'm, P::Stream>,
        stream: P::Stream,
    ) -> Option<P::Stream> {
        let vmid = peer.vmid();
        let kept_until = Self::kept_until(peer);
        if kept_until.is_some_and(|until| self.now() < until) {
            self.refuse(Some(vmid), Refusal::VmidTaken);
            return None;
        }
        if peer.broken.load(Ordering::SeqCst) && !self.may_be_refused(peer) {
            if self.close(state, peer) != Retry::No {
                // A call still holds one of the peer's streams.
                let claimed = UnidentifiedStream::of(stream, vmid, self.now());
                self.keep_unidentified(state, claimed);
                return None;
            }
        } else if !peer.lacks_inbound() {
            let claimed = UnidentifiedStream::of(stream, vmid, self.now());
            return match self.read_to_end_of_stream(state, peer) {
                StreamEnd::Closed => Some(claimed.stream),
                // The end may be behind bytes that are not handled yet. One stream waits for it.
                StreamEnd::Unknown if !state.has_claim(&claimed) => {
                    self.keep_unidentified(state, claimed);
                    None
                }
                StreamEnd::Unknown | StreamEnd::Open => {
                    self.refuse(Some(vmid), Refusal::VmidTaken);
                    None
                }
            };
        }
        Some(stream)
    }

    /// As the leader: sends a process a HELLO that says that this one has no room for it, so that it does not take the
    /// leader for gone. The process has no entry in the table of peers, so this is tried once: the new stream has room for
    /// the frame, unless its platform has a handshake.
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

    /// Returns true if the peer is a leader that has opened no stream to this process yet. If the leader has closed the
    /// stream from this process, it may be about to open one that says why.
    pub(super) fn may_be_refused(&self, peer: &PeerRef<'_, 'm, P::Stream>) -> bool {
        peer.lacks_inbound() && Some(peer.vmid()) == self.led_by()
    }

    /// As a leader that has taken over: returns true if the process was a member of a previous leader, and has left.
    fn has_left(&self, vmid: Vmid) -> bool {
        let Some(leader) = self.leading().filter(|_| self.follows()) else {
            return false;
        };
        let leader = leader.lock();
        leader.epoch() > 1 && leader.has_left(vmid) && !self.is_connected(vmid)
    }

    /// Returns true if a process may connect with that VMID. Only the leader knows which VMIDs are
    /// used up.
    fn admits(&self, vmid: Vmid) -> bool {
        let is_known = self.config.admission == Admission::Known;
        let Some(leader) = self.leading() else {
            return true;
        };
        // A member of the previous leader rejoins with the VMID that it has.
        let is_awaited =
            |peer: PeerRef<'_, 'm, P::Stream>| peer.awaits_rejoin() && peer.lacks_inbound();
        self.peers.find(vmid).is_some_and(is_awaited) || leader.lock().admits(vmid, is_known)
    }
}

/// The length of a frame with HELLO.
const GREETING: usize = Hello::FRAME_LENGTH;

/// Returns true if the first frame of a stream is HELLO, as far as it has arrived: a process in C
/// sends none.
fn is_greeting<S: Stream>(stream: &mut S) -> bool {
    let mut bytes = [0; GREETING];
    let read = checked_read(stream.read(&mut bytes), GREETING);
    let frame = Frame::parse(&bytes, GREETING);
    read == Ok(GREETING) && matches!(frame, Ok(Some(frame)) if frame.code == codes::HELLO)
}
