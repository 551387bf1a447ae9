//! A leader writes its log to the heir, and waits where the heir must be able to read it first.

use super::leader_log::{Log, LogStage, LogWriter};
use super::log_key::{LOG_HEADER, log_header};
use crate::invariant::{Count, OrBroken};
use crate::node::Node;
use crate::pal::fault::checked_write;
use crate::pal::{Pal, Stream, StreamError};
use crate::sync::Ordering;
use crate::wire::Message;

/// A thread that waits for the heir gives up after as many attempts if the clock has not moved: a clock that only the
/// same thread moves, as in tests, does not end the wait.
const MAX_ATTEMPTS_AT_A_TIME: u32 = 10_000;

impl<'m, P: Pal> Node<'m, P> {
    /// Returns the log, if this process may lead a family that outlives its leader.
    #[inline]
    pub(super) fn log(&self) -> Option<&'m Log<'m, P::Stream>> {
        self.leadership.log()
    }

    /// Writes what was appended to the log until now. Returns false if that is not possible at present: then
    /// no byte must be written to a peer, and the worker writes the queues of the peers later. A process
    /// that is not named as the heir yet delays nobody: it leads only if it reads its name, which comes
    /// after all these.
    ///
    /// A leader that has resigned writes nothing more. A frame that was being handled may have changed the tables after
    /// the last record, so the heir knows nothing of it, and what was queued before that the heir sends itself.
    #[inline]
    pub(in crate::node) fn flush_log(&self) -> bool {
        match self.leadership.log() {
            Some(log) if !log.is_written() => {
                let is_written = self.write_log(log) || !log.is_named();
                is_written && log.may_write()
            }
            Some(log) => log.may_write(),
            None => true,
        }
    }

    #[cold]
    #[inline(never)]
    fn write_log(&self, log: &Log<'m, P::Stream>) -> bool {
        if log.is_queuing() {
            // Another thread is about to append an operation.
            self.await_log(log);
            return false;
        }
        let wanted = log.appended.load(Ordering::SeqCst);
        loop {
            let Some(mut writer) = log.writer.try_lock() else {
                // The thread that writes the log looks at the flag afterwards, or has just done so.
                self.await_log(log);
                return log.written.load(Ordering::SeqCst) >= wanted;
            };
            let is_open = self.drain_log(log, &mut writer);
            drop(writer);
            if log.is_awaited.load(Ordering::SeqCst) && log.is_written() {
                self.resume_queues(log);
            }
            if log.written.load(Ordering::SeqCst) >= wanted {
                self.mark_log_if_due(log);
                return true;
            }
            if !is_open {
                self.await_log(log);
                return false;
            }
        }
    }

    /// Announces, under the lock of the tables, that a message is about to be put into the queue of a peer, and its
    /// operation to be appended to the log. No thread writes to a peer before [`Node::end_queuing`]: the heir must learn
    /// that the message was queued before its receiver gets it.
    #[inline]
    pub(in crate::node) fn begin_queuing(&self) {
        if let Some(log) = self.leadership.log() {
            log.queuing.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Records that the operation is appended, and the tables are unlocked.
    #[inline]
    pub(in crate::node) fn end_queuing(&self) {
        if let Some(log) = self.leadership.log() {
            log.queuing.fetch_sub(1, Ordering::SeqCst);
            if log.is_awaited.load(Ordering::SeqCst) {
                self.write_log(log);
            }
        }
    }

    /// Has the worker write the queues again when the log is written. The worker is woken only once for that: it tries a
    /// blocked log again from time to time.
    fn await_log(&self, log: &Log<'m, P::Stream>) {
        if !log.is_awaited.swap(true, Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Returns true if the log has room for further operations of any frame.
    #[inline]
    pub(in crate::node) fn has_log_room(&self) -> bool {
        match self.leadership.log() {
            Some(log) => !log.is_nearly_full(),
            None => true,
        }
    }

    /// Waits until the log has room, in a thread that makes a call of the leader's own process.
    #[inline]
    pub(in crate::node) fn await_log_room(&self) {
        if let Some(log) = self.leadership.log()
            && log.is_nearly_full()
        {
            self.write_log_while(log, Log::is_nearly_full);
        }
    }

    /// As the leader: waits until all is written that a call of its own process has changed, as the answer to a member
    /// is written after the log. A change may outlast this process (a signal for a child that is starting, a fencing
    /// number), and others may learn of it on other ways than through a stream of this node. Waits at most as long as
    /// the heir may take to read.
    #[inline]
    pub(in crate::node) fn await_log_written(&self) {
        if let Some(log) = self.leadership.log()
            && !log.is_written()
            && log.is_named()
        {
            self.write_log_while(log, |_| true);
        }
    }

    /// Writes the log until all is written that was appended before, or `must_wait` is false.
    #[cold]
    #[inline(never)]
    fn write_log_while(
        &self,
        log: &Log<'m, P::Stream>,
        must_wait: fn(&Log<'m, P::Stream>) -> bool,
    ) {
        let began = self.pal.now();
        let mut attempts = 0_u32;
        while !self.write_log(log) && must_wait(log) {
            let now = self.pal.now();
            let is_standing = now == began && attempts >= MAX_ATTEMPTS_AT_A_TIME;
            if is_standing || now >= began + self.config.heir_patience {
                break;
            }
            P::contended(attempts);
            attempts = attempts.wrapping_add(1);
        }
    }

    /// Has the worker write the queues that waited for the log.
    pub(super) fn resume_queues(&self, log: &Log<'m, P::Stream>) {
        if log.stage() != LogStage::Resigned && log.is_awaited.swap(false, Ordering::SeqCst) {
            for peer in self.peers.all() {
                self.peers.schedule(&peer);
            }
            self.wake();
        }
    }

    /// Writes the log as far as its stream takes it. Returns false if it takes no more at present, or is
    /// broken.
    fn drain_log(&self, log: &Log<'m, P::Stream>, writer: &mut LogWriter<'m, P::Stream>) -> bool {
        let mut header = [0; LOG_HEADER];
        if writer.header_sent < LOG_HEADER {
            header = log_header(self.identity.vmid, log.key.load(Ordering::SeqCst));
        }
        loop {
            if writer.draining.is_empty() {
                let mut queue = log.queue.lock();
                if queue.filling.is_empty() {
                    log.unwritten_ops.store(0, Ordering::Relaxed);
                    return true;
                }
                core::mem::swap(&mut queue.filling, &mut writer.draining);
            }
            let Some(stream) = &writer.stream else {
                return false;
            };
            let rest_of_header = header.get(writer.header_sent..).or_broken(&[]);
            let bytes = if rest_of_header.is_empty() {
                writer.draining.unsent()
            } else {
                rest_of_header
            };
            match checked_write(stream.write(&[bytes]), bytes.len()) {
                Ok(count) if !rest_of_header.is_empty() => {
                    writer.header_sent = writer.header_sent.plus(count);
                    if writer.header_sent == LOG_HEADER && !log.begin(writer) {
                        return false;
                    }
                }
                Ok(count) => {
                    writer.draining.mark_sent(count);
                    log.written.fetch_add(count as u64, Ordering::SeqCst);
                    log.note_write(count);
                    log.blocked_since.store(0, Ordering::SeqCst);
                }
                Err(StreamError::Interrupted) => {}
                Err(StreamError::WouldBlock) => {
                    if log.blocked_since.load(Ordering::SeqCst) == 0 {
                        log.blocked_since
                            .store(self.now().0.max(1), Ordering::SeqCst);
                        log.unread.store(u64::MAX / 2, Ordering::SeqCst);
                    }
                    return false;
                }
                Err(StreamError::Closed) => {
                    log.has_overflowed.store(true, Ordering::SeqCst);
                    return false;
                }
            }
        }
    }

    /// Asks the heir to read the log, after many writes.
    pub(super) fn mark_log_if_due(&self, log: &Log<'m, P::Stream>) {
        if !log.is_mark_due() {
            return;
        }
        let Some(peer) = log.heir().and_then(|heir| self.peers.find(heir)) else {
            return;
        };
        log.unread.store(0, Ordering::SeqCst);
        if self.put(&peer, 0, &Message::Mark(0)).is_ok() {
            // Not by this thread, which may be writing to another peer.
            self.call_worker(&peer);
        }
    }
}
