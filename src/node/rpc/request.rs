//! A request that its caller polls.

use super::call::Call;
use super::reply_buffers::ReplyData;
use super::wait::Limits;
use crate::Vmid;
use crate::error::Error;
use crate::leader::Outcome;
use crate::node::Node;
use crate::pal::{Event, Pal};
use crate::wire::{Answer, Message};

/// A pending request of a caller that does not block. Dropping it abandons the request: a late
/// answer is counted, and an ID that it brings is given back.
pub struct Request<'n, 'm, P: Pal> {
    node: &'n Node<'m, P>,
    /// None once the outcome was returned.
    call: Option<Call>,
}

impl<'m, P: Pal> Node<'m, P> {
    /// Sends a request to a process, which may be this one, and returns at once; [`Request::poll`]
    /// returns the answer when it has arrived.
    ///
    /// # Errors
    /// As [`Node::call`]; [`Error::Full`] without room in the send queue.
    pub(crate) fn begin_call(
        &self,
        dest: Vmid,
        message: &Message<'_>,
    ) -> Result<Request<'_, 'm, P>, Error> {
        self.check_running()?;
        let us = self.identity.vmid;
        let peer = if dest == us {
            None
        } else {
            Some(self.peer(dest)?)
        };
        let mut call = Call::begin(self, dest, message, self.now())?;
        let (code, seq) = (call.code, call.token.seq);
        self.events.call_begun(dest, code, seq);
        let sent = if let Some(peer) = &peer {
            call.poll_send(self, peer, message, false)
        } else {
            call.mark_sent();
            self.handle_own(seq, message).map(|outcome| {
                if let Outcome::Answer(answer) = outcome {
                    self.waiters.answer_here(us, seq, &answer);
                }
            })
        };
        let request = Request {
            node: self,
            call: Some(call),
        };
        sent.map(|()| request)
    }
}

impl<P: Pal> Request<'_, '_, P> {
    /// Clears the event. The caller must call this before its last poll ahead of
    /// [`Request::sleep`].
    pub(in crate::node) fn prepare_to_sleep(&self) {
        let token = self.call.as_ref().map(|call| call.token);
        if let Some(event) = token.and_then(|token| self.node.waiters.event(token)) {
            event.clear();
        }
    }

    /// Blocks until the answer has arrived, or a limit is reached.
    pub(in crate::node) fn sleep(&self, limits: Limits<'_>) {
        if let Some(call) = &self.call {
            self.node.sleep(call.token, limits);
        }
    }

    /// Returns the outcome, once: `None` before there is one, and `None` again after it was
    /// returned.
    pub fn poll(&mut self) -> Option<Result<Answer<'static>, Error>> {
        let call = self.call.as_ref()?;
        let outcome = call.poll_answer(self.node, &mut ReplyData::none())?;
        call.record_end(self.node, &outcome);
        self.call = None;
        Some(outcome)
    }
}

impl<P: Pal> Drop for Request<'_, '_, P> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            call.record_end(self.node, &Err(Error::Interrupted));
            call.abandon(self.node);
        }
    }
}
