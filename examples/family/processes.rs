//! The member processes, as the leader's process sees them.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command as Process, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libos_ipc::{Id, Vmid};

use crate::common::{print_line, read_lines, spawn};
use crate::control::{Command, MemberMessage};
use crate::figures::{Counts, Report};
use crate::id_log;
use crate::key::Key;
use crate::snapshot::Snapshot;

/// The progress of a member: its last message of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Started,
    Ready,
    Done,
    Stopped,
    ReleasedAll,
    Reported,
}

/// One member process.
pub(crate) struct Member {
    pub(crate) vmid: Vmid,
    /// The file of its ID log.
    pub(crate) log: PathBuf,
    pub(crate) stage: Stage,
    pub(crate) counts: Counts,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) report: Option<Report>,
    pub(crate) exit: Option<ExitStatus>,
    /// The time at which it was killed, if it was, as [`id_log::now`] returns it.
    pub(crate) killed_at: Option<u64>,
    /// Its output has ended.
    pub(crate) output_ended: bool,
    process: Child,
    input: Option<ChildStdin>,
}

impl Member {
    pub(crate) fn is_killed(&self) -> bool {
        self.killed_at.is_some()
    }

    fn send(&mut self, command: Command) {
        // A dead member receives nothing; its death is detected elsewhere.
        if let Some(input) = &mut self.input {
            let _ = print_line(input, &command);
        }
    }
}

/// An ID that was transferred from one member to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TransferredId {
    pub(crate) id: Id,
    pub(crate) from: Vmid,
    pub(crate) to: Vmid,
}

/// The output of a member, which is named by its index.
enum Output {
    Message(usize, Result<MemberMessage>),
    End(usize),
}

/// All members.
pub(crate) struct Processes {
    pub(crate) members: Vec<Member>,
    pub(crate) transferred: Vec<TransferredId>,
    /// The output of the members: the end that its readers use, and that of this process.
    output_sender: Sender<Output>,
    outputs: Receiver<Output>,
}

/// The parameters of a member.
pub(crate) struct Start<'a> {
    pub(crate) base: &'a Path,
    pub(crate) key: &'a Key,
    pub(crate) vmid: Vmid,
    pub(crate) others: Vec<Vmid>,
    pub(crate) log: PathBuf,
    pub(crate) seed: u64,
    pub(crate) ids: Option<u64>,
    pub(crate) traces: Option<&'a Path>,
    /// Whether the member sends snapshots of its node.
    pub(crate) is_watched: bool,
}

impl Processes {
    pub(crate) fn new() -> Processes {
        let (output_sender, outputs) = mpsc::channel();
        Processes {
            members: Vec::new(),
            transferred: Vec::new(),
            output_sender,
            outputs,
        }
    }

    /// Starts a member: the same program in another role.
    pub(crate) fn start(&mut self, start: Start<'_>) -> Result<()> {
        let program = std::env::current_exe().context("where is this program?")?;
        let others: Vec<String> = start.others.iter().map(Vmid::to_string).collect();
        let mut command = Process::new(program);
        command.arg("member").arg("--base").arg(start.base);
        command.args([
            "--vmid",
            &start.vmid.to_string(),
            "--seed",
            &start.seed.to_string(),
        ]);
        command.arg("--log").arg(&start.log);
        if !others.is_empty() {
            command.args(["--others", &others.join(",")]);
        }
        if let Some(ids) = start.ids {
            command.args(["--ids", &ids.to_string()]);
        }
        if let Some(traces) = start.traces {
            command.arg("--traces").arg(traces);
        }
        if start.is_watched {
            command.arg("--watched");
        }
        if start.key.is_set() {
            command.arg("--secure");
        }
        // The member gets a group of its own: an interrupt from the keyboard is for the leader,
        // which ends all.
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0);
        let mut process =
            spawn(&mut command).with_context(|| format!("starting member {}", start.vmid))?;
        let output = process.stdout.take().context("a pipe was asked for")?;
        let mut input = process.stdin.take();
        if let Some(input) = &mut input {
            start
                .key
                .send(input)
                .context("sending the key to a member")?;
        }
        let (index, sender) = (self.members.len(), self.output_sender.clone());
        read_lines(output, move |line| {
            let output = line.map_or(Output::End(index), |message| {
                Output::Message(index, message)
            });
            sender.send(output).is_ok()
        });
        self.members.push(Member {
            vmid: start.vmid,
            log: start.log,
            stage: Stage::Started,
            counts: Counts::default(),
            snapshot: None,
            report: None,
            exit: None,
            killed_at: None,
            output_ended: false,
            process,
            input,
        });
        Ok(())
    }

    pub(crate) fn member(&self, vmid: Vmid) -> Option<&Member> {
        self.members.iter().find(|member| member.vmid == vmid)
    }

    fn member_mut(&mut self, vmid: Vmid) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.vmid == vmid)
    }

    /// Iterates over the members that were not killed.
    pub(crate) fn living(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.is_killed())
    }

    /// Returns true if all members that were not killed have reached that stage.
    pub(crate) fn all_at(&self, stage: Stage) -> bool {
        self.living().all(|member| member.stage >= stage)
    }

    pub(crate) fn send_all(&mut self, command: Command) {
        for member in self.members.iter_mut().filter(|member| !member.is_killed()) {
            member.send(command);
        }
    }

    /// Kills a member, and notifies the others.
    pub(crate) fn kill(&mut self, victim: Vmid) -> Result<()> {
        let member = self.member_mut(victim).context("no such member")?;
        member.killed_at = Some(id_log::now());
        member.process.kill()?;
        self.send_all(Command::Gone(victim));
        let member = self.member_mut(victim).context("no such member")?;
        member.input = None;
        member.exit = Some(member.process.wait()?);
        Ok(())
    }

    /// Receives messages of the members until `is_done` returns true. `tick` is called from time to time in between.
    ///
    /// # Errors
    /// An error that names `what`, if that takes more than `limit`.
    pub(crate) fn listen_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut tick: impl FnMut(&Processes),
        mut is_done: impl FnMut(&Processes) -> bool,
    ) -> Result<()> {
        let until = Instant::now() + limit;
        let mut next_tick = Instant::now();
        while !is_done(self) {
            let now = Instant::now();
            if now >= until {
                let stages: Vec<String> = self
                    .members
                    .iter()
                    .map(|member| format!("{} {:?}", member.vmid, member.stage))
                    .collect();
                bail!(
                    "{what} took more than {limit:?} (members: {})",
                    stages.join(", ")
                );
            }
            if now >= next_tick {
                tick(self);
                next_tick = now + Duration::from_millis(100);
            }
            match self.outputs.recv_timeout(Duration::from_millis(10)) {
                Ok(Output::Message(index, message)) => self.on_message(index, message)?,
                Ok(Output::End(index)) => self.on_output_end(index)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
        tick(self);
        Ok(())
    }

    fn on_message(&mut self, index: usize, message: Result<MemberMessage>) -> Result<()> {
        let member = &mut self.members[index];
        let from = member.vmid;
        match message.with_context(|| format!("a message of member {from}"))? {
            MemberMessage::Ready => member.stage = Stage::Ready,
            MemberMessage::Progress(counts) => member.counts = counts,
            MemberMessage::Snapshot(snapshot) => member.snapshot = Some(*snapshot),
            MemberMessage::Done => member.stage = Stage::Done,
            MemberMessage::Stopped => member.stage = Stage::Stopped,
            MemberMessage::ReleasedAll => member.stage = Stage::ReleasedAll,
            MemberMessage::Report(report) => {
                member.stage = Stage::Reported;
                member.counts = report.counts;
                member.report = Some(*report);
            }
            MemberMessage::Transferred { id, to } => {
                self.transferred.push(TransferredId { id, from, to });
                if let Some(to) = self.member_mut(to) {
                    to.send(Command::Accept(id));
                }
            }
        }
        Ok(())
    }

    fn on_output_end(&mut self, index: usize) -> Result<()> {
        let member = &mut self.members[index];
        member.output_ended = true;
        if !member.is_killed() {
            let exit = member.process.wait()?;
            member.exit = Some(exit);
            if member.stage != Stage::Reported {
                bail!("member {} ended in mid-work: {exit}", member.vmid);
            }
        }
        Ok(())
    }
}

impl Drop for Processes {
    /// Kills the processes, so that none survives, however this ends.
    fn drop(&mut self) {
        for member in &mut self.members {
            if member.exit.is_none() {
                let _ = member.process.kill();
                let _ = member.process.wait();
            }
        }
    }
}
