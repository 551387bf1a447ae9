//! Many seeds, on all processors.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::{Cli, shrink, simulation};

/// The interval of progress lines if there is no terminal.
const PROGRESS_INTERVAL: Duration = Duration::from_mins(1);

/// The limit of a random start, so that a seed stays readable.
const HIGHEST_START: u64 = 1_000_000_000_000;

/// Runs the seeds, and first prints how to repeat them. Returns the first seed that fails.
pub(crate) fn run(cli: &Cli) -> Option<u64> {
    let from = cli.from.unwrap_or_else(|| fastrand::u64(..HIGHEST_START));
    println!("seeds from {from}: {}", again(cli, from));
    let processors = || thread::available_parallelism().map_or(1, usize::from);
    let jobs = cli.jobs.unwrap_or_else(processors).max(1);
    let end = from.saturating_add(cli.runs);
    let (next, failed) = (AtomicU64::new(from), AtomicU64::new(u64::MAX));
    let (events, traces) = (AtomicU64::new(0), AtomicU64::new(0));
    let bar = progress(cli.runs);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while failed.load(Ordering::Relaxed) == u64::MAX {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let options = cli.options(seed);
                    shrink::report_panics(options.clone(), !cli.no_shrink);
                    let outcome = simulation::run(&options);
                    events.fetch_add(outcome.events, Ordering::Relaxed);
                    traces.fetch_add(digest(seed, outcome.hash), Ordering::Relaxed);
                    if outcome.violation.is_some() {
                        failed.fetch_min(seed, Ordering::Relaxed);
                    }
                    bar.inc(1);
                }
            });
        }
        scope.spawn(|| print_progress(&bar, cli.runs, &failed));
    });
    let (seeds, took) = (bar.position(), start.elapsed());
    let (events, traces) = (events.into_inner(), traces.into_inner());
    bar.finish_and_clear();
    let rate = u128::from(seeds) * 1000 / took.as_millis().max(1);
    println!("{seeds} seeds in {took:.1?}, {rate} a second; {events} events, traces {traces:016x}");
    Some(failed.into_inner()).filter(|seed| *seed != u64::MAX)
}

/// Returns one seed's part of the digest of all traces. The parts are added up, so the digest does
/// not depend on the order in which the seeds end; the seed is included, so two seeds cannot swap
/// their traces.
fn digest(seed: u64, trace: u64) -> u64 {
    // The constants are those of splitmix64.
    let mixed =
        (trace ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

/// Returns the command that runs the same seeds with the same options.
fn again(cli: &Cli, from: u64) -> String {
    let runs = cli.runs;
    let members = cli.members.map(|members| format!(" --members {members}"));
    format!(
        "{} --from {from} --runs {runs} --faults {}{}",
        shrink::COMMAND,
        cli.faults,
        members.unwrap_or_default()
    )
}

fn progress(runs: u64) -> ProgressBar {
    let style = "{bar:40} {pos}/{len} seeds, {per_sec}, {eta} to go";
    let style = ProgressStyle::with_template(style);
    ProgressBar::new(runs).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Prints the progress, for a log.
fn print_progress(bar: &ProgressBar, runs: u64, failed: &AtomicU64) {
    let mut last_progress = Instant::now();
    while bar.position() < runs && failed.load(Ordering::Relaxed) == u64::MAX {
        thread::sleep(Duration::from_millis(50));
        if bar.is_hidden() && last_progress.elapsed() >= PROGRESS_INTERVAL {
            last_progress = Instant::now();
            println!("{} of {runs} seeds", bar.position());
        }
    }
}
