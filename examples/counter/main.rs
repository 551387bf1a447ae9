//! A counter and a ring that several processes share: each increments the one and appends to the
//! other, all the time.
//!
//! The parts: [`shared`] is the value, [`worker`] a process that changes it, [`run`] starts the
//! workers, kills one that has it, and checks the sum.

#[path = "../common/mod.rs"]
mod common;
mod run;
mod shared;
mod worker;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use common::{follow, lead, seconds};

/// Have processes count together in a shared value, and check that no increment is lost.
#[derive(Parser)]
#[command(
    name = "counter",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_long_help = "\
WHAT HAPPENS
  This process leads a family of workers, each a process of its own. A worker takes the value to
  change it (EXCLUSIVE), increments the counter, appends to the ring, and lets go; now and then it
  only reads it (SHARED). Half-way through one is killed (SIGKILL) while it has the value.

WHAT IS CHECKED
  the counter is the sum of what the workers have done, as they say themselves; of the one that was
    killed its last may be missing
  the ring holds the last increments, each worker's in order
  the next to take the value after the death was told of it
  nobody waited for ever, and nothing is left in the leader's tables

  The last line is `counter: ok` (exit code 0), or before it ends with exit code 1 there is a line
  `counter: FAILED: ...` for each thing that is wrong.

EXAMPLES
  counter                            two seconds, four workers
  counter --workers 16 --seconds 10  a crowd"
)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Args)]
struct Options {
    /// How many workers to start; one of them will be killed
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=shared::WORKERS as i64))]
    workers: u32,
    /// How long to work
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds)]
    seconds: Duration,
}

#[derive(Subcommand)]
enum Role {
    /// A worker: started by the leader.
    #[command(hide = true)]
    Worker(worker::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.role {
        Some(Role::Worker(options)) => {
            follow("counter: a worker", worker::run(&options).map(|()| 0))
        }
        None => lead("counter", |wrong| run::run(&cli.options, wrong)),
    }
}
