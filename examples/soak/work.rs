//! The work of a process while it lives: each step checks its results.

use std::env::current_exe;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libos_ipc::host::{Host, HostNode};
use libos_ipc::{
    Errno, Error, FileLock, Id, LockFamily, LockKind, MetaCode, PATH_MAX, Pid, Process,
    ProcessState, Shared, Target, Wait,
};
use rustix::process::{getgid, getuid};

use crate::common::pid_of;
use crate::figures::{Kind, Report};
use crate::member::Options;
use crate::shared::{LockedFile, PART_LENGTH, PARTS, SHARERS, Value, flocked_path, value_id};
use crate::signals::HELLO;

/// The state of a process while it works.
pub(crate) struct Member<'a> {
    node: &'a HostNode,
    options: &'a Options,
    pid: Pid,
    wait: Wait<'static>,
    /// The file with record locks.
    shared_file: LockedFile,
    /// The file that is locked with `flock`, and its path.
    flocked_file: LockedFile,
    flocked_path: PathBuf,
    /// The value that it shares with some others; they all have it open.
    value: Shared<'a, 'static, Host, Value>,
    /// The IDs that it holds.
    held: Vec<Id>,
    /// The process after which the next query continues.
    last: Option<Process>,
    /// The number of its changes of the shared value.
    pub(crate) changes: u64,
    pub(crate) report: Report,
}

impl<'a> Member<'a> {
    pub(crate) fn new(node: &'a HostNode, options: &'a Options) -> Result<Member<'a>> {
        let flocked_path = flocked_path(&options.file);
        Ok(Member {
            node,
            options,
            pid: pid_of(&node.identity())?,
            wait: Wait::at_most(Duration::from_millis(options.limit)),
            shared_file: LockedFile::open(&options.file).context("the shared file")?,
            flocked_file: LockedFile::open(&flocked_path).context("the file for flock")?,
            flocked_path,
            value: node.share(Some(value_id(options.slot)))?,
            held: Vec::new(),
            last: None,
            changes: 0,
            report: Report::default(),
        })
    }

    /// Makes a call, and records its latency.
    pub(crate) fn timed<T>(
        &mut self,
        kind: Kind,
        call: impl FnOnce(&'a HostNode, Wait<'static>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let begin = Instant::now();
        let outcome = call(self.node, self.wait);
        let took = begin.elapsed().as_nanos();
        self.report.latencies.of_mut(kind).add(took);
        outcome
    }

    /// Makes one step of work.
    pub(crate) fn step(&mut self) -> Result<()> {
        match fastrand::u32(..8) {
            0 => self.ids().context("IDs"),
            1 => self.processes().context("processes"),
            2 => self.signals().context("signals"),
            3 => self.metadata().context("metadata"),
            4 => self.own_file().context("a file of its own"),
            5 => self.shared_files().context("the shared files"),
            6 => self.own_value().context("a value of its own"),
            _ => self.shared_value().context("the shared value"),
        }
    }

    fn ids(&mut self) -> Result<()> {
        for _ in 0..fastrand::u32(1..=8) {
            let id = self.timed(Kind::Id, |node, wait| node.take_id(wait))?;
            self.held.push(id);
            self.report.counts.taken += 1;
        }
        let own = self.held[fastrand::usize(..self.held.len())];
        let own_vmid = self.node.identity().vmid;
        let owner = self.timed(Kind::Id, |node, wait| node.owner_of(own, wait))?;
        ensure!(
            owner == Some(own_vmid),
            "{own} belongs to {own_vmid}, not {owner:?}"
        );
        let keep = fastrand::usize(..=32);
        while self.held.len() > keep {
            self.release()?;
        }
        Ok(())
    }

    fn release(&mut self) -> Result<()> {
        if let Some(id) = self.held.pop() {
            self.timed(Kind::Id, |node, wait| node.release_id(id, wait))?;
            self.report.counts.released += 1;
        }
        Ok(())
    }

    /// Returns the next process in the list of all, if it runs and is not this one.
    fn next_other_process(&mut self) -> Result<Option<Pid>, Error> {
        let last = self.last;
        self.last = self.timed(Kind::Process, |node, wait| {
            node.next_process(last.as_ref(), wait)
        })?;
        Ok(self
            .last
            .filter(|process| process.state == ProcessState::Running && process.pid != self.pid)
            .map(|process| process.pid))
    }

    fn processes(&mut self) -> Result<()> {
        let own = self.timed(Kind::Process, |node, wait| node.process(None, wait))?;
        ensure!(
            own.pid == self.pid && own.vmid == Some(self.node.identity().vmid),
            "it is {}, and not {own:?}",
            self.pid
        );
        if own.group != self.pid && fastrand::bool() {
            self.timed(Kind::Process, |node, wait| node.set_group(None, None, wait))?;
            let group = self.timed(Kind::Process, |node, wait| node.group_of(None, wait))?;
            ensure!(group == self.pid, "its own group is {group}");
        }
        for _ in 0..4 {
            self.next_other_process()?;
        }
        Ok(())
    }

    /// Returns the pid of the first process, which is the parent of all others.
    fn first_pid(&self) -> Result<Pid> {
        self.node.identity().parent_pid.context("no parent")
    }

    fn signals(&mut self) -> Result<()> {
        let first = self.first_pid()?;
        self.timed(Kind::Signal, |node, wait| {
            node.kill(Target::Process(first), HELLO, wait)
        })?;
        self.report.counts.to_first += 1;
        if let Some(other) = self.next_other_process()? {
            let sent = self.timed(Kind::Signal, |node, wait| {
                node.kill(Target::Process(other), HELLO, wait)
            });
            let accepted = u64::from(if_alive(sent)?.is_some());
            if other == first {
                self.report.counts.to_first += accepted;
            } else {
                self.report.counts.to_others += accepted;
            }
        }
        Ok(())
    }

    fn metadata(&mut self) -> Result<()> {
        let pid = match self.next_other_process()? {
            Some(other) => other,
            None => self.first_pid()?,
        };
        let credentials = self.timed(Kind::Metadata, |node, wait| node.credentials(pid, wait));
        if let Some(credentials) = if_alive(credentials)? {
            let own = (getuid().as_raw(), getgid().as_raw());
            ensure!(
                credentials == own,
                "{pid} has the credentials {credentials:?}"
            );
        }
        let mut path = [0; PATH_MAX];
        let length = self.timed(Kind::Metadata, |node, wait| {
            node.path_of(pid, MetaCode::Executable, &mut path, wait)
        });
        if let Some(length) = if_alive(length)? {
            let (path, program) = (&path[..length], current_exe()?);
            let path = path.strip_suffix(&[0]).unwrap_or(path);
            ensure!(
                path == program.as_os_str().as_bytes(),
                "{pid} runs another program"
            );
        }
        Ok(())
    }

    fn set_lock(&mut self, kind: Kind, lock: &FileLock<'_>) -> Result<(), Error> {
        self.timed(kind, |node, wait| node.set_lock(lock, wait))
    }

    fn lock<'p>(&self, path: &'p [u8], kind: LockKind, start: u64, end: u64) -> FileLock<'p> {
        FileLock {
            family: LockFamily::Posix,
            kind,
            start,
            end,
            pid: self.pid.get(),
            handle: 0,
            wait: true,
            path,
        }
    }

    /// Locks parts of a file that no other process uses, so that it is delegated.
    fn own_file(&mut self) -> Result<()> {
        let path = format!("own file of {}", self.pid);
        let path = path.as_bytes();
        for at in 0..8 {
            let kind = if fastrand::bool() {
                LockKind::Write
            } else {
                LockKind::Read
            };
            let lock = self.lock(path, kind, at * 10, at * 10 + fastrand::u64(..20));
            self.set_lock(Kind::OwnLock, &lock)?;
        }
        let all = self.lock(path, LockKind::Write, 0, u64::MAX);
        let found = self.timed(Kind::OwnLock, |node, wait| node.find_lock(&all, wait))?;
        ensure!(found.is_none(), "{found:?} is in a file of its own");
        if fastrand::bool() {
            let all = self.lock(path, LockKind::Unlock, 0, u64::MAX);
            self.set_lock(Kind::OwnLock, &all)?;
        }
        Ok(())
    }

    /// Sets locks that other processes request, too: record locks on one part of a file, and then perhaps on another,
    /// which may be a deadlock; or `flock` on the other file.
    fn shared_files(&mut self) -> Result<()> {
        if fastrand::u32(..3) == 0 {
            self.use_flock()
        } else {
            self.use_record_locks()
        }
    }

    /// Locks the whole of a shared file with `flock`, to read or to write.
    fn use_flock(&mut self) -> Result<()> {
        let path = self.flocked_path.clone();
        let is_reader = fastrand::bool();
        let lock = FileLock {
            family: LockFamily::Flock,
            kind: if is_reader {
                LockKind::Read
            } else {
                LockKind::Write
            },
            handle: u64::from(self.pid.get()),
            ..self.lock(path.as_os_str().as_bytes(), LockKind::Write, 0, u64::MAX)
        };
        self.set_lock(Kind::SharedLock, &lock)?;
        if is_reader {
            self.flocked_file.check_unused(self.node, 0, self.wait)?;
        } else {
            self.flocked_file
                .use_exclusively(self.node, 0, self.pid.get(), self.wait)?;
        }
        let unlock = FileLock {
            kind: LockKind::Unlock,
            ..lock
        };
        Ok(self.set_lock(Kind::SharedLock, &unlock)?)
    }

    /// Sets record locks on one or two parts of a shared file.
    fn use_record_locks(&mut self) -> Result<()> {
        let path = self.options.file.as_os_str().as_bytes();
        for _ in 0..fastrand::u32(1..=2) {
            let part = fastrand::u64(..PARTS);
            let (start, end) = (part * PART_LENGTH, (part + 1) * PART_LENGTH - 1);
            let lock = self.lock(path, LockKind::Write, start, end);
            match self.set_lock(Kind::SharedLock, &lock) {
                Ok(()) => {
                    self.shared_file
                        .use_exclusively(self.node, part, self.pid.get(), self.wait)?;
                }
                Err(Error::Refused {
                    errno: Errno::EDEADLK,
                    ..
                }) => {
                    self.report.counts.deadlocks += 1;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let all = self.lock(path, LockKind::Unlock, 0, u64::MAX);
        Ok(self.set_lock(Kind::SharedLock, &all)?)
    }

    fn own_value(&mut self) -> Result<()> {
        let node = self.node;
        let value = node.share::<u64>(None)?;
        let wait = self.wait;
        let begin = Instant::now();
        *value.write(wait)? += 7;
        let seen = *value.read(wait)?;
        drop(value);
        let took = begin.elapsed().as_nanos();
        self.report.latencies.of_mut(Kind::OwnValue).add(took);
        ensure!(seen == 7, "7 was written, and {seen} read");
        Ok(())
    }

    /// Changes, or reads, the value that this process shares with some others.
    fn shared_value(&mut self) -> Result<()> {
        let wait = self.wait;
        let index = self.value_index();
        for _ in 0..fastrand::u32(1..=8) {
            let begin = Instant::now();
            if fastrand::u32(..4) == 0 {
                let value = self.value.read(wait)?;
                ensure!(value.check_invariants(), "the shared value is torn");
            } else {
                let mut value = self.value.write(wait)?;
                ensure!(value.check_invariants(), "the shared value is torn");
                value.sum += 1;
                value.by_slot[index] += 1;
                self.changes += 1;
                self.report.counts.changes += 1;
            }
            let took = begin.elapsed().as_nanos();
            self.report.latencies.of_mut(Kind::SharedValue).add(took);
        }
        Ok(())
    }

    /// Returns the index of this process's slot in the shared value.
    fn value_index(&self) -> usize {
        (self.options.slot % SHARERS) as usize
    }

    /// Returns the number of changes of the shared value by the processes of this slot.
    pub(crate) fn own_changes(&self) -> Result<u64, Error> {
        Ok(self.value.read(self.wait)?.by_slot[self.value_index()])
    }

    /// Releases all IDs, and returns the last report.
    pub(crate) fn leave(mut self) -> Result<Report> {
        while !self.held.is_empty() {
            self.release()?;
        }
        Ok(self.report)
    }
}

/// Returns the answer about another process; `None` if that process has ended meanwhile.
fn if_alive<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(
            Error::NoSuchProcess
            | Error::Refused {
                errno: Errno::ESRCH,
                ..
            },
        ) => Ok(None),
        Err(error) => Err(error),
    }
}
