//! The processes that live in the slots of a run: when and how each is to end, and what is known of it.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libos_ipc::{ChildExit, Identity, Pid, Vmid};

use crate::Options;
use crate::common::{SIGPWR, command, pid_of, read_lines, spawn};
use crate::figures::{Counts, Report};
use crate::member::Succession;

/// The planned end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// The process ends by itself.
    End,
    /// The process is killed while it works.
    Kill,
    /// The process ends by itself, and is killed at about that time: both ends are right.
    Both,
}

/// An event of a process.
pub(crate) enum Event {
    /// The process in that slot has sent a report.
    Report(usize, Box<Result<Report>>),
    /// The output of the process in that slot has ended.
    OutputEnd(usize),
    /// The parent of a process got its exit report.
    ExitReport(ChildExit),
}

/// A live process.
pub(crate) struct RunningProcess {
    pub(crate) pid: Pid,
    pub(crate) vmid: Vmid,
    /// The exit code of its planned end.
    pub(crate) code: u32,
    pub(crate) plan: Plan,
    /// The sums of its reports.
    pub(crate) counts: Counts,
    /// The time at which it is to be killed.
    kill_at: Option<Instant>,
    process: Child,
    input: Option<ChildStdin>,
}

/// The parameters of a process.
pub(crate) struct Start<'a> {
    pub(crate) child: Identity,
    pub(crate) slot: usize,
    pub(crate) base: &'a Path,
    pub(crate) file: &'a Path,
    pub(crate) succession: Succession,
}

impl RunningProcess {
    pub(crate) fn start(
        start: &Start<'_>,
        options: &Options,
        events: &Sender<Event>,
    ) -> Result<RunningProcess> {
        let Start {
            child,
            slot,
            base,
            file,
            succession,
        } = *start;
        // A process that may lead lives until it leads and is ended.
        let may_lead = succession == Succession::Leads;
        let plan = match fastrand::u32(..100) {
            _ if may_lead => Plan::End,
            chance if chance >= options.killed => Plan::End,
            chance if chance % 4 == 0 => Plan::Both,
            _ => Plan::Kill,
        };
        let mean_life_ms = u64::try_from(options.life().as_millis()).unwrap_or(u64::MAX);
        let life_ms = fastrand::u64(..=mean_life_ms.saturating_mul(2));
        let code = fastrand::u8(..);
        let mut start = command("member", base, &child)?;
        start.arg("--file").arg(file);
        if plan != Plan::Kill && !may_lead {
            start.args(["--life", &life_ms.to_string()]);
        }
        start.args(["--succession", succession.name()]);
        for (name, number) in [
            ("--slot", slot as u128),
            ("--members", options.members().into()),
            ("--pause", options.pause().as_millis()),
            ("--limit", options.limit().as_millis()),
            ("--code", code.into()),
        ] {
            start.args([name, &number.to_string()]);
        }
        start.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = spawn(&mut start).context("starting a process")?;
        let input = process.stdin.take();
        let events = events.clone();
        read_lines(process.stdout.take().context("piped")?, move |line| {
            let event = line.map_or(Event::OutputEnd(slot), |report| {
                Event::Report(slot, Box::new(report))
            });
            events.send(event).is_ok()
        });
        Ok(RunningProcess {
            pid: pid_of(&child)?,
            vmid: child.vmid,
            code: code.into(),
            plan,
            counts: Counts::default(),
            kill_at: (plan != Plan::End).then(|| Instant::now() + Duration::from_millis(life_ms)),
            process,
            input,
        })
    }

    /// Kills it if its time has come.
    pub(crate) fn kill_if_due(&mut self, now: Instant) -> Result<()> {
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.process.kill()?;
        }
        Ok(())
    }

    /// Kills it now. It may have reported its end before.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if self.plan == Plan::End {
            self.plan = Plan::Both;
        }
        Ok(self.process.kill()?)
    }

    /// Ends it now, in its planned way.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if let Some(at) = &mut self.kill_at {
            *at = Instant::now();
        }
        self.kill_if_due(Instant::now())?;
        drop(self.input.take());
        Ok(())
    }

    /// Returns its exit status on the host.
    pub(crate) fn status(&mut self) -> Result<ExitStatus> {
        Ok(self.process.wait()?)
    }

    /// Returns the fault of its end, if `status` or `exit` is not as planned: its exit status on the host, and its exit
    /// report.
    pub(crate) fn fault(&self, status: ExitStatus, exit: &ChildExit) -> Option<String> {
        let ended_by_itself = (exit.code, exit.signal) == (self.code, 0);
        let is_right = match (self.plan, status.code().map(i32::unsigned_abs)) {
            (Plan::End | Plan::Both, Some(code)) => ended_by_itself && code == self.code,
            (Plan::Kill, None) => exit.signal == SIGPWR,
            // The process was killed after it had reported its end.
            (Plan::Both, None) => ended_by_itself || exit.signal == SIGPWR,
            (Plan::End, None) | (Plan::Kill, Some(_)) => false,
        };
        (!is_right).then(|| {
            format!(
                "{} should have ended with {} ({:?}), but ended with {status}; the report was {exit:?}",
                self.pid, self.code, self.plan
            )
        })
    }
}

impl Drop for RunningProcess {
    /// Kills the processes, so that none survives, however this ends.
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// The number of signals to one process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    /// The signals that the process has accepted.
    pub(crate) accepted: u64,
    /// The signals whose result is unknown.
    pub(crate) unsure: u64,
}

impl Sent {
    /// Returns true if that many may have been delivered.
    pub(crate) fn allows(self, delivered: u64) -> bool {
        (self.accepted..=self.accepted + self.unsure).contains(&delivered)
    }
}

/// The known facts about a process that lives, or whose end is not handled completely.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProcessFacts {
    /// The signals of the first process to it alone.
    pub(crate) single_signals: Sent,
    /// The signals of the first process to its group.
    pub(crate) group_signals: Sent,
    /// The number of its signals to the first process.
    pub(crate) to_first: u64,
    /// The number of exit reports about it.
    pub(crate) exit_reports: u32,
    /// The process was reaped.
    pub(crate) reaped: bool,
    /// The output of the process has ended: it must not be signalled any more.
    pub(crate) output_ended: bool,
}

/// The known facts about all processes, shared by several threads.
#[derive(Default)]
pub(crate) struct ProcessRegister(Mutex<HashMap<Pid, ProcessFacts>>);

impl ProcessRegister {
    fn lock(&self) -> MutexGuard<'_, HashMap<Pid, ProcessFacts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, pid: Pid) {
        self.lock().insert(pid, ProcessFacts::default());
    }

    /// Changes the facts about a process, and returns what `change` returns; `None` if the process is not known, or no
    /// longer. It is forgotten once its exit was reported and it was reaped.
    pub(crate) fn change<T>(
        &self,
        pid: Pid,
        change: impl FnOnce(&mut ProcessFacts) -> T,
    ) -> Option<T> {
        let mut processes = self.lock();
        let facts = processes.get_mut(&pid)?;
        let result = change(facts);
        if facts.reaped && facts.exit_reports > 0 {
            processes.remove(&pid);
        }
        Some(result)
    }

    /// Returns any process that may be signalled.
    pub(crate) fn any(&self) -> Option<Pid> {
        let processes = self.lock();
        let living: Vec<Pid> = processes
            .iter()
            .filter(|(_, facts)| !facts.output_ended)
            .map(|(pid, _)| *pid)
            .collect();
        fastrand::choice(living)
    }

    /// Returns the processes whose ends are not handled completely.
    pub(crate) fn unfinished(&self) -> Vec<Pid> {
        self.lock().keys().copied().collect()
    }
}
