//! The innocent member: it makes calls in a loop and measures each.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;
use libos_ipc::host::HostNode;
use libos_ipc::{Config, Error, Exit, FileLock, LockFamily, LockKind, Wait};

use crate::common::{Latency, ProcessOptions, exit_family, send, stop_at_input_end};

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(60));

/// An ID that no process has, so that each look-up asks the leader.
const UNUSED_ID: u32 = 4_000_000;

/// The number of look-ups for each pair of lock calls.
const LOOKUPS: u32 = 8;

/// The time for which the member uses one of the files that the attacker requests as well, in milliseconds.
const FILE_TIME_MS: u64 = 100;

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    process: ProcessOptions,
    /// Lock files that the attacker requests as well
    #[arg(long)]
    shares_files: bool,
}

/// The measurements of the calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    pub(crate) lookups: Latency,
    pub(crate) locks: Latency,
    /// The number of calls that were refused, and the first error.
    pub(crate) refused: u64,
    pub(crate) error: String,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured {
            lookups,
            locks,
            refused,
            error,
        } = self;
        write!(f, "{lookups};{locks};{refused};{error}")
    }
}

impl FromStr for Measured {
    type Err = anyhow::Error;
    fn from_str(line: &str) -> Result<Self> {
        let mut parts = line.splitn(4, ';');
        let mut part = || parts.next().context("a part is missing");
        Ok(Measured {
            lookups: part()?.parse()?,
            locks: part()?.parse()?,
            refused: part()?.parse()?,
            error: part()?.to_owned(),
        })
    }
}

impl Measured {
    /// Records the error of a call, if it has failed.
    fn record_error(&mut self, outcome: Result<(), Error>) {
        if let Err(error) = outcome {
            self.refused += 1;
            if self.error.is_empty() {
                self.error = error.to_string();
            }
        }
    }
}

/// Returns the path of the file that the innocent locks at present, or so many files later. The attacker knows them in
/// advance.
pub(crate) fn shared_file(ahead: u64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let number = u64::try_from(now.as_millis()).unwrap_or(0) / FILE_TIME_MS;
    format!("/siege/shared/{}", number + ahead)
}

/// Runs until the leader closes the standard input, and reports the measurements.
pub(crate) fn run(options: &Options) -> Result<()> {
    let process = &options.process;
    let node = HostNode::start(&process.base, process.identity, Config::DEFAULT)?;
    let pid = node.join(WAIT)?;
    let stop = stop_at_input_end(|| ());
    let mut measured = Measured::default();
    node.owner_of(UNUSED_ID, WAIT)?;
    send(&"ready");
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..LOOKUPS {
            let start = Instant::now();
            let outcome = node.owner_of(UNUSED_ID, WAIT).map(drop);
            measured.lookups.add(start.elapsed().as_nanos());
            measured.record_error(outcome);
        }
        // The leader decides about the lock of an open file; record locks may be delegated. The
        // attacker may lock the shared files as well, but only for reading.
        let (path, family, kind) = if options.shares_files {
            (shared_file(0), LockFamily::Posix, LockKind::Read)
        } else {
            (
                "/siege/innocent".to_owned(),
                LockFamily::Flock,
                LockKind::Write,
            )
        };
        for kind in [kind, LockKind::Unlock] {
            let lock = FileLock {
                family,
                kind,
                start: 0,
                end: u64::MAX,
                pid: pid.get(),
                handle: 1,
                wait: true,
                path: path.as_bytes(),
            };
            let start = Instant::now();
            let outcome = node.set_lock(&lock, WAIT);
            measured.locks.add(start.elapsed().as_nanos());
            measured.record_error(outcome);
        }
    }
    send(&measured);
    exit_family(&node, Exit::default(), WAIT)
}
