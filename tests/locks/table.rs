//! The table under test, driven by the same orders as the kernel's processes.

use std::collections::BTreeMap;

use libos_ipc::file_locks::{Completion, LockTable, Owner, SetOutcome};
use libos_ipc::wire::{Answer, FileLock, HeldLock, LockFamily, LockKind};
use libos_ipc::{Errno, Vmid};

use crate::kernel::{Found, Operation, Order, Outcome};
use crate::model::{BYTES, Model, WantedLock};

pub(crate) const PROCESSES: usize = 6;
/// The pid of the first process; the others follow.
pub(crate) const FIRST_PID: u32 = 100;

/// The table under test.
pub(crate) struct Table<'m> {
    pub(crate) locks: LockTable<'m>,
    pub(crate) model: Model,
    /// By process: the lock for which it waits.
    pub(crate) waiting: BTreeMap<usize, WantedLock>,
    /// The number of times that each open file was opened anew.
    opened: BTreeMap<(usize, u8, u8), u64>,
    /// The number of times that each process was started anew.
    restarts: [u32; PROCESSES],
    seq: u64,
}

fn vmid(process: usize) -> Vmid {
    Vmid::new(process as u32 + 2).unwrap()
}

impl<'m> Table<'m> {
    pub(crate) fn new(locks: LockTable<'m>) -> Table<'m> {
        Table {
            locks,
            model: Model::default(),
            waiting: BTreeMap::new(),
            opened: BTreeMap::new(),
            restarts: [0; PROCESSES],
            seq: 0,
        }
    }

    /// Ends the wait of a process, if it waits.
    pub(crate) fn interrupt(&mut self, process: usize) {
        // Its request has one of these numbers; cancelling another has no effect.
        for seq in 1..=self.seq {
            self.locks.cancel(vmid(process), seq);
        }
    }

    fn handle(&self, process: usize, order: &Order) -> u64 {
        let opened = self.opened.get(&(process, order.file, order.handle));
        (opened.copied().unwrap_or(0) << 32)
            | (u64::from(self.restarts[process]) << 24)
            | (process as u64) << 16
            | u64::from(order.file) << 8
            | u64::from(order.handle)
    }

    pub(crate) fn message<'a>(
        &self,
        process: usize,
        order: &Order,
        path: &'a [u8],
    ) -> FileLock<'a> {
        let start = u64::from(order.start);
        FileLock {
            family: match order.what {
                Operation::Ofd | Operation::OfdGet => LockFamily::Ofd,
                Operation::Flock => LockFamily::Flock,
                _ => LockFamily::Posix,
            },
            kind: LockKind::ALL[usize::from(order.kind)],
            start,
            end: match order.length {
                0 => u64::MAX,
                length => start + u64::from(length) - 1,
            },
            pid: FIRST_PID + process as u32,
            handle: self.handle(process, order),
            wait: order.wait,
            path,
        }
    }

    pub(crate) fn wanted(process: usize, order: &Order, lock: &FileLock<'_>) -> WantedLock {
        let whole = order.what == Operation::Flock;
        let start = usize::from(order.start);
        let end = match usize::from(order.length) {
            0 => BYTES,
            length => start + length,
        };
        WantedLock {
            owner: Owner::of(vmid(process), lock),
            file: order.file.into(),
            start: if whole { 0 } else { start },
            end: if whole { BYTES } else { end },
            write: order.kind == 1,
        }
    }

    /// Returns the outcome of the order on the table; `None` if the process waits.
    pub(crate) fn execute(&mut self, process: usize, order: &Order) -> Option<Outcome> {
        let path = [b'f', order.file];
        let lock = self.message(process, order, &path);
        let from = vmid(process);
        let mut outcome = Outcome {
            errno: 0,
            lock: None,
        };
        match order.what {
            Operation::PosixGet | Operation::OfdGet => match self.locks.get(from, &lock) {
                Ok(found) => outcome.lock = found.map(|held| found_of(&held)),
                Err(errno) => outcome.errno = errno.get(),
            },
            Operation::Close => {
                // Closing any of the file's descriptors drops the process's own locks.
                let all = FileLock {
                    family: LockFamily::Posix,
                    kind: LockKind::Unlock,
                    start: 0,
                    end: u64::MAX,
                    ..lock
                };
                assert_eq!(self.locks.set(from, 0, &all), Ok(SetOutcome::Done));
                self.locks.close_open_file(from, lock.handle);
                let own = Owner::of(from, &all);
                self.model.forget(|file, owner| {
                    let is_handles = matches!(owner, Owner::Open(handle) | Owner::Flock(handle)
                        if handle == lock.handle);
                    is_handles || owner == own && file == usize::from(order.file)
                });
                let key = (process, order.file, order.handle);
                *self.opened.entry(key).or_default() += 1;
            }
            _ => {
                self.seq += 1;
                let wanted = Table::wanted(process, order, &lock);
                let set = self.locks.set(from, self.seq, &lock);
                // A conversion drops the `flock` lock first, whatever the outcome; else the lock
                // stays.
                let kind = (order.kind < 2).then_some(wanted.write);
                match set {
                    Ok(SetOutcome::Done) => self.model.set(&wanted, kind),
                    _ if order.what == Operation::Flock => self.model.set(&wanted, None),
                    _ => {}
                }
                match set {
                    Ok(SetOutcome::Done) => {}
                    Ok(SetOutcome::Delegated(_)) => panic!("no request asks for a delegation"),
                    Ok(SetOutcome::Queued) => {
                        self.waiting.insert(process, wanted);
                        return None;
                    }
                    Err(errno) => outcome.errno = errno.get(),
                }
            }
        }
        Some(outcome)
    }

    pub(crate) fn served(&mut self) -> BTreeMap<usize, i32> {
        let mut served = BTreeMap::new();
        while let Some(completions_of) = self.locks.take_completion() {
            let process = completions_of.from.get() as usize - 2;
            let wanted = self.waiting.remove(&process).expect("it waited");
            if errno_of(&completions_of) == 0 {
                assert!(
                    self.model.conflicting_owners(&wanted).is_empty(),
                    "{wanted:?}"
                );
                self.model.set(&wanted, Some(wanted.write));
            }
            served.insert(process, errno_of(&completions_of));
        }
        served
    }

    pub(crate) fn die(&mut self, process: usize) {
        self.locks.reclaim(vmid(process));
        self.waiting.remove(&process);
        let life = self.restarts[process];
        self.restarts[process] += 1;
        self.model.forget(|_, owner| match owner {
            Owner::Process { vmid: of, .. } => of == vmid(process),
            Owner::Open(handle) | Owner::Flock(handle) => {
                handle >> 16 & 0xFF == process as u64 && handle >> 24 & 0xFF == u64::from(life)
            }
        });
    }
}

fn found_of(held: &HeldLock) -> Found {
    Found {
        kind: u8::from(held.write),
        start: u8::try_from(held.start).unwrap(),
        length: match held.end {
            u64::MAX => 0,
            end => u8::try_from(end - held.start + 1).unwrap(),
        },
        pid: held.pid.cast_signed(),
    }
}

fn errno_of(completions_of: &Completion) -> i32 {
    match completions_of.answer {
        Answer::Status(result) => result.err().map_or(0, Errno::get),
        other => panic!("{other:?}"),
    }
}
