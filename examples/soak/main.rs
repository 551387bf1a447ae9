//! Processes that start, use everything that a family has, and end or are killed, for any time; and
//! checks that nothing is lost, left behind or late.
//!
//! The parts: [`run`] is the leader's side, which keeps the [`places`] filled; [`member`] is a
//! process and [`work`] what it does while it lives; [`shared`] is what all of them share, [`signals`]
//! what they signal; [`figures`] is what they count, [`view`] what you see, [`final_faults`] what must be
//! true at the end.

#[path = "../common/mod.rs"]
mod common;
mod figures;
mod member;
mod resources;
mod run;
mod shared;
mod signals;
mod slots;
mod view;
mod work;

use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use common::{follow, lead, seconds};

/// Have processes come, work on everything and go, for a long time, and check that nothing is lost,
/// left behind or late.
#[derive(Parser)]
#[command(
    name = "soak",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_long_help = "\
WHAT HAPPENS
  This process leads. It keeps N processes alive: each joins, works on everything there is (IDs,
  lists of processes, signals, metadata, record locks on a file of its own and on shared ones, flock,
  sync handles of its own and shared), and after a while ends with a code that was drawn for it, or
  is killed (SIGKILL), or both at about the same time. Then another takes its place. Meanwhile this
  process signals them one by one, by group, and all at once.

  You see how many have come and gone, and by kind of work how many calls there were, how many a
  second, and how long they took; besides, what memory and descriptors this process has.

WHAT IS CHECKED
  every end was told to its parent once, and waited for once, with the right code or as a death
  signals: each one that was accepted came, and nothing came twice
  locks and shared values: nobody ever met another who held the same, and no change was lost
  IDs and metadata: own IDs have the right owner, every answer is the right one
  no call took longer than its limit, and no process failed
  at the end the leader's tables are empty and all its pools at zero; its descriptors are as many as at
    the beginning, and one for each call of its own that ever waited at once; in the last quarter of
    the time its memory was at most 2 MiB (for the allocator) more than in the first

  The last line is `soak: ok` (exit code 0), or before it ends with exit code 1 there is a line
  `soak: FAILED: ...` for each thing that is wrong.

HOW MUCH WORK THAT IS
  As many processes as you like can't be served as fast as you like: pauses between two pieces of work,
  lifetimes and the limit of a call grow with the processes for each core (`--pause`, `--life` and
  `--limit` print_line otherwise). The machine is busy, but calls don't take long for want of a processor
  alone.

EXAMPLES
  soak                               fifty processes for twenty seconds
  soak --members 200 --seconds 600   ten minutes of a processes_per_core
  soak --members 8 --pause 0         as fast as it can, all the time"
)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Args)]
struct Options {
    /// How many processes live at once, besides this one
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(2..=500))]
    members: u32,
    /// How long to go on
    #[arg(long, value_name = "S", default_value = "20", value_parser = seconds)]
    seconds: Duration,
    /// The mean pause of a process between two pieces of work, in milliseconds
    /// [default: 2 for each process to a core]
    #[arg(long, value_name = "MS")]
    pause: Option<u32>,
    /// The mean life of a process, in milliseconds [default: 500, and 40 for each process to a core]
    #[arg(long, value_name = "MS")]
    life: Option<u32>,
    /// How long a call may take, in milliseconds [default: 2000, and 20 for each process to a core]
    #[arg(long, value_name = "MS")]
    limit: Option<u32>,
    /// How many in a hundred processes are killed
    #[arg(long, value_name = "PERCENT", default_value_t = 25, value_parser = clap::value_parser!(u32).range(0..=100))]
    killed: u32,
}

impl Options {
    /// Returns the number of processes for each core.
    fn processes_per_core(&self) -> u32 {
        let cores = available_parallelism().map_or(1, usize::from);
        self.members.div_ceil(u32::try_from(cores).unwrap_or(1))
    }

    fn pause(&self) -> Duration {
        milliseconds(self.pause, self.processes_per_core() * 2)
    }

    fn life(&self) -> Duration {
        milliseconds(self.life, 500 + 40 * self.processes_per_core())
    }

    fn limit(&self) -> Duration {
        milliseconds(self.limit, 2000 + 20 * self.processes_per_core())
    }
}

fn milliseconds(given: Option<u32>, default: u32) -> Duration {
    Duration::from_millis(given.unwrap_or(default).into())
}

#[derive(Subcommand)]
enum Role {
    /// A process: started by the leader.
    #[command(hide = true)]
    Member(member::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.role {
        Some(Role::Member(options)) => follow("soak: a process", member::run(&options)),
        None => lead("soak", |wrong| run::run(&cli.options, wrong)),
    }
}
