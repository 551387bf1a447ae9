//! A request that its caller polls.

use core::pin::Pin;
use core::task::{Context, Poll};

use super::block_on::Progress;
use super::call::Call;
use super::own::Own;
use super::reply_buffers::ReplyData;
use super::task::WakeTarget;
use super::wait::Limits;
use super::waiter::WaitToken;
use crate::Vmid;
use crate::error::{Error, Invalid};
use crate::invariant::OrBroken;
use crate::node::succession::undelegated;
use crate::node::{Node, PeerRef};
use crate::pal::Pal;
use crate::wire::{Answer, Message};

/// A pending request of a caller that does not block. Dropping it is an interrupt: a late answer is
/// counted, and what it grants is given back.
pub struct Request<'n, 'm, P: Pal> {
    node: &'n Node<'m, P>,
    state: State<'n, 'm, P>,
    limits: Limits<'n>,
    /// The request may wait for room in the send queue.
    may_wait: bool,
}

enum State<'n, 'm, P: Pal> {
    /// The request waits for room or for its answer. There is no peer for a request of this process to
    /// itself.
    Pending {
        call: Call,
        peer: Option<PeerRef<'n, 'm, P::Stream>>,
        message: Message<'n>,
    },
    /// The process answered its own request at once.
    Answered(Answer<'static>),
    /// The outcome was returned.
    Done,
}

impl<'n, 'm, P: Pal> Request<'n, 'm, P> {
    /// Makes a request of a process, which may be this one, and sends it if there is room. Without room it
    /// is sent later, if it `may_wait`.
    ///
    /// # Errors
    /// As [`Node::call`], if the request could not be made.
    pub(in crate::node) fn begin(
        node: &'n Node<'m, P>,
        dest: Vmid,
        message: &Message<'n>,
        limits: Limits<'n>,
        may_wait: bool,
    ) -> Result<Self, Error> {
        node.check_running()?;
        if dest != node.identity.vmid {
            return Self::exchange(node, dest, message, limits, may_wait);
        }
        let state = match node.begin_own(message)? {
            Own::Answered(answer) => State::Answered(answer),
            Own::Waits(call) => State::Pending {
                call,
                peer: None,
                message: *message,
            },
        };
        Ok(Request {
            node,
            state,
            limits,
            may_wait,
        })
    }

    /// Like `begin`, of another process, and also while this one ends.
    ///
    /// # Errors
    /// As `begin`.
    pub(in crate::node) fn exchange(
        node: &'n Node<'m, P>,
        dest: Vmid,
        message: &Message<'n>,
        limits: Limits<'n>,
        may_wait: bool,
    ) -> Result<Self, Error> {
        let now = node.now();
        let asked = dest;
        let dest = node.redirected(asked, message);
        if dest != asked && dest == node.identity.vmid {
            return Self::begin(node, dest, &undelegated(*message), limits, may_wait);
        }
        let peer = node.peer(dest)?;
        let call = Call::begin(node, dest, message, now)?;
        call.reserve_for_drop(node, message)?;
        call.record_begin(node);
        let mut request = Request {
            node,
            state: State::Pending {
                call,
                peer: Some(peer),
                message: *message,
            },
            limits,
            may_wait,
        };
        match request.step(None, &mut ReplyData::none()) {
            Some(Err(error)) => Err(error),
            // The outcome comes later.
            _ => Ok(request),
        }
    }

    /// Runs the machine until it must wait.
    fn step(
        &mut self,
        limit: Option<Error>,
        data: &mut ReplyData<'_>,
    ) -> Option<Result<Answer<'static>, Error>> {
        let State::Pending {
            call,
            peer,
            message,
        } = &mut self.state
        else {
            return None;
        };
        let outcome = call.step(
            self.node,
            peer.as_ref(),
            Some(message),
            limit,
            self.may_wait,
            data,
        );
        let outcome = outcome?;
        call.record_end(self.node, &outcome);
        if peer.is_none() {
            self.node.await_log_written();
        }
        if let Err(error) = outcome
            && self.node.is_moved(call.dest, message, error)
        {
            return self.begin_again();
        }
        self.finish();
        Some(outcome)
    }
}

impl<P: Pal> Request<'_, '_, P> {
    /// Makes the request of the leader again, since the one before has gone, and did not take it. Returns the
    /// outcome, if it has one at once.
    #[cold]
    fn begin_again(&mut self) -> Option<Result<Answer<'static>, Error>> {
        let State::Pending { message, .. } = &self.state else {
            return None;
        };
        let (node, message) = (self.node, *message);
        self.finish();
        let leader = node.leader_vmid();
        let (limits, may_wait) = (self.limits, self.may_wait);
        // A process that ends asks the next leader, too.
        let again = if leader == node.identity.vmid {
            Self::begin(node, leader, &undelegated(message), limits, may_wait)
        } else {
            Self::exchange(node, leader, &message, limits, may_wait)
        };
        match again {
            Ok(mut request) => {
                core::mem::swap(&mut self.state, &mut request.state);
                if let State::Answered(answer) = self.state {
                    self.state = State::Done;
                    return Some(Ok(answer));
                }
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Ends the use of the waiter.
    fn finish(&mut self) {
        if let Some(interrupt) = self.limits.interrupt {
            interrupt.forget_waiter();
        }
        self.state = State::Done;
    }

    /// Returns the waiter, as long as the outcome was not returned.
    pub(in crate::node) fn token(&self) -> Option<WaitToken> {
        match &self.state {
            State::Pending { call, .. } => Some(call.token),
            _ => None,
        }
    }

    /// Polls the request; `target`, or else the one before, is woken when it is to be polled again. The data
    /// of the answer goes to `data`. Returns the outcome once.
    pub(in crate::node) fn poll_step(
        &mut self,
        target: Option<WakeTarget>,
        data: &mut ReplyData<'_>,
    ) -> Poll<Result<Answer<'static>, Error>> {
        let token = match &self.state {
            State::Pending { call, .. } => call.token,
            State::Answered(answer) => {
                let answer = *answer;
                self.state = State::Done;
                return Poll::Ready(Ok(answer));
            }
            State::Done => return Poll::Pending,
        };
        let mut outcome = None;
        let (node, limits) = (self.node, self.limits);
        let target_again = node.follows().then(|| target.clone()).flatten();
        let polled = node.poll_step(token, limits, target, &mut |limit| {
            outcome = self.step(limit, data);
            match &self.state {
                // The request was made again, with another waiter.
                State::Pending { call, .. } if call.token == token => call.progress(),
                _ => Progress::Done,
            }
        });
        if polled.is_ready() && outcome.is_none() && self.token().is_some() {
            return self.poll_step(target_again, data);
        }
        polled.map(|()| outcome.or_broken(Err(Error::Invalid(Invalid::Internal))))
    }

    /// Returns the outcome, once: `None` before there is one, and `None` again after it was
    /// returned.
    pub fn poll(&mut self) -> Option<Result<Answer<'static>, Error>> {
        match self.poll_step(None, &mut ReplyData::none()) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }
}

impl<P: Pal> Future for Request<'_, '_, P> {
    type Output = Result<Answer<'static>, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_step(Some(WakeTarget::of(context)), &mut ReplyData::none())
    }
}

impl<P: Pal> Drop for Request<'_, '_, P> {
    fn drop(&mut self) {
        if let State::Pending { call, message, .. } = &self.state {
            call.record_end(self.node, &Err(Error::Interrupted));
            call.abandon(self.node, message);
            self.finish();
        }
    }
}

impl<'m, P: Pal> Node<'m, P> {
    /// Sends a request to a process, which may be this one, and returns at once.
    ///
    /// # Errors
    /// As [`Node::call`]; [`Error::Full`] without room in the send queue.
    pub(crate) fn begin_call<'n>(
        &'n self,
        dest: Vmid,
        message: &Message<'n>,
    ) -> Result<Request<'n, 'm, P>, Error> {
        Request::begin(self, dest, message, Limits::default(), false)
    }
}
