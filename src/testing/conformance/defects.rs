//! Platforms with one defect each, which the checks must find.

mod event;
mod stream;

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::vec::Vec;

use super::rules::Rule;
use crate::Vmid;
use crate::pal::{
    AcceptError, ConnectError, Deadline, Event, Interest, OutOfResources, Pal, READY_AT_ONCE,
    ReadyList, Stream, StreamError, Time, Token,
};
use crate::sync::UncheckedAtomicU64 as AtomicU64;
use event::DefectiveEvent;
use stream::DefectiveStream;

macro_rules! defects {
    ($($defect:ident, $rule:ident, $text:literal;)*) => {
        /// A defect of a platform.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Defect {
            $(#[doc = $text] $defect,)*
        }

        impl Defect {
            /// All defects.
            pub const ALL: &[Defect] = &[$(Defect::$defect,)*];

            /// Returns the rule that the defect breaks.
            pub const fn rule(self) -> Rule {
                match self { $(Defect::$defect => Rule::$rule,)* }
            }
        }

        impl fmt::Display for Defect {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Defect::$defect => $text,)* })
            }
        }
    };
}

defects! {
    ClockStands, ClockStands, "the clock stands";
    ClockJumpsBack, ClockGoesBack, "the clock jumps back now and then";
    ClockInMicroseconds, ClockUnit, "the clock counts microseconds";
    ClockJumpsAhead, ClockUnit, "the clock jumps ahead by an hour";
    EventsShareState, EventState, "all events have one state";
    EventResets, EventState, "a wait clears the event";
    SetIsLost, EventSetBefore, "an event that is set before the wait does not end it";
    EventWaitIgnoresTime, EventTime, "a wait for an event has no time limit";
    SetWakesNobody, EventWakesAll, "setting an event wakes no thread";
    SetWakesOne, EventWakesAll, "setting an event wakes one thread";
    SetWakesOnce, EventWakesAll, "setting an event again wakes no thread";
    WaitIgnoresTime, WaitTime, "a wait has no time limit";
    WakeBeforeIsLost, WakeBefore, "a wake before the wait is lost";
    FarLimitHangs, WakeBefore, "a wait with a limit in 500 years has no end";
    WakeDuringIsLost, WakeDuring, "a wake during the wait is lost";
    WakeIsLate, WakeDuring, "a wait looks for a wake once a second";
    AbsentIsBusy, NotListening, "a process that does not exist is busy";
    FullIsAbsent, Backlog, "a process with a full backlog does not listen";
    ListenerStays, NeverAccepted, "the streams that an ending node has not accepted stay open";
    ReadBlocks, WouldBlock, "a read waits for bytes";
    ReadReorders, Order, "a read swaps two bytes";
    FourthPartIsLost, Order, "the fourth part of a write is lost";
    ReadTooLong, ReadCount, "a read returns more bytes than its buffer has";
    WriteTooLong, WriteCount, "a write returns more bytes than it was given";
    WriteReturnsAll, WriteCount, "a partial write is taken for a whole one";
    EndLosesBytes, End, "the end comes before the last bytes were read";
    EarlyBytesAreLost, End, "a stream that has ended before it is accepted is empty";
    DropStaysOpen, DropEnds, "dropping a stream does not end it";
    ReaderGoneIsFull, ReaderGone, "a write without a reader would block";
    FullStopsOthers, Independent, "a full stream stops all others";
    EdgeTriggered, Level, "a ready stream is reported once";
    WriteOnce, Writable, "a stream that was full is never writable again";
    MoreThanInterest, Interest, "readiness is reported without an interest";
    EmptyIsRead, EmptyInterest, "an empty interest is taken for READ";
    HangUpForReadOnly, HangUp, "a hang-up is reported for READ alone";
    ZeroIsNoToken, Token, "a stream with the token 0 is not reported";
    RewatchKeepsToken, Rewatch, "a changed watch keeps its token";
    UnwatchIsIgnored, Unwatch, "a watch does not end";
    UnwatchEndsAll, Unwatch, "the end of a watch ends all watches";
    OldToken, Dropped, "the token of a dropped stream is reported with other streams";
    FirstOnly, InTurn, "only the first 64 ready streams are reported";
    ListenerIsLast, Listener, "the listener is not reported while many streams are ready";
    ListenerIsLate, Listener, "a stream to be accepted does not end the wait under way";
    ListenerIsReported, WatchListener, "the report of the listener cannot be turned off";
    WatchIsLate, WatchDuring, "a watch takes effect for the next wait";
    RewatchIsLate, RewatchDuring, "a change of a watch takes effect for the next wait";
    WaitReadableIgnoresEvent, WaitReadableEvent, "an event does not end the wait for a stream";
    WaitReadableIgnoresTime, WaitReadableTime, "a wait for a stream has no time limit";
    ReadWaitingHasNoEnd, ReadWaiting, "a read that waits does not return the end";
    ConnectWaits, Threads, "no stream is opened during a wait";
    SharedBuffer, Threads, "the writes of all threads go through one buffer";
}

/// A platform with a defect, over one without.
pub struct Defective<P: Pal> {
    inner: Arc<P>,
    state: Arc<State>,
    /// The watches that take effect for the next wait.
    late: Mutex<Vec<Late<P>>>,
    /// An event that is never set.
    unset: Option<P::Event>,
}

/// A change of a watch: the stream, its watch, and whether it is a new one.
type Late<P> = (Arc<<P as Pal>::Stream>, (Token, Interest), bool);

struct State {
    defect: Defect,
    is_waiting: AtomicBool,
    is_woken: AtomicBool,
    listens: AtomicBool,
    /// Held during a wait.
    wait: Mutex<()>,
    /// The state of all events.
    is_set: Arc<Mutex<bool>>,
    calls: AtomicU64,
    /// The clock's first time.
    first: AtomicU64,
    streams: AtomicUsize,
    /// The number of the stream that is full; 0 for none.
    full: AtomicUsize,
    watches: Mutex<BTreeMap<u64, Interest>>,
    reported: Mutex<BTreeSet<u64>>,
    /// Streams that were full once.
    muted: Mutex<BTreeSet<u64>>,
    old: Mutex<Option<Token>>,
    buffer: Mutex<Vec<u8>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => PoisonError::into_inner(poisoned),
    }
}

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
            late: Mutex::default(),
        }
    }

    fn is(&self, defect: Defect) -> bool {
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

    /// Returns true if the stream, which is not watched, has ended.
    fn has_ended(&self, stream: &P::Stream) -> bool {
        const PROBE: Token = Token(1 << 60);
        if self.inner.watch(stream, PROBE, Interest::HANG_UP).is_err() {
            return false;
        }
        let mut ready = ReadyList::new();
        self.inner.wait(&mut ready, Deadline::Now);
        self.inner.unwatch(stream);
        ready.iter().any(|(token, _)| *token == PROBE)
    }

    /// Waits without the listener, unless something is ready at once.
    fn wait_without_listener(&self, ready: &mut ReadyList, until: Deadline) {
        self.inner.wait(ready, Deadline::Now);
        if ready.is_empty() && !self.state.is_woken.swap(false, Ordering::SeqCst) {
            self.inner.watch_listener(false);
            self.inner.wait(ready, until);
            let listens = self.state.listens.load(Ordering::SeqCst);
            self.inner.watch_listener(listens);
        }
    }

    /// Looks once a second whether it was woken.
    fn wait_in_steps(&self, ready: &mut ReadyList, until: Deadline) {
        while !self.state.is_woken.swap(false, Ordering::SeqCst) {
            let step = Deadline::At(self.inner.now() + Duration::from_secs(1));
            self.inner.wait(ready, until.min(step));
            if until <= step || !ready.is_empty() {
                return;
            }
        }
    }

    /// Changes what a wait reports.
    fn alter(&self, ready: &mut ReadyList) {
        let state = &self.state;
        let found = core::mem::take(ready);
        let watches = lock(&state.watches).clone();
        let is_almost_full = found.len() + 8 >= READY_AT_ONCE;
        for (token, mut readiness) in found {
            let interest = watches.get(&token.0).copied();
            match state.defect {
                Defect::EdgeTriggered
                    if token != Token::LISTENER && !lock(&state.reported).insert(token.0) =>
                {
                    continue;
                }
                Defect::ListenerIsLast if token == Token::LISTENER && is_almost_full => continue,
                Defect::ZeroIsNoToken if token.0 == 0 => continue,
                Defect::UnwatchEndsAll if token != Token::LISTENER && interest.is_none() => {
                    continue;
                }
                Defect::HangUpForReadOnly
                    if interest.is_some_and(|interest| !interest.contains(Interest::READ)) =>
                {
                    readiness.remove(Interest::HANG_UP);
                }
                Defect::WriteOnce if lock(&state.muted).contains(&token.0) => {
                    readiness.remove(Interest::WRITE);
                }
                Defect::FirstOnly
                    if watches
                        .keys()
                        .take(READY_AT_ONCE)
                        .all(|first| *first != token.0)
                        && token != Token::LISTENER =>
                {
                    continue;
                }
                _ => {}
            }
            if !readiness.is_empty() {
                let _ = ready.push((token, readiness));
            }
        }
        if self.is(Defect::EdgeTriggered) && ready.is_empty() {
            let mut probe = ReadyList::new();
            self.inner.wait(&mut probe, Deadline::Now);
            let still: BTreeSet<_> = probe.iter().map(|(token, _)| token.0).collect();
            lock(&state.reported).retain(|token| still.contains(token));
        }
        if self.is(Defect::OldToken)
            && !ready.is_empty()
            && let Some(old) = *lock(&state.old)
        {
            let _ = ready.push((old, Interest::READ));
        }
    }
}

impl<P: Pal> Drop for Defective<P> {
    fn drop(&mut self) {
        if self.is(Defect::ListenerStays) {
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
    crate::forward_pal!(inner: is_secure, requires_secure, end, clean_up_after);

    fn supports_caller_read(&self) -> bool {
        self.inner.supports_caller_read()
    }

    fn event(&self) -> Result<Self::Event, OutOfResources> {
        Ok(DefectiveEvent {
            inner: self.inner.event()?,
            defect: self.state.defect,
            is_set: if self.is(Defect::EventsShareState) {
                Arc::clone(&self.state.is_set)
            } else {
                Arc::default()
            },
            changed: Condvar::new(),
            was_set: AtomicBool::new(false),
        })
    }

    fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError> {
        if self.is(Defect::FullIsAbsent) && self.state.streams.load(Ordering::SeqCst) >= 120 {
            return Err(ConnectError::NotListening);
        }
        let wait = self.is(Defect::ConnectWaits);
        let _guard = wait.then(|| lock(&self.state.wait));
        match self.inner.connect(peer) {
            Err(ConnectError::NotListening) if self.is(Defect::AbsentIsBusy) => {
                Err(ConnectError::Busy)
            }
            stream => Ok(self.stream(stream?)),
        }
    }

    fn accept(&self) -> Result<Self::Stream, AcceptError> {
        let mut stream = self.stream(self.inner.accept()?);
        stream.is_empty = self.is(Defect::EarlyBytesAreLost) && self.has_ended(&stream.inner);
        Ok(stream)
    }

    fn watch_listener(&self, on: bool) {
        self.state.listens.store(on, Ordering::SeqCst);
        self.inner
            .watch_listener(on || self.is(Defect::ListenerIsReported));
    }

    fn watch(
        &self,
        stream: &Self::Stream,
        token: Token,
        interest: Interest,
    ) -> Result<(), OutOfResources> {
        stream.token.store(token.0, Ordering::SeqCst);
        lock(&self.state.watches).insert(token.0, interest);
        if self.is(Defect::WatchIsLate) && self.state.is_waiting.load(Ordering::SeqCst) {
            let late = (Arc::clone(&stream.inner), (token, interest), true);
            lock(&self.late).push(late);
            return Ok(());
        }
        self.inner
            .watch(&stream.inner, token, self.interest(interest))
    }

    fn rewatch(&self, stream: &Self::Stream, token: Token, interest: Interest) {
        let old = stream.token.load(Ordering::SeqCst);
        let token = if self.is(Defect::RewatchKeepsToken) {
            Token(old)
        } else {
            token
        };
        lock(&self.state.watches).remove(&old);
        stream.token.store(token.0, Ordering::SeqCst);
        lock(&self.state.watches).insert(token.0, interest);
        if self.is(Defect::RewatchIsLate) && self.state.is_waiting.load(Ordering::SeqCst) {
            let late = (Arc::clone(&stream.inner), (token, interest), false);
            lock(&self.late).push(late);
            return;
        }
        self.inner
            .rewatch(&stream.inner, token, self.interest(interest));
    }

    fn unwatch(&self, stream: &Self::Stream) {
        if self.is(Defect::UnwatchIsIgnored) {
            return;
        }
        let token = stream.token.load(Ordering::SeqCst);
        *lock(&self.state.old) = Some(Token(token));
        lock(&self.state.watches).remove(&token);
        if self.is(Defect::UnwatchEndsAll) {
            lock(&self.state.watches).clear();
        }
        lock(&self.state.muted).remove(&token);
        lock(&self.state.reported).remove(&token);
        lock(&self.late).retain(|(late, ..)| !Arc::ptr_eq(late, &stream.inner));
        self.inner.unwatch(&stream.inner);
    }

    fn wait(&self, ready: &mut ReadyList, until: Deadline) {
        for (stream, (token, interest), is_new) in lock(&self.late).drain(..) {
            if is_new {
                let _ = self.inner.watch(&stream, token, interest);
            } else {
                self.inner.rewatch(&stream, token, interest);
            }
        }
        let until = if self.is(Defect::WaitIgnoresTime) {
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
        if !is_lost && !self.is(Defect::WakeIsLate) {
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
        let until = if self.is(Defect::EventWaitIgnoresTime) {
            Deadline::Never
        } else {
            until
        };
        self.inner.wait_event(&event.inner, until);
        if self.is(Defect::EventResets) {
            event.clear();
        }
    }

    fn wait_readable(&self, stream: &Self::Stream, event: &Self::Event, until: Deadline) -> bool {
        let event = match &self.unset {
            Some(unset) if self.is(Defect::WaitReadableIgnoresEvent) => unset,
            _ => &event.inner,
        };
        let until = if self.is(Defect::WaitReadableIgnoresTime) {
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
            Ok(0) if self.is(Defect::ReadWaitingHasNoEnd) => Err(StreamError::WouldBlock),
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
