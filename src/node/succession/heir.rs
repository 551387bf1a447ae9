//! The heir: it reads the log of the leader, and has the same state as the leader after each operation.

use core::time::Duration;

use super::log_reader::{LogEnd, LogReader, ReadStage};
use crate::config::Capacities;
use crate::invariant::OrBroken;
use crate::leader::SentFrames;
use crate::node::{Node, PeerRef};
use crate::pal::fault::checked_read;
use crate::pal::{Deadline, LogWriterEnd, Pal, Stream, StreamError, Time};
use crate::store::{Arena, Contended, Rank, SpinLock, total};
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::wire::FrameReader;

/// The maximum length of a record beyond that of the frame in it.
const RECORD_HEADER: usize = 64;

/// The minimum length of the buffer for records.
const MIN_BUFFER: usize = 64 << 10;

/// The most reads of the log in one poll iteration.
const READS_PER_ITERATION: usize = 16;

/// The pause before the log is read again: the shorter one while records come.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(80);

/// A process that may become heir.
pub(in crate::node) struct Heir<'m, S> {
    /// The frames that the leader has queued for each member.
    pub(super) sent: SpinLock<Option<SentFrames<'m>>>,
    reader: SpinLock<LogReader<'m, S>>,
    /// The key with which the next log begins; 0 before the leader has stated it.
    pub(super) key: AtomicU64,
    /// A log stream is open.
    is_reading: AtomicBool,
    /// The log says that this process is the heir: it leads when the leader is gone.
    pub(super) is_named: AtomicBool,
    /// The time at which the log is to be read again, and the pause before that in nanoseconds.
    read_at: AtomicU64,
    pause: AtomicU64,
}

impl<'m, S: Stream> Heir<'m, S> {
    const fn buffer(capacities: &Capacities) -> usize {
        let longest = total!(capacities.frame_length, RECORD_HEADER);
        if longest > MIN_BUFFER {
            longest
        } else {
            MIN_BUFFER
        }
    }

    pub(super) const fn bytes(capacities: &Capacities) -> usize {
        total!(
            Heir::<'m, S>::buffer(capacities),
            SentFrames::bytes(capacities.peers, capacities.send_queue)
        )
    }

    pub(super) fn new(
        arena: &mut Arena<'m>,
        contended: Contended,
        capacities: &Capacities,
    ) -> Self {
        let sent = SentFrames::new(arena, capacities.peers, capacities.send_queue);
        let buffer = arena.alloc_buffer(Heir::<'m, S>::buffer(capacities));
        Heir {
            sent: SpinLock::new(Rank::SentFrames, contended, Some(sent)),
            reader: SpinLock::new(
                Rank::Token,
                contended,
                LogReader {
                    stream: None,
                    frames: FrameReader::with_buffer(buffer),
                    stage: ReadStage::State,
                    has_ended: false,
                    writer_end: LogWriterEnd::Unknown,
                    is_watched: false,
                },
            ),
            key: AtomicU64::new(0),
            is_reading: AtomicBool::new(false),
            is_named: AtomicBool::new(false),
            read_at: AtomicU64::new(0),
            pause: AtomicU64::new(0),
        }
    }
}

impl<'m, P: Pal> Node<'m, P> {
    /// Begins to read a log whose key is the right one. Returns its stream if that is not possible now.
    pub(super) fn begin_to_read(
        &self,
        heir: &'m Heir<'m, P::Stream>,
        stream: P::Stream,
    ) -> Result<(), P::Stream> {
        // The leader may have closed the log before this one.
        self.read_log(heir);
        let Some(mut reader) = heir.reader.try_lock() else {
            return Err(stream);
        };
        if reader.stream.is_some() && !reader.has_ended {
            return Err(stream);
        }
        reader.reset(&self.pal);
        let mut stream = stream;
        stream.accept_log();
        reader.stream = Some(stream);
        reader.watch(&self.pal);
        // A key is for one log.
        heir.key.store(0, Ordering::SeqCst);
        heir.is_named.store(false, Ordering::SeqCst);
        heir.is_reading.store(true, Ordering::SeqCst);
        heir.read_at.store(0, Ordering::SeqCst);
        drop(reader);
        self.wake();
        Ok(())
    }

    /// As an heir: reads the log when it is time. Returns when to run again, if before `until`.
    pub(super) fn poll_heir(&self, until: Deadline) -> Deadline {
        let Some(heir) = self.leadership.heir() else {
            return until;
        };
        if !heir.is_reading.load(Ordering::SeqCst) {
            return until;
        }
        let now = self.now();
        let next = Time(heir.read_at.load(Ordering::SeqCst));
        if now < next {
            return until.min(Deadline::At(next));
        }
        let had_records = self.read_log(heir);
        let twice = Duration::from_nanos(heir.pause.load(Ordering::SeqCst) << 1);
        let pause = if had_records {
            SHORTEST_PAUSE
        } else {
            twice.max(SHORTEST_PAUSE).min(LONGEST_PAUSE)
        };
        let nanos = u64::try_from(pause.as_nanos()).or_broken(0);
        heir.pause.store(nanos, Ordering::SeqCst);
        let next = now + pause;
        heir.read_at.store(next.0, Ordering::SeqCst);
        until.min(Deadline::At(next))
    }

    /// Reads the log because the leader asks for it.
    pub(in crate::node) fn read_log_now(&self) {
        if let Some(heir) = self.leadership.heir()
            && heir.is_reading.load(Ordering::SeqCst)
            && !self.leads()
        {
            self.read_log(heir);
        }
    }

    /// Reads the log as far as it has come, and as a poll iteration allows. Returns true if there were
    /// records.
    fn read_log(&self, heir: &'m Heir<'m, P::Stream>) -> bool {
        let Some(mut reader) = heir.reader.try_lock() else {
            return false;
        };
        let mut had_records = false;
        for _ in 0..READS_PER_ITERATION {
            if reader.stage == ReadStage::Broken || reader.has_ended {
                break;
            }
            let LogReader { stream, frames, .. } = &mut *reader;
            let Some(stream) = stream else { break };
            let space = frames.space();
            let room = space.len();
            match checked_read(stream.read(space), room) {
                Ok(0) | Err(StreamError::Closed) => reader.has_ended = true,
                Ok(count) => {
                    frames.mark_filled(count);
                    had_records = true;
                    self.handle_records(heir, &mut reader);
                }
                Err(StreamError::Interrupted) => {}
                Err(StreamError::WouldBlock) => break,
            }
        }
        if reader.stage == ReadStage::Broken {
            // The leader sees the end of its log, and chooses another heir.
            reader.close(&self.pal);
            heir.is_named.store(false, Ordering::SeqCst);
        }
        if reader.stage == ReadStage::Broken || reader.has_ended {
            heir.is_reading.store(false, Ordering::SeqCst);
        }
        had_records
    }

    /// Reads what is left of the log of a leader that is gone.
    pub(super) fn drain_log_to_end(&self) -> LogEnd {
        let Some(heir) = self.leadership.heir() else {
            return LogEnd::Unfit;
        };
        self.read_log(heir);
        let Some(mut reader) = heir.reader.try_lock() else {
            return LogEnd::Open;
        };
        let has_resigned = match reader.stage {
            ReadStage::Operations => false,
            ReadStage::Resigned => true,
            ReadStage::State | ReadStage::Broken => return LogEnd::Unfit,
        };
        // After its resignation the leader writes nothing.
        if !reader.has_ended && !has_resigned {
            return LogEnd::Open;
        }
        let writer_end = reader.ask_for_writer_end();
        if !heir.is_named.load(Ordering::SeqCst)
            || !has_resigned && writer_end == LogWriterEnd::Revoked
        {
            return LogEnd::Unfit;
        }
        reader.unwatch(&self.pal);
        heir.is_reading.store(false, Ordering::SeqCst);
        LogEnd::Hot {
            is_certain: has_resigned || writer_end == LogWriterEnd::Certain,
        }
    }

    /// Closes the log of the previous leader, because this process leads now.
    pub(super) fn close_read_log(&self, heir: &'m Heir<'m, P::Stream>) {
        if let Some(mut reader) = heir.reader.try_lock() {
            reader.close(&self.pal);
        }
    }

    /// Handles the platform's report that the log has ended. If that proves the end of the leader, this process need not
    /// wait for the ends of the leader's other streams.
    pub(in crate::node) fn log_has_ended(&self) {
        let Some(heir) = self.leadership.heir() else {
            return;
        };
        self.read_log(heir);
        let Some(mut reader) = heir.reader.try_lock() else {
            return;
        };
        // The end of the stream would be reported again.
        reader.unwatch(&self.pal);
        let is_named = heir.is_named.load(Ordering::SeqCst);
        let has_ended = reader.has_ended && reader.ask_for_writer_end() == LogWriterEnd::Certain;
        drop(reader);
        if is_named
            && has_ended
            && self.has_all_for_itself(heir)
            && let Some(leader) = self.peers.find(self.leader_vmid())
        {
            self.disconnect_peer(&leader);
        }
    }

    /// Returns true if the log has all frames of the leader for this process that it has not received.
    pub(super) fn has_all_for_itself(&self, heir: &'m Heir<'m, P::Stream>) -> bool {
        let following = self.leadership.following();
        following.is_some_and(|following| {
            let received = following.received.load(Ordering::SeqCst);
            let sent = heir.sent.lock();
            sent.as_ref()
                .is_some_and(|sent| sent.covers(self.identity.vmid, received))
        })
    }

    /// Closes the log, because this process is no heir any more.
    pub(in crate::node) fn drop_log(&self) {
        let Some(heir) = self.leadership.heir() else {
            return;
        };
        heir.is_named.store(false, Ordering::SeqCst);
        if let Some(mut reader) = heir.reader.try_lock() {
            reader.reset(&self.pal);
            heir.is_reading.store(false, Ordering::SeqCst);
        }
    }

    /// Returns true if this process has a log of the leader, so that it may be the heir.
    pub(super) fn has_log(&self) -> bool {
        self.leadership.heir().is_some_and(|heir| {
            heir.is_named.load(Ordering::SeqCst) || heir.is_reading.load(Ordering::SeqCst)
        })
    }

    /// Handles a MARK of the leader: it asks the heir to read the log, or answers a MARK of this process.
    pub(in crate::node) fn handle_mark_of_leader(
        &self,
        peer: &PeerRef<'_, 'm, P::Stream>,
        number: u64,
    ) {
        self.read_log_now();
        self.handle_mark(peer, number);
    }
}
