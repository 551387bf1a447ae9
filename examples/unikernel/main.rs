//! A family whose leader is a process on this host, and two of whose members are programs without an
//! operating system, each alone in a virtual machine.
//!
//! The parts: [`machine`] builds the guest and starts it under QEMU with its proxy on the host,
//! [`run`] is the leader, [`member`] is a process on the host, [`log`] prints the output of all, [`shared`] has the
//! definitions that all share. The guest itself is in `guest`, a package of its own.

#[path = "../common/mod.rs"]
mod common;
mod log;
mod machine;
mod member;
mod run;
mod shared;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use common::{exit_code, run_checked};

/// Run two guests without an operating system as members of a family on this host.
#[derive(Parser)]
#[command(
    name = "unikernel",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_long_help = "\
WHAT HAPPENS
  This process leads a family. One child is a process on this host. Two more are bare-metal programs
  (one thread, no allocator, no operating system), each in a virtual machine of its own, whose only
  device is one virtio console. For each guest a thread of this process is its proxy: it listens at
  the guest's address, and carries the guest's streams over that console.

  The guests join, list the processes of the family, wait for a lock that the host's member holds,
  hold locks that it tests and get its signals. Then three activities of each guest run at once in its
  one thread, as tasks of embassy-executor: they take IDs, count with the others in a shared value and
  lock the same bytes of a file. The guests signal the host's member and exit with a code, which this
  process gets as their parent, and switch their machines off.

WHAT IS CHECKED
  each of these steps, at both sides; the sum in the shared value; the exit codes; that nothing is
    left in the leader's tables; that the image is at most 512 KiB and all its memory at most 4 MiB
  with --fault: the end of the second guest counts as a death, its locks are granted to the waiting
    processes, and all other processes exit without an error

  The last line is `unikernel: ok` (exit code 0), or exit code 1 after a line `unikernel: FAILED: ...`
  for each fault.

EXAMPLES
  unikernel                 both guests exit without an error
  unikernel --fault panic   the second guest panics
  unikernel --fault unresponsive    the second guest stops reading"
)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Args)]
struct Options {
    /// The way in which the second guest fails during its work
    #[arg(long, value_name = "HOW")]
    fault: Option<Fault>,
    /// The program that runs the machines
    #[arg(long, value_name = "PROGRAM", default_value = "qemu-system-x86_64")]
    qemu: PathBuf,
    /// The memory of each machine, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 4, value_parser = clap::value_parser!(u32).range(4..=2048))]
    memory: u32,
}

/// How a guest can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// A panic in its program
    Panic,
    /// A write to address 0
    Null,
    /// A recursion without end
    Stack,
    /// The guest goes on running, but neither reads nor answers
    Unresponsive,
}

impl Fault {
    /// Returns the guest's name of the fault.
    fn name(self) -> &'static str {
        match self {
            Fault::Panic => "panic",
            Fault::Null => "null",
            Fault::Stack => "stack",
            Fault::Unresponsive => "unresponsive",
        }
    }
}

#[derive(Subcommand)]
enum Role {
    /// The member on this host: started by the leader.
    #[command(hide = true)]
    Member(member::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.role {
        Some(Role::Member(options)) => {
            exit_code("unikernel: the member", member::run(&options).map(|()| 0))
        }
        None => run_checked("unikernel", |faults| run::run(&cli.options, faults)),
    }
}
