//! The common parts of the examples with many processes: their command lines, how they start
//! processes of their own and read their output, what they count, and what they check at the end.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "no example uses all of it"
)]

mod checks;
mod figures;
mod human;
mod process;
mod progress;
mod succession;
mod table;
mod workers;

use std::time::Duration;

pub(crate) use checks::{SIGPWR, exit_code, leader_faults, run_checked};
pub(crate) use figures::{Latency, figures};
pub(crate) use human::{HumanBytes, HumanCount};
pub(crate) use process::{
    ProcessOptions, command, exit_family, pid_of, print_at, print_line, read_lines, send, spawn,
    stop_at_input_end,
};
pub(crate) use progress::Progress;
pub(crate) use succession::{follows_successors, heir_of, may_lead};
pub(crate) use table::{fit, table};
pub(crate) use workers::{Worker, WorkerPool};

/// Reads a number of seconds from a command line.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if (0.1..=3600.0).contains(&seconds) => Ok(time),
        _ => Err("between 0.1 and 3600 seconds".to_owned()),
    }
}
