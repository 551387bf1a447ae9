//! The one loop in which a thread blocks: it polls a state machine, and in between it sleeps or reads
//! the stream of the peer that is to answer.

use core::time::Duration;

use super::caller_read::{CallerRead, Wake};
use super::wait::{Limits, interruptible};
use super::wait_reason::WaitReason;
use super::waiters::{LateReply, WaitToken};
use crate::Vmid;
use crate::error::Error;
use crate::invariant::OrBroken;
use crate::node::Node;
use crate::pal::{Deadline, Event, Pal};

/// The state of a machine after a step.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum Progress {
    /// It has its result.
    Done,
    /// The event of its waiter ends the wait; with a [`Wake`] the answer of the peer does, too, which
    /// the thread may read itself.
    Pending(Option<Wake>),
    /// The caller's wait has ended, and the machine finishes what it has begun: from now on only this
    /// limit counts.
    Finishing(Deadline),
}

impl<'m, P: Pal> Node<'m, P> {
    /// Blocks until the machine has its result. `step` polls the machine, and never blocks; with an
    /// error it ends the machine's wait, because one of `limits` is reached. The machine has claimed the
    /// waiter just before, and that has cleared its event.
    pub(in crate::node) fn block_on(
        &self,
        token: WaitToken,
        limits: Limits<'_>,
        mut reader: Option<&mut CallerRead<'_, '_, 'm, P>>,
        step: &mut dyn FnMut(Option<Error>) -> Progress,
    ) {
        loop {
            let (wake, limits) = match step(None) {
                Progress::Done => return,
                Progress::Pending(wake) => (wake, limits),
                Progress::Finishing(until) => {
                    let interrupt = None;
                    (None, Limits { until, interrupt })
                }
            };
            if let Some(error) = limits.reached(&self.pal) {
                if let Some(reader) = &mut reader {
                    reader.give_back();
                }
                if step(Some(error)) == Progress::Done {
                    return;
                }
                continue;
            }
            match (&mut reader, wake) {
                (Some(reader), Some(_)) if reader.is_new() => reader.take(),
                (Some(reader), Some(wake)) if reader.has_stream() => reader.read(limits, wake),
                (reader, _) => {
                    if let Some(reader) = reader {
                        reader.give_back();
                    }
                    self.sleep(token, limits);
                }
            }
            // The event is cleared before the next poll, so that a result which comes after that poll
            // ends the sleep at once.
            if let Some(event) = self.waiters.event(token) {
                event.clear();
            }
        }
    }

    /// Waits until `poll` returns a result. It polls again whenever the calls that wait for room to
    /// send to `peer` are woken. Fails if that peer is gone.
    pub(in crate::node) fn wait_until(
        &self,
        peer: Vmid,
        what: WaitReason,
        limits: Limits<'_>,
        poll: &mut dyn FnMut() -> Option<Result<(), Error>>,
    ) -> Result<(), Error> {
        // A call that may not wait only looks, for example for an ended child.
        let is_open_ended = what.is_open_ended() && limits.until != Deadline::Now;
        let what = (what, self.now());
        let token = self
            .waiters
            .claim(peer, what, None, LateReply::Drop, is_open_ended)?;
        let mut outcome = None;
        self.block_on(token, limits, None, &mut |limit| {
            outcome = match limit {
                Some(error) => Some(Err(error)),
                None => poll().or_else(|| self.failure(token).map(Err)),
            };
            match outcome {
                Some(_) => Progress::Done,
                None => Progress::Pending(None),
            }
        });
        self.waiters.release(token);
        // The loop returns only after the machine is done.
        outcome.or_broken(Err(Error::Invalid))
    }

    /// Returns the error that has ended a wait which expects no answer.
    pub(in crate::node) fn failure(&self, token: WaitToken) -> Option<Error> {
        self.waiters.outcome(token).and_then(Result::err)
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
        match self.wait_until(peer, WaitReason::Pause, rest, &mut || None) {
            Err(Error::TimedOut) => limits.reached(&self.pal).map_or(Ok(()), Err),
            ended => ended,
        }
    }

    /// Blocks on the event of the waiter.
    pub(in crate::node) fn sleep(&self, token: WaitToken, limits: Limits<'_>) {
        if let Some(event) = self.waiters.event(token) {
            interruptible(token, limits, || self.sleep_on(event, limits.until));
        }
    }
}
