//! File locks: of processes, of open files, `flock`.

use std::time::Duration;

use fastrand::Rng;
use libos_ipc::wire::{FileLock, LockFamily, LockKind};
use libos_ipc::{Errno, Error, Resource, Vmid};

use super::super::checks::{BYTES, Claim, LONG, Owner, Space};
use super::super::faults::Fault;
use super::super::world::with;
use super::futures::{Polling, polling};
use super::ids::no_other_error;
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
            18.. => self.lock_repeatedly(file),
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
            with(|world| world.checks.files.holders.release(handle));
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
            space: Space { is_flock, file },
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
        let FileLock { kind, wait, .. } = *lock;
        let is_unlock = kind == LockKind::Unlock;
        let is_posix = lock.family == LockFamily::Posix;
        let polling = polling().map(|polling| Polling {
            drop_after: polling.drop_after.filter(|_| !is_unlock),
        });
        let may_drop = polling.is_some_and(|polling| polling.drop_after.is_some());
        // The owner may hold more of it before.
        let releases = kind != LockKind::Write || lock.family == LockFamily::Flock || may_drop;
        // Another process that has the open file may set a lock of it at the same time.
        let is_shared = releases && !is_posix;
        let began = begin_request(lock, claim, releases, is_shared);
        let is_allowed = |error: Error| match error {
            // Another thread whose request was refused has released all locks and cancelled all
            // requests.
            Error::NoSuchProcess => is_posix && self.own.has_threads,
            // The request of a future has a buffer for its path.
            Error::Full(Resource::ReplyBuffers) => polling.is_some(),
            Error::TimedOut if wait && limit == LONG => {
                with(|world| world.checks.files.may_be_undetected_cycle(claim, began))
            }
            error => match error.errno() {
                Errno::EAGAIN => !wait && !is_unlock,
                Errno::EDEADLK => wait && is_posix,
                _ => false,
            },
        };
        let name = if is_unlock { "unlock" } else { "lock" };
        let mut outcome = self.call(name, limit, is_allowed, |node, wait| match polling {
            Some(polling) => self.poll(polling, node.set_lock_async(lock, wait)),
            None => node.set_lock(lock, wait),
        });
        let was_dropped = may_drop && outcome == Err(Error::Interrupted);
        // The node unlocks a lock that is granted meanwhile, before it makes the next call about locks.
        if was_dropped && with(|world| world.network.rng.bool()) {
            outcome = self.call(name, limit, is_allowed, |node, wait| {
                node.set_lock(lock, wait)
            });
        }
        if was_dropped && outcome.is_err() {
            let unlock = FileLock {
                kind: LockKind::Unlock,
                wait: false,
                ..*lock
            };
            let _ = self.request(&unlock, claim, LONG);
        }
        self.end_request(lock, claim, (began, is_shared), outcome);
        match outcome.map_err(Error::errno) {
            Ok(()) => self.draw_fencing_number(lock, claim, began),
            Err(Errno::EDEADLK) => self.release_record_locks(),
            Err(_) => {}
        }
        outcome
    }

    /// Records and checks the outcome of a request at `began`, which may release locks of a shared open file if `is_shared`.
    fn end_request(
        &self,
        lock: &FileLock<'_>,
        claim: &Claim,
        (began, is_shared): (u64, bool),
        outcome: Result<(), Error>,
    ) {
        let (owner, is_unlock) = (claim.owner, lock.kind == LockKind::Unlock);
        with(|world| {
            world.log(format_args!("  {lock:?}"));
            let now = world.checks.tick();
            let is_certain = world.checks.family.is_certain(self.own.vmid);
            let may_use = world.may_use(self.own.vmid);
            let is_hostile = world.has(Fault::Hostile);
            let files = &mut world.checks.files;
            files.record_answer(claim, now, is_certain);
            let is_done = is_shared && matches!(outcome, Ok(()) | Err(Error::Refused { .. }));
            if is_done {
                files.end_release(owner);
            }
            let checked = match outcome.map_err(Error::errno) {
                // A lock that a process unlocks after it was cut off stays locked at the leader.
                Ok(()) if is_unlock && !is_certain => Ok(()),
                Ok(()) if is_unlock => {
                    files.end_unlock(claim.space, owner, &claim.bytes, now);
                    Ok(())
                }
                Ok(()) if may_use => files.record_grant(claim, began),
                Err(Errno::EAGAIN) if is_certain && !is_hostile => {
                    files.check_refusal(claim, began)
                }
                Err(Errno::EDEADLK) => {
                    let may_be_cycle = files.check_deadlock(claim, began);
                    world.check("deadlocks", may_be_cycle);
                    return;
                }
                _ => Ok(()),
            };
            if is_done {
                files.record_release_return(owner, now);
            }
            world.check("locks", checked);
        });
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
        let found = self.call("find_lock", LONG, no_other_error, |node, wait| {
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
        let (space, owner) = (Space::fcntl(file), Owner::Process(self.own.vmid));
        with(|world| world.checks.files.begin_unlock(space, owner, 0..BYTES));
        let closed = self.call("close_file", LONG, no_other_error, |node, wait| {
            node.close_file(FILES[file], self.own.pid, wait)
        });
        if closed.is_ok() {
            cleared(space, owner);
        }
    }

    fn close_open_file(&self, file: usize, choice: usize) {
        self.with_open_file(file, choice, |handle| {
            let vmid = self.own.vmid;
            with(|world| world.checks.files.begin_close(vmid, handle));
            let closed = self.call("close_open_file", LONG, no_other_error, |node, wait| {
                node.close_open_file(handle, wait)
            });
            with(|world| {
                let now = world.checks.tick();
                match closed {
                    Ok(()) => world.checks.files.end_close(handle, now),
                    Err(_) => world.checks.files.holders.mark_unsure(handle),
                }
            });
        });
    }

    /// Sends a descriptor to another process, or fails to.
    fn send_open_file(&self, file: usize, rng: &mut Rng) {
        let Some(to) = pick_process(rng) else { return };
        if to.vmid == self.own.vmid || !self.must_find(to.vmid) {
            return;
        }
        let can_send = rng.u8(..4) > 0;
        let Some(receiver) = Vmid::new(to.vmid) else {
            return;
        };
        self.with_open_file(file, rng.usize(..), |handle| {
            let is_allowed = |error| error == Error::NoSuchProcess && !self.must_find(to.vmid);
            let limit = limit(rng);
            let given = self.call("give_open_file", limit, is_allowed, |node, wait| {
                node.give_open_file(receiver, handle, wait)
            });
            let is_sent = given.is_ok() && self.must_find(to.vmid);
            with(|world| {
                let holders = &mut world.checks.files.holders;
                if is_sent {
                    holders.record_transfer(to.vmid, handle);
                } else {
                    holders.mark_unsure(handle);
                }
            });
            if is_sent && !can_send {
                // The holder is removed before the open file is taken back.
                with(|world| {
                    world
                        .checks
                        .files
                        .holders
                        .withdraw_transfer(to.vmid, handle);
                });
                let taken = self.call("take_back_open_file", LONG, no_other_error, |node, wait| {
                    node.take_back_open_file(receiver, handle, wait)
                });
                if taken.is_err() {
                    with(|world| world.checks.files.holders.mark_unsure(handle));
                }
            }
        });
    }

    /// Receives a descriptor that has arrived.
    fn receive(&self) {
        let vmid = self.own.vmid;
        let handle = with(|world| {
            let handle = world.checks.files.holders.next_transfer(vmid)?;
            world.checks.files.holders.add_holder(vmid, handle);
            Some(handle)
        });
        let Some(handle) = handle else { return };
        let held = self.call("hold_open_file", LONG, no_other_error, |node, wait| {
            node.hold_open_file(handle, wait)
        });
        with(|world| {
            let holders = &mut world.checks.files.holders;
            if held.is_err() {
                holders.mark_unsure(handle);
            }
            holders.release(handle);
        });
    }

    /// Gives a child some open files, which it inherits.
    pub(super) fn give_files_to_child(&self, child: Vmid, rng: &mut Rng) {
        let file = rng.usize(..FILES.len());
        for _ in 0..rng.usize(..3) {
            self.with_open_file(file, rng.usize(..), |handle| {
                let given = self.call("give_open_file", LONG, no_other_error, |node, wait| {
                    node.give_open_file(child, handle, wait)
                });
                let is_certain = self.is_certain();
                with(|world| {
                    let holders = &mut world.checks.files.holders;
                    if given.is_ok() && is_certain {
                        holders.add_holder(child.get(), handle);
                    } else {
                        holders.mark_unsure(handle);
                    }
                });
            });
        }
    }

    /// Releases all record locks.
    fn release_record_locks(&self) {
        let vmid = self.own.vmid;
        with(|world| world.checks.files.begin_clear(vmid));
        let done = self.call("clear_locks", LONG, no_other_error, |node, wait| {
            node.clear_locks(self.own.pid, wait)
        });
        with(|world| {
            let now = world.checks.tick();
            world.checks.files.end_release(Owner::Process(vmid));
            world
                .checks
                .files
                .record_release_return(Owner::Process(vmid), now);
        });
        if done.is_ok() {
            for file in 0..FILES.len() {
                cleared(Space::fcntl(file), Owner::Process(vmid));
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

/// Records that a lock is requested that may release locks of its owner, also of a shared open file. Returns the tick.
fn begin_request(lock: &FileLock<'_>, claim: &Claim, releases: bool, is_shared: bool) -> u64 {
    with(|world| {
        let now = world.checks.tick();
        let files = &mut world.checks.files;
        if releases {
            files.begin_unlock(claim.space, claim.owner, claim.bytes.clone());
        }
        if is_shared {
            files.begin_release(claim.owner);
        }
        if lock.kind != LockKind::Unlock {
            files.record_request(claim, lock.wait);
        }
        now
    })
}

/// Records that all bytes were unlocked.
fn cleared(space: Space, owner: Owner) {
    with(|world| {
        let now = world.checks.tick();
        world
            .checks
            .files
            .end_unlock(space, owner, &(0..BYTES), now);
    });
}
