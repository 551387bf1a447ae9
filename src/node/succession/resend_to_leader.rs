//! A member sends the new leader the counted frames that the old leader has not applied.

use super::following::{Following, Stage};
use super::rejoin::REJOIN_AGAIN;
use crate::counters::Refusal;
use crate::error::Errno;
use crate::invariant::Count;
use crate::member::KeptFrames;
use crate::node::{ANSWER_RESERVE, Node, PeerRef, Phase};
use crate::pal::{Deadline, Pal};
use crate::sync::Ordering;
use crate::wire::{Answer, Expected};

impl<'m, P: Pal> Node<'m, P> {
    /// Handles the answer to REJOIN.
    pub(super) fn handle_rejoin_answer(
        &self,
        following: &Following<'m>,
        peer: &PeerRef<'_, 'm, P::Stream>,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        if following.stage() == Stage::Orphaned {
            // That process answers on a new stream, after this one has seen the end of its old one.
            return Ok(());
        }
        if following.stage() != Stage::Rejoining || Some(peer.vmid()) != self.led_by() {
            return Err(Refusal::WrongAnswer);
        }
        let Ok(Answer::Rejoin(rejoined)) = Answer::decode(Expected::Rejoin, payload) else {
            return Err(Refusal::WrongAnswer);
        };
        let is_newcomer = following.is_newcomer.load(Ordering::SeqCst);
        let taken = match rejoined.taken {
            // This process had not joined the old leader, so that leader has applied none of its frames.
            Err(Errno::EPERM) if is_newcomer => Ok(0),
            // A process that did not know the end of the peer has named the peer as the leader.
            Err(Errno::ESTALE) if is_newcomer => Err(Errno::EAGAIN),
            taken => taken,
        };
        match taken {
            Ok(taken) => {
                let mut kept = following.kept.lock();
                let Some(taken) = self.frames_taken(&kept, Some(taken)) else {
                    drop(kept);
                    self.end_succession(following);
                    return Err(Refusal::WrongAnswer);
                };
                kept.begin_resend(taken);
                drop(kept);
                following.epoch.store(rejoined.epoch, Ordering::SeqCst);
                self.renew_contact();
                following.set_stage(Stage::Resending);
            }
            Err(Errno::EAGAIN | Errno::EBUSY) => {
                if is_newcomer {
                    following.announced_leader.store(0, Ordering::SeqCst);
                }
                following.set_stage(Stage::Orphaned);
            }
            Err(_) => self.end_succession(following),
        }
        self.wake();
        Ok(())
    }

    /// Returns how many counted frames of this process the old leader has applied. `taken` is their number as its successor
    /// knows it. None if the successor knows of fewer than the old leader has answered.
    pub(super) fn frames_taken(&self, kept: &KeptFrames<'m>, taken: Option<u64>) -> Option<u64> {
        // After the end of a process its leader takes nothing of it.
        let is_over = self.phase() >= Phase::Ending;
        let covered = taken.filter(|taken| kept.covers(*taken));
        covered.or(is_over.then_some(kept.sent()))
    }

    /// Sends the kept frames that the old leader has not applied, as far as there is room. When all are queued, the member
    /// follows the new leader and its calls go on.
    pub(super) fn poll_resending(&self, following: &Following<'m>, until: Deadline) -> Deadline {
        let leader = self.leader_vmid();
        let Some(peer) = self.peers.find(leader) else {
            return until;
        };
        let is_done = {
            let mut queue = peer.queue.lock();
            let mut kept = following.kept.lock();
            loop {
                let frame = kept.next_to_resend();
                if frame.is_empty() {
                    // Under both locks: the next frame goes into the queue, after these.
                    following.set_stage(Stage::Led);
                    break true;
                }
                if queue.closed
                    || queue.room() < frame.len().plus(ANSWER_RESERVE)
                    || queue.filling.push_frame(frame).is_err()
                {
                    break false;
                }
                queue.record_push();
                kept.mark_resent();
            }
        };
        self.flush(&peer);
        self.notify_shutdown();
        if !is_done {
            return until.min(Deadline::At(self.now() + REJOIN_AGAIN));
        }
        // Its successor may have announced itself meanwhile.
        let _ = following.announced_leader.compare_exchange(
            leader.get(),
            0,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
        following.is_newcomer.store(false, Ordering::SeqCst);
        self.record_new_leader(leader, following.epoch.load(Ordering::SeqCst));
        self.defer_member_output();
        self.waiters.wake_for_room(leader);
        until
    }
}
