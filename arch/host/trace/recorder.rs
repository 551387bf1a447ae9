//! Writing entries to a file, in a thread that may be as slow as the disk is.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::mem;
use std::path::Path;
use std::string::String;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::vec::Vec;

use zerocopy::{FromBytes, IntoBytes};

use super::pcapng::{write_interface, write_packet, write_section};
use super::record::{RECORD_LENGTH, Record};
use crate::Vmid;
use crate::host::process::Maker;
use crate::pal::Time;

/// How many bytes wait to be written at most; what comes when it is full is lost, and counted.
/// There are two buffers of this size.
const BUFFER: usize = 4 << 20;

/// How long entries are gathered before they are written, if the buffer isn't half full before.
const GATHER: Duration = Duration::from_millis(20);

/// The bytes that say how long an entry in the buffer is.
const LENGTH: usize = size_of::<u32>();

/// What became of a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Entries in the file.
    pub entries: u64,
    /// Frames that are not in it, as the file was not written fast enough.
    pub lost: u64,
}

/// A file that [`Traced`](super::Traced) writes to.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<io::Result<Recorded>>>,
    maker: Maker,
}

/// A way to write entries into the buffer.
#[derive(Clone, Debug)]
pub(super) struct Book(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

/// What waits to be written.
#[derive(Debug, Default)]
struct Waiting {
    entries: Vec<u8>,
    /// Frames for which there was no room since the last entry.
    lost: u64,
    /// The writer sleeps until there is something.
    asleep: bool,
    /// Nothing more is taken.
    closed: bool,
    /// Who records, and what time of day it is at time 0 of its clock.
    origin: Option<(Vmid, u64)>,
}

impl Recorder {
    /// Creates the file, for one member.
    ///
    /// # Errors
    /// If the file can't be created, or the system gives no thread.
    pub fn create(path: &Path) -> io::Result<Recorder> {
        let file = File::create(path)?;
        let shared = Arc::new(Shared {
            waiting: Mutex::new(Waiting {
                entries: Vec::with_capacity(BUFFER),
                ..Waiting::default()
            }),
            changed: Condvar::new(),
        });
        let writer = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("ipc trace".into())
            .spawn(move || {
                let recorded = writer.write_to(file);
                // A file that can't be written costs no more time.
                writer.waiting().closed = true;
                recorded
            })?;
        Ok(Recorder {
            shared,
            thread: Some(thread),
            maker: Maker::this(),
        })
    }

    /// For the member `us`, on whose clock it is `now`.
    pub(super) fn open(&self, us: Vmid, now: Time) -> Book {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let wall = u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX);
        let origin = wall.saturating_sub(now.0);
        self.shared.waiting().origin.get_or_insert((us, origin));
        Book(Arc::clone(&self.shared))
    }

    /// Writes what waits, and closes the file. What the node does after that is not recorded.
    ///
    /// # Errors
    /// Why the file could not be written; all before that is in it.
    pub fn finish(mut self) -> io::Result<Recorded> {
        self.end().unwrap_or(Ok(Recorded::default()))
    }

    fn end(&mut self) -> Option<io::Result<Recorded>> {
        let thread = self.thread.take()?;
        self.shared.waiting().closed = true;
        self.shared.changed.notify_all();
        let recorded = thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the writer has panicked")));
        Some(recorded)
    }
}

impl Drop for Recorder {
    /// As [`Recorder::finish`], whose errors are lost. A process that was forked has no writer to
    /// wait for, and leaves the file to its maker.
    fn drop(&mut self) {
        if self.maker.is_this() {
            self.end();
        } else {
            mem::forget(self.thread.take());
        }
    }
}

impl Book {
    /// Puts an entry where the writer finds it, if there is room.
    pub(super) fn write(&self, record: &Record, bytes: &[u8]) {
        let mut waiting = self.0.waiting();
        if waiting.closed {
            return;
        }
        let length = RECORD_LENGTH.saturating_add(bytes.len());
        let needed = length.saturating_add(LENGTH);
        let used = waiting.entries.len();
        let Ok(stated) = u32::try_from(length) else {
            return;
        };
        if needed > BUFFER.saturating_sub(used) {
            waiting.lost = waiting.lost.saturating_add(1);
            return;
        }
        waiting.entries.extend_from_slice(stated.as_bytes());
        waiting.entries.extend_from_slice(record.as_bytes());
        waiting.entries.extend_from_slice(bytes);
        let half = BUFFER / 2;
        let wake = mem::take(&mut waiting.asleep) || used < half && waiting.entries.len() >= half;
        drop(waiting);
        if wake {
            self.0.changed.notify_all();
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for entries, for long enough to get many at once. They go into `batch`, which is empty.
    fn gather(&self, batch: &mut Vec<u8>) -> Batch {
        let mut waiting = self.waiting();
        waiting.asleep = true;
        let mut waiting = self
            .changed
            .wait_while(waiting, |waiting| {
                waiting.entries.is_empty() && waiting.lost == 0 && !waiting.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        waiting.asleep = false;
        let (mut waiting, _) = self
            .changed
            .wait_timeout_while(waiting, GATHER, |waiting| {
                waiting.entries.len() < BUFFER / 2 && !waiting.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        mem::swap(&mut waiting.entries, batch);
        Batch {
            lost: mem::take(&mut waiting.lost),
            is_last: waiting.closed,
            origin: waiting.origin,
        }
    }

    /// Writes the file until the recorder is closed.
    fn write_to(&self, file: File) -> io::Result<Recorded> {
        let mut file = begin(file)?;
        let mut batch = Vec::with_capacity(BUFFER);
        let mut recorded = Recorded::default();
        let (mut begun, mut last) = (false, 0);
        loop {
            let Batch {
                lost,
                is_last,
                origin,
            } = self.gather(&mut batch);
            if let Some((us, origin)) = origin {
                if !begun {
                    write_interface(&mut file, &interface_name(us.get()))?;
                    begun = true;
                }
                let mut rest = batch.as_slice();
                while let Some((record, bytes, after)) = next_entry(rest) {
                    rest = after;
                    last = record.time();
                    write_entry(&mut file, 0, origin, &record, bytes)?;
                    recorded.entries = recorded.entries.saturating_add(1);
                }
                if lost > 0 {
                    recorded.lost = recorded.lost.saturating_add(lost);
                    let record = Record::lost(us.get(), lost, last);
                    write_entry(&mut file, 0, origin, &record, &[])?;
                }
            }
            batch.clear();
            file.flush()?;
            if is_last {
                return Ok(recorded);
            }
        }
    }
}

/// What was gathered besides the entries.
struct Batch {
    lost: u64,
    is_last: bool,
    origin: Option<(Vmid, u64)>,
}

/// The first entry of the buffer, and what comes after it.
fn next_entry(bytes: &[u8]) -> Option<(Record, &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
    let (entry, after) = rest.split_at_checked(u32::from_ne_bytes(*length) as usize)?;
    let (record, bytes) = Record::read_from_prefix(entry).ok()?;
    Some((record, bytes, after))
}

/// A pcapng file with nothing in it.
pub(super) fn begin(file: File) -> io::Result<BufWriter<File>> {
    let mut file = BufWriter::new(file);
    write_section(&mut file, concat!("libos-ipc ", env!("CARGO_PKG_VERSION")))?;
    Ok(file)
}

/// What stands in the file for the member that sends.
pub(super) fn interface_name(vmid: u32) -> String {
    std::format!("member {vmid}")
}

/// Writes one entry, at the time of day that its own is if the clock was 0 at `origin`.
pub(super) fn write_entry(
    file: &mut impl Write,
    interface: u32,
    origin: u64,
    record: &Record,
    bytes: &[u8],
) -> io::Result<()> {
    let time = origin.saturating_add(record.time());
    write_packet(file, interface, time, [record.as_bytes(), bytes])
}
