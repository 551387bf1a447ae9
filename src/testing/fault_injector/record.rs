//! What was done last, for whoever has to find out why a run failed.

use core::fmt;

use heapless::{HistoryBuf, Vec};

use crate::Vmid;
use crate::pal::{ConnectError, StreamError};

/// How many operations are remembered.
pub const LOG_LENGTH: usize = 64;

/// What was asked of the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A stream to that peer.
    Connect(Vmid),
    /// A stream from a peer. Only successes are logged.
    Accept,
    /// To read from the stream of that number; they are numbered as they are opened.
    Read(u64),
    /// To write to the stream of that number.
    Write(u64),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded.
    Done,
    /// So many bytes were moved.
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

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// What was asked of the platform.
    pub operation: Operation,
    /// How many bytes were to be moved at most.
    pub asked: usize,
    /// What came of it.
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

/// The last operations, oldest first. Its `Display` has one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationLog(Vec<LogEntry, LOG_LENGTH>);

impl OperationLog {
    /// The operations, oldest first.
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
        self.iter().try_for_each(|record| writeln!(f, "{record}"))
    }
}

/// The ring they are kept in.
#[derive(Debug)]
pub(super) struct LogRing(HistoryBuf<LogEntry, LOG_LENGTH>);

impl LogRing {
    pub(super) const fn new() -> LogRing {
        LogRing(HistoryBuf::new())
    }

    pub(super) fn add(&mut self, record: LogEntry) {
        self.0.write(record);
    }

    pub(super) fn all(&self) -> OperationLog {
        OperationLog(self.0.oldest_ordered().copied().collect())
    }
}
