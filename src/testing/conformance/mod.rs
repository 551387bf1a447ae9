//! Checks whether a platform keeps the rules of [`pal`](crate::pal).
//!
//! [`check`] gets a function that makes the platform of a node, which listens under a VMID, and makes two or
//! three of them for each check. The [`Report`] names each rule that the platform breaks, as the documentation
//! of the traits states it, with the expected behaviour and the one that was seen. At the end a family of real
//! nodes runs over the platform, without faults and with those of the
//! [fault injector](super::fault_injector).
//!
//! A check ends even if a call of the platform does not return: it runs in a thread of its own, and a call that
//! does not return is reported. The thread stays behind, and the checks that are left are not made.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use libos_ipc::host::Host;
//! use libos_ipc::testing::conformance::check;
//!
//! let report = check(|vmid| Host::listen(Path::new("/tmp/conformance/family"), vmid).unwrap());
//! assert!(report.is_ok(), "{report}");
//! ```
//!
//! Without `std` [`check_in_one_thread`] makes the checks that need one thread only: there are neither the
//! watchdog, nor the checks of calls during a wait of another thread, nor the family.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::result_large_err,
    reason = "it runs in tests only"
)]

mod connections;
#[cfg(feature = "std")]
mod defects;
#[cfg(feature = "std")]
mod family;
mod listener;
mod pair;
mod readiness;
mod rules;
#[cfg(feature = "std")]
mod runner;
mod setup;
mod streams;
#[cfg(feature = "std")]
mod threads;
mod transfer;
mod violation;
#[cfg(feature = "std")]
mod waiting_thread;
mod waits;

use core::sync::atomic::AtomicU32;
use core::time::Duration;

use spin::Mutex;

#[cfg(feature = "std")]
pub use self::defects::{Defect, Defective};
pub use self::rules::Rule;
#[cfg(feature = "std")]
pub use self::runner::{Check, Report, check};
use self::setup::{CheckSetup, CheckStep};
use self::violation::Checked;
pub use self::violation::Violation;
use crate::Vmid;
use crate::pal::Pal;

/// The time in which an event must be noticed, unless [`Check::patience`] says otherwise.
const PATIENCE: Duration = Duration::from_secs(5);

/// The first VMID of a check. Those below are of the family.
const FIRST_VMID: u32 = 10;

/// The name of a check, and its function.
type NamedCheck<'a, P> = (&'static str, fn(&CheckSetup<'a, P>) -> Checked);

/// Returns the checks in one thread, the most basic ones first.
fn single_thread_checks<'a, P: Pal>() -> [NamedCheck<'a, P>; 30] {
    [
        ("clock", waits::clock),
        ("state of an event", waits::event_state),
        ("waits for an event", waits::event_waits),
        ("time limit of a wait", waits::wait_time),
        ("wake before a wait", waits::wake_before),
        ("streams", connections::connect),
        ("nothing to accept", connections::nothing_to_accept),
        ("no process", connections::not_listening),
        ("reads and writes that would block", streams::would_block),
        ("order of bytes", streams::order),
        ("short reads", streams::read_count),
        ("partial writes", streams::write_count),
        ("end of a stream", streams::end),
        ("end of a reader", streams::reader_gone),
        (
            "end of a stream that is not accepted yet",
            connections::ended_before_accept,
        ),
        ("full stream beside another", streams::independent),
        ("level-triggered reports", readiness::level),
        ("readable streams", readiness::readable),
        ("tokens", readiness::token),
        ("interests", readiness::interest),
        ("empty interest", readiness::empty_interest),
        ("writable streams", readiness::writable),
        ("hang-ups", readiness::hang_up),
        ("changes of a watch", readiness::rewatch),
        ("end of a watch", readiness::unwatch),
        ("listener", listener::listener),
        ("more ready streams than a report has", listener::in_turn),
        ("full backlog", connections::backlog),
        ("backlog of a node that ends", connections::never_accepted),
        ("hint of a spinning thread", connections::contended),
    ]
}

/// Returns the checks of [`Pal::wait_readable`] in one thread.
fn caller_read_checks<'a, P: Pal>() -> [NamedCheck<'a, P>; 2] {
    [
        ("wait for a readable stream", waits::wait_readable),
        ("wait and read", waits::read_waiting),
    ]
}

/// Makes the checks that need one thread only, and calls `on_violation` for each rule that is broken.
/// Returns the number of checks.
///
/// A call of the platform that does not return is not noticed. Time is measured by the platform's own clock;
/// if that is wrong, no other check is made.
pub fn check_in_one_thread<P: Pal>(
    make: impl Fn(Vmid) -> P + Sync,
    mut on_violation: impl FnMut(&Violation),
) -> usize {
    let step = Mutex::new(CheckStep::NONE);
    let bad_report = Mutex::new(None);
    let next = AtomicU32::new(FIRST_VMID);
    let setup = CheckSetup {
        make: &make,
        step: &step,
        bad_report: &bad_report,
        next: &next,
        patience: PATIENCE,
        has_threads: false,
        drop_ends: true,
        is_only_one: false,
    };
    let mut count = 0;
    for (_, run) in single_thread_checks()
        .into_iter()
        .chain(caller_read_checks())
    {
        count += 1;
        let run = run(&setup);
        let run = bad_report.lock().take().map_or(run, Err);
        if let Err(violation) = run {
            on_violation(&violation);
            if count == 1 {
                break;
            }
        }
    }
    count
}
