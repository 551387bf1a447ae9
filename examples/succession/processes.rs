//! The processes, as the supervisor knows them.

use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::Sender;

use anyhow::{Context, Result};
use libos_ipc::Identity;

use crate::common::{command, read_lines, spawn};
use crate::record::{Entry, Event, now};

/// The kind of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The process works until the example ends it, and counts its changes of the shared value in that slot of the value.
    Member { slot: usize },
    /// The process ends at once with that code.
    Brief { code: u8 },
}

/// The expected end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The process was told to end, or is brief.
    Code(u8),
    /// The process was killed, at that time or later, as [`now`] returns it.
    Killed { at: u64 },
}

/// A line of a process: the number of the process, and the entry; `None` at the end of its output.
pub(crate) type Line = (usize, Option<Result<Entry>>);

/// A process.
pub(crate) struct Process {
    /// Its index in the list of all processes.
    pub(crate) number: usize,
    pub(crate) identity: Identity,
    pub(crate) kind: Kind,
    /// All that it has reported.
    pub(crate) entries: Vec<Entry>,
    /// How it ends, once that is known.
    pub(crate) end: Option<End>,
    /// Its status on the host, once it has ended.
    pub(crate) status: Option<ExitStatus>,
    /// The VMID of the leader that it follows, and that of the leader's heir; 0 for none.
    pub(crate) leader: u64,
    pub(crate) heir: u64,
    /// The kinds of the children that it was told to prepare.
    pub(crate) requested_children: VecDeque<Kind>,
    child: Child,
    input: Option<ChildStdin>,
}

impl Process {
    pub(crate) fn start(
        number: usize,
        identity: Identity,
        kind: Kind,
        (base, files): (&Path, &Path),
        lines: &Sender<Line>,
    ) -> Result<Process> {
        let mut start = match kind {
            Kind::Member { slot } => {
                let mut start = command("member", base, &identity)?;
                start.args(["--slot", &slot.to_string()]);
                start
            }
            Kind::Brief { code } => {
                let mut start = command("brief", base, &identity)?;
                start.args(["--code", &code.to_string()]);
                start
            }
        };
        start.arg("--files").arg(files);
        start.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(&mut start).context("starting a process")?;
        let lines = lines.clone();
        read_lines(child.stdout.take().context("piped")?, move |entry| {
            lines.send((number, entry)).is_ok()
        });
        Ok(Process {
            number,
            identity,
            kind,
            entries: Vec::new(),
            end: match kind {
                Kind::Member { .. } => None,
                Kind::Brief { code } => Some(End::Code(code)),
            },
            status: None,
            leader: 0,
            heir: 0,
            requested_children: VecDeque::new(),
            input: child.stdin.take(),
            child,
        })
    }

    pub(crate) fn vmid(&self) -> u64 {
        self.identity.vmid.get().into()
    }

    /// Returns its pid, once it has joined.
    pub(crate) fn pid(&self) -> Option<u64> {
        self.entries.iter().find_map(|entry| match entry.event {
            Event::Joined { pid, .. } => Some(pid),
            _ => None,
        })
    }

    /// Returns its slot in the shared value, if it is not brief.
    pub(crate) fn slot(&self) -> Option<usize> {
        match self.kind {
            Kind::Member { slot } => Some(slot),
            Kind::Brief { .. } => None,
        }
    }

    /// Returns true if it works, and is not about to end.
    pub(crate) fn works(&self) -> bool {
        self.slot().is_some() && self.end.is_none() && self.status.is_none()
    }

    /// Returns true if it has reported an event for which `predicate` returns true.
    pub(crate) fn has_reported(&self, predicate: impl Fn(&Event) -> bool) -> bool {
        self.entries.iter().any(|entry| predicate(&entry.event))
    }

    /// Writes a command to its standard input.
    pub(crate) fn command(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("it is piped")?;
        writeln!(input, "{line}").with_context(|| format!("a command for process {}", self.number))
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.end = Some(End::Killed { at: now() });
        Ok(self.child.kill()?)
    }

    /// Handles a line of its output. `None` is the end of the output.
    pub(crate) fn on_line(&mut self, entry: Option<Result<Entry>>) -> Result<()> {
        let Some(entry) = entry else {
            self.status = Some(self.child.wait()?);
            return Ok(());
        };
        let entry = entry?;
        match entry.event {
            Event::Follows { leader } => self.leader = leader,
            Event::Heir { vmid } => self.heir = vmid,
            _ => {}
        }
        self.entries.push(entry);
        Ok(())
    }
}

impl Drop for Process {
    /// Kills the processes, so that none survives, however this ends.
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
