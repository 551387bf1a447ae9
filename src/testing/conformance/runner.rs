//! Runs the checks, each in a thread of its own under a watchdog.

use core::fmt;
use core::sync::atomic::AtomicU32;
use core::time::Duration;
use std::boxed::Box;
use std::string::String;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::vec::Vec;

use spin::Mutex;

use super::rules::Rule;
use super::setup::{CheckSetup, CheckStep};
use super::violation::{Violation, broken};
use super::{
    FIRST_VMID, NamedCheck, PATIENCE, caller_read_checks, family, single_thread_checks, threads,
    waiting_thread,
};
use crate::Vmid;
use crate::pal::Pal;

/// The settings of a check.
#[derive(Clone, Copy, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub struct Check {
    /// The time in which a platform must notice an event. A check of a defect takes this time or more, and
    /// one of a correct platform does not.
    pub patience: Duration,
    /// Whether several threads use a platform. Not those of a member with one thread
    /// ([`Driving::Caller`](crate::Driving::Caller)), as `mux` is made for.
    pub has_threads: bool,
    /// Whether a node's process ends for its peers when its platform is dropped. If not, the check of a
    /// process that ends before it accepts a stream is not made.
    pub drop_ends: bool,
    /// Whether a process has one platform only. Then `make` gives each node the same one, which opens streams
    /// to itself, whatever the VMID of the node: such a platform is never dropped, and has no family.
    pub is_only_one: bool,
    /// Whether to end at the first rule that is broken.
    pub ends_at_first: bool,
    /// Whether a family runs over the platform, if no rule is broken.
    pub has_family: bool,
}

impl Default for Check {
    fn default() -> Self {
        Check {
            patience: PATIENCE,
            has_threads: true,
            drop_ends: true,
            is_only_one: false,
            ends_at_first: false,
            has_family: true,
        }
    }
}

/// The result of the checks of a platform.
#[derive(Clone, Debug)]
pub struct Report {
    /// The checks that the platform has passed.
    pub passed: Vec<&'static str>,
    /// The rules that it breaks, the most basic ones first.
    pub violations: Vec<Violation>,
    /// The checks that were not made, with the reason.
    pub omitted: Vec<(&'static str, &'static str)>,
}

impl Report {
    /// Returns true if no rule is broken.
    pub fn is_ok(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} checks passed", self.passed.len())?;
        if !self.violations.is_empty() {
            write!(f, ", {} rules are broken:", self.violations.len())?;
        }
        for violation in &self.violations {
            write!(f, "\n  {violation}")?;
        }
        for (name, reason) in &self.omitted {
            write!(f, "\n  not checked: {name} ({reason})")?;
        }
        Ok(())
    }
}

/// Checks a platform with the default settings: see [`Check::run`].
pub fn check<P: Pal + 'static>(make: impl Fn(Vmid) -> P + Send + Sync + 'static) -> Report {
    Check::default().run(make)
}

impl Check {
    /// Checks the platforms that `make` makes, each of which listens under the VMID that `make` gets. All
    /// platforms of a check belong to one family; one with the VMID 1 is made last, twice. `make` may panic:
    /// that is reported.
    ///
    /// The platforms, and a few bytes besides, are used by threads that may never end, so they stay in memory
    /// if a call does not return.
    pub fn run<P: Pal + 'static>(self, make: impl Fn(Vmid) -> P + Send + Sync + 'static) -> Report {
        let make: &'static (dyn Fn(Vmid) -> P + Send + Sync) = Box::leak(Box::new(make));
        let step: &'static Mutex<CheckStep> = Box::leak(Box::new(Mutex::new(CheckStep::NONE)));
        let bad_report: &'static Mutex<_> = Box::leak(Box::new(Mutex::new(None)));
        let next: &'static AtomicU32 = Box::leak(Box::new(AtomicU32::new(FIRST_VMID)));
        let mut report = Report {
            passed: Vec::new(),
            violations: Vec::new(),
            omitted: Vec::new(),
        };
        let mut reason = None;
        for (named, needs_threads) in checks::<P>() {
            let (name, run) = named;
            let reason_of_this = match reason {
                None if needs_threads && !self.has_threads => {
                    Some("the platform is for one thread")
                }
                None if self.is_only_one && [BACKLOG_AT_END, FAMILY].contains(&name) => {
                    Some("the process has one platform only")
                }
                None if name == BACKLOG_AT_END && !self.drop_ends => {
                    Some("the platform stays when it is dropped")
                }
                None if name == FAMILY && !self.has_family => Some("it is turned off"),
                None if name == FAMILY && !report.is_ok() => Some("a rule is broken"),
                None if self.ends_at_first && !report.is_ok() => Some("a rule is broken"),
                reason => reason,
            };
            if let Some(reason) = reason_of_this {
                report.omitted.push((name, reason));
                continue;
            }
            *step.lock() = CheckStep::NONE;
            let (sender, receiver) = channel();
            // The streams of some checks are all on the stack, and those of `secure` are long.
            let thread = thread::Builder::new().stack_size(STACK).spawn(move || {
                let setup = CheckSetup {
                    make,
                    step,
                    bad_report,
                    next,
                    patience: self.patience,
                    has_threads: self.has_threads,
                    drop_ends: self.drop_ends,
                    is_only_one: self.is_only_one,
                };
                let _ = sender.send(run(&setup));
            });
            if thread.is_err() {
                report.omitted.push((name, "there is no thread for it"));
                continue;
            }
            // A check takes this long if many threads want the processor, or if a call does not return.
            let limit = self.patience * if name == FAMILY { 25 } else { 8 };
            let done = receiver.recv_timeout(limit);
            match bad_report.lock().take().map_or(done, |bad| Ok(Err(bad))) {
                Ok(Ok(())) => report.passed.push(name),
                Ok(Err(violation)) => {
                    // The other checks need a clock.
                    if name == CLOCK {
                        reason = Some("the clock is wrong");
                    }
                    report.add(violation);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let CheckStep { rule, call } = *step.lock();
                    let expected = "a call that returns";
                    let seen = format_args!("{call} has not returned after {limit:?}");
                    report.add(broken(rule, expected, seen));
                    reason = Some("a call did not return");
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let CheckStep { rule, call } = *step.lock();
                    let expected = "a call that does not panic";
                    let seen = format_args!("a panic in {call}, or after it");
                    report.add(broken(rule, expected, seen));
                }
            }
        }
        report
    }
}

/// The stack of a check's thread, in bytes. Pages that are not used take no memory.
const STACK: usize = 64 << 20;

/// The names of the checks that the runner treats in another way.
const CLOCK: &str = "clock";
const BACKLOG_AT_END: &str = "backlog of a node that ends";
const FAMILY: &str = "family";

/// Returns all checks, and whether they need several threads.
fn checks<P: Pal + 'static>() -> impl Iterator<Item = (NamedCheck<'static, P>, bool)> {
    let before: [NamedCheck<'static, P>; 3] = [
        ("clock in threads", threads::clock),
        ("wake during a wait", threads::wake_during),
        ("set during a wait", threads::event_wakes),
    ];
    let after: [NamedCheck<'static, P>; 5] = [
        ("watch during a wait", waiting_thread::watch_during),
        ("drop during a wait", waiting_thread::drop_during),
        ("what happens during a wait", waiting_thread::happens_during),
        ("ends of a wait for a stream", threads::wait_readable),
        ("streams of several threads", threads::transfer),
    ];
    let one = single_thread_checks()
        .into_iter()
        .map(|named| (named, false));
    // A platform for one thread is not asked to wait for a stream.
    let callers = caller_read_checks().into_iter().map(|named| (named, true));
    let family: NamedCheck<'static, P> = (FAMILY, family::family);
    one.chain(before.map(|named| (named, true)))
        .chain(callers)
        .chain(after.map(|named| (named, true)))
        .chain([(family, false)])
}

impl Report {
    /// Adds a violation. A rule is reported once.
    fn add(&mut self, violation: Violation) {
        let is_known = |known: &Violation| known.rule == violation.rule;
        if !self.violations.iter().any(is_known) {
            self.violations.push(violation);
        }
    }

    /// Returns the first rule that is broken.
    pub fn first(&self) -> Option<Rule> {
        self.violations.first().map(|violation| violation.rule)
    }

    /// Returns one line: the number of checks, and the rules that are broken.
    pub fn summary(&self) -> String {
        let rules: Vec<_> = self.violations.iter().map(|v| v.rule.name()).collect();
        let passed = self.passed.len();
        match rules[..] {
            [] => std::format!("{passed} checks passed"),
            _ => std::format!("broken: {}", rules.join(", ")),
        }
    }
}
