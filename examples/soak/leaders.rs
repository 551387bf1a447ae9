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

/// One of so many leaders leaves, and the others are killed.
const LEAVES: u32 = 8;

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
    // Each member has a reserve of four places: a quarter of an equal part.
    let shared = 16 * (common.peers + 1);
    Capacities {
        ranges: 4 * shared,
        processes: shared,
        waiters: 64,
        locks: LockLimits {
            locks: 4 * shared,
            files: shared,
            waiting: shared,
            open_files: shared,
        },
        leases: LeaseLimits {
            handles: shared,
            clients: shared,
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
    Child(Identity),
    Ready,
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
pub(crate) struct PureLeader {
    vmid: Vmid,
    process: Child,
    lines: Receiver<Result<Line>>,
}

impl PureLeader {
    pub(crate) fn start(base: &Path, identity: &Identity, members: u32) -> Result<PureLeader> {
        let mut start = command("leader", base, identity)?;
        start.args(["--members", &members.to_string()]);
        start.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = spawn(&mut start).context("starting a leader")?;
        let (sender, lines) = channel();
        read_lines(process.stdout.take().context("piped")?, move |line| {
            line.is_some_and(|line| sender.send(line).is_ok())
        });
        Ok(PureLeader {
            vmid: identity.vmid,
            process,
            lines,
        })
    }

    /// Returns the next line that it says.
    pub(crate) fn line(&self) -> Result<Line> {
        self.lines
            .recv_timeout(LIMIT)
            .context("a leader says nothing")?
    }

    /// Has it leave as the last process. Returns its faults.
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

impl Drop for PureLeader {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The deaths of leaders.
pub(crate) struct Deaths {
    first: Option<PureLeader>,
    every: Duration,
    next: Instant,
    /// The time at which a leader was due to die, and had no heir.
    waits_since: Option<Instant>,
}

/// The end of a leader.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaderEnd {
    Killed,
    Left,
}

impl Deaths {
    pub(crate) fn new(first: PureLeader, every: Duration) -> Deaths {
        Deaths {
            first: Some(first),
            every,
            next: Instant::now() + every,
            waits_since: None,
        }
    }

    /// Ends the leader if its time has come, and an heir is ready. Returns how.
    pub(crate) fn step(
        &mut self,
        node: &HostNode,
        places: &mut [Option<RunningProcess>],
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
            let mut living = places.iter_mut().flatten();
            let Some(occupant) = living.find(|occupant| occupant.vmid == leader) else {
                return Ok(None);
            };
            if fastrand::u32(..LEAVES) == 0 {
                occupant.stop()?;
                LeaderEnd::Left
            } else {
                occupant.kill()?;
                LeaderEnd::Killed
            }
        };
        self.waits_since = None;
        self.next += self.every;
        Ok(Some(end))
    }
}

/// Asks the leader all the time, and records how long there was no answer when the leader changed.
pub(crate) fn ask(node: &HostNode, stop: &AtomicBool, wait: Wait<'_>) -> Result<Latency> {
    let mut outages = Latency::default();
    let mut leader = node.leader();
    let mut last = Instant::now();
    let mut change: Option<Duration> = None;
    let pid = node.pid().context("it has joined")?.get();
    while !stop.load(Ordering::Relaxed) {
        node.owner_of(pid, wait).context("asking all the time")?;
        let gap = last.elapsed();
        last += gap;
        // The change may be seen one answer too early.
        if let Some(before) = change.take() {
            outages.add(gap.max(before).as_nanos());
        }
        if node.leader() != leader {
            leader = node.leader();
            change = Some(gap);
        }
        sleep(Duration::from_micros(100));
    }
    Ok(outages)
}

/// Starts the first leader, which prepares the first process of this program.
pub(crate) fn start_first(base: &Path, members: u32) -> Result<(PureLeader, Identity)> {
    let first = PureLeader::start(base, &Identity::LEADER, members)?;
    match first.line()? {
        Line::Child(identity) => Ok((first, identity)),
        _ => bail!("the first leader has prepared no child"),
    }
}
