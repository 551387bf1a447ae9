//! The limits of this process and of its peers that must be compatible.
//!
//! The first frame to a leader is a HELLO. A leader that knows HELLO answers with its own HELLO and
//! with its LIMITS, before any other answer; then the member sends LIMITS, too. So neither is sent
//! to a peer in C.

use super::halves::SendQueue;
use crate::error::{Error, Resource};
use crate::leader::Op;
use crate::log::log_event;
use crate::node::{Node, PeerRef, Wait};
use crate::number::Number;
use crate::pal::Pal;
use crate::sync::Ordering;
use crate::wire::{Answer, Hello, LimitFlags, Message, PeerLimits};
use crate::{Vmid, parts};

/// No limit of the leader is known to differ.
pub(in crate::node) const NONE: u64 = u64::MAX;

impl<'m, P: Pal> Node<'m, P> {
    /// Returns the limits that this process sends to peers.
    pub(in crate::node) fn limits(&self) -> PeerLimits {
        let limits = &self.config.capacities;
        let number = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
        let mut flags = LimitFlags::empty();
        flags.set(
            LimitFlags::USES_SYNC,
            limits.sync_handles > 0 || self.leads() && limits.leases.handles > 0,
        );
        flags.set(LimitFlags::NEVER_JOINS, self.never_joins);
        PeerLimits {
            version: PeerLimits::VERSION,
            flags,
            frame_length: number(limits.frame_length),
            sync_data: number(limits.sync_data),
        }
    }

    /// Queues a HELLO as the first frame to the leader, so that the leader knows that this process
    /// has the extensions. The caller must call this before it queues a frame.
    #[inline]
    pub(crate) fn queue_hello_first(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        queue: &mut SendQueue<'m>,
    ) {
        if queue.is_new {
            self.begin_queue(peer, queue);
        }
    }

    #[cold]
    #[inline(never)]
    fn begin_queue(&self, peer: &PeerRef<'_, 'm, P::Stream>, queue: &mut SendQueue<'m>) {
        queue.is_new = false;
        if !parts::EXTENSIONS || Some(peer.vmid()) != self.led_by() {
            return;
        }
        let hello = Message::Hello(self.own_hello());
        // The queue is empty, and half of it holds the longest frame and a HELLO.
        if queue.filling.push(0, &hello).is_ok() {
            queue.record_push();
            self.trace_tx(peer.vmid(), 0, &hello, hello.length());
        }
    }

    /// Queues LIMITS for the peer, once. Returns false if there is no room now.
    pub(in crate::node) fn send_limits(&self, peer: &PeerRef<'_, 'm, P::Stream>) -> bool {
        if peer.limits_sent.load(Ordering::SeqCst) {
            return true;
        }
        let message = Message::Limits(self.limits());
        if let Err(Error::Full(_)) = self.put(peer, 0, &message) {
            return false;
        }
        peer.limits_sent.store(true, Ordering::SeqCst);
        true
    }

    /// Handles LIMITS of a peer. Returns false if there is no room to answer: the worker handles
    /// the frame again later.
    pub(crate) fn handle_limits(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        theirs: &PeerLimits,
    ) -> bool {
        peer.set_max_frame(theirs.frame_length);
        let ours = self.limits();
        let both = ours.flags & theirs.flags;
        let fits = !both.contains(LimitFlags::USES_SYNC) || ours.sync_data == theirs.sync_data;
        if Some(peer.vmid()) == self.led_by() {
            if !fits {
                self.leaders_sync_data
                    .store(theirs.sync_data.into(), Ordering::SeqCst);
                let [ours, theirs] = [ours, *theirs].map(|of| Number(of.sync_data.into()));
                log_event!(
                    error,
                    "sync_data is {ours} here and {theirs} at the leader: sync handles can't be used"
                );
                // Calls that wait for a handle check again.
                self.waiters.wake_for_room(peer.vmid());
            }
            return self.send_limits(peer);
        }
        let Some(leader) = self.leading() else {
            return true;
        };
        // From now on it can be the heir.
        self.heirs_are_due();
        if theirs.flags.contains(LimitFlags::NEVER_JOINS) {
            leader.lock().apply(&Op::RunUnjoined(peer.vmid()));
        }
        if !fits {
            let [ours, theirs] = [ours, *theirs].map(|of| Number(of.sync_data.into()));
            let who = peer.vmid();
            log_event!(
                warn,
                "sync_data is {ours} here and {theirs} at process {who}: it can't use sync handles"
            );
            peer.member.syncs_refused.store(true, Ordering::SeqCst);
            // The peer may have got leases before its limits were known.
            self.reclaim_leases(who);
        }
        true
    }

    /// Checks that the shared limits of this process are those of the leader, as far as the leader
    /// has sent them.
    ///
    /// # Errors
    /// [`Error::LimitsDiffer`] if they are not.
    pub(in crate::node) fn check_limits(&self) -> Result<(), Error> {
        match u32::try_from(self.leaders_sync_data.load(Ordering::SeqCst)) {
            Err(_) => Ok(()),
            Ok(theirs) => Err(Error::LimitsDiffer {
                limit: Resource::SyncData,
                ours: self.limits().sync_data.into(),
                theirs: theirs.into(),
            }),
        }
    }
}

calls! {
    /// Sends LIMITS to a member before a request whose answer may be longer than this process
    /// accepts. A process in C skips the message.
    fn send_short_limits(&self, dest: Vmid, wait: Wait<'_>) -> Result<(), Error> {
        let is_long = self.config.capacities.frame_length >= Answer::LONGEST_META;
        if is_long || dest == self.identity.vmid || !parts::EXTENSIONS {
            return Ok(());
        }
        let peer = self.peers.find_or_add(dest)?;
        if peer.limits_sent.load(Ordering::SeqCst) || Some(dest) == self.led_by() {
            return Ok(());
        }
        // The limits are flushed at once: the request may fail before it is sent, which would leave
        // them in the queue.
        let hello = Message::Hello(Hello::NO_PROCESS);
        wait!(self.post(dest, &hello, wait))?;
        let limits = Message::Limits(self.limits());
        wait!(self.post(dest, &limits, wait))?;
        peer.limits_sent.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Waits until the leader has sent HELLO and LIMITS, if it ever does.
    fn await_leader_limits(&self, wait: Wait<'_>) -> Result<(), Error> {
        if !self.has_extensions() {
            // A leader in C answers only this.
            wait!(self.owner_of_in(1, wait))?;
        }
        self.check_limits()
    }
}
