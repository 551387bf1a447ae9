//! The common parts of the benches.
// Each bench uses some of them.
#![allow(dead_code)]

pub(crate) mod bar;
pub(crate) mod floor;
pub(crate) mod process;

use std::io::Write;
use std::time::Duration;

use libos_ipc::{Capacities, Config, Wait};

pub(crate) use bar::Bar;
use bar::verdict;

/// Benches set no time limit to calls.
pub(crate) const WAIT: Wait<'static> = Wait::FOREVER;
/// The number of measurements of which the median counts.
pub(crate) const REPETITIONS: usize = 9;

/// Returns the limits of a leader with many members.
pub(crate) fn large() -> Config {
    Config {
        capacities: Capacities::LARGE,
        ..Config::DEFAULT
    }
}

/// Returns the median without the first figure, which was measured while caches were cold.
pub(crate) fn median(mut figures: Vec<Duration>) -> Duration {
    figures.remove(0);
    figures.sort_unstable();
    figures[figures.len() / 2]
}

/// Prints a row with a figure, and its ratio to the figure `beside`, if there is one.
pub(crate) fn row(what: &str, figure: Duration, beside: Option<Duration>) {
    let ratio = beside.map(|beside| format!("{:8.2}", ratio(figure, beside)));
    print_row(what, figure, &ratio.unwrap_or_default());
}

/// Prints a row with a figure, its ratio to the figure `beside`, and the verdict on the ratio, if it has a bar.
pub(crate) fn judged_row(what: &str, figure: Duration, beside: Duration, bar: Option<Bar>) {
    let ratio = ratio(figure, beside);
    let verdict = bar.map(|bar| verdict(ratio, bar)).unwrap_or_default();
    print_row(what, figure, &format!("{ratio:8.2}  {verdict}"));
}

pub(crate) fn ratio(figure: Duration, beside: Duration) -> f64 {
    figure.as_secs_f64() / beside.as_secs_f64()
}

fn print_row(what: &str, figure: Duration, beside: &str) {
    let line = format!(
        "  {what:<62} {:>9.3} µs {beside}",
        figure.as_secs_f64() * 1e6
    );
    println!("{}", line.trim_end());
}

/// Appends a figure for a plot to a file, if `LIBOS_IPC_BENCH_OUT` names one: tools/performance.sh draws them. `line` is the line of
/// the plot, and `tick` the place on the horizontal axis.
pub(crate) fn point(plot: &str, line: &str, tick: impl std::fmt::Display, figure: Duration) {
    let Some(path) = std::env::var_os("LIBOS_IPC_BENCH_OUT") else {
        return;
    };
    let file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(&path);
    let nanoseconds = figure.as_secs_f64() * 1e9;
    file.and_then(|mut file| writeln!(file, "{plot}\t{line}\t{tick}\t{nanoseconds:.1}"))
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}
