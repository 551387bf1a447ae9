//! The path of a frame into the send queue of a peer.

use super::wait::{Limits, Wait};
use super::wait_reason::WaitReason;
use crate::Vmid;
use crate::config::Config;
use crate::error::{Errno, Error, Invalid, Resource};
use crate::invariant::Count;
use crate::leader::Op;
use crate::member::KeptFrames;
use crate::node::connection::SendQueue;
use crate::node::succession::{FrameToLeader, KeepOutcome, keep_message};
use crate::node::{ANSWER_RESERVE, Node, PeerRef, Phase};
use crate::pal::Pal;
use crate::store::total;
use crate::sync::Ordering;
use crate::wire::Message;

/// # Connections
///
/// A call opens the connections that it needs.
impl<'m, P: Pal> Node<'m, P> {
    /// Opens a stream to `dest`, if there is none yet. Returns before it is known whether a process
    /// listens there.
    ///
    /// # Errors
    /// [`Error::Full`] at the limit of peers; [`Error::Invalid`] for this node itself.
    pub fn connect(&self, dest: Vmid) -> Result<(), Error> {
        self.check_running()?;
        let peer = self.peer(dest)?;
        peer.stream_wanted.store(true, Ordering::SeqCst);
        self.flush(&peer);
        // A thread that was sending at this moment may not have seen the flag, so the worker checks
        // it.
        self.call_worker(&peer);
        Ok(())
    }

    /// Closes the connection with `dest`, if there is one. Calls that wait for its answer get
    /// [`Error::NoSuchProcess`]; the frames in its send queue are dropped. Closed by the leader, the process
    /// has ended for the family, but it may connect again under its VMID.
    pub fn disconnect(&self, dest: Vmid) {
        if let Some(leader) = self.leading() {
            leader.lock().apply(&Op::AllowReturn(dest));
        }
        if let Some(peer) = self.peers.find(dest) {
            self.disconnect_peer(&peer);
        }
    }

    /// Sends a message that has no answer to another process. Blocks only for room in the peer's send
    /// queue, as long as `wait` allows.
    ///
    /// # Errors
    /// [`Error::Full`] if there is no room and `wait` is zero, [`Error::TimedOut`] or
    /// [`Error::Interrupted`] as `wait` says, [`Error::NoSuchProcess`] if the peer is known to be
    /// gone. A message that was accepted need not arrive.
    pub(crate) fn send_message(
        &self,
        dest: Vmid,
        message: &Message<'_>,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        self.check_running()?;
        self.post(dest, message, wait)
    }

    /// Like [`Node::send_message`], but leaves the frame in the send queue for now.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn queue_message(
        &self,
        dest: Vmid,
        message: &Message<'_>,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        self.check_running()?;
        self.post_later(dest, message, wait)
    }

    /// Sends a message to every connected peer but `except`. It never blocks. Returns the number of
    /// peers that accepted it, and of those without room for it: none once this process has ended.
    pub(crate) fn broadcast_message(
        &self,
        message: &Message<'_>,
        except: Option<Vmid>,
    ) -> (usize, usize) {
        let (mut accepted, mut full) = (0_usize, 0_usize);
        if self.check_running().is_err() {
            return (accepted, full);
        }
        for peer in self.peers.all() {
            if Some(peer.vmid()) == except {
                continue;
            }
            match self.put(&peer, 0, message) {
                Ok(()) => {
                    accepted.increment();
                    self.flush(&peer);
                }
                Err(_) => full.increment(),
            }
        }
        (accepted, full)
    }

    pub(super) fn peer(&self, dest: Vmid) -> Result<PeerRef<'_, 'm, P::Stream>, Error> {
        if self.phase() >= Phase::Flushing {
            return Err(Error::ShuttingDown);
        }
        if dest == self.identity.vmid {
            return Err(Error::Invalid(Invalid::Itself));
        }
        if Some(dest) == self.led_by()
            && (self.leader_gone.load(Ordering::Acquire) || self.is_cut_off())
        {
            return Err(self.gone_error(dest));
        }
        self.peers.find_or_add(dest)
    }

    /// Sends an answer that the embedder has encoded.
    #[cfg(feature = "capi")]
    pub(crate) fn put_answer(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        answer: &Message<'_>,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        self.put_when_room(peer, seq, answer, wait)?;
        self.flush(peer);
        Ok(())
    }

    /// Puts a frame into the peer's send queue, if there is room.
    ///
    /// # Errors
    /// [`Error::Full`] ([`Resource::SendQueue`]) if there is none; the error of [`Node::check_length`],
    /// [`Error::LimitsDiffer`] if the peer accepts no frame of this length, that of [`Node::gone_error`] if
    /// the connection is closing; [`Error::NoSuchProcess`] for a message to the leader if another process leads by now.
    pub(in crate::node) fn put(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        message: &Message<'_>,
    ) -> Result<(), Error> {
        let kept = if self.follows() {
            self.frame_to_leader(peer.vmid(), seq, message)?
        } else {
            None
        };
        self.put_frame(peer, seq, message, kept)
    }

    /// Like [`Node::put`], for a caller that has made the [frame to the leader](Node::frame_to_leader) already. `None`
    /// for a frame that is not kept, as a leader's message to a member is not.
    ///
    /// # Errors
    /// As [`Node::put`].
    pub(in crate::node) fn put_frame(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        message: &Message<'_>,
        kept: Option<FrameToLeader<'_, 'm>>,
    ) -> Result<(), Error> {
        let length = message.length();
        self.check_encoded_length(length)?;
        if !peer.accepts_length(length) {
            return Err(Error::LimitsDiffer {
                limit: Resource::FrameLength,
                ours: self.limits().frame_length.into(),
                theirs: peer.max_frame().into(),
            });
        }
        let mut queue = peer.queue.lock();
        let keeping = match kept {
            Some(kept) if Config::HAS_SUCCESSION => {
                // A call that waited for room until the family ended would get no answer.
                if self.leader_gone.load(Ordering::SeqCst) {
                    return Err(self.gone_error(peer.vmid()));
                }
                let keep = |kept: &mut KeptFrames<'m>| keep_message(kept, seq, message);
                match kept.check(length, queue.closed, keep) {
                    Ok(KeepOutcome::Queue(keeping)) => Some(keeping),
                    only_kept => {
                        drop(queue);
                        self.note_only_kept(peer);
                        return only_kept.map(drop);
                    }
                }
            }
            _ => None,
        };
        self.push(peer, &mut queue, seq, message, length)?;
        let is_mark_due = keeping.is_some_and(|keeping| keeping.record(&queue, length));
        drop(queue);
        if is_mark_due {
            self.mark_if_due(peer);
        }
        self.trace_tx(peer.vmid(), seq, message, length);
        Ok(())
    }

    /// Handles that a frame to the leader was not queued: it is kept, or was refused for lack of room.
    #[cold]
    #[inline(never)]
    fn note_only_kept(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        // There was no room for it before.
        if self.mark_if_due(peer) {
            self.call_worker(peer);
        }
        self.connect_with_successor();
    }

    /// Puts a frame of that length into the queue of the peer.
    #[inline]
    pub(in crate::node) fn push(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        queue: &mut SendQueue<'m>,
        seq: u64,
        message: &Message<'_>,
        length: usize,
    ) -> Result<(), Error> {
        if queue.closed {
            // The family may go on without a leader that is just ending.
            let is_leader = Some(peer.vmid()) == self.led_by();
            return Err(if is_leader && self.awaits_successor() {
                Error::NoSuchProcess
            } else {
                self.gone_error(peer.vmid())
            });
        }
        if queue.room() < total!(length, ANSWER_RESERVE) {
            return Err(Error::Full(Resource::SendQueue));
        }
        self.queue_hello_first(peer, queue);
        if queue.filling.push(seq, message).is_err() {
            return Err(Error::Invalid(Invalid::Message));
        }
        queue.record_push();
        Ok(())
    }

    /// Checks that a frame can hold the message: the leader's own process gets the same refusals as
    /// a member, so each operation has bytes.
    pub(in crate::node) fn check_length(&self, message: &Message<'_>) -> Result<(), Error> {
        self.check_encoded_length(message.length())
    }

    #[inline]
    pub(in crate::node) fn check_encoded_length(&self, length: usize) -> Result<(), Error> {
        if length > self.config.capacities.frame_length {
            return Err(Error::Full(Resource::FrameLength));
        }
        Ok(())
    }

    /// Returns the error of a call to a peer that is gone.
    pub(crate) fn gone_error(&self, vmid: Vmid) -> Error {
        if Some(vmid) == self.led_by() {
            if self.leader_is_full.load(Ordering::SeqCst) {
                Error::Refused {
                    errno: Errno::ENOMEM,
                    by: None,
                }
            } else if self.is_cut_off() {
                Error::CutOff
            } else {
                Error::LeaderGone
            }
        } else {
            Error::NoSuchProcess
        }
    }
}

calls! {
    /// Sends a message that has no answer to a process, which may be this one. Blocks only for room
    /// in the peer's send queue, as long as `wait` allows. A message that was accepted may still be
    /// lost with the connection. A peer does not report whether the message could be executed: it
    /// counts a failure.
    ///
    /// # Errors
    /// As [`Node::send_message`]; [`Error::Invalid`] if the message to this process itself could not
    /// be executed.
    fn send_to(&self, dest: Vmid, message: &Message<'_>, wait: Wait<'_>) -> Result<(), Error> {
        self.check_running()?;
        if dest == self.identity.vmid {
            self.send_own_logged(message)
        } else {
            wait!(self.post(dest, message, wait))
        }
    }

    /// Like [`Node::send_message`], also for a leader whose own process has ended.
    fn post(&self, dest: Vmid, message: &Message<'_>, wait: Wait<'_>) -> Result<(), Error> {
        if self.follows() {
            return wait!(self.post_again(dest, message, wait));
        }
        let peer = self.peer(dest)?;
        wait!(self.put_when_room(&peer, 0, message, wait))?;
        self.flush(&peer);
        Ok(())
    }

    /// Like [`Node::post`]; to the leader that follows if the leader has gone.
    #[inline(never)]
    fn post_again(&self, dest: Vmid, message: &Message<'_>, wait: Wait<'_>) -> Result<(), Error> {
        // One limit for all attempts.
        let wait = self.begin(wait);
        let asked = dest;
        let mut dest = self.redirected(asked, message);
        loop {
            if dest != asked && dest == self.identity.vmid {
                return self.send_own_logged(message);
            }
            let peer = self.peer(dest)?;
            match wait!(self.put_when_room(&peer, 0, message, wait)) {
                Ok(()) => {
                    self.flush(&peer);
                    return Ok(());
                }
                Err(error) if self.is_moved(dest, message, error) => dest = self.leader_vmid(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Like [`Node::post`], but leaves the frame in the send queue for now.
    fn post_later(&self, dest: Vmid, message: &Message<'_>, wait: Wait<'_>) -> Result<(), Error> {
        let peer = self.peer(dest)?;
        wait!(self.put_when_room(&peer, 0, message, wait))
    }

    /// Puts a frame into the peer's send queue. Waits for room as long as `wait` allows.
    fn put_when_room(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        message: &Message<'_>,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        match self.put(peer, seq, message) {
            Err(Error::Full(Resource::SendQueue)) if !wait.is_zero() => {
                wait!(self.await_room(peer, seq, message, wait))
            }
            put => put,
        }
    }

    #[cold]
    #[inline(never)]
    fn await_room(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        message: &Message<'_>,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        self.flush(peer);
        let limits = Limits::of(wait, &self.pal);
        let mut put = || {
            // The flag is set before the queue is checked: a thread that makes room after the
            // check sees the flag.
            peer.room_wanted.store(true, Ordering::SeqCst);
            match self.put(peer, seq, message) {
                Err(Error::Full(Resource::SendQueue)) => None,
                put => Some(put),
            }
        };
        wait!(self.wait_until(peer.vmid(), WaitReason::Room, limits, &mut put))
    }
}
