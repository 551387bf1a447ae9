//! Sending, and asking: how a call gets its frame out.

use super::caller_read::Asked;
use super::reply_buffers::Data;
use super::wait::{Limits, Wait, interruptible};
use super::wait_reason::WaitsFor;
use super::waiters::Claim;
use crate::Vmid;
use crate::error::{Error, Resource};
use crate::node::{ANSWER_RESERVE, Late, Node, PeerRef, Phase};
use crate::pal::{Event, Pal, Time};
use crate::sync::Ordering;
use crate::wire::{Answer, Expected, Message};

/// A request under way, for a caller that doesn't want to block. Dropped before its answer came,
/// it is given up: a late answer is dropped and counted.
pub struct Request<'n, 'm, P: Pal> {
    node: &'n Node<'m, P>,
    claim: Option<Claim>,
    dest: Vmid,
    code: u8,
}

impl<'n, 'm, P: Pal> Request<'n, 'm, P> {
    /// A request that this process answers itself.
    pub(in crate::node) fn here(node: &'n Node<'m, P>, code: u8) -> Result<Self, Error> {
        let us = node.identity.vmid;
        let what = (WaitsFor::Answer(code), node.now());
        let claim = node
            .waiters
            .claim(us, what, Expected::of(code), Late::Drop)?;
        node.events.call_begun(us, code, claim.seq);
        Ok(Request {
            node,
            claim: Some(claim),
            dest: us,
            code,
        })
    }

    /// The sequence number that the answer is to have.
    pub(in crate::node) fn seq(&self) -> u64 {
        self.claim.map_or(0, |claim| claim.seq)
    }

    /// To be called before the last look at whether the answer is there.
    pub(in crate::node) fn prepare_to_sleep(&self) {
        if let Some(event) = self.claim.and_then(|claim| self.node.waiters.event(claim)) {
            event.clear();
        }
    }

    /// Sleeps until the answer has come, or the limits are reached.
    pub(in crate::node) fn sleep(&self, limits: Limits<'_>) {
        if let Some(claim) = self.claim {
            self.node.sleep(claim, limits);
        }
    }

    /// What became of it: `None` as long as nothing did. Once it has said something it says `None`.
    pub fn poll(&mut self) -> Option<Result<Answer<'static>, Error>> {
        let claim = self.claim?;
        let outcome = self.node.waiters.outcome(claim)?;
        self.node.waiters.give(claim);
        self.claim = None;
        let events = &self.node.events;
        events.call_ended(self.dest, self.code, claim.seq, &outcome);
        Some(outcome)
    }
}

impl<P: Pal> Drop for Request<'_, '_, P> {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take() {
            self.node.waiters.give_up(claim, &mut Data::none());
            let given_up = Err(Error::Interrupted);
            let events = &self.node.events;
            events.call_ended(self.dest, self.code, claim.seq, &given_up);
        }
    }
}

impl<'m, P: Pal> Node<'m, P> {
    /// Opens a stream to `dest`, if there is none yet. Returns before it is known whether anybody
    /// is there.
    ///
    /// # Errors
    /// [`Error::Full`] at the limit of peers; [`Error::Invalid`] for this node itself.
    pub fn connect(&self, dest: Vmid) -> Result<(), Error> {
        self.alive()?;
        let peer = self.peer(dest)?;
        peer.stream_wanted.store(true, Ordering::SeqCst);
        self.flush(&peer);
        // If another thread was sending just then, it may not have seen the wish.
        self.call_worker(&peer);
        Ok(())
    }

    /// Closes the connection with `dest`, if there is one. Calls that wait for its answer get
    /// [`Error::NoSuchProcess`]; what waits to be sent to it is dropped.
    pub fn disconnect(&self, dest: Vmid) {
        if let Some(peer) = self.peers.find(dest) {
            self.give_up_on(&peer);
        }
    }

    /// Sends a message that has no answer. Blocks only for room in the peer's send queue, as long
    /// as `wait` allows.
    ///
    /// # Errors
    /// [`Error::Full`] if there is no room and `wait` is zero, [`Error::TimedOut`] or
    /// [`Error::Interrupted`] as `wait` says, [`Error::NoSuchProcess`] if the peer is known to be
    /// gone. That it was accepted does not mean that it arrived.
    pub fn send(&self, dest: Vmid, message: &Message<'_>, wait: Wait<'_>) -> Result<(), Error> {
        self.alive()?;
        self.post(dest, message, wait)
    }

    /// As [`Node::send`], also for a leader whose own process has ended.
    pub(in crate::node) fn post(
        &self,
        dest: Vmid,
        message: &Message<'_>,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        self.post_later(dest, message, wait)?;
        if let Some(peer) = self.peers.find(dest) {
            self.flush(&peer);
        }
        Ok(())
    }

    /// As [`Node::post`], but leaves the frame in the send queue for now.
    pub(in crate::node) fn post_later(
        &self,
        dest: Vmid,
        message: &Message<'_>,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        let peer = self.peer(dest)?;
        self.put(&peer, 0, message, Limits::of(wait, &self.pal))
    }

    /// As [`Node::send`], but leaves the frame in the send queue until the next send, request or
    /// [`Node::flush_to`] to the same peer, or until there is no more room: many frames go in
    /// one write.
    ///
    /// # Errors
    /// As [`Node::send`].
    pub fn queue(&self, dest: Vmid, message: &Message<'_>, wait: Wait<'_>) -> Result<(), Error> {
        self.alive()?;
        self.post_later(dest, message, wait)
    }

    /// Sends what [`Node::queue`] left.
    pub fn flush_to(&self, dest: Vmid) {
        if let Some(peer) = self.peers.find(dest) {
            self.flush(&peer);
        }
    }

    /// Sends a message to every connected peer but `except`. Never blocks. Returns how many it was
    /// accepted for, and how many had no room for it: none once this process has ended.
    pub fn broadcast(&self, message: &Message<'_>, except: Option<Vmid>) -> (usize, usize) {
        let (mut accepted, mut full) = (0_usize, 0_usize);
        if self.alive().is_err() {
            return (accepted, full);
        }
        for peer in self.peers.all() {
            if Some(peer.vmid()) == except {
                continue;
            }
            match self.put(&peer, 0, message, Limits::NONE) {
                Ok(()) => {
                    accepted = accepted.saturating_add(1);
                    self.flush(&peer);
                }
                Err(_) => full = full.saturating_add(1),
            }
        }
        (accepted, full)
    }

    /// Sends a request and returns at once; [`Request::poll`] says when the answer is there.
    ///
    /// # Errors
    /// [`Error::Full`] where a limit is reached, [`Error::Invalid`] if the message has no answer
    /// or `dest` is this node, [`Error::NoSuchProcess`] if the peer is known to be gone.
    pub fn request(&self, dest: Vmid, message: &Message<'_>) -> Result<Request<'_, 'm, P>, Error> {
        self.alive()?;
        let peer = self.peer(dest)?;
        let expected = Expected::of(message.code()).ok_or(Error::Invalid)?;
        let what = (WaitsFor::Answer(message.code()), self.now());
        let claim = self.claim_to_ask(dest, what, Some(expected), Late::Drop)?;
        let request = Request {
            node: self,
            claim: Some(claim),
            dest,
            code: message.code(),
        };
        self.events.call_begun(dest, request.code, claim.seq);
        self.put(&peer, claim.seq, message, Limits::NONE)?;
        self.flush(&peer);
        Ok(request)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// As [`Node::request`]; and [`Error::TimedOut`] or [`Error::Interrupted`] as `wait` says.
    pub fn ask(
        &self,
        dest: Vmid,
        message: &Message<'_>,
        wait: Wait<'_>,
    ) -> Result<Answer<'static>, Error> {
        self.alive()?;
        self.ask_with(dest, message, Late::Drop, &mut Data::none(), wait)
    }

    pub(crate) fn ask_with(
        &self,
        dest: Vmid,
        message: &Message<'_>,
        late: Late,
        data: &mut Data<'_>,
        wait: Wait<'_>,
    ) -> Result<Answer<'static>, Error> {
        let now = self.now();
        let limits = Limits::beginning(wait, || now);
        let peer = self.peer(dest)?;
        let code = message.code();
        let expected = Expected::of(code).ok_or(Error::Invalid)?;
        let what = (WaitsFor::Answer(code), now);
        let claim = self.claim_to_ask(dest, what, Some(expected), late)?;
        self.events.call_begun(dest, code, claim.seq);
        let asked = Asked {
            claim,
            late,
            sent: now,
        };
        let outcome = self.ask_as(&peer, asked, message, limits, data);
        self.events.call_ended(dest, code, claim.seq, &outcome);
        outcome
    }

    /// Sends the request of a call that has its waiter, and waits.
    fn ask_as(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        mut asked: Asked,
        message: &Message<'_>,
        limits: Limits<'_>,
        data: &mut Data<'_>,
    ) -> Result<Answer<'static>, Error> {
        let claim = asked.claim;
        // Before the request goes out, so that the worker doesn't wake up for the answer.
        let mut reading = self.take_reading(peer, claim);
        let now = Limits {
            until: Some(Time(0)),
            ..limits
        };
        let mut put = self.put(peer, claim.seq, message, now);
        if limits.until != Some(Time(0)) && put == Err(Error::Full(Resource::SendQueue)) {
            // Not while nobody else can read: the peer may wait for that.
            self.give_reading(peer, reading.take());
            put = self.put(peer, claim.seq, message, limits);
            asked.sent = self.now();
        }
        if let Err(error) = put {
            self.give_reading(peer, reading);
            self.waiters.give(claim);
            if matches!(error, Error::TimedOut | Error::Interrupted) {
                self.was_not_sent(asked.late);
            }
            return Err(error);
        }
        self.flush(peer);
        self.await_outcome(peer, asked, reading, limits, data)
    }

    /// Takes a waiter for a request. When this process ends, it fails the calls that wait; a request that
    /// came later would get no answer, so it is refused here.
    fn claim_to_ask(
        &self,
        dest: Vmid,
        what: (WaitsFor, Time),
        expected: Option<Expected>,
        late: Late,
    ) -> Result<Claim, Error> {
        let claim = self.waiters.claim(dest, what, expected, late)?;
        if self.has_ended() {
            self.waiters.give(claim);
            return Err(Error::ShuttingDown);
        }
        Ok(claim)
    }

    /// Has this process itself answer what is asked with that code, at once or later, and waits for
    /// that.
    pub(in crate::node) fn ask_here(
        &self,
        code: u8,
        data: &mut Data<'_>,
        wait: Wait<'_>,
        ask: impl FnOnce(u64),
    ) -> Result<Answer<'static>, Error> {
        let (us, now) = (self.identity.vmid, self.now());
        let limits = Limits::beginning(wait, || now);
        let what = (WaitsFor::Answer(code), now);
        let claim = self.claim_to_ask(us, what, Expected::of(code), Late::Drop)?;
        self.events.call_begun(us, code, claim.seq);
        ask(claim.seq);
        let outcome = self.await_own(claim, limits, data);
        self.events.call_ended(us, code, claim.seq, &outcome);
        outcome
    }

    fn await_own(
        &self,
        claim: Claim,
        limits: Limits<'_>,
        data: &mut Data<'_>,
    ) -> Result<Answer<'static>, Error> {
        loop {
            if let Some(event) = self.waiters.event(claim) {
                event.clear();
            }
            if let Some(outcome) = self.waiters.outcome(claim) {
                self.waiters.finish(claim, data);
                return outcome;
            }
            if let Some(error) = limits.reached(&self.pal) {
                return self.waiters.give_up(claim, data).unwrap_or(Err(error));
            }
            self.sleep(claim, limits);
        }
    }

    fn peer(&self, dest: Vmid) -> Result<PeerRef<'_, 'm, P::Stream>, Error> {
        if self.phase() >= Phase::Flushing {
            return Err(Error::ShuttingDown);
        }
        if dest == self.identity.vmid {
            return Err(Error::Invalid);
        }
        if Some(dest) == self.identity.leader && self.leader_gone.load(Ordering::Acquire) {
            return Err(Error::LeaderGone);
        }
        self.peers.find_or_add(dest)
    }

    /// Sends an answer that the embedder wrote.
    #[cfg(feature = "capi")]
    pub(crate) fn put_answer(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        answer: &Message<'_>,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        self.put(peer, seq, answer, Limits::of(wait, &self.pal))?;
        self.flush(peer);
        Ok(())
    }

    /// Puts a frame into the peer's send queue, waiting for room if it must and may.
    pub(in crate::node) fn put(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        seq: u64,
        message: &Message<'_>,
        limits: Limits<'_>,
    ) -> Result<(), Error> {
        let length = message.length();
        if length > self.config.capacities.frame_length {
            return Err(Error::Full(Resource::FrameLength));
        }
        if !peer.takes(length) {
            return Err(Error::LimitsDiffer {
                limit: Resource::FrameLength,
                ours: self.limits().frame_length,
                theirs: peer.longest_frame(),
            });
        }
        let mut waiting: Option<Claim> = None;
        let result = loop {
            if let Some(event) = waiting.and_then(|claim| self.waiters.event(claim)) {
                event.clear();
                // Before the look at the queue: whoever makes room after that look sees the wish.
                peer.room_wanted.store(true, Ordering::SeqCst);
            }
            {
                let mut queue = peer.queue.lock();
                if queue.closed {
                    break Err(self.gone(peer.vmid()));
                }
                if queue.room() >= length.saturating_add(ANSWER_RESERVE) {
                    self.say_hello_first(peer, &mut queue);
                    break match queue.filling.push(seq, message) {
                        Ok(()) => {
                            queue.note();
                            self.note_out(peer.vmid(), seq, message);
                            Ok(())
                        }
                        Err(_) => Err(Error::Invalid),
                    };
                }
            }
            if limits.until == Some(Time(0)) {
                break Err(Error::Full(Resource::SendQueue));
            }
            let Some(claim) = waiting else {
                self.flush(peer);
                let what = (WaitsFor::Room, self.now());
                match self.waiters.claim(peer.vmid(), what, None, Late::Drop) {
                    Ok(claim) => waiting = Some(claim),
                    Err(error) => break Err(error),
                }
                continue;
            };
            if let Some(Err(error)) = self.waiters.outcome(claim) {
                break Err(error);
            }
            if let Some(error) = limits.reached(&self.pal) {
                break Err(error);
            }
            self.sleep(claim, limits);
        };
        if let Some(claim) = waiting {
            self.waiters.give(claim);
        }
        result
    }

    /// What a call to a peer that is gone gets.
    pub(crate) fn gone(&self, vmid: Vmid) -> Error {
        if Some(vmid) == self.identity.leader {
            Error::LeaderGone
        } else {
            Error::NoSuchProcess
        }
    }

    /// Waits until `look` finds something: it is asked again whenever something changes that is
    /// told to those who wait for room to send to `peer`, or that peer is gone.
    pub(in crate::node) fn wait_until<T>(
        &self,
        peer: Vmid,
        what: WaitsFor,
        limits: Limits<'_>,
        mut look: impl FnMut() -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        let what = (what, self.now());
        let claim = self.waiters.claim(peer, what, None, Late::Drop)?;
        let outcome = loop {
            if let Some(event) = self.waiters.event(claim) {
                event.clear();
            }
            if let Some(found) = look() {
                break found;
            }
            if let Some(Err(error)) = self.waiters.outcome(claim) {
                break Err(error);
            }
            if let Some(error) = limits.reached(&self.pal) {
                break Err(error);
            }
            self.sleep(claim, limits);
        };
        self.waiters.give(claim);
        outcome
    }

    /// Waits on the claim's event.
    pub(in crate::node) fn sleep(&self, claim: Claim, limits: Limits<'_>) {
        if let Some(event) = self.waiters.event(claim) {
            interruptible(claim, limits, || self.rest(event, limits.until));
        }
    }
}
