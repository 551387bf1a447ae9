//! The work of a process: each step uses one service, and reports each answer before it goes on.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libos_ipc::host::{Host, HostNode};
use libos_ipc::{
    Errno, Error, FileLock, Id, LockFamily, LockKind, Pid, Process, ProcessState, Shared, Target,
};
use rustix::fs::{FlockOperation, fcntl_lock};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::member::WAIT;
use crate::record::{Event, now, report};

/// The number of slots of the shared value: the greatest number of processes that work, one after another.
pub(crate) const SLOTS: usize = 110;

/// The number of files that are locked. The first is one that all use.
const FILES: usize = 16;

/// The greatest number of IDs that a process keeps: more than a range has.
const MAX_KEPT: usize = 48;

/// The signal to one process.
const TO_PROCESS: i32 = 10;
/// The signal to all. It is a real-time signal, so two of them are not merged.
pub(crate) const TO_ALL: i32 = 40;

/// The shared value: the number of changes by each process.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Value {
    /// The number of changes by all processes.
    sum: u64,
    by_slot: [u64; SLOTS],
}

/// The number of the shared value.
const VALUE: u64 = 1;

/// The files that are locked, and their paths.
pub(crate) struct Files(Vec<(PathBuf, File)>);

impl Files {
    pub(crate) fn create(directory: &Path) -> Result<()> {
        for number in 0..FILES {
            File::create_new(path(directory, number))?;
        }
        Ok(())
    }

    pub(crate) fn open(directory: &Path) -> Result<Files> {
        let open = |number| {
            let path = path(directory, number);
            let file = File::options().read(true).write(true).open(&path)?;
            Ok((path, file))
        };
        (0..FILES).map(open).collect::<Result<_>>().map(Files)
    }
}

fn path(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("file {number}"))
}

/// The shared value in a process.
pub(crate) type Counters<'a> = Shared<'a, 'static, Host, Value>;

/// Opens the shared value. It lives as long as a process that has used it has it open.
pub(crate) fn counters(node: &HostNode) -> Result<Counters<'_>> {
    Ok(node.share(Some(VALUE))?)
}

/// Returns the changes of the shared value by each process.
pub(crate) fn changes(value: &Counters<'_>) -> Result<Vec<u64>> {
    let value = value.read(WAIT)?;
    let sum: u64 = value.by_slot.iter().sum();
    ensure!(
        sum == value.sum,
        "{sum} changes, but the sum is {}",
        value.sum
    );
    Ok(value.by_slot.to_vec())
}

/// The state of a process while it works.
pub(crate) struct Work<'a> {
    node: &'a HostNode,
    slot: usize,
    pid: Pid,
    files: &'a Files,
    value: &'a Counters<'a>,
    /// The number of its changes of the shared value.
    changes: u64,
    /// The number of these changes that other processes have had.
    seen: u64,
    /// The IDs that it holds.
    held: Vec<Id>,
    /// The process after which the next query continues.
    last: Option<Process>,
}

impl<'a> Work<'a> {
    pub(crate) fn new(
        node: &'a HostNode,
        slot: usize,
        files: &'a Files,
        value: &'a Counters<'a>,
    ) -> Result<Work<'a>> {
        let own = node.process(None, WAIT)?;
        if own.group != own.pid {
            node.set_group(None, None, WAIT)
                .context("a group of its own")?;
        }
        Ok(Work {
            node,
            slot,
            pid: node.pid().context("it has joined")?,
            files,
            value,
            changes: 0,
            seen: 0,
            held: Vec::new(),
            last: None,
        })
    }

    /// Works until `stop` is set, and then gives its IDs back.
    pub(crate) fn run(mut self, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.step()?;
            sleep(Duration::from_micros(fastrand::u64(..2000)));
        }
        while !self.held.is_empty() {
            self.release_one()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        match fastrand::u32(..8) {
            0 | 1 => self.ids().context("IDs"),
            2 => self.processes().context("processes"),
            3 => self.signals().context("signals"),
            4 => self.lock(0).context("the file that all use"),
            5 => self.files().context("files"),
            _ => self.change().context("the shared value"),
        }
    }

    fn ids(&mut self) -> Result<()> {
        for _ in 0..fastrand::u32(1..=12) {
            let id = self.node.take_id(WAIT)?;
            report(Event::Took { id: id.into() });
            self.held.push(id);
        }
        let own = self.held[fastrand::usize(..self.held.len())];
        let own_vmid = self.node.identity().vmid;
        let owner = self.node.owner_of(own, WAIT)?;
        ensure!(
            owner == Some(own_vmid),
            "{own} belongs to {own_vmid}, not {owner:?}"
        );
        let keep = fastrand::usize(..=MAX_KEPT);
        while self.held.len() > keep {
            self.release_one()?;
        }
        Ok(())
    }

    fn release_one(&mut self) -> Result<()> {
        if !self.held.is_empty() {
            let id = self.held.swap_remove(fastrand::usize(..self.held.len()));
            report(Event::ReleasesId { id: id.into() });
            self.node.release_id(id, WAIT)?;
        }
        Ok(())
    }

    /// Returns the next process in the list of all, if it runs and is not this one.
    fn next_other_process(&mut self) -> Result<Option<Pid>, Error> {
        self.last = self.node.next_process(self.last.as_ref(), WAIT)?;
        Ok(self
            .last
            .filter(|process| process.state == ProcessState::Running && process.pid != self.pid)
            .map(|process| process.pid))
    }

    fn processes(&mut self) -> Result<()> {
        let own = self.node.process(None, WAIT)?;
        ensure!(
            own.pid == self.pid && own.group == self.pid,
            "it is {} in a group of its own, and not {own:?}",
            self.pid
        );
        Ok(())
    }

    fn signals(&mut self) -> Result<()> {
        let (target, number, to) = if fastrand::u32(..8) == 0 {
            (Target::All, TO_ALL, 0)
        } else if let Some(pid) = self.next_other_process()? {
            (Target::Process(pid), TO_PROCESS, pid.get().into())
        } else {
            return Ok(());
        };
        let begin = now();
        report(Event::Signals { to });
        match self.node.kill(target, number, WAIT) {
            Ok(()) => report(Event::Signalled { to, begin }),
            Err(
                Error::NoSuchProcess
                | Error::Refused {
                    errno: Errno::ESRCH,
                    ..
                },
            ) => {}
            Err(error) => return Err(error).context(format!("signalling {target:?}")),
        }
        Ok(())
    }

    /// Locks its own file, and now and then one of another process.
    fn files(&mut self) -> Result<()> {
        let own = 1 + self.slot % (FILES - 1);
        let other = 1 + fastrand::usize(..FILES - 1);
        for _ in 0..4 {
            self.lock(if fastrand::u32(..16) == 0 { other } else { own })?;
        }
        Ok(())
    }

    /// Locks a file, checks with the kernel's lock that no other process has it, and unlocks it.
    fn lock(&mut self, number: usize) -> Result<()> {
        let (path, file) = &self.files.0[number];
        let lock = FileLock {
            family: LockFamily::Posix,
            kind: LockKind::Write,
            start: 0,
            end: u64::MAX,
            pid: self.pid.get(),
            handle: 0,
            wait: true,
            path: path.as_os_str().as_bytes(),
        };
        self.node.set_lock(&lock, WAIT)?;
        let file_number = number as u64;
        report(Event::Locked { file: file_number });
        fcntl_lock(file, FlockOperation::NonBlockingLockExclusive)
            .context("another process has the kernel's lock")?;
        if fastrand::u32(..4) == 0 {
            sleep(Duration::from_micros(fastrand::u64(..500)));
        }
        fcntl_lock(file, FlockOperation::Unlock)?;
        report(Event::Unlocks { file: file_number });
        let unlock = FileLock {
            kind: LockKind::Unlock,
            ..lock
        };
        Ok(self.node.set_lock(&unlock, WAIT)?)
    }

    fn change(&mut self) -> Result<()> {
        for _ in 0..fastrand::u32(1..=4) {
            let mut value = self.value.write(WAIT)?;
            report(Event::Acquired {});
            // If another process has changed the value since, it has got all earlier changes of this one.
            if value.status().changed {
                self.seen = self.changes;
            }
            let before = value.by_slot[self.slot];
            ensure!(
                before == self.changes,
                "the value has {before} of its {} changes",
                self.changes
            );
            value.by_slot[self.slot] += 1;
            value.sum += 1;
            report(Event::ReleasesValue {});
            drop(value);
            self.changes += 1;
            let (count, seen) = (self.changes, self.seen);
            report(Event::Changed { count, seen });
        }
        Ok(())
    }
}
