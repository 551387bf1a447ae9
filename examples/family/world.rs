//! A small process tree: children and grandchildren that signal each other, end and are reaped, and
//! one that is killed. The run checks that all of that was reported as it happened.

use std::io::{BufRead, BufReader, PipeReader, pipe};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libos_ipc::{ChildExit, ChildSelector, Error, Id, MetaCode, PATH_MAX, Pid, Target, Vmid, Wait};
use rustix::process::{Pid as HostPid, Signal as HostSignal, kill_process};

use crate::WAIT;
use crate::common::{fit, table};
use crate::key::Key;
use crate::ledger::Ledger;
use crate::os::Event;
use crate::platform::FamilyNode;
use crate::process::{GO, HELLO, TERM, start};
use crate::summary::Summary;

/// The greatest number of children of the first process.
const CHILDREN: u32 = 8;
const LIMIT: Duration = Duration::from_secs(30);
const SIGPWR: u32 = 30;

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
    let mut world = World {
        first,
        events,
        pid,
        ledger: Ledger::default(),
        lines: listen(reader),
    };
    let children = members.min(CHILDREN);
    let mut processes = Vec::new();
    for _ in 0..children {
        processes.push(start(first, base, traces, key, 1, writer.try_clone()?)?.1);
    }
    drop(writer);
    let victim = world.await_start(children)?;
    let count = world.ledger.up.len();
    summary.print_line(&format!(
        "{count} processes, children and grandchildren of the first; {victim} is going to be killed"
    ));
    first.kill(Target::All, GO, WAIT)?;
    world.listen_until("signalling", |ledger| ledger.done.len() == count)?;
    world.signal_group(victim)?;
    listing(first)?;
    let (after, died) = world.kill_by_host(victim)?;
    summary.print_line(&format!(
        "{victim} was killed by the host; its parent knew after {after:.1?}: signal {}",
        died.signal
    ));
    first.kill(Target::All, TERM, WAIT)?;
    world.reap_all()?;
    for mut process in processes {
        process.wait()?;
    }
    world.listen_until("ending", |ledger| ledger.exits.len() == count)?;
    // All output is read when all writers have ended.
    while let Ok(line) = world.lines.recv() {
        world.ledger.record(&line)?;
    }
    first.leave(Wait::at_most(LIMIT))?;
    world.take_events();
    Ok(world.final_faults(victim))
}

struct World<'a> {
    first: &'a FamilyNode,
    events: &'a Receiver<Event>,
    pid: Id,
    ledger: Ledger,
    lines: Receiver<String>,
}

fn listen(reader: PipeReader) -> Receiver<String> {
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

impl World<'_> {
    fn listen_until(&mut self, what: &str, enough: impl Fn(&Ledger) -> bool) -> Result<()> {
        let until = Instant::now() + LIMIT;
        while !enough(&self.ledger) {
            if Instant::now() >= until {
                bail!("{what} took more than {LIMIT:?}");
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
            let started = children + ledger.ready.values().sum::<u32>();
            ledger.ready.len() == started as usize && ledger.up.len() == ledger.ready.len()
        })?;
        let mut own = self.ledger.up.iter().filter(|(_, up)| up.0 == self.pid);
        let (child, _) = own.next().context("no children")?;
        Pid::new(*child).context("process 0")
    }

    /// Sends a signal to the group that the child leads: the child and its own children.
    fn signal_group(&mut self, leader: Pid) -> Result<()> {
        self.first.kill(Target::Group(Some(leader)), HELLO, WAIT)?;
        let leader = leader.get();
        let members = self.ledger.up.iter();
        let members = members.filter(|(member, up)| **member == leader || up.0 == leader);
        let group: Vec<Id> = members.map(|(member, _)| *member).collect();
        let from = self.pid;
        for member in &group {
            *self.ledger.sent.entry((from, *member, HELLO)).or_default() += 1;
        }
        self.listen_until("signalling a group", |ledger| {
            let got = |member: &Id| ledger.got.contains_key(&(from, *member, HELLO));
            group.iter().all(got)
        })
    }

    /// Has the host kill the child, and reaps it. Returns the time after which this process knew. The children of the child
    /// have a new parent then: this process.
    fn kill_by_host(&mut self, child: Pid) -> Result<(Duration, ChildExit)> {
        let (_, host) = self.ledger.up[&child.get()];
        let host = HostPid::from_raw(host).context("a host process")?;
        kill_process(host, HostSignal::KILL)?;
        self.ledger.exits.insert(child.get(), (0, SIGPWR));
        let since = Instant::now();
        let selector = ChildSelector::Pid(child);
        let died = self.first.wait_child(selector, Wait::at_most(LIMIT))?;
        let after = since.elapsed();
        self.record_reaped(child);
        Ok((after, died))
    }

    /// Reaps all children of this process.
    fn reap_all(&mut self) -> Result<()> {
        let wait = Wait::at_most(LIMIT);
        loop {
            match self.first.wait_child(ChildSelector::Any, wait) {
                Ok(exit) => self.record_reaped(exit.pid),
                Err(Error::NoChild) => return Ok(()),
                Err(error) => return Err(error).context("waiting for children"),
            }
        }
    }

    fn record_reaped(&mut self, child: Pid) {
        let reaped = &mut self.ledger.reaped;
        reaped.entry(child.get()).or_default().push(self.pid);
    }

    /// Records the events of this process: it is notified of each child's end, although it may have
    /// reaped the child before.
    fn take_events(&mut self) {
        let until = Instant::now() + LIMIT;
        loop {
            let unreported = |reaped: &(&Id, &Vec<Id>)| {
                reaped.1.contains(&self.pid) && !self.ledger.reported.contains_key(reaped.0)
            };
            let are_all_reported = self.ledger.reaped.iter().all(|reaped| !unreported(&reaped));
            let time = if are_all_reported {
                Duration::ZERO
            } else {
                until.saturating_duration_since(Instant::now())
            };
            match self.events.recv_timeout(time) {
                Ok(Event::Signal(signal)) => {
                    let sender = signal.sender.map_or(0, Pid::get);
                    let key = (sender, self.pid, signal.signal);
                    *self.ledger.got.entry(key).or_default() += 1;
                }
                Ok(Event::Ended(exit)) => {
                    let by = (self.pid, exit.code, exit.signal);
                    self.ledger
                        .reported
                        .entry(exit.pid.get())
                        .or_default()
                        .push(by);
                }
                Ok(Event::LeaderLeft) => {}
                Err(_) => return,
            }
        }
    }

    fn final_faults(&self, victim: Pid) -> Vec<String> {
        let mut faults = Vec::new();
        let (ledger, victim) = (&self.ledger, victim.get());
        for (key, sent) in &ledger.sent {
            let got = ledger.got.get(key).copied().unwrap_or(0);
            if got != *sent {
                let (from, to, signal) = key;
                faults.push(format!(
                    "{from} sent {to} the signal {signal} {sent} times, and {got} came"
                ));
            }
        }
        for member in ledger.up.keys() {
            for signal in [GO, TERM] {
                let got = ledger.got.get(&(self.pid, *member, signal)).copied();
                if got != Some(1) && (*member != victim || signal == GO) {
                    faults.push(format!(
                        "{member} got the signal {signal} for all {got:?} times"
                    ));
                }
            }
        }
        for (member, (parent, _)) in &ledger.up {
            // The children of the killed process have become this process's.
            let parent = if *parent == victim { self.pid } else { *parent };
            let Some((code, signal)) = ledger.exits.get(member) else {
                faults.push(format!("{member} did not end"));
                continue;
            };
            let reports = ledger
                .reported
                .get(member)
                .map_or(&[][..], |reports| reports);
            if reports != [(parent, *code, *signal)] {
                faults.push(format!(
                    "{member} ended with {code} and signal {signal}; that was reported to {reports:?}, \
                     not to its parent {parent}"
                ));
            }
            let reaped = ledger.reaped.get(member).map_or(&[][..], |reaped| reaped);
            if reaped != [parent] {
                faults.push(format!(
                    "{member} was reaped by {reaped:?}, not its parent {parent}"
                ));
            }
        }
        let left = self.first.statistics().pools.processes.now;
        if left > 0 {
            faults.push(format!("{left} processes are left in the leader's table"));
        }
        faults
    }
}

/// Prints the list of processes, as `ps` does.
fn listing(first: &FamilyNode) -> Result<()> {
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
