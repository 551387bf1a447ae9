//! A small process tree: children and grandchildren that signal each other, end and are reaped, and
//! one that is killed. The run checks that every signal, exit and death was reported as it happened.

use std::io::{BufRead, BufReader, PipeReader, pipe};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libos_ipc::{ChildExit, ChildSelector, Error, Id, MetaCode, PATH_MAX, Pid, Target, Vmid, Wait};
use rustix::process::{Pid as HostPid, Signal as HostSignal, kill_process};

use crate::WAIT;
use crate::common::{SIGPWR, fit, table};
use crate::key::Key;
use crate::ledger::{ExitStatus, Ledger, SignalRoute};
use crate::os::Event;
use crate::platform::FamilyNode;
use crate::process::{GO, HELLO, TERM, start};
use crate::summary::Summary;

/// The greatest number of children of the first process.
const MAX_CHILDREN: u32 = 8;

/// The time limit of a step that all processes do at once.
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// Runs the process tree, whose first process is this one, and returns the faults.
pub(crate) fn run(
    first: &FamilyNode,
    events: &Receiver<Event>,
    base: &Path,
    traces: Option<&Path>,
    key: &Key,
    members: u32,
    summary: &Summary,
) -> Result<Vec<String>> {
    let pid = first.join(WAIT)?.get();
    let (reader, writer) = pipe()?;
    let mut tree = ProcessTree {
        first,
        events,
        pid,
        ledger: Ledger::default(),
        lines: read_reports(reader),
    };
    let children = members.min(MAX_CHILDREN);
    let mut processes = Vec::new();
    for _ in 0..children {
        processes.push(start(first, base, traces, key, 1, writer.try_clone()?)?.1);
    }
    drop(writer);
    let victim = tree.await_start(children)?;
    let count = tree.ledger.started.len();
    summary.print_line(&format!(
        "{count} processes, children and grandchildren of the first; {victim} is going to be killed"
    ));
    first.kill(Target::All, GO, WAIT)?;
    tree.listen_until("signalling", |ledger| ledger.have_signalled.len() == count)?;
    tree.signal_group(victim)?;
    print_processes(first)?;
    let (after, exit) = tree.kill_by_host(victim)?;
    summary.print_line(&format!(
        "{victim} was killed by the host; its parent knew after {after:.1?}: signal {}",
        exit.signal
    ));
    first.kill(Target::All, TERM, WAIT)?;
    tree.reap_all()?;
    for mut process in processes {
        process.wait()?;
    }
    tree.listen_until("ending", |ledger| ledger.exits.len() == count)?;
    // All output is read when all writers have ended.
    while let Ok(line) = tree.lines.recv() {
        tree.ledger.record(&line)?;
    }
    first.leave(Wait::at_most(STEP_LIMIT))?;
    tree.take_events();
    Ok(tree.final_faults(victim))
}

/// The process tree, as its first process sees it.
struct ProcessTree<'a> {
    /// The node of this process.
    first: &'a FamilyNode,
    events: &'a Receiver<Event>,
    pid: Id,
    ledger: Ledger,
    /// The reports of the other processes.
    lines: Receiver<String>,
}

/// Reads the reports of the other processes in a thread.
fn read_reports(reader: PipeReader) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(reader).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

impl ProcessTree<'_> {
    /// Records the reports of the processes until `is_done` returns true. `what` names this step in the error if
    /// that takes too long.
    fn listen_until(&mut self, what: &str, is_done: impl Fn(&Ledger) -> bool) -> Result<()> {
        let until = Instant::now() + STEP_LIMIT;
        while !is_done(&self.ledger) {
            if Instant::now() >= until {
                bail!("{what} took more than {STEP_LIMIT:?}");
            }
            if let Ok(line) = self.lines.recv_timeout(Duration::from_millis(10)) {
                self.ledger.record(&line)?;
            }
        }
        Ok(())
    }

    /// Waits until the children of this process have started theirs. Returns one of them.
    fn await_start(&mut self, children: u32) -> Result<Pid> {
        self.listen_until("starting", |ledger| {
            let processes = children + ledger.children.values().sum::<u32>();
            ledger.children.len() == processes as usize
                && ledger.started.len() == ledger.children.len()
        })?;
        let mut own_children = self
            .ledger
            .started
            .iter()
            .filter(|(_, process)| process.parent == self.pid);
        let (child, _) = own_children.next().context("no children")?;
        Pid::new(*child).context("process 0")
    }

    /// Sends a signal to the group that the child leads: the child and its own children.
    fn signal_group(&mut self, leader: Pid) -> Result<()> {
        self.first.kill(Target::Group(Some(leader)), HELLO, WAIT)?;
        let (sender, leader) = (self.pid, leader.get());
        let started = self.ledger.started.iter();
        let routes: Vec<SignalRoute> = started
            .filter(|(member, process)| **member == leader || process.parent == leader)
            .map(|(member, _)| SignalRoute {
                sender,
                receiver: *member,
                signal: HELLO,
            })
            .collect();
        for route in &routes {
            *self.ledger.sent.entry(*route).or_default() += 1;
        }
        self.listen_until("signalling a group", |ledger| {
            routes
                .iter()
                .all(|route| ledger.delivered.contains_key(route))
        })
    }

    /// Has the host kill the child, and reaps it. Returns the time after which this process was notified. The
    /// children of the child have a new parent then: this process.
    fn kill_by_host(&mut self, child: Pid) -> Result<(Duration, ChildExit)> {
        let host_pid = self.ledger.started[&child.get()].host_pid;
        let host_pid = HostPid::from_raw(host_pid).context("a host process")?;
        kill_process(host_pid, HostSignal::KILL)?;
        let status = ExitStatus {
            code: 0,
            signal: SIGPWR,
        };
        self.ledger.exits.insert(child.get(), status);
        let killed_at = Instant::now();
        let selector = ChildSelector::Pid(child);
        let exit = self.first.wait_child(selector, Wait::at_most(STEP_LIMIT))?;
        let after = killed_at.elapsed();
        self.ledger.reap(child.get(), self.pid);
        Ok((after, exit))
    }

    /// Reaps all children of this process.
    fn reap_all(&mut self) -> Result<()> {
        let wait = Wait::at_most(STEP_LIMIT);
        loop {
            match self.first.wait_child(ChildSelector::Any, wait) {
                Ok(exit) => self.ledger.reap(exit.pid.get(), self.pid),
                Err(Error::NoChild) => return Ok(()),
                Err(error) => return Err(error).context("waiting for children"),
            }
        }
    }

    /// Records the events of this process: it is notified of each child's end, although it may have
    /// reaped the child before.
    fn take_events(&mut self) {
        let until = Instant::now() + STEP_LIMIT;
        loop {
            let is_reported = |(process, reapers): (&Id, &Vec<Id>)| {
                !reapers.contains(&self.pid) || self.ledger.exit_reports.contains_key(process)
            };
            let time = if self.ledger.reapers.iter().all(is_reported) {
                Duration::ZERO
            } else {
                until.saturating_duration_since(Instant::now())
            };
            match self.events.recv_timeout(time) {
                Ok(Event::Signal(signal)) => {
                    let route = SignalRoute {
                        sender: signal.sender.map_or(0, Pid::get),
                        receiver: self.pid,
                        signal: signal.signal,
                    };
                    *self.ledger.delivered.entry(route).or_default() += 1;
                }
                Ok(Event::Ended(exit)) => {
                    let status = ExitStatus {
                        code: exit.code,
                        signal: exit.signal,
                    };
                    self.ledger.report_exit(exit.pid.get(), self.pid, status);
                }
                Ok(Event::LeaderLeft) => {}
                Err(_) => return,
            }
        }
    }

    /// Returns the faults of the whole run, in which the host killed `victim`.
    fn final_faults(&self, victim: Pid) -> Vec<String> {
        let mut faults = self.signal_faults(victim.get());
        faults.extend(self.exit_faults(victim.get()));
        let remaining = self.first.statistics().pools.processes.now;
        if remaining > 0 {
            faults.push(format!(
                "{remaining} processes are left in the leader's table"
            ));
        }
        faults
    }

    /// Checks that every signal was delivered as often as it was sent.
    fn signal_faults(&self, victim: Id) -> Vec<String> {
        let mut faults = Vec::new();
        let ledger = &self.ledger;
        for (route, sent) in &ledger.sent {
            let delivered = ledger.delivered.get(route).copied().unwrap_or(0);
            if delivered != *sent {
                let SignalRoute {
                    sender,
                    receiver,
                    signal,
                } = route;
                faults.push(format!(
                    "{sender} sent {receiver} the signal {signal} {sent} times, and {delivered} came"
                ));
            }
        }
        // The signals for all.
        for receiver in ledger.started.keys().copied() {
            for signal in [GO, TERM] {
                let route = SignalRoute {
                    sender: self.pid,
                    receiver,
                    signal,
                };
                let delivered = ledger.delivered.get(&route).copied();
                if delivered != Some(1) && (receiver != victim || signal == GO) {
                    faults.push(format!(
                        "{receiver} got the signal {signal} for all {delivered:?} times"
                    ));
                }
            }
        }
        faults
    }

    /// Checks that every exit was reported to the parent once, and that the parent has reaped the process.
    fn exit_faults(&self, victim: Id) -> Vec<String> {
        let mut faults = Vec::new();
        let ledger = &self.ledger;
        for (pid, process) in &ledger.started {
            // The children of the killed process have become this process's.
            let parent = match process.parent {
                parent if parent == victim => self.pid,
                parent => parent,
            };
            let Some(status) = ledger.exits.get(pid) else {
                faults.push(format!("{pid} did not end"));
                continue;
            };
            let reports = ledger.exit_reports.get(pid).map_or(&[][..], Vec::as_slice);
            if reports != [(parent, *status)] {
                let ExitStatus { code, signal } = status;
                faults.push(format!(
                    "{pid} ended with {code} and signal {signal}; that was reported to {reports:?}, \
                     not to its parent {parent}"
                ));
            }
            let reapers = ledger.reapers.get(pid).map_or(&[][..], Vec::as_slice);
            if reapers != [parent] {
                faults.push(format!(
                    "{pid} was reaped by {reapers:?}, not its parent {parent}"
                ));
            }
        }
        faults
    }
}

/// Prints the list of processes, as `ps` does.
fn print_processes(first: &FamilyNode) -> Result<()> {
    let header = [
        "PID",
        "PPID",
        "PGID",
        "SID",
        "VMID",
        "UID",
        "STATE",
        "EXECUTABLE",
    ];
    let mut table = table(header, header.len());
    let mut last = None;
    while let Some(process) = first.next_process(last.as_ref(), WAIT)? {
        let mut path = [0; PATH_MAX];
        let length = first.path_of(process.pid, MetaCode::Executable, &mut path, WAIT)?;
        let path = String::from_utf8_lossy(&path[..length]);
        let (uid, _) = first.credentials(process.pid, WAIT)?;
        let name = path.rsplit('/').next().unwrap_or("").to_owned();
        table.add_row([
            process.pid.to_string(),
            process.parent.map_or(0, Pid::get).to_string(),
            process.group.to_string(),
            process.session.to_string(),
            process.vmid.map_or(0, Vmid::get).to_string(),
            uid.to_string(),
            format!("{:?}", process.state),
            name,
        ]);
        last = Some(process);
    }
    fit(&mut table);
    println!("{table}");
    Ok(())
}
