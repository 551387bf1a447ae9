//! Abandoned children: the leader releases the IDs of a child that will never join.
//!
//! This process sends the child's pid to a leader of this crate. For a leader in C it opens and
//! closes a stream with the child's VMID, as if the child had connected and ended. If there is no
//! room, or the leader's backlog is full, the worker does so later.

use core::time::Duration;

use crate::error::Error;
use crate::member::AbandonedChild;
use crate::node::connection::longer_pause;
use crate::node::{Node, Wait};
use crate::pal::{ConnectError, Deadline, Pal, Stream, Time};
use crate::sync::Ordering;
use crate::wire::{Message, VMID_LENGTH};
use crate::{Id, Vmid, parts};

/// # Children that never join
impl<P: Pal> Node<'_, P> {
    /// Asks the leader to reclaim the IDs and open files that were given to a process which will
    /// never join, for example one whose start failed after its VMID was made and its pid
    /// transferred to it. A process that is connected with the leader, and the leader itself, are
    /// not changed.
    ///
    /// This is for children that never connected: a child that connected, and died before it
    /// [joined](Node::join), has ended like any other. It never blocks: if the message to the
    /// leader finds no room, the worker sends it later.
    ///
    /// # Errors
    /// [`Error::LeaderGone`]; [`Error::Platform`] if the platform has no stream at present, and the
    /// table of children is full, so that the worker can't try later.
    pub fn abandon_child(&self, vmid: Vmid) -> Result<(), Error> {
        self.check_running()?;
        let outcome = match self.led_by() {
            Some(leader) => {
                if self.children.lock().mark_abandoned(vmid) {
                    self.report_abandoned()
                } else {
                    self.announce_dead(leader, vmid)
                }
            }
            None if vmid == self.identity.vmid || self.is_connected(vmid) => Ok(()),
            None => {
                let pid = self.children.lock().remove_abandoned(vmid);
                if let Some(pid) = pid {
                    self.forget_child(pid);
                }
                self.reclaim_absent(vmid);
                Ok(())
            }
        };
        // A thread that waits for this child must check again.
        self.waiters.wake_for_room(self.identity.vmid);
        outcome
    }

    /// Like [`Node::abandon_child`]. If the worker can't try later, this does, for at most
    /// [`Config::connect_limit`](crate::Config::connect_limit).
    #[cfg(feature = "capi")]
    pub(crate) fn abandon_child_patiently(&self, vmid: Vmid) -> Result<(), Error> {
        let limits =
            crate::node::rpc::Limits::of(Wait::at_most(self.config.connect_limit), &self.pal);
        let mut pause = 0;
        loop {
            let outcome = self.abandon_child(vmid);
            if !matches!(outcome, Err(Error::Platform)) {
                return outcome;
            }
            pause = longer_pause(pause);
            let time = Duration::from_nanos(pause);
            if self.pause(self.identity.vmid, limits, time).is_err() {
                return outcome;
            }
        }
    }

    /// Reports all abandoned children to the leader, or has the worker do so later.
    pub(in crate::node) fn report_abandoned(&self) -> Result<(), Error> {
        let Some(leader) = self.led_by() else {
            return Ok(());
        };
        let mut outcome = Ok(());
        loop {
            let next = self.children.lock().claim_abandoned();
            let Some(abandoned) = next else {
                return outcome;
            };
            let reported = match abandoned {
                AbandonedChild { pid: Some(pid), .. } if self.is_known_process() => {
                    self.send_reap(pid)
                }
                AbandonedChild { vmid, .. } => self.announce_dead(leader, vmid),
            };
            let is_for_later = matches!(reported, Err(Error::Full(_) | Error::Platform));
            self.children
                .lock()
                .finish_abandoned(abandoned.vmid, !is_for_later);
            if is_for_later {
                self.retry_abandoned_later();
                return outcome;
            }
            self.abandoned_pause.store(0, Ordering::SeqCst);
            self.waiters.wake_for_room(self.identity.vmid);
            outcome = outcome.and(reported);
        }
    }

    fn retry_abandoned_later(&self) {
        let pause = longer_pause(self.abandoned_pause.load(Ordering::SeqCst));
        self.abandoned_pause.store(pause, Ordering::SeqCst);
        let then = self.jittered(self.pal.now(), pause);
        self.abandoned_retry_at
            .store(then.0.max(1), Ordering::SeqCst);
        self.wake();
    }

    /// Reports abandoned children to the leader, if it is time to. Returns when the worker must run
    /// again, if before `until`.
    pub(crate) fn poll_abandoned(&self, until: Deadline) -> Deadline {
        if !parts::PROCESSES {
            return until;
        }
        let due = || {
            Some(Time(self.abandoned_retry_at.load(Ordering::SeqCst))).filter(|at| *at != Time(0))
        };
        let Some(at) = due() else {
            return until;
        };
        if self.now() >= at {
            self.abandoned_retry_at.store(0, Ordering::SeqCst);
            // A leader that has ended needs no report.
            let _ = self.report_abandoned();
        }
        match due() {
            Some(at) => until.min(Deadline::At(at)),
            None => until,
        }
    }

    /// Tells the leader that a child is reaped, if there is room for the message.
    pub(in crate::node) fn send_reap(&self, pid: Id) -> Result<(), Error> {
        let now = Wait::at_most(Duration::ZERO);
        let reap = Message::ProcessReap(pid);
        match self.led_by() {
            // The leader gets the message also while this process ends.
            Some(leader) => self.post(leader, &reap, now),
            None => self.send_own(&reap),
        }
    }

    /// Returns true if the process has opened a stream to this one; an outgoing stream alone does
    /// not count.
    pub(crate) fn is_connected(&self, vmid: Vmid) -> bool {
        let peer = self.peers.find(vmid);
        peer.is_some_and(|peer| !peer.lacks_inbound())
    }

    /// Opens and closes a stream to the leader with the VMID of the child, so that a leader in C
    /// releases its IDs.
    fn announce_dead(&self, leader: Vmid, vmid: Vmid) -> Result<(), Error> {
        let stream = self.pal.connect(leader).map_err(|error| match error {
            ConnectError::NotListening | ConnectError::NotAllowed => Error::LeaderGone,
            ConnectError::Busy => Error::Platform,
        })?;
        match stream.write(&[&vmid.get().to_le_bytes()]) {
            Ok(VMID_LENGTH) => Ok(()),
            _ => Err(Error::Platform),
        }
    }
}
