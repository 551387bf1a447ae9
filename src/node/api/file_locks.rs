//! Calls for file locks, which the leader grants for all members.

use core::time::Duration;

use crate::error::{Errno, Error, Invalid};
use crate::node::rpc::{self, Limits, done, error_of};
use crate::node::{Node, Wait};
use crate::pal::Pal;
use crate::wire::{FileLock, HeldLock, LockFamily, LockKind, Message};
use crate::{Id, Vmid, parts};

/// The pause between requests to a leader that can't cancel a wait, at first and at most, in
/// milliseconds.
const FIRST_PAUSE: u64 = 1;
const LONGEST_PAUSE: u64 = 50;

/// Returns the first and the last byte of the range that `struct flock` describes with `l_start`
/// (counted from the start of the file) and `l_len`, as [`FileLock`] has them. `fcntl(2)`,
/// "Advisory record locking".
///
/// # Errors
/// [`Error::Invalid`] if it would begin before the file (`EINVAL`), or would end beyond the longest one
/// (`EOVERFLOW`).
///
/// ```
/// # use libos_ipc::lock_range;
/// assert_eq!(lock_range(10, 5), Ok((10, 14)));
/// assert_eq!(lock_range(10, 0), Ok((10, u64::MAX)), "to the end of the file");
/// assert_eq!(lock_range(10, -5), Ok((5, 9)));
/// ```
pub fn lock_range(start: i64, length: i64) -> Result<(u64, u64), Error> {
    let (first, last) = match length {
        0 => (start, None),
        1.. => {
            let last = length
                .checked_sub(1)
                .and_then(|more| start.checked_add(more));
            (start, Some(last.ok_or(Error::Invalid(Invalid::LockEnd))?))
        }
        _ => {
            let first = start
                .checked_add(length)
                .ok_or(Error::Invalid(Invalid::LockRange))?;
            (
                first,
                Some(
                    start
                        .checked_sub(1)
                        .ok_or(Error::Invalid(Invalid::LockRange))?,
                ),
            )
        }
    };
    let first = u64::try_from(first).map_err(|_| Error::Invalid(Invalid::LockRange))?;
    let last = last.map_or(Ok(u64::MAX), u64::try_from);
    // A range to the last possible byte is a range to the end.
    let last = match last.map_err(|_| Error::Invalid(Invalid::LockRange))? {
        last if last >= i64::MAX.unsigned_abs() => u64::MAX,
        last => last,
    };
    Ok((first, last))
}

/// # File locks
///
/// `fcntl(2)` and `flock(2)` across processes.
impl<P: Pal> Node<'_, P> {
    /// Sets, changes or releases a file lock: `fcntl(2)` with `F_SETLK`, `F_SETLKW` and the
    /// corresponding `F_OFD_` commands, and `flock(2)`. Files are distinguished only by the bytes
    /// of their paths.
    ///
    /// With [`FileLock::wait`] it blocks until the lock is granted, as long as `wait` allows; if
    /// the lock is granted at the last moment, the call succeeds. An unlock that was sent is done
    /// even if the call is ended before its answer; an unlock without room for its frame in time is
    /// not done, so a call that failed must be repeated. A wait at a leader in C, or at a leader
    /// that this process has not [joined](Node::join), can't be cancelled: unless `wait` is
    /// [`Wait::FOREVER`] the call repeats its request instead, and other requests may be granted
    /// first; a lock of a call that was ended may be granted later.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EAGAIN` if another lock conflicts, `EDEADLK` if the wait would last
    /// for ever (the cycle is searched among 4,096 locks and waiting requests), `ENOLCK` at the
    /// limits of the leader's tables; [`Error::Invalid`] for a range that ends before it starts;
    /// [`Error::TimedOut`] and [`Error::Interrupted`] as `wait` says, and then the lock is not held
    /// (if the leader does not confirm that within
    /// [`Config::recall_limit`](crate::Config::recall_limit), this process disconnects it:
    /// [`Error::LeaderGone`]); [`Error::Unsupported`] for an OFD lock if the leader has no such
    /// locks, and [`Error::NotJoined`] if this process has not joined and does not know it; [`Error::Full`] ([`Resource::FrameLength`](crate::Resource::FrameLength)) for a path
    /// with a NUL, or one that no frame of this process can hold; else as [every
    /// call](Node#errors-of-every-call).
    pub fn set_lock(&self, lock: &FileLock<'_>, wait: Wait<'_>) -> Result<(), Error> {
        // Most locks of the leader's process are set at once.
        if parts::FAST_PATH
            && self.waiters.dropped_locks() == 0
            && let Some(tables) = self.leading()
            && self.check_running().is_ok()
            && check_range(lock).is_ok()
        {
            return match self.set_own_lock(tables, lock) {
                Some(outcome) => outcome,
                None => self.request_lock(lock, wait),
            };
        }
        self.set_lock_in(lock, wait)
    }

    /// Returns the lock that conflicts with this one, if there is one: `F_GETLK` and `F_OFD_GETLK`
    /// (`fcntl(2)`). Of several it is the read or write lock that starts lowest; of several read
    /// locks that start there, the one whose owner locked the file first. A lock of an open file
    /// has the pid `u32::MAX` (-1), as in the kernel. For an unlock of an open file's locks
    /// ([`LockFamily::Ofd`]) it is the first lock in the range that the open file itself holds, as
    /// in Linux. Blocks for the leader's answer, unless the file is delegated to this process.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unlock of another family or a range that ends before it starts,
    /// [`Error::Unsupported`] for an OFD lock if the leader has no such locks, and
    /// [`Error::NotJoined`] if this process has not joined and does not know it; else as [every
    /// call](Node#errors-of-every-call).
    pub fn find_lock(
        &self,
        lock: &FileLock<'_>,
        wait: Wait<'_>,
    ) -> Result<Option<HeldLock>, Error> {
        self.find_lock_in(lock, wait)
    }

    /// Releases all record locks (`F_SETLK`) of a process on all files, when it exits. Blocks for the
    /// leader's answer; sends nothing if this process never set a lock.
    ///
    /// # Errors
    /// As [every call](Node#errors-of-every-call).
    pub fn clear_locks(&self, pid: Id, wait: Wait<'_>) -> Result<(), Error> {
        self.clear_locks_in(pid, wait)
    }

    /// Releases the record locks of a process on a file after it has closed a descriptor of that file, as
    /// `fcntl(2)` requires. Blocks for the leader's answer; sends nothing if this process never set a
    /// lock there.
    ///
    /// # Errors
    /// As [`Node::set_lock`].
    pub fn close_file(&self, path: &[u8], pid: Id, wait: Wait<'_>) -> Result<(), Error> {
        self.close_file_in(path, pid, wait)
    }
}

/// Checks the range of a lock.
///
/// # Errors
/// [`Invalid::LockRange`]
fn check_range(lock: &FileLock<'_>) -> Result<(), Error> {
    if lock.family != LockFamily::Flock && lock.start > lock.end {
        return Err(Error::Invalid(Invalid::LockRange));
    }
    Ok(())
}

calls! {
    #[cfg_attr(not(static_library), inline(never))]
    fn set_lock_in(&self, lock: &FileLock<'_>, wait: Wait<'_>) -> Result<(), Error> {
        self.check_running()?;
        check_range(lock)?;
        let wait = self.begin_lock_call(wait);
        wait!(self.await_dropped_locks(wait))?;
        if let Some(tables) = self.leading()
            && let Some(outcome) = self.set_own_lock(tables, lock)
        {
            return outcome;
        }
        wait!(self.request_lock(lock, wait))
    }

    /// Sets a lock by a request to the leader, which may be this process.
    fn request_lock(&self, lock: &FileLock<'_>, wait: Wait<'_>) -> Result<(), Error> {
        let leader = self.leader_vmid();
        let message = Message::FileLockSet(*lock);
        let wait = if self.leads() {
            wait
        } else if self.has_extensions() {
            let wait = self.begin(wait);
            if parts::DELEGATIONS
                && let Some(outcome) = wait!(self.set_delegated(leader, lock, wait))
            {
                return outcome;
            }
            self.used_locks.note(lock);
            wait
        } else {
            self.used_locks.note(lock);
            if lock.family == LockFamily::Ofd {
                return Err(self.unsupported());
            }
            if lock.wait && (self.is_polled() || !wait.is_forever()) {
                return wait!(self.set_lock_patiently(leader, lock, wait));
            }
            wait
        };
        done(wait!(self.call(leader, &message, wait))?)
    }

    /// Repeats the request, for a leader that can't cancel a wait.
    fn set_lock_patiently(
        &self,
        leader: Vmid,
        lock: &FileLock<'_>,
        wait: Wait<'_>,
    ) -> Result<(), Error> {
        let limits = Limits::of(wait, &self.pal);
        let now = FileLock {
            wait: false,
            ..*lock
        };
        let mut pause = FIRST_PAUSE;
        loop {
            let message = Message::FileLockSet(now);
            let outcome = done(wait!(self.call(leader, &message, limits.wait()))?);
            if !matches!(outcome, Err(Error::Refused { errno: Errno::EAGAIN, .. })) {
                return outcome;
            }
            let time = Duration::from_millis(pause);
            wait!(self.pause(leader, limits, time))?;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    fn find_lock_in(&self, lock: &FileLock<'_>, wait: Wait<'_>) -> Result<Option<HeldLock>, Error> {
        self.check_running()?;
        check_range(lock)?;
        if lock.kind == LockKind::Unlock && lock.family != LockFamily::Ofd {
            return Err(Error::Invalid(Invalid::LockQuery));
        }
        if lock.family == LockFamily::Ofd && !self.has_extensions() {
            return Err(self.unsupported());
        }
        let wait = self.begin_lock_call(wait);
        wait!(self.await_dropped_locks(wait))?;
        let us = self.identity.vmid;
        let here = {
            let files = self.delegated_files.lock();
            self.check_contact()?;
            files.get(us, lock)
        };
        match here {
            Some(Ok(found)) => Ok(found),
            Some(Err(errno)) => Err(error_of(errno)),
            None => {
                let message = Message::FileLockGet(*lock);
                rpc::lock(wait!(self.call(self.leader_vmid(), &message, wait))?)
            }
        }
    }

    fn clear_locks_in(&self, pid: Id, wait: Wait<'_>) -> Result<(), Error> {
        self.check_running()?;
        let wait = self.begin_lock_call(wait);
        wait!(self.await_dropped_locks(wait))?;
        let us = self.identity.vmid;
        self.delegated_files.lock().release_process(us, pid);
        if !self.used_locks.any() {
            return Ok(());
        }
        let message = Message::FileLockClearPid(pid);
        done(wait!(self.call(self.leader_vmid(), &message, wait))?)
    }

    fn close_file_in(&self, path: &[u8], pid: Id, wait: Wait<'_>) -> Result<(), Error> {
        let all = FileLock {
            family: LockFamily::Posix,
            kind: LockKind::Unlock,
            start: 0,
            end: u64::MAX,
            pid,
            handle: 0,
            wait: false,
            path,
        };
        self.check_running()?;
        if self.used_locks.may_have_file(path) {
            wait!(self.set_lock_in(&all, wait))
        } else {
            Ok(())
        }
    }
}
