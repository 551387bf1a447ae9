//! A member whose leader is gone rejoins the family under the successor, and asks it how many of the member's frames the old
//! leader has applied.

use core::time::Duration;

use super::following::{Following, Stage};
use super::frame_kinds::REJOIN_SEQ;
use crate::Vmid;
use crate::counters::Refusal;
use crate::error::Error;
use crate::log::log_event;
use crate::node::{Node, PeerRef, Phase};
use crate::pal::{Deadline, Pal, Time};
use crate::sync::Ordering;
use crate::wire::{Dismissal, HeirList, Message, NewLeader, Rejoin};

/// The VMID for which calls wait until there is a leader: no process has it.
pub(super) const NOBODY: Vmid = Vmid::HIGHEST;

/// The pause before REJOIN is sent again to a leader that was not ready for it.
pub(super) const REJOIN_AGAIN: Duration = Duration::from_millis(1);

/// The time, in nanoseconds, after which a member connects with the process that is to lead at the latest, if none of its
/// calls waits for an answer. If all members connected at once, that process would be slow to serve those with a call.
const CONNECT_AT_LAST: u64 = 200_000_000;

/// The result of the end of the connection with the leader.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum Succession {
    /// A successor is awaited; this process may be the one.
    Awaited,
    /// There is none.
    None,
}

impl<'m, P: Pal> Node<'m, P> {
    /// Handles the list of heirs.
    pub(in crate::node) fn handle_heirs(&self, heirs: &HeirList) -> Result<bool, Refusal> {
        let Some(following) = self.following() else {
            return Ok(true);
        };
        let config = following.config.load(Ordering::SeqCst);
        if heirs.epoch < following.epoch.load(Ordering::SeqCst) || heirs.config < config {
            return Err(Refusal::StaleReign);
        }
        if heirs.config == config {
            // The heir has it from the log.
            return Ok(true);
        }
        following.epoch.store(heirs.epoch, Ordering::SeqCst);
        following.config.store(heirs.config, Ordering::SeqCst);
        let [first, ..] = heirs.heirs;
        following.heir.store(first, Ordering::SeqCst);
        self.counters.succession.set_heir(Vmid::new(first));
        Ok(true)
    }

    /// Handles that a process says that it leads.
    pub(in crate::node) fn handle_new_leader(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        announced: &NewLeader,
    ) -> Result<bool, Refusal> {
        let Some(following) = self.following() else {
            return Err(Refusal::WrongRole);
        };
        let from = peer.vmid();
        if self.has_lost_leader() {
            // The peer comes too late.
            self.leave_leader(peer);
            return Ok(true);
        }
        // A leader that was named in a later list than this process knows: an heir that was dismissed later
        // would know so.
        let is_later = announced.config > following.config.load(Ordering::SeqCst);
        let is_heir = match following.stage() {
            // The end of the old leader's stream is still to come.
            Stage::Led => is_later || following.heir() == Some(from),
            Stage::Orphaned => is_later || Some(from) == self.led_by(),
            // The leader that it rejoins has been succeeded, too, or another process was named instead of this one.
            Stage::Rejoining | Stage::Resending | Stage::Candidate => is_later,
        };
        if !is_heir || announced.vmid != from.get() {
            return Err(Refusal::NotHeir);
        }
        if announced.epoch <= following.epoch.load(Ordering::SeqCst) {
            return Err(Refusal::StaleReign);
        }
        let is_awaited = following.announced_leader.load(Ordering::SeqCst) != 0;
        if is_awaited && announced.epoch < following.announced_epoch.load(Ordering::SeqCst) {
            // The streams of two successors are read in any order: this one has ended before the other one led.
            return Ok(true);
        }
        following
            .announced_epoch
            .store(announced.epoch, Ordering::SeqCst);
        following
            .announced_leader
            .store(from.get(), Ordering::SeqCst);
        peer.extended.store(true, Ordering::SeqCst);
        self.wake();
        Ok(true)
    }

    /// Ends the connection with a leader that this process does not follow. Otherwise that leader would wait for this
    /// process when it leaves.
    fn leave_leader(&self, leader: &PeerRef<'_, 'm, P::Stream>) {
        self.children.lock().note_unconnected(leader.vmid());
        self.disconnect_peer(leader);
    }

    /// Returns true if the peer is a leader that has ended and whose stream is not read to its end yet. Its successor may
    /// have only the last of the frames that it has written, so the stream is read to the end, for as long as calls wait for
    /// a successor at most.
    pub(in crate::node) fn awaits_rest_of(&self, peer: &PeerRef<'_, 'm, P::Stream>) -> bool {
        let Some(following) = self.following() else {
            return false;
        };
        let is_leader = Some(peer.vmid()) == self.led_by() && following.stage() != Stage::Orphaned;
        if !is_leader || !peer.hung_up.load(Ordering::SeqCst) || self.phase() >= Phase::Closing {
            return false;
        }
        let now = self.now();
        let seen = following.end_seen.load(Ordering::SeqCst);
        if seen == 0 {
            following.end_seen.store(now.0.max(1), Ordering::SeqCst);
        }
        seen == 0 || now < Time(seen) + self.config.succession_limit
    }

    /// Handles the end of the connection with a process. If that was the leader, and it has named an heir, this
    /// process waits for the heir to lead, or is the heir.
    pub(in crate::node) fn begin_succession(&self, gone: Vmid) -> Succession {
        let Some(following) = self.following() else {
            return Succession::None;
        };
        // After the end of the family the calls get that as their error.
        if Some(gone) != self.led_by() || self.phase() >= Phase::Closing || self.has_lost_leader() {
            return Succession::None;
        }
        if gone == NOBODY {
            // Only calls waited there.
            return Succession::Awaited;
        }
        let us = self.identity.vmid;
        // Its log says whether this process is the heir.
        self.read_log_now();
        let may_lead = self.has_log();
        let named = Vmid::new(following.heir.swap(0, Ordering::SeqCst)).filter(|vmid| *vmid != us);
        let announced = Vmid::new(following.announced_leader.load(Ordering::SeqCst));
        let heir = announced.filter(|vmid| *vmid != gone).or(named);
        // An heir may be in a list that this process has not got.
        let may_come = following.config.load(Ordering::SeqCst) > 0
            || following.is_shared.load(Ordering::SeqCst);
        let is_newcomer = !following.has_answer.load(Ordering::SeqCst);
        if heir.is_none() && !may_lead && !may_come && !is_newcomer {
            return Succession::None;
        }
        following.is_newcomer.store(is_newcomer, Ordering::SeqCst);
        if announced == Some(gone) {
            following.announced_leader.store(0, Ordering::SeqCst);
        }
        // The end of a process that was to lead, and has not announced itself, is no reason to wait for longer.
        let seen = following.end_seen.swap(0, Ordering::SeqCst);
        if following.stage() != Stage::Orphaned {
            let since = if seen == 0 { self.now() } else { Time(seen) };
            let until = since + self.config.succession_limit;
            following.until.store(until.0, Ordering::SeqCst);
            following.ended.store(gone.get(), Ordering::SeqCst);
        }
        following.old.store(gone.get(), Ordering::SeqCst);
        self.counters.succession.begin_outage(self.now());
        self.counters.succession.set_heir(None);
        if may_lead {
            following.heir.store(Vmid::number(heir), Ordering::SeqCst);
            self.set_leader(following, NOBODY, Stage::Candidate);
        } else {
            let leader = heir.map_or(NOBODY, |heir| heir);
            self.set_leader(following, leader, Stage::Orphaned);
        }
        // A process that is to lead may be in a later list than this process has got.
        self.wake();
        Succession::Awaited
    }

    /// Makes that process the one that leads, or is to lead. The calls to the previous leader wait for it, if their
    /// requests are kept; the others make theirs again.
    pub(super) fn set_leader(&self, following: &Following<'m>, leader: Vmid, stage: Stage) {
        let old = self.leader_vmid();
        let is_other = leader != NOBODY && leader != self.identity.vmid;
        let is_urgent = {
            // From now on no frame is kept for the previous leader.
            let kept = following.kept.lock();
            let is_urgent = stage != Stage::Orphaned || !kept.is_proven();
            let connect_at = if is_urgent || !is_other {
                0
            } else {
                self.jittered(self.now(), CONNECT_AT_LAST).0
            };
            // A call that begins from now on connects.
            following.connect_at.store(connect_at, Ordering::SeqCst);
            following.set_stage(stage);
            self.leadership.set_leader(leader);
            is_urgent
        };
        if old != leader {
            let is_kept = |seq| following.kept.lock().is_counted(seq);
            self.waiters.follow(old, leader, is_kept);
            self.waiters.fail(Some(old), Error::NoSuchProcess);
        }
        if is_other && is_urgent {
            self.connect_with_heir(leader);
        }
        log_event!(debug, "the leader is gone: process {leader} is to lead");
    }

    /// Connects with the process that is to lead. It announces itself first to the members that have connected.
    fn connect_with_heir(&self, heir: Vmid) {
        if let Ok(peer) = self.peers.find_or_add(heir) {
            peer.stream_wanted.store(true, Ordering::SeqCst);
            self.call_worker(&peer);
        }
    }

    /// Connects with the process that is to lead, if this process has not yet, because a call waits for a leader.
    pub(in crate::node) fn connect_with_successor(&self) {
        if let Some(following) = self.following()
            && following.connect_at.swap(0, Ordering::SeqCst) != 0
        {
            self.connect_with_heir(self.leader_vmid());
        }
    }

    /// Connects with the process that is to lead if that has not connected for long.
    fn poll_connect(&self, following: &Following<'m>, until: Deadline) -> Deadline {
        let at = following.connect_at.load(Ordering::SeqCst);
        if at == 0 {
            return until;
        }
        if self.now() < Time(at) {
            return until.min(Deadline::At(Time(at)));
        }
        self.connect_with_successor();
        until
    }

    /// Goes on with the succession, in the worker. Returns when to run again, if before `until`.
    pub(super) fn poll_following(&self, until: Deadline) -> Deadline {
        let Some(following) = self.following() else {
            return until;
        };
        let stage = following.stage();
        if stage == Stage::Led {
            return self.watch_leader(following, until);
        }
        let limit = Time(following.until.load(Ordering::SeqCst));
        if self.now() >= limit {
            let announced = Vmid::new(following.announced_leader.swap(0, Ordering::SeqCst));
            if let Some(leader) = announced.and_then(|leader| self.peers.find(leader)) {
                self.leave_leader(&leader);
            }
            self.end_succession(following);
            return Deadline::Now;
        }
        let until = until.min(Deadline::At(limit));
        match stage {
            // The answer of the new leader comes.
            Stage::Led | Stage::Rejoining => until,
            Stage::Orphaned => self.poll_orphaned(following, until),
            Stage::Resending => self.poll_resending(following, until),
            Stage::Candidate => self.poll_candidate(following, until),
        }
    }

    /// Ends the wait for a successor: the family has ended for this process.
    pub(super) fn end_succession(&self, following: &Following<'m>) {
        let leader = self.leader_vmid();
        self.leader_gone.store(true, Ordering::SeqCst);
        following.set_stage(Stage::Led);
        log_event!(warn, "the leader is gone, and no successor has come");
        // If this process was the heir, messages that the next leader was to decide wait no more.
        self.drop_log();
        // No leader confirms any more how the children ended that have said it themselves. The process that was to lead
        // may live: only the previous leader is gone.
        let gone = Vmid::new(following.old.load(Ordering::SeqCst)).map_or(NOBODY, |old| old);
        self.handle_child_gone(gone);
        // Calls that wait for children, or for all others to leave, check again.
        self.waiters.wake_for_room(self.identity.vmid);
        self.waiters.fail(Some(leader), Error::LeaderGone);
        self.waiters.wake_for_room(leader);
        self.waiters.wake_for_room(self.identity.vmid);
        self.notify_shutdown();
    }

    /// Asks the new leader what the old one has taken, as soon as the new one leads.
    fn poll_orphaned(&self, following: &Following<'m>, until: Deadline) -> Deadline {
        let Some(leader) = Vmid::new(following.announced_leader.load(Ordering::SeqCst)) else {
            let until = self.poll_connect(following, until);
            return self.ask_who_leads(following, until);
        };
        if leader != self.leader_vmid() {
            self.set_leader(following, leader, Stage::Orphaned);
        }
        let again = until.min(Deadline::At(self.now() + REJOIN_AGAIN));
        let Ok(peer) = self.peers.find_or_add(leader) else {
            return again;
        };
        let (sent, waiting) = {
            let kept = following.kept.lock();
            (kept.sent(), kept.waiting())
        };
        let rejoin = Rejoin {
            epoch: following.epoch.load(Ordering::SeqCst),
            config: following.config.load(Ordering::SeqCst),
            pid: self.pid_or_zero(),
            waiting,
            sent,
            received: following.received.load(Ordering::SeqCst),
        };
        following.set_stage(Stage::Rejoining);
        // The new leader learns what this process can do.
        let hello = Message::Hello(self.own_hello());
        let rejoin = Message::Rejoin(rejoin);
        // A process that has followed another leader has got the stream of this one: it may be its heir at once.
        let has_stream = !following.is_newcomer.load(Ordering::SeqCst);
        if self.put(&peer, 0, &hello).is_err()
            || has_stream && !self.send_limits(&peer)
            || self.put(&peer, REJOIN_SEQ, &rejoin).is_err()
        {
            following.set_stage(Stage::Orphaned);
            return again;
        }
        self.flush(&peer);
        until
    }

    /// Handles the dismissal of this process by its leader.
    pub(in crate::node) fn handle_dismissal(&self, dismissal: Dismissal) -> Result<bool, Refusal> {
        if let Some(following) = self.following() {
            if dismissal.epoch < following.epoch.load(Ordering::SeqCst) {
                return Err(Refusal::StaleReign);
            }
            following.heir.store(0, Ordering::SeqCst);
            self.drop_log();
            self.waiters.wake_for_room(self.identity.vmid);
        }
        Ok(true)
    }
}
