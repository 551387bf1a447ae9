//! A bank whose tellers are processes: transfers between accounts in a shared file, each under two
//! record locks of the family.
//!
//! The parts: [`bank`] is the file, [`teller`] a process that makes transfers, [`run`] starts the
//! tellers, kills one in mid-work, and counts the money.

mod bank;
#[path = "../common/mod.rs"]
mod common;
mod run;
mod teller;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use common::{exit_code, run_checked, seconds};

/// Run a small bank on file locks, and check that no money appears or vanishes.
#[derive(Parser)]
#[command(
    name = "locks",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_long_help = "\
WHAT HAPPENS
  This process leads a family of tellers, each a process of its own. A teller picks two accounts,
  locks one and then the other, and moves money between them. Two tellers that wait for each other's
  account are a deadlock: one of them gets EDEADLK, unlocks its account and tries again. Now and then
  a teller locks the whole table to read and counts the money. Half-way through, a teller is killed
  (SIGKILL); the next teller that locks its accounts completes or reverts its transfer.

WHAT IS CHECKED
  the sum is the same at every count and at the end
  no two tellers ever use the same account
  no wait lasts for ever, and all tellers but the killed one exit
  nothing is left in the leader's tables

  The last line is `locks: ok` (exit code 0), or exit code 1 after a line `locks: FAILED: ...` for each
  fault.

EXAMPLES
  locks                                  two seconds, four tellers, ten accounts
  locks --tellers 16 --accounts 4        many tellers, few accounts: many deadlocks"
)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Args)]
struct Options {
    /// The number of tellers to start; one of them will be killed
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=60))]
    tellers: u32,
    /// The number of accounts
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=1_000_000))]
    accounts: u64,
    /// How long to work
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds)]
    seconds: Duration,
}

#[derive(Subcommand)]
enum Role {
    /// A teller: started by the leader.
    #[command(hide = true)]
    Teller(teller::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.role {
        Some(Role::Teller(options)) => {
            exit_code("locks: a teller", teller::run(&options).map(|()| 0))
        }
        None => run_checked("locks", |faults| run::run(&cli.options, faults)),
    }
}
