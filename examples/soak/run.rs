//! The first process: it keeps the slots filled, signals the processes, and checks how each ends.

use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use libos_ipc::host::{Host, HostNode, raise_descriptor_limit};
use libos_ipc::{
    ChildExit, ChildSelector, Config, Embedder, Errno, Error, Exit, Identity, MetaCode,
    MetadataReply, Node, Pid, ProcessState, Refusal, Shared, Signal, SignalReply, Target, Wait,
};

use crate::Options;
use crate::common::{Latency, exit_family, leader_faults, pid_of};
use crate::figures::{Kind, Report};
use crate::leaders::{self, CANDIDATES, DedicatedLeader, LeaderEnd, LeaderEnds};
use crate::member::{self, Succession, reply_metadata};
use crate::resources::Resources;
use crate::shared::{LockedFile, SHARERS, Value, flocked_path, value_id};
use crate::signals::signal;
use crate::slots::{Event, Plan, ProcessFacts, ProcessRegister, RunningProcess, Start};
use crate::view::View;

/// The time after its death at which a killed process counts as one that never joined.
const ABANDON_AFTER: Duration = Duration::from_secs(1);

/// The library OS of the first process.
struct Os {
    register: Arc<ProcessRegister>,
    events: Sender<Event>,
}

impl Embedder<Host> for Os {
    fn signal(&self, node: &Node<'_, Host>, signal: &Signal, reply: SignalReply) {
        // A signal for a child that is just ending is not for this process.
        let is_here = matches!(signal.target, Target::Process(pid) if node.pid() == Some(pid));
        if is_here {
            let count = |facts: &mut ProcessFacts| facts.to_first += 1;
            if let Some(sender) = signal.sender {
                self.register.change(sender, count);
            }
        }
        let outcome = if is_here { Ok(()) } else { Err(Errno::ESRCH) };
        let _ = reply.send(node, outcome);
    }

    fn metadata(&self, node: &Node<'_, Host>, pid: Pid, what: MetaCode, reply: MetadataReply) {
        reply_metadata(node, pid, what, reply);
    }

    fn child_ended(&self, _: &Node<'_, Host>, exit: &ChildExit) {
        let _ = self.events.send(Event::ExitReport(*exit));
    }
}

/// The sums over all processes.
#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) started: u64,
    pub(crate) ended: u64,
    pub(crate) killed: u64,
    /// Processes that were killed before they had joined.
    pub(crate) abandoned: u64,
    pub(crate) report: Report,
    pub(crate) killed_leaders: u64,
    pub(crate) left_leaders: u64,
    /// The times without an answer when the leader changed.
    pub(crate) outages: Latency,
}

pub(crate) fn run(options: &Options, faults: &mut Vec<String>) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (base, file) = (directory.path().join("f"), directory.path().join("file"));
    LockedFile::create(&file)?;
    LockedFile::create(&flocked_path(&file))?;
    raise_descriptor_limit().context("raising the limit of descriptors")?;
    let (event_sender, events) = channel();
    let register = Arc::new(ProcessRegister::default());
    let os = Os {
        register: Arc::clone(&register),
        events: event_sender.clone(),
    };
    let (node, leader_ends) = start(options, &base, os)?;
    let wait = Wait::at_most(options.limit());
    node.join(wait)?;
    let values = open_values(&node, options.members(), wait)?;
    let view = View::new(options);
    let resources = Resources::new(options.seconds())?;
    let broadcasts = AtomicU64::new(0);
    let mut run = Run {
        options,
        base: &base,
        file: &file,
        node: &node,
        register: &register,
        wait,
        slots: (0..options.members()).map(|_| None).collect(),
        unreaped: Vec::new(),
        event_sender,
        events,
        totals: Totals::default(),
        resources,
        view,
        begin: Instant::now(),
        broadcasts: &broadcasts,
        leader_ends,
        last_leader: None,
        faults: Vec::new(),
    };
    let outcome = run.work_with_threads();
    run.slots.clear();
    run.view.finish(&run.totals, &node.statistics());
    faults.append(&mut run.faults);
    outcome?;
    for value in &values {
        if !value.read(wait)?.check_invariants() {
            faults.push("a shared value is torn".to_owned());
        }
    }
    drop(values);
    faults.extend(run.final_faults());
    if let Some(last_leader) = run.last_leader.take() {
        exit_family(&node, Exit::default(), wait)?;
        faults.extend(last_leader.end()?);
        return Ok(());
    }
    node.leave(wait)?;
    node.release_idle_ranges(wait)?;
    // A process may be killed before it is identified, or can be answered.
    let killed = run.totals.killed;
    faults.extend(leader_faults(&node, |reason, count| {
        matches!(reason, Refusal::NoVmid | Refusal::Unreachable) && count <= killed
    }));
    Ok(())
}

/// Opens the values that the processes share. They live as long as a process that has used them.
fn open_values<'n>(
    node: &'n HostNode,
    members: u32,
    wait: Wait<'_>,
) -> Result<Vec<Shared<'n, 'static, Host, Value>>> {
    let mut values = Vec::new();
    for number in 0..members.div_ceil(SHARERS) {
        let value = node.share::<Value>(Some(value_id(number * SHARERS)))?;
        drop(value.read(wait)?);
        values.push(value);
    }
    Ok(values)
}

/// Starts the first process: as the leader, or as a member of a leader that is killed.
fn start(options: &Options, base: &Path, os: Os) -> Result<(HostNode, Option<LeaderEnds>)> {
    let members = options.members();
    let Some(interval) = options.leader_life() else {
        let config = Config {
            capacities: leaders::capacities(members),
            ..Config::DEFAULT
        };
        let node = HostNode::start_with(base, Identity::LEADER, config, Box::new(os))?;
        return Ok((node, None));
    };
    let (first, identity) = leaders::start_first(base, members)?;
    let config = member::config(members, Succession::Follows);
    let node = HostNode::start_with(base, identity, config, Box::new(os))?;
    Ok((node, Some(LeaderEnds::new(first, interval))))
}

/// A process that has ended and was not reaped.
struct Unreaped {
    process: RunningProcess,
    /// Its exit status on the host.
    status: ExitStatus,
    /// The time of its end.
    since: Instant,
}

/// The state of a run.
struct Run<'a> {
    options: &'a Options,
    /// Where the family listens.
    base: &'a Path,
    /// The file with record locks.
    file: &'a Path,
    /// The node of this process: the leader, unless leaders are killed.
    node: &'a HostNode,
    register: &'a ProcessRegister,
    wait: Wait<'static>,
    /// The processes that live.
    slots: Vec<Option<RunningProcess>>,
    unreaped: Vec<Unreaped>,
    event_sender: Sender<Event>,
    events: Receiver<Event>,
    totals: Totals,
    resources: Resources,
    view: View,
    begin: Instant,
    /// The number of signals for all that were sent.
    broadcasts: &'a AtomicU64,
    /// Ends the leaders, if leaders are killed.
    leader_ends: Option<LeaderEnds>,
    /// The process that leads at the end, if this one does not.
    last_leader: Option<DedicatedLeader>,
    faults: Vec<String>,
}

impl Run<'_> {
    /// Works while one thread signals the processes and, if leaders are killed, another one measures the outages.
    fn work_with_threads(&mut self) -> Result<()> {
        let (node, register, wait) = (self.node, self.register, self.wait);
        let (broadcasts, kill_leader) = (self.broadcasts, self.options.kill_leader);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let signaller = scope.spawn(|| signal(node, register, wait, &stop, broadcasts));
            let observer =
                kill_leader.then(|| scope.spawn(|| leaders::measure_outages(node, &stop, wait)));
            let outcome = self.work();
            stop.store(true, Ordering::Relaxed);
            let signals_outcome = join(signaller)?;
            if let Some(observer) = observer {
                self.totals.outages = join(observer)??;
            }
            outcome.and(signals_outcome)
        })
    }

    /// Works until the time is over and all processes have ended.
    fn work(&mut self) -> Result<()> {
        while self.begin.elapsed() < self.options.seconds() {
            self.fill_slots()?;
            self.step()?;
            self.end_leader()?;
        }
        if self.leader_ends.is_some() {
            let child = self.node.start_child(self.wait)?;
            let last_leader = DedicatedLeader::start(self.base, &child, self.options.members())?;
            last_leader
                .next_line()
                .context("the last leader has not joined")?;
            self.last_leader = Some(last_leader);
        }
        for process in self.slots.iter_mut().flatten() {
            process.stop()?;
        }
        let limit = 5 * self.options.limit();
        let until = Instant::now() + limit;
        let unfinished = |run: &Self| {
            let living = run.slots.iter().flatten().count();
            living.max(run.register.unfinished().len())
        };
        while unfinished(self) > 0 {
            ensure!(
                Instant::now() < until,
                "{} did not come to their end in {limit:?}",
                unfinished(self)
            );
            self.step()?;
        }
        Ok(())
    }

    /// Ends the leader if it is due.
    fn end_leader(&mut self) -> Result<()> {
        if let Some(leader_ends) = &mut self.leader_ends {
            match leader_ends.step(self.node, &mut self.slots)? {
                Some(LeaderEnd::Killed) => self.totals.killed_leaders += 1,
                Some(LeaderEnd::Left) => self.totals.left_leaders += 1,
                None => {}
            }
        }
        Ok(())
    }

    /// Starts a process in each empty slot.
    fn fill_slots(&mut self) -> Result<()> {
        for slot in 0..self.slots.len() {
            if self.slots[slot].is_none() {
                self.slots[slot] = Some(self.start_process(slot)?);
            }
        }
        Ok(())
    }

    fn start_process(&mut self, slot: usize) -> Result<RunningProcess> {
        let child = self
            .node
            .start_child(self.wait)
            .context("preparing a process")?;
        // The child is added before it runs and can be reported.
        self.register.add(pid_of(&child)?);
        let start = Start {
            child,
            slot,
            base: self.base,
            file: self.file,
            succession: match &self.leader_ends {
                None => Succession::None,
                Some(_) if slot < CANDIDATES => Succession::Leads,
                Some(_) => Succession::Follows,
            },
        };
        let process = RunningProcess::start(&start, self.options, &self.event_sender);
        let process = process.inspect_err(|_| {
            let _ = self.node.abandon_child(child.vmid);
        })?;
        self.totals.started += 1;
        Ok(process)
    }

    /// Kills the processes whose time has come, handles the events of 20 ms, and reaps the processes that have ended.
    fn step(&mut self) -> Result<()> {
        let now = Instant::now();
        for process in self.slots.iter_mut().flatten() {
            process.kill_if_due(now)?;
        }
        let until = now + Duration::from_millis(20);
        while let Ok(event) = self
            .events
            .recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            self.on_event(event)?;
        }
        for unreaped in std::mem::take(&mut self.unreaped) {
            if !self.reap(&unreaped)? {
                self.unreaped.push(unreaped);
            }
        }
        self.resources.sample(self.begin.elapsed())?;
        let living = self.slots.iter().flatten().count();
        self.view
            .show(self.begin.elapsed(), living, &self.totals, &self.resources);
        Ok(())
    }

    fn on_event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Report(slot, report) => {
                let report = (*report)?;
                if let Some(process) = &mut self.slots[slot] {
                    process.counts += report.counts;
                }
                self.totals.report.add(&report);
            }
            Event::OutputEnd(slot) => {
                let mut process = self.slots[slot].take().context("the slot is empty")?;
                let status = process.status()?;
                self.unreaped.push(Unreaped {
                    process,
                    status,
                    since: Instant::now(),
                });
            }
            Event::ExitReport(exit) => {
                let reports = self.register.change(exit.pid, |facts| {
                    facts.exit_reports += 1;
                    facts.exit_reports
                });
                if reports != Some(1) {
                    self.faults.push(format!(
                        "an end was reported twice, or is of no process: {exit:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Reaps a process whose output has ended, and checks its counts. Returns false if it is too
    /// early for that.
    fn reap(&mut self, unreaped: &Unreaped) -> Result<bool> {
        let Unreaped {
            process,
            status,
            since,
        } = unreaped;
        let pid = process.pid;
        let now = Wait::at_most(Duration::ZERO);
        match self.node.wait_child(ChildSelector::Pid(pid), now) {
            Ok(exit) => {
                let latency = self.totals.report.latencies.of_mut(Kind::Wait);
                latency.add(since.elapsed().as_nanos());
                self.faults.extend(process.fault(*status, &exit));
            }
            Err(Error::TimedOut) if since.elapsed() < ABANDON_AFTER => return Ok(false),
            // The process was never in the table: only its parent knows that it is dead.
            Err(Error::TimedOut) if self.is_starting(pid) && status.code().is_none() => {
                self.node.abandon_child(process.vmid)?;
                self.register.change(pid, |facts| facts.exit_reports += 1);
                self.totals.abandoned += 1;
            }
            Err(Error::TimedOut) if since.elapsed() < self.options.limit() => return Ok(false),
            Err(error) => {
                let in_table = self.node.process(Some(pid), self.wait);
                let what = format!(
                    "waiting for {pid}, which ended with {status} and is {in_table:?} to the leader"
                );
                return Err(error).context(what);
            }
        }
        self.totals.ended += 1;
        self.totals.killed += u64::from(status.code().is_none());
        let facts = self.register.change(pid, |facts| {
            facts.reaped = true;
            facts.output_ended = true;
            *facts
        });
        let facts = facts.with_context(|| format!("{pid} was reported twice"))?;
        self.check_counts(process, &facts);
        Ok(true)
    }

    /// Checks the counts of a process that was reaped.
    fn check_counts(&mut self, process: &RunningProcess, facts: &ProcessFacts) {
        let (pid, counts) = (process.pid, process.counts);
        // A process that was killed has not sent its last report.
        if counts.is_last == 0 {
            if process.plan == Plan::End {
                self.faults
                    .push(format!("{pid} ended without its last report"));
            }
            return;
        }
        let broadcasts = self.broadcasts.load(Ordering::Relaxed);
        for (what, is_right) in [
            ("IDs", counts.taken == counts.released),
            ("signals to the first", counts.to_first == facts.to_first),
            (
                "signals to it",
                facts.single_signals.allows(counts.from_first),
            ),
            (
                "signals to its group",
                facts.group_signals.allows(counts.by_group),
            ),
            ("signals to all", counts.to_all <= broadcasts + 1),
        ] {
            if !is_right {
                self.faults.push(format!(
                    "{pid}: {what} don't balance: {counts:?}, {facts:?}"
                ));
            }
        }
    }

    /// Returns true if a process has not joined yet.
    fn is_starting(&self, pid: Pid) -> bool {
        let process = self.node.process(Some(pid), self.wait);
        process.is_ok_and(|process| process.state == ProcessState::Starting)
    }

    /// Returns the faults of the whole run, when all processes have ended.
    fn final_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let unfinished = self.register.unfinished();
        if !unfinished.is_empty() {
            faults.push(format!(
                "the ends of these processes were not reported to their parent: {unfinished:?}"
            ));
        }
        let now = Wait::at_most(Duration::ZERO);
        match self.node.wait_child(ChildSelector::Any, now) {
            Err(Error::NoChild) if self.last_leader.is_none() => {}
            Err(Error::TimedOut) if self.last_leader.is_some() => {}
            other => faults.push(format!("there is another child: {other:?}")),
        }
        let waiters = self.node.statistics().pools.waiters;
        // The event of each call that waited is kept for later calls. The last leader takes streams and pipes.
        let more_descriptors = waiters.peak + if self.last_leader.is_some() { 8 } else { 0 };
        faults.extend(self.resources.final_faults(more_descriptors));
        let limit = self.options.limit();
        for (kind, name) in Kind::ALL {
            let latency = self.totals.report.latencies.of(kind);
            let slowest = latency.slowest();
            if slowest > limit {
                faults.push(format!("{name}: {slowest:.1?} is more than {limit:.1?}"));
            }
            if latency.requests() == 0 {
                faults.push(format!("{name}: no process ever did that"));
            }
        }
        if self.totals.started != self.totals.ended {
            let Totals { started, ended, .. } = self.totals;
            faults.push(format!("{started} were started, and {ended} have ended"));
        }
        faults
    }
}

/// Returns the result of a thread.
fn join<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread has panicked"))
}
