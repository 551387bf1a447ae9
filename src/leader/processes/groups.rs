//! Groups, sessions and flags, and queries about processes.

use super::{Entry, Life, Processes};
use crate::error::Errno;
use crate::invariant::Count;
use crate::leader::Ranges;
use crate::wire::{Process, ProcessChange, ProcessFlags, ProcessQuery, ProcessState};
use crate::{Id, Pid, Vmid};

impl Processes<'_> {
    /// Changes an attribute of a process, as the process of `from` requests.
    ///
    /// # Errors
    /// A positive error number, as for `setpgid(2)`, `setsid(2)` and `prctl(2)`.
    pub(in crate::leader) fn change(
        &mut self,
        from: Vmid,
        what: ProcessChange,
        pid: Id,
        value: u32,
        ranges: &mut Ranges<'_>,
    ) -> Result<(), Errno> {
        let caller = *self
            .find_by_vmid(from)
            .filter(|caller| caller.is_alive())
            .ok_or(Errno::ESRCH)?;
        let pid = if pid == 0 { caller.pid } else { pid };
        if what == ProcessChange::Group {
            let group = if value == 0 { pid } else { value };
            return self.set_group(&caller, pid, group, ranges);
        }
        if pid != caller.pid {
            return Err(Errno::EPERM);
        }
        let flag = match what {
            ProcessChange::Group => return Ok(()),
            ProcessChange::Session => return self.set_session(&caller, ranges),
            ProcessChange::Subreaper => ProcessFlags::SUBREAPER,
            ProcessChange::Executed => ProcessFlags::EXECUTED,
            ProcessChange::Stopped => ProcessFlags::STOPPED,
        };
        if let Some(entry) = self.find_by_pid_mut(pid) {
            let before = entry.flags.contains(ProcessFlags::STOPPED);
            entry.flags.set(flag, value != 0);
            let after = entry.flags.contains(ProcessFlags::STOPPED);
            self.stopped = self
                .stopped
                .plus(usize::from(after))
                .minus(usize::from(before));
        }
        Ok(())
    }

    /// `setpgid(2)`.
    fn set_group(
        &mut self,
        caller: &Entry,
        pid: Id,
        group: Id,
        ranges: &mut Ranges<'_>,
    ) -> Result<(), Errno> {
        let target = *self
            .find_by_pid(pid)
            .filter(|target| target.exists())
            .filter(|target| target.pid == caller.pid || target.parent == caller.pid)
            .ok_or(Errno::ESRCH)?;
        if target.session != caller.session {
            return Err(Errno::EPERM);
        }
        if target.pid != caller.pid && target.flags.contains(ProcessFlags::EXECUTED) {
            return Err(Errno::EACCES);
        }
        if target.session == target.pid {
            return Err(Errno::EPERM);
        }
        let in_session = |entry: &Entry| {
            entry.exists() && entry.group == group && entry.session == caller.session
        };
        if group != pid && !self.each_entry().any(in_session) {
            return Err(Errno::EPERM);
        }
        self.adjust_ref_count(group, 1);
        self.adjust_ref_count(target.group, -1);
        if let Some(entry) = self.find_by_pid_mut(pid) {
            entry.group = group;
        }
        self.free_if_unreferenced(target.group, ranges);
        Ok(())
    }

    /// `setsid(2)`.
    fn set_session(&mut self, caller: &Entry, ranges: &mut Ranges<'_>) -> Result<(), Errno> {
        let leads = |entry: &Entry| entry.exists() && entry.group == caller.pid;
        if self.each_entry().any(leads) {
            return Err(Errno::EPERM);
        }
        self.adjust_ref_count(caller.group, -1);
        self.adjust_ref_count(caller.session, -1);
        self.adjust_ref_count(caller.pid, 2);
        if let Some(entry) = self.find_by_pid_mut(caller.pid) {
            entry.group = caller.pid;
            entry.session = caller.pid;
        }
        self.free_if_unreferenced(caller.group, ranges);
        self.free_if_unreferenced(caller.session, ranges);
        Ok(())
    }

    /// Returns the process that owns the ID of a query, which is no pid.
    ///
    /// # Errors
    /// `ESRCH` if it is a pid, or one that still names a group or session; or if there is no such
    /// process.
    pub(in crate::leader) fn query_owner(
        &self,
        query: &ProcessQuery,
        owner: Vmid,
    ) -> Result<Process, Errno> {
        let of_thread = ProcessQuery {
            pid: query.pid,
            ..ProcessQuery::default()
        };
        let process = self
            .find_by_vmid(owner)
            .filter(|process| process.is_alive());
        match process {
            Some(process) if *query == of_thread && !self.is_pid_in_use(query.pid) => {
                self.query(&ProcessQuery {
                    pid: process.pid,
                    ..of_thread
                })
            }
            _ => Err(Errno::ESRCH),
        }
    }

    /// Returns a process, or the next that matches the query.
    ///
    /// # Errors
    /// `ESRCH` if there is none.
    pub fn query(&self, query: &ProcessQuery) -> Result<Process, Errno> {
        let fits = |entry: &&Entry| {
            entry.exists()
                && entry.start_seq > query.after
                && (query.group == 0 || entry.group == query.group)
                && (query.parent == 0 || entry.parent == query.parent)
        };
        let found = if query.pid == 0 {
            self.each_entry()
                .filter(fits)
                .min_by_key(|entry| entry.start_seq)
        } else {
            self.find_by_pid(query.pid).filter(fits)
        };
        let entry = found.ok_or(Errno::ESRCH)?;
        let mut flags = entry.flags;
        flags.set(
            ProcessFlags::IN_ORPHANED_GROUP,
            query.pid != 0 && self.is_orphaned(entry.group),
        );
        // A process that exists has a pid, a group and a session.
        let pid = |number| Pid::new(number).ok_or(Errno::ESRCH);
        Ok(Process {
            pid: pid(entry.pid)?,
            vmid: Vmid::new(entry.vmid),
            parent: Pid::new(entry.parent),
            group: pid(entry.group)?,
            session: pid(entry.session)?,
            state: match entry.life {
                Life::Starting => ProcessState::Starting,
                Life::Running => ProcessState::Running,
                Life::Dead | Life::Free => ProcessState::Zombie,
            },
            flags,
            start_seq: entry.start_seq,
        })
    }
}
