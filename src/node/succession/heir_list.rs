//! A leader names its heir in the log, and then to the members.

use super::leader_log::{Log, LogStage};
use crate::Vmid;
use crate::log::log_event;
use crate::node::{Node, PeerRef};
use crate::pal::Pal;
use crate::sync::Ordering;
use crate::wire::{HeirList, Message};

impl<'m, P: Pal> Node<'m, P> {
    /// Begins a new list of heirs.
    pub(super) fn raise_config(&self) {
        if let Some(following) = self.leadership.following() {
            following.config.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub(super) fn heir_list(&self, first: u32) -> HeirList {
        let leader = self.present_leader();
        HeirList {
            epoch: leader.epoch,
            config: leader.config,
            heirs: [first, 0, 0, 0],
        }
    }

    /// Sends the list of heirs to the members that have not got it. Returns true if all have.
    pub(super) fn announce_heirs(&self, log: &Log<'m, P::Stream>) -> bool {
        log.list_is_due.store(false, Ordering::SeqCst);
        let leader = self.present_leader();
        let first = Vmid::number(log.hot_heir());
        let list = Message::Heirs(self.heir_list(first));
        let mut all = true;
        for peer in self.peers.all() {
            let follows = peer.member.follows.load(Ordering::SeqCst) && peer.is_member();
            let has_list = peer.member.heirs_config.load(Ordering::SeqCst) >= leader.config;
            if !follows || has_list || peer.awaits_rejoin() {
                continue;
            }
            // The messages queued before the heir had the state are written before the member relies on the heir.
            if first != 0 && !self.is_settled(&peer) || self.put(&peer, 0, &list).is_err() {
                all = false;
                continue;
            }
            peer.member
                .heirs_config
                .store(leader.config, Ordering::SeqCst);
            self.peers.schedule(&peer);
        }
        if !all {
            log.list_is_due.store(true, Ordering::SeqCst);
        }
        all
    }

    /// Returns true if all that was queued for the peer when the heir got the state is written.
    pub(super) fn is_settled(&self, peer: &PeerRef<'_, 'm, P::Stream>) -> bool {
        if peer.member.unsettled.load(Ordering::SeqCst) == 0 {
            return true;
        }
        let Some(tx) = peer.tx.try_lock() else {
            return false;
        };
        let queue = peer.queue.lock();
        let is_empty = tx.draining.is_empty() && queue.filling.is_empty();
        self.unlock_tx(peer, tx, queue);
        if is_empty {
            peer.member.unsettled.store(0, Ordering::SeqCst);
        }
        is_empty
    }

    /// Names the process as the heir that has confirmed that it has the state. Returns false if the log has no room
    /// for it.
    pub(super) fn name_heir(
        &self,
        log: &Log<'m, P::Stream>,
        peer: &PeerRef<'_, 'm, P::Stream>,
    ) -> bool {
        self.raise_config();
        // The heir is named in its log before anywhere else: whatever the others know, it knows.
        let list = Message::Heirs(self.heir_list(Vmid::number(log.heir())));
        if !log.append(&list) {
            return false;
        }
        let list_by = self.now() + self.config.heir_patience;
        log.list_by.store(list_by.0, Ordering::SeqCst);
        log.losses.store(0, Ordering::SeqCst);
        log.set_stage(LogStage::Hot);
        self.counters.succession.set_heir(Some(peer.vmid()));
        log.list_is_due.store(true, Ordering::SeqCst);
        // A leader that leaves waits until the members have the list, and is woken again then.
        log.may_leave.store(false, Ordering::SeqCst);
        log_event!(debug, "process {} is the heir", peer.vmid());
        self.waiters.wake_for_room(self.identity.vmid);
        self.wake();
        true
    }
}
