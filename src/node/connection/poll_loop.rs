//! The poll loop, which moves the bytes of a node: in a thread of its own, or called by the
//! embedder.
//!
//! The worker never blocks on one peer. In a poll iteration it reads each stream once and handles a limited
//! number of frames of each peer, so that a busy peer takes no time from others. Frames that a peer does not read wait in the
//! queue of that peer. If the queue of a peer is full, the worker does not read its requests.

mod refusals;
mod serving;
mod worker_state;

use crate::invariant::{Count, log_broken};
use crate::sync::Ordering;
use core::time::Duration;

use crate::error::Error;
use crate::log::log_event;
use crate::node::lifecycle::CLOSE_LIMIT;
use crate::node::{LeaderTables, Node, Phase, StreamKey};
use crate::pal::fault::{check_ready, log_fault};
use crate::pal::{Deadline, Event, Interest, Pal, Token};
use crate::store::{SpinLockGuard, assert_none_held};
pub(in crate::node) use worker_state::UnidentifiedStream;
pub(crate) use worker_state::WorkerState;

/// The pause before a full backlog, or a half that another thread had locked, is tried again.
pub(super) const RETRY: Duration = Duration::from_millis(2);

/// The pause before streams are accepted again after the platform had no more of them.
pub(super) const RETRY_ACCEPT: Duration = Duration::from_millis(100);

/// The time at which the worker must serve again even if no stream becomes ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Retry {
    Now,
    Soon,
    No,
}

/// A poll iteration of the worker. If it unwinds, because a callback of the embedder or the platform has
/// panicked, it ends the node: a member that stayed connected and read nothing more would stop others.
struct Iteration<'n, 'm, P: Pal> {
    node: &'n Node<'m, P>,
    state: SpinLockGuard<'n, WorkerState<'m, P::Stream>>,
    is_complete: bool,
}

impl<P: Pal> Drop for Iteration<'_, '_, P> {
    fn drop(&mut self) {
        if self.is_complete {
            return;
        }
        let node = self.node;
        log_event!(error, "the worker has panicked, so the node ends");
        node.advance_phase(Phase::Closing);
        node.waiters.fail(None, Error::ShuttingDown);
        let deadline = node.pal.now() + CLOSE_LIMIT;
        // Another thread may hold a half of a connection for a moment.
        while !node.close_all(&mut self.state) && node.pal.now() < deadline {
            let soon = node.now() + RETRY;
            node.wait(&mut self.state, Deadline::At(soon), false);
        }
    }
}

/// # Driving
impl<'m, P: Pal> Node<'m, P> {
    /// Runs the worker until [`Node::shut_down`]. For a thread of its own ([`Driving::Worker`]).
    ///
    /// [`Driving::Worker`]: crate::Driving::Worker
    pub fn work(&self) {
        while self.poll(Deadline::Never) {}
    }

    /// Runs one poll iteration: moves the bytes that can be moved. If there are none it waits until
    /// `until` at most. False once the node is closed.
    ///
    /// For [`Driving::Caller`]: the embedder calls this between other calls, so that peers get
    /// their answers.
    ///
    /// [`Driving::Caller`]: crate::Driving::Caller
    pub fn poll(&self, until: Deadline) -> bool {
        self.poll_for(None, until)
    }

    /// Like [`Node::poll`], for a call that waits for `event`. If the event is set it does not
    /// wait: the same thread may have set it just before.
    pub(crate) fn poll_for(&self, event: Option<&P::Event>, until: Deadline) -> bool {
        self.iterate(event, until, |until| until).is_some()
    }

    /// Runs one poll iteration without waiting, and returns the time by which it must run again though no
    /// stream becomes ready and nothing wakes the platform: [`Deadline::Now`] if there may be more to do
    /// at once. `None` once the node is closed.
    ///
    /// For [`Driving::Caller`](crate::Driving::Caller), in an executor with a single thread: one task calls
    /// this, and then waits for that time or until the platform has something to do, on the host until its
    /// descriptor is readable. The calls of the other tasks are futures, such as [`Node::set_lock_async`].
    pub fn poll_once(&self) -> Option<Deadline> {
        self.take_wake();
        let next = self.iterate(None, Deadline::Never, |_| Deadline::Now)?;
        // A wake during the iteration may be the platform's no longer.
        let is_woken = self.is_woken();
        Some(if is_woken { Deadline::Now } else { next })
    }

    /// Runs one poll iteration, which waits as long as `wait` makes of the time by which it must run again.
    /// Returns that time; [`Deadline::Now`] if streams were ready. `None` once the node is closed.
    fn iterate(
        &self,
        event: Option<&P::Event>,
        until: Deadline,
        wait: fn(Deadline) -> Deadline,
    ) -> Option<Deadline> {
        // Another thread is the worker.
        let Some(state) = self.worker.try_lock() else {
            return (self.phase() != Phase::Closed).then_some(until);
        };
        self.begin_iteration();
        let mut iteration = Iteration {
            node: self,
            state,
            is_complete: false,
        };
        let next = self.run_iteration(&mut iteration.state, event, until, wait);
        iteration.is_complete = true;
        next
    }

    fn run_iteration(
        &self,
        state: &mut WorkerState<'m, P::Stream>,
        event: Option<&P::Event>,
        until: Deadline,
        wait: fn(Deadline) -> Deadline,
    ) -> Option<Deadline> {
        let now = || self.pal.now();
        if self.phase() >= Phase::Closing {
            if self.close_all(state) {
                return None;
            }
            self.waiters.wake_overdue(now);
            let soon = Deadline::At(self.now() + RETRY);
            self.wait(state, wait(soon), false);
            return Some(soon);
        }
        state.accepted = 0;
        let retry = self.serve_scheduled(state);
        let until = match retry {
            Retry::Now => Deadline::Now,
            Retry::Soon => {
                let soon = self.now() + RETRY;
                until.min(Deadline::At(soon))
            }
            Retry::No => until,
        };
        let until = match state.next_try {
            Some(next) => until.min(Deadline::At(next)),
            None => until,
        };
        let until = self.expire_unidentified(state, until);
        let until = self.accept_again(state, until);
        let until = self.poll_limits(until);
        let until = self.poll_abandoned(until);
        let until = self.poll_contact(until);
        let until = self.poll_dropped_locks(until);
        let until = self.poll_succession(until);
        let until = until.min(self.waiters.wake_overdue(now));
        // Peers that were scheduled during this iteration wait for this thread alone, so it must
        // not sleep.
        let leader = self.leading();
        let is_wanted = self.peers.scheduled() > state.round.relisted
            || leader.is_some_and(LeaderTables::has_output) && !self.is_resigning();
        let until = if is_wanted || event.is_some_and(Event::is_set) {
            Deadline::Now
        } else {
            until
        };
        // A process whose end is awaited needs the processor.
        let may_spin = retry == Retry::No;
        self.wait(state, wait(until), may_spin);
        check_ready(state.ready);
        self.iterations
            .set_ready(state.ready.len(), self.peers.scheduled());
        let mut next = 0_usize;
        while let Some(&(token, readiness)) = state.ready.get(next) {
            self.on_ready(state, token, readiness);
            self.run_upcalls();
            next.increment();
        }
        log_broken();
        log_fault();
        let is_idle = state.ready.is_empty();
        Some(if is_idle { until } else { Deadline::Now })
    }

    /// Wakes the thread or task that shuts this node down, which checks whether all frames are written.
    pub(crate) fn notify_shutdown(&self) {
        if self.phase() != Phase::Running {
            self.stopped.set();
            self.waiters.notify_shutdown_task();
        }
    }

    /// Waits for readiness events: it spins for a while where that has paid, then sleeps.
    fn wait(&self, state: &mut WorkerState<'m, P::Stream>, until: Deadline, may_spin: bool) {
        state.ready.clear();
        assert_none_held();
        let limit = self.config.spin;
        // The processes that are to answer need the processors.
        let may_spin = may_spin && !limit.is_zero() && !self.is_in_succession();
        if until == Deadline::Now || !may_spin {
            self.pal.wait(state.ready, until);
            if !state.ready.is_empty() {
                self.update_event_time();
            }
            return;
        }
        let spin = state.spin.is_worth_it();
        if spin {
            self.spin(state, until);
        }
        if state.ready.is_empty() {
            // Threads that wake the worker all the time must not prevent it from reading streams.
            let until = if self.take_wake() {
                Deadline::Now
            } else {
                until
            };
            self.pal.wait(state.ready, until);
        }
        if !state.ready.is_empty() {
            let now = self.now();
            state.spin.learn(spin, now - state.last_ready, limit);
            state.last_ready = now;
        }
    }

    /// Polls for readiness events for a while, not beyond `until`.
    fn spin(&self, state: &mut WorkerState<'m, P::Stream>, until: Deadline) {
        let start = self.now();
        loop {
            self.pal.wait(state.ready, Deadline::Now);
            if !state.ready.is_empty() {
                self.counters.spins_won.add(1);
                return;
            }
            let now = self.now();
            if self.is_woken() || until.is_over(|| now) {
                return;
            }
            if now - start >= self.config.spin {
                self.counters.spins_lost.add(1);
                return;
            }
            core::hint::spin_loop();
        }
    }

    fn on_ready(&self, state: &mut WorkerState<'m, P::Stream>, token: Token, readiness: Interest) {
        if token == Token::LISTENER {
            self.accept(state);
            return;
        }
        match StreamKey::of(token) {
            Some(StreamKey::Unidentified(index)) => self.read_unidentified(state, index),
            Some(StreamKey::Log) => self.log_has_ended(),
            Some(StreamKey::Incoming { index, generation }) => {
                if let Some(peer) = self.peers.find_by_key(index, generation) {
                    self.receive(&peer);
                }
            }
            Some(StreamKey::Outgoing { index, generation }) => {
                let Some(peer) = self.peers.find_by_key(index, generation) else {
                    return;
                };
                if readiness.contains(Interest::WRITE) {
                    self.unblock(&peer);
                }
                // While the end of the incoming stream has not come it may be reported again, for nothing: each
                // report would take time from the process that ends.
                if readiness.contains(Interest::HANG_UP)
                    && !peer.hung_up.swap(true, Ordering::SeqCst)
                {
                    // The last frames of the peer are handled first, even on a stream that was not
                    // accepted yet.
                    if peer.lacks_inbound() {
                        self.accept_last(state);
                    }
                    // The worker serves it in its next poll iteration, without a wake.
                    peer.broken.store(true, Ordering::SeqCst);
                    self.peers.schedule(&peer);
                }
            }
            None => {}
        }
    }

    /// Closes all streams, at the end. Returns false if a call in another thread still holds one.
    fn close_all(&self, state: &mut WorkerState<'m, P::Stream>) -> bool {
        if self.phase() == Phase::Closed {
            return true;
        }
        self.pal.watch_listener(false);
        for place in state.unidentified.iter_mut() {
            if let Some(candidate) = place.take() {
                self.unwatch_unidentified(&candidate);
            }
        }
        state.unidentified_count = 0;
        let mut all = true;
        for peer in self.peers.all() {
            peer.broken.store(true, Ordering::SeqCst);
            all &= self.close(state, &peer) == Retry::No;
        }
        all = all && self.close_log();
        if all {
            self.pal.stop_listening();
            self.advance_phase(Phase::Closed);
            self.notify_shutdown();
        }
        all
    }
}

/// Returns the events for which an incoming stream is watched.
pub(super) fn incoming_interest(reads_paused: bool) -> Interest {
    if reads_paused {
        Interest::empty()
    } else {
        Interest::READ
    }
}
