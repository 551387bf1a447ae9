//! A family of real processes that share one space of IDs, with checks.
//!
//! `family` leads, starts its members, kills one of them while it works, and prints at the end
//! whether all checks passed. `family --serve BASE` only leads: members of any kind join it.
//!
//! The parts: [`run`] is the leader's side and [`member`] a member's; [`processes`] are the members as the leader's
//! process sees them; [`control`] has the messages between them that are not of the family's protocol; [`id_log`]
//! finds out whether an ID ever had two owners; [`process_tree`] runs the process tree that comes after, [`process`]
//! is one of its processes, [`ledger`] what they report, and [`os`] their library OS; [`platform`] is the platform of
//! all of them, which may record; [`key`] sends the key of secure streams to children; [`figures`] are the counts of
//! members, [`summary`] prints them, and [`top`] the rates and waits of the members from each [`snapshot`];
//! [`final_checks`] are the checks of the leader at the end; [`serve`] is the leader by itself.

#[path = "../common/mod.rs"]
mod common;
mod control;
mod figures;
mod final_checks;
mod id_log;
mod key;
mod ledger;
mod member;
mod os;
mod platform;
mod process;
mod process_tree;
mod processes;
mod run;
mod serve;
mod snapshot;
mod summary;
mod top;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use libos_ipc::Wait;
use libos_ipc::host::Addresses;

use common::{exit_code, seconds};

/// Every request of this program takes less time than this, unless there is a fault.
const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(10));

/// Run a family of processes that share one space of IDs, and check that it holds together.
#[derive(Parser)]
#[command(
    name = "family",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_long_help = "\
WHAT HAPPENS
  This process is the leader. Each member is a process of its own: it takes IDs, holds them for
  a while, looks up the owners of others, transfers some to other members and releases the rest, as
  fast as it can. Half-way through, one member is killed (SIGKILL). At the end all IDs are released.
  In the second part this process is the first process of a tree: its children start children of
  their own, all processes signal each other, one is killed, all others exit and are waited for.

WHAT IS CHECKED
  no two members held an ID at the same time, by the logs that all of them keep
  the leader reclaimed the IDs of the killed member
  nothing is left: no ID range, no connection, no waiting call, no byte to send
  every other member exited without an error
  every signal was delivered as often as it was sent
  every exit of a process was reported once to its parent, or to the parent that adopted it

  The last line is `family: ok` (exit code 0), or exit code 1 after a line `family: FAILED: ...`
  for each fault.

EXAMPLES
  family                                two seconds with four members
  family --members 30 --ids 20000       until each has taken 20,000 IDs
  family --members 8 --seconds 60 --top watch a longer run
  family --streams tcp --plain          the same over TCP
  family --trace f.pcapng               record all frames
  family --serve /run/user/1000/fam     lead at /run/user/1000/fam.1 until SIGTERM"
)]
struct Cli {
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    serve: ServeOptions,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Args)]
struct RunOptions {
    /// The number of member processes to start; one of them will be killed
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=500))]
    members: u32,
    /// Work until each member has taken that many IDs, instead of for a fixed time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    ids: Option<u64>,
    /// The time to work
    ///
    /// The logs grow by some megabytes a second; they are in a temporary directory, which is
    /// removed at the end.
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds, conflicts_with = "ids")]
    seconds: Duration,
    /// The seed of the random choices: which member is killed, and what the members do
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Record every frame of all processes in this file, for Wireshark
    ///
    /// `tshark -X lua_script:tools/wireshark/libos_ipc.lua -r FILE` shows them;
    /// docs/debugging.md says more.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Show rates, latencies, the usage of the leader's pools and the waiting calls while the members
    /// work
    ///
    /// On a terminal the picture is updated in place, else one is printed every second.
    #[arg(long)]
    top: bool,
    /// Encrypt and authenticate all streams; needs to be built with `--features secure`
    ///
    /// Each child gets the family's key from its parent, on its standard input.
    #[arg(long)]
    secure: bool,
    /// The streams between the processes: Unix sockets, TCP on this machine, or the sockets of virtual machines
    ///
    /// Others can read and change plain streams on a network: the last two need `--secure` or `--plain`.
    #[arg(long, value_enum, default_value_t)]
    streams: Streams,
    /// Use plain streams on a network
    #[arg(long, conflicts_with = "secure")]
    plain: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Streams {
    #[default]
    Unix,
    Tcp,
    Vsock,
}

#[derive(Args)]
struct ServeOptions {
    /// Only lead: listen at the Unix socket BASE.1 and reach member N at BASE.N
    ///
    /// Until SIGINT or SIGTERM, which end it cleanly with exit code 0. Members join by connecting;
    /// they get their number from `GET_NEW_VMID`, or it is assigned outside.
    #[arg(
        long = "serve",
        value_name = "BASE",
        value_parser = unix_base,
        conflicts_with_all = ["members", "ids", "seconds", "seed", "trace", "top", "secure", "streams", "plain"]
    )]
    base: Option<PathBuf>,
    /// Print nothing but errors
    #[arg(long, requires = "base")]
    quiet: bool,
    /// Whether released IDs are handed out again once the highest was reached
    #[arg(long, requires = "base", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    wrap_ids: bool,
}

/// Reads the base of Unix sockets from a command line.
fn unix_base(text: &str) -> Result<PathBuf, String> {
    match text.parse::<Addresses>() {
        Ok(Addresses::Unix(base)) => Ok(base),
        Ok(_) => {
            Err("others can read and change plain streams on a network: give a path".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

#[derive(Subcommand)]
enum Role {
    /// A member: started by the leader, from which it gets commands on its standard input.
    #[command(hide = true)]
    Member(member::Options),
    /// A process of the second part, the process tree.
    #[command(hide = true)]
    Process(process::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (process, result) = match (cli.role, cli.serve.base) {
        (Some(Role::Member(options)), _) => (
            format!("family: member {}", options.vmid),
            member::run(&options),
        ),
        (Some(Role::Process(options)), _) => ("family: process".to_owned(), process::run(&options)),
        (None, Some(base)) => (
            "family".to_owned(),
            serve::run(&base, cli.serve.quiet, cli.serve.wrap_ids),
        ),
        (None, None) => return run::run(&cli.run),
    };
    exit_code(&process, result.map(|()| 0))
}
