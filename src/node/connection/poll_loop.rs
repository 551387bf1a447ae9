//! What moves a node's bytes: in a thread of its own, or turned by the caller.
//!
//! The worker never blocks on one peer. It reads a stream once for each report of readiness, so
//! that a busy peer gets no more turns than others; what a peer doesn't read waits in that peer's
//! own queue; a peer whose queue is full has its own requests left unread.

use crate::sync::Ordering;
use core::time::Duration;

use crate::Vmid;
use crate::arch::spin_hint;
use crate::counters::Refusal;
use crate::error::Error;
use crate::log::log_event;
use crate::node::{AdaptiveSpin, Node, PeerRef, Phase, StreamKey};
use crate::pal::{Event, Interest, Pal, Readiness, ReadyList, Stream, Time, Token};
use crate::store::{Arena, Table, bytes_for};

/// The bytes a process says its VMID in, first thing on each of its streams.
pub(crate) const VMID_LENGTH: usize = 4;

/// How soon a full backlog, or a token that another thread held, is looked at again.
pub(super) const RETRY: Duration = Duration::from_millis(2);

/// How soon streams are accepted again after the platform had no more.
pub(super) const RETRY_ACCEPT: Duration = Duration::from_millis(100);

/// A stream whose peer has not said yet which VMID it is.
pub(crate) struct UnidentifiedStream<S> {
    pub(super) stream: S,
    pub(super) vmid: [u8; VMID_LENGTH],
    pub(super) length: usize,
    pub(super) until: Time,
}

impl<S> UnidentifiedStream<S> {
    /// One that has said who it is.
    pub(super) fn of(stream: S, vmid: Vmid, until: Time) -> Self {
        UnidentifiedStream {
            stream,
            vmid: vmid.get().to_le_bytes(),
            length: VMID_LENGTH,
            until,
        }
    }
}

/// What only the thread that turns the worker touches. A token.
pub(crate) struct WorkerState<'m, S> {
    pub(super) unidentified: Table<'m, Option<UnidentifiedStream<S>>>,
    pub(super) unidentified_count: usize,
    ready: ReadyList,
    spin: AdaptiveSpin,
    /// When something was last ready. From one such time to the next is what spinning is judged by,
    /// not the wait alone: on a single core the peer may have run before the wait began.
    last_ready: Time,
    /// The platform has no more streams: the listener is not watched until then, or until one was
    /// closed.
    pub(super) exhausted_until: Option<Time>,
    /// When to try next to connect to a peer whose backlog was full.
    next_try: Option<Time>,
}

impl<'m, S: Stream> WorkerState<'m, S> {
    pub(crate) const fn bytes(unidentified: usize) -> usize {
        bytes_for::<Option<UnidentifiedStream<S>>>(unidentified)
    }

    pub(crate) fn new(arena: &mut Arena<'m>, unidentified: usize) -> Result<Self, Error> {
        Ok(WorkerState {
            unidentified: arena.alloc_table(unidentified, |_| Ok(None))?,
            unidentified_count: 0,
            ready: ReadyList::new(),
            spin: AdaptiveSpin::new(),
            last_ready: Time(0),
            exhausted_until: None,
            next_try: None,
        })
    }
}

/// How soon the worker has to look again, even if no stream gets ready.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Retry {
    Now,
    Soon,
    No,
}

impl<'m, P: Pal> Node<'m, P> {
    /// Moves bytes until [`Node::shut_down`]. For a thread of its own ([`Driving::Worker`]).
    ///
    /// [`Driving::Worker`]: crate::Driving::Worker
    pub fn work(&self) {
        while self.poll(None) {}
    }

    /// Moves what can be moved, once; waits until `until` at most if there is nothing (`None`: as
    /// long as it takes; a time in the past: not at all). False once the node is closed.
    ///
    /// For [`Driving::Caller`]: to be called between calls, so that peers are answered.
    ///
    /// [`Driving::Caller`]: crate::Driving::Caller
    pub fn poll(&self, until: Option<Time>) -> bool {
        self.poll_for(None, until)
    }

    /// As [`Node::poll`], for a call that waits for that event: if it is set there is nothing to
    /// wait for, and the same thread may have set it just before the wait.
    pub(crate) fn poll_for(&self, event: Option<&P::Event>, until: Option<Time>) -> bool {
        // Somebody else turns already.
        let Some(mut state) = self.worker.try_lock() else {
            return self.phase() != Phase::Closed;
        };
        if self.phase() >= Phase::Closing {
            if !self.close_all(&mut state) {
                let soon = self.now() + RETRY;
                self.wait(&mut state, Some(soon));
                return true;
            }
            return false;
        }
        let (retry, relisted) = self.serve_scheduled(&mut state);
        let until = match retry {
            Retry::Now => Some(Time(0)),
            Retry::Soon => {
                let soon = self.now() + RETRY;
                Some(until.map_or(soon, |until| until.min(soon)))
            }
            Retry::No => until,
        };
        let until = match state.next_try {
            Some(next) => Some(until.map_or(next, |until| until.min(next))),
            None => until,
        };
        let until = self.expire_unidentified(&mut state, until);
        let until = self.accept_again(&mut state, until);
        let until = self.poll_recalls(until);
        let until = self.poll_starts(until);
        let until = self.poll_abandoned(until);
        // Whoever was listed on the way, after its turn or without one, waits for this thread alone.
        let is_wanted = self.peers.scheduled() > relisted;
        let until = if is_wanted || event.is_some_and(Event::is_set) {
            Some(Time(0))
        } else {
            until
        };
        self.wait(&mut state, until);
        let mut next = 0_usize;
        while let Some(&(token, readiness)) = state.ready.get(next) {
            self.on_ready(&mut state, token, readiness);
            self.run_upcalls();
            next = next.saturating_add(1);
        }
        true
    }

    /// Has whoever shuts this node down look whether everything is out.
    pub(crate) fn notify_shutdown(&self) {
        if self.phase() != Phase::Running {
            self.stopped.set();
        }
    }

    /// Waits for readiness: looking again and again for a while where that has paid, then asleep.
    fn wait(&self, state: &mut WorkerState<'m, P::Stream>, until: Option<Time>) {
        state.ready.clear();
        let limit = self.config.spin;
        if until == Some(Time(0)) || limit.is_zero() {
            self.pal.wait(&mut state.ready, until);
            if self.events.is_enabled() && !state.ready.is_empty() {
                self.now();
            }
            return;
        }
        let spin = state.spin.is_worth_it();
        if spin {
            self.spin(state, until);
        }
        if state.ready.is_empty() {
            // Whoever calls for the worker all the time keeps nobody's stream from being read.
            let until = if self.take_wake() {
                Some(Time(0))
            } else {
                until
            };
            self.pal.wait(&mut state.ready, until);
        }
        if !state.ready.is_empty() {
            let now = self.now();
            state.spin.learn(spin, now - state.last_ready, limit);
            state.last_ready = now;
        }
    }

    /// Looks for readiness again and again for a while, not beyond `until`.
    fn spin(&self, state: &mut WorkerState<'m, P::Stream>, until: Option<Time>) {
        let start = self.now();
        loop {
            self.pal.wait(&mut state.ready, Some(Time(0)));
            if !state.ready.is_empty() {
                self.counters.spins_won.add(1);
                return;
            }
            let now = self.now();
            if self.is_woken() || until.is_some_and(|until| now >= until) {
                return;
            }
            if now - start >= self.config.spin {
                self.counters.spins_lost.add(1);
                return;
            }
            spin_hint();
        }
    }

    /// Looks after the peers that asked for it. Says how soon to look again, and at how many of them.
    fn serve_scheduled(&self, state: &mut WorkerState<'m, P::Stream>) -> (Retry, usize) {
        let mut retry = Retry::No;
        let mut relisted = 0_usize;
        state.next_try = None;
        // Only those that wait now: one that comes back has its turn after the streams.
        for _ in 0..self.peers.scheduled() {
            let Some(peer) = self.peers.next_scheduled() else {
                break;
            };
            if peer.unreachable.swap(false, Ordering::SeqCst) && peer.lacks_inbound() {
                self.refuse(Some(peer.vmid()), Refusal::Unreachable);
                peer.broken.store(true, Ordering::SeqCst);
            }
            let retry_peer = if peer.broken.load(Ordering::SeqCst) {
                self.close(state, &peer)
            } else {
                self.send_pending_signals(&peer);
                self.flush(&peer);
                let retry = self.resume(&peer);
                if let Some(next) = peer.next_try() {
                    // Later if another thread was at it, and it was not tried.
                    let now = self.now();
                    let next = if next > now { next } else { now + RETRY };
                    let first = state.next_try.unwrap_or(next);
                    state.next_try = Some(first.min(next));
                    let is_new = self.peers.schedule(&peer);
                    relisted = relisted.saturating_add(usize::from(is_new));
                }
                retry
            };
            if retry_peer != Retry::No {
                let is_new = self.peers.schedule(&peer);
                relisted = relisted.saturating_add(usize::from(is_new));
                retry = retry.min(retry_peer);
            }
            self.run_upcalls();
        }
        let is_due = self.returns_due.swap(false, Ordering::SeqCst);
        if is_due && !self.try_return_files() {
            self.returns_due.store(true, Ordering::SeqCst);
            retry = retry.min(Retry::Soon);
        }
        if !self.send_deferred_sync_messages() {
            retry = retry.min(Retry::Soon);
        }
        if !self.send_notifications() {
            retry = retry.min(Retry::Soon);
        }
        if !self.send_all_pending_signals() {
            retry = retry.min(Retry::Soon);
        }
        // What that and other threads put aside.
        self.run_upcalls();
        (retry, relisted)
    }

    fn on_ready(&self, state: &mut WorkerState<'m, P::Stream>, token: Token, readiness: Readiness) {
        if token == Token::LISTENER {
            self.accept(state);
            return;
        }
        match StreamKey::of(token) {
            Some(StreamKey::Unidentified(index)) => self.read_unidentified(state, index),
            Some(StreamKey::Incoming { index, generation }) => {
                if let Some(peer) = self.peers.find_by_key(index, generation) {
                    self.receive(&peer);
                }
            }
            Some(StreamKey::Outgoing { index, generation }) => {
                let Some(peer) = self.peers.find_by_key(index, generation) else {
                    return;
                };
                if readiness.contains(Readiness::WRITE) {
                    self.unblock(&peer);
                }
                if readiness.contains(Readiness::HANG_UP) {
                    // What it said before it went is heard first, even on a stream that was not
                    // accepted yet.
                    self.accept(state);
                    peer.hung_up.store(true, Ordering::SeqCst);
                    self.disconnect_peer(&peer);
                }
            }
            None => {}
        }
    }

    /// Puts the peer before the worker, and wakes it.
    pub(crate) fn call_worker(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        if self.peers.schedule(peer) {
            self.wake();
        }
    }

    /// Counts a fault of a peer, or of a stranger whose VMID is not known.
    pub(super) fn refuse(&self, vmid: Option<Vmid>, refusal: Refusal) {
        self.counters.refuse(refusal);
        self.events.refused(vmid, refusal);
        if let Some(vmid) = vmid {
            log_event!(warn, "process {vmid} is refused: {refusal}");
        } else {
            log_event!(warn, "a connection is refused: {refusal}");
        }
    }

    /// A borrower has not given back what it was asked for.
    pub(crate) fn disconnect_overdue(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        if !peer.broken.swap(true, Ordering::SeqCst) {
            self.refuse(Some(peer.vmid()), Refusal::NotReturned);
        }
        self.disconnect_peer(peer);
    }

    /// Has the peer's connection closed.
    pub(crate) fn disconnect_peer(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        peer.broken.store(true, Ordering::SeqCst);
        self.call_worker(peer);
    }

    /// Closes everything, at the end. False if a call in another thread has a stream yet.
    fn close_all(&self, state: &mut WorkerState<'m, P::Stream>) -> bool {
        if self.phase() == Phase::Closed {
            return true;
        }
        self.pal.watch_listener(false);
        for place in state.unidentified.iter_mut() {
            if let Some(candidate) = place.take() {
                self.pal.unwatch(&candidate.stream);
            }
        }
        state.unidentified_count = 0;
        let mut all = true;
        for peer in self.peers.all() {
            peer.broken.store(true, Ordering::SeqCst);
            all &= self.close(state, &peer) == Retry::No;
        }
        if all {
            self.advance_phase(Phase::Closed);
            self.stopped.set();
        }
        all
    }
}

/// What an incoming stream is watched for.
pub(super) fn incoming_interest(reads_paused: bool) -> Interest {
    if reads_paused {
        Interest::empty()
    } else {
        Interest::READ
    }
}
