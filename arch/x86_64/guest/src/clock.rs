//! The clock: the processor's time-stamp counter, whose rate is measured once against the timer
//! that every PC has (8253). That timer also ends a sleep in time.

use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering};

use libos_ipc::pal::Time;
use x86_64::instructions::port::Port;

use crate::interrupts::{self, TIMER_SET_TO};

/// The rate of the timer, in counts a second.
const TIMER_RATE: u64 = 1_193_182;
const SECOND: u64 = 1_000_000_000;
/// The longest time that the timer can be set to, in its counts.
const MAX_COUNTS: u16 = u16::MAX;
/// The time of one measurement, in counts of the timer: 5 ms.
const MEASURED_COUNTS: u16 = 5966;
const MEASUREMENTS: u32 = 4;
const TIMER: u16 = 0x40;
const TIMER_COMMAND: u16 = 0x43;
/// The command for counter 0, with a low byte and a high byte, and one interrupt at the end.
const ONCE: u8 = 0b0011_0000;
/// The command that keeps the value of counter 0 for the next reads.
const LATCH: u8 = 0;

/// The value of the time-stamp counter at the start of this program.
static START: AtomicU64 = AtomicU64::new(0);
/// The nanoseconds of one count of the time-stamp counter, in units of 2^-32.
static NANOSECONDS_PER_COUNT: AtomicU64 = AtomicU64::new(0);

/// Returns the value of the time-stamp counter.
fn counts() -> u64 {
    // SAFETY: every x86-64 processor has the counter, and reading it is not disabled.
    unsafe { _rdtsc() }
}

fn set_timer(count: u16) {
    let [low, high] = count.to_le_bytes();
    // SAFETY: these are the ports of the timer, and its interrupt only ends a sleep.
    unsafe {
        Port::new(TIMER_COMMAND).write(ONCE);
        Port::new(TIMER).write(low);
        Port::new(TIMER).write(high);
    }
}

/// Returns the counts that the timer has still to run.
fn timer() -> u16 {
    // SAFETY: as above.
    unsafe {
        Port::new(TIMER_COMMAND).write(LATCH);
        let (low, high) = (Port::new(TIMER).read(), Port::new(TIMER).read());
        u16::from_le_bytes([low, high])
    }
}

/// Measures the nanoseconds of one count, in units of 2^-32. A host that stops this processor meanwhile only makes the result too
/// small: the span of the time-stamp counter contains that of the timer, which after 55 ms begins again.
fn measure() -> u64 {
    set_timer(MAX_COUNTS);
    let from = counts();
    let first = timer();
    loop {
        let passed = first.wrapping_sub(timer());
        let to = counts();
        if passed >= MEASURED_COUNTS {
            let span = u64::from(passed) * SECOND / TIMER_RATE;
            return (span << 32).checked_div(to.wrapping_sub(from)).unwrap_or(1);
        }
    }
}

pub(crate) fn init() {
    START.store(counts(), Ordering::Relaxed);
    let longest = (0..MEASUREMENTS).fold(1, |longest, _| measure().max(longest));
    NANOSECONDS_PER_COUNT.store(longest, Ordering::Relaxed);
    interrupts::allow(interrupts::TIMER);
}

/// Returns the time since the start of this program.
pub fn now() -> Time {
    let counts = counts().wrapping_sub(START.load(Ordering::Relaxed));
    let per_count = NANOSECONDS_PER_COUNT.load(Ordering::Relaxed);
    // 2^64 nanoseconds are 584 years.
    #[allow(clippy::cast_possible_truncation)]
    Time(((u128::from(counts) * u128::from(per_count)) >> 32) as u64)
}

/// Sets the timer to interrupt at `until`, or before. Returns false if `until` is past.
pub(crate) fn set_alarm(until: Time) -> bool {
    let now = now();
    if until <= now {
        return false;
    }
    // An interrupt that was set for an earlier time suffices.
    let set_to = Time(TIMER_SET_TO.load(Ordering::Relaxed));
    if now < set_to && set_to <= until {
        return true;
    }
    let longest = u64::from(MAX_COUNTS) * SECOND / TIMER_RATE;
    let span = (until.0 - now.0).min(longest);
    let count = (span * TIMER_RATE / SECOND).max(1);
    set_timer(u16::try_from(count).unwrap_or(MAX_COUNTS));
    TIMER_SET_TO.store(now.0 + span, Ordering::Relaxed);
    true
}
