//! The life of a process: joining, starting children, ending.

use core::time::Duration;

use crate::Identity;
use crate::error::{Errno, Error, Invalid, Resource};
use crate::leader::{Op, Outcome, Presence};
use crate::member::Purpose;
use crate::node::rpc::{Limits, ReplyData, Undo};
use crate::node::{LeaderTables, Node, Phase, Wait, WaitReason};
use crate::pal::Pal;
use crate::sync::Ordering;
use crate::wire::{ExitReport, Hello, IdRange, Message, ProcessQuery};
use crate::{Id, Pid, Vmid, parts};

/// How a process ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// The user of the process.
    pub uid: u32,
    /// Its exit code.
    pub code: u32,
    /// The signal that ends it; 0 if none does.
    pub signal: u32,
}

/// # The life of a process
impl<'m, P: Pal> Node<'m, P> {
    /// Returns this process's pid, once it [joined](Node::join).
    pub fn pid(&self) -> Option<Pid> {
        Pid::new(self.pid_or_zero())
    }

    /// Returns this process's pid as messages have it: 0 before it joined, which is no process's pid.
    pub(crate) fn pid_or_zero(&self) -> Id {
        if parts::PROCESSES {
            self.own_pid.load(Ordering::Acquire)
        } else {
            0
        }
    }

    /// Whether the leader is known to have this crate's extensions.
    pub(in crate::node) fn has_extensions(&self) -> bool {
        self.leads() || parts::EXTENSIONS && self.extended.load(Ordering::Acquire)
    }

    /// The error of a call that needs the leader's extensions, if they are not known.
    pub(in crate::node) fn unsupported(&self) -> Error {
        if self.pid().is_some() {
            Error::Unsupported
        } else {
            // The leader states them when a process joins.
            Error::NotJoined
        }
    }

    /// Whether the leader has this process in its table: then the leader's statements about groups
    /// and ends of children include this process.
    pub(in crate::node) fn is_known_process(&self) -> bool {
        self.has_extensions() && self.pid().is_some()
    }

    /// Announces this process to its parent, which is notified of its end from now on, and to the
    /// leader. Returns its pid: the one that its parent allocated for it, or else a new one. To be
    /// called once, before any other call about processes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it joined already, or if the pid is not this process's; [`Error::Refused`] with `ENOMEM` if
    /// the leader has no room, and [`Error::Full`] if this is the leader; [`Error::LimitsDiffer`] if
    /// [`Capacities::sync_data`](crate::Capacities::sync_data) differs from that of the leader, and
    /// both use sync handles; else as [`Node::take_id_for`].
    pub fn join(&self, wait: Wait<'_>) -> Result<Pid, Error> {
        self.join_as(self.identity.pid, wait)
    }

    /// As [`Node::join`], with a pid that this process owns; `None` allocates one.
    pub(crate) fn join_as(&self, pid: Option<Pid>, wait: Wait<'_>) -> Result<Pid, Error> {
        self.join_in(pid, wait)
    }

    /// Prepares a child: allocates its VMID, its pid and its slots in the tables. The embedder then
    /// starts the child with the identity that this returns, and the child [joins](Node::join). It
    /// is in this process's group and session. If this process ends before the child has joined,
    /// the child gets another parent, as any orphan, and must join within
    /// [`Config::start_limit`](crate::Config::start_limit).
    ///
    /// If the start fails, call [`Node::abandon_child`]. If this call fails there is no child, and
    /// the leader reclaims the child's IDs, possibly after the call.
    ///
    /// # Errors
    /// [`Error::NotJoined`] if this process has not joined; [`Error::Full`] at the limit of
    /// children or, at the leader, of processes ([`Error::Refused`], `ENOMEM`); else as
    /// [`Node::take_id_for`].
    pub fn start_child(&self, wait: Wait<'_>) -> Result<Identity, Error> {
        self.start_child_in(wait)
    }

    /// Adds a child that is about to start to the leader's table, if the leader has one.
    #[cfg(feature = "capi")]
    pub(crate) fn announce_child(&self, vmid: Vmid, pid: Id, wait: Wait<'_>) -> Result<(), Error> {
        self.announce_child_in(vmid, pid, wait)
    }

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

    /// As [`Node::exit`], with the pid of the parent that the exit report names.
    pub(crate) fn exit_as(
        &self,
        exit: Exit,
        parent_pid: Option<Pid>,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        self.exit_in(exit, parent_pid, wait)
    }

    /// As the leader: ends its own process, with that notice to its parent.
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
            message: *notice,
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
    fn join_in(&self, pid: Option<Pid>, wait: Wait<'_>) -> Result<Pid, Error> {
        self.check_running()?;
        if self.pid().is_some() {
            return Err(Error::Invalid(Invalid::Joined));
        }
        let wait = self.begin(wait);
        wait!(self.await_leader_limits(wait))?;
        let pid = if let Some(pid) = pid {
            pid
        } else {
            let taken = wait!(self.take_id_for_in(self.identity.vmid, wait))?;
            Pid::new(taken).ok_or(Error::Invalid(Invalid::Answer))?
        };
        let hello = Hello {
            version: Hello::VERSION,
            features: self.hello_features(),
            pid: pid.get(),
            parent: Vmid::number(self.identity.parent),
        };
        // As soon as other processes know of this one, they send requests about its pid.
        self.own_pid.store(pid.get(), Ordering::Release);
        let joined = Undo::new(|| self.own_pid.store(0, Ordering::Release));
        wait!(self.send_hello(&hello, wait))?;
        joined.keep();
        Ok(pid)
    }

    fn send_hello(&self, hello: &Hello, wait: Wait<'_>) -> Result<(), Error> {
        // The parent comes first, so that the parent knows of this process when the leader does.
        if let Some(parent) = self.identity.parent {
            self.connect(parent)?;
        }
        let message = Message::Hello(*hello);
        loop {
            if self.reign().is_none() {
                // It is answered when there is a leader again.
                wait!(self.owner_of_in(1, wait))?;
            }
            let reign = self.reign();
            match wait!(self.send_to(self.leader_vmid(), &message, wait)) {
                // The leader has ended meanwhile. The next round waits for its successor, if there may be one.
                Err(Error::LeaderGone | Error::NoSuchProcess) if self.awaits_successor() => {
                    wait!(self.owner_of_in(1, wait))?;
                    continue;
                }
                Err(Error::Invalid(Invalid::Message)) if self.leads() => {
                    let owner = wait!(self.owner_of_in(hello.pid, wait))?;
                    return Err(if owner == Some(self.identity.vmid) {
                        Error::Full(Resource::Processes)
                    } else {
                        Error::Invalid(Invalid::Pid)
                    });
                }
                sent => sent?,
            }
            // A leader in C does not know HELLO and sends none. A leader of this crate has sent its own
            // before it answers this.
            let owner = wait!(self.owner_of_in(hello.pid, wait))?;
            if !self.has_extensions() {
                return Ok(());
            }
            let query = ProcessQuery {
                pid: hello.pid,
                ..ProcessQuery::default()
            };
            let process = match wait!(self.query(&query, wait)) {
                Err(Error::NoSuchProcess) if owner != Some(self.identity.vmid) => {
                    return Err(Error::Invalid(Invalid::Pid));
                }
                // It has its pid, so the leader had no place for it.
                Err(Error::NoSuchProcess) => {
                    return Err(Error::Refused {
                        errno: Errno::ENOMEM,
                        by: None,
                    });
                }
                process => process?,
            };
            // A leader that is gone may not have taken the message, and its successor knows the pid from the parent.
            if reign == self.reign() {
                return if process.vmid == Some(self.identity.vmid) {
                    Ok(())
                } else {
                    Err(Error::Invalid(Invalid::Pid))
                };
            }
        }
    }

    fn start_child_in(&self, wait: Wait<'_>) -> Result<Identity, Error> {
        self.check_running()?;
        let parent_pid = self.pid().ok_or(Error::NotJoined)?;
        let wait = self.begin(wait);
        let vmid = wait!(self.new_vmid_in(wait))?;
        self.children.lock().reserve(vmid)?;
        let reserved = Undo::new(|| self.children.lock().cancel_reservation(vmid));
        let pid = wait!(self.take_for_in(Purpose::Child, wait))?;
        self.children.lock().start(vmid, pid);
        reserved.keep();
        let child = Identity {
            vmid,
            parent: Some(self.identity.vmid),
            leader: Some(self.leader_vmid()),
            pid: Pid::new(pid),
            parent_pid: Some(parent_pid),
            heir: None,
        };
        let transferred = Undo::new(|| {
            let released = self.release_id(pid, Wait::at_most(Duration::ZERO));
            if matches!(released, Err(Error::Invalid(_))) {
                // The owner of the ID is not known yet.
                let _ = self.abandon_child(vmid);
            } else {
                self.children.lock().cancel_reservation(vmid);
            }
        });
        wait!(self.transfer_id_in(pid, vmid, wait))?;
        transferred.keep();
        let announced = Undo::new(|| {
            let _ = self.abandon_child(vmid);
        });
        wait!(self.announce_child_in(vmid, pid, wait))?;
        announced.keep();
        // Another process may lead by now.
        Ok(Identity {
            leader: Some(self.leader()),
            heir: self.known_heir(),
            ..child
        })
    }

    fn announce_child_in(&self, vmid: Vmid, pid: Id, wait: Wait<'_>) -> Result<(), Error> {
        if !self.has_extensions() {
            return Ok(());
        }
        let vmid = vmid.get();
        let message = Message::ProcessStart { vmid, pid };
        let announced = wait!(self.change_process(&message, wait));
        self.await_log_written();
        announced
    }

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
        // One look at who leads: this process may begin to lead at any time.
        match self.led_by() {
            None => {
                self.close_unused_syncs();
                if let Some(leader) = self.leading() {
                    self.end_as_leader(leader, &notice);
                }
            }
            Some(leader) if is_led => {
                wait!(self.send_closes(leader, limits))?;
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
            // It leads by now, and its worker may not have executed the notice yet.
            self.end_as_leader(leader, &notice);
        }
        let notified = match parent {
            // What a leader sends is the leader's notice, which the tables send by themselves.
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
    fn send_closes(&self, leader: Vmid, limits: Limits<'_>) -> Result<(), Error> {
        self.close_unused_syncs();
        if self.send_all_client_messages() {
            return Ok(());
        }
        let mut send = || {
            if let Some(peer) = self.peers.find(leader) {
                peer.room_wanted.store(true, Ordering::SeqCst);
            }
            self.send_all_client_messages().then_some(Ok(()))
        };
        let all_sent = self.wait_until(leader, WaitReason::Room, limits, &mut send);
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

    /// As [`Node::send_end`], to the leader or its successor. If this process begins to lead meanwhile, it ends
    /// as a leader does.
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
            // It may have been put into the queue of a leader that is gone, or refused by it.
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
            // It leads by now, and has ended its own process.
            Err(Error::ShuttingDown) if self.leads() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Releases the locks and IDs at a leader in C, which releases nothing without a request.
    fn end_at_c_leader(&self, leader: Vmid, pid: Id, limits: Limits<'_>) -> Result<(), Error> {
        wait!(self.send_closes(leader, limits))?;
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
