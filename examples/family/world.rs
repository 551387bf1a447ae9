//! A small process tree: children and grandchildren that signal each other, end and are reaped, and
//! one that is killed. The run checks that all of that was reported as it happened.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, PipeReader, pipe};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libos_ipc::{ChildSelector, Error, Id, MetaCode, PATH_MAX, Pid, Target, Vmid};
use rustix::process::{Pid as HostPid, Signal as HostSignal, kill_process};

use crate::WAIT;
use crate::common::{fit, table};
use crate::key::Key;
use crate::os::Event;
use crate::platform::FamilyNode;
use crate::process::{GO, HELLO, TERM, start};
use crate::summary::Summary;

/// The greatest number of children of the first process.
const CHILDREN: u32 = 8;
const LIMIT: Duration = Duration::from_secs(30);
const SIGPWR: u32 = 30;

/// All that the processes have reported.
#[derive(Default)]
struct Ledger {
    /// The parent and the host process of each process.
    up: BTreeMap<Id, (Id, i32)>,
    /// The number of children that each has started.
    ready: BTreeMap<Id, u32>,
    done: BTreeSet<Id>,
    /// The number of times that a signal was sent, and delivered: by sender, receiver, number.
    sent: BTreeMap<(Id, Id, i32), u32>,
    got: BTreeMap<(Id, Id, i32), u32>,
    /// The exit code and signal of each process.
    exits: BTreeMap<Id, (u32, u32)>,
    /// The exit reports that parents got.
    reported: BTreeMap<Id, Vec<(Id, u32, u32)>>,
    reaped: BTreeMap<Id, Vec<Id>>,
}

impl Ledger {
    fn record(&mut self, line: &str) -> Result<()> {
        let words: Vec<_> = line.split(' ').collect();
        let number =
            |at: usize| -> Result<u32> { Ok(words.get(at).context("too short")?.parse()?) };
        match words[0] {
            "up" => {
                let host = i32::try_from(number(3)?)?;
                self.up.insert(number(1)?, (number(2)?, host));
            }
            "ready" => drop(self.ready.insert(number(1)?, number(2)?)),
            "done" => drop(self.done.insert(number(1)?)),
            "sent" => {
                let key = (number(1)?, number(2)?, i32::try_from(number(3)?)?);
                *self.sent.entry(key).or_default() += 1;
            }
            "got" => {
                let key = (number(1)?, number(2)?, i32::try_from(number(3)?)?);
                *self.got.entry(key).or_default() += 1;
            }
            "exits" => drop(self.exits.insert(number(1)?, (number(2)?, 0))),
            "ended" => {
                let by = (number(1)?, number(3)?, number(4)?);
                self.reported.entry(number(2)?).or_default().push(by);
            }
            "reaped" => self.reaped.entry(number(2)?).or_default().push(number(1)?),
            _ => bail!("{line:?} is nothing a process says"),
        }
        Ok(())
    }
}

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
    let mut world = World {
        first,
        events,
        pid,
        ledger: Ledger::default(),
        lines: mpsc::channel().1,
    };
    let (reader, writer) = pipe()?;
    world.lines = listen(reader);
    let mut processes = Vec::new();
    let children = members.min(CHILDREN);
    for _ in 0..children {
        processes.push(start(first, base, traces, key, 1, writer.try_clone()?)?.1);
    }
    drop(writer);
    world.listen_until("starting", |ledger| {
        let started = children + ledger.ready.values().sum::<u32>();
        ledger.ready.len() == started as usize && ledger.up.len() == ledger.ready.len()
    })?;
    let mut own = world.ledger.up.iter().filter(|(_, up)| up.0 == pid);
    let victim = *own.next().context("no children")?.0;
    let count = world.ledger.up.len();
    summary.print_line(&format!(
        "{count} processes, children and grandchildren of the first; {victim} is going to be killed"
    ));
    first.kill(Target::All, GO, WAIT)?;
    world.listen_until("signalling", |ledger| ledger.done.len() == count)?;
    // The group is that of the child which leads it, and its children.
    let leader_of_group = Pid::new(victim).context("process 0")?;
    first.kill(Target::Group(Some(leader_of_group)), HELLO, WAIT)?;
    let group: Vec<Id> = world
        .ledger
        .up
        .iter()
        .filter(|(member, (parent, _))| **member == victim || *parent == victim)
        .map(|(member, _)| *member)
        .collect();
    for member in &group {
        *world.ledger.sent.entry((pid, *member, HELLO)).or_default() += 1;
    }
    world.listen_until("signalling a group", |ledger| {
        let got = |member: &Id| ledger.got.contains_key(&(pid, *member, HELLO));
        group.iter().all(got)
    })?;
    listing(first)?;
    let host = world.ledger.up[&victim].1;
    let host = HostPid::from_raw(host).context("a host process")?;
    kill_process(host, HostSignal::KILL)?;
    world.ledger.exits.insert(victim, (0, SIGPWR));
    // Its children have a new parent: this process.
    let since = Instant::now();
    let wait = libos_ipc::Wait::at_most(LIMIT);
    let died = first.wait_child(ChildSelector::Pid(leader_of_group), wait)?;
    summary.print_line(&format!(
        "{victim} was killed by the host; its parent knew after {:.1?}: signal {}",
        since.elapsed(),
        died.signal
    ));
    world.ledger.reaped.entry(victim).or_default().push(pid);
    first.kill(Target::All, TERM, WAIT)?;
    loop {
        match first.wait_child(ChildSelector::Any, wait) {
            Ok(exit) => world
                .ledger
                .reaped
                .entry(exit.pid.get())
                .or_default()
                .push(pid),
            Err(Error::NoChild) => break,
            Err(error) => return Err(error).context("waiting for children"),
        }
    }
    for mut process in processes {
        process.wait()?;
    }
    world.listen_until("ending", |ledger| ledger.exits.len() == count)?;
    // All output is read when all writers have ended.
    while let Ok(line) = world.lines.recv() {
        world.ledger.record(&line)?;
    }
    first.leave(wait)?;
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

    fn final_faults(&self, victim: Id) -> Vec<String> {
        let mut wrong = Vec::new();
        let ledger = &self.ledger;
        for (key, sent) in &ledger.sent {
            let got = ledger.got.get(key).copied().unwrap_or(0);
            if got != *sent {
                let (from, to, signal) = key;
                wrong.push(format!(
                    "{from} sent {to} the signal {signal} {sent} times, and {got} came"
                ));
            }
        }
        for member in ledger.up.keys() {
            for signal in [GO, TERM] {
                let got = ledger.got.get(&(self.pid, *member, signal)).copied();
                if got != Some(1) && (*member != victim || signal == GO) {
                    wrong.push(format!(
                        "{member} got the signal {signal} for all {got:?} times"
                    ));
                }
            }
        }
        for (member, (parent, _)) in &ledger.up {
            // The children of the killed process have become this process's.
            let parent = if *parent == victim { self.pid } else { *parent };
            let Some((code, signal)) = ledger.exits.get(member) else {
                wrong.push(format!("{member} did not end"));
                continue;
            };
            let reports = ledger
                .reported
                .get(member)
                .map_or(&[][..], |reports| reports);
            if reports != [(parent, *code, *signal)] {
                wrong.push(format!(
                    "{member} ended with {code} and signal {signal}; that was reported to {reports:?}, \
                     not to its parent {parent}"
                ));
            }
            let reaped = ledger.reaped.get(member).map_or(&[][..], |reaped| reaped);
            if reaped != [parent] {
                wrong.push(format!(
                    "{member} was reaped by {reaped:?}, not its parent {parent}"
                ));
            }
        }
        let left = self.first.statistics().pools.processes.now;
        if left > 0 {
            wrong.push(format!("{left} processes are left in the leader's table"));
        }
        wrong
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
