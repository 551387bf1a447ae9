//! The leader: starts all other processes, checks how they end, and checks that nothing is left.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use libos_ipc::host::{Host, HostNode, ProxyEnd};
use libos_ipc::{
    ChildExit, ChildSelector, Config, Error, Identity, MetaCode, PATH_MAX, Pid, Resource, Shared,
    Target, Wait,
};

use crate::board::{BOARD, Board, GUESTS, INCREMENTS, LIMIT, MEMBER, PARTIES, exit_code, step};
use crate::log::RunLog;
use crate::machine::{self, Machine};
use crate::member::WAIT;
use crate::{Fault, Options};

/// The signal in the exit report of a process that died without one.
const SIGPWR: u32 = 30;
/// The greatest sizes of the guest's image, and of all its memory.
const IMAGE_LIMIT: u64 = 512 * 1024;
const MEMORY_LIMIT: u64 = 4 * 1024 * 1024;
/// QEMU's exit code is twice the guest's and one more.
const SWITCHED_OFF: i32 = 1;
const FAULT: i32 = 255;

type SharedBoard<'n> = Shared<'n, 'static, Host, Board>;

pub(crate) fn run(options: &Options, faults: &mut Vec<String>) -> Result<()> {
    machine::check(&options.qemu)?;
    let log = RunLog::new();
    log.print("leader", "building the guest");
    let image = machine::build()?;
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("f");
    let leader = HostNode::start(&base, Identity::LEADER, Config::DEFAULT)?;
    leader.join(WAIT)?;
    let board: SharedBoard<'_> = leader.share(Some(BOARD))?;
    // The board lives as long as a process that has used it.
    drop(board.read(WAIT)?);

    let mut member = Member::start(&leader, &base, options, &log)?;
    wait_for(&board, MEMBER, step::LOCKED, || member.is_gone())?;
    let mut machines = Vec::new();
    for party in GUESTS {
        let child = leader.start_child(WAIT).context("preparing a guest")?;
        let pid = child.pid.context("a guest without a pid")?;
        log.print(
            "leader",
            &format!("guest {party} is going to be process {pid}"),
        );
        let machine = Machine::start(options, &image, &base, child, party, &log)?;
        machines.push((pid, machine));
        let machine = machines.last_mut().map(|(_, machine)| machine);
        let machine = machine.context("it was just started")?;
        // Guests start one at a time, so that their figures are comparable.
        wait_for(&board, party, step::MEASURED, || machine.is_off())?;
    }

    if let Some(fault) = options.fault {
        // The other processes depend on the failing guest only for its locks.
        wait_for(&board, MEMBER, step::COUNTED, || member.is_gone())?;
        if fault == Fault::Unresponsive {
            let (pid, machine) = &mut machines[1];
            check_unresponsive(&leader, *pid, machine, member.pid, &log)?;
        }
    }
    let starts = [&machines[0].1, &machines[1].1].map(|machine| machine.started);
    check_ends(&leader, options, member, machines, &log, faults)?;
    let parties = PARTIES - usize::from(options.fault.is_some());
    let sum = INCREMENTS * parties as u64;
    let counter = board.read(WAIT)?.counter;
    if counter != sum {
        faults.push(format!("the board says {counter}, and not {sum}"));
    }
    drop(board);
    leader.leave(WAIT)?;
    let pools = leader.statistics().pools;
    let left = [
        pools.locks,
        pools.waiting_for_locks,
        pools.peers,
        pools.children,
        pools.served_handles,
    ];
    if !leader.check_invariants() || left.iter().any(|fill| fill.now > 0) {
        faults.push(format!(
            "something is left in the leader's tables: {left:?}"
        ));
    }
    figures(&image, &log, starts, faults)
}

/// The member on the host.
struct Member {
    pid: Pid,
    process: Child,
    listener: JoinHandle<()>,
}

impl Member {
    fn start(leader: &HostNode, base: &Path, options: &Options, log: &RunLog) -> Result<Member> {
        let child = leader.start_child(WAIT).context("preparing the member")?;
        let pid = child.pid.context("a member without a pid")?;
        let survivors = GUESTS.len() - usize::from(options.fault.is_some());
        let mut process = Command::new(std::env::current_exe()?)
            .arg("member")
            .arg("--base")
            .arg(base)
            .args(["--identity", &child.to_string()])
            .args(["--survivors", &survivors.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the member")?;
        let output = process.stdout.take().context("it is piped")?;
        Ok(Member {
            pid,
            process,
            listener: log.copy_output("member", output),
        })
    }

    fn is_gone(&mut self) -> Result<bool> {
        Ok(self.process.try_wait()?.is_some())
    }
}

/// Waits until a party has reached a step, unless it ends before.
fn wait_for(
    board: &SharedBoard<'_>,
    party: usize,
    step: u64,
    mut is_gone: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let begin = Instant::now();
    let glance = Wait::at_most(Duration::from_millis(200));
    while begin.elapsed() < LIMIT {
        match board.wait_for(glance, |board| board.steps[party] >= step) {
            Ok(_) => return Ok(()),
            Err(Error::TimedOut) if is_gone()? => bail!("party {party} has ended before its time"),
            Err(Error::TimedOut) => {}
            Err(error) => return Err(error).context("reading the board"),
        }
    }
    bail!("party {party} did not come as far as step {step} in {LIMIT:?}")
}

/// Checks that a guest does not respond, fills all queues to it, and ends it. No other process
/// may be blocked by it.
fn check_unresponsive(
    leader: &HostNode,
    pid: Pid,
    machine: &mut Machine,
    other: Pid,
    log: &RunLog,
) -> Result<()> {
    ensure!(
        log.wait_for(&machine.name, "failing", LIMIT),
        "the guest does not stop reading"
    );
    let ask = |pid, limit| {
        let wait = Wait::at_most(Duration::from_millis(limit));
        leader.kill(Target::Process(pid), 0, wait)
    };
    let answer = ask(pid, 200);
    ensure!(
        answer == Err(Error::TimedOut),
        "an unresponsive guest answered: {answer:?}"
    );
    let mut path = [0; PATH_MAX];
    let mut asked = 0_u32;
    let full = loop {
        let wait = Wait::at_most(Duration::ZERO);
        match leader.path_of(pid, MetaCode::Root, &mut path, wait) {
            Err(Error::TimedOut) => asked += 1,
            end => break end,
        }
    };
    ensure!(
        full == Err(Error::Full(Resource::SendQueue)),
        "an unresponsive guest was asked {asked} times, and then: {full:?}"
    );
    log.print(
        "leader",
        &format!("process {pid} is unresponsive: its send queue was full after {asked} requests"),
    );
    let begin = Instant::now();
    ask(other, 5000).context("asking a responsive process")?;
    let took = begin.elapsed();
    log.print(
        "leader",
        &format!("process {other} answered after {took:.1?}"),
    );
    machine.kill()?;
    log.print("leader", "pulled the plug of the unresponsive guest");
    Ok(())
}

/// Checks how all children end.
fn check_ends(
    leader: &HostNode,
    options: &Options,
    mut member: Member,
    machines: Vec<(Pid, Machine)>,
    log: &RunLog,
    faults: &mut Vec<String>,
) -> Result<()> {
    for _ in 0..PARTIES {
        let exit = leader
            .wait_child(ChildSelector::Any, WAIT)
            .context("waiting for a child")?;
        let ChildExit {
            pid, code, signal, ..
        } = exit;
        let how = if signal == 0 {
            format!("ended with {code}")
        } else {
            format!("died of signal {signal}")
        };
        log.print("leader", &format!("process {pid} {how}"));
        let party = machines.iter().position(|(machine, _)| *machine == pid);
        let party = party.map_or(MEMBER, |place| GUESTS[place]);
        let expected = match party {
            2 if options.fault.is_some() => (0, SIGPWR),
            MEMBER => (0, 0),
            guest => (exit_code(guest), 0),
        };
        if (code, signal) != expected {
            faults.push(format!("process {pid} {how}, and not as {expected:?}"));
        }
    }
    let status = member.process.wait()?;
    let _ = member.listener.join();
    if !status.success() {
        faults.push(format!("process {} ended with {status}", member.pid));
    }
    for (party, (_, mut machine)) in GUESTS.into_iter().zip(machines) {
        let (status, end) = machine.wait()?;
        let name = &machine.name;
        let expected = match options.fault.filter(|_| party == 2) {
            None => Some(SWITCHED_OFF),
            Some(Fault::Unresponsive) => None,
            Some(_) => Some(FAULT),
        };
        if status.code() != expected {
            faults.push(format!("QEMU of {name} ended with {status}"));
        }
        if end != ProxyEnd::Closed {
            faults.push(format!("{name}: {end}"));
        }
    }
    Ok(())
}

/// Prints the figures.
fn figures(
    image: &Path,
    log: &RunLog,
    starts: [Duration; 2],
    faults: &mut Vec<String>,
) -> Result<()> {
    let figure = |who: &str, name: &str| {
        let figure = log.figure(who, name);
        figure.with_context(|| format!("{who} has not figure_of its {name}"))
    };
    let guests = ["guest 1", "guest 2"];
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["", guests[0], guests[1], "member on the host"]);
    let span = |nanos: u64| format!("{:.1?}", Duration::from_nanos(nanos));
    let mut boot = vec!["from the start of QEMU to member".to_owned()];
    let mut joined = vec!["of that in the guest".to_owned()];
    let mut asked = vec!["request to the leader and answer, median".to_owned()];
    for (who, start) in guests.into_iter().zip(starts) {
        let figure_of = figure(who, "joined")?;
        boot.push(format!("{:.1?}", figure_of.at.saturating_sub(start)));
        joined.push(span(figure_of.value));
        asked.push(span(figure(who, "round-trip")?.value));
    }
    asked.push(span(figure("member", "round-trip")?.value));
    for row in [boot, joined, asked] {
        table.add_row(row);
    }
    let image = std::fs::metadata(image)?.len();
    let memory = figure("guest 1", "memory")?.value;
    println!("{table}");
    println!(
        "image {}, all memory {} (limits: {}, {})",
        kibibytes(image),
        kibibytes(memory),
        kibibytes(IMAGE_LIMIT),
        kibibytes(MEMORY_LIMIT)
    );
    if image > IMAGE_LIMIT || memory > MEMORY_LIMIT {
        faults.push("the guest takes more than its limits".to_owned());
    }
    Ok(())
}

fn kibibytes(bytes: u64) -> String {
    format!("{} KiB", bytes.div_ceil(1024))
}
