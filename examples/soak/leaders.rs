//! The processes that lead when the first process of this program does not, and their ends.

use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use libos_ipc::host::{HostNode, raise_descriptor_limit};
use libos_ipc::{Capacities, Exit, Identity, LeaseLimits, LockLimits, Vmid, Wait};

use crate::common::{
    Latency, ProcessOptions, command, heir_of, leader_faults, read_lines, send, spawn,
    stop_at_input_end,
};
use crate::member::{self, Succession};
use crate::slots::RunningProcess;

/// The number of processes that may lead, besides the first one.
pub(crate) const CANDIDATES: usize = 6;

/// Of so many leaders one leaves, and the others are killed.
const LEAVE_EVERY: u32 = 8;

/// The time in which there must be an heir, and a new leader.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    process: ProcessOptions,
    /// How many members there can be
    #[arg(long)]
    members: u32,
}

/// Returns the limits of a leader for that many processes.
pub(crate) fn capacities(members: u32) -> Capacities {
    let common = member::capacities(members);
    // An equal part of a table is 16 places, of which a quarter is the reserve of a member.
    let places = 16 * (common.peers + 1);
    Capacities {
        ranges: 4 * places,
        processes: places,
        waiters: 64,
        locks: LockLimits {
            locks: 4 * places,
            files: places,
            waiting: places,
            open_files: places,
        },
        leases: LeaseLimits {
            handles: places,
            clients: places,
        },
        ..common
    }
}

/// Runs a process that does nothing but lead. The first one prepares a child, which is the first process of this
/// program. At the end of its standard input it leaves, as the last process, and prints the faults that its tables show.
pub(crate) fn run(options: &Options) -> Result<u8> {
    raise_descriptor_limit().context("raising the limit of descriptors")?;
    let wait = Wait::at_most(LIMIT);
    let ProcessOptions { base, identity } = &options.process;
    let config = member::config(options.members, Succession::Leads);
    let node = HostNode::start_with(base, *identity, config, member::library_os())?;
    let stop = stop_at_input_end(|| ());
    node.join(wait)?;
    if identity.is_leader() {
        send(&Line::Child(node.start_child(wait)?));
    } else {
        send(&Line::Ready);
    }
    while !stop.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(5));
    }
    ensure!(
        node.leader() == identity.vmid,
        "it does not lead at the end"
    );
    node.exit(Exit::default(), wait)?;
    node.leave(wait)?;
    node.release_idle_ranges(wait)?;
    // A process may be killed before it is identified, or can be answered.
    for what in leader_faults(&node, |_, _| true) {
        send(&Line::Fault(what));
    }
    Ok(0)
}

/// A line that such a process writes.
pub(crate) enum Line {
    /// The process has prepared a child.
    Child(Identity),
    /// The process has joined the family.
    Ready,
    /// A fault of the leader's tables at the end.
    Fault(String),
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Line::Child(identity) => write!(f, "child {identity}"),
            Line::Ready => f.write_str("ready"),
            Line::Fault(what) => write!(f, "fault {what}"),
        }
    }
}

impl std::str::FromStr for Line {
    type Err = anyhow::Error;
    fn from_str(line: &str) -> Result<Line> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        Ok(match word {
            "child" => Line::Child(rest.parse()?),
            "ready" => Line::Ready,
            "fault" => Line::Fault(rest.to_owned()),
            _ => bail!("{line:?}"),
        })
    }
}

/// A process that does nothing but lead.
pub(crate) struct DedicatedLeader {
    vmid: Vmid,
    process: Child,
    lines: Receiver<Result<Line>>,
}

impl DedicatedLeader {
    pub(crate) fn start(base: &Path, identity: &Identity, members: u32) -> Result<DedicatedLeader> {
        let mut start = command("leader", base, identity)?;
        start.args(["--members", &members.to_string()]);
        start.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = spawn(&mut start).context("starting a leader")?;
        let (sender, lines) = channel();
        read_lines(process.stdout.take().context("piped")?, move |line| {
            line.is_some_and(|line| sender.send(line).is_ok())
        });
        Ok(DedicatedLeader {
            vmid: identity.vmid,
            process,
            lines,
        })
    }

    /// Returns the next line of its output.
    pub(crate) fn next_line(&self) -> Result<Line> {
        self.lines
            .recv_timeout(LIMIT)
            .context("a leader writes no line")?
    }

    /// Makes it leave as the last process. Returns its faults.
    pub(crate) fn end(mut self) -> Result<Vec<String>> {
        drop(self.process.stdin.take());
        let mut faults = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(2 * LIMIT) {
            if let Line::Fault(what) = line? {
                faults.push(what);
            }
        }
        let status = self.process.wait()?;
        if !status.success() {
            faults.push(format!("the last leader ended with {status}"));
        }
        Ok(faults)
    }
}

impl Drop for DedicatedLeader {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Ends the leaders, one after another.
pub(crate) struct LeaderEnds {
    /// The first leader, until it has ended.
    first: Option<DedicatedLeader>,
    interval: Duration,
    /// The time at which the next leader is due to end.
    next: Instant,
    /// The time from which on a leader that is due has had no heir.
    waits_since: Option<Instant>,
}

/// How a leader has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaderEnd {
    Killed,
    Left,
}

impl LeaderEnds {
    pub(crate) fn new(first: DedicatedLeader, interval: Duration) -> LeaderEnds {
        LeaderEnds {
            first: Some(first),
            interval,
            next: Instant::now() + interval,
            waits_since: None,
        }
    }

    /// Ends the leader if it is due and an heir is ready. Returns how it has ended.
    pub(crate) fn step(
        &mut self,
        node: &HostNode,
        slots: &mut [Option<RunningProcess>],
    ) -> Result<Option<LeaderEnd>> {
        if Instant::now() < self.next {
            return Ok(None);
        }
        let leader = node.leader();
        let heir = heir_of(node).filter(|heir| *heir != leader);
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        ensure!(
            since.elapsed() < LIMIT,
            "process {leader} has led for {LIMIT:?}, and its heir is {heir:?}"
        );
        if heir.is_none() {
            return Ok(None);
        }
        let end = if self
            .first
            .as_ref()
            .is_some_and(|first| first.vmid == leader)
        {
            self.first = None;
            LeaderEnd::Killed
        } else {
            let mut living = slots.iter_mut().flatten();
            let Some(process) = living.find(|process| process.vmid == leader) else {
                return Ok(None);
            };
            if fastrand::u32(..LEAVE_EVERY) == 0 {
                process.stop()?;
                LeaderEnd::Left
            } else {
                process.kill()?;
                LeaderEnd::Killed
            }
        };
        self.waits_since = None;
        self.next += self.interval;
        Ok(Some(end))
    }
}

/// Sends look-ups to the leader all the time, and records how long there was no answer when the leader changed.
pub(crate) fn measure_outages(
    node: &HostNode,
    stop: &AtomicBool,
    wait: Wait<'_>,
) -> Result<Latency> {
    let mut outages = Latency::default();
    let mut leader = node.leader();
    let mut last_answer = Instant::now();
    // The time without an answer before the leader was seen to have changed.
    let mut gap_at_change: Option<Duration> = None;
    let pid = node.pid().context("it has joined")?.get();
    while !stop.load(Ordering::Relaxed) {
        node.owner_of(pid, wait)
            .context("a look-up during a succession")?;
        let gap = last_answer.elapsed();
        last_answer += gap;
        // The node may name the new leader already after an answer of the old one. So the longer of two gaps counts.
        if let Some(gap_before) = gap_at_change.take() {
            outages.add(gap.max(gap_before).as_nanos());
        }
        if node.leader() != leader {
            leader = node.leader();
            gap_at_change = Some(gap);
        }
        sleep(Duration::from_micros(100));
    }
    Ok(outages)
}

/// Starts the first leader, which prepares the first process of this program.
pub(crate) fn start_first(base: &Path, members: u32) -> Result<(DedicatedLeader, Identity)> {
    let first = DedicatedLeader::start(base, &Identity::LEADER, members)?;
    match first.next_line()? {
        Line::Child(identity) => Ok((first, identity)),
        _ => bail!("the first leader has prepared no child"),
    }
}
