//! A member whose leader is gone joins its successor: it asks what the old leader has taken, and sends the
//! rest again.

use core::time::Duration;

use super::following::{Following, Stage};
use crate::Vmid;
use crate::counters::Refusal;
use crate::error::{Errno, Error};
use crate::invariant::Count;
use crate::log::log_event;
use crate::member::KeptFrames;
use crate::node::{ANSWER_RESERVE, Node, PeerRef, Phase};
use crate::pal::{Deadline, Pal, Time};
use crate::sync::Ordering;
use crate::wire::{Answer, Dismissal, Expected, HeirList, Message, NewLeader, Rejoin};

/// The sequence number of REJOIN: no call has it.
const REJOIN_SEQ: u64 = u64::MAX;

/// The VMID for which calls wait until there is a leader: no process has it.
pub(super) const NOBODY: Vmid = Vmid::HIGHEST;

/// The pause before REJOIN is sent again to a leader that was not ready for it.
const REJOIN_AGAIN: Duration = Duration::from_millis(1);

/// The longest time for which a member to which nobody waits for an answer leaves it to the process that is to lead
/// to connect with it. All members at once would keep that process from the others.
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
            // It comes too late. The end of the streams shows it that this process does not follow: it would wait for
            // that when it leaves.
            self.children.lock().lose_sight_of(from);
            self.disconnect_peer(peer);
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
        let is_awaited = following.announced.load(Ordering::SeqCst) != 0;
        if is_awaited && announced.epoch < following.announced_epoch.load(Ordering::SeqCst) {
            // The streams of two successors are read in any order: this one has ended before the other one led.
            return Ok(true);
        }
        following
            .announced_epoch
            .store(announced.epoch, Ordering::SeqCst);
        following.announced.store(from.get(), Ordering::SeqCst);
        peer.extended.store(true, Ordering::SeqCst);
        self.wake();
        Ok(true)
    }

    /// Whether a leader has ended, and what it has written is read to the end: its successor may have only the last part
    /// of it. It takes at most as long as calls wait for a successor.
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

    /// The connection with a process has ended. If that was the leader, and it has named an heir, this
    /// process waits for the heir to lead, or is the heir.
    pub(in crate::node) fn begin_succession(&self, gone: Vmid) -> Succession {
        let Some(following) = self.following() else {
            return Succession::None;
        };
        if Some(gone) != self.led_by() || self.phase() >= Phase::Closing {
            return Succession::None;
        }
        if gone == NOBODY {
            // Only calls waited there. After the end of the family they get that as their error.
            return if self.has_lost_leader() {
                Succession::None
            } else {
                Succession::Awaited
            };
        }
        let us = self.identity.vmid;
        // Its log says whether this process is the heir.
        self.read_log_now();
        let may_lead = self.has_log();
        let named = Vmid::new(following.heir.swap(0, Ordering::SeqCst)).filter(|vmid| *vmid != us);
        let announced = Vmid::new(following.announced.load(Ordering::SeqCst));
        let heir = announced.filter(|vmid| *vmid != gone).or(named);
        // It may be in a list that this process has not got.
        let may_come = following.config.load(Ordering::SeqCst) > 0
            || following.is_shared.load(Ordering::SeqCst);
        let is_newcomer = !following.has_answer.load(Ordering::SeqCst);
        if heir.is_none() && !may_lead && !may_come && !is_newcomer {
            return Succession::None;
        }
        following.is_newcomer.store(is_newcomer, Ordering::SeqCst);
        if announced == Some(gone) {
            following.announced.store(0, Ordering::SeqCst);
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

    /// From now on that process leads, or is to lead. The calls to the leader before wait for it, if their
    /// requests are kept; the others make theirs again.
    pub(super) fn set_leader(&self, following: &Following<'m>, leader: Vmid, stage: Stage) {
        let old = self.leader_vmid();
        let is_other = leader != NOBODY && leader != self.identity.vmid;
        let is_urgent = {
            // No frame is kept for the leader before any more.
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

    /// A call waits for a leader: this process connects with the one that is to lead, if it has not yet.
    pub(in crate::node) fn hurry_rejoin(&self) {
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
        self.hurry_rejoin();
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

    /// No successor has come: the family has ended for this process.
    pub(super) fn end_succession(&self, following: &Following<'m>) {
        let leader = self.leader_vmid();
        self.leader_gone.store(true, Ordering::SeqCst);
        following.set_stage(Stage::Led);
        log_event!(warn, "the leader is gone, and no successor has come");
        // If this process was the heir, messages that the next leader was to decide wait no more.
        self.drop_log();
        // No leader confirms any more how the children ended that have said it themselves. The process that was to lead
        // may live: only the leader before is gone.
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
        let Some(leader) = Vmid::new(following.announced.load(Ordering::SeqCst)) else {
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

    /// Handles the answer to REJOIN. False if the answer is to something else.
    pub(in crate::node) fn handle_rejoin_answer(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        payload: &[u8],
    ) -> Result<bool, Refusal> {
        if seq != REJOIN_SEQ {
            return self.handle_who_leads_answer(peer, seq, payload);
        }
        let Some(following) = self.following() else {
            return Ok(false);
        };
        if following.stage() == Stage::Orphaned {
            // That process answers on a new stream, after this one has seen the end of its old one.
            return Ok(true);
        }
        if following.stage() != Stage::Rejoining || Some(peer.vmid()) != self.led_by() {
            return Err(Refusal::WrongAnswer);
        }
        let Ok(Answer::Rejoin(rejoined)) = Answer::decode(Expected::Rejoin, payload) else {
            return Err(Refusal::WrongAnswer);
        };
        let is_newcomer = following.is_newcomer.load(Ordering::SeqCst);
        let taken = match rejoined.taken {
            // It has joined no leader before, so nothing was taken.
            Err(Errno::EPERM) if is_newcomer => Ok(0),
            // It was named as the leader by a process that did not know its end.
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
                    following.announced.store(0, Ordering::SeqCst);
                }
                following.set_stage(Stage::Orphaned);
            }
            Err(_) => self.end_succession(following),
        }
        self.wake();
        Ok(true)
    }

    /// Returns how many frames of this process the old leader has taken, if its successor knows of `taken`. None if that
    /// successor knows less than was answered.
    pub(super) fn frames_taken(&self, kept: &KeptFrames<'m>, taken: Option<u64>) -> Option<u64> {
        // After the end of a process its leader takes nothing of it.
        let is_over = self.phase() >= Phase::Ending;
        let covered = taken.filter(|taken| kept.covers(*taken));
        covered.or(is_over.then_some(kept.sent()))
    }

    /// Sends again what the old leader has not taken, as far as there is room. Afterwards the calls go on.
    fn poll_resending(&self, following: &Following<'m>, until: Deadline) -> Deadline {
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
        let _ = following.announced.compare_exchange(
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

    /// The leader has taken all frames up to that number.
    pub(in crate::node) fn handle_mark(&self, peer: &PeerRef<'_, 'm, P::Stream>, number: u64) {
        if let Some(following) = self.following() {
            following.kept.lock().on_mark(number);
            self.notify_kept_room(peer);
            self.notify_shutdown();
        }
    }

    /// At the end of this node: whether the leader, or its successor, has handled all frames. If not, asks it to
    /// confirm that. After the end of its process nothing matters that is left.
    pub(in crate::node) fn has_leader_all(&self) -> bool {
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

    /// The leader has dismissed this process: it is no heir, and follows nobody.
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
