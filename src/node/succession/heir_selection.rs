//! The leader selects its heir: it chooses a member, transfers the state to it, names it to the members, and dismisses an
//! heir that does not read its log.

use core::time::Duration;

use super::leader_log::{Log, LogStage};
use crate::counters::Refusal;
use crate::invariant::OrBroken;
use crate::log::log_event;
use crate::node::{Node, PeerRef};
use crate::pal::{Deadline, Pal, Stream, Time};
use crate::sync::Ordering;
use crate::wire::{DismissReason, Dismissal, HeirReady, Message};
use crate::{Heirs, Vmid};

/// The pause before the leader tries again to write its log, or to go on with the selection of its heir.
const SOON: Duration = Duration::from_micros(500);

/// A new leader waits this long for the next member to rejoin; then it chooses its heir although some have not rejoined.
const REJOIN_PAUSE: Duration = Duration::from_millis(250);

/// The pause before another heir is chosen after one was lost.
const CHOOSE_AGAIN: Duration = Duration::from_millis(20);

/// How long a process that is not named as the heir yet may leave a log unread that others wait for.
const CANDIDATE_PATIENCE: Duration = Duration::from_millis(5);

/// The most times that this pause is doubled, once for each heir that was lost before it was named.
const MAX_DOUBLINGS: u32 = 6;

impl<'m, P: Pal> Node<'m, P> {
    /// As a leader whose family outlives it: goes on with the stage of its log (see [`LogStage`]). Returns when to run
    /// again, if before `until`.
    pub(super) fn poll_log(&self, until: Deadline) -> Deadline {
        let Some(log) = self.log() else {
            return until;
        };
        if log.stage() == LogStage::Off {
            return self.poll_choice(log, until);
        }
        if log.is_quiet() && !self.has_ended() {
            return until;
        }
        log.has_heir_ended.store(false, Ordering::SeqCst);
        self.flush_log();
        if log.stage() == LogStage::Resigned && log.is_written() {
            // The heir leads: nothing takes that back.
            self.waiters.wake_for_room(self.identity.vmid);
            return until;
        }
        let Some(peer) = log.heir().and_then(|heir| self.peers.find(heir)) else {
            self.lose_heir(log, DismissReason::Broken);
            return Deadline::Now;
        };
        // A thread that found the writer taken may have set the flag only after all was written.
        if log.is_awaited.load(Ordering::SeqCst) && log.is_written() {
            self.resume_queues(log);
        }
        if log.has_overflowed.load(Ordering::SeqCst) {
            self.lose_heir(log, DismissReason::Broken);
            return Deadline::Now;
        }
        let now = self.now();
        let blocked_since = log.blocked_since.load(Ordering::SeqCst);
        if peer.member.ended.load(Ordering::SeqCst) {
            self.lose_heir(log, DismissReason::Left);
            return Deadline::Now;
        }
        let is_blocked = blocked_since != 0 && !log.is_written();
        let patience = if log.delays_for_nothing() {
            self.config.heir_patience.min(CANDIDATE_PATIENCE)
        } else {
            self.config.heir_patience
        };
        if is_blocked && now.since(Time(blocked_since)) > patience {
            self.lose_heir(log, DismissReason::Slow);
            return Deadline::Now;
        }
        self.mark_log_if_due(log);
        if is_blocked {
            // The longer the log is blocked, the less often it is tried.
            let pause = now
                .since(Time(blocked_since))
                .checked_div(8)
                .or_broken(SOON);
            return until.min(Deadline::At(now + pause.max(SOON)));
        }
        match log.stage() {
            LogStage::Transferring => {
                self.poll_state_transfer(log, &peer);
                Deadline::Now
            }
            LogStage::Unconfirmed => self.poll_unconfirmed_heir(log, &peer, now, until),
            LogStage::Hot => self.poll_hot_heir(log, now, until),
            _ => until,
        }
    }

    /// Names the heir when it has confirmed that it has the state. Dismisses it if it does not confirm in time.
    #[inline]
    fn poll_unconfirmed_heir(
        &self,
        log: &Log<'m, P::Stream>,
        peer: &PeerRef<'_, 'm, P::Stream>,
        now: Time,
        until: Deadline,
    ) -> Deadline {
        let limit = Time(log.confirm_by.load(Ordering::SeqCst));
        let is_confirmed = log.is_confirmed.load(Ordering::SeqCst);
        // Only the leader has the frames that were queued for the heir before it got the state, so they are written
        // before the heir is named.
        let has_all = self.forward_unreceived(log);
        let may_name = is_confirmed && has_all && self.is_settled(peer);
        if now >= limit || may_name && !self.name_heir(log, peer) {
            self.lose_heir(log, DismissReason::Slow);
            return Deadline::Now;
        }
        if may_name {
            Deadline::Now
        } else if is_confirmed || !has_all {
            until.min(Deadline::At(now + SOON))
        } else {
            until.min(Deadline::At(limit))
        }
    }

    /// Sends the list of heirs to the members that have not got it, and lets a leader that leaves go on when all have it.
    #[inline]
    fn poll_hot_heir(&self, log: &Log<'m, P::Stream>, now: Time, until: Deadline) -> Deadline {
        let is_due = log.list_is_due.load(Ordering::SeqCst);
        let has_all = !is_due || self.announce_heirs(log);
        if !self.has_ended() {
            // A member that is stopped may not take the list for long.
            let has_time = now < Time(log.list_by.load(Ordering::SeqCst));
            let pause = if has_time { SOON } else { CHOOSE_AGAIN };
            let again = until.min(Deadline::At(now + pause));
            return if has_all { until } else { again };
        }
        self.wake_leaver(log);
        match self.members_awaited_until(log) {
            Some(_) if !has_all => until.min(Deadline::At(now + SOON)),
            Some(end) => until.min(Deadline::At(end)),
            None => until,
        }
    }

    /// Chooses an heir, if it is time to, and begins to transfer the state to it.
    fn poll_choice(&self, log: &Log<'m, P::Stream>, until: Deadline) -> Deadline {
        // None was found, and no member has joined or rejoined since: a poll iteration does not search all of them again.
        if !log.is_choice_due.load(Ordering::SeqCst) && !self.has_ended() {
            return until;
        }
        let at = log.choose_at.load(Ordering::SeqCst);
        let now = self.now();
        if now.0 < at {
            return until.min(Deadline::At(Time(at)));
        }
        let rejoined_by = self.rejoined_by();
        if now < rejoined_by {
            return until.min(Deadline::At(rejoined_by));
        }
        log.is_choice_due.store(false, Ordering::SeqCst);
        let Some(heir) = self.choose_heir() else {
            if !self.has_ended() {
                return until;
            }
            self.wake_leaver(log);
            return match self.members_awaited_until(log) {
                Some(end) => until.min(Deadline::At(end)),
                None => until,
            };
        };
        log.is_choice_due.store(true, Ordering::SeqCst);
        let Some(peer) = self.peers.find(heir) else {
            return until;
        };
        // The member takes the first stream of a leader as the ordinary one.
        let is_open = peer.tx.try_lock().is_some_and(|tx| tx.is_identified());
        if !is_open {
            return until.min(Deadline::At(now + SOON));
        }
        peer.member.was_heir.store(true, Ordering::SeqCst);
        let Ok(stream) = self.pal.connect(heir) else {
            let again = now + CHOOSE_AGAIN;
            log.choose_at.store(again.0, Ordering::SeqCst);
            return until.min(Deadline::At(again));
        };
        let key = self.new_log_key();
        {
            let Some(mut writer) = log.writer.try_lock() else {
                return Deadline::Now;
            };
            log.reset(&mut writer);
            writer.stream = Some(stream);
            writer.transfer.begin();
        }
        let is_shared = P::Stream::SHARES_LOGS && peer.member.shares_logs.load(Ordering::SeqCst);
        log.is_shared.store(is_shared, Ordering::SeqCst);
        log.heir.store(heir.get(), Ordering::SeqCst);
        log.key.store(key, Ordering::SeqCst);
        if self
            .put(&peer, 0, &Message::Log(&key.to_le_bytes()))
            .is_err()
        {
            log.has_overflowed.store(true, Ordering::SeqCst);
        }
        self.call_worker(&peer);
        log.set_stage(LogStage::Transferring);
        log_event!(debug, "process {heir} is to be the heir");
        Deadline::Now
    }

    /// Wakes the call of [`Node::leave`](crate::Node::leave) when it need not wait for members any more: once, since
    /// without a worker that call itself runs this.
    fn wake_leaver(&self, log: &Log<'m, P::Stream>) {
        let may_leave = self.await_heir();
        if may_leave != log.may_leave.swap(may_leave, Ordering::SeqCst) && may_leave {
            self.waiters.wake_for_room(self.identity.vmid);
        }
    }

    /// As a new leader: returns the time until which it waits for members to rejoin before it chooses an heir. It alone has
    /// the frames of the previous leader for a member that has not rejoined: an heir that led before that member has received
    /// them could not send them.
    fn rejoined_by(&self) -> Time {
        match self.leadership.following() {
            Some(following) if self.awaits_members() => {
                Time(following.rejoined_at.load(Ordering::SeqCst)) + REJOIN_PAUSE
            }
            _ => Time(0),
        }
    }

    /// Returns the member that is to be the heir, if there is one that can be.
    pub(in crate::node) fn choose_heir(&self) -> Option<Vmid> {
        let can_lead = |peer: &PeerRef<'_, 'm, P::Stream>| {
            peer.member.can_lead.load(Ordering::SeqCst)
                && peer.is_member()
                // The peer has got the ordinary stream of this process, and can't take the log for
                // that.
                && peer.has_limits()
                && !peer.awaits_rejoin()
                && !peer.member.ended.load(Ordering::SeqCst)
                && !peer.broken.load(Ordering::SeqCst)
        };
        if let Heirs::Listed(list) = self.config.heirs {
            let find = |was_heir: bool| {
                list.into_iter().flatten().find(|vmid| {
                    self.peers.find(*vmid).is_some_and(|peer| {
                        can_lead(&peer) && peer.member.was_heir.load(Ordering::SeqCst) == was_heir
                    })
                })
            };
            return find(false).or_else(|| find(true));
        }
        self.peers
            .all()
            .filter(|peer| can_lead(peer))
            // One that was heir before did not follow: another one comes first.
            .map(|peer| (peer.member.was_heir.load(Ordering::SeqCst), peer.vmid()))
            .min()
            .map(|(_, vmid)| vmid)
    }

    /// Dismisses the heir. The heir is notified first, then the members, and only then the leader goes on without an heir.
    fn lose_heir(&self, log: &Log<'m, P::Stream>, reason: DismissReason) {
        let was_named = log.is_named();
        let Some(mut writer) = log.writer.try_lock() else {
            return;
        };
        let heir = log.heir().and_then(|heir| self.peers.find(heir));
        let epoch = self.present_leader().epoch;
        if let Some(tables) = self.leading() {
            // No thread appends an operation after this, or resigns.
            let _tables = tables.lock();
            if log.stage() == LogStage::Resigned && log.backlog() == 0 {
                // Another thread has just resigned: the heir leads, and nothing takes that back.
                return;
            }
            // No other thread goes on without the heir before this. A full queue is no fault of it: it sees the end of the log, too.
            if let Some(heir) = &heir {
                let _ = self.put(heir, 0, &Message::Dismiss(Dismissal { reason, epoch }));
            }
            // Even if its stream takes no byte more, the heir learns by the end of the log that it must not lead.
            if let Some(stream) = &writer.stream {
                stream.revoke_log();
            }
            log.set_stage(LogStage::Off);
        }
        if let Some(heir) = &heir {
            let vmid = heir.vmid();
            log_event!(warn, "process {vmid} is no longer the heir: {reason:?}");
            self.call_worker(heir);
        }
        log.heir.store(0, Ordering::SeqCst);
        self.counters.succession.set_heir(None);
        log.reset(&mut writer);
        // Nothing waits for the log any more. The heir gets its dismissal before the others go on.
        if let Some(heir) = heir {
            self.flush(&heir);
        }
        drop(writer);
        // A process that reads nothing is not filled again and again.
        let losses = log.losses.fetch_add(1, Ordering::SeqCst).min(MAX_DOUBLINGS);
        let pause = CHOOSE_AGAIN
            .checked_mul(1 << losses)
            .or_broken(CHOOSE_AGAIN);
        let again = self.now() + pause;
        log.choose_at.store(again.0, Ordering::SeqCst);
        if was_named {
            self.raise_config();
            log.list_is_due.store(true, Ordering::SeqCst);
            self.announce_heirs(log);
        }
        self.resume_queues(log);
        log.may_leave.store(false, Ordering::SeqCst);
        self.waiters.wake_for_room(self.identity.vmid);
    }

    /// Has the worker send the list of heirs to a member that has joined or rejoined, and choose an heir if there is none.
    pub(in crate::node) fn heirs_are_due(&self) {
        if let Some(log) = self.log() {
            log.list_is_due.store(true, Ordering::SeqCst);
            log.is_choice_due.store(true, Ordering::SeqCst);
            self.wake();
        }
    }

    /// Records that a process or its connection has ended: as the leader, the worker checks that the heir is there.
    pub(in crate::node) fn note_end_of(&self, vmid: Vmid) {
        if let Some(log) = self.log().filter(|log| log.heir() == Some(vmid)) {
            log.has_heir_ended.store(true, Ordering::SeqCst);
        }
    }

    /// Handles the heir's confirmation that it has the state.
    pub(in crate::node) fn handle_heir_ready(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        ready: &HeirReady,
    ) -> Result<bool, Refusal> {
        let Some(log) = self.log().filter(|_| self.leads()) else {
            return Err(Refusal::WrongRole);
        };
        if log.stage() != LogStage::Unconfirmed || log.heir() != Some(peer.vmid()) {
            // The peer may have been dismissed meanwhile.
            return if peer.member.was_heir.load(Ordering::SeqCst) {
                Ok(true)
            } else {
                Err(Refusal::NotHeir)
            };
        }
        if ready.op != log.expected_op.load(Ordering::SeqCst) {
            // The peer confirms the state of an earlier time, when it was heir before.
            return Ok(true);
        }
        if ready.digest != log.expected_digest.load(Ordering::SeqCst) {
            self.lose_heir(log, DismissReason::Differs);
            return Ok(true);
        }
        log.is_confirmed.store(true, Ordering::SeqCst);
        self.wake();
        Ok(true)
    }
}
