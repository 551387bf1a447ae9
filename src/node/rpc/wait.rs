//! How long a call waits, and what ends it before.

use core::time::Duration;

use super::waiters::WaitToken;
use crate::config::Driving;
use crate::error::Error;
use crate::node::Node;
use crate::pal::{Pal, Time};
use crate::sync::{AtomicBool, AtomicU32, Ordering};

/// How long a call may wait, and who may interrupt it. The limit is for the whole call, however many
/// questions it asks; where a call needs longer than that for something, its description says so.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wait<'a> {
    limit: Limit,
    interrupt: Option<&'a Interrupt>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Limit {
    #[default]
    None,
    /// From the beginning of the call on.
    For(Duration),
    /// The call has begun: all its steps end then. `Time(0)` is no time at all.
    Until(Time),
}

impl Wait<'_> {
    /// As long as it takes: until the answer or the peer's end.
    pub const FOREVER: Wait<'static> = Wait {
        limit: Limit::None,
        interrupt: None,
    };

    /// At most that long; then [`Error::TimedOut`].
    pub const fn at_most(limit: Duration) -> Wait<'static> {
        Wait {
            limit: Limit::For(limit),
            interrupt: None,
        }
    }

    /// Whether nothing but the answer ends it.
    pub(in crate::node) const fn is_forever(&self) -> bool {
        matches!(self.limit, Limit::None) && self.interrupt.is_none()
    }

    /// Until another thread raises `interrupt`; then [`Error::Interrupted`].
    #[must_use]
    pub const fn or_until(self, interrupt: &Interrupt) -> Wait<'_> {
        Wait {
            limit: self.limit,
            interrupt: Some(interrupt),
        }
    }
}

/// Ends a call from another thread. For one call at a time.
#[derive(Debug, Default)]
pub struct Interrupt {
    raised: AtomicBool,
    /// The name of the call's waiter; 0 for none.
    slot: AtomicU32,
}

impl Interrupt {
    /// One that was not raised yet.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Interrupt {
            raised: AtomicBool::new(false),
            slot: AtomicU32::new(0),
        }
    }

    /// Ends the call of `node` that waits with this, or the next one to.
    pub fn raise<P: Pal>(&self, node: &Node<'_, P>) {
        self.raised.store(true, Ordering::SeqCst);
        // If the slot has gone to another call by now, that one wakes up in vain and no more.
        node.waiters.wake(self.slot.load(Ordering::SeqCst));
        if node.config.driving == Driving::Caller {
            node.wake();
        }
    }

    /// Makes it fit for the next call.
    pub fn reset(&self) {
        self.raised.store(false, Ordering::SeqCst);
    }

    fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }
}

/// A wait under way: its end, and what may end it before.
#[derive(Clone, Copy, Default)]
pub(in crate::node) struct Limits<'a> {
    pub(in crate::node) until: Option<Time>,
    pub(in crate::node) interrupt: Option<&'a Interrupt>,
}

impl<'a> Limits<'a> {
    /// No time at all.
    pub(in crate::node) const NONE: Limits<'static> = Limits {
        until: Some(Time(0)),
        interrupt: None,
    };

    pub(in crate::node) fn of<P: Pal>(wait: Wait<'a>, pal: &P) -> Limits<'a> {
        Limits::beginning(wait, || pal.now())
    }

    /// The same, where the time may be known.
    pub(in crate::node) fn beginning(wait: Wait<'a>, now: impl FnOnce() -> Time) -> Limits<'a> {
        let until = match wait.limit {
            Limit::None => None,
            Limit::For(Duration::ZERO) => Some(Time(0)),
            Limit::For(limit) => Some(now() + limit),
            Limit::Until(until) => Some(until),
        };
        Limits {
            until,
            interrupt: wait.interrupt,
        }
    }

    /// For the steps of the call: they end when it does.
    pub(in crate::node) fn wait(self) -> Wait<'a> {
        Wait {
            limit: self.until.map_or(Limit::None, Limit::Until),
            interrupt: self.interrupt,
        }
    }

    /// The same, but not before that time.
    pub(in crate::node) fn not_before(self, time: Time) -> Limits<'a> {
        Limits {
            until: self.until.map(|until| until.max(time)),
            ..self
        }
    }

    /// The same, but not after that time.
    pub(in crate::node) fn not_after(self, time: Time) -> Limits<'a> {
        Limits {
            until: Some(self.until.map_or(time, |until| until.min(time))),
            ..self
        }
    }

    pub(in crate::node) fn reached<P: Pal>(&self, pal: &P) -> Option<Error> {
        if self.interrupt.is_some_and(Interrupt::is_raised) {
            return Some(Error::Interrupted);
        }
        let until = self.until?;
        (until == Time(0) || pal.now() >= until).then_some(Error::TimedOut)
    }
}

impl<P: Pal> Node<'_, P> {
    /// Begins a call of several steps: its limit is for all of them together.
    pub(crate) fn begin<'w>(&self, wait: Wait<'w>) -> Wait<'w> {
        Limits::of(wait, &self.pal).wait()
    }
}

/// Sleeps in `wait`, with the interrupt led to the claim's event; not at all if it is raised.
pub(in crate::node) fn interruptible(claim: WaitToken, limits: Limits<'_>, wait: impl FnOnce()) {
    let Some(interrupt) = limits.interrupt else {
        return wait();
    };
    interrupt.slot.store(claim.name(), Ordering::SeqCst);
    if !interrupt.is_raised() {
        wait();
    }
    interrupt.slot.store(0, Ordering::SeqCst);
}
