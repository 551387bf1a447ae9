//! The replies of the library OS to requests of other processes.

use core::ffi::CStr;

use super::succession::{KeepOutcome, keep_answer};
use super::{Node, PeerRef};
use crate::Vmid;
use crate::error::{Errno, Error};
use crate::invariant::Count;
use crate::leader::Signals;
use crate::member::KeptFrames;
use crate::pal::Pal;
use crate::wire::{Answer, PATH_MAX};

/// The reply to a signal; it is sent once. The send queue of the peer keeps room for it until it is
/// sent or the peer is gone, so the peer can have fewer other requests pending.
#[derive(Clone, Copy, Debug)]
#[must_use = "the peer waits for this reply"]
pub struct SignalReply {
    pub(crate) to: Vmid,
    pub(crate) seq: u64,
}

impl SignalReply {
    /// The bytes that the send queue keeps for the reply.
    pub(crate) const ROOM: usize = Answer::DONE.length();

    /// Sends the reply: success, or an error number.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if the peer is gone.
    pub fn send<P: Pal>(self, node: &Node<'_, P>, outcome: Result<(), Errno>) -> Result<(), Error> {
        let answer = Answer::Status(outcome.map(|()| 0));
        node.reply(self.to, self.seq, &answer, Self::ROOM)
    }
}

/// The answer to a request for metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Metadata<'a> {
    /// The user ID and the group ID of the process.
    Credentials {
        /// The user ID.
        uid: u32,
        /// The group ID.
        gid: u32,
    },
    /// The path that the peer requested, at most [`PATH_MAX`] bytes with its NUL.
    Path(&'a CStr),
}

/// The reply to a request for metadata; it is sent once, as [`SignalReply`].
#[derive(Clone, Copy, Debug)]
#[must_use = "the peer waits for this reply"]
pub struct MetadataReply {
    pub(crate) to: Vmid,
    pub(crate) seq: u64,
}

impl MetadataReply {
    /// The bytes that the send queue keeps for the reply.
    pub(crate) const ROOM: usize = Answer::LONGEST_META;

    /// Sends the reply: the data, or an error number. A path that is too long becomes
    /// `ENAMETOOLONG`.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if the peer is gone.
    pub fn send<P: Pal>(
        self,
        node: &Node<'_, P>,
        outcome: Result<Metadata<'_>, Errno>,
    ) -> Result<(), Error> {
        let numbers;
        let data = match outcome {
            Err(errno) => Err(errno),
            Ok(Metadata::Credentials { uid, gid }) => {
                numbers = (u64::from(gid) << 32 | u64::from(uid)).to_le_bytes();
                Ok(numbers.as_slice())
            }
            Ok(Metadata::Path(path)) if path.count_bytes() < PATH_MAX => {
                Ok(path.to_bytes_with_nul())
            }
            Ok(Metadata::Path(_)) => Err(Errno::ENAMETOOLONG),
        };
        node.reply(self.to, self.seq, &Answer::Meta(data), Self::ROOM)
    }
}

impl<'m, P: Pal> Node<'m, P> {
    /// Queues the reply to a request that went to the embedder. `room` bytes were reserved for it.
    pub(super) fn reply(
        &self,
        to: Vmid,
        seq: u64,
        answer: &Answer<'_>,
        room: usize,
    ) -> Result<(), Error> {
        if seq == 0 {
            return Ok(());
        }
        // The answer to a signal that came through the leader goes to its successor.
        let to = if self.follows() && Signals::is_forwarded(seq) {
            self.leader_vmid()
        } else {
            to
        };
        if to == self.identity.vmid {
            if self.answer_own_signal(seq, answer) {
                return Ok(());
            }
            let delivery = self.waiters.answer_here(to, seq, answer);
            self.finish_delivery(&delivery);
            return Ok(());
        }
        let peer = self.peers.find(to).ok_or(Error::NoSuchProcess)?;
        if self.queue_reply(&peer, seq, answer, room)? {
            self.flush(&peer);
        } else {
            self.disconnect_peer(&peer);
        }
        // The worker may have paused the reads of this peer's requests because there was no room.
        if peer.reads_paused.load(crate::sync::Ordering::SeqCst) {
            self.call_worker(&peer);
        }
        Ok(())
    }

    /// As the leader: handles its own process's answer to a signal that came through an earlier leader. Returns
    /// false if the answer is to something else.
    fn answer_own_signal(&self, seq: u64, answer: &Answer<'_>) -> bool {
        if !Signals::is_forwarded(seq) {
            return false;
        }
        if let Answer::Status(result) = answer {
            self.signal_answered(self.identity.vmid, seq, result.map(drop));
        }
        true
    }

    /// Puts the reply into the send queue of the peer, which keeps `room` bytes for it. Returns false if the
    /// answer is invalid, or the peer has made more requests than it may: then the caller disconnects it.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if the peer is gone.
    pub(super) fn queue_reply(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        answer: &Answer<'_>,
        room: usize,
    ) -> Result<bool, Error> {
        let too_long = Answer::Meta(Err(Errno::EMSGSIZE));
        let answer = if peer.accepts_length(answer.length()) {
            answer
        } else {
            &too_long
        };
        let kept = if self.follows() {
            self.answer_to_leader(peer.vmid(), seq)
        } else {
            None
        };
        let mut is_mark_due = false;
        let pushed = {
            let mut queue = peer.queue.lock();
            let length = answer.length();
            let keep = |kept: &mut KeptFrames<'m>| keep_answer(kept, seq, answer);
            let keeping = match kept.map(|kept| kept.check(length, queue.closed, keep)) {
                None => None,
                Some(Ok(KeepOutcome::Queue(keeping))) => Some(keeping),
                Some(Ok(KeepOutcome::Kept)) => return Ok(true),
                // The leader has sent more signals than it may.
                Some(Err(Error::Full(_))) => return Ok(false),
                Some(Err(error)) => return Err(error),
            };
            // The room for an answer to the leader was reserved at the one that has asked.
            let is_moved = keeping.is_some() && queue.reserved < room;
            let is_short = if is_moved {
                queue.room() < length
            } else {
                queue.reserved < room
            };
            if queue.closed || is_short {
                return Err(Error::NoSuchProcess);
            }
            if !is_moved {
                queue.reserved = queue.reserved.minus(room);
            }
            self.queue_hello_first(peer, &mut queue);
            let pushed = queue.filling.push_answer(seq, answer).is_ok();
            queue.record_push();
            if let Some(keeping) = keeping
                && pushed
            {
                is_mark_due = keeping.record(&queue, length);
            }
            pushed
        };
        if is_mark_due {
            self.mark_if_due(peer);
        }
        if pushed {
            self.trace_answer_tx(peer.vmid(), seq, answer);
        }
        Ok(pushed)
    }
}
