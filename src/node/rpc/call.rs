//! Calls: each sends a request and waits for the answer.

use core::time::Duration;

use super::caller_read::SentRequest;
use super::reply_buffers::ReplyData;
use super::request::Request;
use super::wait::{Limits, Wait, interruptible};
use super::wait_reason::WaitReason;
use super::waiters::WaitToken;
use crate::Vmid;
use crate::error::{Error, Resource};
use crate::node::{LateReply, Node, PeerRef};
use crate::pal::{Deadline, Event, Pal, Time};
use crate::wire::{Answer, Expected, Message};

impl<'m, P: Pal> Node<'m, P> {
    /// Sends a request and returns at once; [`Request::poll`] returns the answer when it has
    /// arrived.
    ///
    /// # Errors
    /// [`Error::Full`] where a limit is reached, [`Error::Invalid`] if the message has no answer
    /// or `dest` is this node, [`Error::NoSuchProcess`] if the peer is known to be gone.
    pub(crate) fn begin_call(
        &self,
        dest: Vmid,
        message: &Message<'_>,
    ) -> Result<Request<'_, 'm, P>, Error> {
        self.check_running()?;
        let peer = self.peer(dest)?;
        let expected = Expected::of(message.code()).ok_or(Error::Invalid)?;
        let what = (WaitReason::Answer(message.code()), self.now());
        let claim = self.claim_waiter(dest, what, Some(expected), LateReply::Drop)?;
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
    /// As [`Node::begin_call`]; and [`Error::TimedOut`] or [`Error::Interrupted`] as `wait` says.
    pub(crate) fn call(
        &self,
        dest: Vmid,
        message: &Message<'_>,
        wait: Wait<'_>,
    ) -> Result<Answer<'static>, Error> {
        self.check_running()?;
        self.ask_with(dest, message, LateReply::Drop, &mut ReplyData::none(), wait)
    }

    pub(crate) fn ask_with(
        &self,
        dest: Vmid,
        message: &Message<'_>,
        late: LateReply,
        data: &mut ReplyData<'_>,
        wait: Wait<'_>,
    ) -> Result<Answer<'static>, Error> {
        let now = self.now();
        let limits = Limits::beginning(wait, || now);
        let peer = self.peer(dest)?;
        let code = message.code();
        let expected = Expected::of(code).ok_or(Error::Invalid)?;
        let what = (WaitReason::Answer(code), now);
        let claim = self.claim_waiter(dest, what, Some(expected), late)?;
        self.events.call_begun(dest, code, claim.seq);
        let asked = SentRequest {
            claim,
            late,
            sent: now,
        };
        let outcome = self.ask_as(&peer, asked, message, limits, data);
        self.events.call_ended(dest, code, claim.seq, &outcome);
        outcome
    }

    /// Sends the request of a call that has its waiter, and waits for the answer.
    fn ask_as(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        mut asked: SentRequest,
        message: &Message<'_>,
        limits: Limits<'_>,
        data: &mut ReplyData<'_>,
    ) -> Result<Answer<'static>, Error> {
        let claim = asked.claim;
        // The caller takes the receiving half before it sends the request, so that the answer does
        // not wake the worker.
        let mut rx = self.acquire_rx(peer, claim);
        let now = Limits {
            until: Deadline::Now,
            ..limits
        };
        let mut put = self.put(peer, claim.seq, message, now);
        if limits.until != Deadline::Now && put == Err(Error::Full(Resource::SendQueue)) {
            // The caller must not keep the receiving half while it waits for room: the peer may
            // read only after this process has read.
            self.release_rx(peer, rx.take());
            put = self.put(peer, claim.seq, message, limits);
            asked.sent = self.now();
        }
        if let Err(error) = put {
            self.release_rx(peer, rx);
            self.waiters.release(claim);
            if matches!(error, Error::TimedOut | Error::Interrupted) {
                self.handle_unsent(asked.late);
            }
            return Err(error);
        }
        self.flush(peer);
        self.await_outcome(peer, asked, rx, limits, data)
    }

    /// Allocates a waiter for a request. The end of this process fails the calls that wait at that
    /// time; a request that came later would get no answer, so this refuses it.
    fn claim_waiter(
        &self,
        dest: Vmid,
        what: (WaitReason, Time),
        expected: Option<Expected>,
        late: LateReply,
    ) -> Result<WaitToken, Error> {
        let claim = self.waiters.claim(dest, what, expected, late)?;
        if self.has_ended() {
            self.waiters.release(claim);
            return Err(Error::ShuttingDown);
        }
        Ok(claim)
    }

    /// Has this process answer its own request with that code, at once or later, and waits for the
    /// answer.
    pub(in crate::node) fn ask_here(
        &self,
        code: u8,
        data: &mut ReplyData<'_>,
        wait: Wait<'_>,
        ask: impl FnOnce(u64),
    ) -> Result<Answer<'static>, Error> {
        let (us, now) = (self.identity.vmid, self.now());
        let limits = Limits::beginning(wait, || now);
        let what = (WaitReason::Answer(code), now);
        let claim = self.claim_waiter(us, what, Expected::of(code), LateReply::Drop)?;
        self.events.call_begun(us, code, claim.seq);
        ask(claim.seq);
        let outcome = self.await_own(claim, limits, data);
        self.events.call_ended(us, code, claim.seq, &outcome);
        outcome
    }

    fn await_own(
        &self,
        claim: WaitToken,
        limits: Limits<'_>,
        data: &mut ReplyData<'_>,
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
                return self.waiters.abandon(claim, data).unwrap_or(Err(error));
            }
            self.sleep(claim, limits);
        }
    }

    /// Sleeps for that long.
    ///
    /// # Errors
    /// As `limits` say; the error of the calls that wait for `peer` if that is gone.
    pub(in crate::node) fn pause(
        &self,
        peer: Vmid,
        limits: Limits<'_>,
        pause: Duration,
    ) -> Result<(), Error> {
        let rest = limits.not_after(self.now() + pause);
        let never = || None::<Result<(), Error>>;
        match self.wait_until(peer, WaitReason::Pause, rest, never) {
            Err(Error::TimedOut) => limits.reached(&self.pal).map_or(Ok(()), Err),
            ended => ended,
        }
    }

    /// Waits until `poll` returns a result. It polls again whenever the calls that wait for room to
    /// send to `peer` are woken. Fails if that peer is gone.
    pub(in crate::node) fn wait_until<T>(
        &self,
        peer: Vmid,
        what: WaitReason,
        limits: Limits<'_>,
        mut poll: impl FnMut() -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        let what = (what, self.now());
        let claim = self.waiters.claim(peer, what, None, LateReply::Drop)?;
        let outcome = loop {
            if let Some(event) = self.waiters.event(claim) {
                event.clear();
            }
            if let Some(found) = poll() {
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
        self.waiters.release(claim);
        outcome
    }

    /// Blocks on the event of the waiter.
    pub(in crate::node) fn sleep(&self, claim: WaitToken, limits: Limits<'_>) {
        if let Some(event) = self.waiters.event(claim) {
            interruptible(claim, limits, || self.sleep_on(event, limits.until));
        }
    }
}
