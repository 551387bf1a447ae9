//! The heir of a leader that is gone takes over: it leads the family from then on, and the members rejoin it.

use core::time::Duration;

use super::following::{ALL_MEMBERS, Following, Stage};
use super::log_reader::LogEnd;
use super::rejoin::NOBODY;
use crate::counters::Refusal;
use crate::error::Errno;
use crate::invariant::OrBroken;
use crate::leader::Op;
use crate::log::log_event;
use crate::node::outbox::confirm_grants;
use crate::node::{LeaderTables, Node, PeerRef};
use crate::pal::{ConnectError, Deadline, Pal, Time};
use crate::sync::Ordering;
use crate::wire::{Answer, Message, NewLeader, Rejoin, Rejoined, SuccessionMode};
use crate::{Admission, Vmid};

/// The pause before the heir asks again whether the leader is dead.
pub(super) const PROBE_AGAIN: Duration = Duration::from_micros(500);

/// The number of members to which a new leader announces itself at once. The announcement wakes them, and they take a
/// processor, so the next members get it when these have rejoined. A member with a call that waits for an answer connects
/// by itself before that.
const MEMBERS_AT_ONCE: usize = 4;

/// The time after which the leader announces itself to the next members, even if one has not rejoined.
const NEXT_MEMBERS: Duration = Duration::from_millis(2);

/// The number of members that have connected by themselves to which the leader announces itself at once.
const FIRST_MEMBERS: usize = 64;

/// The room for the longest answer that comes later.
const LATE_ANSWER: usize = Answer::Lock(Ok(None)).length();

/// # The heir
impl<'m, P: Pal> Node<'m, P> {
    /// As the heir of a leader whose stream has ended: takes over when it is certain that the leader is dead
    /// or has resigned.
    pub(super) fn poll_candidate(&self, following: &Following<'m>, until: Deadline) -> Deadline {
        let again = until.min(Deadline::At(self.now() + PROBE_AGAIN));
        let Some(old) = Vmid::new(following.old.load(Ordering::SeqCst)) else {
            return until;
        };
        if following.announced_leader.load(Ordering::SeqCst) != 0 {
            self.abandon_candidacy(following);
            return Deadline::Now;
        }
        match self.drain_log_to_end() {
            LogEnd::Unfit => {
                self.abandon_candidacy(following);
                Deadline::Now
            }
            LogEnd::Hot { is_certain } if is_certain || self.is_leader_dead(old) => {
                self.take_over(following, old);
                Deadline::Now
            }
            LogEnd::Open | LogEnd::Hot { .. } => again,
        }
    }

    /// Gives up the candidacy, because this process is not the heir: another one is to lead.
    fn abandon_candidacy(&self, following: &Following<'m>) {
        self.drop_log();
        // This process may have read that it is the heir only after the end of the leader's
        // streams.
        let us = self.identity.vmid;
        let named = Vmid::new(following.heir.swap(0, Ordering::SeqCst)).filter(|vmid| *vmid != us);
        let leader = named.map_or(NOBODY, |named| named);
        self.set_leader(following, leader, Stage::Orphaned);
        // Nothing makes `leave` wait any more.
        self.waiters.wake_for_room(self.identity.vmid);
    }

    /// Returns true if nobody listens at the address of the leader any more. On secure streams the host
    /// could say so of a leader that lives.
    fn is_leader_dead(&self, old: Vmid) -> bool {
        if self.pal.is_secure() {
            return false;
        }
        match self.pal.connect(old) {
            Err(ConnectError::NotListening) => true,
            // The stream is closed at once: it was only to see whether there is a listener.
            Ok(_) | Err(_) => false,
        }
    }

    /// Leads the family from now on.
    fn take_over(&self, following: &Following<'m>, old: Vmid) {
        let us = self.identity.vmid;
        let (Some(tables), Some(heir)) = (self.leadership.tables, self.leadership.heir()) else {
            return self.end_succession(following);
        };
        let taken = tables.lock().taken(us);
        let taken = self.frames_taken(&following.kept.lock(), taken);
        let Some(taken) = taken.filter(|_| self.has_all_for_itself(heir)) else {
            // The old leader has answered this process, and maybe others, in a later state than that of the log: this process
            // must not lead with an older state.
            log_event!(
                warn,
                "the log of the leader does not fit what this process knows of it"
            );
            return self.abandon_candidacy(following);
        };
        let broadcast = tables.lock().broadcast();
        self.close_read_log(heir);
        // This process follows itself: it handles the old leader's messages for it, returns its delegations, and executes
        // its own frames that the old leader has not applied.
        self.receive_own(following);
        self.delegated_files.lock().recall_all();
        self.try_return_files();
        tables.lock().apply(&Op::Succeed { to: us });
        // Each member gets an entry in the table of peers before the tables have a message for it.
        self.adopt_members(tables);
        self.connect_newcomers(tables);
        if let Some(broadcast) = broadcast {
            self.end_broadcast(tables, &broadcast);
        }
        self.set_leader(following, us, Stage::Candidate);
        self.execute_own(tables, following, taken);
        following.set_stage(Stage::Led);
        let epoch = tables.lock().epoch();
        following.epoch.store(epoch, Ordering::SeqCst);
        // The next list of heirs has a higher number than any that a member has: the last list went to this process, as the
        // heir, before it went to any other member.
        self.raise_config();
        following.heir.store(0, Ordering::SeqCst);
        following.announced_to.store(0, Ordering::SeqCst);
        following.rejoined_at.store(self.now().0, Ordering::SeqCst);
        self.record_new_leader(us, epoch);
        self.reclaim_absent(old);
        // This process may hold messages for the old leader that it could not queue.
        self.send_all_client_messages();
        self.waiters.wake_for_room(us);
        // Some messages had no room in the queues of the old leader.
        tables.want_retry();
        // The locks that were recalled or revoked have their full time under the new leader.
        self.enforce_all();
        self.wake();
    }
}

/// # The new leader
impl<'m, P: Pal> Node<'m, P> {
    /// Adds the members of the family to the table of peers.
    fn adopt_members(&self, tables: &LeaderTables<'m>) {
        let mut last = None;
        loop {
            let next = tables.lock().next_member(last);
            let Some(member) = next else { return };
            last = Some(member);
            if member == self.identity.vmid {
                continue;
            }
            // The limits of both leaders are the same, so there is room.
            if let Ok(peer) = self.peers.find_or_add(member) {
                peer.rejoin.is_awaited.store(true, Ordering::SeqCst);
                peer.rejoin.is_announced.store(false, Ordering::SeqCst);
                // The member answers the limits of its leader alone.
                peer.limits_sent.store(false, Ordering::SeqCst);
                peer.extended.store(true, Ordering::SeqCst);
                peer.stream_wanted.store(true, Ordering::SeqCst);
            }
        }
    }

    /// Has the processes join that have opened a stream to this one and were never connected with the old leader: a
    /// child that was to join when the old leader died.
    fn connect_newcomers(&self, tables: &LeaderTables<'m>) {
        let is_known = self.config.admission == Admission::Known;
        for peer in self.peers.all() {
            let vmid = peer.vmid();
            if peer.lacks_inbound() || tables.lock().is_member(vmid) {
                continue;
            }
            let is_admitted = tables.lock().admits(vmid, is_known);
            if is_admitted {
                tables.lock().apply(&Op::Connected(vmid));
                confirm_grants(tables, vmid, false);
            } else if tables.lock().has_left(vmid) {
                Self::note_departed(&peer);
            } else {
                self.refuse(Some(vmid), Refusal::VmidNotAdmitted);
                self.disconnect_peer(&peer);
            }
        }
    }

    /// As a leader that has taken over: announces itself to the members, a portion in each poll iteration, and sends
    /// them the frames of the old leader that they have not received. Returns when to run again, if before `until`.
    pub(super) fn poll_announcements(
        &self,
        tables: &LeaderTables<'m>,
        until: Deadline,
    ) -> Deadline {
        let Some(following) = self.leadership.following() else {
            return until;
        };
        let mut last = following.announced_to.load(Ordering::SeqCst);
        if last == ALL_MEMBERS {
            return self.poll_resends(following, until);
        }
        if last == 0 {
            // Members with a connection wait for an answer, so they come first.
            let connected = self.peers.all().filter(|peer| !peer.lacks_inbound());
            for peer in connected.take(FIRST_MEMBERS) {
                self.announce_to(&peer);
            }
        }
        let next_at = Time(following.announce_next_at.load(Ordering::SeqCst));
        let is_waiting = Vmid::new(last)
            .and_then(|last| self.peers.find(last))
            .is_some_and(|peer| peer.awaits_rejoin());
        if is_waiting && self.now() < next_at {
            return self.poll_resends(following, until.min(Deadline::At(next_at)));
        }
        let mut left = MEMBERS_AT_ONCE;
        while let Some(next) = left.checked_sub(1) {
            left = next;
            let member = tables.lock().next_member(Vmid::new(last));
            let Some(member) = member else {
                last = ALL_MEMBERS;
                break;
            };
            last = member.get();
            // A member that is not found has joined the new leader, or there is no room for it.
            if let Some(peer) = self.peers.find(member) {
                self.announce_to(&peer);
            }
        }
        following.announced_to.store(last, Ordering::SeqCst);
        let next_at = self.now() + NEXT_MEMBERS;
        following
            .announce_next_at
            .store(next_at.0, Ordering::SeqCst);
        self.poll_resends(following, until);
        Deadline::Now
    }

    /// Records that the process had left when the previous leader ended: that leader knew of its exit, or had dismissed it.
    /// Such a process asks the successor to follow it, and the refusal ends its wait for a leader, which would last for its
    /// whole limit otherwise. This process executes no other request of it.
    pub(in crate::node) fn note_departed(peer: &PeerRef<'_, 'm, P::Stream>) {
        peer.rejoin.has_left.store(true, Ordering::SeqCst);
        peer.member.ended.store(true, Ordering::SeqCst);
        peer.extended.store(true, Ordering::SeqCst);
        peer.rejoin.is_announced.store(false, Ordering::SeqCst);
    }

    /// Announces to a member that this process leads, once.
    pub(in crate::node) fn announce_to(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        let is_awaited = peer.awaits_rejoin() || peer.rejoin.has_left.load(Ordering::SeqCst);
        if !is_awaited || peer.rejoin.is_announced.swap(true, Ordering::SeqCst) {
            return;
        }
        let hello = Message::Hello(self.own_hello());
        let announced = Message::Leader(self.present_leader());
        if self.put(peer, 0, &hello).is_err() || self.put(peer, 0, &announced).is_err() {
            // The peer has not read what this process sent to it as a member.
            self.disconnect_peer(peer);
        }
        self.flush(peer);
        self.peers.schedule(peer);
    }

    /// Handles the request of a member to follow this process.
    pub(in crate::node) fn handle_rejoin(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        rejoin: &Rejoin,
    ) {
        let answer = |epoch, taken| Answer::Rejoin(Rejoined { epoch, taken });
        let Some(following) = self.leadership.following() else {
            return self.answer(peer, seq, &answer(0, Err(Errno::ESTALE)));
        };
        let epoch = following.epoch.load(Ordering::SeqCst);
        let taken = self.rejoin(peer, rejoin, epoch);
        self.answer(peer, seq, &answer(epoch, taken));
        if taken.is_ok() {
            peer.rejoin
                .received
                .store(rejoin.received, Ordering::SeqCst);
            peer.rejoin.resent.store(0, Ordering::SeqCst);
            peer.rejoin.is_resending.store(true, Ordering::SeqCst);
            following.resending.fetch_add(1, Ordering::SeqCst);
            self.wake();
        }
        let refusal = match taken {
            Err(Errno::EPERM | Errno::ESRCH) => Refusal::VmidNotAdmitted,
            Err(Errno::ESTALE) => Refusal::StaleReign,
            _ => return,
        };
        // A process that no leader has answered is new here: it goes on all the same.
        if rejoin.received > 0 || refusal == Refusal::StaleReign {
            self.refuse(Some(peer.vmid()), refusal);
        }
    }

    /// Decides whether a member can follow this process. Returns the number of its frames that were taken.
    fn rejoin(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        rejoin: &Rejoin,
        epoch: u32,
    ) -> Result<u64, Errno> {
        let Some(tables) = self.leading() else {
            let is_candidate = self
                .following()
                .is_some_and(|following| following.stage() == Stage::Candidate);
            return Err(if is_candidate {
                Errno::EBUSY
            } else {
                Errno::ESTALE
            });
        };
        let member = peer.vmid();
        if peer.rejoin.has_left.load(Ordering::SeqCst) {
            // Not as one that was never a member, which goes on.
            return Err(Errno::ESRCH);
        }
        if !peer.awaits_rejoin() || peer.rejoin.is_resending.load(Ordering::SeqCst) {
            return Err(Errno::EPERM);
        }
        if rejoin.epoch >= epoch {
            return Err(Errno::ESTALE);
        }
        let tables = tables.lock();
        let taken = tables.taken(member).ok_or(Errno::EPERM)?;
        let is_covered = self.leadership.heir().is_some_and(|heir| {
            let sent = heir.sent.lock();
            sent.as_ref()
                .is_some_and(|sent| sent.covers(member, rejoin.received))
        });
        drop(tables);
        if taken > rejoin.sent || !is_covered {
            return Err(Errno::ESTALE);
        }
        // The answers that its requests still wait for.
        let waiting = usize::try_from(rejoin.waiting).or_broken(usize::MAX);
        let room = peer.queue.lock().room();
        peer.reserve_reply(waiting.saturating_mul(LATE_ANSWER).min(room));
        Ok(taken)
    }

    /// Returns the leader that this process follows, for a process that asks.
    pub(in crate::node) fn present_leader(&self) -> NewLeader {
        let following = self.leadership.following();
        let number = |number: fn(&Following<'m>) -> u32| following.map_or(1, number);
        NewLeader {
            epoch: number(|following| following.epoch.load(Ordering::SeqCst)),
            config: number(|following| following.config.load(Ordering::SeqCst)),
            vmid: self.leader_vmid().get(),
            mode: SuccessionMode::Standby,
        }
    }
}
