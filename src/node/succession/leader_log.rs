//! The leader's log: each operation is written to the heir before a byte that could reveal it leaves.
//!
//! An operation is appended under the lock of the tables, so the order of the log is the order of the
//! operations. A queue of a peer is written only after all that was appended before
//! ([`Node::flush_log`](crate::node::Node::flush_log)). What a stream has taken outlives the writer, so no confirmation is awaited.

use super::transfer_progress::TransferProgress;
use crate::Vmid;
use crate::config::Capacities;
use crate::leader::{Leader, Op, OpObserver, Outcome};
use crate::pal::Stream;
use crate::store::{Arena, Buffer, Contended, Rank, SpinLock, total};
use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::wire::{FrameWriter, Message};

/// The minimum length of the two buffers of the log together, in bytes.
const MIN_BUFFERS: usize = 128 << 10;

/// The bytes of a record beside its operation's message: the header of a frame and that of the operation.
const RECORD_HEADER: usize = 64;

/// The number of writes after which the heir is asked to read, on a stream that may hold few writes.
const WRITES_PER_MARK: u64 = 64;

/// The stage of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum LogStage {
    /// There is no heir.
    Off = 0,
    /// The state goes to the heir. Operations are not appended.
    Transferring = 1,
    /// The heir has the state, and has not confirmed it. Operations are appended.
    Unconfirmed = 2,
    /// The heir is named to the members.
    Hot = 3,
    /// The leader has resigned: nothing is appended any more.
    Resigned = 4,
}

/// The records that wait to be written.
pub(super) struct LogQueue<'m> {
    pub(super) filling: FrameWriter<'m>,
    /// Room for one encoded operation.
    scratch: Buffer<'m>,
}

/// The state of the thread that writes the log.
pub(super) struct LogWriter<'m, S> {
    pub(super) stream: Option<S>,
    pub(super) draining: FrameWriter<'m>,
    /// The bytes of the [header](super::log_key::log_header) that were written.
    pub(super) header_sent: usize,
    pub(super) transfer: TransferProgress<'m>,
}

/// The log of a leader.
pub(in crate::node) struct Log<'m, S> {
    stage: AtomicU8,
    pub(super) heir: AtomicU32,
    /// The key with which it begins.
    pub(super) key: AtomicU64,
    /// The number of bytes that were appended, and of those that were written.
    pub(super) appended: AtomicU64,
    pub(super) written: AtomicU64,
    /// The operations that were appended since all was written.
    pub(super) unwritten_ops: AtomicU64,
    half: usize,
    /// The number of bytes that may wait to be written; new operations wait while there are more.
    limit: u64,
    /// The log lost a record, since there was no room.
    pub(super) has_overflowed: AtomicBool,
    /// The number of messages that were put into the queues of peers, and whose operations are not appended yet.
    pub(super) queuing: AtomicU32,
    /// A queue of a peer waits until the log is written.
    pub(super) is_awaited: AtomicBool,
    /// The time since which the log can't be written; 0 if it can.
    pub(super) blocked_since: AtomicU64,
    /// The time at which the next heir may be chosen.
    pub(super) choose_at: AtomicU64,
    /// A member may have become fit to be the heir since none was found.
    pub(super) is_choice_due: AtomicBool,
    /// The heir's process or its connection may have ended.
    pub(super) has_heir_ended: AtomicBool,
    /// The number of heirs that were lost, one after another, before one was named.
    pub(super) losses: AtomicU32,
    /// The platforms of this process and of the heir both carry the log in another way than through the stream.
    pub(super) is_shared: AtomicBool,
    /// The bytes that the stream holds, if writes of any length fill it alike; else 0.
    holds: AtomicU64,
    /// The bytes that were written since the heir was asked to read, or the number of writes if `holds` is 0.
    pub(super) unread: AtomicU64,
    /// The state that the heir must confirm: the operation, and the digest after it.
    pub(super) expected_op: AtomicU64,
    pub(super) expected_digest: AtomicU64,
    /// The heir has confirmed that state.
    pub(super) is_confirmed: AtomicBool,
    /// The last member whose unreceived frames were forwarded to the heir; `u32::MAX` if no member has any.
    pub(super) forwarded_to: AtomicU32,
    /// The time by which the heir must confirm that state.
    pub(super) confirm_by: AtomicU64,
    /// The time by which all members should have the list of heirs.
    pub(super) list_by: AtomicU64,
    /// A leader that leaves has to wait for no member.
    pub(super) may_leave: AtomicBool,
    /// A member has not got the present list of heirs yet.
    pub(super) list_is_due: AtomicBool,
    pub(super) queue: SpinLock<LogQueue<'m>>,
    pub(super) writer: SpinLock<LogWriter<'m, S>>,
}

impl<'m, S: Stream> Log<'m, S> {
    /// Returns the length of one of its two buffers: it has room for two records, and for what changes of tables
    /// of that length while all slices of them are made.
    const fn half_for(capacities: &Capacities, tables: usize) -> usize {
        let longest = total!(capacities.frame_length, RECORD_HEADER);
        let two = total!(longest, longest);
        let least = if two > MIN_BUFFERS / 2 {
            two
        } else {
            MIN_BUFFERS / 2
        };
        if tables / 8 > least {
            tables / 8
        } else {
            least
        }
    }

    /// Returns the length of one of its two buffers.
    pub(super) const fn half(&self) -> usize {
        self.half
    }

    pub(super) const fn bytes(capacities: &Capacities, tables: usize) -> usize {
        let half = Log::<'m, S>::half_for(capacities, tables);
        total!(
            half,
            half,
            capacities.frame_length,
            RECORD_HEADER,
            TransferProgress::bytes(tables)
        )
    }

    pub(super) fn new(
        arena: &mut Arena<'m>,
        contended: Contended,
        capacities: &Capacities,
        tables: usize,
    ) -> Self {
        let half = Log::<'m, S>::half_for(capacities, tables);
        let longest = total!(capacities.frame_length, RECORD_HEADER);
        Log {
            stage: AtomicU8::new(LogStage::Off as u8),
            heir: AtomicU32::new(0),
            key: AtomicU64::new(0),
            appended: AtomicU64::new(0),
            written: AtomicU64::new(0),
            unwritten_ops: AtomicU64::new(0),
            half,
            limit: (MIN_BUFFERS / 4) as u64,
            has_overflowed: AtomicBool::new(false),
            queuing: AtomicU32::new(0),
            is_awaited: AtomicBool::new(false),
            blocked_since: AtomicU64::new(0),
            choose_at: AtomicU64::new(0),
            is_choice_due: AtomicBool::new(true),
            has_heir_ended: AtomicBool::new(false),
            losses: AtomicU32::new(0),
            is_shared: AtomicBool::new(false),
            holds: AtomicU64::new(0),
            unread: AtomicU64::new(0),
            expected_op: AtomicU64::new(0),
            expected_digest: AtomicU64::new(0),
            is_confirmed: AtomicBool::new(false),
            forwarded_to: AtomicU32::new(0),
            confirm_by: AtomicU64::new(0),
            list_by: AtomicU64::new(0),
            may_leave: AtomicBool::new(false),
            list_is_due: AtomicBool::new(false),
            queue: SpinLock::new(
                Rank::LogQueue,
                contended,
                LogQueue {
                    filling: FrameWriter::with_buffer(arena.alloc_buffer(half)),
                    scratch: arena.alloc_buffer(longest),
                },
            ),
            writer: SpinLock::new(
                Rank::Token,
                contended,
                LogWriter {
                    stream: None,
                    draining: FrameWriter::with_buffer(arena.alloc_buffer(half)),
                    header_sent: 0,
                    transfer: TransferProgress::new(arena, tables),
                },
            ),
        }
    }

    #[inline]
    pub(super) fn stage(&self) -> LogStage {
        match self.stage.load(Ordering::SeqCst) {
            0 => LogStage::Off,
            1 => LogStage::Transferring,
            2 => LogStage::Unconfirmed,
            3 => LogStage::Hot,
            _ => LogStage::Resigned,
        }
    }

    pub(super) fn set_stage(&self, stage: LogStage) {
        self.stage.store(stage as u8, Ordering::SeqCst);
    }

    pub(super) fn heir(&self) -> Option<Vmid> {
        Vmid::new(self.heir.load(Ordering::SeqCst))
    }

    /// Returns true if the log names its reader as the heir.
    pub(super) fn is_named(&self) -> bool {
        matches!(self.stage(), LogStage::Hot | LogStage::Resigned)
    }

    /// Returns the heir that can take over.
    pub(super) fn hot_heir(&self) -> Option<Vmid> {
        self.heir().filter(|_| self.stage() == LogStage::Hot)
    }

    /// Appends a record. Returns false if there is no room.
    pub(super) fn append(&self, message: &Message<'_>) -> bool {
        let mut queue = self.queue.lock();
        let is_appended = queue.filling.push(0, message).is_ok();
        if is_appended {
            self.appended
                .fetch_add(message.length() as u64, Ordering::SeqCst);
        }
        is_appended
    }

    /// Appends an operation, under the lock of the tables.
    fn append_op(&self, op: &Op<'_>) {
        let mut queue = self.queue.lock();
        let LogQueue { filling, scratch } = &mut *queue;
        let room = scratch.capacity();
        let encoded = op.encode(scratch.prefix_mut(room));
        let message = encoded
            .ok()
            .and_then(|length| scratch.initialized().get(..length))
            .map(Message::Log);
        match message {
            Some(message) if filling.push(0, &message).is_ok() => {
                self.unwritten_ops.fetch_add(1, Ordering::Relaxed);
                self.appended
                    .fetch_add(message.length() as u64, Ordering::SeqCst);
            }
            _ => {
                // A record that is lost is never written, so nothing that it could reveal is.
                self.appended.fetch_add(1, Ordering::SeqCst);
                self.has_overflowed.store(true, Ordering::SeqCst);
            }
        }
    }

    /// Returns the free bytes of the queue.
    pub(super) fn room(&self) -> usize {
        self.queue.lock().filling.room()
    }

    /// Returns true if the queue has room for so many bytes, and then for the operations of threads that have found it
    /// nearly empty.
    pub(super) fn has_room_beside_ops(&self, length: usize) -> bool {
        let queue = self.queue.lock();
        let for_ops = queue.scratch.capacity().max(self.half / 4);
        queue.filling.room() >= total!(length, for_ops)
    }

    pub(super) fn is_written(&self) -> bool {
        !self.is_queuing()
            && self.written.load(Ordering::SeqCst) >= self.appended.load(Ordering::SeqCst)
    }

    /// Returns true if a queue of a peer may have a message whose operation is not appended. A thread that has taken
    /// bytes of a queue looks at this first, and then at what was appended.
    pub(super) fn is_queuing(&self) -> bool {
        self.queuing.load(Ordering::SeqCst) > 0
    }

    /// Returns true if the heir is named, and nothing is to be done for it or for those that wait for
    /// the log.
    #[inline]
    pub(super) fn is_quiet(&self) -> bool {
        self.stage() == LogStage::Hot
            && self.is_written()
            && !self.is_awaited.load(Ordering::SeqCst)
            && !self.has_overflowed.load(Ordering::SeqCst)
            && !self.has_heir_ended.load(Ordering::SeqCst)
            && !self.list_is_due.load(Ordering::SeqCst)
            && !self.is_mark_due()
    }

    /// Returns true if the leader has not resigned. If the heir is lost before it has the resignation, the leader goes
    /// on, and writes then.
    #[inline]
    pub(super) fn may_write(&self) -> bool {
        let has_resigned = self.stage() == LogStage::Resigned;
        if has_resigned {
            self.is_awaited.store(true, Ordering::SeqCst);
        }
        !has_resigned
    }

    /// Returns the operations that were appended and not written, and the bytes of these.
    pub(super) fn lag(&self) -> (u64, u64) {
        (self.unwritten_ops.load(Ordering::Relaxed), self.backlog())
    }

    /// Returns the bytes that were appended and not written.
    #[inline]
    pub(super) fn backlog(&self) -> u64 {
        let written = self.written.load(Ordering::SeqCst);
        self.appended.load(Ordering::SeqCst).wrapping_sub(written)
    }

    /// Returns true if new operations have to wait. None is appended while the state goes to the
    /// heir.
    #[inline]
    pub(super) fn is_nearly_full(&self) -> bool {
        self.backlog() > self.limit && self.stage() != LogStage::Transferring
    }

    /// Returns true if new operations have to wait for a process that is not named as the heir, and may
    /// never be.
    pub(super) fn delays_for_nothing(&self) -> bool {
        !self.is_named() && self.is_nearly_full()
    }

    /// Tells the platform that the log follows. Returns false if the stream can't be used.
    pub(super) fn begin(&self, writer: &mut LogWriter<'m, S>) -> bool {
        if !self.is_shared.load(Ordering::SeqCst) {
            self.holds.store(0, Ordering::SeqCst);
            return true;
        }
        if let Some(Ok(bytes)) = writer.stream.as_mut().map(Stream::begin_log) {
            self.holds.store(bytes as u64, Ordering::SeqCst);
            true
        } else {
            self.has_overflowed.store(true, Ordering::SeqCst);
            false
        }
    }

    pub(super) fn note_write(&self, count: usize) {
        let is_counted_in_bytes = self.holds.load(Ordering::SeqCst) > 0;
        let cost = if is_counted_in_bytes { count as u64 } else { 1 };
        self.unread.fetch_add(cost, Ordering::SeqCst);
    }

    /// Returns true if so much was written that the heir is to be asked to read.
    pub(super) fn is_mark_due(&self) -> bool {
        let most = match self.holds.load(Ordering::SeqCst) {
            0 => WRITES_PER_MARK,
            bytes => bytes / 2,
        };
        self.unread.load(Ordering::SeqCst) >= most
    }

    /// Empties the log, and closes its stream.
    pub(super) fn reset(&self, writer: &mut LogWriter<'m, S>) {
        writer.stream = None;
        writer.draining.clear();
        writer.header_sent = 0;
        let mut queue = self.queue.lock();
        queue.filling.clear();
        let appended = self.appended.load(Ordering::SeqCst);
        self.written.store(appended, Ordering::SeqCst);
        self.unwritten_ops.store(0, Ordering::Relaxed);
        self.has_overflowed.store(false, Ordering::SeqCst);
        self.is_confirmed.store(false, Ordering::SeqCst);
        self.forwarded_to.store(0, Ordering::SeqCst);
        self.blocked_since.store(0, Ordering::SeqCst);
        self.unread.store(0, Ordering::SeqCst);
    }
}

impl<S: Stream> OpObserver for Log<'_, S> {
    fn applied(&self, _: &Leader<'_>, op: &Op<'_>, _: &Outcome) {
        if matches!(self.stage(), LogStage::Unconfirmed | LogStage::Hot) {
            self.append_op(op);
        }
    }
}
