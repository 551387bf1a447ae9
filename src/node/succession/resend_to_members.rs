//! The new leader sends the members the frames of the old leader that they have not received.

use super::following::Following;
use super::take_over::PROBE_AGAIN;
use crate::invariant::{Count, OrBroken};
use crate::node::{ANSWER_RESERVE, Node, PeerRef};
use crate::pal::{Deadline, Pal};
use crate::sync::Ordering;
use crate::wire::{Answer, Message};

/// The content of a frame that a new leader keeps for a member that has not rejoined yet.
#[derive(Clone, Copy)]
pub(in crate::node) enum Resent<'a> {
    Answer(&'a Answer<'a>),
    Message(&'a Message<'a>),
}

impl<'m, P: Pal> Node<'m, P> {
    /// As a new leader: returns true if a member has not rejoined the family yet.
    pub(super) fn awaits_members(&self) -> bool {
        self.peers.all().any(|peer| peer.awaits_rejoin())
    }

    /// Sends again what members have not received, as far as there is room.
    pub(super) fn poll_resends(&self, following: &Following<'m>, until: Deadline) -> Deadline {
        if following.resending.load(Ordering::SeqCst) == 0 {
            return until;
        }
        let mut until = until;
        for peer in self.peers.all() {
            if !peer.rejoin.is_resending.load(Ordering::SeqCst) {
                continue;
            }
            if self.resend(&peer) {
                following.resending.fetch_sub(1, Ordering::SeqCst);
                following.rejoined_at.store(self.now().0, Ordering::SeqCst);
            } else {
                until = until.min(Deadline::At(self.now() + PROBE_AGAIN));
            }
            self.flush(&peer);
        }
        until
    }

    /// Sends again what the member has not received. Returns true if all is queued, or the member
    /// is gone.
    pub(super) fn resend(&self, peer: &PeerRef<'_, 'm, P::Stream>) -> bool {
        let Some(heir) = self.leadership.heir() else {
            return true;
        };
        let received = peer.rejoin.received.load(Ordering::SeqCst);
        let skip = usize::try_from(peer.rejoin.resent.load(Ordering::SeqCst)).or_broken(0);
        // Under the lock: a message that another thread has for the member comes after these.
        let sent = heir.sent.lock();
        let Some(frames) = sent.as_ref() else {
            return true;
        };
        let mut is_all = true;
        let count = frames.for_each_after(peer.vmid(), received, skip, |frame| {
            let mut queue = peer.queue.lock();
            is_all = queue.closed
                || queue.room() >= frame.len().plus(ANSWER_RESERVE)
                    && queue.filling.push_frame(frame).is_ok();
            queue.record_push();
            is_all
        });
        peer.rejoin
            .resent
            .store(skip.plus(count) as u64, Ordering::SeqCst);
        if is_all {
            peer.rejoin.is_awaited.store(false, Ordering::SeqCst);
            peer.rejoin.is_resending.store(false, Ordering::SeqCst);
        }
        drop(sent);
        if is_all {
            self.retry_output(peer);
            self.heirs_are_due();
        }
        is_all
    }

    /// Handles the end of the connection with a member: no frames are sent to it again any more.
    pub(in crate::node) fn end_resend(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        if peer.rejoin.is_resending.swap(false, Ordering::SeqCst)
            && let Some(following) = self.leadership.following()
        {
            following.resending.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// As the new leader: keeps a message for a member that has not rejoined yet. Returns false if there is no room for
    /// it until then; None if the member has rejoined.
    pub(in crate::node) fn keep_for_rejoin(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        content: Resent<'_>,
    ) -> Option<bool> {
        if !peer.awaits_rejoin() {
            return None;
        }
        let heir = self.leadership.heir()?;
        let mut sent = heir.sent.lock();
        let frames = sent.as_mut()?;
        if !peer.awaits_rejoin() {
            return None;
        }
        match content {
            Resent::Answer(answer) => frames.push_answer(peer.vmid(), seq, answer),
            // The member may need each frame that is kept.
            Resent::Message(message) if !frames.has_room(peer.vmid(), message.length()) => {
                return Some(false);
            }
            Resent::Message(message) => frames.push_message(peer.vmid(), seq, message),
        }
        Some(true)
    }
}
