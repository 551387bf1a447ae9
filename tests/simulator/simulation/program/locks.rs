//! File locks: of processes, of open files, `flock`.

use std::time::Duration;

use fastrand::Rng;
use libos_ipc::wire::{FileLock, LockFamily, LockKind};
use libos_ipc::{Errno, Error, Resource, Vmid};

use super::super::checks::{BYTES, Claim, LONG, Owner, Space};
use super::super::faults::Fault;
use super::super::world::with;
use super::futures::{Polling, polling};
use super::ids::nothing;
use super::signals::pick_process;
use super::{Program, limit};

pub(super) const FILES: [&[u8]; 3] = [b"/a", b"/b", b"/c"];
/// The only file with locks of open files, which the search for cycles does not follow.
const OPEN_FILE: usize = 2;
/// For waits that may last for ever: cycles of open files are not detected.
const SHORT: Duration = Duration::from_millis(3);

impl<const READS: bool> Program<'_, '_, READS> {
    pub(super) fn lock_file(&self, rng: &mut Rng) {
        let file = rng.usize(..FILES.len());
        // If two threads of one process use the same file, neither knows the locks of the process.
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
            9 => self.close_open_file(file, rng.usize(..)),
            10 | 11 => self.send_open_file(file, rng),
            12..15 => self.receive(),
            18.. => self.lock_again_and_again(file),
            _ => self.set_lock(file, LockFamily::Posix, rng),
        }
        self.own.shared(|shared| shared.busy_files[file] = false);
    }

    /// Calls `act` with an open file of this process that no other thread uses meanwhile.
    fn with_open_file(&self, file: usize, choice: usize, act: impl FnOnce(u64)) {
        let vmid = self.own.vmid;
        let handle = with(|world| world.checks.files.holders.take(vmid, file, choice));
        if let Some(handle) = handle {
            act(handle);
            with(|world| world.checks.files.holders.done(handle));
        }
    }

    fn set_lock(&self, file: usize, family: LockFamily, rng: &mut Rng) {
        if family == LockFamily::Posix {
            return self.set_lock_of(file, family, 0, rng);
        }
        self.with_open_file(file, rng.usize(..), |handle| {
            self.set_lock_of(file, family, handle, rng);
        });
    }

    fn set_lock_of(&self, file: usize, family: LockFamily, handle: u64, rng: &mut Rng) {
        let start = rng.usize(..BYTES);
        let mut bytes = start..rng.usize(start..BYTES) + 1;
        let kind = LockKind::ALL[rng.usize(..3)];
        let is_unlock = kind == LockKind::Unlock;
        let is_flock = family == LockFamily::Flock;
        let is_posix = family == LockFamily::Posix;
        let owners = [Owner::Handle(handle), Owner::Process(self.own.vmid)];
        let owner = owners[usize::from(is_posix)];
        if is_flock {
            bytes = 0..BYTES;
        }
        // Some calls wait, some don't, and some time out just after their request.
        let (wait, limit) = match (rng.u8(..3), family) {
            (0, _) => (false, [LONG, Duration::ZERO][rng.usize(..2)]),
            (1, LockFamily::Posix) if file != OPEN_FILE => (true, LONG),
            (1, _) => (true, SHORT),
            _ => (true, Duration::ZERO),
        };
        let wait = wait && !is_unlock;
        let limit = [limit, LONG][usize::from(is_unlock)];
        let end = [bytes.end as u64 - 1, u64::MAX][usize::from(is_flock)];
        let lock = FileLock {
            family,
            kind,
            start: bytes.start as u64,
            end,
            pid: self.own.pid,
            handle,
            wait,
            path: FILES[file],
        };
        let claim = Claim {
            space: (is_flock, file),
            owner,
            bytes: bytes.clone(),
            write: kind == LockKind::Write,
        };
        let _ = self.request(&lock, &claim, limit);
    }

    /// Requests the lock, or the unlock, and checks the outcome.
    pub(super) fn request(
        &self,
        lock: &FileLock<'_>,
        claim: &Claim,
        limit: Duration,
    ) -> Result<(), Error> {
        let FileLock {
            family, kind, wait, ..
        } = *lock;
        let (owner, bytes) = (claim.owner, claim.bytes.clone());
        let is_unlock = kind == LockKind::Unlock;
        let is_posix = family == LockFamily::Posix;
        let polling = polling().map(|polling| Polling {
            drop_after: polling.drop_after.filter(|_| !is_unlock),
        });
        let may_drop = polling.is_some_and(|polling| polling.drop_after.is_some());
        // The owner may hold more of it before.
        let releases = kind != LockKind::Write || family == LockFamily::Flock || may_drop;
        // Another process that has the open file may set a lock of it at the same time.
        let is_shared = releases && family != LockFamily::Posix;
        let began = with(|world| {
            let now = world.checks.tick();
            if releases {
                world.checks.files.clear(claim.space, owner, bytes.clone());
            }
            if is_shared {
                world.checks.files.release_begins(owner);
            }
            if !is_unlock {
                world.checks.files.asks(claim, wait);
            }
            now
        });
        let may_be = |error: Error| match error {
            // Another thread whose request was refused has released all locks and cancelled all
            // requests.
            Error::NoSuchProcess => is_posix && self.own.has_threads,
            // The request of a future has a buffer for its path.
            Error::Full(Resource::ReplyBuffers) => polling.is_some(),
            Error::TimedOut if wait && limit == LONG => {
                with(|world| world.checks.files.is_undetected_cycle(claim, began))
            }
            error => match error.errno() {
                Errno::EAGAIN => !wait && !is_unlock,
                Errno::EDEADLK => wait && is_posix,
                _ => false,
            },
        };
        let name = if is_unlock { "unlock" } else { "lock" };
        let mut outcome = self.call(name, limit, may_be, |node, wait| match polling {
            Some(polling) => self.poll(polling, node.set_lock_async(lock, wait)),
            None => node.set_lock(lock, wait),
        });
        let was_dropped = may_drop && outcome == Err(Error::Interrupted);
        // The node unlocks a lock that is granted meanwhile, before it makes the next call about locks.
        if was_dropped && with(|world| world.network.rng.bool()) {
            outcome = self.call(name, limit, may_be, |node, wait| node.set_lock(lock, wait));
        }
        if was_dropped && outcome.is_err() {
            let unlock = FileLock {
                kind: LockKind::Unlock,
                wait: false,
                ..*lock
            };
            let _ = self.request(&unlock, claim, LONG);
        }
        with(|world| {
            world.log(format_args!("  {lock:?}"));
            let now = world.checks.tick();
            let is_certain = world.checks.family.is_certain(self.own.vmid);
            let may_use = world.may_use(self.own.vmid);
            let is_hostile = world.has(Fault::Hostile);
            let files = &mut world.checks.files;
            files.answered(claim, now, is_certain);
            let is_done = is_shared && matches!(outcome, Ok(()) | Err(Error::Refused { .. }));
            if is_done {
                files.release_done(owner);
            }
            let checked = match outcome.map_err(Error::errno) {
                // A lock that a process unlocks after it was cut off stays locked at the leader.
                Ok(()) if is_unlock && !is_certain => Ok(()),
                Ok(()) if is_unlock => {
                    files.cleared(claim.space, owner, &bytes, now);
                    Ok(())
                }
                Ok(()) if may_use => files.given(claim, began),
                Err(Errno::EAGAIN) if is_certain && !is_hostile => files.refused(claim, began),
                Err(Errno::EDEADLK) => {
                    let may_be_cycle = files.may_be_cycle(claim, began);
                    world.check("deadlocks", may_be_cycle);
                    return;
                }
                _ => Ok(()),
            };
            if is_done {
                files.release_returned(owner, now);
            }
            world.check("locks", checked);
        });
        match outcome.map_err(Error::errno) {
            Ok(()) => self.draw_fencing_number(lock, claim, began),
            Err(Errno::EDEADLK) => self.release_record_locks(),
            Err(_) => {}
        }
        outcome
    }

    /// Tests a lock. The reported lock may be released by now, but it is certainly not the caller's
    /// own.
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
            let conflicts = held.pid != self.own.pid
                && held.start <= lock.end
                && lock.start <= held.end
                && (held.kind() == LockKind::Write || lock.kind == LockKind::Write);
            if !conflicts {
                let what = Err(format!("{held:?} was reported to conflict with {lock:?}"));
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

    fn close_open_file(&self, file: usize, choice: usize) {
        self.with_open_file(file, choice, |handle| {
            let vmid = self.own.vmid;
            with(|world| world.checks.files.closes(vmid, handle));
            let closed = self.call("close_open_file", LONG, nothing, |node, wait| {
                node.close_open_file(handle, wait)
            });
            with(|world| {
                let now = world.checks.tick();
                match closed {
                    Ok(()) => world.checks.files.closed(handle, now),
                    Err(_) => world.checks.files.holders.is_unsure(handle),
                }
            });
        });
    }

    /// Sends a descriptor to another process, or fails to.
    fn send_open_file(&self, file: usize, rng: &mut Rng) {
        let Some(to) = pick_process(rng) else { return };
        if to.vmid == self.own.vmid || !self.is_there(to.vmid) {
            return;
        }
        let can_send = rng.u8(..4) > 0;
        let Some(receiver) = Vmid::new(to.vmid) else {
            return;
        };
        self.with_open_file(file, rng.usize(..), |handle| {
            let may_be_gone = |error| error == Error::NoSuchProcess && !self.is_there(to.vmid);
            let limit = limit(rng);
            let given = self.call("give_open_file", limit, may_be_gone, |node, wait| {
                node.give_open_file(receiver, handle, wait)
            });
            let is_sent = given.is_ok() && self.is_there(to.vmid);
            with(|world| {
                let holders = &mut world.checks.files.holders;
                if is_sent {
                    holders.sends(to.vmid, handle);
                } else {
                    holders.is_unsure(handle);
                }
            });
            if is_sent && !can_send {
                // The holder is removed before the open file is taken back.
                with(|world| world.checks.files.holders.takes_back(to.vmid, handle));
                let taken = self.call("take_back_open_file", LONG, nothing, |node, wait| {
                    node.take_back_open_file(receiver, handle, wait)
                });
                if taken.is_err() {
                    with(|world| world.checks.files.holders.is_unsure(handle));
                }
            }
        });
    }

    /// Receives a descriptor that has arrived.
    fn receive(&self) {
        let vmid = self.own.vmid;
        let handle = with(|world| {
            let handle = world.checks.files.holders.next_sent(vmid)?;
            world.checks.files.holders.has(vmid, handle);
            Some(handle)
        });
        let Some(handle) = handle else { return };
        let held = self.call("hold_open_file", LONG, nothing, |node, wait| {
            node.hold_open_file(handle, wait)
        });
        with(|world| {
            let holders = &mut world.checks.files.holders;
            if held.is_err() {
                holders.is_unsure(handle);
            }
            holders.done(handle);
        });
    }

    /// Gives a child some open files, which it inherits.
    pub(super) fn give_files_to_child(&self, child: Vmid, rng: &mut Rng) {
        let file = rng.usize(..FILES.len());
        for _ in 0..rng.usize(..3) {
            self.with_open_file(file, rng.usize(..), |handle| {
                let given = self.call("give_open_file", LONG, nothing, |node, wait| {
                    node.give_open_file(child, handle, wait)
                });
                let is_certain = self.is_certain();
                with(|world| {
                    let holders = &mut world.checks.files.holders;
                    if given.is_ok() && is_certain {
                        holders.has(child.get(), handle);
                    } else {
                        holders.is_unsure(handle);
                    }
                });
            });
        }
    }

    /// Releases all record locks.
    fn release_record_locks(&self) {
        let vmid = self.own.vmid;
        with(|world| world.checks.files.clear_begins(vmid));
        let done = self.call("clear_locks", LONG, nothing, |node, wait| {
            node.clear_locks(self.own.pid, wait)
        });
        with(|world| {
            let now = world.checks.tick();
            world.checks.files.release_done(Owner::Process(vmid));
            world
                .checks
                .files
                .release_returned(Owner::Process(vmid), now);
        });
        if done.is_ok() {
            for file in 0..FILES.len() {
                cleared((false, file), Owner::Process(vmid));
            }
        }
    }

    /// Releases all locks.
    pub(super) fn release_files(&self) {
        self.release_record_locks();
        for file in 0..FILES.len() {
            let vmid = self.own.vmid;
            let count = with(|world| world.checks.files.holders.of(vmid, file).count());
            for _ in 0..count {
                self.close_open_file(file, 0);
            }
        }
    }
}

/// Records that all bytes were unlocked.
fn cleared(space: Space, owner: Owner) {
    with(|world| {
        let now = world.checks.tick();
        world.checks.files.cleared(space, owner, &(0..BYTES), now);
    });
}
