//! The family in a simulator: many seeds, each a whole family with faults, checked after every
//! step.
//!
//! The parts: [`simulation`] is one run, [`sweep`] runs many seeds, [`shrink`] makes a failing one
//! small.

mod shrink;
#[path = "../simulation/mod.rs"]
mod simulation;
mod sweep;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use simulation::{Fault, Faults, MAX_MEMBERS, Only, Options};

/// Run families of real nodes in simulated time, with faults, and check all that they guarantee.
#[derive(Parser)]
#[command(name = "sim", version, after_long_help = after_help())]
pub(crate) struct Cli {
    /// Run this seed alone
    #[arg(long, value_name = "N", conflicts_with = "runs")]
    seed: Option<u64>,
    /// Run so many seeds
    #[arg(long, value_name = "N", default_value_t = 1000)]
    runs: u64,
    /// Begin with this seed; without this, with one drawn at random, which is printed
    #[arg(long, value_name = "N", conflicts_with = "seed")]
    from: Option<u64>,
    /// The most members of a family; without this each seed says
    #[arg(long, value_name = "N", value_parser = members)]
    members: Option<usize>,
    /// The faults that may happen: a list, `all` or `none` (see below). Each seed takes about half of them
    #[arg(long, value_name = "LIST", default_value = "all", value_parser = Faults::parse)]
    faults: Faults,
    /// Do these steps alone, as a shrunk seed names them
    #[arg(long, value_name = "STEPS", requires = "seed", value_parser = Only::parse)]
    only: Option<Only>,
    /// Print the trace of the seed
    #[arg(long, short, requires = "seed")]
    verbose: bool,
    /// Record the operations that the leader of the seed applies in this file
    #[arg(long, value_name = "FILE", requires = "seed")]
    record_ops: Option<PathBuf>,
    /// Run no seed: replay the operations in this file with a leader alone, and compare the digest of its
    /// state with the one in the file
    #[arg(long, value_name = "FILE", exclusive = true)]
    replay_ops: Option<PathBuf>,
    /// Do not make a failing seed smaller
    #[arg(long)]
    no_shrink: bool,
    /// Seeds that run at the same time; without this, as many as there are processors
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

fn members(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(members) if (1..=MAX_MEMBERS).contains(&members) => Ok(members),
        _ => Err(format!("between 1 and {MAX_MEMBERS}")),
    }
}

fn after_help() -> String {
    let line = |(_, name, about): &(Fault, &str, &str)| format!("  {name:<11} {about}");
    let faults = Fault::ALL.iter().map(line).collect::<Vec<_>>().join("\n");
    format!(
        "\
FAULTS
{faults}

WHAT HAPPENS
  A seed determines a family: the number of members, their limits, what each of them does (IDs,
  children, signals, metadata, file locks, shared values), and the kinds and times of the faults. The
  whole family runs in one thread and in simulated time, so a run can be repeated exactly.
  docs/testing.md lists the checks.

  The last line is `sim: ok` (exit code 0). If a seed fails, it is reduced to as few steps as possible,
  and the command that runs them is printed with a short trace (exit code 1).

EXAMPLES
  sim --runs 100000 --faults delay,crash   many families with slow streams and deaths
  sim --from 0 --runs 20000                the same families every time
  sim --runs 1000 --faults all             families that outlive their leader, too
  sim --seed 7 --verbose                   the trace of the family of seed 7
  sim --seed 7 --record-ops seven          record the operations of its leader, for sim --replay-ops seven"
    )
}

impl Cli {
    fn options(&self, seed: u64) -> Options {
        Options {
            seed,
            members: self.members,
            faults: self.faults,
            only: self.only.clone(),
            keeps_lines: self.verbose,
            records_ops: self.record_ops.is_some(),
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(path) = &cli.replay_ops {
        return replay(path);
    }
    let failed = match cli.seed {
        Some(seed) => one(&cli, seed),
        None => sweep::run(&cli),
    };
    match failed {
        None => {
            println!("sim: ok");
            ExitCode::SUCCESS
        }
        Some(seed) => {
            shrink::report(&cli.options(seed), !cli.no_shrink);
            ExitCode::FAILURE
        }
    }
}

/// Replays the operations in the file.
fn replay(path: &Path) -> ExitCode {
    let file = std::fs::read(path).map_err(|error| error.to_string());
    match file.and_then(|file| simulation::replay(&file)) {
        Ok(replayed) => {
            println!(
                "{} operations, digest {:016x}",
                replayed.ops, replayed.digest
            );
            if replayed.digest == replayed.recorded {
                println!("sim: ok");
                return ExitCode::SUCCESS;
            }
            println!(
                "sim: FAILED: the digest in the file is {:016x}",
                replayed.recorded
            );
        }
        Err(error) => println!("sim: FAILED: {}: {error}", path.display()),
    }
    ExitCode::FAILURE
}

/// Ends the program, because the file of `--record-ops` cannot be written.
fn unwritable(path: &Path, error: &std::io::Error) -> ! {
    let path = path.display();
    eprintln!(
        "sim: cannot write {path}: {error}: give --record-ops a file in a directory that is there"
    );
    std::process::exit(2)
}

/// Runs one seed, and returns it if it fails.
fn one(cli: &Cli, seed: u64) -> Option<u64> {
    // The file is made first: else the run would be over before it is known that its operations cannot be kept.
    let record = cli.record_ops.as_deref().map(|path| {
        let file = File::create(path).unwrap_or_else(|error| unwritable(path, &error));
        (path, file)
    });
    shrink::report_panics(cli.options(seed), !cli.no_shrink);
    let outcome = simulation::run(&cli.options(seed));
    for line in &outcome.lines {
        println!("{line}");
    }
    let time = std::time::Duration::from_nanos(outcome.time);
    println!(
        "seed {seed}: {} events in {time:?} of simulated time, trace {:016x}",
        outcome.events, outcome.hash
    );
    if let (Some((path, mut file)), Some(ops)) = (record, &outcome.ops) {
        file.write_all(ops)
            .unwrap_or_else(|error| unwritable(path, &error));
    }
    let violation = outcome.violation?;
    println!("sim: FAILED: {}: {}", violation.check, violation.what);
    Some(seed)
}
