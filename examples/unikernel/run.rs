//! The leader: it starts all other processes, and checks how they end and that nothing is left in its tables.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libos_ipc::host::{Host, HostNode, ProxyEnd};
use libos_ipc::{
    ChildExit, ChildSelector, Config, Error, Identity, MetaCode, PATH_MAX, Pid, Resource, Shared,
    Target, Wait,
};

use crate::common::{SIGPWR, leader_faults, table};
use crate::log::RunLog;
use crate::machine::{self, Machine};
use crate::member::WAIT;
use crate::shared::{
    GUESTS, INCREMENTS, LIMIT, MEMBER, PARTICIPANTS, STATE_ID, SharedState, exit_code, step,
};
use crate::{Fault, Options};

/// The greatest sizes of the guest's image, and of all its memory, in bytes.
const IMAGE_LIMIT: u64 = 512 * 1024;
const MEMORY_LIMIT: u64 = 4 * 1024 * 1024;
/// QEMU's exit codes after a guest that ended without an error, and after one that failed: twice the guest's own code and
/// one more.
const EXIT_WITHOUT_ERROR: i32 = 1;
const EXIT_AFTER_FAULT: i32 = 255;

type SharedHandle<'n> = Shared<'n, 'static, Host, SharedState>;

pub(crate) fn run(options: &Options, faults: &mut Vec<String>) -> Result<()> {
    machine::check(&options.qemu)?;
    let log = RunLog::new();
    log.print("leader", "building the guest");
    let image = machine::build()?;
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("f");
    let leader = HostNode::start(&base, Identity::LEADER, Config::DEFAULT)?;
    leader.join(WAIT)?;
    let state: SharedHandle<'_> = leader.share(Some(STATE_ID))?;
    // The state lives as long as a process that has used it.
    drop(state.read(WAIT)?);

    let mut member = Member::start(&leader, &base, options, &log)?;
    wait_for(&state, MEMBER, step::LOCKED, || member.is_gone())?;
    let mut machines = Vec::new();
    for participant in GUESTS {
        let child = leader.start_child(WAIT).context("preparing a guest")?;
        let pid = child.pid.context("a guest without a pid")?;
        log.print(
            "leader",
            &format!("guest {participant} is going to be process {pid}"),
        );
        let machine = Machine::start(options, &image, &base, child, participant, &log)?;
        machines.push((pid, machine));
        let machine = machines.last_mut().map(|(_, machine)| machine);
        let machine = machine.context("it was just started")?;
        // Guests start one at a time, so that their figures are comparable.
        wait_for(&state, participant, step::MEASURED, || machine.is_off())?;
    }

    if let Some(fault) = options.fault {
        // The other processes depend on the failing guest only for its locks.
        wait_for(&state, MEMBER, step::COUNTED, || member.is_gone())?;
        if fault == Fault::Unresponsive {
            let (pid, machine) = &mut machines[1];
            check_unresponsive(&leader, *pid, machine, member.pid, &log)?;
        }
    }
    let starts = [&machines[0].1, &machines[1].1].map(|machine| machine.started);
    check_ends(&leader, options, member, machines, &log, faults)?;
    let participants = PARTICIPANTS - usize::from(options.fault.is_some());
    let sum = INCREMENTS * participants as u64;
    let counter = state.read(WAIT)?.counter;
    if counter != sum {
        faults.push(format!("the counter is {counter}, and not {sum}"));
    }
    drop(state);
    leader.leave(WAIT)?;
    leader.release_idle_ranges(WAIT)?;
    faults.extend(leader_faults(&leader, |_, _| true));
    print_figures(&image, &log, starts, faults)
}

/// The member on the host.
struct Member {
    pid: Pid,
    process: Child,
    /// The thread that prints its output.
    printer: JoinHandle<()>,
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
            printer: log.copy_output("member", output),
        })
    }

    fn is_gone(&mut self) -> Result<bool> {
        Ok(self.process.try_wait()?.is_some())
    }
}

/// Waits until a participant has reached a step, unless it ends before.
fn wait_for(
    state: &SharedHandle<'_>,
    participant: usize,
    step: u64,
    mut is_gone: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let begin = Instant::now();
    let poll_interval = Wait::at_most(Duration::from_millis(200));
    while begin.elapsed() < LIMIT {
        match state.wait_for(poll_interval, |state| state.steps[participant] >= step) {
            Ok(_) => return Ok(()),
            Err(Error::TimedOut) if is_gone()? => {
                bail!("participant {participant} has ended before its time")
            }
            Err(Error::TimedOut) => {}
            Err(error) => return Err(error).context("reading the shared state"),
        }
    }
    bail!("participant {participant} did not come as far as step {step} in {LIMIT:?}")
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
    // Signal 0 only checks that the process exists, which the guest has to answer.
    let signal_0 = |pid, limit_ms| {
        let wait = Wait::at_most(Duration::from_millis(limit_ms));
        leader.kill(Target::Process(pid), 0, wait)
    };
    let answer = signal_0(pid, 200);
    ensure!(
        answer == Err(Error::TimedOut),
        "an unresponsive guest answered: {answer:?}"
    );
    let mut path = [0; PATH_MAX];
    let mut requests = 0_u32;
    let full = loop {
        let wait = Wait::at_most(Duration::ZERO);
        match leader.path_of(pid, MetaCode::Root, &mut path, wait) {
            Err(Error::TimedOut) => requests += 1,
            outcome => break outcome,
        }
    };
    ensure!(
        full == Err(Error::Full(Resource::SendQueue)),
        "an unresponsive guest was sent {requests} requests, and then: {full:?}"
    );
    log.print(
        "leader",
        &format!(
            "process {pid} is unresponsive: its send queue was full after {requests} requests"
        ),
    );
    let begin = Instant::now();
    signal_0(other, 5000).context("signalling a responsive process")?;
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
    for _ in 0..PARTICIPANTS {
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
        let participant = machines.iter().position(|(machine, _)| *machine == pid);
        let participant = participant.map_or(MEMBER, |index| GUESTS[index]);
        let expected = match participant {
            2 if options.fault.is_some() => (0, SIGPWR),
            MEMBER => (0, 0),
            guest => (exit_code(guest), 0),
        };
        if (code, signal) != expected {
            faults.push(format!("process {pid} {how}, and not as {expected:?}"));
        }
    }
    let status = member.process.wait()?;
    let _ = member.printer.join();
    if !status.success() {
        faults.push(format!("process {} ended with {status}", member.pid));
    }
    for (participant, (_, mut machine)) in GUESTS.into_iter().zip(machines) {
        let (status, end) = machine.wait()?;
        let name = &machine.name;
        let expected = match options.fault.filter(|_| participant == 2) {
            None => Some(EXIT_WITHOUT_ERROR),
            Some(Fault::Unresponsive) => None,
            Some(_) => Some(EXIT_AFTER_FAULT),
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

/// Prints the figures that the processes have measured.
fn print_figures(
    image: &Path,
    log: &RunLog,
    starts: [Duration; 2],
    faults: &mut Vec<String>,
) -> Result<()> {
    let figure = |process: &str, name: &str| {
        let figure = log.figure(process, name);
        figure.with_context(|| format!("{process} has not measured its {name}"))
    };
    let guests = ["guest 1", "guest 2"];
    let mut table = table(["", guests[0], guests[1], "member on the host"], 4);
    let time = |nanoseconds: u64| format!("{:.1?}", Duration::from_nanos(nanoseconds));
    let mut boot = vec!["from the start of QEMU to member".to_owned()];
    let mut in_guest = vec!["of that in the guest".to_owned()];
    let mut round_trip = vec!["request to the leader and answer, median".to_owned()];
    for (guest, start) in guests.into_iter().zip(starts) {
        let joined = figure(guest, "joined")?;
        boot.push(format!("{:.1?}", joined.at.saturating_sub(start)));
        in_guest.push(time(joined.value));
        round_trip.push(time(figure(guest, "round-trip")?.value));
    }
    round_trip.push(time(figure("member", "round-trip")?.value));
    for row in [boot, in_guest, round_trip] {
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
