//! The leader's side: keeps the slots filled, signals the processes, and checks how each ends.

use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libos_ipc::host::{Host, HostNode, raise_descriptor_limit};
use libos_ipc::{
    ChildExit, ChildSelector, Config, Embedder, Errno, Error, Exit, Identity, MetaCode,
    MetadataReply, Node, Pid, ProcessState, Refusal, Signal, SignalReply, Target, Wait,
};

use crate::Options;
use crate::common::{Latency, exit_family, leader_faults, pid_of};
use crate::figures::{Kind, Report};
use crate::leaders::{self, CANDIDATES, Deaths, LeaderEnd, PureLeader};
use crate::member::{self, Succession, answer};
use crate::resources::Resources;
use crate::shared::{Guarded, SHARERS, Value, flocked_file, value_of};
use crate::signals::signal;
use crate::slots::{Event, Known, Plan, Register, RunningProcess, Start};
use crate::view::View;

/// The time after its death at which a killed process counts as one that never joined.
const ABANDON_AFTER: Duration = Duration::from_secs(1);

/// The library OS of the first process.
struct Os {
    register: Arc<Register>,
    events: Sender<Event>,
}

impl Embedder<Host> for Os {
    fn signal(&self, node: &Node<'_, Host>, signal: &Signal, reply: SignalReply) {
        // A signal for a child that is just ending is not for this process.
        let is_here = matches!(signal.target, Target::Process(pid) if node.pid() == Some(pid));
        if is_here {
            let count = |known: &mut Known| known.to_first += 1;
            if let Some(sender) = signal.sender {
                self.register.change(sender, count);
            }
        }
        let outcome = if is_here { Ok(()) } else { Err(Errno::ESRCH) };
        let _ = reply.send(node, outcome);
    }

    fn metadata(&self, node: &Node<'_, Host>, pid: Pid, what: MetaCode, reply: MetadataReply) {
        answer(node, pid, what, reply);
    }

    fn child_ended(&self, _: &Node<'_, Host>, exit: &ChildExit) {
        let _ = self.events.send(Event::Reported(*exit));
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
    Guarded::create(&file)?;
    Guarded::create(&flocked_file(&file))?;
    raise_descriptor_limit().context("raising the limit of descriptors")?;
    let members = options.members();
    let (events, happened) = channel();
    let register = Arc::new(Register::default());
    let os = Os {
        register: Arc::clone(&register),
        events: events.clone(),
    };
    let (leader, deaths) = start(options, &base, os)?;
    let wait = Wait::at_most(options.limit());
    leader.join(wait)?;
    // The values live as long as a process that has used them.
    let mut values = Vec::new();
    for number in 0..members.div_ceil(SHARERS) {
        let value = leader.share::<Value>(Some(value_of(number * SHARERS)))?;
        drop(value.read(wait)?);
        values.push(value);
    }
    let view = View::new(options);
    let resources = Resources::new(options.seconds())?;
    let stop = AtomicBool::new(false);
    let alls = AtomicU64::new(0);
    let mut run = Run {
        options,
        paths: (&base, &file),
        leader: &leader,
        register: &register,
        wait,
        places: (0..members).map(|_| None).collect(),
        ending: Vec::new(),
        events,
        happened,
        totals: Totals::default(),
        resources,
        view,
        begin: Instant::now(),
        alls: &alls,
        deaths,
        last: None,
        faults: Vec::new(),
    };
    let outcome = thread::scope(|scope| {
        let signals = scope.spawn(|| signal(&leader, &register, wait, &stop, &alls));
        let asks = options
            .kill_leader
            .then(|| scope.spawn(|| leaders::ask(&leader, &stop, wait)));
        let outcome = run.work();
        stop.store(true, Ordering::Relaxed);
        let signals = signals.join().map_err(|_| anyhow::anyhow!("a panic"))?;
        if let Some(asks) = asks {
            let outages = asks.join().map_err(|_| anyhow::anyhow!("a panic"))?;
            run.totals.outages = outages?;
        }
        outcome.and(signals)
    });
    run.places.clear();
    run.view.finish(&run.totals, &leader.statistics());
    faults.append(&mut run.faults);
    outcome?;
    for value in &values {
        if !value.read(wait)?.check_invariants() {
            faults.push("a shared value is torn".to_owned());
        }
    }
    drop(values);
    let open = register.open();
    if !open.is_empty() {
        faults.push(format!(
            "the ends of these processes were not reported to their parent: {open:?}"
        ));
    }
    match leader.wait_child(ChildSelector::Any, Wait::at_most(Duration::ZERO)) {
        Err(Error::NoChild) if run.last.is_none() => {}
        Err(Error::TimedOut) if run.last.is_some() => {}
        other => faults.push(format!("there is another child: {other:?}")),
    }
    faults.extend(run.final_faults());
    if let Some(last) = run.last.take() {
        exit_family(&leader, Exit::default(), wait)?;
        faults.extend(last.end()?);
        return Ok(());
    }
    leader.leave(wait)?;
    leader.release_idle_ranges(wait)?;
    // A process may be killed before it is identified, or can be answered.
    let killed = run.totals.killed;
    faults.extend(leader_faults(&leader, |reason, count| {
        matches!(reason, Refusal::NoVmid | Refusal::Unreachable) && count <= killed
    }));
    Ok(())
}

/// Starts the first process: as the leader, or as a member of a leader that is killed.
fn start(options: &Options, base: &Path, os: Os) -> Result<(HostNode, Option<Deaths>)> {
    let members = options.members();
    let Some(every) = options.leader_life() else {
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
    Ok((node, Some(Deaths::new(first, every))))
}

/// A process that has ended and was not reaped.
struct Ending {
    gone: RunningProcess,
    status: ExitStatus,
    since: Instant,
}

struct Run<'a> {
    options: &'a Options,
    paths: (&'a Path, &'a Path),
    leader: &'a HostNode,
    register: &'a Register,
    wait: Wait<'static>,
    places: Vec<Option<RunningProcess>>,
    ending: Vec<Ending>,
    events: Sender<Event>,
    happened: Receiver<Event>,
    totals: Totals,
    resources: Resources,
    view: View,
    begin: Instant,
    alls: &'a AtomicU64,
    deaths: Option<Deaths>,
    /// The process that leads at the end, if this one does not.
    last: Option<PureLeader>,
    faults: Vec<String>,
}

impl Run<'_> {
    /// Works until the time is over and all processes have ended.
    fn work(&mut self) -> Result<()> {
        while self.begin.elapsed() < self.options.seconds() {
            self.fill()?;
            self.step()?;
            self.end_leader()?;
        }
        if self.deaths.is_some() {
            let child = self.leader.start_child(self.wait)?;
            let last = PureLeader::start(self.paths.0, &child, self.options.members())?;
            last.line().context("the last leader has not joined")?;
            self.last = Some(last);
        }
        for occupant in self.places.iter_mut().flatten() {
            occupant.stop()?;
        }
        let until = Instant::now() + 5 * self.options.limit();
        let ends_open = |run: &Self| {
            let living = run.places.iter().flatten().count();
            living.max(run.register.open().len())
        };
        while ends_open(self) > 0 {
            ensure!(
                Instant::now() < until,
                "{} did not come to their end in {:?}",
                ends_open(self),
                5 * self.options.limit()
            );
            self.step()?;
        }
        Ok(())
    }

    /// Ends the leader if its time has come.
    fn end_leader(&mut self) -> Result<()> {
        if let Some(deaths) = &mut self.deaths {
            match deaths.step(self.leader, &mut self.places)? {
                Some(LeaderEnd::Killed) => self.totals.killed_leaders += 1,
                Some(LeaderEnd::Left) => self.totals.left_leaders += 1,
                None => {}
            }
        }
        Ok(())
    }

    /// Returns the role that a process in that place has when the leader ends.
    fn succession(&self, place: usize) -> Succession {
        match &self.deaths {
            None => Succession::None,
            Some(_) if place < CANDIDATES => Succession::Leads,
            Some(_) => Succession::Follows,
        }
    }

    fn fill(&mut self) -> Result<()> {
        let (base, file) = self.paths;
        let successions: Vec<_> = (0..self.places.len())
            .map(|place| self.succession(place))
            .collect();
        for (number, place) in self.places.iter_mut().enumerate() {
            if place.is_none() {
                let limit = Wait::at_most(self.options.limit());
                let child = self.leader.start_child(limit);
                let child = child.context("preparing a process")?;
                // The child is added before it runs and can be reported.
                self.register.add(pid_of(&child)?);
                let start = Start {
                    child,
                    place: number,
                    base,
                    file,
                    succession: successions[number],
                };
                let new = RunningProcess::start(&start, self.options, &self.events);
                let new = new.inspect_err(|_| {
                    let _ = self.leader.abandon_child(child.vmid);
                })?;
                self.totals.started += 1;
                *place = Some(new);
            }
        }
        Ok(())
    }

    /// Kills the processes whose time has come, and handles events, for a moment.
    fn step(&mut self) -> Result<()> {
        let now = Instant::now();
        for occupant in self.places.iter_mut().flatten() {
            occupant.kill_in_time(now)?;
        }
        let until = now + Duration::from_millis(20);
        while let Ok(event) = self
            .happened
            .recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            match event {
                Event::Said(place, report) => self.read_lines(place, &(*report)?),
                Event::Silent(place) => {
                    let mut gone = self.places[place].take().context("nobody was there")?;
                    let status = gone.status()?;
                    self.ending.push(Ending {
                        gone,
                        status,
                        since: Instant::now(),
                    });
                }
                Event::Reported(exit) => {
                    let reports = self.register.change(exit.pid, |known| {
                        known.reports += 1;
                        known.reports
                    });
                    if reports != Some(1) {
                        self.faults.push(format!(
                            "an end was reported twice, or is of no process: {exit:?}"
                        ));
                    }
                }
            }
        }
        for ending in std::mem::take(&mut self.ending) {
            if !self.reap(&ending)? {
                self.ending.push(ending);
            }
        }
        self.resources.sample(self.begin.elapsed())?;
        let living = self.places.iter().flatten().count();
        self.view
            .show(self.begin.elapsed(), living, &self.totals, &self.resources);
        Ok(())
    }

    fn read_lines(&mut self, place: usize, report: &Report) {
        if let Some(occupant) = &mut self.places[place] {
            occupant.counts += report.counts;
        }
        self.totals.report.add(report);
    }

    /// Reaps a process whose output has ended, and checks its counts. Returns false if it is too
    /// early for that.
    fn reap(&mut self, ending: &Ending) -> Result<bool> {
        let Ending {
            gone,
            status,
            since,
        } = ending;
        let pid = gone.pid;
        let now = Wait::at_most(Duration::ZERO);
        match self.leader.wait_child(ChildSelector::Pid(pid), now) {
            Ok(exit) => {
                let latency = self.totals.report.latencies.of_mut(Kind::Wait);
                latency.add(since.elapsed().as_nanos());
                self.faults.extend(gone.fault(*status, &exit));
            }
            Err(Error::TimedOut) if since.elapsed() < ABANDON_AFTER => return Ok(false),
            // The process was never in the table: only its parent knows that it is dead.
            Err(Error::TimedOut) if self.is_abandoned(pid) && status.code().is_none() => {
                self.leader.abandon_child(gone.vmid)?;
                self.register.change(pid, |known| known.reports += 1);
                self.totals.abandoned += 1;
            }
            Err(Error::TimedOut) if since.elapsed() < self.options.limit() => return Ok(false),
            Err(error) => {
                let process = self.leader.process(Some(pid), self.wait);
                let what = format!(
                    "waiting for {pid}, which ended with {status} and is {process:?} to the leader"
                );
                return Err(error).context(what);
            }
        }
        self.totals.ended += 1;
        self.totals.killed += u64::from(status.code().is_none());
        let known = self.register.change(pid, |known| {
            known.reaped = true;
            known.output_ended = true;
            *known
        });
        let known = known.with_context(|| format!("{pid} was reported twice"))?;
        let counts = gone.counts;
        // A process that was killed has not sent its last counts.
        let is_whole = counts.last == 1;
        if gone.plan == Plan::End && !is_whole {
            self.faults.push(format!("{pid} ended without its account"));
        }
        if is_whole {
            let alls = self.alls.load(Ordering::Relaxed);
            for (what, is_right) in [
                ("IDs", counts.taken == counts.released),
                ("signals to the first", counts.to_first == known.to_first),
                ("signals to it", known.ones.allows(counts.from_first)),
                ("signals to its group", known.groups.allows(counts.by_group)),
                ("signals to all", counts.to_all <= alls + 1),
            ] {
                if !is_right {
                    self.faults.push(format!(
                        "{pid}: {what} don't balance: {counts:?}, {known:?}"
                    ));
                }
            }
        }
        Ok(true)
    }

    /// Returns true if a process has not joined yet.
    fn is_abandoned(&self, pid: Pid) -> bool {
        let process = self.leader.process(Some(pid), self.wait);
        process.is_ok_and(|process| process.state == ProcessState::Starting)
    }

    /// Returns the faults of the whole run.
    fn final_faults(&self) -> Vec<String> {
        let waiters = self.leader.statistics().pools.waiters;
        // Streams from and to the last leader, and its pipes.
        let more = if self.last.is_some() { 8 } else { 0 };
        let mut faults = self.resources.final_faults(waiters.peak + more);
        let limit = self.options.limit();
        for (kind, name) in Kind::ALL {
            let latency = self.totals.report.latencies.of(kind);
            let slowest = latency.slowest();
            if slowest > limit {
                faults.push(format!("{name}: {slowest:.1?} is more than {limit:.1?}"));
            }
            if latency.requests() == 0 {
                faults.push(format!("{name}: nobody ever did that"));
            }
        }
        if self.totals.started != self.totals.ended {
            let Totals { started, ended, .. } = self.totals;
            faults.push(format!("{started} were started, and {ended} have ended"));
        }
        faults
    }
}
