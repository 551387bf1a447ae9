//! The duties of the leader: it answers HELLO, abandons processes that are started and never join, ends its own
//! process, and leaves last or hands the family over.

use crate::config::Config;
use crate::error::Error;
use crate::leader::{Op, Outcome, Presence};
use crate::node::rpc::Limits;
use crate::node::{LeaderTables, Node, PeerRef, Phase, Wait, WaitReason};
use crate::pal::{Deadline, Pal};
use crate::sync::Ordering;
use crate::wire::{Hello, Message};

/// # The end of the leader
impl<'m, P: Pal> Node<'m, P> {
    /// Handles a HELLO: the leader answers it. Returns false if there is no room for the answer.
    pub(crate) fn handle_hello(&self, peer: &PeerRef<'_, 'm, P::Stream>, hello: &Hello) -> bool {
        let is_of_leader = Some(peer.vmid()) == self.led_by();
        if is_of_leader && hello.features & Hello::NO_ROOM != 0 {
            self.leader_is_full.store(true, Ordering::SeqCst);
            return true;
        }
        let Some(leader) = self.leading() else {
            peer.extended.store(true, Ordering::SeqCst);
            if is_of_leader {
                self.extended.store(true, Ordering::Release);
                self.sync_handles.on_server_hello();
                if let Some(following) = self.following() {
                    let is_shared = hello.features & Hello::FOLLOWS_SUCCESSION != 0;
                    following.is_shared.store(is_shared, Ordering::SeqCst);
                }
                if hello.features & Hello::ANSWERS_HEARTBEATS != 0 {
                    self.limit_silence();
                }
            }
            return true;
        };
        // The leader answers even if this node is about to close.
        let answer = Message::Hello(self.own_hello());
        if Config::HAS_SUCCESSION {
            self.note_follower(peer, hello);
        }
        if let Err(Error::Full(_)) = self.put(peer, 0, &answer) {
            return false;
        }
        if !self.send_limits(peer) {
            return false;
        }
        // No message that needs the extensions is sent before HELLO.
        let is_first = !peer.extended.swap(true, Ordering::SeqCst);
        if !self.send_given_files(leader, peer, is_first) {
            return false;
        }
        // The process learns the outcome from its next request.
        let joined = leader.lock().apply(&Op::Join(peer.vmid(), *hello));
        if !matches!(joined, Outcome::Done) {
            self.counters.rejected_oneway.add(1);
        }
        self.heirs_are_due();
        true
    }

    /// As the leader: abandons one process that is being started, whose parent has ended, and that has not joined in
    /// time. Reclaims one portion of its resources: the worker serves others before the next portion. Returns when to
    /// check again, if before `until`.
    pub(crate) fn poll_starts(&self, until: Deadline) -> Deadline {
        let Some(leader) = self.leading() else {
            return until;
        };
        let limits = &self.leader_limits.starts;
        // If a leader that closes abandoned a start, its resources would not be reclaimed any more.
        if !limits.is_armed.load(Ordering::SeqCst) || self.phase() >= Phase::Closing {
            return until;
        }
        let now = self.pal.now();
        let (overdue, parent) = {
            let mut leader = leader.lock();
            let Some((first, vmid)) = leader.processes().first_orphaned_start() else {
                limits.is_armed.store(false, Ordering::SeqCst);
                return until;
            };
            let last = leader.processes().last_orphaned_start();
            let limit = self.config.start_limit;
            let then = limits.deadlines.lock().of(first, last, now, limit);
            if then > now {
                return until.min(Deadline::At(then));
            }
            if !leader.processes().is_abandoned(vmid) {
                if self.is_connected(vmid) {
                    leader.apply(&Op::DeferStart(vmid));
                    return Deadline::Now;
                }
                leader.apply(&Op::AbandonStart(vmid));
            }
            (vmid, leader.processes().parent_of_start(vmid))
        };
        // Only after all is reclaimed: a parent that is notified, and asks the leader, finds nothing of the process.
        if self.reclaim_all(overdue, &self.leader_limits.overdue_start)
            && let Some(parent) = parent
        {
            leader.lock().apply(&Op::NotifyAbandoned(parent));
        }
        Deadline::Now
    }

    /// As the leader: ends its own process for the family, and reclaims all its resources.
    pub(in crate::node) fn end_own_process(&self, leader: &LeaderTables<'m>) {
        let us = self.identity.vmid;
        self.release_all_ids(|range| {
            // The range is in the table, or another thread has just removed it.
            leader.lock().apply(&Op::Request {
                from: us,
                seq: 0,
                message: &Message::ReleaseIdRange(range),
                other: Presence::Absent,
            });
        });
        // With the IDs that others have transferred to it, and that it has never accepted.
        self.reclaim_process(leader, us);
        self.wake();
    }

    /// As a leader that waits for the last member to end: ends the connections with processes that had left the family
    /// before this one led it, as soon as no others are there. One of them may wait for this process, its child.
    fn disconnect_departed(&self, leader: &LeaderTables<'m>) {
        let us = self.identity.vmid;
        if !self.follows() || leader.lock().processes().has_living_except(us) {
            return;
        }
        let connected = || self.peers.all().filter(|peer| peer.has_connection());
        let has_left = |peer: PeerRef<'_, 'm, P::Stream>| {
            peer.rejoin.has_left.load(Ordering::SeqCst)
                || !peer.is_member() && leader.lock().has_left(peer.vmid())
        };
        if connected().all(has_left) {
            for peer in connected().filter(|peer| !peer.broken.load(Ordering::SeqCst)) {
                self.disconnect_peer(&peer);
            }
        }
    }

    /// As the leader, whose own process has ended: hands the family over to its heir, if there is one
    /// ([`Config::heirs`](crate::Config::heirs)), and returns as soon as the heir has all; then the node has shut
    /// down. Without an heir it stays until the last member has ended, so that the members can continue. For the
    /// others its process is dead from now on. The process of an heir that has [ended](Node::exit) stays until its
    /// leader has chosen another one; if it has to lead before that, it hands the family over. In any other process
    /// this returns at once. [`Node::shut_down`] comes after.
    ///
    /// If a leader shuts down without this call, it is as if it had died: its heir leads, and without one the family's tables
    /// end with it, so the members get [`Error::LeaderGone`].
    ///
    /// # Errors
    /// [`Error::TimedOut`] and [`Error::Interrupted`] as `wait` says; it can be called again.
    /// [`Error::ShuttingDown`] after [`Node::shut_down`].
    pub fn leave(&self, wait: Wait<'_>) -> Result<(), Error> {
        self.leave_in(wait)
    }
}

calls! {
    /// Gives the family to the heir. Returns false if there is none; then this process goes on
    /// leading.
    fn hand_over(&self, limits: Limits<'_>) -> Result<bool, Error> {
        if !self.follows() {
            return Ok(false);
        }
        let us = self.identity.vmid;
        while !self.has_handed_over() {
            // The wait ends when the log has room for the resignation.
            wait!(self.wait_until(us, WaitReason::Members, limits, &mut || {
                (self.has_log_room() && self.await_heir()).then_some(Ok(()))
            }))?;
            if !self.resign() && !self.can_have_heir() {
                return Ok(false);
            }
            // The members see the end of their streams only after the heir has all.
            wait!(self.wait_until(us, WaitReason::Members, limits, &mut || {
                self.has_resigned().then_some(Ok(()))
            }))?;
        }
        self.advance_phase(Phase::Closing);
        self.waiters.fail(None, Error::ShuttingDown);
        self.wake();
        Ok(true)
    }

    fn leave_in(&self, wait: Wait<'_>) -> Result<(), Error> {
        if self.phase() >= Phase::Flushing {
            return Err(Error::ShuttingDown);
        }
        let us = self.identity.vmid;
        let limits = Limits::of(wait, &self.pal);
        if self.follows() && self.has_ended() && self.is_known_process() {
            wait!(self.wait_until(us, WaitReason::Members, limits, &mut || {
                (!self.may_have_to_lead()).then_some(Ok(()))
            }))?;
        }
        let Some(leader) = self.leading() else {
            return Ok(());
        };
        self.end_own_process(leader);
        let is_last = || {
            !self.peers.is_any_connected()
                && !leader.lock().processes().has_living_except(us)
        };
        while !wait!(self.hand_over(limits))? {
            // Unsent frames would keep their peer in the table, even a peer that is gone.
            for peer in self.peers.all() {
                self.flush(&peer);
            }
            wait!(self.wait_until(us, WaitReason::Members, limits, &mut || {
                self.disconnect_departed(leader);
                (is_last() || self.can_have_heir()).then_some(Ok(()))
            }))?;
            if is_last() {
                break;
            }
        }
        Ok(())
    }
}
