//! The monotonic clock, read without a system call.

use rustix::event::Timespec;
use rustix::time::{ClockId, clock_gettime};

use crate::invariant::OrBroken;
use crate::pal::{Deadline, Time};

const SECOND: u64 = 1_000_000_000;

pub(super) fn now() -> Time {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither is ever negative on this clock.
    let seconds = now.tv_sec.unsigned_abs().saturating_mul(SECOND);
    Time(seconds.saturating_add(now.tv_nsec.unsigned_abs()))
}

/// Converts `time` for the kernel.
pub(super) fn timespec(time: Time) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.0 / SECOND).or_broken(i64::MAX),
        tv_nsec: i64::try_from(time.0 % SECOND).or_broken(0),
    }
}

/// Returns the time until `until`; zero if it is past, `None` for no limit.
pub(super) fn left(until: Deadline) -> Option<Timespec> {
    let left = until.left(now)?;
    Some(Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    })
}
