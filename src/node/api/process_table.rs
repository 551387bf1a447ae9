//! Calls about the family's table of processes, groups and sessions.

use crate::error::{Error, Invalid};
use crate::node::rpc::{self, done};
use crate::node::{Node, Wait};
use crate::pal::Pal;
use crate::wire::{Answer, KillTarget, Message, PidKill, Process, ProcessChange, ProcessQuery};
use crate::{Id, Pid, Vmid};

/// # The process table
///
/// Processes, groups and sessions of the whole family.
impl<P: Pal> Node<'_, P> {
    /// Returns the next process of the family after `last` in the order of their starts, or the
    /// first: for a listing like that of `ps(1)`. `None` after the last.
    ///
    /// # Errors
    /// As [`Node::process`].
    pub fn next_process(
        &self,
        last: Option<&Process>,
        wait: Wait<'_>,
    ) -> Result<Option<Process>, Error> {
        self.process_after(last.map_or(0, |last| last.start_seq), wait)
    }

    /// Returns the first process of the family that was started after that one.
    pub(crate) fn process_after(
        &self,
        start_seq: u64,
        wait: Wait<'_>,
    ) -> Result<Option<Process>, Error> {
        self.process_after_in(start_seq, wait)
    }

    /// Returns the entry of a process in the family's table, or of this one (`None`). The ID of a
    /// thread stands for its process.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if there is none, [`Error::Unsupported`] if the leader is a process in C,
    /// [`Error::NotJoined`] if this process has not joined; else as [every call](Node#errors-of-every-call).
    pub fn process(&self, pid: Option<Pid>, wait: Wait<'_>) -> Result<Process, Error> {
        self.process_in(pid, wait)
    }

    /// Returns the process group of a process, or of this one (`None`): `getpgid(2)`. The ID of a thread
    /// stands for its process.
    ///
    /// # Errors
    /// As [`Node::process`].
    pub fn group_of(&self, pid: Option<Pid>, wait: Wait<'_>) -> Result<Pid, Error> {
        self.process(pid, wait).map(|process| process.group)
    }

    /// Returns the session of a process, or of this one (`None`): `getsid(2)`. The ID of a thread stands for
    /// its process.
    ///
    /// # Errors
    /// As [`Node::process`].
    pub fn session_of(&self, pid: Option<Pid>, wait: Wait<'_>) -> Result<Pid, Error> {
        self.process(pid, wait).map(|process| process.session)
    }

    /// Moves a child or this process (`None`) into a group of its session, or into the one named by
    /// its own pid (`None`), which may be new: `setpgid(2)`.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`], or [`Error::Refused`] with `EPERM` or `EACCES` as in the man page;
    /// [`Error::Invalid`] if `pid` is the ID of a thread, and not a pid; else as [`Node::process`].
    pub fn set_group(
        &self,
        pid: Option<Pid>,
        group: Option<Pid>,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        self.set_group_in(pid, group, wait)
    }

    /// Makes this process the leader of a new session and group: `setsid(2)`. Returns the
    /// session's ID.
    ///
    /// # Errors
    /// [`Error::Refused`] (`EPERM`) if a group is named by its pid; else as [`Node::process`].
    pub fn new_session(&self, wait: Wait<'_>) -> Result<Pid, Error> {
        self.new_session_in(wait)
    }

    /// Sets or clears one of this process's flags: subreaper (`prctl(2)`), executed (after which
    /// its parent can't change its group), stopped (by a signal).
    ///
    /// # Errors
    /// [`Error::Invalid`] if `mark` is none of these; else as [`Node::process`].
    pub fn mark(&self, mark: ProcessChange, on: bool, wait: Wait<'_>) -> Result<(), Error> {
        self.mark_in(mark, on, wait)
    }
}

calls! {
    /// Queries the leader's table of processes. For an ID that is no pid, but in a range of a
    /// process, the answer is that process: the ID may be a thread's, which [`Node::process`]
    /// checks.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if no process matches, [`Error::Unsupported`] if the leader is a
    /// process in C, [`Error::NotJoined`] if this process has not joined; else as [every call](Node#errors-of-every-call).
    fn query(&self, query: &ProcessQuery, wait: Wait<'_>) -> Result<Process, Error> {
        self.check_running()?;
        if !self.has_extensions() {
            return Err(self.unsupported());
        }
        let message = Message::ProcessQuery(*query);
        rpc::process(wait!(self.call(self.leader_vmid(), &message, wait))?)
    }

    fn process_after_in(&self, start_seq: u64, wait: Wait<'_>) -> Result<Option<Process>, Error> {
        let query = ProcessQuery {
            after: start_seq,
            ..ProcessQuery::default()
        };
        match wait!(self.query(&query, wait)) {
            Ok(process) => Ok(Some(process)),
            Err(Error::NoSuchProcess) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn process_in(&self, pid: Option<Pid>, wait: Wait<'_>) -> Result<Process, Error> {
        self.check_running()?;
        let pid = pid.or_else(|| self.pid()).ok_or(Error::NotJoined)?;
        let query = ProcessQuery {
            pid: pid.get(),
            ..ProcessQuery::default()
        };
        let wait = self.begin(wait);
        let process = wait!(self.query(&query, wait))?;
        // The leader knows the owner of the ID, and only the owner knows whether it is a thread's.
        if process.pid == pid || wait!(self.is_thread(process.vmid, pid.get(), wait))? {
            Ok(process)
        } else {
            Err(Error::NoSuchProcess)
        }
    }

    /// Returns true if an ID is in use in a process, so that it is the ID of a thread.
    fn is_thread(&self, of: Option<Vmid>, id: Id, wait: Wait<'_>) -> Result<bool, Error> {
        let of = of.ok_or(Error::NoSuchProcess)?;
        // A thread of a process is signalled with the pid of that process, so this signal can only
        // be about the ID itself.
        let kill = PidKill {
            sender: self.pid_or_zero(),
            pid: id,
            id,
            signal: 0,
            target: KillTarget::Thread,
        };
        match wait!(self.call(of, &Message::PidKill(kill), wait))? {
            Answer::Status(result) => Ok(result == Ok(0)),
            _ => Err(Error::Invalid(Invalid::Answer)),
        }
    }

    fn set_group_in(
        &self,
        pid: Option<Pid>,
        group: Option<Pid>,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        let wait = self.begin(wait);
        let (of, to) = (Pid::number(pid), Pid::number(group));
        let changed = wait!(self.change(ProcessChange::Group, of, to, wait));
        if pid.is_none() || !matches!(changed, Err(Error::NoSuchProcess)) {
            return changed;
        }
        match wait!(self.process_in(pid, wait)) {
            Ok(process) if Some(process.pid) != pid => Err(Error::Invalid(Invalid::IsThread)),
            Err(error @ (Error::TimedOut | Error::Interrupted)) => Err(error),
            _ => changed,
        }
    }

    fn new_session_in(&self, wait: Wait<'_>) -> Result<Pid, Error> {
        self.check_running()?;
        let pid = self.pid().ok_or(Error::NotJoined)?;
        let session = ProcessChange::Session;
        wait!(self.change(session, pid.get(), 0, wait))?;
        Ok(pid)
    }

    fn mark_in(&self, mark: ProcessChange, on: bool, wait: Wait<'_>) -> Result<(), Error> {
        self.check_running()?;
        if matches!(mark, ProcessChange::Group | ProcessChange::Session) {
            return Err(Error::Invalid(Invalid::Mark));
        }
        wait!(self.change(mark, 0, u32::from(on), wait))
    }

    fn change(
        &self,
        what: ProcessChange,
        pid: Id,
        value: u32,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        self.check_running()?;
        if !self.has_extensions() {
            return Err(self.unsupported());
        }
        let message = Message::ProcessChange { what, pid, value };
        wait!(self.change_process(&message, wait))
    }

    /// Sends a change of the table of processes to the leader.
    fn change_process(&self, message: &Message<'_>, wait: Wait<'_>) -> Result<(), Error> {
        done(wait!(self.call(self.leader_vmid(), message, wait))?)
    }
}
