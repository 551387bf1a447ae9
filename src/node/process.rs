//! A process's life: joining, starting children, ending, waiting for them; groups and sessions.

use core::time::Duration;

use super::data::Data;
use super::embedder::Upcall;
use super::ids::Ask;
use super::kill::error_of;
use super::wait::Limits;
use super::{Late, Node, PeerRef, Wait};
use crate::config::Identity;
use crate::error::Error;
use crate::leader::{Due, Outcome};
use crate::member::News;
use crate::pal::{Event, Pal};
use crate::sync::Ordering;
use crate::wire::{Answer, ChildExit, Hello, Message, Process, ProcessChange, ProcessQuery};
use crate::{Id, Vmid};

/// Which children [`Node::wait_child`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Any child.
    Any,
    /// The child with this pid.
    Pid(Id),
    /// Any child in this process group; 0 for this process's own.
    Group(Id),
}

/// How a process ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Its user.
    pub uid: u32,
    /// What it returns.
    pub code: u32,
    /// The signal that ends it; 0 if none does.
    pub signal: u32,
}

impl<'m, P: Pal> Node<'m, P> {
    /// This process's pid, once it [joined](Node::join).
    pub fn pid(&self) -> Option<Id> {
        match self.own_pid.load(Ordering::Acquire) {
            0 => None,
            pid => Some(pid),
        }
    }

    /// Whether the leader is known to have this crate's extensions.
    pub(super) fn has_extensions(&self) -> bool {
        self.identity.is_leader() || self.extended.load(Ordering::Acquire)
    }

    /// Makes this process known as such: to the leader, and to its parent, which from now on
    /// notices its end. Returns its pid: that which its parent took for it, or else a fresh one.
    /// To be called once, before anything else that is about processes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it joined already; [`Error::Full`] or [`Error::Refused`] if the
    /// leader has no room or the pid is not this process's; else as [`Node::take_id_for`].
    pub fn join(&self, wait: Wait<'_>) -> Result<Id, Error> {
        if self.pid().is_some() {
            return Err(Error::Invalid);
        }
        let pid = match self.identity.pid {
            0 => self.take_id_for(self.identity.vmid, wait)?,
            pid => pid,
        };
        let hello = Hello {
            version: Hello::VERSION,
            features: 0,
            pid,
            parent: self.identity.parent.map_or(0, Vmid::get),
        };
        // From the moment that others know of it, it is asked about its pid.
        self.own_pid.store(pid, Ordering::Release);
        let introduced = self.say_hello(&hello, wait);
        if introduced.is_err() {
            self.own_pid.store(0, Ordering::Release);
        }
        introduced.map(|()| pid)
    }

    fn say_hello(&self, hello: &Hello, wait: Wait<'_>) -> Result<(), Error> {
        // The parent first: when the leader knows of this process, its parent does.
        if let Some(parent) = self.identity.parent {
            self.connect(parent)?;
        }
        let leader = match self.leader()? {
            Ask::Here(leader) => return leader.lock().join(self.identity.vmid, hello),
            Ask::There(leader) => leader,
        };
        self.send(leader, &Message::Hello(*hello), wait)?;
        // A leader in C knows no HELLO and sends none. One of ours has sent its own before it
        // answers this.
        self.owner_of(hello.pid, wait)?;
        if !self.has_extensions() {
            return Ok(());
        }
        let query = ProcessQuery {
            pid: hello.pid,
            ..ProcessQuery::default()
        };
        if self.query(&query, wait)?.vmid == self.identity.vmid.get() {
            Ok(())
        } else {
            Err(Error::Invalid)
        }
    }

    /// Prepares a child: its VMID, its pid, its places in the tables. The child is to be made with
    /// the identity that this returns, and to [`Node::join`]. It is in this process's group and
    /// session. A child that has not joined when this process ends is not started any more.
    ///
    /// If its start fails, [`Node::bury`] it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if this process has not joined; [`Error::Full`] at the limit of
    /// children or, at the leader, of processes ([`Error::Refused`], `ENOMEM`); else as
    /// [`Node::take_id_for`].
    pub fn start_child(&self, wait: Wait<'_>) -> Result<Identity, Error> {
        let parent_pid = self.pid().ok_or(Error::Unsupported)?;
        let vmid = self.new_vmid(wait)?;
        let pid = self.take_id_for(vmid, wait)?;
        let child = Identity {
            vmid,
            parent: Some(self.identity.vmid),
            leader: self.identity.leader.or(Some(self.identity.vmid)),
            pid,
            parent_pid,
        };
        let added = self.children.lock().add(pid, vmid);
        let started = added.and_then(|()| {
            if self.has_extensions() {
                let message = Message::ProcessStart {
                    vmid: vmid.get(),
                    pid,
                };
                self.change_process(&message, wait)
            } else {
                Ok(())
            }
        });
        if let Err(error) = started {
            // Nobody ever was this child.
            let _ = self.bury(vmid);
            return Err(error);
        }
        Ok(child)
    }

    /// Says how this process ends: to its parent, and to the leader, which tells whoever inherits
    /// it. The last thing before [`Node::shut_down`], but for [`Node::give_back_ids`].
    ///
    /// # Errors
    /// As [`Node::send`]; a parent that is gone is none.
    pub fn exit(&self, exit: Exit, wait: Wait<'_>) -> Result<(), Error> {
        let notice = Message::ChildExit(ChildExit {
            parent_pid: self.identity.parent_pid,
            pid: self.pid().unwrap_or(self.identity.pid),
            uid: exit.uid,
            exit_code: exit.code,
            term_signal: exit.signal,
        });
        let parent = self.identity.parent;
        let leader = self
            .identity
            .leader
            .filter(|leader| Some(*leader) != parent && self.has_extensions());
        for to in [leader, parent].into_iter().flatten() {
            match self.send(to, &notice, wait) {
                Ok(()) | Err(Error::NoSuchProcess | Error::LeaderGone) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until a child has ended, and reaps it: its pid is free after that, unless it names a
    /// group or session. With a wait of no time, [`Error::TimedOut`] says that none has ended yet
    /// (`WNOHANG`). Of several the one that died first comes first.
    ///
    /// # Errors
    /// [`Error::NoChild`] if there is no such child (any more), [`Error::TimedOut`] and
    /// [`Error::Interrupted`] as `wait` says; for groups [`Error::Unsupported`] if the leader is a
    /// process in C.
    pub fn wait_child(&self, which: Which, wait: Wait<'_>) -> Result<ChildExit, Error> {
        loop {
            let exit = self.see_child(which, wait)?;
            // Another thread may have been quicker.
            if self.children.lock().remove(exit.pid) {
                self.forget_child(exit.pid);
                return Ok(exit);
            }
        }
    }

    /// As [`Node::wait_child`], but leaves the child a zombie (`WNOWAIT`).
    ///
    /// # Errors
    /// As [`Node::wait_child`].
    pub fn see_child(&self, which: Which, wait: Wait<'_>) -> Result<ChildExit, Error> {
        let limits = Limits::of(wait, &self.pal);
        let claim = self.waiters.claim(self.identity.vmid, None, Late::Drop)?;
        let outcome = loop {
            if let Some(event) = self.waiters.event(claim) {
                event.clear();
            }
            match self.find_zombie(which, wait) {
                Ok(None) => {}
                Ok(Some(exit)) => break Ok(exit),
                Err(error) => break Err(error),
            }
            if let Some(Err(error)) = self.waiters.outcome(claim) {
                break Err(error);
            }
            if let Some(error) = limits.reached(&self.pal) {
                break Err(error);
            }
            self.sleep(claim, limits);
        };
        self.waiters.give(claim);
        outcome
    }

    /// A zombie that fits, or none yet.
    fn find_zombie(&self, which: Which, wait: Wait<'_>) -> Result<Option<ChildExit>, Error> {
        let mut query = ProcessQuery {
            parent: self.pid().unwrap_or(0),
            ..ProcessQuery::default()
        };
        match which {
            Which::Any | Which::Pid(_) => {
                let fits = |pid| which == Which::Any || which == Which::Pid(pid);
                let children = self.children.lock();
                if let Some(exit) = children.zombie(fits) {
                    return Ok(Some(exit));
                }
                if children.any_alive(fits) {
                    return Ok(None);
                }
                if let Which::Pid(pid) = which {
                    query.pid = pid;
                }
            }
            Which::Group(0) => {
                let own = self.group_of(0, asking(wait))?;
                return self.find_zombie(Which::Group(own), wait);
            }
            Which::Group(group) => {
                query.group = group;
                let mut last = None;
                loop {
                    let next = self.children.lock().next_zombie(last.as_ref());
                    let Some(exit) = next else { break };
                    last = Some(exit);
                    query.pid = exit.pid;
                    match self.query(&query, asking(wait)) {
                        Ok(_) => return Ok(Some(exit)),
                        Err(Error::NoSuchProcess) => {}
                        Err(error) => return Err(error),
                    }
                }
                query.pid = 0;
            }
        }
        // None known here, but there may be some that were inherited and live.
        if !self.has_extensions() || query.parent == 0 {
            return Err(Error::NoChild);
        }
        match self.query(&query, asking(wait)) {
            Ok(_) => Ok(None),
            Err(Error::NoSuchProcess) => Err(Error::NoChild),
            Err(error) => Err(error),
        }
    }

    /// The parent has seen the child's end.
    fn forget_child(&self, pid: Id) {
        let us = self.identity.vmid;
        match self.leader() {
            Ok(Ask::Here(leader)) => {
                leader.lock().handle(us, &Message::ProcessReap(pid));
            }
            Ok(Ask::There(leader)) if self.has_extensions() => {
                // Without the leader nobody asks for the pid any more.
                let _ = self.send(leader, &Message::ProcessReap(pid), Wait::FOREVER);
            }
            _ => {}
        }
    }

    /// Forgets a child that will never be.
    pub(super) fn unborn(&self, vmid: Vmid) {
        let mut children = self.children.lock();
        let Some(pid) = children.pid_of(vmid) else {
            return;
        };
        children.remove(pid);
    }

    /// Whether the leader tells parents of their children's ends. It does so when it has seen to
    /// the children of the dead, so that the parent never sees a zombie before its orphans.
    fn leader_tells(&self) -> bool {
        self.has_extensions() && !self.leader_gone.load(Ordering::Acquire)
    }

    /// Somebody says how a child ended. False if there is no room to put it aside for the
    /// embedder: to be tried again.
    pub(crate) fn child_ended(&self, from: Vmid, exit: ChildExit) -> bool {
        if self.upcalls.lock().is_full() {
            return false;
        }
        let by_leader = from == self.identity.leader.unwrap_or(self.identity.vmid);
        let news = {
            let mut children = self.children.lock();
            if by_leader && self.leader_tells() {
                children.ended(exit)
            } else {
                children.said(from, exit, !self.leader_tells())
            }
        };
        match news {
            News::Ended => self.child_is_zombie(exit),
            News::NoRoom => {
                self.counters.reaped_unseen.add(1);
                self.forget_child(exit.pid);
            }
            News::Nothing => {}
        }
        true
    }

    fn child_is_zombie(&self, exit: ChildExit) {
        // There is room, or this is the worker without a lock.
        self.tell_surely(Upcall::ChildEnded(exit));
        self.waiters.wake_for_room(self.identity.vmid);
    }

    /// A peer is gone: it may have been a child, or the last member, or the leader.
    pub(crate) fn peer_gone(&self, vmid: Vmid) {
        let us = self.pid().unwrap_or(0);
        let counts = !self.leader_tells();
        let exit = self.children.lock().gone(vmid, us, counts);
        if let Some(exit) = exit {
            self.child_is_zombie(exit);
        }
        if counts {
            loop {
                let untold = self.children.lock().next_untold(us);
                let Some(exit) = untold else { break };
                self.child_is_zombie(exit);
            }
        }
        self.tell_surely(Upcall::Left(vmid));
        self.waiters.wake_for_room(self.identity.vmid);
    }

    /// As the leader: sends what is to be told of its own accord. False if some of it could not be
    /// sent yet.
    pub(crate) fn pay_dues(&self) -> bool {
        let Some(leader) = &self.leader else {
            return true;
        };
        loop {
            let next = leader.lock().processes().next_due();
            let Some(due) = next else { return true };
            if !self.pay_due(due) {
                leader.lock().processes().put_back(due);
                return false;
            }
        }
    }

    fn pay_due(&self, due: Due) -> bool {
        let us = self.identity.vmid;
        // What is for this process itself is for its worker to tell.
        if matches!(due, Due::Notice(to, _) | Due::Signal(to, _) if to == us) {
            self.wake();
        }
        match due {
            Due::Notice(to, exit) if to == us => self.child_ended(us, exit),
            Due::Signal(to, kill) if to == us => {
                let signal = super::embedder::Signal::read(us, &kill);
                let reply = super::embedder::SignalReply { to: us, seq: 0 };
                self.tell(Upcall::Signal(signal, reply))
            }
            Due::Notice(to, exit) => self.try_send(to, &Message::ChildExit(exit)),
            Due::Signal(to, kill) => self.try_send(to, &Message::PidKill(kill)),
        }
    }

    /// Sends without waiting. False if there is no room; a peer that is gone needs nothing.
    fn try_send(&self, to: Vmid, message: &Message<'_>) -> bool {
        let now = Wait::at_most(Duration::ZERO);
        !matches!(self.send(to, message, now), Err(Error::Full(_)))
    }

    /// As the leader: a HELLO came, and is answered.
    pub(crate) fn welcome(&self, peer: &PeerRef<'_, 'm, P::Stream>, hello: &Hello) -> bool {
        peer.extended.store(true, Ordering::SeqCst);
        let Some(leader) = &self.leader else {
            if Some(peer.vmid()) == self.identity.leader {
                self.extended.store(true, Ordering::Release);
            }
            return true;
        };
        let answer = Hello {
            version: Hello::VERSION,
            features: 0,
            pid: 0,
            parent: 0,
        };
        if !self.try_send(peer.vmid(), &Message::Hello(answer)) {
            return false;
        }
        // The process asks what became of it.
        if leader.lock().join(peer.vmid(), hello).is_err() {
            self.counters.undone.add(1);
        }
        true
    }

    /// Asks the leader about the family's processes.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if none fits, [`Error::Unsupported`] if the leader is a process in
    /// C or this process has not joined; else as [`Node::ask`].
    pub fn query(&self, query: &ProcessQuery, wait: Wait<'_>) -> Result<Process, Error> {
        if !self.has_extensions() {
            return Err(Error::Unsupported);
        }
        let message = Message::ProcessQuery(*query);
        let answer = match self.leader()? {
            Ask::Here(leader) => leader.lock().handle(self.identity.vmid, &message),
            Ask::There(leader) => Outcome::Answer(self.ask_with(
                leader,
                &message,
                Late::Drop,
                &mut Data::none(),
                wait,
            )?),
        };
        match answer {
            Outcome::Answer(Answer::Process(Ok(process))) => Ok(process),
            Outcome::Answer(Answer::Process(Err(status))) => Err(error_of(status.get())),
            _ => Err(Error::Invalid),
        }
    }

    /// The next process of the family after `last` in the order of their start, or the first:
    /// for a listing as `ps(1)` gives it. `None` after the last.
    ///
    /// # Errors
    /// As [`Node::query`].
    pub fn next_process(
        &self,
        last: Option<&Process>,
        wait: Wait<'_>,
    ) -> Result<Option<Process>, Error> {
        let query = ProcessQuery {
            after: last.map_or(0, |last| last.born),
            ..ProcessQuery::default()
        };
        match self.query(&query, wait) {
            Ok(process) => Ok(Some(process)),
            Err(Error::NoSuchProcess) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the family knows about a process, 0 for this one.
    ///
    /// # Errors
    /// As [`Node::query`].
    pub fn process(&self, pid: Id, wait: Wait<'_>) -> Result<Process, Error> {
        let pid = match pid {
            0 => self.pid().ok_or(Error::Unsupported)?,
            pid => pid,
        };
        let query = ProcessQuery {
            pid,
            ..ProcessQuery::default()
        };
        self.query(&query, wait)
    }

    /// The process group of a process, 0 for this one: `getpgid(2)`.
    ///
    /// # Errors
    /// As [`Node::query`].
    pub fn group_of(&self, pid: Id, wait: Wait<'_>) -> Result<Id, Error> {
        self.process(pid, wait).map(|process| process.group)
    }

    /// The session of a process, 0 for this one: `getsid(2)`.
    ///
    /// # Errors
    /// As [`Node::query`].
    pub fn session_of(&self, pid: Id, wait: Wait<'_>) -> Result<Id, Error> {
        self.process(pid, wait).map(|process| process.session)
    }

    /// Moves this process (0) or a child into a group of its session, or into a new one named by
    /// its own pid (0): `setpgid(2)`.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`], or [`Error::Refused`] with `EPERM` or `EACCES` as the man page
    /// has them; else as [`Node::query`].
    pub fn set_group(&self, pid: Id, group: Id, wait: Wait<'_>) -> Result<(), Error> {
        self.change(ProcessChange::Group, pid, group, wait)
    }

    /// Makes this process the leader of a new session and group: `setsid(2)`. Returns the
    /// session's ID.
    ///
    /// # Errors
    /// [`Error::Refused`] (`EPERM`) if a group is named by its pid; else as [`Node::query`].
    pub fn new_session(&self, wait: Wait<'_>) -> Result<Id, Error> {
        let pid = self.pid().ok_or(Error::Unsupported)?;
        self.change(ProcessChange::Session, pid, 0, wait)?;
        Ok(pid)
    }

    /// Sets or clears one of this process's marks: subreaper (`prctl(2)`), executed (after which
    /// its parent can't change its group), stopped (by a signal).
    ///
    /// # Errors
    /// [`Error::Invalid`] if `mark` is none of these; else as [`Node::query`].
    pub fn mark(&self, mark: ProcessChange, on: bool, wait: Wait<'_>) -> Result<(), Error> {
        if matches!(mark, ProcessChange::Group | ProcessChange::Session) {
            return Err(Error::Invalid);
        }
        self.change(mark, 0, u32::from(on), wait)
    }

    fn change(
        &self,
        what: ProcessChange,
        pid: Id,
        value: u32,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        if !self.has_extensions() {
            return Err(Error::Unsupported);
        }
        let message = Message::ProcessChange { what, pid, value };
        self.change_process(&message, wait)
    }

    /// Sends a change to the table of processes.
    pub(super) fn change_process(
        &self,
        message: &Message<'_>,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        let answer = match self.leader()? {
            Ask::Here(leader) => match leader.lock().handle(self.identity.vmid, message) {
                Outcome::Answer(answer) => answer,
                _ => return Err(Error::Invalid),
            },
            Ask::There(leader) => self.ask(leader, message, wait)?,
        };
        match answer {
            Answer::Status(0) => Ok(()),
            Answer::Status(status) => Err(error_of(status)),
            _ => Err(Error::Invalid),
        }
    }

    /// As the leader, whose own process has ended: stays until the last member is gone, so that
    /// they can go on. Its process is dead for the others from now on. Anywhere else: returns at
    /// once. [`Node::shut_down`] comes after.
    ///
    /// A leader that shuts down without this takes the family's tables with it: the others get
    /// [`Error::LeaderGone`].
    ///
    /// # Errors
    /// [`Error::TimedOut`] and [`Error::Interrupted`] as `wait` says; it can be called again.
    pub fn leave(&self, wait: Wait<'_>) -> Result<(), Error> {
        let Some(leader) = &self.leader else {
            return Ok(());
        };
        let us = self.identity.vmid;
        leader.lock().left(us);
        self.pay_dues();
        let limits = Limits::of(wait, &self.pal);
        let claim = self.waiters.claim(us, None, Late::Drop)?;
        let outcome = loop {
            if let Some(event) = self.waiters.event(claim) {
                event.clear();
            }
            if self.peers.fill().0 == 0 && !leader.lock().processes().any_but(us) {
                break Ok(());
            }
            if let Some(Err(error)) = self.waiters.outcome(claim) {
                break Err(error);
            }
            if let Some(error) = limits.reached(&self.pal) {
                break Err(error);
            }
            self.sleep(claim, limits);
        };
        self.waiters.give(claim);
        outcome
    }
}

/// For the questions that a wait without time has to ask all the same.
fn asking(wait: Wait<'_>) -> Wait<'_> {
    wait.at_least(Duration::from_secs(1))
}
