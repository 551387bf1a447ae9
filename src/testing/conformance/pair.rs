//! Two nodes' platforms with streams between them, and the calls that all checks make.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use spin::Mutex;

use super::rules::Rule;
use super::setup::{CheckSetup, CheckStep};
use super::violation::{Checked, Violation, broken};
use crate::Vmid;
use crate::pal::fault::fault_count;
use crate::pal::{Deadline, Interest, Pal, READY_AT_ONCE, ReadyList, Token};

/// Measures time by the host's clock, and without `std` by the platform's.
pub(super) struct Timer {
    #[cfg(feature = "std")]
    start: std::time::Instant,
    #[cfg(not(feature = "std"))]
    start: crate::pal::Time,
}

/// The platforms of two nodes: streams are opened at the first and accepted at the second.
pub(super) struct Pair<'a, P: Pal> {
    pub(super) one: P,
    pub(super) two: P,
    pub(super) vmids: [Vmid; 2],
    step: &'a Mutex<CheckStep>,
    bad_report: &'a Mutex<Option<Violation>>,
    pub(super) patience: Duration,
    /// True while a thread is in [`Pal::wait`] of the second platform.
    pub(super) is_waiting_on_two: AtomicBool,
    is_only_one: bool,
}

/// Both ends of a stream.
pub(super) struct StreamEnds<S> {
    pub(super) out: S,
    pub(super) inward: S,
}

/// The result of a read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    Bytes(usize),
    /// No byte at present.
    Nothing,
    /// The end of the stream.
    End,
}

/// The side of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    One,
    Two,
}

/// The greatest number of calls in a row that may do nothing although they could: some platforms fail at random.
pub(super) const TRIES: usize = 40;

/// Returns the byte at that place of a stream.
#[allow(clippy::cast_possible_truncation)]
pub(super) fn byte(place: usize) -> u8 {
    (place ^ (place >> 8).wrapping_mul(7) ^ (place >> 16)) as u8
}

/// Fills the buffer with the bytes from that place of a stream on.
pub(super) fn fill(buffer: &mut [u8], from: usize) {
    for (place, to) in (from..).zip(buffer) {
        *to = byte(place);
    }
}

/// Returns the place in the buffer of the first byte that differs from those of a stream from the place `from` on.
pub(super) fn mismatch(buffer: &[u8], from: usize) -> Option<usize> {
    (from..)
        .zip(buffer)
        .position(|(place, found)| *found != byte(place))
}

impl<'a, P: Pal> CheckSetup<'a, P> {
    /// Makes the platforms of two nodes.
    pub(super) fn pair(&self) -> Pair<'a, P> {
        Pair::new(self)
    }
}

/// Accepts the streams that are left at a platform that all checks share, so that the next check does not get them.
impl<P: Pal> Drop for Pair<'_, P> {
    fn drop(&mut self) {
        for _ in 0..if self.is_only_one { TRIES } else { 0 } {
            self.poll();
            self.note_call(Rule::Accept, "Pal::accept");
            drop(self.two.accept());
        }
    }
}

impl<'a, P: Pal> Pair<'a, P> {
    /// Makes the platforms of two nodes.
    fn new(setup: &CheckSetup<'a, P>) -> Self {
        let vmids = [setup.vmid(), setup.vmid()];
        Pair {
            one: (setup.make)(vmids[0]),
            two: (setup.make)(vmids[1]),
            vmids,
            step: setup.step,
            bad_report: setup.bad_report,
            patience: setup.patience,
            is_waiting_on_two: AtomicBool::new(false),
            is_only_one: setup.is_only_one,
        }
    }

    #[cfg_attr(
        feature = "std",
        allow(clippy::unused_self, reason = "without `std` it has the clock")
    )]
    pub(super) fn timer(&self) -> Timer {
        Timer {
            #[cfg(feature = "std")]
            start: std::time::Instant::now(),
            #[cfg(not(feature = "std"))]
            start: self.one.now(),
        }
    }

    /// Returns the time since the timer was made.
    #[cfg_attr(
        feature = "std",
        allow(clippy::unused_self, reason = "without `std` it has the clock")
    )]
    pub(super) fn elapsed(&self, timer: &Timer) -> Duration {
        #[cfg(feature = "std")]
        return timer.start.elapsed();
        #[cfg(not(feature = "std"))]
        return self.one.now() - timer.start;
    }

    /// Records the call that is made next, and the rule that it breaks if it does not return.
    pub(super) fn note_call(&self, rule: Rule, call: &'static str) {
        *self.step.lock() = CheckStep { rule, call };
    }

    /// Exchanges the two nodes: streams that were opened lead from the second to the first.
    #[cfg(feature = "std")]
    pub(super) fn swap(&mut self) {
        core::mem::swap(&mut self.one, &mut self.two);
        self.vmids.reverse();
    }

    pub(super) fn pal(&self, side: Side) -> &P {
        match side {
            Side::One => &self.one,
            Side::Two => &self.two,
        }
    }

    /// Waits once, and returns the report.
    pub(super) fn wait_for(&self, side: Side, span: Duration) -> ReadyList {
        let pal = self.pal(side);
        if self.is_only_one && self.is_waiting_on_two.load(Ordering::SeqCst) {
            return ReadyList::new();
        }
        let until = if span.is_zero() {
            Deadline::Now
        } else {
            Deadline::At(pal.now() + span)
        };
        self.note_call(Rule::WaitTime, "Pal::wait with a time limit");
        let mut ready = ReadyList::new();
        let faults = fault_count();
        pal.wait(&mut ready, until);
        self.check_report(&ready, faults);
        ready
    }

    /// Keeps the violation of a report that no wait may make, whatever is watched.
    fn check_report(&self, ready: &ReadyList, faults: u64) {
        let unknown = ready
            .iter()
            .find(|(_, readiness)| !Interest::all().contains(*readiness));
        let violation = if fault_count() != faults {
            broken(
                Rule::ReadyCount,
                "at most as many entries as there is room for",
                format_args!("more than {READY_AT_ONCE}"),
            )
        } else if let Some((token, readiness)) = unknown {
            broken(
                Rule::Readiness,
                "READ, WRITE and HANG_UP",
                format_args!("{readiness:?} of {token:?}"),
            )
        } else {
            return;
        };
        self.bad_report.lock().get_or_insert(violation);
    }

    /// Lets both platforms move bytes.
    pub(super) fn poll(&self) {
        self.wait_for(Side::One, Duration::ZERO);
        if !self.is_waiting_on_two.load(Ordering::SeqCst) {
            self.wait_for(Side::Two, Duration::ZERO);
        }
        #[cfg(feature = "std")]
        std::thread::sleep(Duration::from_micros(20));
    }

    /// Repeats `attempt` until it returns a result. `None` if it returns none in the time that a check may take.
    pub(super) fn until<T>(
        &self,
        mut attempt: impl FnMut() -> Checked<Option<T>>,
    ) -> Checked<Option<T>> {
        let timer = self.timer();
        loop {
            if let Some(result) = attempt()? {
                return Ok(Some(result));
            }
            if self.elapsed(&timer) > self.patience {
                return Ok(None);
            }
            self.poll();
        }
    }

    /// Returns the readiness that one wait reports for that token.
    pub(super) fn report(&self, side: Side, token: Token, span: Duration) -> Interest {
        let ready = self.wait_for(side, span);
        let other = match side {
            Side::One => Side::Two,
            Side::Two => Side::One,
        };
        if other == Side::One || !self.is_waiting_on_two.load(Ordering::SeqCst) {
            self.wait_for(other, Duration::ZERO);
        }
        let of_token = ready.iter().filter(|(reported, _)| *reported == token);
        of_token.fold(Interest::empty(), |sum, (_, readiness)| sum | *readiness)
    }

    /// Waits until that readiness is reported.
    #[track_caller]
    pub(super) fn await_report(
        &self,
        (side, token): (Side, Token),
        wanted: Interest,
        rule: Rule,
        expected: &str,
    ) -> Checked<Interest> {
        let timer = self.timer();
        let mut last = Interest::empty();
        while self.elapsed(&timer) <= self.patience {
            let found = self.report(side, token, Duration::from_millis(2));
            if found.contains(wanted) {
                return Ok(found);
            }
            last |= found;
        }
        Err(broken(
            rule,
            expected,
            format_args!("{last:?} in {:?}", self.patience),
        ))
    }

    /// Checks that a token is not reported with any of `unwanted` for a while.
    #[track_caller]
    pub(super) fn stays_quiet(
        &self,
        (side, token): (Side, Token),
        unwanted: Interest,
        rule: Rule,
        expected: &str,
    ) -> Checked {
        for _ in 0..3 {
            let found = self.report(side, token, Duration::from_millis(5));
            if found.intersects(unwanted) {
                return Err(broken(
                    rule,
                    expected,
                    format_args!("{found:?} is reported"),
                ));
            }
        }
        Ok(())
    }
}
