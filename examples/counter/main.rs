//! A counter and a ring that several processes share: each process increments the counter and
//! appends to the ring, as fast as it can.
//!
//! The parts: [`shared`] is the value, [`worker`] a process that changes it; [`run`] starts the
//! workers, kills one that holds the value, and checks the sum.

#[path = "../common/mod.rs"]
mod common;
mod run;
mod shared;
mod worker;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use common::{exit_code, run_checked, seconds};

/// Have processes count together in a shared value, and check that no increment is lost.
#[derive(Parser)]
#[command(
    name = "counter",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_long_help = "\
WHAT HAPPENS
  This process leads a family of workers, each a process of its own. A worker acquires the
  value to change it (EXCLUSIVE), increments the counter, appends to the ring, and releases it; now
  and then it only reads it (SHARED). Half-way through the leader kills one worker (SIGKILL) that
  holds the value.

WHAT IS CHECKED
  the counter is the sum of the increments that the workers report; the last increment of the killed
    worker may be missing
  the ring holds the last increments, each worker's in order
  the next worker that acquires the value after the death gets a report of it
  no wait lasts for ever, and the leader's tables are empty at the end

  The last line is `counter: ok` (exit code 0), or exit code 1 after a line `counter: FAILED: ...`
  for each fault.

EXAMPLES
  counter                            two seconds, four workers
  counter --workers 16 --seconds 10  many workers"
)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Args)]
struct Options {
    /// The number of workers to start; one of them will be killed
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=shared::MAX_WORKERS as i64))]
    workers: u32,
    /// The time to work
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds)]
    seconds: Duration,
}

#[derive(Subcommand)]
enum Role {
    /// A worker, started by the leader.
    #[command(hide = true)]
    Worker(worker::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.role {
        Some(Role::Worker(options)) => {
            exit_code("counter: a worker", worker::run(&options).map(|()| 0))
        }
        None => run_checked("counter", |faults| run::run(&cli.options, faults)),
    }
}
