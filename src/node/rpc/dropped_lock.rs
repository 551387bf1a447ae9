//! Requests for file locks whose future was dropped.
//!
//! The leader may grant such a request before the cancellation arrives, and then the lock must be given back. So
//! the waiter of the request stays allocated, with an unlock of the same range in its reply buffer, until the
//! outcome is known. Meanwhile the calls of this process about file locks wait: an unlock that came after one of
//! them could release the lock which that call has set.

use super::reply_buffers::ReplyData;
use super::wait::{Limits, Wait};
use super::wait_reason::WaitReason;
use super::waiter::{DroppedLock, LateReply, WaitPhase, WaitToken};
use super::waiters::Waiters;
use crate::error::Error;
use crate::invariant::broken;
use crate::node::Node;
use crate::pal::{Deadline, Event, Pal, Time};
use crate::store::Buffer;
use crate::sync::Ordering;
use crate::wire::{Answer, FileLock, Frame, LockKind, Message, codes};

/// Returns the lock that the message requests, and the number of the delegation that it requests with it.
pub(super) fn requested<'a>(message: &Message<'a>) -> Option<(FileLock<'a>, u64)> {
    match *message {
        _ if cfg!(static_library) => None,
        Message::FileLockSet(lock) => Some((lock, 0)),
        Message::FileLockDelegate(lock) => Some((FileLock { handle: 0, ..lock }, lock.handle)),
        _ => None,
    }
    .filter(|(lock, _)| lock.kind != LockKind::Unlock)
}

impl<'m, E: Event> Waiters<'m, E> {
    /// Returns the number of requests for locks whose future was dropped, and whose outcome is not
    /// known.
    #[inline]
    pub(in crate::node) fn dropped_locks(&self) -> u32 {
        // The functions of the static library make no futures.
        if cfg!(static_library) {
            return 0;
        }
        self.dropped_locks.load(Ordering::SeqCst)
    }

    /// Reserves a reply buffer for a request for a lock that may be dropped. Returns false if none
    /// is free.
    pub(super) fn reserve_buffer(&self, token: WaitToken) -> bool {
        let Some(waiter) = self.slots.get(token.slot()) else {
            return false;
        };
        // The lock of the buffers comes after that of the waiter.
        let mut state = waiter.state.lock();
        state.buffer = self.alloc_buffer();
        state.buffer.is_some()
    }

    /// Drops the request for a lock. Returns the answer if it has come.
    pub(super) fn drop_lock(
        &self,
        token: WaitToken,
        (lock, delegation): (FileLock<'_>, u64),
        now: Time,
    ) -> Option<Answer<'static>> {
        let waiter = self.slots.get(token.slot())?;
        let mut state = waiter.state.lock();
        let answer = match state.phase {
            WaitPhase::Answered(answer) => Some(answer),
            WaitPhase::ForAnswer => None,
            _ => {
                drop(state);
                self.release(token);
                return None;
            }
        };
        let unlock = Message::FileLockSet(FileLock {
            kind: LockKind::Unlock,
            wait: false,
            ..lock
        });
        if let Some(buffer) = &mut state.buffer {
            let length = unlock.length();
            // The request has reserved a buffer that holds it.
            let _ = unlock.encode(token.seq, buffer.prefix_mut(length));
            state.length = length;
        }
        state.phase = WaitPhase::Abandoned;
        state.since = now;
        state.late = LateReply::Lock(DroppedLock::Cancel { delegation });
        self.dropped_locks.fetch_add(1, Ordering::SeqCst);
        let target = waiter.task.take_target();
        drop(state);
        drop(target);
        answer
    }

    /// Returns the state of the dropped request in that slot.
    fn dropped_lock(&self, slot: usize) -> Option<(DroppedLock, Time, WaitToken)> {
        let waiter = self.slots.get(slot)?;
        let state = waiter.state.lock();
        match (state.phase, state.late) {
            (WaitPhase::Abandoned, LateReply::Lock(dropped)) => {
                Some((dropped, state.since, WaitToken::new(slot, state.seq)))
            }
            _ => None,
        }
    }

    fn set_dropped_lock(&self, token: WaitToken, dropped: DroppedLock) {
        if let Some(waiter) = self.slots.get(token.slot()) {
            waiter.state.lock().late = LateReply::Lock(dropped);
        }
    }

    /// Begins the unlock after a dropped request that was granted. The unlock gets a number of its own, because the next
    /// leader may send the answer to the request again.
    fn begin_unlock(&self, token: WaitToken) {
        if let Some(waiter) = self.slots.get(token.slot()) {
            let mut state = waiter.state.lock();
            state.seq = self.next_seq(token.slot(), state.seq);
            state.late = LateReply::Lock(DroppedLock::Unlock);
        }
    }

    /// Takes the frame of the unlock.
    fn take_unlock(&self, token: WaitToken) -> Option<(Buffer<'m>, usize)> {
        let mut state = self.slots.get(token.slot())?.state.lock();
        let length = state.length;
        Some((state.buffer.take()?, length))
    }

    /// Gives the frame of the unlock back.
    fn put_unlock(&self, token: WaitToken, buffer: Buffer<'m>) {
        if let Some(waiter) = self.slots.get(token.slot()) {
            waiter.state.lock().buffer = Some(buffer);
        }
    }

    /// Records that the outcome of a dropped request is known, or that its leader is gone.
    pub(super) fn count_dropped_lock_end(&self) {
        self.dropped_locks.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<P: Pal> Node<'_, P> {
    /// Handles that the future of a request for a lock, which was sent, is dropped.
    pub(super) fn drop_lock_request(&self, token: WaitToken, lock: (FileLock<'_>, u64)) {
        let delegation = lock.1;
        if let Some(answer) = self.waiters.drop_lock(token, lock, self.now()) {
            return self.dropped_lock_answered(token, delegation, &answer);
        }
        if !self.send_dropped_locks() {
            self.defer_member_output();
        }
        // The worker enforces the time limit.
        self.wake();
    }

    /// Handles an answer to a dropped request for a lock, or to the unlock after it.
    pub(in crate::node) fn handle_dropped_lock(
        &self,
        token: WaitToken,
        dropped: DroppedLock,
        answer: &Answer<'_>,
    ) {
        match dropped {
            DroppedLock::Cancel { delegation } | DroppedLock::Sent { delegation } => {
                self.dropped_lock_answered(token, delegation, answer);
            }
            DroppedLock::Unlock | DroppedLock::Unlocked => self.end_dropped_lock(token),
        }
    }

    fn dropped_lock_answered(&self, token: WaitToken, delegation: u64, answer: &Answer<'_>) {
        // A delegation that was granted has set no lock.
        let is_delegated = delegation != 0 && self.handle_delegation_answer(delegation, answer);
        if is_delegated || !matches!(answer, Answer::Status(Ok(_))) {
            return self.end_dropped_lock(token);
        }
        self.waiters.begin_unlock(token);
        if !self.send_dropped_locks() {
            self.defer_member_output();
        }
    }

    fn end_dropped_lock(&self, token: WaitToken) {
        self.waiters.finish(token, &mut ReplyData::none());
        self.waiters.count_dropped_lock_end();
        // The calls that wait for this.
        self.waiters.wake_for_room(self.leader_vmid());
    }

    /// Sends the cancellations and unlocks of dropped requests. Returns false if there is no room for one
    /// of them.
    pub(in crate::node) fn send_dropped_locks(&self) -> bool {
        if self.waiters.dropped_locks() == 0 {
            return true;
        }
        let mut all = true;
        for (slot, _) in self.waiters.in_use() {
            let Some((dropped, _, token)) = self.waiters.dropped_lock(slot) else {
                continue;
            };
            all &= match dropped {
                DroppedLock::Cancel { delegation } => {
                    self.waiters
                        .set_dropped_lock(token, DroppedLock::Sent { delegation });
                    let sent = self.send_to_leader(0, &Message::FileLockCancel(token.seq));
                    if !sent {
                        let again = DroppedLock::Cancel { delegation };
                        self.waiters.set_dropped_lock(token, again);
                    }
                    sent
                }
                DroppedLock::Unlock => self.send_unlock(token),
                DroppedLock::Sent { .. } | DroppedLock::Unlocked => true,
            };
        }
        all
    }

    /// Sends the unlock of a dropped request that was granted. Returns false if there is no room.
    fn send_unlock(&self, token: WaitToken) -> bool {
        // Another thread may be sending it.
        let Some((buffer, length)) = self.waiters.take_unlock(token) else {
            return true;
        };
        let bytes = buffer.initialized().get(..length);
        let frame = bytes.and_then(|bytes| Frame::parse(bytes, length).ok().flatten());
        let message = frame.and_then(|frame| frame.message().ok());
        let Some(message) = message else {
            // The frame is this process's own.
            broken();
            self.end_dropped_lock(token);
            return true;
        };
        let is_own = self.leads();
        if !is_own {
            self.waiters.set_dropped_lock(token, DroppedLock::Unlocked);
        }
        let sent = (is_own || self.try_return_files()) && self.send_to_leader(token.seq, &message);
        if !sent {
            self.waiters.set_dropped_lock(token, DroppedLock::Unlock);
        }
        self.waiters.put_unlock(token, buffer);
        if sent && is_own {
            self.end_dropped_lock(token);
        }
        sent
    }

    /// Sends a message to the leader, which may be this process. Returns false if there is no room.
    /// Without the leader nothing is left to do.
    fn send_to_leader(&self, seq: u64, message: &Message<'_>) -> bool {
        if self.leads() {
            if self.executes_kept_frames() {
                // The request may be among them.
                return false;
            }
            // The leader reclaims the locks of its own process when that ends.
            let _ = self.handle_own(0, message);
            return true;
        }
        let leader = self.leader_vmid();
        let peer = if self.awaits_successor() {
            // Its successor gets the message, if it has ended.
            self.peers.find_or_add(leader).ok()
        } else {
            self.peers.find(leader)
        };
        let Some(peer) = peer else {
            return true;
        };
        let put = self.put(&peer, seq, message);
        self.flush(&peer);
        match put {
            Ok(()) => true,
            Err(Error::Full(_)) => false,
            // Its successor gets it.
            Err(error) => !self.is_moved(leader, message, error),
        }
    }

    /// Closes the connection to a leader of this crate that has not confirmed in time that a dropped request
    /// holds no lock. Returns when to run again, if before `until`.
    pub(in crate::node) fn poll_dropped_locks(&self, until: Deadline) -> Deadline {
        if self.waiters.dropped_locks() == 0 || self.leads() || !self.has_extensions() {
            return until;
        }
        let now = self.pal.now();
        let mut next = until;
        for (slot, _) in self.waiters.in_use() {
            let Some((_, since, _)) = self.waiters.dropped_lock(slot) else {
                continue;
            };
            // A successor has the full time to confirm it.
            let limit = since.max(self.succession_until()) + self.config.recall_limit;
            if now < limit {
                next = next.min(Deadline::At(limit));
            } else if let Some(peer) = self.peers.find(self.leader_vmid()) {
                self.disconnect_peer(&peer);
            }
        }
        next
    }
}

impl<P: Pal> Node<'_, P> {
    /// Begins a call about file locks, which first waits until the outcomes of all dropped requests for locks
    /// are known: the returned limit is for all of it together.
    #[inline]
    pub(in crate::node) fn begin_lock_call<'w>(&self, wait: Wait<'w>) -> Wait<'w> {
        if self.waiters.dropped_locks() == 0 {
            wait
        } else {
            self.begin(wait)
        }
    }
}

calls! {
    /// Waits until the outcomes of all dropped requests for locks are known.
    ///
    /// # Errors
    /// As `wait` says; [`Error::LeaderGone`].
    fn await_dropped_locks(&self, wait: Wait<'_>) -> Result<(), Error> {
        if self.waiters.dropped_locks() == 0 {
            return Ok(());
        }
        let limits = Limits::of(wait, &self.pal);
        let what = WaitReason::Answer(codes::FILE_LOCK_CANCEL);
        wait!(self.wait_for_leader(what, limits, &mut || {
            (self.waiters.dropped_locks() == 0).then_some(Ok(()))
        }))
    }
}
