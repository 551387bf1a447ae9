//! Whether to look again for a while before sleeping.

use core::sync::atomic::{AtomicU32, Ordering};

/// At most one wait in this many tries to spin where it never pays.
const LONGEST_PAUSE: u32 = 1024;

/// Learns from each spin whether the next is worth it. A lost spin means a pause, twice as long
/// after each further loss; a won one ends that. So where spinning can't pay (one core, a peer that
/// takes long) it costs next to nothing, and where it begins to pay that is noticed.
pub(crate) struct SpinGauge {
    pause: AtomicU32,
    left: AtomicU32,
}

impl SpinGauge {
    pub(crate) const fn new() -> Self {
        SpinGauge {
            pause: AtomicU32::new(0),
            left: AtomicU32::new(0),
        }
    }

    /// Whether this wait is to spin.
    pub(crate) fn is_worth_it(&self) -> bool {
        // Races between callers only blur the count.
        match self.left.load(Ordering::Relaxed).checked_sub(1) {
            Some(left) => {
                self.left.store(left, Ordering::Relaxed);
                false
            }
            None => true,
        }
    }

    pub(crate) fn won(&self) {
        self.pause.store(0, Ordering::Relaxed);
    }

    pub(crate) fn lost(&self) {
        let pause = self
            .pause
            .load(Ordering::Relaxed)
            .saturating_mul(2)
            .clamp(1, LONGEST_PAUSE);
        self.pause.store(pause, Ordering::Relaxed);
        self.left.store(pause, Ordering::Relaxed);
    }
}
