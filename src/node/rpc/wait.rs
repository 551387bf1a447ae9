//! The time limit of a call, and its interrupt.

use core::time::Duration;

use super::waiter::WaitToken;
use crate::config::Driving;
use crate::error::Error;
use crate::node::Node;
use crate::pal::{Deadline, Pal, Time};
use crate::sync::{AtomicBool, AtomicU32, Ordering};

/// The time limit of a call, and its interrupt. The limit is for the whole call, however many
/// requests it sends; the description of a call says if some step of it may take longer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wait<'a> {
    limit: Limit,
    interrupt: Option<&'a Interrupt>,
}

#[derive(Clone, Copy, Debug)]
enum Limit {
    /// A time from the beginning of the call.
    For(Duration),
    /// The end of the call, for all its steps.
    Until(Deadline),
}

impl Default for Limit {
    fn default() -> Self {
        Limit::Until(Deadline::Never)
    }
}

/// As [`Wait::at_most`].
impl From<Duration> for Wait<'_> {
    fn from(limit: Duration) -> Self {
        Wait::at_most(limit)
    }
}

impl Wait<'_> {
    /// No limit: the call waits until the answer comes or the peer is gone.
    pub const FOREVER: Wait<'static> = Wait {
        limit: Limit::Until(Deadline::Never),
        interrupt: None,
    };

    /// Waits at most `limit`; then the call returns [`Error::TimedOut`].
    pub const fn at_most(limit: Duration) -> Wait<'static> {
        Wait {
            limit: Limit::For(limit),
            interrupt: None,
        }
    }

    /// Returns true if there is neither a limit nor an interrupt.
    pub(in crate::node) const fn is_forever(&self) -> bool {
        matches!(self.limit, Limit::Until(Deadline::Never)) && self.interrupt.is_none()
    }

    /// Returns true if its end depends on the time at which the call begins.
    pub(in crate::node) const fn has_duration(&self) -> bool {
        matches!(self.limit, Limit::For(_))
    }

    /// Returns true if it allows no waiting.
    pub(super) const fn is_zero(&self) -> bool {
        match self.limit {
            Limit::For(limit) => limit.is_zero(),
            Limit::Until(until) => matches!(until, Deadline::Now),
        }
    }

    /// Waits until another thread raises `interrupt`; then the call returns [`Error::Interrupted`].
    #[must_use]
    pub const fn or_until(self, interrupt: &Interrupt) -> Wait<'_> {
        Wait {
            limit: self.limit,
            interrupt: Some(interrupt),
        }
    }
}

/// Interrupts a call from another thread. One call at a time may use it.
#[derive(Debug, Default)]
pub struct Interrupt {
    raised: AtomicBool,
    /// The number of the call's waiter; 0 if no call waits.
    slot: AtomicU32,
}

impl Interrupt {
    /// Makes an interrupt that is not raised.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Interrupt {
            raised: AtomicBool::new(false),
            slot: AtomicU32::new(0),
        }
    }

    /// Ends the call of `node` that waits with this interrupt, or the next call that does.
    pub fn raise<P: Pal>(&self, node: &Node<'_, P>) {
        self.raised.store(true, Ordering::SeqCst);
        // If another call has the waiter by now, that call wakes up once without need.
        node.waiters.wake(self.slot.load(Ordering::SeqCst));
        if node.config.driving == Driving::Caller {
            node.wake();
        }
    }

    /// Clears the interrupt for the next call.
    pub fn reset(&self) {
        self.raised.store(false, Ordering::SeqCst);
    }

    /// Forgets the waiter of the call that waited with this interrupt.
    pub(super) fn forget_waiter(&self) {
        self.slot.store(0, Ordering::SeqCst);
    }

    fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }
}

/// The limits of a wait that has begun: its end and its interrupt.
#[derive(Clone, Copy, Default)]
pub(in crate::node) struct Limits<'a> {
    pub(in crate::node) until: Deadline,
    pub(in crate::node) interrupt: Option<&'a Interrupt>,
}

impl<'a> Limits<'a> {
    pub(in crate::node) fn of<P: Pal>(wait: Wait<'a>, pal: &P) -> Limits<'a> {
        Limits::beginning(wait, || pal.now())
    }

    /// Like [`Limits::of`], for a caller that may know the time.
    pub(in crate::node) fn beginning(wait: Wait<'a>, now: impl FnOnce() -> Time) -> Limits<'a> {
        let until = match wait.limit {
            Limit::For(Duration::ZERO) => Deadline::Now,
            Limit::For(limit) => Deadline::At(now() + limit),
            Limit::Until(until) => until,
        };
        Limits {
            until,
            interrupt: wait.interrupt,
        }
    }

    /// Returns the limits for the steps of the call, which end together with it.
    pub(in crate::node) fn wait(self) -> Wait<'a> {
        Wait {
            limit: Limit::Until(self.until),
            interrupt: self.interrupt,
        }
    }

    /// Returns the same limits, but the end is not before `time`.
    pub(in crate::node) fn not_before(self, time: Time) -> Limits<'a> {
        Limits {
            until: self.until.max(Deadline::At(time)),
            ..self
        }
    }

    /// Returns the same limits, but the end is not after `time`.
    pub(in crate::node) fn not_after(self, time: Time) -> Limits<'a> {
        Limits {
            until: self.until.min(Deadline::At(time)),
            ..self
        }
    }

    /// Has the interrupt wake that waiter, whose call checks it afterwards.
    pub(super) fn watch_interrupt(&self, token: WaitToken) {
        if let Some(interrupt) = self.interrupt {
            interrupt.slot.store(token.name(), Ordering::SeqCst);
        }
    }

    pub(in crate::node) fn reached<P: Pal>(&self, pal: &P) -> Option<Error> {
        if self.interrupt.is_some_and(Interrupt::is_raised) {
            return Some(Error::Interrupted);
        }
        let is_over = self.until.is_over(|| pal.now());
        is_over.then_some(Error::TimedOut)
    }
}

impl<P: Pal> Node<'_, P> {
    /// Begins a call of several steps: the returned limit is for all of them together.
    pub(crate) fn begin<'w>(&self, wait: Wait<'w>) -> Wait<'w> {
        Limits::of(wait, &self.pal).wait()
    }
}

/// Runs `wait`, during which the interrupt sets the event of the waiter. Does not run it if the
/// interrupt is raised already.
pub(in crate::node) fn interruptible(claim: WaitToken, limits: Limits<'_>, wait: impl FnOnce()) {
    let Some(interrupt) = limits.interrupt else {
        return wait();
    };
    limits.watch_interrupt(claim);
    if !interrupt.is_raised() {
        wait();
    }
    interrupt.forget_waiter();
}
