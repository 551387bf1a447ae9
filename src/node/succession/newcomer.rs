//! A process whose leader dies before the process has joined. It knows no heir, and a successor that does not know it
//! announces nothing to it. So it asks the processes that it knows which process leads.

use core::time::Duration;

use super::following::{Following, Stage};
use super::frame_kinds::WHO_LEADS_SEQ;
use super::rejoin::NOBODY;
use crate::Vmid;
use crate::counters::Refusal;
use crate::node::{Node, PeerRef};
use crate::pal::{Deadline, Pal, Time};
use crate::sync::Ordering;
use crate::wire::{Answer, Expected, Message};

/// The pause before it is asked again who leads.
const ASK_AGAIN: Duration = Duration::from_millis(2);

impl<'m, P: Pal> Node<'m, P> {
    /// Returns the processes that a newcomer asks: its parent, and the heir of the time when it was
    /// started.
    fn informants(&self, following: &Following<'m>) -> impl Iterator<Item = Vmid> + use<P> {
        let gone = following.old.load(Ordering::SeqCst);
        let us = self.identity.vmid;
        [self.identity.parent, self.identity.heir]
            .into_iter()
            .flatten()
            .filter(move |vmid| vmid.get() != gone && *vmid != us)
    }

    /// As a newcomer whose leader is gone: asks who leads. Returns when to run again, if before `until`.
    pub(super) fn ask_who_leads(&self, following: &Following<'m>, until: Deadline) -> Deadline {
        if !following.is_newcomer.load(Ordering::SeqCst) {
            return until;
        }
        let now = self.now();
        let ask_at = Time(following.ask_at.load(Ordering::SeqCst));
        if now < ask_at {
            return until.min(Deadline::At(ask_at));
        }
        let again = now + ASK_AGAIN;
        following.ask_at.store(again.0, Ordering::SeqCst);
        for informant in self.informants(following) {
            let Ok(peer) = self.peers.find_or_add(informant) else {
                continue;
            };
            // A full queue has the questions of before.
            if self.put(&peer, WHO_LEADS_SEQ, &Message::WhoLeads).is_ok() {
                self.flush(&peer);
            }
        }
        until.min(Deadline::At(again))
    }

    /// Handles the answer to `WHO_LEADS`.
    pub(super) fn handle_who_leads_answer(
        &self,
        following: &Following<'m>,
        peer: &PeerRef<'_, 'm, P::Stream>,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        let Ok(Answer::Leader(known)) = Answer::decode(Expected::Leader, payload) else {
            return Err(Refusal::WrongAnswer);
        };
        let is_awaited = following.is_newcomer.load(Ordering::SeqCst)
            && following.stage() == Stage::Orphaned
            && following.announced_leader.load(Ordering::SeqCst) == 0
            && self
                .informants(following)
                .any(|informant| informant == peer.vmid());
        let gone = following.old.load(Ordering::SeqCst);
        if is_awaited && ![0, gone, NOBODY.get(), self.identity.vmid.get()].contains(&known.vmid) {
            following.announced_epoch.store(0, Ordering::SeqCst);
            following
                .announced_leader
                .store(known.vmid, Ordering::SeqCst);
            self.wake();
        }
        Ok(())
    }
}
