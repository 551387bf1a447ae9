//! Snapshots of a working member, for `--top`.

use std::fmt;
use std::io::stdout;
use std::str::FromStr;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};
use libos_ipc::{PendingCall, Statistics};

use crate::common::{Latency, print_line};
use crate::control::MemberMessage;
use crate::figures::Rates;
use crate::platform::FamilyNode;

/// The interval of a member's snapshots.
const SNAPSHOT_INTERVAL: Duration = Duration::from_millis(200);

/// The greatest number of waits in a snapshot: the longest ones.
const MAX_WAITS: usize = 4;

/// What a node does at a moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) rates: Rates,
    /// The waiting calls, the longest first.
    pub(crate) waits: Vec<ReportedCall>,
}

/// A waiting call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ReportedCall {
    pub(crate) waited: Duration,
    /// The request and the peer.
    pub(crate) what: String,
}

impl From<PendingCall> for ReportedCall {
    fn from(waiting: PendingCall) -> ReportedCall {
        ReportedCall {
            waited: waiting.waited,
            what: format!("{} of member {}", waiting.what, waiting.peer),
        }
    }
}

/// The state between two snapshots of a node.
#[derive(Debug)]
pub(crate) struct SnapshotSource {
    /// The time of the last snapshot, and the statistics then.
    last_at: Instant,
    last: Statistics,
}

impl SnapshotSource {
    pub(crate) fn new(node: &FamilyNode) -> SnapshotSource {
        SnapshotSource {
            last_at: Instant::now(),
            last: node.statistics(),
        }
    }

    /// Returns the figures since the last snapshot, and the present waits. `latency` has the requests since then.
    pub(crate) fn take(&mut self, node: &FamilyNode, latency: &Latency) -> Snapshot {
        let (now, statistics) = (Instant::now(), node.statistics());
        let seconds = now.duration_since(self.last_at).as_secs_f64().max(1e-3);
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let rate = |count: u64| (count as f64 / seconds) as u64;
        let rates = Rates {
            requests: rate(latency.requests()),
            p50: latency.percentile_ns(50),
            p99: latency.percentile_ns(99),
            frames_in: rate(statistics.frames_in - self.last.frames_in),
            frames_out: rate(statistics.frames_out - self.last.frames_out),
            waiters: statistics.pools.waiters.now as u64,
            queued: statistics.pools.send_queue.now as u64,
        };
        (self.last_at, self.last) = (now, statistics);
        let mut waits: Vec<ReportedCall> = node.pending_calls().map(ReportedCall::from).collect();
        waits.sort_by_key(|wait| std::cmp::Reverse(wait.waited));
        waits.truncate(MAX_WAITS);
        Snapshot { rates, waits }
    }
}

/// Takes snapshots of a member from time to time, and sends them to the leader's process.
pub(crate) struct Watcher {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Watcher {
    /// Starts to take snapshots. `latency` has the requests since the last snapshot.
    pub(crate) fn start(node: Arc<FamilyNode>, latency: Arc<Mutex<Latency>>) -> Watcher {
        let (stop, stop_receiver) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut source = SnapshotSource::new(&node);
            while stop_receiver.recv_timeout(SNAPSHOT_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let latency = std::mem::take(&mut *lock(&latency));
                let snapshot = source.take(&node, &latency);
                // If the reader is gone, the member's other messages report that.
                let _ = print_line(
                    &mut stdout().lock(),
                    &MemberMessage::Snapshot(Box::new(snapshot)),
                );
            }
        });
        Watcher { stop, thread }
    }

    /// Ends the snapshots.
    pub(crate) fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

/// Locks the latencies that a member and its watcher share.
pub(crate) fn lock(latency: &Mutex<Latency>) -> std::sync::MutexGuard<'_, Latency> {
    latency.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Display for Snapshot {
    /// Writes the figures, and then for each wait its time in nanoseconds and its call: `1200000 GET_ID_OWNER of member
    /// 1;…`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} / ", self.rates)?;
        for ReportedCall { waited, what } in &self.waits {
            write!(f, "{} {what};", waited.as_nanos())?;
        }
        Ok(())
    }
}

impl FromStr for Snapshot {
    type Err = Error;
    fn from_str(line: &str) -> Result<Self> {
        let (rates, waits) = line.split_once('/').context("a snapshot has two parts")?;
        let parse = |text: &str| {
            let (waited, what) = text.split_once(' ').context("a wait has two parts")?;
            Ok(ReportedCall {
                waited: Duration::from_nanos(waited.parse()?),
                what: what.to_owned(),
            })
        };
        let waits = waits.trim_start().split_terminator(';');
        Ok(Snapshot {
            rates: rates.parse()?,
            waits: waits.map(parse).collect::<Result<_>>()?,
        })
    }
}
