//! The places for processes, and who is there: when each is to go, and how.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libos_ipc::wire::ChildExit;
use libos_ipc::{Id, Identity, Vmid};

use crate::Options;
use crate::common::{SIGPWR, command, hear};
use crate::figures::{Counts, Report};

/// How a process is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// It ends by itself.
    End,
    /// It works until it is killed.
    Kill,
    /// It ends by itself, and is killed at about that time: either is right.
    Both,
}

/// Something that happened to a process.
pub(crate) enum Event {
    Said(usize, Box<Result<Report>>),
    /// It says nothing more.
    Silent(usize),
    /// Its parent was told of its end.
    Told(ChildExit),
}

/// A process that lives.
pub(crate) struct Occupant {
    pub(crate) pid: Id,
    pub(crate) vmid: Vmid,
    pub(crate) code: u32,
    pub(crate) plan: Plan,
    /// What it has done.
    pub(crate) counts: Counts,
    /// When to kill it.
    killed_at: Option<Instant>,
    process: Child,
    input: Option<ChildStdin>,
}

/// What a process is started with.
pub(crate) struct Start<'a> {
    pub(crate) child: Identity,
    pub(crate) place: usize,
    pub(crate) base: &'a Path,
    pub(crate) file: &'a Path,
}

impl Occupant {
    pub(crate) fn start(
        start: &Start<'_>,
        options: &Options,
        events: &Sender<Event>,
    ) -> Result<Occupant> {
        let Start {
            child,
            place,
            base,
            file,
        } = *start;
        let plan = match fastrand::u32(..100) {
            chance if chance >= options.killed => Plan::End,
            chance if chance % 4 == 0 => Plan::Both,
            _ => Plan::Kill,
        };
        let mean = u64::try_from(options.life().as_millis()).unwrap_or(u64::MAX);
        let life = fastrand::u64(..=mean.saturating_mul(2));
        let code = fastrand::u8(..);
        let mut start = command("member", base, &child)?;
        start.arg("--file").arg(file);
        if plan != Plan::Kill {
            start.args(["--life", &life.to_string()]);
        }
        for (name, number) in [
            ("--place", place as u128),
            ("--members", options.members.into()),
            ("--pause", options.pause().as_millis()),
            ("--limit", options.limit().as_millis()),
            ("--code", code.into()),
        ] {
            start.args([name, &number.to_string()]);
        }
        start.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = start.spawn().context("starting a process")?;
        let input = process.stdin.take();
        let events = events.clone();
        hear(process.stdout.take().context("piped")?, move |said| {
            let event = said.map_or(Event::Silent(place), |said| {
                Event::Said(place, Box::new(said))
            });
            events.send(event).is_ok()
        });
        Ok(Occupant {
            pid: child.pid,
            vmid: child.vmid,
            code: code.into(),
            plan,
            counts: Counts::default(),
            killed_at: (plan != Plan::End).then(|| Instant::now() + Duration::from_millis(life)),
            process,
            input,
        })
    }

    /// Kills it if it is time.
    pub(crate) fn kill_in_time(&mut self, now: Instant) -> Result<()> {
        if self.killed_at.is_some_and(|at| at <= now) {
            self.killed_at = None;
            self.process.kill()?;
        }
        Ok(())
    }

    /// It is to go now, in its own way.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if let Some(at) = &mut self.killed_at {
            *at = Instant::now();
        }
        self.kill_in_time(Instant::now())?;
        drop(self.input.take());
        Ok(())
    }

    /// How it has ended, as the host knows it.
    pub(crate) fn status(&mut self) -> Result<ExitStatus> {
        Ok(self.process.wait()?)
    }

    /// What is wrong with its end.
    pub(crate) fn fault(&self, status: ExitStatus, exit: &ChildExit) -> Option<String> {
        let by_itself = (exit.exit_code, exit.term_signal) == (self.code, 0);
        let is_right = match (self.plan, status.code().map(i32::unsigned_abs)) {
            (Plan::End | Plan::Both, Some(code)) => by_itself && code == self.code,
            (Plan::Kill, None) => exit.term_signal == SIGPWR,
            // Killed after it had said that it ends.
            (Plan::Both, None) => by_itself || exit.term_signal == SIGPWR,
            (Plan::End, None) | (Plan::Kill, Some(_)) => false,
        };
        (!is_right).then(|| {
            format!(
                "{} was to end with {} ({:?}); it did with {status}, its parent was told {exit:?}",
                self.pid, self.code, self.plan
            )
        })
    }
}

impl Drop for Occupant {
    /// Nobody is left behind, however this ends.
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// Signals to one process: those that it has accepted, and those of which that is not known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) accepted: u64,
    pub(crate) unsure: u64,
}

impl Sent {
    /// Whether that many may have come.
    pub(crate) fn allows(self, came: u64) -> bool {
        (self.accepted..=self.accepted + self.unsure).contains(&came)
    }
}

/// What is known of each process that lives, or whose end is not done with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    /// From the leader, to it alone and to its group.
    pub(crate) ones: Sent,
    pub(crate) groups: Sent,
    /// How many came from it to the leader.
    pub(crate) to_first: u64,
    /// How often its end was told.
    pub(crate) told: u32,
    /// It was waited for.
    pub(crate) reaped: bool,
    /// It is not to be signalled any more.
    pub(crate) silent: bool,
}

/// The same of all, for several threads.
#[derive(Default)]
pub(crate) struct Register(Mutex<HashMap<Id, Known>>);

impl Register {
    fn all(&self) -> MutexGuard<'_, HashMap<Id, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, pid: Id) {
        self.all().insert(pid, Known::default());
    }

    /// Changes what is known of one; `None` if it is not known (any more). It is forgotten when it was
    /// told and waited for.
    pub(crate) fn change<T>(&self, pid: Id, change: impl FnOnce(&mut Known) -> T) -> Option<T> {
        let mut all = self.all();
        let known = all.get_mut(&pid)?;
        let result = change(known);
        if known.reaped && known.told > 0 {
            all.remove(&pid);
        }
        Some(result)
    }

    /// Any process that is to be signalled.
    pub(crate) fn any(&self) -> Option<Id> {
        let all = self.all();
        let living: Vec<Id> = all
            .iter()
            .filter(|(_, known)| !known.silent)
            .map(|(pid, _)| *pid)
            .collect();
        fastrand::choice(living)
    }

    /// Whose ends are not done with.
    pub(crate) fn open(&self) -> Vec<Id> {
        self.all().keys().copied().collect()
    }
}
