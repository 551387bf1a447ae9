//! The counters of the succession.

use core::time::Duration;

use super::Counter;
use crate::Vmid;
use crate::invariant::OrBroken;
use crate::pal::Time;

/// The state and the counters of the succession in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SuccessionStatistics {
    /// The epoch: 1 under the family's first leader, and one more after each succession.
    pub epoch: u32,
    /// The process that leads next, if the leader has named one that has all of the leader's state.
    pub heir: Option<Vmid>,
    /// At the leader: the operations that the heir's log stream has not taken yet.
    pub lag_ops: u64,
    /// At the leader: the bytes of these operations.
    pub lag_bytes: u64,
    /// The time from the end of the last leader to the first moment at which this process could send to the
    /// next one.
    pub last_outage: Option<Duration>,
}

impl Default for SuccessionStatistics {
    fn default() -> Self {
        SuccessionStatistics {
            epoch: 1,
            heir: None,
            lag_ops: 0,
            lag_bytes: 0,
            last_outage: None,
        }
    }
}

/// The present values of [`SuccessionStatistics`]. 0 is "none". The lag is that of the log.
#[derive(Default)]
pub(crate) struct SuccessionGauges {
    epoch: Counter,
    heir: Counter,
    outage_began: Counter,
    last_outage: Counter,
}

impl SuccessionGauges {
    pub(super) fn read(&self) -> SuccessionStatistics {
        let number = |gauge: &Counter| u32::try_from(gauge.get()).or_broken(0);
        let outage = self.last_outage.get();
        SuccessionStatistics {
            epoch: number(&self.epoch).max(1),
            heir: Vmid::new(number(&self.heir)),
            lag_ops: 0,
            lag_bytes: 0,
            last_outage: (outage > 0).then_some(Duration::from_nanos(outage)),
        }
    }

    /// Records the heir that the leader has named, which has all of the leader's state; none if there is none any more.
    pub(crate) fn set_heir(&self, heir: Option<Vmid>) {
        self.heir.set(Vmid::number(heir).into());
    }

    /// Records that the leader's stream has ended. A later call before [`SuccessionGauges::end_outage`] has no effect.
    pub(crate) fn begin_outage(&self, now: Time) {
        if self.outage_began.get() == 0 {
            self.outage_began.set(now.0.max(1));
        }
    }

    /// Records that another process leads from now on.
    pub(crate) fn end_outage(&self, now: Time, epoch: u32) {
        self.epoch.set(epoch.into());
        let began = self.outage_began.get();
        if began != 0 {
            self.outage_began.set(0);
            let outage = u64::try_from((now - Time(began)).as_nanos()).or_broken(u64::MAX);
            self.last_outage.set(outage.max(1));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_outage_lasts_from_the_first_end_of_the_leader_to_the_next_leader() {
        let gauges = SuccessionGauges::default();
        assert_eq!(gauges.read(), SuccessionStatistics::default());
        gauges.begin_outage(Time(1_000));
        // The first heir is gone, too.
        gauges.begin_outage(Time(3_000));
        gauges.end_outage(Time(6_000), 3);
        let seen = gauges.read();
        assert_eq!(seen.epoch, 3);
        assert_eq!(seen.last_outage, Some(Duration::from_micros(5)));
        // A change of the leader without an outage leaves the last one as it was.
        gauges.end_outage(Time(9_000), 4);
        let seen = gauges.read();
        assert_eq!(
            (seen.epoch, seen.last_outage.unwrap().as_nanos()),
            (4, 5_000)
        );
        gauges.set_heir(Vmid::new(7));
        assert_eq!(gauges.read().heir, Vmid::new(7));
        gauges.set_heir(None);
        assert_eq!(gauges.read().heir, None);
    }
}
