//! The supervisor: it starts the processes, kills leaders, and has all end. It is no member.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libos_ipc::Identity;

use crate::Options;
use crate::check::check;
use crate::processes::{End, Kind, Line, Process};
use crate::record::{Event, now};
use crate::work::Files;

/// The time in which anything must happen.
const LIMIT: Duration = Duration::from_secs(20);

/// The pause between two brief processes.
const BRIEF_EVERY: Duration = Duration::from_millis(40);

pub(crate) fn run(options: &Options, faults: &mut Vec<String>) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let files = directory.path().join("files");
    std::fs::create_dir(&files)?;
    Files::create(&files)?;
    let (sender, lines) = channel();
    let mut run = Run {
        paths: (&directory.path().join("f"), &files),
        processes: Vec::new(),
        places: 0,
        sender,
        lines,
        begin: Instant::now(),
        outages: Vec::new(),
    };
    let outcome = run.all(options);
    if outcome.is_err() {
        run.show_state();
    }
    faults.extend(check(&run.processes, outcome.is_ok()));
    run.summary();
    outcome
}

struct Run<'a> {
    /// Where the family listens, and the files that are locked.
    paths: (&'a Path, &'a Path),
    processes: Vec<Process>,
    /// The places of the shared value that were given to processes.
    places: usize,
    sender: Sender<Line>,
    lines: Receiver<Line>,
    begin: Instant,
    /// The outages of all successions, in nanoseconds.
    outages: Vec<u64>,
}

impl Run<'_> {
    fn print(&self, what: &str) {
        println!("{:>7.3} s  {what}", self.begin.elapsed().as_secs_f64());
    }

    fn all(&mut self, options: &Options) -> Result<()> {
        self.start(Identity::LEADER, Kind::Member { place: 0 })?;
        self.places = 1;
        self.until("the first process has joined", Run::all_joined)?;
        for _ in 1..options.members {
            self.start_member()?;
        }
        self.print(&format!("{} processes work", options.members));
        let leaves_at = options.deaths.div_ceil(2);
        for round in 0..=options.deaths {
            self.work(options.pause())?;
            self.succession(round == leaves_at)?;
            self.start_member()?;
        }
        self.work(options.pause())?;
        self.end()
    }

    fn start(&mut self, identity: Identity, kind: Kind) -> Result<()> {
        let number = self.processes.len();
        let process = Process::start(number, identity, kind, self.paths, &self.sender)?;
        self.processes.push(process);
        Ok(())
    }

    /// Tells any member to prepare a child.
    fn want(&mut self, kind: Kind) -> Result<()> {
        let working: Vec<usize> = self.working().collect();
        let parent = fastrand::choice(working).context("nobody works")?;
        let parent = &mut self.processes[parent];
        parent.wanted.push_back(kind);
        parent.tell("child")
    }

    /// Starts one more member, and waits until it works.
    fn start_member(&mut self) -> Result<()> {
        let number = self.working().count();
        let place = self.places;
        self.places += 1;
        self.want(Kind::Member { place })?;
        self.until("another process works", |run| {
            run.working().count() > number && run.all_joined()
        })
    }

    fn working(&self) -> impl Iterator<Item = usize> {
        let working = self.processes.iter().filter(|process| process.works());
        working.map(|process| process.number)
    }

    fn all_joined(&self) -> bool {
        self.working()
            .all(|number| self.processes[number].leader != 0)
    }

    fn none_joins(&self) -> bool {
        self.processes.iter().all(|process| {
            let is_done = process.place().is_some() || process.status.is_some();
            is_done && (process.wanted.is_empty() || !process.works())
        })
    }

    /// Waits until `is_so` returns true for this run.
    fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<()> {
        let until = Instant::now() + LIMIT;
        while !is_so(self) {
            let left = until.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "in {LIMIT:?} it was not so that {what}");
            self.listen(left.min(Duration::from_millis(100)))?;
        }
        Ok(())
    }

    /// Handles the next line, if there is one in that time.
    fn listen(&mut self, time: Duration) -> Result<()> {
        let Ok((number, said)) = self.lines.recv_timeout(time) else {
            return Ok(());
        };
        let process = &mut self.processes[number];
        process.on_line(said)?;
        if let Some(status) = process.status {
            let end = process.end;
            ensure!(
                end.is_some(),
                "process {number} ended with {status}, although it was not to end"
            );
            return Ok(());
        }
        match process.entries.last().map(|entry| &entry.event) {
            Some(Event::Child(identity)) => {
                let identity = *identity;
                let kind = process.wanted.pop_front().context("a child too many")?;
                self.start(identity, kind)?;
            }
            Some(Event::Fault(what)) => bail!("process {number}: {what}"),
            _ => {}
        }
        Ok(())
    }

    /// Lets all work for that time, and has brief processes started.
    fn work(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        let mut next = Instant::now() + BRIEF_EVERY;
        while Instant::now() < until {
            self.listen(Duration::from_millis(5))?;
            if Instant::now() >= next {
                next += BRIEF_EVERY;
                let code = fastrand::u8(..);
                self.want(Kind::Brief { code })?;
            }
        }
        Ok(())
    }

    /// Returns the number of the process that leads, once all members follow it and it has an heir.
    fn leader(&mut self) -> Result<usize> {
        let led = |run: &Self| {
            let mut working = run.working().map(|number| &run.processes[number]);
            let first = working.next()?;
            let is_same =
                |other: &Process| other.leader == first.leader && other.heir == first.heir;
            let is_led = first.heir != 0 && first.heir != first.leader && working.all(is_same);
            run.working()
                .find(|number| is_led && run.processes[*number].vmid() == first.leader)
        };
        self.until("all follow a leader with an heir", |run| led(run).is_some())?;
        led(self).context("there is one")
    }

    /// Kills the leader, or makes it leave, and waits until all others have an answer of another one.
    fn succession(&mut self, leaves: bool) -> Result<()> {
        // A process that has not joined yet knows no heir.
        self.until("no process is about to join", Run::none_joins)?;
        let number = self.leader()?;
        let leader = &mut self.processes[number];
        let old = leader.vmid();
        let at = now();
        if leaves {
            let code = fastrand::u8(..);
            leader.end = Some(End::Code(code));
            leader.tell(&format!("end {code}"))?;
        } else {
            leader.kill()?;
            // A child that is prepared meanwhile joins the new leader.
            self.want(Kind::Brief { code: 0 })?;
        }
        // The members that worked before have seen the change; one that is about to start joins the new leader.
        let witnesses: Vec<usize> = self.working().collect();
        self.until("all have got over the death of the leader", |run| {
            let followed = |number: &usize| run.outage(*number, old, at).is_some();
            run.processes[number].status.is_some() && witnesses.iter().all(followed)
        })?;
        let mut outages: Vec<(u64, u64)> = witnesses
            .iter()
            .filter_map(|number| self.outage(*number, old, at))
            .collect();
        outages.sort_by_key(|(_, outage)| *outage);
        let new = outages[0].0;
        ensure!(
            outages.iter().all(|(leader, _)| *leader == new),
            "they follow different leaders"
        );
        let heir = self.processes.iter().find(|process| process.vmid() == new);
        let heir = heir.context("nobody has started the leader")?.number;
        let milliseconds = |nanoseconds: u64| Duration::from_nanos(nanoseconds).as_secs_f64() * 1e3;
        let outage = |at: usize| milliseconds(outages[at].1);
        let median = outages[outages.len() / 2].1;
        let left = self.processes[number]
            .entries
            .iter()
            .find_map(|entry| match entry.event {
                Event::Left { microseconds } => Some(microseconds),
                _ => None,
            });
        let how = left.map_or("was killed".to_owned(), |took| {
            format!("left in {:.1} ms", milliseconds(took * 1000))
        });
        let line = format!(
            "process {number} led and {how}; process {heir} leads: {:.1} ms without an answer ({:.1} to {:.1})",
            milliseconds(median),
            outage(0),
            outage(outages.len() - 1),
        );
        self.outages.push(median);
        self.print(&line);
        Ok(())
    }

    /// Returns the new leader and the outage in nanoseconds that a process has seen after `at`, when `old` led.
    fn outage(&self, number: usize, old: u64, at: u64) -> Option<(u64, u64)> {
        self.processes[number]
            .entries
            .iter()
            .rev()
            .take_while(|entry| entry.time >= at)
            .find_map(|entry| match entry.event {
                Event::Outage {
                    leader,
                    last,
                    first,
                } if leader != old => Some((leader, first - last)),
                _ => None,
            })
    }

    /// Has all stop, and end one after another: children before their parents.
    fn end(&mut self) -> Result<()> {
        self.until("all brief processes have ended", |run| {
            run.processes
                .iter()
                .all(|process| process.wanted.is_empty() || !process.works())
                && run
                    .processes
                    .iter()
                    .all(|process| process.place().is_some() || process.status.is_some())
        })?;
        let working: Vec<usize> = self.working().collect();
        for command in ["stop", "value"] {
            for number in &working {
                self.processes[*number].tell(command)?;
            }
            self.until("all have stopped", |run| {
                working.iter().all(|number| {
                    run.processes[*number].has(|event| match event {
                        Event::Stopped {} => command == "stop",
                        Event::Value(_) => command == "value",
                        _ => false,
                    })
                })
            })?;
        }
        for number in working.iter().rev() {
            let code = fastrand::u8(..);
            let is_last = *number == working[0];
            let last = if is_last { "-last" } else { "" };
            let process = &mut self.processes[*number];
            process.end = Some(End::Code(code));
            process.tell(&format!("end{last} {code}"))?;
            self.until("a process has ended", |run| {
                let process = &run.processes[*number];
                process.status.is_some() && (is_last || run.is_reaped(process))
            })?;
        }
        self.print("all have ended");
        Ok(())
    }

    /// Returns true if the parent of the process has reaped it, if it lives.
    fn is_reaped(&self, process: &Process) -> bool {
        let parent = self
            .processes
            .iter()
            .find(|parent| Some(parent.identity.vmid) == process.identity.parent);
        parent.is_none_or(|parent| {
            !parent.works()
                || parent.has(
                    |event| matches!(event, Event::Reaped { pid, .. } if Some(*pid) == process.pid()),
                )
        })
    }

    fn summary(&mut self) {
        self.outages.sort_unstable();
        if let (Some(longest), Some(median)) = (
            self.outages.last(),
            self.outages.get(self.outages.len() / 2),
        ) {
            println!(
                "{} successions: half of them in {:.1?} or less, the longest in {:.1?}",
                self.outages.len(),
                Duration::from_nanos(*median),
                Duration::from_nanos(*longest),
            );
        }
    }

    /// Prints what each process is doing, for a run that has failed.
    fn show_state(&self) {
        for process in &self.processes {
            if process.status.is_none() {
                let last = process.entries.last();
                println!(
                    "process {} (VMID {}): follows {}, heir {}, last event {:?}",
                    process.number,
                    process.vmid(),
                    process.leader,
                    process.heir,
                    last.map(ToString::to_string),
                );
            }
        }
    }
}
