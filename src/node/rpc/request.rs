//! A request that its caller polls.

use super::reply_buffers::ReplyData;
use super::wait::Limits;
use super::wait_reason::WaitReason;
use super::waiters::{LateReply, WaitToken};
use crate::Vmid;
use crate::error::Error;
use crate::node::Node;
use crate::pal::{Event, Pal};
use crate::wire::{Answer, Expected};

/// A pending request of a caller that does not block. Dropping it abandons the request: a late
/// answer is dropped and counted.
pub struct Request<'n, 'm, P: Pal> {
    pub(super) node: &'n Node<'m, P>,
    pub(super) claim: Option<WaitToken>,
    pub(super) dest: Vmid,
    pub(super) code: u8,
}

impl<'n, 'm, P: Pal> Request<'n, 'm, P> {
    /// Begins a request that this process answers itself.
    pub(in crate::node) fn here(node: &'n Node<'m, P>, code: u8) -> Result<Self, Error> {
        let us = node.identity.vmid;
        let what = (WaitReason::Answer(code), node.now());
        let claim = node
            .waiters
            .claim(us, what, Expected::of(code), LateReply::Drop)?;
        node.events.call_begun(us, code, claim.seq);
        Ok(Request {
            node,
            claim: Some(claim),
            dest: us,
            code,
        })
    }

    /// The sequence number of the request and of its answer.
    pub(in crate::node) fn seq(&self) -> u64 {
        self.claim.map_or(0, |claim| claim.seq)
    }

    /// Clears the event. The caller must call this before its last poll ahead of
    /// [`Request::sleep`].
    pub(in crate::node) fn prepare_to_sleep(&self) {
        if let Some(event) = self.claim.and_then(|claim| self.node.waiters.event(claim)) {
            event.clear();
        }
    }

    /// Blocks until the answer has arrived, or a limit is reached.
    pub(in crate::node) fn sleep(&self, limits: Limits<'_>) {
        if let Some(claim) = self.claim {
            self.node.sleep(claim, limits);
        }
    }

    /// Returns the outcome, once: `None` before there is one, and `None` again after it was
    /// returned.
    pub fn poll(&mut self) -> Option<Result<Answer<'static>, Error>> {
        let claim = self.claim?;
        let outcome = self.node.waiters.outcome(claim)?;
        self.node.waiters.release(claim);
        self.claim = None;
        let events = &self.node.events;
        events.call_ended(self.dest, self.code, claim.seq, &outcome);
        Some(outcome)
    }
}

impl<P: Pal> Drop for Request<'_, '_, P> {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take() {
            self.node.waiters.abandon(claim, &mut ReplyData::none());
            let given_up = Err(Error::Interrupted);
            let events = &self.node.events;
            events.call_ended(self.dest, self.code, claim.seq, &given_up);
        }
    }
}
