//! Processes that start, use everything that a family has, and end or are killed, for any time; and
//! checks that nothing is lost, left behind or late.
//!
//! The parts: [`run`] is the first process, which keeps a process in each of the [`slots`]; [`member`] is such a
//! process and [`work`] what it does while it lives; [`leaders`] are the processes that lead when the first process
//! does not (`--kill-leader`); [`shared`] has the files and values that all of them use, [`signals`] their signals;
//! [`figures`] are their counts, and [`view`] prints these; [`resources`] checks that the memory and the descriptors of
//! the first process do not grow.

#[path = "../common/mod.rs"]
mod common;
mod figures;
mod leaders;
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

use common::{exit_code, run_checked, seconds};

/// Start and end processes that use every service, for a long time, and check that nothing is lost,
/// left over or late.
#[derive(Parser)]
#[command(
    name = "soak",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_long_help = "\
WHAT HAPPENS
  This process is the leader. It keeps N processes alive: each joins, uses every service (IDs,
  lists of processes, signals, metadata, record locks on a file of its own and on shared files, flock,
  sync handles of its own and shared ones), and after a while exits with a random code, or is killed
  (SIGKILL), or both at about the same time. Then another process takes its place. Meanwhile this
  process signals them one by one, by group, and all at once.

  With --kill-leader this process is only a member. Some of the N processes may lead, and every second
  the leader is killed, or leaves now and then; another takes over.

  The display shows the number of processes that have started and ended; for each kind of work the
  number of calls, their rate and their latency; and the memory and descriptors of this process.

WHAT IS CHECKED
  every exit is reported to the parent once, and waited for once, with the right code or as a death
  signals: each accepted signal is delivered, and none is delivered twice
  locks and shared values: no two processes hold the same one, and no change is lost
  IDs and metadata: own IDs have the right owner, and every answer is right
  no call takes longer than its limit, and no process fails
  at the end the leader's tables are empty and all its pools are at zero; it has as many descriptors as
    at the beginning, and one for each of its calls that ever waited at the same time; in the last
    quarter of the time its memory is at most 2 MiB (for the allocator) more than in the first

  The last line is `soak: ok` (exit code 0), or exit code 1 after a line `soak: FAILED: ...` for each
  fault.

LOAD
  The pauses between two pieces of work, the lifetimes and the limit of a call grow with the number of
  processes for each core, so that the machine is busy, but calls do not wait long for a processor
  alone. `--pause`, `--life` and `--limit` set other values.

  With --kill-leader the same is checked across all leaders.

EXAMPLES
  soak                               fifty processes for twenty seconds
  soak --members 200 --seconds 600   200 processes for ten minutes
  soak --members 8 --pause 0         as fast as it can, all the time
  soak --kill-leader                 200 processes for ten minutes, and a dead leader every second
  soak --kill-leader --quick         the same with 20 processes, for ten seconds"
)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Args)]
struct Options {
    /// How many processes live at once, besides this one [default: 50; with --kill-leader 200]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=500))]
    members: Option<u32>,
    /// How long to go on [default: 20; with --kill-leader 600]
    #[arg(long, value_name = "S", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Kill the leader, again and again
    #[arg(long)]
    kill_leader: bool,
    /// A short run with a dead leader every second
    #[arg(long, requires = "kill_leader")]
    quick: bool,
    /// The time between two deaths of leaders, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000, requires = "kill_leader", value_parser = clap::value_parser!(u64).range(20..=60_000))]
    every: u64,
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
    fn members(&self) -> u32 {
        self.members
            .unwrap_or(match (self.kill_leader, self.quick) {
                (_, true) => 20,
                (true, false) => 200,
                (false, false) => 50,
            })
    }

    fn seconds(&self) -> Duration {
        self.seconds
            .unwrap_or(Duration::from_secs(match (self.kill_leader, self.quick) {
                (_, true) => 10,
                (true, false) => 600,
                (false, false) => 20,
            }))
    }

    /// Returns the time between two deaths of leaders, if they are killed.
    fn leader_life(&self) -> Option<Duration> {
        self.kill_leader
            .then_some(Duration::from_millis(self.every))
    }

    /// Returns the number of processes for each core.
    fn processes_per_core(&self) -> u32 {
        let cores = available_parallelism().map_or(1, usize::from);
        self.members().div_ceil(u32::try_from(cores).unwrap_or(1))
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
    /// A process that does nothing, but may lead: the first one, and the last one.
    #[command(hide = true)]
    Leader(leaders::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.role {
        Some(Role::Member(options)) => exit_code("soak: a process", member::run(&options)),
        Some(Role::Leader(options)) => exit_code("soak: a leader", leaders::run(&options)),
        None => run_checked("soak", |faults| run::run(&cli.options, faults)),
    }
}
