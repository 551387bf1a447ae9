//! The supervisor: it starts the processes, kills leaders, and ends all processes at last. It is no member.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libos_ipc::Identity;

use crate::Options;
use crate::check::check;
use crate::common::print_at;
use crate::processes::{End, Kind, Line, Process};
use crate::record::{Event, now};
use crate::work::Files;

/// The time in which each step of the run must happen.
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
        base: &directory.path().join("f"),
        files: &files,
        processes: Vec::new(),
        used_slots: 0,
        line_sender: sender,
        lines,
        begin: Instant::now(),
        outages: Vec::new(),
    };
    let outcome = run.run_all(options);
    if outcome.is_err() {
        run.show_state();
    }
    faults.extend(check(&run.processes, outcome.is_ok()));
    run.print_summary();
    outcome
}

/// The state of a run.
struct Run<'a> {
    /// Where the family listens.
    base: &'a Path,
    /// The directory of the files that are locked.
    files: &'a Path,
    processes: Vec<Process>,
    /// The number of slots of the shared value that were given to processes.
    used_slots: usize,
    /// The output of the processes: the end that its readers use, and that of this process.
    line_sender: Sender<Line>,
    lines: Receiver<Line>,
    begin: Instant,
    /// The outages of all successions, in nanoseconds.
    outages: Vec<u64>,
}

impl Run<'_> {
    fn print(&self, what: &str) {
        print_at(self.begin, what);
    }

    fn run_all(&mut self, options: &Options) -> Result<()> {
        self.start(Identity::LEADER, Kind::Member { slot: 0 })?;
        self.used_slots = 1;
        self.wait_until("the first process has joined", Run::all_joined)?;
        for _ in 1..options.members {
            self.start_member()?;
        }
        self.print(&format!("{} processes work", options.members));
        let leaving_round = options.deaths.div_ceil(2);
        for round in 0..=options.deaths {
            self.work(options.pause())?;
            self.end_leader(round == leaving_round)?;
            self.start_member()?;
        }
        self.work(options.pause())?;
        self.end()
    }

    fn start(&mut self, identity: Identity, kind: Kind) -> Result<()> {
        let number = self.processes.len();
        let process = Process::start(
            number,
            identity,
            kind,
            (self.base, self.files),
            &self.line_sender,
        )?;
        self.processes.push(process);
        Ok(())
    }

    /// Commands any member to prepare a child.
    fn request_child(&mut self, kind: Kind) -> Result<()> {
        let working: Vec<usize> = self.working().collect();
        let parent = fastrand::choice(working).context("no process works")?;
        let parent = &mut self.processes[parent];
        parent.requested_children.push_back(kind);
        parent.command("child")
    }

    /// Starts one more member, and waits until it works.
    fn start_member(&mut self) -> Result<()> {
        let number = self.working().count();
        let slot = self.used_slots;
        self.used_slots += 1;
        self.request_child(Kind::Member { slot })?;
        self.wait_until("another process works", |run| {
            run.working().count() > number && run.all_joined()
        })
    }

    /// Returns the numbers of the processes that work.
    fn working(&self) -> impl Iterator<Item = usize> {
        let working = self.processes.iter().filter(|process| process.works());
        working.map(|process| process.number)
    }

    /// Returns true if all processes that work have joined and follow a leader.
    fn all_joined(&self) -> bool {
        self.working()
            .all(|number| self.processes[number].leader != 0)
    }

    /// Returns true if no process is about to join: no brief process lives, and no child is requested.
    fn none_is_joining(&self) -> bool {
        self.processes.iter().all(|process| {
            let is_done = process.slot().is_some() || process.status.is_some();
            is_done && (process.requested_children.is_empty() || !process.works())
        })
    }

    /// Waits until `is_true` returns true for this run. `what` names that condition in the error if it takes too long.
    fn wait_until(&mut self, what: &str, is_true: impl Fn(&Self) -> bool) -> Result<()> {
        let until = Instant::now() + LIMIT;
        while !is_true(self) {
            let remaining = until.saturating_duration_since(Instant::now());
            ensure!(
                !remaining.is_zero(),
                "in {LIMIT:?} it was not so that {what}"
            );
            self.handle_line(remaining.min(Duration::from_millis(100)))?;
        }
        Ok(())
    }

    /// Handles the next line of a process, if there is one in that time.
    fn handle_line(&mut self, time: Duration) -> Result<()> {
        let Ok((number, entry)) = self.lines.recv_timeout(time) else {
            return Ok(());
        };
        let process = &mut self.processes[number];
        process.on_line(entry)?;
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
                let kind = process
                    .requested_children
                    .pop_front()
                    .context("a child too many")?;
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
        let mut next_brief = Instant::now() + BRIEF_EVERY;
        while Instant::now() < until {
            self.handle_line(Duration::from_millis(5))?;
            if Instant::now() >= next_brief {
                next_brief += BRIEF_EVERY;
                let code = fastrand::u8(..);
                self.request_child(Kind::Brief { code })?;
            }
        }
        Ok(())
    }

    /// Returns the number of the process that leads, once all members follow it and it has an heir.
    fn leader(&mut self) -> Result<usize> {
        let leader_of = |run: &Self| {
            let mut working = run.working().map(|number| &run.processes[number]);
            let first = working.next()?;
            let agrees = |other: &Process| other.leader == first.leader && other.heir == first.heir;
            let all_agree = first.heir != 0 && first.heir != first.leader && working.all(agrees);
            run.working()
                .find(|number| all_agree && run.processes[*number].vmid() == first.leader)
        };
        self.wait_until("all follow a leader with an heir", |run| {
            leader_of(run).is_some()
        })?;
        leader_of(self).context("there is one")
    }

    /// Kills the leader, or makes it leave, and waits until all others have an answer of another one.
    fn end_leader(&mut self, leaves: bool) -> Result<()> {
        // A process that has not joined yet knows no heir.
        self.wait_until("no process is about to join", Run::none_is_joining)?;
        let number = self.leader()?;
        let leader = &mut self.processes[number];
        let old = leader.vmid();
        let ended_at = now();
        if leaves {
            let code = fastrand::u8(..);
            leader.end = Some(End::Code(code));
            leader.command(&format!("end {code}"))?;
        } else {
            leader.kill()?;
            // A child that is prepared meanwhile joins the new leader.
            self.request_child(Kind::Brief { code: 0 })?;
        }
        // The members that worked before have seen the change; one that is about to start joins the new leader.
        let witnesses: Vec<usize> = self.working().collect();
        self.wait_until("all have got over the death of the leader", |run| {
            let has_new_leader = |number: &usize| run.outage(*number, old, ended_at).is_some();
            run.processes[number].status.is_some() && witnesses.iter().all(has_new_leader)
        })?;
        let outages = witnesses
            .iter()
            .filter_map(|number| self.outage(*number, old, ended_at))
            .collect();
        self.record_succession(number, outages)
    }

    /// Records and prints the succession after the leader with that number. `outages` has the new leader and the outage in
    /// nanoseconds, as each witness has seen them.
    fn record_succession(&mut self, number: usize, mut outages: Vec<(u64, u64)>) -> Result<()> {
        outages.sort_by_key(|(_, outage)| *outage);
        let new = outages[0].0;
        ensure!(
            outages.iter().all(|(leader, _)| *leader == new),
            "they follow different leaders"
        );
        let heir = self.processes.iter().find(|process| process.vmid() == new);
        let heir = heir.context("no process has started the leader")?.number;
        let milliseconds = |nanoseconds: u64| Duration::from_nanos(nanoseconds).as_secs_f64() * 1e3;
        let outage = |index: usize| milliseconds(outages[index].1);
        let median = outages[outages.len() / 2].1;
        let leave_time =
            self.processes[number]
                .entries
                .iter()
                .find_map(|entry| match entry.event {
                    Event::Left { microseconds } => Some(microseconds),
                    _ => None,
                });
        let end = leave_time.map_or("was killed".to_owned(), |microseconds| {
            format!("left in {:.1} ms", milliseconds(microseconds * 1000))
        });
        let line = format!(
            "process {number} led and {end}; process {heir} leads: {:.1} ms without an answer ({:.1} to {:.1})",
            milliseconds(median),
            outage(0),
            outage(outages.len() - 1),
        );
        self.outages.push(median);
        self.print(&line);
        Ok(())
    }

    /// Returns the new leader and the outage in nanoseconds that a process has seen after the end of the leader `old` at
    /// `ended_at`.
    fn outage(&self, number: usize, old: u64, ended_at: u64) -> Option<(u64, u64)> {
        self.processes[number]
            .entries
            .iter()
            .rev()
            .take_while(|entry| entry.time >= ended_at)
            .find_map(|entry| match entry.event {
                Event::Outage {
                    leader,
                    last,
                    first,
                } if leader != old => Some((leader, first - last)),
                _ => None,
            })
    }

    /// Stops all processes, and ends them one after another: children before their parents.
    fn end(&mut self) -> Result<()> {
        self.wait_until("all brief processes have ended", Run::none_is_joining)?;
        let working: Vec<usize> = self.working().collect();
        for command in ["stop", "value"] {
            for number in &working {
                self.processes[*number].command(command)?;
            }
            self.wait_until("all have stopped", |run| {
                working.iter().all(|number| {
                    run.processes[*number].has_reported(|event| match event {
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
            let command = if is_last { "end-last" } else { "end" };
            let process = &mut self.processes[*number];
            process.end = Some(End::Code(code));
            process.command(&format!("{command} {code}"))?;
            self.wait_until("a process has ended", |run| {
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
                || parent.has_reported(
                    |event| matches!(event, Event::Reaped { pid, .. } if Some(*pid) == process.pid()),
                )
        })
    }

    fn print_summary(&mut self) {
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

    /// Prints the state of each process, for a run that has failed.
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
