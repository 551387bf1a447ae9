//! The counts of a process, and latencies, by kind.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result};

use crate::common::{Latency, figures};

figures!(
    /// The counts of a process since its last report.
    Counts {
        // IDs that it allocated and released.
        taken, released,
        // Signals that the first process accepted, and signals that other processes accepted.
        to_first, to_others,
        // Delivered signals of the first process, by their kind of target.
        from_first, by_group, to_all,
        // Changes of shared values.
        changes,
        // Lock requests that were refused as deadlocks.
        deadlocks,
        // 1 in the last report, after the end of the process in the family.
        is_last,
    }
);

/// The kinds of timed work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Join,
    Id,
    Process,
    Signal,
    Metadata,
    OwnLock,
    SharedLock,
    OwnValue,
    SharedValue,
    Exit,
    /// In the first process: from the end of a process until its parent, the first process, has reaped it.
    Wait,
}

impl Kind {
    pub(crate) const ALL: [(Kind, &'static str); 11] = [
        (Kind::Join, "join"),
        (Kind::Id, "take, look up, release an ID"),
        (Kind::Process, "ask about a process"),
        (Kind::Signal, "signal a process"),
        (Kind::Metadata, "ask for a path or credentials"),
        (Kind::OwnLock, "lock in a file of one's own"),
        (Kind::SharedLock, "lock in a shared file"),
        (Kind::OwnValue, "value of one's own"),
        (Kind::SharedValue, "shared value"),
        (Kind::Exit, "exit"),
        (Kind::Wait, "wait for an ended child"),
    ];
}

/// The latencies of each kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Latencies([Latency; Kind::ALL.len()]);

impl Latencies {
    pub(crate) fn of(&self, kind: Kind) -> &Latency {
        &self.0[kind as usize]
    }

    pub(crate) fn of_mut(&mut self, kind: Kind) -> &mut Latency {
        &mut self.0[kind as usize]
    }
}

/// The report of a process.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    pub(crate) counts: Counts,
    pub(crate) latencies: Latencies,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Report) {
        self.counts += other.counts;
        for (sum, latency) in self.latencies.0.iter_mut().zip(&other.latencies.0) {
            sum.merge(latency);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts.fmt(f)?;
        self.latencies
            .0
            .iter()
            .try_for_each(|latency| write!(f, "/{latency}"))
    }
}

impl FromStr for Report {
    type Err = Error;
    fn from_str(line: &str) -> Result<Self> {
        let mut parts = line.split('/');
        let mut report = Report {
            counts: parts.next().unwrap_or_default().parse()?,
            latencies: Latencies::default(),
        };
        for latency in &mut report.latencies.0 {
            *latency = parts.next().context("a kind is missing")?.parse()?;
        }
        Ok(report)
    }
}
