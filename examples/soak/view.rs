//! The display: a table that changes, or lines without a terminal.

use std::time::{Duration, Instant};

use comfy_table::Table;
use libos_ipc::Statistics;

use crate::Options;
use crate::common::{HumanBytes, HumanCount, Progress, fit, send, table};
use crate::figures::Kind;
use crate::resources::Resources;
use crate::run::Totals;

/// The interval of the display on a terminal.
const DISPLAY_INTERVAL: Duration = Duration::from_millis(500);

/// The display of a run.
pub(crate) struct View {
    progress: Progress,
    begin: Instant,
    /// The length of the run.
    time: Duration,
    interval: Duration,
    /// The time of the next display, from the beginning on.
    next: Duration,
    /// The time of the last display, from the beginning on, and the number of calls of each kind then.
    last: (Duration, [u64; Kind::ALL.len()]),
}

impl View {
    pub(crate) fn new(options: &Options) -> View {
        send(&format!(
            "{} processes for {:?}: a pause of {:?} between two pieces of work, a life of {:?} on \
             average, a call at most {:?}",
            options.members(),
            options.seconds(),
            options.pause(),
            options.life(),
            options.limit(),
        ));
        let progress = Progress::new();
        let interval = if progress.is_shown() {
            DISPLAY_INTERVAL
        } else {
            (options.seconds() / 20).max(Duration::from_secs(1))
        };
        View {
            progress,
            begin: Instant::now(),
            time: options.seconds(),
            interval,
            next: interval,
            last: (Duration::ZERO, [0; Kind::ALL.len()]),
        }
    }

    pub(crate) fn show(
        &mut self,
        elapsed: Duration,
        living: usize,
        totals: &Totals,
        resources: &Resources,
    ) {
        if elapsed < self.next {
            return;
        }
        self.next = elapsed + self.interval;
        let calls = Kind::ALL.map(|(kind, _)| totals.report.latencies.of(kind).requests());
        let (last_elapsed, last_calls) = &self.last;
        let time = elapsed.saturating_sub(*last_elapsed);
        let line = format!(
            "{living} live, {} have ended, {} of them killed; {} calls a second; \
             memory {}, {} descriptors",
            HumanCount(totals.ended),
            HumanCount(totals.killed),
            HumanCount(rate(
                calls.iter().sum::<u64>() - last_calls.iter().sum::<u64>(),
                time
            )),
            HumanBytes(resources.memory),
            resources.descriptors,
        );
        if self.progress.is_shown() {
            let table = calls_table(totals, last_calls, time);
            let text = format!("{line}\n{table}");
            self.progress
                .show(elapsed.as_secs(), self.time.as_secs(), &text);
        } else {
            send(&format!("{:>7.1} s  {line}", elapsed.as_secs_f64()));
        }
        self.last = (elapsed, calls);
    }

    /// Prints the figures of the whole run.
    pub(crate) fn finish(&self, totals: &Totals, leader: &Statistics) {
        let elapsed = self.begin.elapsed();
        self.progress.clear();
        send(&calls_table(totals, &[0; Kind::ALL.len()], elapsed));
        send(&format!(
            "{} processes, {} of them killed ({} before they had joined); the leader: {} frames in {} reads, {} frames in {} writes",
            HumanCount(totals.ended),
            HumanCount(totals.killed),
            HumanCount(totals.abandoned),
            HumanCount(leader.frames_in),
            HumanCount(leader.reads),
            HumanCount(leader.frames_out),
            HumanCount(leader.writes),
        ));
        if totals.killed_leaders + totals.left_leaders > 0 {
            send(&format!(
                "{} leaders were killed, {} left; without an answer half of the times for {:.1?} or less, at most for {:.1?}",
                totals.killed_leaders,
                totals.left_leaders,
                totals.outages.percentile(50),
                totals.outages.slowest(),
            ));
        }
        let counts = totals.report.counts;
        send(&format!(
            "{} changes of shared values, {} signals to others, {} deadlocks refused",
            HumanCount(counts.changes),
            HumanCount(counts.to_others + counts.to_first),
            HumanCount(counts.deadlocks),
        ));
    }
}

/// Returns the table of the number of calls of each kind, and their rate: there were `earlier_calls` of them before `time`.
fn calls_table(totals: &Totals, earlier_calls: &[u64; Kind::ALL.len()], time: Duration) -> Table {
    let mut table = table(["", "calls", "per s", "p50", "p99", "slowest"], 1);
    for ((kind, name), earlier) in Kind::ALL.into_iter().zip(earlier_calls) {
        let latency = totals.report.latencies.of(kind);
        let calls = latency.requests();
        let percentile = |percent| format!("{:.0} µs", latency.percentile_us(percent));
        table.add_row([
            name.to_owned(),
            HumanCount(calls).to_string(),
            HumanCount(rate(calls - earlier, time)).to_string(),
            percentile(50),
            percentile(99),
            format!("{:.1?}", latency.slowest()),
        ]);
    }
    fit(&mut table);
    table
}

/// Returns a rate per second.
fn rate(count: u64, time: Duration) -> u64 {
    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    count.saturating_mul(1000) / milliseconds
}
