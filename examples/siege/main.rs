//! A leader, an innocent member and an attacker: how long the innocent's calls take while the attacker
//! makes the requests that cost the leader most.
//!
//! The parts: [`attacks`] are the attacks, made of raw bytes ([`raw`]); [`innocent`] makes calls and
//! measures them; [`run`] starts a family for each attack; [`judge`] compares the measurements.

mod attacks;
mod collisions;
#[path = "../common/mod.rs"]
mod common;
mod floods;
mod heirs;
mod host;
mod innocent;
mod judge;
mod raw;
mod run;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use attacks::Attack;
use common::{exit_code, run_checked, seconds};

/// Attack a leader, and measure how long the calls of another member take meanwhile.
#[derive(Parser)]
#[command(
    name = "siege",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_long_help = "\
WHAT HAPPENS
  For each attack this process leads a family of two processes: an innocent member, which makes
  look-ups (GET_ID_OWNER) and lock calls in a loop, and an attacker, which writes raw bytes to the
  leader's socket. The leader and the innocent run on the first core, the attacker on the second
  one at nice 19. Each attack is run at the default limits and at LARGE limits. A run without an
  attack is the control.

WHAT IS CHECKED
  99 of 100 calls take at most 1 ms, or 5 times as long as in the control run
  every call takes at most 20 ms, or 5 times as long as the longest one of the control run
  no call of the innocent is refused

  The exception: a member that does not return a delegated file may delay one lock call for a file
  of the innocent by the recall limit. A row that fails is measured a second time, and the second
  measurement counts.

  The last line is `siege: ok` (exit code 0), or before it ends with exit code 1 there is a line
  `siege: FAILED: ...` for each attack that delays the innocent.

EXAMPLES
  siege                                      all attacks, some seconds each
  siege --quick                              the same in less than a minute
  siege --attack broadcast --limits large    one attack"
)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Args)]
struct Options {
    /// How long each attack lasts [default: 4; with --quick 0.6]
    #[arg(long, value_name = "S", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Attack for a short time, with smaller tables
    #[arg(long)]
    quick: bool,
    /// The nice value of the attacker: on a busy machine it gets no processor at 19
    #[arg(
        long,
        value_name = "N",
        default_value_t = 19,
        allow_negative_numbers = true
    )]
    nice: i32,
    /// Run only these attacks
    #[arg(long, value_name = "ATTACK", value_enum)]
    attack: Vec<Attack>,
    /// Run only at these limits
    #[arg(long, value_name = "LIMITS", value_enum)]
    limits: Vec<run::Limits>,
}

#[derive(Subcommand)]
enum Role {
    /// The innocent member: started by the leader.
    #[command(hide = true)]
    Innocent(innocent::Options),
    /// An attacker: started by the leader.
    #[command(hide = true)]
    Attacker(attacks::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.role {
        Some(Role::Innocent(options)) => {
            exit_code("siege: the innocent", innocent::run(&options).map(|()| 0))
        }
        Some(Role::Attacker(options)) => {
            exit_code("siege: the attacker", attacks::run(&options).map(|()| 0))
        }
        None => run_checked("siege", |faults| run::run(&cli.options, faults)),
    }
}
