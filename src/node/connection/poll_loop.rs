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
use crate::node::{Name, Node, PeerRef, Phase, SpinGauge};
use crate::pal::{Event, Interest, Pal, Readiness, ReadyList, Stream, Time, Token};
use crate::store::{Arena, Table, bytes_for};

/// The bytes a process says its VMID in, first thing on each of its streams.
pub(crate) const VMID_LENGTH: usize = 4;

/// How soon a full backlog, or a token that another thread held, is looked at again.
pub(super) const RETRY: Duration = Duration::from_millis(2);

/// How soon streams are accepted again after the platform had no more.
pub(super) const RETRY_ACCEPT: Duration = Duration::from_millis(100);

/// A stream whose peer has not said yet which VMID it is.
pub(crate) struct Stranger<S> {
    pub(super) stream: S,
    pub(super) said: [u8; VMID_LENGTH],
    pub(super) length: usize,
    pub(super) until: Time,
}

impl<S> Stranger<S> {
    /// One that has said who it is.
    pub(super) fn of(stream: S, vmid: Vmid, until: Time) -> Self {
        Stranger {
            stream,
            said: vmid.get().to_le_bytes(),
            length: VMID_LENGTH,
            until,
        }
    }
}

/// What only the thread that turns the worker touches. A token.
pub(crate) struct WorkerState<'m, S> {
    pub(super) unidentified: Table<'m, Option<Stranger<S>>>,
    pub(super) strangers_count: usize,
    ready: ReadyList,
    spin: SpinGauge,
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
        bytes_for::<Option<Stranger<S>>>(unidentified)
    }

    pub(crate) fn new(arena: &mut Arena<'m>, unidentified: usize) -> Result<Self, Error> {
        Ok(WorkerState {
            unidentified: arena.alloc_table(unidentified, |_| Ok(None))?,
            strangers_count: 0,
            ready: ReadyList::new(),
            spin: SpinGauge::new(),
            last_ready: Time(0),
            exhausted_until: None,
            next_try: None,
        })
    }
}

/// How soon the worker has to look again, even if no stream gets ready.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Again {
    AtOnce,
    Soon,
    Whenever,
}

impl<'m, P: Pal> Node<'m, P> {
    /// Moves bytes until [`Node::shut_down`]. For a thread of its own ([`Driving::Worker`]).
    ///
    /// [`Driving::Worker`]: crate::Driving::Worker
    pub fn work(&self) {
        while self.turn(None) {}
    }

    /// Moves what can be moved, once; waits until `until` at most if there is nothing (`None`: as
    /// long as it takes; a time in the past: not at all). False once the node is closed.
    ///
    /// For [`Driving::Caller`]: to be called between calls, so that peers are answered.
    ///
    /// [`Driving::Caller`]: crate::Driving::Caller
    pub fn turn(&self, until: Option<Time>) -> bool {
        self.turn_for(None, until)
    }

    /// As [`Node::turn`], for a call that waits for that event: if it is set there is nothing to
    /// wait for, and the same thread may have set it just before the wait.
    pub(crate) fn turn_for(&self, event: Option<&P::Event>, until: Option<Time>) -> bool {
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
        let (again, relisted) = self.attend(&mut state);
        let until = match again {
            Again::AtOnce => Some(Time(0)),
            Again::Soon => {
                let soon = self.now() + RETRY;
                Some(until.map_or(soon, |until| until.min(soon)))
            }
            Again::Whenever => until,
        };
        let until = match state.next_try {
            Some(next) => Some(until.map_or(next, |until| until.min(next))),
            None => until,
        };
        let until = self.expire_strangers(&mut state, until);
        let until = self.accept_again(&mut state, until);
        let until = self.look_after_recalls(until);
        let until = self.look_after_starts(until);
        let until = self.look_after_unborn(until);
        // Whoever was listed on the way, after its turn or without one, waits for this thread alone.
        let is_wanted = self.peers.wanting() > relisted;
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
    pub(crate) fn tell_who_shuts_down(&self) {
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
            let until = if self.was_woken() {
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
    fn attend(&self, state: &mut WorkerState<'m, P::Stream>) -> (Again, usize) {
        let mut again = Again::Whenever;
        let mut relisted = 0_usize;
        state.next_try = None;
        // Only those that wait now: one that comes back has its turn after the streams.
        for _ in 0..self.peers.wanting() {
            let Some(peer) = self.peers.next_wanting() else {
                break;
            };
            if peer.unreachable.swap(false, Ordering::SeqCst) && peer.is_silent() {
                self.refuse(Some(peer.vmid()), Refusal::Unreachable);
                peer.broken.store(true, Ordering::SeqCst);
            }
            let how_soon = if peer.broken.load(Ordering::SeqCst) {
                self.close(state, &peer)
            } else {
                self.send_passed(&peer);
                self.flush(&peer);
                let again = self.resume(&peer);
                if let Some(next) = peer.next_try() {
                    // Later if another thread was at it, and it was not tried.
                    let now = self.now();
                    let next = if next > now { next } else { now + RETRY };
                    let first = state.next_try.unwrap_or(next);
                    state.next_try = Some(first.min(next));
                    let is_new = self.peers.attend(&peer);
                    relisted = relisted.saturating_add(usize::from(is_new));
                }
                again
            };
            if how_soon != Again::Whenever {
                let is_new = self.peers.attend(&peer);
                relisted = relisted.saturating_add(usize::from(is_new));
                again = again.min(how_soon);
            }
            self.run_upcalls();
        }
        let is_due = self.returns_due.swap(false, Ordering::SeqCst);
        if is_due && !self.try_return_files() {
            self.returns_due.store(true, Ordering::SeqCst);
            again = again.min(Again::Soon);
        }
        if !self.send_deferred_sync_messages() {
            again = again.min(Again::Soon);
        }
        if !self.pay_dues() {
            again = again.min(Again::Soon);
        }
        if !self.send_all_passed() {
            again = again.min(Again::Soon);
        }
        // What that and other threads put aside.
        self.run_upcalls();
        (again, relisted)
    }

    fn on_ready(&self, state: &mut WorkerState<'m, P::Stream>, token: Token, readiness: Readiness) {
        if token == Token::LISTENER {
            self.accept(state);
            return;
        }
        match Name::of(token) {
            Some(Name::Stranger(index)) => self.listen_to_stranger(state, index),
            Some(Name::Incoming { index, generation }) => {
                if let Some(peer) = self.peers.named(index, generation) {
                    self.receive(&peer);
                }
            }
            Some(Name::Outgoing { index, generation }) => {
                let Some(peer) = self.peers.named(index, generation) else {
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
                    self.give_up_on(&peer);
                }
            }
            None => {}
        }
    }

    /// Puts the peer before the worker, and wakes it.
    pub(crate) fn call_worker(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        if self.peers.attend(peer) {
            self.wake();
        }
    }

    /// Counts a fault of a peer, or of a stranger whose VMID is not known.
    pub(super) fn refuse(&self, who: Option<Vmid>, refusal: Refusal) {
        self.counters.refuse(refusal);
        self.events.refused(who, refusal);
        if let Some(vmid) = who {
            log_event!(warn, "process {vmid} is refused: {refusal}");
        } else {
            log_event!(warn, "a connection is refused: {refusal}");
        }
    }

    /// A borrower has not given back what it was asked for.
    pub(crate) fn is_late_to_return(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
        if !peer.broken.swap(true, Ordering::SeqCst) {
            self.refuse(Some(peer.vmid()), Refusal::NotReturned);
        }
        self.give_up_on(peer);
    }

    /// Has the peer's connection closed.
    pub(crate) fn give_up_on(&self, peer: &PeerRef<'_, 'm, P::Stream>) {
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
            if let Some(stranger) = place.take() {
                self.pal.unwatch(&stranger.stream);
            }
        }
        state.strangers_count = 0;
        let mut all = true;
        for peer in self.peers.all() {
            peer.broken.store(true, Ordering::SeqCst);
            all &= self.close(state, &peer) == Again::Whenever;
        }
        if all {
            self.enter(Phase::Closed);
            self.stopped.set();
        }
        all
    }
}

/// What an incoming stream is watched for.
pub(super) fn incoming_interest(held_back: bool) -> Interest {
    if held_back {
        Interest::empty()
    } else {
        Interest::READ
    }
}
