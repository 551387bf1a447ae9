//! The slots for processes, and their occupants: when and how each is to end.

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
    Said(usize, Box<Result<Report>>),
    /// Its output has ended.
    Silent(usize),
    /// Its parent got its exit report.
    Reported(ChildExit),
}

/// A live process.
pub(crate) struct RunningProcess {
    pub(crate) pid: Pid,
    pub(crate) vmid: Vmid,
    pub(crate) code: u32,
    pub(crate) plan: Plan,
    /// Its counts.
    pub(crate) counts: Counts,
    /// The time at which it is to be killed.
    killed_at: Option<Instant>,
    process: Child,
    input: Option<ChildStdin>,
}

/// The parameters of a process.
pub(crate) struct Start<'a> {
    pub(crate) child: Identity,
    pub(crate) place: usize,
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
            place,
            base,
            file,
            succession,
        } = *start;
        // A process that may lead lives until it does.
        let leads = succession == Succession::Leads;
        let plan = match fastrand::u32(..100) {
            _ if leads => Plan::End,
            chance if chance >= options.killed => Plan::End,
            chance if chance % 4 == 0 => Plan::Both,
            _ => Plan::Kill,
        };
        let mean = u64::try_from(options.life().as_millis()).unwrap_or(u64::MAX);
        let life = fastrand::u64(..=mean.saturating_mul(2));
        let code = fastrand::u8(..);
        let mut start = command("member", base, &child)?;
        start.arg("--file").arg(file);
        if plan != Plan::Kill && !leads {
            start.args(["--life", &life.to_string()]);
        }
        start.args(["--succession", succession.name()]);
        for (name, number) in [
            ("--place", place as u128),
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
        read_lines(process.stdout.take().context("piped")?, move |said| {
            let event = said.map_or(Event::Silent(place), |said| {
                Event::Said(place, Box::new(said))
            });
            events.send(event).is_ok()
        });
        Ok(RunningProcess {
            pid: pid_of(&child)?,
            vmid: child.vmid,
            code: code.into(),
            plan,
            counts: Counts::default(),
            killed_at: (plan != Plan::End).then(|| Instant::now() + Duration::from_millis(life)),
            process,
            input,
        })
    }

    /// Kills it if its time has come.
    pub(crate) fn kill_in_time(&mut self, now: Instant) -> Result<()> {
        if self.killed_at.is_some_and(|at| at <= now) {
            self.killed_at = None;
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
        if let Some(at) = &mut self.killed_at {
            *at = Instant::now();
        }
        self.kill_in_time(Instant::now())?;
        drop(self.input.take());
        Ok(())
    }

    /// Returns its exit status on the host.
    pub(crate) fn status(&mut self) -> Result<ExitStatus> {
        Ok(self.process.wait()?)
    }

    /// Returns the fault of its end.
    pub(crate) fn fault(&self, status: ExitStatus, exit: &ChildExit) -> Option<String> {
        let by_itself = (exit.code, exit.signal) == (self.code, 0);
        let is_right = match (self.plan, status.code().map(i32::unsigned_abs)) {
            (Plan::End | Plan::Both, Some(code)) => by_itself && code == self.code,
            (Plan::Kill, None) => exit.signal == SIGPWR,
            // The process was killed after it had reported its end.
            (Plan::Both, None) => by_itself || exit.signal == SIGPWR,
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

/// Signals to one process: those that it has accepted, and those whose result is unknown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) accepted: u64,
    pub(crate) unsure: u64,
}

impl Sent {
    /// Returns true if that many may have been delivered.
    pub(crate) fn allows(self, came: u64) -> bool {
        (self.accepted..=self.accepted + self.unsure).contains(&came)
    }
}

/// The known facts about a process that lives, or whose end is not handled completely.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    /// Signals from the leader, to it alone and to its group.
    pub(crate) ones: Sent,
    pub(crate) groups: Sent,
    /// The number of its signals to the leader.
    pub(crate) to_first: u64,
    /// The number of exit reports about it.
    pub(crate) reports: u32,
    /// The process was reaped.
    pub(crate) reaped: bool,
    /// The process must not be signalled any more.
    pub(crate) output_ended: bool,
}

/// The same for all processes, shared by several threads.
#[derive(Default)]
pub(crate) struct Register(Mutex<HashMap<Pid, Known>>);

impl Register {
    fn all(&self) -> MutexGuard<'_, HashMap<Pid, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, pid: Pid) {
        self.all().insert(pid, Known::default());
    }

    /// Changes the facts about a process; `None` if it is not (or no longer) known. It is forgotten
    /// when it was reported and reaped.
    pub(crate) fn change<T>(&self, pid: Pid, change: impl FnOnce(&mut Known) -> T) -> Option<T> {
        let mut all = self.all();
        let known = all.get_mut(&pid)?;
        let result = change(known);
        if known.reaped && known.reports > 0 {
            all.remove(&pid);
        }
        Some(result)
    }

    /// Returns any process that may be signalled.
    pub(crate) fn any(&self) -> Option<Pid> {
        let all = self.all();
        let living: Vec<Pid> = all
            .iter()
            .filter(|(_, known)| !known.output_ended)
            .map(|(pid, _)| *pid)
            .collect();
        fastrand::choice(living)
    }

    /// Returns the processes whose ends are not handled completely.
    pub(crate) fn open(&self) -> Vec<Pid> {
        self.all().keys().copied().collect()
    }
}
