//! The phases of a node, and how a node leaves its family.

use core::future::poll_fn;
use core::task::Poll;
use core::time::Duration;

use super::Node;
use super::rpc::Polled;
use crate::config::Driving;
use crate::error::Error;
use crate::pal::{Deadline, Event, Pal, Time};
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

    /// Changes the phase from `from` to `to`. Returns false if the current phase is not `from`.
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

    /// Returns true if the process has [ended](Node::exit) for the family.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Leaves the family: new calls and waiting calls fail with [`Error::ShuttingDown`]; frames in the send
    /// queues are sent, for at most `limit`; then all streams are closed and [`Node::work`] returns. Blocks until
    /// that is done. Returns true if all frames were sent; in a family that outlives its leader, if the leader,
    /// or its successor, has handled them. A leader that has [left](Node::leave) has nothing to send: its heir
    /// does.
    ///
    /// Sync handles are closed. A leader in C ends if a stream breaks while it answers that, so
    /// this call waits for its confirmations, too, within the same `limit`.
    ///
    /// Then nobody can connect with this process any more ([`Pal::stop_listening`]); on a platform without that, as long
    /// as the node is not dropped, a connection is made that nobody serves.
    pub fn shut_down(&self, limit: Duration) -> bool {
        self.shut_down_in(limit)
    }

    /// Ends the waiting calls, and has the worker send the frames in the send queues.
    fn begin_shutdown(&self) {
        self.advance_phase(Phase::Flushing);
        self.waiters.fail(None, Error::ShuttingDown);
        // Closing a value sends its changes to the server.
        self.close_unused_syncs();
        for peer in self.peers.all() {
            self.flush(&peer);
        }
        self.wake();
    }

    /// Blocks until `is_done` returns true, at most until that time. The worker wakes this thread.
    fn await_shutdown(&self, until: Time, is_done: &mut dyn FnMut() -> bool) {
        loop {
            self.stopped.clear();
            if is_done() || self.pal.now() >= until {
                return;
            }
            self.sleep_on(&self.stopped, Deadline::At(until));
        }
    }

    /// Returns true if a send queue still holds bytes that were accepted for sending.
    fn has_unsent(&self) -> bool {
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

impl<P: Pal> Polled<'_, '_, P> {
    /// Waits as [`Node::await_shutdown`], in a future.
    async fn await_shutdown(&self, until: Time, mut is_done: impl FnMut() -> bool) {
        let _task = ShutdownTask(self);
        poll_fn(|context| {
            let waker = context.waker().clone();
            if self.waiters.set_shutdown_task(waker, Deadline::At(until)) {
                self.wake();
            }
            if is_done() || self.pal.now() >= until {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }
}

/// The worker forgets the task when the future is done or dropped.
struct ShutdownTask<'n, 'm, P: Pal>(&'n Node<'m, P>);

impl<P: Pal> Drop for ShutdownTask<'_, '_, P> {
    fn drop(&mut self) {
        self.0.waiters.clear_shutdown_task();
    }
}

calls! {
    fn shut_down_in(&self, limit: Duration) -> bool {
        self.begin_shutdown();
        let mut is_flushed = false;
        wait!(self.await_shutdown(self.pal.now() + limit, &mut || {
            let is_over = self.phase() != Phase::Flushing;
            is_flushed = self.has_handed_over()
                || !is_over
                    && !self.has_unsent()
                    && !self.awaits_c_server()
                    && self.has_leader_handled_all();
            is_over || is_flushed
        }));
        self.advance_phase(Phase::Closing);
        self.wake();
        // The worker needs one or two poll iterations to close the streams. Without a worker there
        // is nothing to wait for.
        let closed = self.pal.now() + CLOSE_LIMIT;
        wait!(self.await_shutdown(closed, &mut || self.phase() == Phase::Closed));
        is_flushed
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
