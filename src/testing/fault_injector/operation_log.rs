//! The log of a fault injector's last operations, for the diagnosis of a failed run.

use core::fmt;

use heapless::{HistoryBuf, Vec};

use crate::Vmid;
use crate::pal::{ConnectError, StreamError};

/// The number of operations in the log.
pub const LOG_LENGTH: usize = 64;

/// An operation of the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Opening a stream to that peer.
    Connect(Vmid),
    /// Accepting a stream. Only successes are logged.
    Accept,
    /// Reading from the stream with that number. Streams are numbered in the order of their
    /// opening.
    Read(u64),
    /// Writing to the stream with that number.
    Write(u64),
}

/// The outcome of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The operation succeeded.
    Done,
    /// That many bytes were moved.
    Moved(usize),
    /// No stream was opened.
    NotConnected(ConnectError),
    /// No bytes were moved.
    Failed(StreamError),
}

impl Outcome {
    pub(super) fn of_connect<S>(result: &Result<S, ConnectError>) -> Outcome {
        match result {
            Ok(_) => Outcome::Done,
            Err(error) => Outcome::NotConnected(*error),
        }
    }

    pub(super) fn of_move(result: Result<usize, StreamError>) -> Outcome {
        match result {
            Ok(count) => Outcome::Moved(count),
            Err(error) => Outcome::Failed(error),
        }
    }
}

/// An operation and its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The operation.
    pub operation: Operation,
    /// The length of the buffer, in bytes.
    pub asked: usize,
    /// The outcome.
    pub outcome: Outcome,
}

impl fmt::Display for LogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.operation {
            Operation::Connect(peer) => write!(f, "connect to {peer}")?,
            Operation::Accept => f.write_str("accept")?,
            Operation::Read(stream) => write!(f, "stream {stream}: read {}", self.asked)?,
            Operation::Write(stream) => write!(f, "stream {stream}: write {}", self.asked)?,
        }
        match self.outcome {
            Outcome::Done => f.write_str(": done"),
            Outcome::Moved(count) => write!(f, ": {count}"),
            Outcome::NotConnected(error) => write!(f, ": {error:?}"),
            Outcome::Failed(error) => write!(f, ": {error:?}"),
        }
    }
}

/// The last operations, oldest first. Its `Display` prints one per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationLog(Vec<LogEntry, LOG_LENGTH>);

impl OperationLog {
    /// Iterates over the operations, oldest first.
    pub fn iter(&self) -> core::slice::Iter<'_, LogEntry> {
        self.0.iter()
    }
}

impl<'r> IntoIterator for &'r OperationLog {
    type Item = &'r LogEntry;
    type IntoIter = core::slice::Iter<'r, LogEntry>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for OperationLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|entry| writeln!(f, "{entry}"))
    }
}

/// The ring of the last operations.
#[derive(Debug)]
pub(super) struct LogRing(HistoryBuf<LogEntry, LOG_LENGTH>);

impl LogRing {
    pub(super) const fn new() -> LogRing {
        LogRing(HistoryBuf::new())
    }

    pub(super) fn add(&mut self, entry: LogEntry) {
        self.0.write(entry);
    }

    pub(super) fn all(&self) -> OperationLog {
        OperationLog(self.0.oldest_ordered().copied().collect())
    }
}
