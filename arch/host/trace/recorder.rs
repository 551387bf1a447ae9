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
use crate::host::process::Creator;
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
pub struct Recording {
    /// Entries in the file.
    pub entries: u64,
    /// Frames that are not in it, as the file was not written fast enough.
    pub lost: u64,
}

/// A file that [`TracedPal`](super::TracedPal) writes to.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<io::Result<Recording>>>,
    creator: Creator,
}

/// A way to write entries into the buffer.
#[derive(Clone, Debug)]
pub(super) struct EntryQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Condvar,
}

/// What waits to be written.
#[derive(Debug, Default)]
struct Pending {
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
            pending: Mutex::new(Pending {
                entries: Vec::with_capacity(BUFFER),
                ..Pending::default()
            }),
            changed: Condvar::new(),
        });
        let writer = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("ipc trace".into())
            .spawn(move || {
                let recorded = writer.write_to(file);
                // A file that can't be written costs no more time.
                writer.pending().closed = true;
                recorded
            })?;
        Ok(Recorder {
            shared,
            thread: Some(thread),
            creator: Creator::this(),
        })
    }

    /// For the member `us`, on whose clock it is `now`.
    pub(super) fn open(&self, us: Vmid, now: Time) -> EntryQueue {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let wall = u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX);
        let origin = wall.saturating_sub(now.0);
        self.shared.pending().origin.get_or_insert((us, origin));
        EntryQueue(Arc::clone(&self.shared))
    }

    /// Writes what waits, and closes the file. What the node does after that is not recorded.
    ///
    /// # Errors
    /// Why the file could not be written; all before that is in it.
    pub fn finish(mut self) -> io::Result<Recording> {
        self.end().unwrap_or(Ok(Recording::default()))
    }

    fn end(&mut self) -> Option<io::Result<Recording>> {
        let thread = self.thread.take()?;
        self.shared.pending().closed = true;
        self.shared.changed.notify_all();
        let recorded = thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the writer has panicked")));
        Some(recorded)
    }
}

impl Drop for Recorder {
    /// As [`Recorder::finish`], whose errors are lost. A process that was forked has no writer to
    /// wait for, and leaves the file to its creator.
    fn drop(&mut self) {
        if self.creator.is_this() {
            self.end();
        } else {
            mem::forget(self.thread.take());
        }
    }
}

impl EntryQueue {
    /// Puts an entry where the writer finds it, if there is room.
    pub(super) fn write(&self, record: &Record, bytes: &[u8]) {
        let mut pending = self.0.pending();
        if pending.closed {
            return;
        }
        let length = RECORD_LENGTH.saturating_add(bytes.len());
        let needed = length.saturating_add(LENGTH);
        let used = pending.entries.len();
        let Ok(stated) = u32::try_from(length) else {
            return;
        };
        if needed > BUFFER.saturating_sub(used) {
            pending.lost = pending.lost.saturating_add(1);
            return;
        }
        pending.entries.extend_from_slice(stated.as_bytes());
        pending.entries.extend_from_slice(record.as_bytes());
        pending.entries.extend_from_slice(bytes);
        let half = BUFFER / 2;
        let wake = mem::take(&mut pending.asleep) || used < half && pending.entries.len() >= half;
        drop(pending);
        if wake {
            self.0.changed.notify_all();
        }
    }
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for entries, for long enough to get many at once. They go into `batch`, which is empty.
    fn gather(&self, batch: &mut Vec<u8>) -> Batch {
        let mut pending = self.pending();
        pending.asleep = true;
        let mut pending = self
            .changed
            .wait_while(pending, |pending| {
                pending.entries.is_empty() && pending.lost == 0 && !pending.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        pending.asleep = false;
        let (mut pending, _) = self
            .changed
            .wait_timeout_while(pending, GATHER, |pending| {
                pending.entries.len() < BUFFER / 2 && !pending.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        mem::swap(&mut pending.entries, batch);
        Batch {
            lost: mem::take(&mut pending.lost),
            is_last: pending.closed,
            origin: pending.origin,
        }
    }

    /// Writes the file until the recorder is closed.
    fn write_to(&self, file: File) -> io::Result<Recording> {
        let mut file = begin(file)?;
        let mut batch = Vec::with_capacity(BUFFER);
        let mut recorded = Recording::default();
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
