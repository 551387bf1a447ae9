//! A family that outlives its leaders: real processes, whose leader is killed again and again while
//! they work.
//!
//! The parts: [`run`] is the supervisor, which is no member, starts the [`processes`] and kills
//! leaders; [`member`] is a process, and [`work`] what it does while it lives; [`record`] is what
//! a process reports of every answer; [`check`] checks all reports: no change is lost, and no two
//! processes have a resource at the same time; [`intervals`] are the times at which they had it.

mod check;
#[path = "../common/mod.rs"]
mod common;
mod intervals;
mod member;
mod processes;
mod record;
mod run;
mod work;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use common::{exit_code, run_checked};

/// Kill the leader of a family again and again, and check that nothing is lost.
#[derive(Parser)]
#[command(
    name = "succession",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_long_help = "\
WHAT HAPPENS
  This process is no member of the family, but starts its processes. They use everything that a family
  has: IDs, lists of processes, signals, locks on a file that all use and on files of their own (which
  are delegated to them), and a value that all of them change; and each asks the leader all the
  time. Each is the parent of some others, and waits for them. Now and then one of them starts a child
  that ends at once.

  Again and again this process kills the leader (SIGKILL) while all of them work, and once it makes
  the leader leave. The heir takes over, and another process is started in place of the dead.

  Each line shows an outage: the time from the last answer of the old leader to the first one of the
  new leader, as each member has seen it (the median, and in brackets the shortest and the longest).

WHAT IS CHECKED
  no ID is in use by two processes at the same time
  no two processes have the same lock, or change the shared value, at the same time; besides, who has
    a lock gets the lock of the host's kernel on the same file at once
  the shared value has every change of every process, once (of a process that was killed: all that
    were given to others)
  every signal that was accepted was delivered, once
  every exit is reported to the parent once, with the right code, or as a death
  every call ends, without an error
  at the end the tables of the last leader are empty

  The last line is `succession: ok` (exit code 0), or exit code 1 after a line
  `succession: FAILED: ...` for each fault.

EXAMPLES
  succession                              eight processes, nine dead leaders, one that leaves
  succession --members 30 --deaths 50     more of both"
)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Args)]
struct Options {
    /// The number of processes
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(3..=40))]
    members: u32,
    /// The number of leaders that are killed
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=60))]
    deaths: u32,
    /// The time between two deaths, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 400, value_parser = clap::value_parser!(u64).range(20..=60_000))]
    pause: u64,
}

impl Options {
    fn pause(&self) -> Duration {
        Duration::from_millis(self.pause)
    }
}

#[derive(Subcommand)]
enum Role {
    /// A process that works until the example ends it.
    #[command(hide = true)]
    Member(member::Options),
    /// A process that ends at once.
    #[command(hide = true)]
    Brief(member::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.role {
        Some(Role::Member(options)) => exit_code("succession: a process", member::run(&options)),
        Some(Role::Brief(options)) => {
            exit_code("succession: a brief process", member::brief(&options))
        }
        None => run_checked("succession", |faults| run::run(&cli.options, faults)),
    }
}
