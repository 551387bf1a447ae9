//! The heir watches a leader that may have stopped, and ends it for certain before it takes over.
//!
//! Time alone never deposes a leader: it only has the heir ask the platform to end the leader's process. A
//! platform that can't do that leaves the family waiting, as it would wait for a stopped kernel.

use core::time::Duration;

use super::following::{Following, Stage};
use crate::invariant::OrBroken;
use crate::log::log_event;
use crate::node::{Node, PeerRef};
use crate::pal::{Deadline, Pal, Time};
use crate::sync::Ordering;
use crate::wire::Message;

/// The pause before the platform is asked again to end a leader.
const END_AGAIN: Duration = Duration::from_millis(1);

impl<'m, P: Pal> Node<'m, P> {
    /// Records a frame of the leader, which proves that the leader runs.
    #[inline]
    pub(in crate::node) fn note_leader_frame(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        if let Some(following) = self.following()
            && Some(peer.vmid()) == self.led_by()
        {
            if !following.has_answer.load(Ordering::Relaxed) {
                following.has_answer.store(true, Ordering::SeqCst);
            }
            // A store takes longer than a load, and is nearly never needed.
            for time in [&following.liveness.asked, &following.liveness.last] {
                if time.load(Ordering::SeqCst) != 0 {
                    time.store(0, Ordering::SeqCst);
                }
            }
        }
    }

    /// As the heir: sends the leader a MARK if no frame of it has come for a while, and has the platform end a leader
    /// that does not answer within [`Config::stall_limit`](crate::Config::stall_limit). Returns when to run again,
    /// if before `until`.
    pub(super) fn watch_leader(&self, following: &Following<'m>, until: Deadline) -> Deadline {
        let limit = self.config.stall_limit;
        let is_heir = following.heir() == Some(self.identity.vmid);
        if limit.is_zero() || !is_heir || following.stage() != Stage::Led {
            return until;
        }
        let liveness = &following.liveness;
        let now = self.now();
        let leader = self.leader_vmid();
        let Some(peer) = self.peers.find(leader) else {
            return until;
        };
        let asked = Time(liveness.asked.load(Ordering::SeqCst));
        if asked.0 != 0 {
            if now < asked + limit {
                return until.min(Deadline::At(asked + limit));
            }
            log_event!(warn, "the leader, process {leader}, has stopped");
            if self.pal.end(leader) {
                // The leader's streams end. The bytes that it has written come before their ends: one may be the dismissal of
                // this process.
                peer.hung_up.store(true, Ordering::SeqCst);
                self.disconnect_peer(&peer);
                return until;
            }
            return until.min(Deadline::At(now + END_AGAIN));
        }
        let mut last = Time(liveness.last.load(Ordering::SeqCst));
        if last.0 == 0 {
            last = now;
            liveness.last.store(now.0, Ordering::SeqCst);
        }
        let pause = limit.checked_div(4).or_broken(Duration::ZERO);
        let next = last + pause;
        if now < next {
            return until.min(Deadline::At(next));
        }
        if self.put(&peer, 0, &Message::Mark(0)).is_ok() {
            liveness.asked.store(now.0.max(1), Ordering::SeqCst);
            self.flush(&peer);
            return until.min(Deadline::At(now + limit));
        }
        until.min(Deadline::At(now + pause))
    }
}
