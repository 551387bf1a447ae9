//! Waiting for children, and the notices of their ends.

use core::time::Duration;

use crate::error::{Errno, Error, Invalid};
use crate::leader::SIGPWR;
use crate::member::{ChildExit, ExitOutcome};
use crate::node::rpc::{Limits, Undo};
use crate::node::upcall::Upcall;
use crate::node::{Node, Wait, WaitReason};
use crate::pal::{Deadline, Pal};
use crate::sync::Ordering;
use crate::wire::{Answer, EndQuery, Message, ProcessQuery};
use crate::{Id, Pid, Vmid, parts};

/// The children that [`Node::wait_child`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChildSelector {
    /// Any child.
    Any,
    /// The child with this pid.
    Pid(Pid),
    /// Any child in this process group; `None` for this process's own.
    Group(Option<Pid>),
}

/// # Children
impl<P: Pal> Node<'_, P> {
    /// Waits until a child has ended, and reaps it: when this returns no process of the family
    /// finds the child any more, and its pid is free, unless it names a group or session. With a
    /// wait of no time, [`Error::TimedOut`] means that no child has ended yet (`WNOHANG`). Of
    /// several dead children the one that died first is reaped.
    ///
    /// A child that has ended is reaped even if `wait` is over or interrupted: the leader has one
    /// second for that. If it takes longer, the child stays a zombie for the next call.
    ///
    /// # Errors
    /// [`Error::NoChild`] if there is no such child, or none any more; [`Error::TimedOut`] and
    /// [`Error::Interrupted`] as `wait` says; for groups [`Error::Unsupported`] if the leader is a
    /// process in C. [`Error::LeaderGone`] also for children that have no connection with this process
    /// when the family has ended: nobody will report their ends.
    pub fn wait_child(&self, which: ChildSelector, wait: Wait<'_>) -> Result<ChildExit, Error> {
        self.wait_child_in(which, wait)
    }

    /// Like [`Node::wait_child`], but leaves the child a zombie (`WNOWAIT`).
    ///
    /// # Errors
    /// As [`Node::wait_child`].
    pub fn peek_child(&self, which: ChildSelector, wait: Wait<'_>) -> Result<ChildExit, Error> {
        self.peek_child_in(which, wait)
    }

    /// Returns the time limit for the requests that a call must send even if its own limit is over:
    /// one limit for all of them.
    fn query_wait<'w>(&self, limits: Limits<'w>) -> Wait<'w> {
        if limits.until == Deadline::Never {
            return limits.wait();
        }
        limits.not_before(self.pal.now() + MIN_QUERY_TIME).wait()
    }

    /// Reports to the leader that this process has reaped the child.
    pub(crate) fn forget_child(&self, pid: Id) {
        if parts::PROCESSES && self.has_extensions() {
            // If the queue has no room, the child stays a zombie until this process ends: the worker, which
            // may be the caller, waits for no peer. Without the leader no process asks for the pid any more.
            let _ = self.send_reap(pid);
        }
    }

    /// Returns true if the leader notifies parents of their children's ends. It does so after it
    /// has reassigned the children of the dead process, so that the parent never sees a zombie
    /// before its orphans.
    pub(in crate::node) fn leader_reports_ends(&self) -> bool {
        self.is_known_process() && !self.leader_gone.load(Ordering::Acquire)
    }

    /// Handles a notice of how a child ended. Returns false if there is no room to queue the call
    /// to the embedder: the caller tries again.
    pub(crate) fn child_ended(&self, from: Vmid, exit: ChildExit) -> bool {
        if self.upcalls.lock().is_full() {
            return false;
        }
        // A process that is to lead, and does not lead yet, reports its own end only, as any child does.
        let by_leader = parts::PROCESSES && from == self.leader_vmid() && !self.is_orphaned();
        let exit = if by_leader {
            self.as_child_reported(exit)
        } else {
            exit
        };
        let outcome = {
            let mut children = self.children.lock();
            if by_leader && self.leader_reports_ends() {
                children.record_exit(exit)
            } else {
                children.record_reported_exit(from, exit, !self.leader_reports_ends())
            }
        };
        match outcome {
            // A child without room here is a zombie at the leader until a thread fetches it.
            ExitOutcome::Recorded | ExitOutcome::NoRoom => self.child_is_zombie(exit),
            ExitOutcome::Ignored => {}
        }
        true
    }

    /// Returns how a child ended that has not notified the leader: a process in C notifies its
    /// parent alone. It sent that before the leader saw its end, so the notice can be read now.
    fn as_child_reported(&self, exit: ChildExit) -> ChildExit {
        if exit.signal != SIGPWR {
            return exit;
        }
        let child = self.children.lock().find_living(exit.pid.get());
        if let Some(peer) = child.and_then(|child| self.peers.find(child)) {
            self.receive(&peer);
        }
        self.children.lock().reported_exit(exit)
    }

    fn child_is_zombie(&self, exit: ChildExit) {
        // There is room in the queue, or this is the worker without a lock.
        self.enqueue_upcall(Upcall::ChildEnded(exit));
        self.waiters.wake_for_room(self.identity.vmid);
    }

    /// Handles the end of a connection: the peer may have been a child, the last member, or the
    /// leader.
    pub(crate) fn handle_peer_gone(&self, vmid: Vmid) {
        self.handle_child_gone(vmid);
        if Some(vmid) != self.identity.parent {
            self.enqueue_upcall(Upcall::Left(vmid));
        }
    }

    /// Handles the end of a process that may have been a child.
    pub(crate) fn handle_child_gone(&self, vmid: Vmid) {
        let us = self.pid();
        let counts = !self.leader_reports_ends();
        let exit = self.children.lock().record_death(vmid, us, counts);
        if let Some(exit) = exit {
            self.child_is_zombie(exit);
        }
        if counts {
            loop {
                let unannounced = self.children.lock().next_unannounced(us);
                let Some(exit) = unannounced else { break };
                self.child_is_zombie(exit);
            }
        }
    }
}

/// The result of a search among the children that this process knows.
enum Search {
    /// A zombie was found.
    Zombie(ChildExit),
    /// A child lives, and its end will be reported.
    Living,
    /// There was no room for the ends of some children: the leader has them.
    Missed,
    /// No child that matches is known.
    Unknown,
}

impl<P: Pal> Node<'_, P> {
    /// Searches for a child with that pid, or for any child (`None`).
    ///
    /// # Errors
    /// The error of the lost leader if nobody will report the end of the child.
    fn search_children(&self, wanted: Option<Pid>) -> Result<Search, Error> {
        let children = self.children.lock();
        if let Some(exit) = children.zombie(wanted) {
            return Ok(Search::Zombie(exit));
        }
        if children.overflowed() != 0 {
            return Ok(Search::Missed);
        }
        if !children.has_living(wanted) {
            return Ok(Search::Unknown);
        }
        // Nobody will report the end of a child that this process does not observe.
        if self.has_lost_leader() && !children.has_living_observed(wanted) {
            return Err(self.gone_error(self.leader_vmid()));
        }
        Ok(Search::Living)
    }
}

/// The minimum time of a call for its requests to the leader.
const MIN_QUERY_TIME: Duration = Duration::from_secs(1);

calls! {
    fn wait_child_in(&self, which: ChildSelector, wait: Wait<'_>) -> Result<ChildExit, Error> {
        self.check_running()?;
        let limits = Limits::of(wait, &self.pal);
        let query_wait = self.query_wait(limits);
        let which = wait!(self.with_group(which, query_wait))?;
        loop {
            let exit = wait!(self.await_zombie(which, limits, query_wait))?;
            let pid = exit.pid.get();
            // Another thread may have reaped it.
            if !self.children.lock().claim_zombie(pid) {
                continue;
            }
            let us = self.identity.vmid;
            let claimed = Undo::new(|| {
                self.children.lock().unclaim_zombie(pid);
                // Other threads may wait for the same child.
                self.waiters.wake_for_room(us);
            });
            wait!(self.reap(pid, limits))?;
            claimed.keep();
            self.children.lock().remove_reaped(pid);
            self.waiters.wake_for_room(us);
            return Ok(exit);
        }
    }

    fn peek_child_in(&self, which: ChildSelector, wait: Wait<'_>) -> Result<ChildExit, Error> {
        self.check_running()?;
        let limits = Limits::of(wait, &self.pal);
        let query_wait = self.query_wait(limits);
        let which = wait!(self.with_group(which, query_wait))?;
        wait!(self.await_zombie(which, limits, query_wait))
    }

    /// Replaces "this process's own group" by the group that the process is in now: that group does
    /// not change while a call waits (`wait4(2)`).
    fn with_group(&self, which: ChildSelector, wait: Wait<'_>) -> Result<ChildSelector, Error> {
        match which {
            ChildSelector::Group(None) => {
                let process = wait!(self.process_in(None, wait))?;
                Ok(ChildSelector::Group(Some(process.group)))
            }
            which => Ok(which),
        }
    }

    /// Waits for a zombie within `limits`; the requests to the leader have the limit `query_wait`.
    fn await_zombie(
        &self,
        which: ChildSelector,
        limits: Limits<'_>,
        query_wait: Wait<'_>,
    ) -> Result<ChildExit, Error> {
        let waiter = self.claim_waiter(self.identity.vmid, WaitReason::Child, limits, true)?;
        loop {
            waiter.arm();
            self.check_running()?;
            if let Some(exit) = wait!(self.find_zombie(which, query_wait))? {
                return Ok(exit);
            }
            wait!(self.woken(&waiter, limits))?;
        }
    }

    /// Has the leader reap the zombie that this thread has claimed, and waits until that is done.
    fn reap(&self, pid: Id, limits: Limits<'_>) -> Result<(), Error> {
        self.check_running()?;
        let message = Message::ProcessReap(pid);
        loop {
            // Another process may lead by now.
            let Some(leader) = self.led_by().filter(|_| self.has_extensions()) else {
                self.forget_child(pid);
                return Ok(());
            };
            let patience = self.begin(Wait::at_most(MIN_QUERY_TIME));
            let is_sent = self.children.lock().is_reap_sent(pid);
            let sent = if is_sent {
                Ok(())
            } else {
                wait!(self.post_later(leader, &message, patience))
            };
            let answer = match sent {
                Ok(()) => {
                    self.children.lock().mark_reap_sent(pid);
                    // The leader handles messages in order, so its answer to this request comes
                    // after the reaping.
                    wait!(self.call(leader, &Message::GetIdOwner(pid), patience))
                }
                Err(error) => Err(error),
            };
            match answer {
                // Without the leader no process can ask for the pid any more.
                Ok(_) | Err(Error::LeaderGone | Error::CutOff) => return Ok(()),
                Err(Error::TimedOut) => {
                    if let Some(error) = limits.reached(&self.pal) {
                        return Err(error);
                    }
                }
                Err(error) if self.is_moved(leader, &message, error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns a zombie that matches, or `None` if there is none yet.
    fn find_zombie(
        &self,
        which: ChildSelector,
        wait: Wait<'_>,
    ) -> Result<Option<ChildExit>, Error> {
        let mut query = ProcessQuery {
            parent: self.pid_or_zero(),
            ..ProcessQuery::default()
        };
        match which {
            ChildSelector::Any | ChildSelector::Pid(_) => {
                let wanted = match which {
                    ChildSelector::Pid(wanted) => Some(wanted),
                    _ => None,
                };
                match self.search_children(wanted)? {
                    Search::Zombie(exit) => return Ok(Some(exit)),
                    Search::Living => return Ok(None),
                    Search::Missed => return wait!(self.fetch_zombie(which, wait)),
                    Search::Unknown => {}
                }
                query.pid = Pid::number(wanted);
            }
            ChildSelector::Group(group) => {
                query.group = Pid::number(group);
                let mut last = None;
                loop {
                    let next = self.children.lock().next_zombie(last.as_ref());
                    let Some(exit) = next else { break };
                    last = Some(exit);
                    query.pid = exit.pid.get();
                    match wait!(self.query(&query, wait)) {
                        Ok(_) => return Ok(Some(exit)),
                        Err(Error::NoSuchProcess) => {}
                        Err(error) => return Err(error),
                    }
                }
                query.pid = 0;
                let missed = self.children.lock().overflowed();
                if missed != 0 {
                    return wait!(self.fetch_zombie(which, wait));
                }
            }
        }
        // This process knows of no child, but it may have inherited children that are alive.
        if !self.has_extensions() || query.parent == 0 {
            return Err(Error::NoChild);
        }
        match wait!(self.query(&query, wait)) {
            Ok(_) => Ok(None),
            Err(Error::NoSuchProcess) => Err(Error::NoChild),
            Err(error) => Err(error),
        }
    }

    /// Fetches a matching zombie from the leader, if this process had no room for it.
    fn fetch_zombie(
        &self,
        which: ChildSelector,
        wait: Wait<'_>,
    ) -> Result<Option<ChildExit>, Error> {
        let (pid, group) = match which {
            ChildSelector::Any => (0, 0),
            ChildSelector::Pid(pid) => (pid.get(), 0),
            ChildSelector::Group(group) => (0, Pid::number(group)),
        };
        let (missed, reaped) = {
            let children = self.children.lock();
            (children.overflowed(), children.reaped())
        };
        let message = Message::ProcessEnd(EndQuery { pid, group });
        let Answer::End(end) = wait!(self.call(self.leader_vmid(), &message, wait))? else {
            return Err(Error::Invalid(Invalid::Answer));
        };
        let mut children = self.children.lock();
        match end {
            // If another thread has reaped one meanwhile, the caller checks again.
            Ok(report) => {
                let exit = ChildExit::of(&report).ok_or(Error::Invalid(Invalid::Answer))?;
                Ok(children.import_zombie(exit, reaped).then_some(exit))
            }
            Err(errno) => {
                if which == ChildSelector::Any {
                    children.clear_overflowed(missed);
                }
                let is_alive = group == 0 && children.has_living(Pid::new(pid));
                if errno == Errno::EAGAIN || is_alive {
                    Ok(None)
                } else {
                    Err(Error::NoChild)
                }
            }
        }
    }
}
