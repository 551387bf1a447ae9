//! Heartbeats on secure streams, so that no two processes use the same lock, lease or ID after the host has cut a
//! stream.
//!
//! A member sends the leader a heartbeat four times in each limit of silence, with the time at which it
//! sent it, and the leader sends it back. The member uses what it was given (delegated files, leases,
//! IDs) for the limit of silence after the time at which it *sent* the last heartbeat that came back: an
//! answer that the host has delayed proves nothing about the present. A member whose time is over is cut
//! off for good, also if the leader has never answered.
//!
//! A leader that has lost a member answers it no more. It keeps all that the member had for a quarter
//! more than the limit, and only then reclaims it and reports the end of the process. An authenticated
//! end of the stream frees it at once: a member ends its stream after it has stopped using what it was given.
//!
//! The clocks of the leader and its members must advance at about the same rate; nothing else is assumed of them.

use core::time::Duration;

use crate::config::Config;
use crate::error::Error;
use crate::invariant::OrBroken;
use crate::log::log_event;
use crate::node::upcall::Upcall;
use crate::node::{Node, PeerRef, Phase, RxHalf, TxHalf};
use crate::pal::{Deadline, Pal, Time};
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::wire::{Heartbeat, Message};

/// The pause before a heartbeat that had no room is sent again.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// The contact of a member with its leader.
pub(in crate::node) struct Contact {
    /// The limit of silence in nanoseconds; 0: there is none, since the streams are plain, this process
    /// is the leader, or the embedder wants none.
    limit: u64,
    /// This process has written to the leader.
    has_written: AtomicBool,
    /// The leader answers heartbeats.
    is_limited: AtomicBool,
    /// The time at which the last heartbeat was sent that the leader has answered, or at first HELLO.
    confirmed: AtomicU64,
    /// The time at which the last heartbeat was sent.
    sent: AtomicU64,
    /// The time of the next heartbeat.
    next: AtomicU64,
    /// The leader may have given to others what this process had.
    is_cut_off: AtomicBool,
    /// The embedder was notified that this process is cut off.
    is_announced: AtomicBool,
}

impl Contact {
    /// Makes the contact of a process. `may_be_limited`: the leader is another process, and the streams are
    /// secure.
    pub(in crate::node) fn new(config: &Config, may_be_limited: bool) -> Contact {
        let limit = config.silence_limit.filter(|_| may_be_limited);
        Contact {
            limit: limit.map_or(0, nanoseconds),
            has_written: AtomicBool::new(false),
            is_limited: AtomicBool::new(false),
            confirmed: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            next: AtomicU64::new(0),
            is_cut_off: AtomicBool::new(false),
            is_announced: AtomicBool::new(false),
        }
    }

    fn is_cut_off(&self) -> bool {
        self.is_cut_off.load(Ordering::SeqCst)
    }

    /// Returns the time at which this process must stop using what it was given.
    fn until(&self) -> Time {
        Time(self.confirmed.load(Ordering::SeqCst)) + Duration::from_nanos(self.limit)
    }
}

/// Returns [`Config::silence_limit`] in nanoseconds.
fn nanoseconds(limit: Duration) -> u64 {
    u64::try_from(limit.as_nanos()).or_broken(Heartbeat::LONGEST)
}

/// # Members
impl<'m, P: Pal> Node<'m, P> {
    /// Returns true if this process was cut off from the leader.
    pub(in crate::node) fn is_cut_off(&self) -> bool {
        P::MAY_BE_SECURE && self.contact.is_cut_off()
    }

    /// Checks that this process may use what the leader has given it. The caller holds the lock of the
    /// table in which it uses it. On plain streams this always succeeds.
    ///
    /// # Errors
    /// [`Error::CutOff`] if the leader was silent for too long, the error of [`Node::gone_error`] if the
    /// connection with the leader has ended.
    #[inline]
    pub(in crate::node) fn check_contact(&self) -> Result<(), Error> {
        if P::MAY_BE_SECURE && self.contact.limit != 0 {
            self.check_contact_now()
        } else {
            Ok(())
        }
    }

    #[cold]
    #[inline(never)]
    fn check_contact_now(&self) -> Result<(), Error> {
        let contact = &self.contact;
        if self.leader_gone.load(Ordering::SeqCst) || contact.is_cut_off() {
            return Err(self.gone_error(self.leader_vmid()));
        }
        if contact.is_limited.load(Ordering::SeqCst) && self.pal.now() >= contact.until() {
            // The worker, whose wait ends at that time, does the rest.
            contact.is_cut_off.store(true, Ordering::SeqCst);
            return Err(Error::CutOff);
        }
        Ok(())
    }

    /// Records that the first bytes of a stream to that peer, with HELLO among them, are written now.
    pub(in crate::node) fn note_first_write(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        if P::MAY_BE_SECURE && self.contact.limit != 0 && Some(peer.vmid()) == self.led_by() {
            let now = self.now().0;
            self.contact.confirmed.store(now, Ordering::SeqCst);
            if !self.contact.has_written.swap(true, Ordering::SeqCst) {
                self.wake();
            }
        }
    }

    /// Begins to limit the leader's silence, because the leader has announced that it answers heartbeats.
    pub(in crate::node) fn limit_silence(&self) {
        if P::MAY_BE_SECURE
            && self.contact.limit != 0
            && !self.contact.is_limited.swap(true, Ordering::SeqCst)
        {
            self.wake();
        }
    }

    /// Returns true if this process has sent HELLO to the leader, and the leader's HELLO has not come, which states
    /// whether it answers heartbeats. If the host has cut the stream it never comes.
    fn is_hello_unanswered(&self) -> bool {
        let has_written = self.contact.has_written.load(Ordering::SeqCst);
        has_written && !self.extended.load(Ordering::SeqCst)
    }

    /// Sends the heartbeats, and cuts this process off when the leader was silent for too long. Returns
    /// when to run again, if before `until`.
    pub(in crate::node) fn poll_contact(&self, until: Deadline) -> Deadline {
        let contact = &self.contact;
        let is_over = || contact.is_announced.load(Ordering::SeqCst) || self.has_ended();
        if !P::MAY_BE_SECURE || contact.limit == 0 || is_over() {
            return until;
        }
        let is_limited = contact.is_limited.load(Ordering::SeqCst);
        if !is_limited && !self.is_hello_unanswered() {
            return until;
        }
        if self.leader_gone.load(Ordering::SeqCst) {
            return until;
        }
        let now = self.now();
        let end = contact.until();
        if now >= end {
            contact.is_cut_off.store(true, Ordering::SeqCst);
        }
        if contact.is_cut_off() {
            self.announce_cut_off();
            return until;
        }
        if !is_limited {
            return until.min(Deadline::At(end));
        }
        let mut next = Time(contact.next.load(Ordering::SeqCst));
        if now >= next {
            let is_sent = self.send_heartbeat(now);
            let quarter = Duration::from_nanos(contact.limit / 4);
            next = now
                + if is_sent {
                    quarter
                } else {
                    TRY_AGAIN.min(quarter)
                };
            contact.next.store(next.0, Ordering::SeqCst);
        }
        until.min(Deadline::At(next)).min(Deadline::At(end))
    }

    /// Sends a heartbeat. Returns false if there is no room for it.
    fn send_heartbeat(&self, now: Time) -> bool {
        let leader = self.leader_vmid();
        let Some(peer) = self.peers.find(leader) else {
            return true;
        };
        let beat = Heartbeat {
            sent_at: now.0,
            limit: self.contact.limit,
        };
        self.contact.sent.store(now.0, Ordering::SeqCst);
        if let Err(Error::Full(_)) = self.put(&peer, 0, &Message::Heartbeat(beat)) {
            return false;
        }
        self.flush(&peer);
        true
    }

    /// In the worker: notifies the embedder, once, that this process is cut off, and closes the connection with the
    /// leader.
    fn announce_cut_off(&self) {
        if self.contact.is_announced.swap(true, Ordering::SeqCst) {
            return;
        }
        log_event!(warn, "the leader is silent, so this process is cut off");
        self.enqueue_upcall(Upcall::CutOff);
        self.disconnect(self.leader_vmid());
    }

    /// Counts the silence from now on, because another process leads and has answered.
    pub(in crate::node) fn renew_contact(&self) {
        let now = self.now().0;
        self.contact.confirmed.fetch_max(now, Ordering::SeqCst);
    }

    /// Handles the leader's answer to a heartbeat.
    pub(in crate::node) fn handle_answered_heartbeat(&self, beat: &Heartbeat) {
        let contact = &self.contact;
        if !P::MAY_BE_SECURE || beat.sent_at > contact.sent.load(Ordering::SeqCst) {
            self.counters.rejected_oneway.add(1);
        } else {
            contact.confirmed.fetch_max(beat.sent_at, Ordering::SeqCst);
        }
    }

    /// Stops this process from using what the leader has given it, if the peer is the leader: the connection is about to
    /// be closed, and the leader may reclaim what it has given as soon as the stream has ended.
    pub(in crate::node) fn end_contact(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        rx: &RxHalf<'m, P::Stream>,
    ) {
        if !P::MAY_BE_SECURE || self.contact.limit == 0 || Some(peer.vmid()) != self.led_by() {
            return;
        }
        // This process keeps its IDs and locks under the next leader.
        if rx.has_ended && self.has_heir() {
            return;
        }
        // A leader that has cut this process off ends its stream, too; then it is gone, as if it had
        // shut down.
        let is_ours = self.phase() >= Phase::Closing;
        if !rx.has_ended && !is_ours && self.contact.is_limited.load(Ordering::SeqCst) {
            self.contact.is_cut_off.store(true, Ordering::SeqCst);
        }
        self.leader_gone.store(true, Ordering::SeqCst);
        // A thread that has not seen the flag yet has one of these locks.
        drop(self.delegated_files.lock());
        drop(self.own_ids.lock());
        self.sync_handles.await_users();
    }

    /// Like [`Node::end_contact`], after the connection was closed: notifies the embedder if it was
    /// cut.
    pub(in crate::node) fn announce_end_of_contact(&self) {
        if self.is_cut_off() && !self.has_ended() && self.phase() == Phase::Running {
            self.announce_cut_off();
        }
    }
}

/// # The leader
impl<'m, P: Pal> Node<'m, P> {
    /// Returns true if this leader answers heartbeats.
    pub(in crate::node) fn answers_heartbeats(&self) -> bool {
        P::MAY_BE_SECURE
            && self.leads()
            && self.pal.is_secure()
            && self.config.silence_limit.is_some()
    }

    /// Answers a heartbeat of a member. Returns false if there is no room for the answer.
    pub(in crate::node) fn answer_heartbeat(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        beat: &Heartbeat,
    ) -> bool {
        if !P::MAY_BE_SECURE || !self.pal.is_secure() {
            self.counters.rejected_oneway.add(1);
            return true;
        }
        peer.member
            .silence_limit
            .fetch_max(beat.limit, Ordering::SeqCst);
        let answer = Message::Heartbeat(*beat);
        !matches!(self.put(peer, 0, &answer), Err(Error::Full(_)))
    }

    /// Returns the time at which the resources of a lost peer are reclaimed; `None` if the peer was not lost.
    pub(in crate::node) fn kept_until(peer: &PeerRef<'_, 'm, P::Stream>) -> Option<Time> {
        let until = || Time(peer.member.kept_until.load(Ordering::SeqCst));
        P::MAY_BE_SECURE.then(until).filter(|until| until.0 != 0)
    }

    /// As the leader: returns true if a lost peer keeps its resources for now, since its process may still use them. The
    /// first call closes its streams.
    pub(in crate::node) fn keeps_resources(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        rx: &mut RxHalf<'m, P::Stream>,
        tx: &mut TxHalf<'m, P::Stream>,
    ) -> bool {
        if !P::MAY_BE_SECURE
            || !self.leads()
            || self.phase() >= Phase::Closing
            || peer.lacks_inbound()
        {
            return false;
        }
        if let Some(until) = Self::kept_until(peer) {
            return self.now() < until;
        }
        let ours = self.config.silence_limit.map_or(0, nanoseconds);
        let limit = ours.max(peer.member.silence_limit.load(Ordering::SeqCst));
        let has_stopped = rx.has_ended || peer.member.ended.load(Ordering::SeqCst);
        if !self.pal.is_secure() || limit == 0 || has_stopped {
            return false;
        }
        self.close_streams(rx, tx);
        let until = self.now() + Duration::from_nanos(limit) + Duration::from_nanos(limit / 4);
        peer.member.kept_until.store(until.0, Ordering::SeqCst);
        log_event!(
            warn,
            "process {} is lost, and may not know it: it keeps what it has until it does",
            peer.vmid()
        );
        true
    }
}
