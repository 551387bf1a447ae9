//! [`Call`]: a request to a process and the wait for its answer, as a state machine.
//!
//! ```text
//!  Unsent ──► AwaitsRoom ──► Sent ──► Cancelling ──► outcome
//! ```
//!
//! No step blocks. A call that ends early, because its caller waits no longer, leaves what the answer
//! brings to [`LateReply`].

use core::time::Duration;

use super::block_on::Progress;
use super::caller_read::Wake;
use super::dropped_lock::requested;
use super::reply_buffers::{BUFFER_LENGTH, ReplyData};
use super::wait_reason::WaitReason;
use super::waiter::{LateReply, WaitToken};
use crate::Vmid;
use crate::error::{Errno, Error, Invalid, Resource};
use crate::node::succession::is_for_leader;
use crate::node::{Node, PeerRef};
use crate::pal::{Deadline, Pal, Time};
use crate::sync::Ordering;
use crate::wire::{Answer, Expected, LockKind, Message};

/// The pause before the cancellation of a request is sent again to a peer whose queue is full.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// A request and the wait for its answer. It has a waiter until it returns its outcome.
pub(in crate::node) struct Call {
    pub(super) dest: Vmid,
    pub(super) code: u8,
    pub(super) token: WaitToken,
    pub(super) late: LateReply,
    step: Step,
}

/// The state of a call.
enum Step {
    /// The request is not in the send queue yet.
    Unsent,
    /// The send queue had no room for the request.
    AwaitsRoom,
    /// The answer comes.
    Sent,
    /// The caller's wait has ended with this error, and the request is being cancelled.
    Cancelling {
        error: Error,
        /// The time at which the connection is closed.
        give_up_at: Time,
        /// The time of the next step; never if only the end of the connection is awaited.
        next: Deadline,
    },
}

impl LateReply {
    /// Returns the action on a late answer to the message. A leader without the extensions can't cancel a
    /// request.
    fn of<P: Pal>(node: &Node<'_, P>, message: &Message<'_>) -> LateReply {
        match message {
            Message::AllocIdRange => LateReply::ReleaseRange,
            Message::ChangeIdOwner { id, .. } => LateReply::TransferId(*id),
            Message::FileLockSet(lock) | Message::FileLockDelegate(lock)
                if lock.kind != LockKind::Unlock && node.has_extensions() =>
            {
                LateReply::Cancel
            }
            _ => LateReply::Drop,
        }
    }
}

impl Call {
    /// Begins a call: allocates its waiter. The end of this process fails the calls that wait at that
    /// time; a request that came later would get no answer, so this refuses it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the message has no answer, [`Error::Full`] without a waiter.
    #[inline]
    pub(super) fn begin<P: Pal>(
        node: &Node<'_, P>,
        dest: Vmid,
        message: &Message<'_>,
        now: Time,
    ) -> Result<Call, Error> {
        let code = message.code();
        let expected = Expected::of(code).ok_or(Error::Invalid(Invalid::Message))?;
        let late = LateReply::of(node, message);
        let what = (WaitReason::Answer(code), now);
        let is_open_ended = matches!(
            message,
            Message::FileLockSet(lock) | Message::FileLockDelegate(lock)
                if lock.wait && lock.kind != LockKind::Unlock
        );
        let is_for_leader = node.follows() && is_for_leader(message);
        let form = Some((expected, is_for_leader));
        let token = node.waiters.claim(dest, what, form, late, is_open_ended)?;
        if node.has_ended() {
            node.waiters.release(token);
            return Err(Error::ShuttingDown);
        }
        Ok(Call {
            dest,
            code,
            token,
            late,
            step: Step::Unsent,
        })
    }

    /// Records that the request has reached this process itself, which answers it later.
    pub(super) fn mark_sent(&mut self) {
        self.step = Step::Sent;
    }

    /// Puts the request into the send queue of the peer, if there is room. A call that `may_wait` is
    /// woken when there is room.
    ///
    /// # Errors
    /// As [`Node::put`].
    #[inline]
    pub(super) fn poll_send<'m, P: Pal>(
        &mut self,
        node: &Node<'m, P>,
        peer: &PeerRef<'_, 'm, P::Stream>,
        message: &Message<'_>,
        may_wait: bool,
    ) -> Result<(), Error> {
        loop {
            if matches!(self.step, Step::AwaitsRoom) {
                // Another process leads by now: the request is made again there.
                if node.redirected(self.dest, message) != self.dest {
                    return Err(Error::NoSuchProcess);
                }
                // The flag is set before the queue is checked: a thread that makes room after the
                // check sees the flag.
                peer.room_wanted.store(true, Ordering::SeqCst);
            }
            match node.put(peer, self.token.seq, message) {
                Ok(()) => {
                    if matches!(self.step, Step::AwaitsRoom) {
                        node.waiters
                            .set_reason(self.token, WaitReason::Answer(self.code));
                    }
                    self.step = Step::Sent;
                    node.flush(peer);
                    return Ok(());
                }
                Err(Error::Full(Resource::SendQueue)) if may_wait => {
                    if matches!(self.step, Step::AwaitsRoom) {
                        return Ok(());
                    }
                    self.step = Step::AwaitsRoom;
                    node.flush(peer);
                    node.waiters.set_reason(self.token, WaitReason::Room);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the outcome, if it has come, and frees the waiter. The data of the answer goes to
    /// `data`.
    pub(super) fn poll_answer<P: Pal>(
        &self,
        node: &Node<'_, P>,
        data: &mut ReplyData<'_>,
    ) -> Option<Result<Answer<'static>, Error>> {
        let outcome = node.waiters.take_outcome(self.token, data);
        if let Step::Cancelling { error, .. } = &self.step
            && let Some(Ok(Answer::Status(Err(Errno::EINTR)))) = &outcome
        {
            return Some(Err(*error));
        }
        outcome
    }

    /// Ends the wait with `error`. A request for a lock is cancelled first, and then the outcome comes
    /// later: only the confirmation, or the end of the connection, shows that the peer holds no lock
    /// for this process that this process does not know of.
    pub(super) fn interrupt<'m, P: Pal>(
        &mut self,
        node: &Node<'m, P>,
        peer: Option<&PeerRef<'_, 'm, P::Stream>>,
        error: Error,
        data: &mut ReplyData<'_>,
    ) -> Option<Result<Answer<'static>, Error>> {
        match self.step {
            Step::Unsent | Step::AwaitsRoom => return Some(Err(self.end_unsent(node, error))),
            Step::Sent if self.late != LateReply::Cancel => {
                let ended = node.waiters.abandon(self.token, data);
                return Some(ended.unwrap_or(Err(error)));
            }
            Step::Sent => {
                self.step = Step::Cancelling {
                    error,
                    give_up_at: node.now() + node.config.recall_limit,
                    next: Deadline::Never,
                };
            }
            Step::Cancelling { .. } => {}
        }
        self.cancel(node, peer);
        None
    }

    /// Runs the call until it must wait. `to` is the peer and the request that it gets; none for a
    /// request that was made already. With an error the caller's wait ends. Returns the outcome, once.
    #[inline]
    pub(super) fn step<'m, P: Pal>(
        &mut self,
        node: &Node<'m, P>,
        peer: Option<&PeerRef<'_, 'm, P::Stream>>,
        message: Option<&Message<'_>>,
        limit: Option<Error>,
        may_wait: bool,
        data: &mut ReplyData<'_>,
    ) -> Option<Result<Answer<'static>, Error>> {
        if let Some(error) = limit
            && let Some(outcome) = self.interrupt(node, peer, error, data)
        {
            return Some(outcome);
        }
        if let (Some(peer), Some(message)) = (peer, message)
            && !self.is_sent()
        {
            match self.poll_send(node, peer, message, may_wait) {
                Err(error) => return Some(Err(self.end_unsent(node, error))),
                // A failure that came before has notified the waiter, so the caller polls again at once.
                Ok(()) if self.is_sent() => return None,
                Ok(()) => {}
            }
        }
        self.poll_answer(node, data)
    }

    /// Frees the waiter of a request that was not sent, and returns the error of the call.
    fn end_unsent<P: Pal>(&self, node: &Node<'_, P>, error: Error) -> Error {
        node.waiters.release(self.token);
        if matches!(error, Error::TimedOut | Error::Interrupted) {
            node.handle_unsent(self.late);
        }
        error
    }

    /// Sends the cancellation; again if there was no room before. Closes the connection if the peer
    /// has not confirmed it in time.
    fn cancel<'m, P: Pal>(
        &mut self,
        node: &Node<'m, P>,
        peer: Option<&PeerRef<'_, 'm, P::Stream>>,
    ) {
        let seq = self.token.seq;
        let Step::Cancelling {
            give_up_at, next, ..
        } = &mut self.step
        else {
            return;
        };
        let now = node.now();
        let cancellation = Message::FileLockCancel(seq);
        // The request has followed to the process that leads by now.
        let asked = peer.map(PeerRef::vmid);
        let dest = asked.map(|asked| node.redirected(asked, &cancellation));
        let dest = dest.filter(|dest| *dest != node.identity.vmid);
        let Some(dest) = dest else {
            if node.executes_kept_frames() {
                // The request may be among them.
                *next = Deadline::At(now + TRY_AGAIN);
                return;
            }
            // After its end the process has no request any more; the waiter has the error.
            let _ = node.handle_own(0, &cancellation);
            *next = Deadline::Never;
            return;
        };
        let successor = if Some(dest) == asked {
            None
        } else {
            node.peers.find_or_add(dest).ok()
        };
        // A successor has the full time to confirm it.
        let renewed = node.succession_until() + node.config.recall_limit;
        *give_up_at = renewed.max(*give_up_at);
        let is_sent = |peer| node.put(peer, 0, &cancellation).is_ok();
        *next = match successor.as_ref().or(peer) {
            Some(peer) if now >= *give_up_at => {
                node.disconnect_peer(peer);
                Deadline::Never
            }
            Some(peer) if is_sent(peer) => {
                node.flush(peer);
                Deadline::At(*give_up_at)
            }
            // Until there may be room for the cancellation.
            _ => Deadline::At((*give_up_at).min(now + TRY_AGAIN)),
        };
    }

    /// Reserves what [`Call::abandon`] needs.
    ///
    /// # Errors
    /// [`Error::Full`] without a reply buffer for the path of a lock, or if the path is longer than that; then
    /// the call has ended.
    pub(super) fn reserve_for_drop<P: Pal>(
        &self,
        node: &Node<'_, P>,
        message: &Message<'_>,
    ) -> Result<(), Error> {
        if requested(message).is_none() {
            return Ok(());
        }
        let missing = if message.length() > BUFFER_LENGTH {
            Resource::FrameLength
        } else if node.waiters.reserve_buffer(self.token) {
            return Ok(());
        } else {
            Resource::ReplyBuffers
        };
        node.waiters.release(self.token);
        Err(Error::Full(missing))
    }

    /// Ends the call without an outcome, and without waiting for the confirmation of a cancellation.
    pub(super) fn abandon<P: Pal>(&self, node: &Node<'_, P>, message: &Message<'_>) {
        match requested(message) {
            Some(lock) if self.is_sent() => node.drop_lock_request(self.token, lock),
            None if self.is_sent() => {
                node.waiters.abandon(self.token, &mut ReplyData::none());
            }
            lock => {
                self.end_unsent(node, Error::Interrupted);
                if let Some((_, delegation)) = lock
                    && delegation != 0
                {
                    node.handle_delegation_answer(delegation, &Answer::Empty);
                }
            }
        }
    }

    /// Records the begin among the events.
    pub(super) fn record_begin<P: Pal>(&self, node: &Node<'_, P>) {
        node.events.call_begun(self.dest, self.code, self.token.seq);
    }

    /// Records the outcome among the events.
    pub(super) fn record_end<P: Pal>(
        &self,
        node: &Node<'_, P>,
        outcome: &Result<Answer<'static>, Error>,
    ) {
        let events = &node.events;
        events.call_ended(self.dest, self.code, self.token.seq, outcome);
    }

    fn is_sent(&self) -> bool {
        !matches!(self.step, Step::Unsent | Step::AwaitsRoom)
    }

    pub(super) fn progress(&self) -> Progress {
        match self.step {
            Step::Unsent | Step::AwaitsRoom => Progress::Pending(None),
            Step::Sent => Progress::Pending(Some(Wake::Bytes)),
            Step::Cancelling { next, .. } => Progress::Finishing(next),
        }
    }
}
