//! The choice between polling for a while and sleeping at once.

use crate::invariant::Count;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

/// The other way is tried at least once in this many waits while it looks promising.
const SHORTEST_PAUSE: u32 = 16;

/// The other way is tried at least once in this many waits if it never was better.
const LONGEST_PAUSE: u32 = 8192;

/// Learns the quicker way of waiting: it keeps a running mean of the duration of waits with
/// spinning and without, uses the better way, and tries the other from time to time. Spinning must
/// be better by a quarter, since it takes a core. So where it can't pay (one core for all, a slow
/// peer) it costs next to nothing, and where it begins to pay that is detected.
///
/// If several threads use one object at once its figures are only less precise.
pub(crate) struct AdaptiveSpin {
    /// Mean waits in ns; 0 before the first.
    asleep: AtomicU32,
    spinning: AtomicU32,
    /// The number of waits until the other way is tried, and that number at the last trial.
    left: AtomicU32,
    pause: AtomicU32,
}

impl AdaptiveSpin {
    pub(crate) const fn new() -> Self {
        AdaptiveSpin {
            asleep: AtomicU32::new(0),
            spinning: AtomicU32::new(0),
            left: AtomicU32::new(0),
            pause: AtomicU32::new(SHORTEST_PAUSE),
        }
    }

    /// Returns true if this wait should spin.
    pub(crate) fn is_worth_it(&self) -> bool {
        match self.left.load(Ordering::Relaxed).checked_sub(1) {
            Some(left) => {
                self.left.store(left, Ordering::Relaxed);
                self.spinning_is_better()
            }
            None => !self.spinning_is_better(),
        }
    }

    fn spinning_is_better(&self) -> bool {
        let asleep = self.asleep.load(Ordering::Relaxed);
        let spinning = self.spinning.load(Ordering::Relaxed);
        spinning < asleep.minus(asleep / 4)
    }

    /// Records the duration of a wait, with spinning or without. `limit` is the limit of spinning:
    /// waits beyond twice that all count alike.
    pub(crate) fn learn(&self, spun: bool, took: Duration, limit: Duration) {
        let most = limit.as_nanos().saturating_mul(2);
        let took = u32::try_from(took.as_nanos().min(most))
            .unwrap_or(u32::MAX)
            .max(1);
        let was_better = self.spinning_is_better();
        let mean = if spun { &self.spinning } else { &self.asleep };
        let before = mean.load(Ordering::Relaxed);
        let after = if before == 0 {
            took
        } else {
            before.minus(before / 4).plus(took / 4).max(1)
        };
        mean.store(after, Ordering::Relaxed);
        if spun == was_better {
            return;
        }
        // This was a trial. After a good one the next comes at once, after a bad one later and
        // later.
        let (asleep, spinning) = (
            self.asleep.load(Ordering::Relaxed),
            self.spinning.load(Ordering::Relaxed),
        );
        let promising = if spun {
            took < asleep.minus(asleep / 4)
        } else {
            took < spinning
        };
        let pause = if promising || self.spinning_is_better() != was_better {
            SHORTEST_PAUSE
        } else {
            self.pause
                .load(Ordering::Relaxed)
                .saturating_mul(2)
                .min(LONGEST_PAUSE)
        };
        self.pause.store(pause, Ordering::Relaxed);
        self.left
            .store(if promising { 0 } else { pause }, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(100);

    /// Returns how many of 10,000 waits spin if a wait takes these times in each way.
    fn spins(asleep: u64, spinning: u64) -> usize {
        let gauge = AdaptiveSpin::new();
        (0..10_000)
            .filter(|_| {
                let spin = gauge.is_worth_it();
                let took = Duration::from_micros(if spin { spinning } else { asleep });
                gauge.learn(spin, took, LIMIT);
                spin
            })
            .count()
    }

    #[test]
    fn spins_where_it_pays_only() {
        assert!(spins(60, 5) > 9_900, "waking a core takes long");
        assert!(spins(10, 120) < 60, "one core for all");
        assert!(spins(1_000_000, 1_000_000) < 60, "nobody asks");
        assert!(spins(10, 9) < 60, "hardly better");
    }

    #[test]
    fn notices_when_it_begins_to_pay() {
        let gauge = AdaptiveSpin::new();
        let wait = |asleep, spinning| {
            let spin = gauge.is_worth_it();
            gauge.learn(
                spin,
                Duration::from_micros(if spin { spinning } else { asleep }),
                LIMIT,
            );
            spin
        };
        for _ in 0..10_000 {
            wait(10, 120);
        }
        let late = (0..10_000).filter(|_| wait(60, 5)).count();
        assert!(late > 1_800, "{late}: it tries once in {LONGEST_PAUSE}");
        let later = (0..3_000).filter(|_| wait(10, 120)).count();
        assert!(later < 60, "{later}");
    }
}
