//! Writes entries to a file, in a thread that may be as slow as the disk.

use crate::invariant::Count;
use crate::store::total;
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

use super::entry_header::{EntryHeader, HEADER_LENGTH};
use super::pcapng::{write_interface, write_packet, write_section};
use crate::Vmid;
use crate::host::creator::Creator;
use crate::pal::Time;

/// The greatest number of bytes that wait to be written. Entries that find no room are lost, and
/// counted. There are two buffers of this size.
const BUFFER: usize = 4 << 20;

/// The time for which entries are gathered before they are written, unless the buffer is half full
/// before.
const GATHER: Duration = Duration::from_millis(20);

/// The length of the length field of an entry in the buffer.
const LENGTH: usize = size_of::<u32>();

/// The counts of a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(feature = "testing"), non_exhaustive)]
pub struct Recording {
    /// Entries in the file.
    pub entries: u64,
    /// Frames that are not in the file, since it was not written fast enough.
    pub lost: u64,
}

/// A file that [`TracedPal`](super::TracedPal) writes to.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<RecorderState>,
    thread: Option<JoinHandle<io::Result<Recording>>>,
    creator: Creator,
}

/// A queue of entries for the writer.
#[derive(Clone, Debug)]
pub(super) struct EntryQueue(Arc<RecorderState>);

#[derive(Debug)]
struct RecorderState {
    pending: Mutex<Pending>,
    changed: Condvar,
}

/// The entries that wait to be written.
#[derive(Debug, Default)]
struct Pending {
    entries: Vec<u8>,
    /// The number of frames without room since the last entry.
    lost: u64,
    /// The writer sleeps until there is an entry.
    is_asleep: bool,
    /// No more entries are accepted.
    is_closed: bool,
    /// The recording member, and the time of day at time 0 of its clock.
    origin: Option<(Vmid, u64)>,
}

impl Recorder {
    /// Creates the file, for one member.
    ///
    /// # Errors
    /// If the file can't be created, or the system can't start a thread.
    pub fn create(path: &Path) -> io::Result<Recorder> {
        let file = File::create(path)?;
        let shared = Arc::new(RecorderState {
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
                // After an error no more entries are copied for a file that can't be written.
                writer.pending().is_closed = true;
                recorded
            })?;
        Ok(Recorder {
            shared,
            thread: Some(thread),
            creator: Creator::this(),
        })
    }

    /// Opens the queue of the member `us`, whose clock is at `now`.
    pub(super) fn open(&self, us: Vmid, now: Time) -> EntryQueue {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let wall = u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX);
        let origin = wall.saturating_sub(now.0);
        self.shared.pending().origin.get_or_insert((us, origin));
        EntryQueue(Arc::clone(&self.shared))
    }

    /// Writes the waiting entries, and closes the file. Later frames of the node are not recorded.
    ///
    /// # Errors
    /// The error of writing the file; it has all entries from before.
    pub fn finish(mut self) -> io::Result<Recording> {
        self.end().unwrap_or(Ok(Recording::default()))
    }

    fn end(&mut self) -> Option<io::Result<Recording>> {
        let thread = self.thread.take()?;
        self.shared.pending().is_closed = true;
        self.shared.changed.notify_all();
        let recorded = thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the writer has panicked")));
        Some(recorded)
    }
}

impl Drop for Recorder {
    /// Like [`Recorder::finish`], without its error. A forked process has no writer to wait for,
    /// and leaves the file to its creator.
    fn drop(&mut self) {
        if self.creator.is_this() {
            self.end();
        } else {
            mem::forget(self.thread.take());
        }
    }
}

impl EntryQueue {
    /// Adds an entry for the writer, if there is room.
    pub(super) fn write(&self, header: &EntryHeader, bytes: &[u8]) {
        let mut pending = self.0.pending();
        if pending.is_closed {
            return;
        }
        let length = total!(HEADER_LENGTH, bytes.len());
        let needed = total!(length, LENGTH);
        let used = pending.entries.len();
        let Ok(stated) = u32::try_from(length) else {
            return;
        };
        if needed > BUFFER.minus(used) {
            pending.lost.increment();
            return;
        }
        pending.entries.extend_from_slice(stated.as_bytes());
        pending.entries.extend_from_slice(header.as_bytes());
        pending.entries.extend_from_slice(bytes);
        let half = BUFFER / 2;
        let wake =
            mem::take(&mut pending.is_asleep) || used < half && pending.entries.len() >= half;
        drop(pending);
        if wake {
            self.0.changed.notify_all();
        }
    }
}

impl RecorderState {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for entries, long enough to get many at once, and moves them to `batch`, which is
    /// empty.
    fn gather(&self, batch: &mut Vec<u8>) -> Batch {
        let mut pending = self.pending();
        pending.is_asleep = true;
        let mut pending = self
            .changed
            .wait_while(pending, |pending| {
                pending.entries.is_empty() && pending.lost == 0 && !pending.is_closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        pending.is_asleep = false;
        let (mut pending, _) = self
            .changed
            .wait_timeout_while(pending, GATHER, |pending| {
                pending.entries.len() < BUFFER / 2 && !pending.is_closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        mem::swap(&mut pending.entries, batch);
        Batch {
            lost: mem::take(&mut pending.lost),
            is_last: pending.is_closed,
            origin: pending.origin,
        }
    }

    /// Writes the file until the recorder is closed.
    fn write_to(&self, file: File) -> io::Result<Recording> {
        let mut file = begin_file(file)?;
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
                while let Some((header, bytes, after)) = next_entry(rest) {
                    rest = after;
                    last = header.time();
                    write_entry(&mut file, 0, origin, &header, bytes)?;
                    recorded.entries.increment();
                }
                if lost > 0 {
                    recorded.lost = recorded.lost.saturating_add(lost);
                    let header = EntryHeader::lost(us.get(), lost, last);
                    write_entry(&mut file, 0, origin, &header, &[])?;
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

/// The facts about a batch of entries that its bytes do not have.
struct Batch {
    lost: u64,
    is_last: bool,
    origin: Option<(Vmid, u64)>,
}

/// Returns the first entry of the buffer, and the bytes after it.
fn next_entry(bytes: &[u8]) -> Option<(EntryHeader, &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
    let (entry, after) = rest.split_at_checked(u32::from_ne_bytes(*length) as usize)?;
    let (header, bytes) = EntryHeader::read_from_prefix(entry).ok()?;
    Some((header, bytes, after))
}

/// Begins an empty pcapng file.
pub(super) fn begin_file(file: File) -> io::Result<BufWriter<File>> {
    let mut file = BufWriter::new(file);
    write_section(&mut file, concat!("libos-ipc ", env!("CARGO_PKG_VERSION")))?;
    Ok(file)
}

/// Returns the name of the interface of the sending member.
pub(super) fn interface_name(vmid: u32) -> String {
    std::format!("member {vmid}")
}

/// Writes one entry, with the time of day that follows from `origin`, the time of day at time 0 of
/// the clock.
pub(super) fn write_entry(
    file: &mut impl Write,
    interface: u32,
    origin: u64,
    header: &EntryHeader,
    bytes: &[u8],
) -> io::Result<()> {
    let time = origin.saturating_add(header.time());
    write_packet(file, interface, time, [header.as_bytes(), bytes])
}
