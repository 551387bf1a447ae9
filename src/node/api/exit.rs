//! The end of a process.

use crate::error::Error;
use crate::leader::{Op, Outcome, Presence};
use crate::node::rpc::{Limits, ReplyData, Undo};
use crate::node::{LeaderTables, Node, Phase, Wait};
use crate::pal::Pal;
use crate::sync::Ordering;
use crate::wire::{ExitReport, IdRange, Message};
use crate::{Id, Pid, Vmid};

/// How a process ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// The user ID of the process.
    pub uid: u32,
    /// Its exit code.
    pub code: u32,
    /// The signal that ends it; 0 if none does.
    pub signal: u32,
}

/// # The end of a process
impl<'m, P: Pal> Node<'m, P> {
    /// Ends this process for the family: first its file locks, open files, IDs and leases are
    /// released, then its parent gets the exit report. Shared values that no thread is using are
    /// closed; for a value that a thread is changing, other processes get a report that its owner
    /// died. When this returns the leader has done all that, and every call of this process but
    /// [`Node::leave`], [`Node::release_idle_ranges`] and [`Node::shut_down`] fails with
    /// [`Error::ShuttingDown`]: so do calls that wait in other threads, and a second exit. Its node
    /// still answers other processes until [`Node::shut_down`], which comes next.
    ///
    /// If this process is the leader only its own process ends: the node continues to serve the
    /// others, until [`Node::leave`]. A leader in C detects the end when the streams are closed.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`] if it has ended, or [`Node::shut_down`] was called. As [every
    /// call](Node#errors-of-every-call) if there was no room for the report in time: then the
    /// process stays alive, but its calls that waited have failed, and values are closed.
    /// [`Error::TimedOut`] and [`Error::Interrupted`] also if the leader got the report but did not
    /// confirm it in time: then a second call returns [`Error::ShuttingDown`]. A parent or leader
    /// that has ended is no error.
    pub fn exit(&self, exit: Exit, wait: Wait<'_>) -> Result<(), Error> {
        self.exit_as(exit, self.identity.parent_pid, wait)
    }

    /// Like [`Node::exit`], with the pid of the parent that the exit report names.
    pub(crate) fn exit_as(
        &self,
        exit: Exit,
        parent_pid: Option<Pid>,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        self.exit_in(exit, parent_pid, wait)
    }

    /// As the leader: ends its own process, with `notice` to its parent.
    pub(in crate::node) fn end_as_leader(&self, leader: &LeaderTables<'m>, notice: &Message<'_>) {
        self.ended.store(true, Ordering::SeqCst);
        self.record_own_exit(leader, notice);
        self.end_own_process(leader);
    }

    /// As a leader that a parent has started: records how its own process ends, before it has ended.
    fn record_own_exit(&self, leader: &LeaderTables<'_>, notice: &Message<'_>) {
        if self.identity.parent.is_none() {
            return;
        }
        let record = Op::Request {
            from: self.identity.vmid,
            seq: 0,
            message: notice,
            other: Presence::Absent,
        };
        while matches!(leader.lock().apply(&record), Outcome::Remaining(1..)) {}
    }

    /// Notifies the parent of the end of this process, if the family has ended: the parent was to lead it, and never has, so
    /// it sends no notice of its own.
    fn notify_named_heir(&self, parent: Vmid, notice: &Message<'_>) {
        if let Ok(peer) = self.peers.find_or_add(parent) {
            let length = notice.length();
            // One that is gone needs no notice.
            let _ = self.push(&peer, &mut peer.queue.lock(), 0, notice, length);
            self.flush(&peer);
        }
    }

    /// Ends the calls that began to wait while the exit was in progress: they would get no answer.
    fn finish_exit(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.release_all_ids(|_| {});
        self.waiters.fail(None, Error::ShuttingDown);
    }

    /// Forgets the IDs of this process, and calls `release` with each range.
    pub(in crate::node) fn release_all_ids(&self, mut release: impl FnMut(IdRange)) {
        loop {
            let range = self.own_ids.lock().take_range();
            let Some(range) = range else { return };
            release(range);
        }
    }
}

calls! {
    fn exit_in(&self, exit: Exit, parent_pid: Option<Pid>, wait: Wait<'_>) -> Result<(), Error> {
        if !self.change_phase(Phase::Running, Phase::Ending) {
            return Err(Error::ShuttingDown);
        }
        let begun = Undo::new(|| {
            self.change_phase(Phase::Ending, Phase::Running);
        });
        self.waiters.fail(None, Error::ShuttingDown);
        let limits = Limits::of(wait, &self.pal);
        let pid = Pid::number(self.pid().or(self.identity.pid));
        let notice = Message::ChildExit(ExitReport {
            parent_pid: Pid::number(parent_pid),
            pid,
            uid: exit.uid,
            code: exit.code,
            signal: exit.signal,
        });
        let is_led = self.has_extensions();
        // The leader is looked up once, because this process may begin to lead at any time.
        match self.led_by() {
            None => {
                self.close_unused_syncs();
                if let Some(leader) = self.leading() {
                    self.end_as_leader(leader, &notice);
                }
            }
            Some(leader) if is_led => {
                wait!(self.send_closes(limits))?;
                wait!(self.send_end_to_leader(leader, &notice, limits))?;
            }
            Some(leader) => wait!(self.end_at_c_leader(leader, pid, limits))?,
        }
        let parent = self.identity.parent;
        if !is_led {
            // If this fails no process has got the notice.
            if let Some(parent) = parent {
                wait!(self.send_end(parent, &notice, limits))?;
            }
            begun.keep();
            self.finish_exit();
            return Ok(());
        }
        begun.keep();
        // The leader has the notice, so the process ends even if the rest fails.
        let ended = Undo::new(|| self.finish_exit());
        // The parent is notified of the end after the leader has reclaimed all resources of this
        // process.
        let known = wait!(self.await_end_known(pid, limits));
        if !self.has_ended()
            && let Some(leader) = self.leading()
        {
            // This process leads by now, and its worker may not have executed the notice yet.
            self.end_as_leader(leader, &notice);
        }
        let notified = match parent {
            // A leader sends nothing here: its tables send the leader's notice by themselves.
            Some(parent) if Some(parent) != self.led_by() && !(self.leads() && self.follows()) => {
                wait!(self.send_end(parent, &notice, limits))
            }
            Some(parent) if self.follows() && self.has_lost_leader() => {
                self.notify_named_heir(parent, &notice);
                Ok(())
            }
            _ => Ok(()),
        };
        drop(ended);
        known.and(notified)
    }

    /// Closes the sync handles that no thread uses, and returns when the data of all of them is
    /// queued.
    fn send_closes(&self, limits: Limits<'_>) -> Result<(), Error> {
        self.close_unused_syncs();
        if self.send_all_client_messages() {
            return Ok(());
        }
        let mut send = || self.send_all_client_messages().then_some(Ok(()));
        let all_sent = self.wait_for_room_at_leader(limits, &mut send);
        match wait!(all_sent) {
            Err(Error::LeaderGone | Error::CutOff) => Ok(()),
            ended => ended,
        }
    }

    fn send_end(&self, to: Vmid, notice: &Message<'_>, limits: Limits<'_>) -> Result<(), Error> {
        match wait!(self.post(to, notice, limits.wait())) {
            Err(Error::NoSuchProcess | Error::LeaderGone | Error::CutOff) => Ok(()),
            sent => sent,
        }
    }

    /// Like [`Node::send_end`], to the leader or its successor. If this process begins to lead meanwhile, it
    /// ends as a leader does.
    fn send_end_to_leader(
        &self,
        leader: Vmid,
        notice: &Message<'_>,
        limits: Limits<'_>,
    ) -> Result<(), Error> {
        let mut leader = leader;
        loop {
            if let Some(tables) = self.leading() {
                self.end_as_leader(tables, notice);
                return Ok(());
            }
            wait!(self.send_end(leader, notice, limits))?;
            // The notice may be in the queue of a leader that is gone, or that leader may have refused it.
            let present = self.leader_vmid();
            if present == leader {
                return Ok(());
            }
            leader = present;
        }
    }

    /// Waits until the leader has handled the end of this process.
    fn await_end_known(&self, pid: Id, limits: Limits<'_>) -> Result<(), Error> {
        let Some(leader) = self.led_by() else {
            return Ok(());
        };
        let question = Message::GetIdOwner(pid);
        // The leader handles messages in order, so its answer comes after the notice.
        let mut data = ReplyData::none();
        match wait!(self.exchange(leader, &question, &mut data, limits.wait())) {
            Ok(_) | Err(Error::LeaderGone | Error::CutOff) => Ok(()),
            // This process leads by now, and has recorded its own end as the leader.
            Err(Error::ShuttingDown) if self.leads() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Releases the locks and IDs at a leader in C, which releases nothing without a request.
    fn end_at_c_leader(&self, leader: Vmid, pid: Id, limits: Limits<'_>) -> Result<(), Error> {
        wait!(self.send_closes(limits))?;
        let wait = limits.wait();
        if self.used_locks.any() {
            let clear = Message::FileLockClearPid(pid);
            let mut data = ReplyData::none();
            match wait!(self.exchange(leader, &clear, &mut data, wait)) {
                Ok(_) | Err(Error::LeaderGone | Error::CutOff) => {}
                Err(error) => return Err(error),
            }
        }
        loop {
            let range = self.own_ids.lock().take_idle_range();
            let Some(range) = range else { return Ok(()) };
            let message = Message::ReleaseIdRange(range);
            match wait!(self.post(leader, &message, wait)) {
                Ok(()) | Err(Error::LeaderGone | Error::CutOff) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
