//! A platform with a defect.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::vec::Vec;

use super::Defect;
use super::event::DefectiveEvent;
use super::state::{State, lock};
use super::stream::DefectiveStream;
use crate::Vmid;
use crate::pal::{
    AcceptError, ConnectError, Deadline, Event, Interest, OutOfResources, Pal, ReadyList, Stream,
    StreamError, Time, Token,
};
use crate::sync::UncheckedAtomicU64 as AtomicU64;

/// A platform with a defect, over one without.
pub struct Defective<P: Pal> {
    pub(super) inner: Arc<P>,
    pub(super) state: Arc<State>,
    /// The watches that take effect for the next wait.
    delayed: Mutex<Vec<DelayedWatch<P>>>,
    /// An event that is never set.
    unset: Option<P::Event>,
}

/// A change of a watch: the stream, its watch, and whether it is a new one.
type DelayedWatch<P> = (Arc<<P as Pal>::Stream>, (Token, Interest), bool);

impl<P: Pal> Defective<P> {
    /// Adds the defect to a platform.
    pub fn new(inner: P, defect: Defect) -> Self {
        Defective {
            unset: inner.event().ok().filter(|event| event.prepare().is_ok()),
            inner: Arc::new(inner),
            state: Arc::new(State {
                defect,
                is_waiting: AtomicBool::new(false),
                is_woken: AtomicBool::new(false),
                listens: AtomicBool::new(true),
                wait: Mutex::default(),
                is_set: Arc::default(),
                calls: AtomicU64::new(0),
                first: AtomicU64::new(0),
                streams: AtomicUsize::new(0),
                full: AtomicUsize::new(0),
                watches: Mutex::default(),
                reported: Mutex::default(),
                muted: Mutex::default(),
                old: Mutex::default(),
                buffer: Mutex::default(),
            }),
            delayed: Mutex::default(),
        }
    }

    pub(super) fn has(&self, defect: Defect) -> bool {
        self.state.defect == defect
    }

    fn stream(&self, inner: P::Stream) -> DefectiveStream<P> {
        let number = self.state.streams.fetch_add(1, Ordering::SeqCst) + 1;
        DefectiveStream {
            inner: Arc::new(inner),
            state: Arc::clone(&self.state),
            number,
            token: AtomicU64::new(0),
            ahead: Mutex::default(),
            is_empty: false,
        }
    }
}

impl<P: Pal> Drop for Defective<P> {
    fn drop(&mut self) {
        if self.has(Defect::ListenerStays) {
            core::mem::forget(Arc::clone(&self.inner));
        }
    }
}

impl<P: Pal> Pal for Defective<P> {
    type Stream = DefectiveStream<P>;
    type Event = DefectiveEvent<P>;

    const SUPPORTS_CALLER_READ: bool = P::SUPPORTS_CALLER_READ;
    const HAS_HANDSHAKE: bool = P::HAS_HANDSHAKE;

    crate::forward_pal!(P: contended);
    crate::forward_pal!(inner: is_secure, requires_secure, end, clean_up_after, stop_listening);

    fn supports_caller_read(&self) -> bool {
        self.inner.supports_caller_read()
    }

    fn event(&self) -> Result<Self::Event, OutOfResources> {
        Ok(DefectiveEvent {
            inner: self.inner.event()?,
            defect: self.state.defect,
            is_set: if self.has(Defect::EventsShareState) {
                Arc::clone(&self.state.is_set)
            } else {
                Arc::default()
            },
            changed: Condvar::new(),
            was_set: AtomicBool::new(false),
        })
    }

    fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError> {
        if self.has(Defect::FullIsAbsent) && self.state.streams.load(Ordering::SeqCst) >= 120 {
            return Err(ConnectError::NotListening);
        }
        let wait = self.has(Defect::ConnectWaits);
        let _guard = wait.then(|| lock(&self.state.wait));
        match self.inner.connect(peer) {
            Err(ConnectError::NotListening) if self.has(Defect::AbsentIsBusy) => {
                Err(ConnectError::Busy)
            }
            stream => Ok(self.stream(stream?)),
        }
    }

    fn accept(&self) -> Result<Self::Stream, AcceptError> {
        let mut stream = self.stream(self.inner.accept()?);
        stream.is_empty = self.has(Defect::EarlyBytesAreLost) && self.has_ended(&stream.inner);
        Ok(stream)
    }

    fn watch_listener(&self, on: bool) {
        self.state.listens.store(on, Ordering::SeqCst);
        self.inner
            .watch_listener(on || self.has(Defect::ListenerIsReported));
    }

    fn watch(
        &self,
        stream: &Self::Stream,
        token: Token,
        interest: Interest,
    ) -> Result<(), OutOfResources> {
        stream.token.store(token.0, Ordering::SeqCst);
        lock(&self.state.watches).insert(token.0, interest);
        if self.has(Defect::WatchIsLate) && self.state.is_waiting.load(Ordering::SeqCst) {
            let delayed = (Arc::clone(&stream.inner), (token, interest), true);
            lock(&self.delayed).push(delayed);
            return Ok(());
        }
        self.inner
            .watch(&stream.inner, token, self.interest(interest))
    }

    fn rewatch(&self, stream: &Self::Stream, token: Token, interest: Interest) {
        let old = stream.token.load(Ordering::SeqCst);
        let token = if self.has(Defect::RewatchKeepsToken) {
            Token(old)
        } else {
            token
        };
        lock(&self.state.watches).remove(&old);
        stream.token.store(token.0, Ordering::SeqCst);
        lock(&self.state.watches).insert(token.0, interest);
        if self.has(Defect::RewatchIsLate) && self.state.is_waiting.load(Ordering::SeqCst) {
            let delayed = (Arc::clone(&stream.inner), (token, interest), false);
            lock(&self.delayed).push(delayed);
            return;
        }
        self.inner
            .rewatch(&stream.inner, token, self.interest(interest));
    }

    fn unwatch(&self, stream: &Self::Stream) {
        if self.has(Defect::UnwatchIsIgnored) {
            return;
        }
        let token = stream.token.load(Ordering::SeqCst);
        *lock(&self.state.old) = Some(Token(token));
        lock(&self.state.watches).remove(&token);
        if self.has(Defect::UnwatchEndsAll) {
            lock(&self.state.watches).clear();
        }
        lock(&self.state.muted).remove(&token);
        lock(&self.state.reported).remove(&token);
        lock(&self.delayed).retain(|(delayed, ..)| !Arc::ptr_eq(delayed, &stream.inner));
        self.inner.unwatch(&stream.inner);
    }

    fn wait(&self, ready: &mut ReadyList, until: Deadline) {
        for (stream, (token, interest), is_new) in lock(&self.delayed).drain(..) {
            if is_new {
                let _ = self.inner.watch(&stream, token, interest);
            } else {
                self.inner.rewatch(&stream, token, interest);
            }
        }
        let until = if self.has(Defect::WaitIgnoresTime) {
            Deadline::Never
        } else {
            until
        };
        self.state.is_waiting.store(true, Ordering::SeqCst);
        let guard = lock(&self.state.wait);
        match (self.state.defect, until) {
            (Defect::WakeIsLate, _) => self.wait_in_steps(ready, until),
            (Defect::ListenerIsLate, _) if until != Deadline::Now => {
                self.wait_without_listener(ready, until);
            }
            (Defect::FarLimitHangs, Deadline::At(Time(time))) if time > u64::MAX / 2 => loop {
                thread::park();
            },
            _ => self.inner.wait(ready, until),
        }
        drop(guard);
        self.state.is_waiting.store(false, Ordering::SeqCst);
        self.alter(ready);
    }

    fn wake(&self) {
        let is_lost = match self.state.defect {
            Defect::WakeBeforeIsLost => !self.state.is_waiting.load(Ordering::SeqCst),
            Defect::WakeDuringIsLost => self.state.is_waiting.load(Ordering::SeqCst),
            _ => false,
        };
        self.state.is_woken.store(true, Ordering::SeqCst);
        if !is_lost && !self.has(Defect::WakeIsLate) {
            self.inner.wake();
        }
    }

    fn wait_event(&self, event: &Self::Event, until: Deadline) {
        match self.state.defect {
            Defect::SetWakesNobody | Defect::SetWakesOnce | Defect::EventsShareState
                if event.is_set() =>
            {
                return;
            }
            Defect::SetWakesOne => {
                let is_set = lock(&event.is_set);
                let left = until.left(|| self.inner.now());
                if !*is_set {
                    let longest = Duration::from_secs(60);
                    let left = left.map_or(longest, |left| left.min(longest));
                    drop(event.changed.wait_timeout(is_set, left));
                }
                return;
            }
            Defect::SetIsLost => event.inner.clear(),
            _ => {}
        }
        let until = if self.has(Defect::EventWaitIgnoresTime) {
            Deadline::Never
        } else {
            until
        };
        self.inner.wait_event(&event.inner, until);
        if self.has(Defect::EventResets) {
            event.clear();
        }
    }

    fn wait_readable(&self, stream: &Self::Stream, event: &Self::Event, until: Deadline) -> bool {
        let event = match &self.unset {
            Some(unset) if self.has(Defect::WaitReadableIgnoresEvent) => unset,
            _ => &event.inner,
        };
        let until = if self.has(Defect::WaitReadableIgnoresTime) {
            Deadline::Never
        } else {
            until
        };
        self.inner.wait_readable(&stream.inner, event, until)
    }

    fn read_waiting(
        &self,
        stream: &Self::Stream,
        event: &Self::Event,
        buffer: &mut [u8],
        until: Deadline,
    ) -> Result<usize, StreamError> {
        self.wait_readable(stream, event, until);
        match stream.read(buffer) {
            Ok(0) if self.has(Defect::ReadWaitingHasNoEnd) => Err(StreamError::WouldBlock),
            read => read,
        }
    }

    fn now(&self) -> Time {
        let now = self.inner.now();
        match self.state.defect {
            Defect::ClockStands => {
                let first = &self.state.first;
                let _ = first.compare_exchange(0, now.0, Ordering::SeqCst, Ordering::SeqCst);
                Time(first.load(Ordering::SeqCst))
            }
            Defect::ClockJumpsBack => {
                let calls = self.state.calls.fetch_add(1, Ordering::SeqCst);
                let back = if calls % 100 == 99 { 50_000_000 } else { 0 };
                Time(now.0 - back)
            }
            Defect::ClockInMicroseconds => Time(now.0 / 1000),
            Defect::ClockJumpsAhead => {
                let calls = self.state.calls.fetch_add(1, Ordering::SeqCst);
                let ahead = if calls > 5000 { 3600 } else { 0 };
                now + Duration::from_secs(ahead)
            }
            _ => now,
        }
    }
}

impl<P: Pal> Defective<P> {
    /// Returns the interest that is passed on.
    fn interest(&self, interest: Interest) -> Interest {
        match self.state.defect {
            Defect::EmptyIsRead if interest.is_empty() => Interest::READ,
            Defect::MoreThanInterest if !interest.is_empty() => Interest::all(),
            _ => interest,
        }
    }
}
