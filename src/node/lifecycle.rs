//! The phases of a node, and how a node leaves its family.

use core::time::Duration;

use super::Node;
use crate::config::Driving;
use crate::error::Error;
use crate::pal::{Deadline, Event, Pal};
use crate::sync::Ordering;

/// How long [`Node::shut_down`], and a worker that has panicked, wait until the streams are closed.
pub(super) const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// How long a node that is dropped waits for a leader in C to confirm that its handles are closed.
const DROP_LIMIT: Duration = Duration::from_millis(500);

/// The phase of a node. A node only goes to later phases, except for an exit that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    Running = 0,
    /// The process is ending or has ended: it makes no new calls. A leader goes on serving the
    /// others.
    Ending = 1,
    /// No new calls are accepted; the frames in the send queues are still sent.
    Flushing = 2,
    /// The worker is closing all streams; then it returns.
    Closing = 3,
    Closed = 4,
}

/// # Shutdown
impl<P: Pal> Node<'_, P> {
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Ending,
            2 => Phase::Flushing,
            3 => Phase::Closing,
            _ => Phase::Closed,
        }
    }

    pub(crate) fn advance_phase(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// Changes the phase from `from` to `to`. False if the current phase is not `from`.
    pub(super) fn change_phase(&self, from: Phase, to: Phase) -> bool {
        let (from, to) = (from as u8, to as u8);
        self.phase
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Checks that the process may make calls: it has not ended, and the node is not shutting down.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`] if not.
    #[inline]
    pub(crate) fn check_running(&self) -> Result<(), Error> {
        if self.phase() == Phase::Running {
            Ok(())
        } else {
            Err(Error::ShuttingDown)
        }
    }

    /// Whether the process has [ended](Node::exit) for the family.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Leaves the family: new calls and waiting calls fail with [`Error::ShuttingDown`]; frames in
    /// the send queues are sent, for at most `limit`; then all streams are closed and
    /// [`Node::work`] returns. Blocks until that is done. True if all frames were sent.
    ///
    /// Sync handles are closed. A leader in C ends if a stream breaks while it answers that, so
    /// this call waits for its confirmations, too, within the same `limit`.
    ///
    /// The PAL stops listening when the node is dropped.
    pub fn shut_down(&self, limit: Duration) -> bool {
        self.advance_phase(Phase::Flushing);
        self.waiters.fail(None, Error::ShuttingDown);
        // Closing a value sends its changes to the server.
        self.close_unused_syncs();
        for peer in self.peers.all() {
            self.flush(&peer);
        }
        self.wake();
        let until = self.pal.now() + limit;
        let mut flushed = false;
        while self.phase() == Phase::Flushing && !flushed {
            self.stopped.clear();
            flushed = !self.unsent() && !self.awaits_c_server();
            if flushed || self.pal.now() >= until {
                break;
            }
            self.sleep_on(&self.stopped, Deadline::At(until));
        }
        self.advance_phase(Phase::Closing);
        self.wake();
        // The worker needs one or two poll iterations to close the streams. Without a worker there
        // is nothing to wait for.
        let until = self.pal.now() + CLOSE_LIMIT;
        loop {
            self.stopped.clear();
            if self.phase() == Phase::Closed || self.pal.now() >= until {
                break;
            }
            self.sleep_on(&self.stopped, Deadline::At(until));
        }
        flushed
    }

    /// Whether a send queue still holds bytes that were accepted for sending.
    fn unsent(&self) -> bool {
        self.peers.all().any(|peer| {
            // Another thread may have found the half locked and left its frame, so this flushes. It
            // does not notify the thread that shuts down, which is the caller: that thread would
            // poll without pause until the peer reads.
            self.try_flush(&peer);
            let tx = peer.tx.try_lock();
            let is_unsent = tx.is_none_or(|tx| !tx.draining.is_empty());
            is_unsent || !peer.queue.lock().filling.is_empty()
        })
    }
}

impl<P: Pal> Drop for Node<'_, P> {
    fn drop(&mut self) {
        // The other processes of a family tolerate the sudden end of a process, but a leader in C
        // would end if a stream broke while it answers.
        let has_c_leader = self.led_by().is_some() && !self.has_extensions();
        if has_c_leader && self.phase() < Phase::Closing {
            self.config.driving = Driving::Caller;
            self.close_unused_syncs();
            if self.awaits_c_server() {
                self.shut_down(DROP_LIMIT);
            }
        }
        // A PAL may keep watches by stream: the node ends them before it drops the streams.
        self.advance_phase(Phase::Closing);
        self.poll(Deadline::Now);
    }
}
