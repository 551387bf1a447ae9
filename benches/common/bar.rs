//! The bars that figures have to reach, and the verdict on each.
// Each bench uses some of them.
#![allow(dead_code)]

use std::fmt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};

/// The bar for a figure, mostly a ratio.
#[derive(Clone, Copy)]
pub(crate) enum Bar {
    AtMost(f64),
    AtLeast(f64),
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bar::AtMost(bar) => write!(f, "at most {bar}"),
            Bar::AtLeast(bar) => write!(f, "at least {bar}"),
        }
    }
}

static REACHED: AtomicU32 = AtomicU32::new(0);
static MISSED: AtomicU32 = AtomicU32::new(0);

/// Returns the verdict on a figure, to be printed beside it, and counts it.
pub(crate) fn verdict(figure: f64, bar: Bar) -> String {
    let is_reached = match bar {
        Bar::AtMost(most) => figure <= most,
        Bar::AtLeast(least) => figure >= least,
    };
    let (count, word) = if is_reached {
        (&REACHED, "ok")
    } else {
        (&MISSED, "MISSED")
    };
    count.fetch_add(1, Ordering::Relaxed);
    format!("{word}: {bar}")
}

/// Prints how many bars were missed. With `-- --check` that fails the bench, else it does not: on a
/// machine that does other work, too, a missed bar means nothing.
pub(crate) fn finish() -> ExitCode {
    let [reached, missed] = [&REACHED, &MISSED].map(|count| count.load(Ordering::Relaxed));
    println!("\nbars reached: {reached}, missed: {missed}");
    if missed > 0 && std::env::args().any(|argument| argument == "--check") {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
