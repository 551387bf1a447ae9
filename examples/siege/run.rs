//! The leader's side: it makes a family for each attack, and prints the table.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use comfy_table::Table;
use libos_ipc::host::HostNode;
use libos_ipc::{Capacities, Config, Heirs, Identity, Wait};

use crate::Options;
use crate::attacks::Attack;
use crate::common::{HumanCount, Latency, Progress, command, fit, pid_of, spawn, table};
use crate::host::{Core, allow_many_files, pin};
use crate::innocent::Measured;
use crate::judge::{has_reached_leader, judge};

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(20));

/// The time in which a delegated file must be returned.
pub(crate) const RECALL_LIMIT: Duration = Duration::from_secs(1);

/// The time in which an attacker must end after its attack.
const ATTACKER_LIMIT: Duration = Duration::from_secs(60);

/// The time for which the innocent goes on after the attacker's end, whose resources are reclaimed.
const AFTERMATH: Duration = Duration::from_millis(300);

/// The limits of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Limits {
    Default,
    Large,
}

impl Limits {
    fn config(self) -> Config {
        Config {
            capacities: match self {
                Limits::Default => Capacities::DEFAULT,
                Limits::Large => Capacities::LARGE,
            },
            recall_limit: RECALL_LIMIT,
            ..Config::DEFAULT
        }
    }

    fn name(self) -> &'static str {
        match self {
            Limits::Default => "default",
            Limits::Large => "LARGE",
        }
    }
}

pub(crate) fn run(options: &Options, faults: &mut Vec<String>) -> Result<()> {
    allow_many_files()?;
    if !pin(Core::First)? {
        println!("there is only one core: the attacker shares it with the others");
    }
    let attacks = chosen_or_all(&options.attack);
    let limits = chosen_or_all(&options.limits);
    let runs = (limits.len() * (attacks.len() + 1)) as u64;
    let (progress, mut done) = (Progress::new(), 0);
    let header = ["attack", "calls", "number", "p50", "p99", "worst", ""];
    let mut table = table(header, 2);
    for limits in limits {
        let mut show = |what: &str| {
            progress.show(done, runs, &format!("{} limits: {what}", limits.name()));
            done += 1;
        };
        show("control");
        let control = measure(options, limits, None)?;
        add_row(&mut table, limits, "control", &control, "");
        for &attack in &attacks {
            let name = name(attack);
            show(&name);
            let measure_attack = || {
                let measured =
                    measure(options, limits, Some(attack)).unwrap_or_else(|error| failed(&error));
                let reasons = judge(attack, &measured, &control);
                (measured, reasons)
            };
            let (mut measured, mut reasons) = measure_attack();
            if !reasons.is_empty() {
                (measured, reasons) = measure_attack();
            }
            let verdict = if reasons.is_empty() { "ok" } else { "FAILED" };
            add_row(&mut table, limits, &name, &measured, verdict);
            faults.extend(
                reasons
                    .iter()
                    .map(|reason| format!("{name} at {} limits: {reason}", limits.name())),
            );
        }
    }
    progress.clear();
    fit(&mut table);
    println!("{table}");
    Ok(())
}

/// Returns the measurement of a family in which something failed.
fn failed(error: &anyhow::Error) -> Measured {
    Measured {
        refused: 1,
        error: format!("{error:#}"),
        ..Measured::default()
    }
}

/// Returns the values that were chosen on the command line, or all if none was.
fn chosen_or_all<T: ValueEnum + Copy>(chosen: &[T]) -> Vec<T> {
    if chosen.is_empty() {
        T::value_variants().to_vec()
    } else {
        chosen.to_vec()
    }
}

/// Returns the name of an attack on the command line.
fn name(attack: Attack) -> String {
    let name = attack.to_possible_value();
    name.map_or(String::new(), |name| name.get_name().to_owned())
}

/// Adds a row of two lines: one for the look-ups, one for the lock calls.
fn add_row(table: &mut Table, limits: Limits, name: &str, measured: &Measured, verdict: &str) {
    let both = |figure: &dyn Fn(&Latency) -> String| {
        format!("{}\n{}", figure(&measured.lookups), figure(&measured.locks))
    };
    table.add_row([
        format!("{name}\n  at {} limits", limits.name()),
        "look-ups\nlocks".to_owned(),
        both(&|latency| HumanCount(latency.requests()).to_string()),
        both(&|latency| format!("{:.1?}", latency.percentile(50))),
        both(&|latency| format!("{:.1?}", latency.percentile(99))),
        both(&|latency| format!("{:.1?}", latency.slowest())),
        verdict.to_owned(),
    ]);
}

/// A process of this program. It is killed when this value is dropped.
struct Process {
    child: Child,
    lines: Option<Lines<BufReader<ChildStdout>>>,
}

impl Process {
    fn start(mut command: Command) -> Result<Process> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(&mut command)?;
        let lines = child
            .stdout
            .take()
            .map(|output| BufReader::new(output).lines());
        Ok(Process { child, lines })
    }

    fn read_line(&mut self) -> Result<String> {
        let line = self.lines.as_mut().and_then(Iterator::next);
        Ok(line.context("a process has ended")??)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Measures the innocent's calls during an attack, in a new family.
fn measure(options: &Options, limits: Limits, attack: Option<Attack>) -> Result<Measured> {
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("f");
    let mut config = limits.config();
    if attack.is_some_and(Attack::has_heirs) {
        config.heirs = Heirs::Any;
    }
    let leader = HostNode::start(&base, Identity::LEADER, config)?;
    leader.join(WAIT)?;
    let default = Duration::from_millis(if options.quick { 600 } else { 4000 });
    let mut time = options.seconds.unwrap_or(default);
    if attack.is_some_and(Attack::shares_files) {
        time = time.max(RECALL_LIMIT * 3);
    }

    let mut innocent = command("innocent", &base, &leader.start_child(WAIT)?)?;
    if attack.is_some_and(Attack::shares_files) {
        innocent.arg("--shares-files");
    }
    let mut innocent = Process::start(innocent)?;
    innocent.read_line().context("the innocent")?;
    if let Some(attack) = attack {
        run_attack(options, limits, attack, &leader, &base, time)?;
    } else {
        sleep(time);
    }
    sleep(AFTERMATH);
    drop(innocent.child.stdin.take());
    let measured = innocent.read_line().context("the innocent")?.parse()?;
    innocent.child.wait()?;
    let statistics = leader.statistics();
    ensure!(
        attack.is_none_or(|attack| has_reached_leader(attack, &statistics)),
        "the attack has not reached the leader's tables: {:?}",
        statistics.pools
    );
    ensure!(leader.check_invariants(), "the leader's tables are broken");
    Ok(measured)
}

/// Runs an attacker for that time, and waits for its end.
fn run_attack(
    options: &Options,
    limits: Limits,
    attack: Attack,
    leader: &HostNode,
    base: &Path,
    time: Duration,
) -> Result<()> {
    let is_large = limits == Limits::Large;
    let mut identities = Vec::new();
    for _ in 0..attack.members(is_large, options.quick) {
        let child = leader.start_child(WAIT).context("preparing an attacker")?;
        identities.push(format!("{},{}", child.vmid, pid_of(&child)?));
    }
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["attacker", "--attack", &name(attack), "--base"])
        .arg(base);
    command.args(["--seconds", &time.as_secs_f64().to_string()]);
    command.args(["--nice", &options.nice.to_string()]);
    command.args(["--identities", &identities.join(",")]);
    command.args(is_large.then_some("--large"));
    command.args(options.quick.then_some("--quick"));
    let mut attacker = Process::start(command)?;
    let end = Instant::now() + time + ATTACKER_LIMIT;
    let status = loop {
        if let Some(status) = attacker.child.try_wait()? {
            break status;
        }
        if Instant::now() > end {
            bail!("the attacker does not end: the leader does not take its requests");
        }
        sleep(Duration::from_millis(10));
    };
    ensure!(
        status.success() || attack != Attack::FalseHeirs,
        "the leader has not chosen the attacker"
    );
    Ok(())
}
