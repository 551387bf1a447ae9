//! File locks: of processes, of open files, `flock`.

use std::time::Duration;

use fastrand::Rng;
use libos_ipc::Error;
use libos_ipc::error::errno;
use libos_ipc::wire::{FileLock, LockFamily, LockKind};

use super::super::checks::{BYTES, Claim, LONG, Owner, Space};
use super::super::world::with;
use super::Program;
use super::ids::nothing;

const FILES: [&[u8]; 3] = [b"/a", b"/b", b"/c"];
/// Open files of a process for each file.
const HANDLES: u64 = 2;
/// Only there are locks of open files, which no search for circles goes through.
const OPEN_FILE: usize = 2;
/// For waits that may be for ever: nobody looks for circles of open files.
const SHORT: Duration = Duration::from_millis(3);

impl<const READS: bool> Program<'_, '_, READS> {
    pub(super) fn lock_file(&self, rng: &mut Rng) {
        let file = rng.usize(..FILES.len());
        // Two threads of one process at the same file do not know themselves what they have.
        let busy = |shared: &mut super::super::process::Shared| {
            std::mem::replace(&mut shared.busy_files[file], true)
        };
        if self.own.shared(busy) {
            return;
        }
        match rng.u8(..20) {
            0 => self.close_file(file),
            1 | 2 => self.find_lock(file, rng),
            3..6 => self.set_lock(file, LockFamily::Flock, rng),
            6..9 if file == OPEN_FILE => self.set_lock(file, LockFamily::Ofd, rng),
            9 => self.close_handle(file, rng.u64(..HANDLES)),
            _ => self.set_lock(file, LockFamily::Posix, rng),
        }
        self.own.shared(|shared| shared.busy_files[file] = false);
    }

    /// One of the open files of this process.
    fn open_file(&self, file: usize, which: u64) -> u64 {
        u64::from(self.own.pid) << 8 | (file as u64) << 4 | which
    }

    fn set_lock(&self, file: usize, family: LockFamily, rng: &mut Rng) {
        let start = rng.usize(..BYTES);
        let mut bytes = start..rng.usize(start..BYTES) + 1;
        let kind = LockKind::ALL[rng.usize(..3)];
        let is_unlock = kind == LockKind::Unlock;
        let is_flock = family == LockFamily::Flock;
        let mut owner = Owner::Process(self.own.vmid);
        let mut handle = 0;
        if family != LockFamily::Posix {
            handle = self.open_file(file, rng.u64(..HANDLES));
            owner = Owner::Handle(self.own.vmid, handle);
        }
        if is_flock {
            bytes = 0..BYTES;
        }
        // Some wait, some don't, and some give up just when they have asked.
        let (wait, limit) = match (rng.u8(..3), family) {
            (0, _) => (false, [LONG, Duration::ZERO][rng.usize(..2)]),
            (1, LockFamily::Posix) if file != OPEN_FILE => (true, LONG),
            (1, _) => (true, SHORT),
            _ => (true, Duration::ZERO),
        };
        let wait = wait && !is_unlock;
        let limit = if is_unlock { LONG } else { limit };
        let lock = FileLock {
            family,
            kind,
            start: bytes.start as u64,
            end: if is_flock {
                u64::MAX
            } else {
                bytes.end as u64 - 1
            },
            pid: self.own.pid,
            handle,
            wait,
            path: FILES[file],
        };
        let lock = FileLock {
            start: if is_flock { 0 } else { lock.start },
            ..lock
        };
        let claim = Claim {
            space: (is_flock, file),
            owner,
            bytes: bytes.clone(),
            write: kind == LockKind::Write,
        };
        let began = with(|world| {
            let now = world.checks.tick();
            // It may have had more of it before.
            if kind != LockKind::Write || is_flock {
                world.checks.files.clear(claim.space, owner, bytes.clone());
            }
            if !is_unlock {
                world.checks.files.asks(&claim, wait);
            }
            now
        });
        let is_posix = family == LockFamily::Posix;
        let may_be = |error| match error {
            // Another thread, refused, has let go of all, and of what is waited for.
            Error::NoSuchProcess => is_posix && self.own.has_threads,
            Error::TimedOut if wait && limit == LONG => {
                with(|world| world.checks.files.is_unseen_circle(&claim, began))
            }
            Error::Refused(errno::EAGAIN) => !wait && !is_unlock,
            Error::Refused(errno::EDEADLK) => wait && is_posix,
            _ => false,
        };
        let name = if is_unlock { "unlock" } else { "lock" };
        let outcome = self.call(name, limit, may_be, |node, wait| node.set_lock(&lock, wait));
        with(|world| {
            world.tell(format_args!("  {lock:?}"));
            let now = world.checks.tick();
            let is_certain = world.checks.family.is_certain(self.own.vmid);
            let files = &mut world.checks.files;
            files.answered(&claim, now, is_certain);
            let checked = match outcome {
                Ok(()) if is_unlock => {
                    files.cleared(claim.space, owner, &bytes, now);
                    Ok(())
                }
                Ok(()) if is_certain => files.given(&claim, began),
                Err(Error::Refused(errno::EDEADLK)) => {
                    let is_circle = files.is_circle(&claim, began);
                    world.check("deadlocks", is_circle);
                    return;
                }
                _ => Ok(()),
            };
            world.check("locks", checked);
        });
        if outcome == Err(Error::Refused(errno::EDEADLK)) {
            self.let_go_of_records();
        }
    }

    /// A lock that is found may be gone by now; that it is none of the asker's own is certain.
    fn find_lock(&self, file: usize, rng: &mut Rng) {
        let start = rng.u64(..BYTES as u64);
        let lock = FileLock {
            family: LockFamily::Posix,
            kind: LockKind::ALL[rng.usize(..2)],
            start,
            end: rng.u64(start..BYTES as u64),
            pid: self.own.pid,
            handle: 0,
            wait: false,
            path: FILES[file],
        };
        let found = self.call("find_lock", LONG, nothing, |node, wait| {
            node.find_lock(&lock, wait)
        });
        if let Ok(Some(held)) = found {
            let is_in_the_way = held.pid != self.own.pid
                && held.start <= lock.end
                && lock.start <= held.end
                && (held.kind() == LockKind::Write || lock.kind == LockKind::Write);
            if !is_in_the_way {
                let what = Err(format!("{held:?} is said to be in the way of {lock:?}"));
                with(|world| world.check("locks", what));
            }
        }
    }

    fn close_file(&self, file: usize) {
        let (space, owner) = ((false, file), Owner::Process(self.own.vmid));
        with(|world| world.checks.files.clear(space, owner, 0..BYTES));
        let closed = self.call("close_file", LONG, nothing, |node, wait| {
            node.close_file(FILES[file], self.own.pid, wait)
        });
        if closed.is_ok() {
            cleared(space, owner);
        }
    }

    fn close_handle(&self, file: usize, which: u64) {
        let handle = self.open_file(file, which);
        let owner = Owner::Handle(self.own.vmid, handle);
        for is_flock in [false, true] {
            with(|world| world.checks.files.clear((is_flock, file), owner, 0..BYTES));
        }
        // Nobody says when it is done.
        let _ = self.call("close_handle", LONG, nothing, |node, wait| {
            node.close_handle(handle, wait)
        });
    }

    /// Lets go of all record locks.
    fn let_go_of_records(&self) {
        let vmid = self.own.vmid;
        with(|world| world.checks.files.clear_begins(vmid));
        let done = self.call("clear_locks", LONG, nothing, |node, wait| {
            node.clear_locks(self.own.pid, wait)
        });
        with(|world| {
            let now = world.checks.tick();
            world.checks.files.clear_returned(vmid, now);
        });
        if done.is_ok() {
            for file in 0..FILES.len() {
                cleared((false, file), Owner::Process(vmid));
            }
        }
    }

    /// Lets go of all.
    pub(super) fn let_go_of_files(&self) {
        self.let_go_of_records();
        for file in 0..FILES.len() {
            for which in 0..HANDLES {
                self.close_handle(file, which);
            }
        }
    }
}

/// It was given back whole.
fn cleared(space: Space, owner: Owner) {
    with(|world| {
        let now = world.checks.tick();
        world.checks.files.cleared(space, owner, &(0..BYTES), now);
    });
}
