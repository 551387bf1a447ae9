//! The one loop in which a thread blocks: it polls a state machine, and in between it sleeps or reads
//! the stream of the peer that is to answer. Beside it the step that a future makes around the same machine.

use core::task::Poll;
use core::time::Duration;

use super::caller_read::{CallerRead, Wake};
use super::task::WakeTarget;
use super::wait::{Interrupt, Limits, interruptible};
use super::wait_reason::WaitReason;
use super::waiter::{LateReply, WaitToken};
use crate::Vmid;
use crate::config::Config;
use crate::error::{Error, Invalid};
use crate::invariant::OrBroken;
use crate::node::Node;
use crate::pal::{Deadline, Event, Pal};
use crate::store::assert_none_held;
use crate::sync::Ordering;

/// The state of a machine after a step.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum Progress {
    /// The machine has its result.
    Done,
    /// The event of its waiter ends the wait; with a [`Wake`] the answer of the peer does, too, which
    /// the thread may read itself.
    Pending(Option<Wake>),
    /// The caller's wait has ended, and the machine finishes what it has begun: from now on only this
    /// limit counts.
    Finishing(Deadline),
}

/// A waiter that is freed when this is dropped.
pub(in crate::node) struct ClaimedWaiter<'a, 'm, P: Pal> {
    node: &'a Node<'m, P>,
    pub(in crate::node) token: WaitToken,
    interrupt: Option<&'a Interrupt>,
}

impl<P: Pal> ClaimedWaiter<'_, '_, P> {
    /// Arms the waiter: from now on a wake ends the next [`Node::woken`]. A call that must wait for others to check
    /// what it waits for calls this before.
    pub(in crate::node) fn arm(&self) {
        self.node.waiters.arm(self.token);
    }
}

impl<P: Pal> Drop for ClaimedWaiter<'_, '_, P> {
    fn drop(&mut self) {
        if let Some(interrupt) = self.interrupt {
            interrupt.forget_waiter();
        }
        self.node.waiters.release(self.token);
    }
}

impl<'m, P: Pal> Node<'m, P> {
    /// Blocks until the machine has its result. `step` polls the machine, and never blocks; with an
    /// error it first ends the machine's wait, because one of `limits` is reached. The machine has claimed
    /// the waiter just before, and that has cleared its event.
    pub(in crate::node) fn block_on(
        &self,
        token: WaitToken,
        limits: Limits<'_>,
        mut reader: Option<&mut CallerRead<'_, '_, 'm, P>>,
        step: &mut dyn FnMut(Option<Error>) -> Progress,
    ) {
        let mut reached = None;
        loop {
            let (wake, limits) = match step(reached) {
                Progress::Done => return,
                Progress::Pending(wake) => (wake, limits),
                Progress::Finishing(until) => {
                    let interrupt = None;
                    (None, Limits { until, interrupt })
                }
            };
            reached = limits.reached(&self.pal);
            if reached.is_some() {
                if let Some(reader) = &mut reader {
                    reader.return_half();
                }
                continue;
            }
            let has_read = match (&mut reader, wake) {
                (Some(reader), Some(wake)) => reader.read(limits, wake),
                (Some(reader), None) => {
                    reader.return_half();
                    false
                }
                (None, _) => false,
            };
            if !has_read {
                self.sleep(token, limits);
            }
            // The event is cleared before the next poll, so that a result which comes after that poll
            // ends the sleep at once.
            if let Some(event) = self.waiters.event(token) {
                event.clear();
            }
        }
    }

    /// The poll form of [`Node::block_on`]: runs the machine until it must wait. Then `target`, or else
    /// the one before, is woken when the machine must be polled again. The target may be a task of the embedder, so no lock is
    /// held here.
    pub(in crate::node) fn poll_step(
        &self,
        token: WaitToken,
        limits: Limits<'_>,
        target: Option<WakeTarget>,
        step: &mut dyn FnMut(Option<Error>) -> Progress,
    ) -> Poll<()> {
        assert_none_held();
        if let Some(target) = target {
            self.waiters.set_target(token, target);
        }
        let mut reached = None;
        loop {
            let limits = match step(reached) {
                Progress::Done => return Poll::Ready(()),
                Progress::Pending(_) => limits,
                Progress::Finishing(until) => Limits {
                    until,
                    interrupt: None,
                },
            };
            limits.watch_interrupt(token);
            reached = limits.reached(&self.pal);
            if reached.is_none() {
                if self.waiters.limit_task(token, limits.until) {
                    self.wake();
                }
                return Poll::Pending;
            }
        }
    }

    /// Claims a waiter for a wait without an answer.
    ///
    /// # Errors
    /// [`Error::Full`] without a free one.
    pub(in crate::node) fn claim_waiter<'a>(
        &'a self,
        peer: Vmid,
        what: WaitReason,
        limits: Limits<'a>,
        is_open_ended: bool,
    ) -> Result<ClaimedWaiter<'a, 'm, P>, Error> {
        // A call that may not wait only looks, for example for an ended child.
        let is_open_ended = is_open_ended && limits.until != Deadline::Now;
        let what = (what, self.now());
        let late = LateReply::Drop;
        let token = self.waiters.claim(peer, what, None, late, is_open_ended)?;
        Ok(ClaimedWaiter {
            node: self,
            token,
            interrupt: limits.interrupt,
        })
    }

    /// Returns the error that has ended a wait which expects no answer.
    pub(in crate::node) fn failure(&self, token: WaitToken) -> Option<Error> {
        self.waiters.outcome(token).and_then(Result::err)
    }

    /// Blocks on the event of the waiter.
    pub(in crate::node) fn sleep(&self, token: WaitToken, limits: Limits<'_>) {
        if let Some(event) = self.waiters.event(token) {
            interruptible(token, limits, || self.sleep_on(event, limits.until));
        }
    }
}

calls! {
    /// Waits for a wake of the waiter since [`ClaimedWaiter::arm`].
    ///
    /// # Errors
    /// As `limits` say; the error that has ended the wait.
    fn woken(&self, waiter: &ClaimedWaiter<'_, 'm, P>, limits: Limits<'_>) -> Result<(), Error> {
        // A call that is woken all the time still ends in time.
        if let Some(error) = limits.reached(&self.pal) {
            return Err(error);
        }
        let token = waiter.token;
        let mut outcome = Ok(());
        let mut step = |limit: Option<Error>| {
            outcome = match limit.or_else(|| self.failure(token)) {
                Some(error) => Err(error),
                None if self.waiters.is_woken(token) => Ok(()),
                None => return Progress::Pending(None),
            };
            Progress::Done
        };
        wait!(self.run(token, limits, None, &mut step));
        outcome
    }

    /// Waits until `poll` returns a result. It polls again whenever the calls that wait for room to
    /// send to `peer` are woken. Fails if that peer is gone.
    fn wait_until(
        &self,
        peer: Vmid,
        what: WaitReason,
        limits: Limits<'_>,
        poll: &mut callback!(FnMut() -> Option<Result<(), Error>>),
    ) -> Result<(), Error> {
        let waiter = self.claim_waiter(peer, what, limits, what.is_open_ended())?;
        let mut outcome = None;
        let mut step = |limit| {
            outcome = match limit {
                Some(error) => Some(Err(error)),
                None => poll().or_else(|| self.failure(waiter.token).map(Err)),
            };
            match outcome {
                Some(_) => Progress::Done,
                None => Progress::Pending(None),
            }
        };
        wait!(self.run(waiter.token, limits, None, &mut step));
        drop(waiter);
        // The machine runs until it is done.
        outcome.or_broken(Err(Error::Invalid(Invalid::Internal)))
    }

    /// Like [`Node::wait_until`], for something that the leader does, or the one that follows it.
    fn wait_for_leader(
        &self,
        what: WaitReason,
        limits: Limits<'_>,
        poll: &mut callback!(FnMut() -> Option<Result<(), Error>>),
    ) -> Result<(), Error> {
        loop {
            let leader = self.leader_vmid();
            // The leader may have changed just before the waiter was claimed: nobody wakes it then.
            let mut poll_here = || {
                let is_leader = !Config::HAS_SUCCESSION || self.leader_vmid() == leader;
                if is_leader { poll() } else { Some(Err(Error::NoSuchProcess)) }
            };
            match wait!(self.wait_until(leader, what, limits, &mut poll_here)) {
                Err(Error::NoSuchProcess)
                    if Config::HAS_SUCCESSION && self.leader_vmid() != leader => {}
                outcome => return outcome,
            }
        }
    }

    /// Like [`Node::wait_for_leader`], for room in the queue of the leader.
    fn wait_for_room_at_leader(
        &self,
        limits: Limits<'_>,
        poll: &mut callback!(FnMut() -> Option<Result<(), Error>>),
    ) -> Result<(), Error> {
        let mut poll_again = || {
            // The flag is set before the queue is checked: a thread that makes room after the check sees it.
            if let Some(peer) = self.peers.find(self.leader_vmid()) {
                peer.room_wanted.store(true, Ordering::SeqCst);
            }
            poll()
        };
        wait!(self.wait_for_leader(WaitReason::Room, limits, &mut poll_again))
    }

    /// Sleeps for that long.
    ///
    /// # Errors
    /// As `limits` say; the error of the calls that wait for `peer` if that is gone.
    fn pause(&self, peer: Vmid, limits: Limits<'_>, pause: Duration) -> Result<(), Error> {
        let rest = limits.not_after(self.now() + pause);
        let mut never = || None;
        let paused = self.wait_until(peer, WaitReason::Pause, rest, &mut never);
        match wait!(paused) {
            Err(Error::TimedOut) => limits.reached(&self.pal).map_or(Ok(()), Err),
            ended => ended,
        }
    }
}
