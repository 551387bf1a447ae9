//! The frames to the leader that a member keeps until their arrival is proven.

use super::following::{Following, Stage};
use super::frame_kinds::{is_counted, is_for_members, is_for_parent, is_look_up};
use crate::Vmid;
use crate::error::{Error, Resource};
use crate::invariant::{Count, OrBroken};
use crate::leader::{MAX_UNANSWERED, Signals};
use crate::member::KeptFrames;
use crate::node::connection::SendQueue;
use crate::node::{ANSWER_RESERVE, Node, PeerRef};
use crate::pal::Pal;
use crate::store::SpinLockGuard;
use crate::sync::{AtomicU32, Ordering};
use crate::wire::{Answer, Message};

/// The bytes for answers that requests leave free among the kept frames. At most [`MAX_UNANSWERED`] answers come until a
/// MARK finds room in the send queue, since none of them arrives meanwhile, as many until it is answered, and as many until
/// the next one is.
const ANSWERS_KEPT: usize = 4 * MAX_UNANSWERED as usize * Answer::DONE.length();

/// A frame to the leader, before it is put into the leader's send queue: who leads, and whether a copy is kept.
#[derive(Clone, Copy)]
pub(in crate::node) struct FrameToLeader<'f, 'm> {
    following: &'f Following<'m>,
    leader: &'f AtomicU32,
    to: Vmid,
    is_counted: bool,
    is_answer: bool,
    seq: u64,
}

/// The result of [`FrameToLeader::check`].
pub(in crate::node) enum KeepOutcome<'f, 'm> {
    /// The caller queues the frame, and then [records](KeepGuard::record) it.
    Queue(KeepGuard<'f, 'm>),
    /// There is no leader at present: the copy is kept, and is sent to the next leader.
    Kept,
}

/// The kept frames, locked until a frame is queued.
pub(in crate::node) struct KeepGuard<'f, 'm> {
    kept: SpinLockGuard<'f, KeptFrames<'m>>,
    is_counted: bool,
    seq: u64,
}

impl KeepGuard<'_, '_> {
    /// Records that the frame is the last one in the queue. Returns true if the leader is to be asked
    /// for a MARK ([`Node::mark_if_due`]).
    #[inline]
    pub(in crate::node) fn record(mut self, queue: &SendQueue<'_>, length: usize) -> bool {
        if self.is_counted {
            let queued = queue.filling.unsent();
            let start = queued.len().minus(length);
            self.kept.keep(queued.get(start..).or_broken(&[]));
        }
        if self.seq != 0 {
            self.kept.note_request(self.seq, self.is_counted);
        }
        self.kept.mark_due().is_some()
    }
}

impl<'f, 'm> FrameToLeader<'f, 'm> {
    /// Decides on a frame before it is put into the queue of the leader, which the caller has locked.
    ///
    /// # Errors
    /// [`Error::Full`] if there is no room to keep the frame, or, for a look-up, if there is no leader at
    /// present.
    /// [`Error::NoSuchProcess`] if another process leads by now.
    pub(in crate::node) fn check(
        self,
        length: usize,
        is_closed: bool,
        encode: impl FnOnce(&mut KeptFrames<'m>) -> bool,
    ) -> Result<KeepOutcome<'f, 'm>, Error> {
        let full = Error::Full(Resource::SendQueue);
        let mut kept = self.following.kept.lock();
        // The leader changes under this lock, and then the waiters of the frames that are kept follow.
        if self.leader.load(Ordering::SeqCst) != self.to.get() {
            return Err(Error::NoSuchProcess);
        }
        // An answer finds room, since requests leave some.
        let reserve = if self.is_answer { 0 } else { ANSWERS_KEPT };
        if self.is_counted && !kept.has_room(length.plus(reserve)) {
            return Err(full);
        }
        if self.following.stage() == Stage::Led && !is_closed {
            return Ok(KeepOutcome::Queue(KeepGuard {
                kept,
                is_counted: self.is_counted,
                seq: self.seq,
            }));
        }
        if !self.is_counted || !encode(&mut kept) {
            return Err(full);
        }
        if self.seq != 0 {
            kept.note_request(self.seq, true);
        }
        Ok(KeepOutcome::Kept)
    }
}

impl<'m, P: Pal> Node<'m, P> {
    /// Returns the message to that process as a frame to the leader: `None` if the message is not for the leader, or this
    /// process does not follow the succession.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if another process leads by now, which may be this one: that process would not execute
    /// the message, even if it still reads its streams.
    #[inline(never)]
    pub(in crate::node) fn frame_to_leader(
        &self,
        to: Vmid,
        seq: u64,
        message: &Message<'_>,
    ) -> Result<Option<FrameToLeader<'_, 'm>>, Error> {
        let Some(following) = self.leadership.following() else {
            return Ok(None);
        };
        let is_counted = is_counted(message);
        if !is_counted && !is_look_up(message) {
            return Ok(None);
        }
        if Some(to) == self.led_by() {
            return Ok(Some(FrameToLeader {
                following,
                leader: &self.leadership.leader,
                to,
                is_counted,
                is_answer: false,
                seq,
            }));
        }
        // A call of this process that began before it led has a number, and is made again.
        let is_as_leader = seq == 0 && self.leads() && is_for_members(message);
        if is_for_parent(message) || is_as_leader {
            Ok(None)
        } else {
            Err(Error::NoSuchProcess)
        }
    }

    /// Returns an answer of this process to the leader's request `seq` as a frame to the leader: `None` if the process
    /// that asked does not lead, or the request is not a forwarded signal.
    #[inline(never)]
    pub(in crate::node) fn answer_to_leader(
        &self,
        to: Vmid,
        seq: u64,
    ) -> Option<FrameToLeader<'_, 'm>> {
        let following = self.leadership.following()?;
        (Some(to) == self.led_by() && Signals::is_forwarded(seq)).then_some(FrameToLeader {
            following,
            leader: &self.leadership.leader,
            to,
            is_counted: true,
            is_answer: true,
            seq: 0,
        })
    }

    /// Records that an answer of the leader came: the frames before its request have arrived.
    pub(super) fn note_answer(
        &self,
        following: &Following<'m>,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
    ) {
        if Some(peer.vmid()) == self.led_by() {
            following.kept.lock().on_answer(seq);
            self.notify_kept_room(peer);
        }
    }

    /// Wakes the calls that wait for room to keep their frames.
    pub(super) fn notify_kept_room(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        if peer.room_wanted.load(Ordering::SeqCst) && peer.room_wanted.swap(false, Ordering::SeqCst)
        {
            self.waiters.wake_for_room(peer.vmid());
        }
    }

    /// Asks the leader to confirm what it has taken, when half of the room for kept frames is full. Returns true if
    /// that was queued.
    #[cold]
    #[inline(never)]
    pub(in crate::node) fn mark_if_due(&self, peer: &PeerRef<'_, 'm, P::Stream>) -> bool {
        let Some(following) = self.following() else {
            return false;
        };
        if !following.is_shared.load(Ordering::SeqCst) || following.stage() != Stage::Led {
            return false;
        }
        Self::ask_for_mark(following, peer, KeptFrames::mark_due)
    }

    /// Queues a MARK with the number that `due` returns, if there is one and room for it. Returns true if it was
    /// queued.
    pub(super) fn ask_for_mark(
        following: &Following<'m>,
        peer: &PeerRef<'_, 'm, P::Stream>,
        due: fn(&KeptFrames<'m>) -> Option<u64>,
    ) -> bool {
        let mut queue = peer.queue.lock();
        let mut kept = following.kept.lock();
        let Some(number) = due(&kept) else {
            return false;
        };
        let mark = Message::Mark(number);
        let is_queued = !queue.closed
            && queue.room() >= mark.length().plus(ANSWER_RESERVE)
            && queue.filling.push(0, &mark).is_ok();
        if is_queued {
            queue.record_push();
            kept.record_mark(number);
        }
        is_queued
    }

    /// Handles a MARK of the leader: it has handled all frames up to that number.
    pub(in crate::node) fn handle_mark(&self, peer: &PeerRef<'_, 'm, P::Stream>, number: u64) {
        if let Some(following) = self.following() {
            following.kept.lock().on_mark(number);
            self.notify_kept_room(peer);
            self.notify_shutdown();
        }
    }

    /// At the end of this node: returns true if the leader, or its successor, has handled all frames. If not, asks it to
    /// confirm that. After the end of its process nothing matters that is left.
    pub(in crate::node) fn has_leader_handled_all(&self) -> bool {
        let Some(following) = self.following() else {
            return true;
        };
        if !following.is_shared.load(Ordering::SeqCst) || self.has_ended() || self.has_lost_leader()
        {
            return true;
        }
        if following.stage() != Stage::Led {
            return false;
        }
        let has_all = self.send_all_client_messages() && following.kept.lock().is_proven();
        if !has_all && let Some(peer) = self.peers.find(self.leader_vmid()) {
            Self::ask_for_mark(following, &peer, KeptFrames::mark_at_end);
            self.try_flush(&peer);
        }
        has_all
    }
}

/// Encodes a frame into the kept ones. Returns false if it can't be encoded.
pub(in crate::node) fn keep_message(
    kept: &mut KeptFrames<'_>,
    seq: u64,
    message: &Message<'_>,
) -> bool {
    kept.keep_with(message.length(), |buffer| message.encode(seq, buffer))
}

/// Like [`keep_message`], of an answer.
pub(in crate::node) fn keep_answer(
    kept: &mut KeptFrames<'_>,
    seq: u64,
    answer: &Answer<'_>,
) -> bool {
    kept.keep_with(answer.length(), |buffer| answer.encode(seq, buffer))
}
