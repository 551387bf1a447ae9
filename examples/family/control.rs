//! The messages between the leader's process and a member over the member's standard input and
//! output, one per line. They only control the program: the shared state of the family does not go
//! this way.

use std::fmt;
use std::str::{FromStr, SplitWhitespace};

use anyhow::{Context, Error, Result, bail};
use libos_ipc::{Id, Vmid};

use crate::figures::{Counts, Report};
use crate::snapshot::Snapshot;

/// A command to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// All members have joined: begin.
    Go,
    /// Another member has transferred this ID to the receiver.
    Accept(Id),
    /// That member is dead: transfer no more IDs to it.
    Gone(Vmid),
    /// Stop working. After its answer, `Stopped`, the member transfers no more IDs.
    Stop,
    /// All members have stopped, and the receiver knows of all IDs that were transferred to it:
    /// release all.
    ReleaseAll,
    /// Leave the family.
    Leave,
}

/// A message from a member.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum MemberMessage {
    /// The member has joined the family.
    Ready,
    /// Its progress.
    Progress(Counts),
    /// A snapshot of its node.
    Snapshot(Box<Snapshot>),
    /// The member has transferred an ID to another member, and the leader has confirmed that.
    Transferred { id: Id, to: Vmid },
    /// The member has allocated as many IDs as it should.
    Done,
    /// The member has stopped working.
    Stopped,
    /// The member has released all IDs, and the leader has received that.
    ReleasedAll,
    /// The member has left.
    Report(Box<Report>),
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Go => f.write_str("go"),
            Command::Accept(id) => write!(f, "accept {id}"),
            Command::Gone(vmid) => write!(f, "gone {vmid}"),
            Command::Stop => f.write_str("stop"),
            Command::ReleaseAll => f.write_str("release-all"),
            Command::Leave => f.write_str("leave"),
        }
    }
}

impl FromStr for Command {
    type Err = Error;
    fn from_str(line: &str) -> Result<Self> {
        let mut words = line.split_whitespace();
        Ok(match words.next() {
            Some("go") => Command::Go,
            Some("accept") => Command::Accept(number(&mut words)?),
            Some("gone") => Command::Gone(vmid(&mut words)?),
            Some("stop") => Command::Stop,
            Some("release-all") => Command::ReleaseAll,
            Some("leave") => Command::Leave,
            _ => bail!("{line:?} is no command"),
        })
    }
}

impl fmt::Display for MemberMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemberMessage::Ready => f.write_str("ready"),
            MemberMessage::Progress(counts) => write!(f, "progress {counts}"),
            MemberMessage::Snapshot(snapshot) => write!(f, "snapshot {snapshot}"),
            MemberMessage::Transferred { id, to } => write!(f, "transferred {id} {to}"),
            MemberMessage::Done => f.write_str("done"),
            MemberMessage::Stopped => f.write_str("stopped"),
            MemberMessage::ReleasedAll => f.write_str("released-all"),
            MemberMessage::Report(report) => write!(f, "report {report}"),
        }
    }
}

impl FromStr for MemberMessage {
    type Err = Error;
    fn from_str(line: &str) -> Result<Self> {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut words = rest.split_whitespace();
        Ok(match first {
            "ready" => MemberMessage::Ready,
            "progress" => MemberMessage::Progress(rest.parse()?),
            "snapshot" => MemberMessage::Snapshot(Box::new(rest.parse()?)),
            "transferred" => MemberMessage::Transferred {
                id: number(&mut words)?,
                to: vmid(&mut words)?,
            },
            "done" => MemberMessage::Done,
            "stopped" => MemberMessage::Stopped,
            "released-all" => MemberMessage::ReleasedAll,
            "report" => MemberMessage::Report(Box::new(rest.parse()?)),
            _ => bail!("{line:?} is no message of a member"),
        })
    }
}

fn number(words: &mut SplitWhitespace<'_>) -> Result<u32> {
    Ok(words.next().context("a number is missing")?.parse()?)
}

fn vmid(words: &mut SplitWhitespace<'_>) -> Result<Vmid> {
    Vmid::new(number(words)?).context("0 is no VMID")
}
