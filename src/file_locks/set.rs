//! Requests: setting, changing and releasing a lock.

use super::interval_tree::InsertPoint;
use super::quotas::Charge;
use super::waiting_request::{FREE, LockCommand, RequestState, WaitingRequest};
use super::{LockTable, Owner, Range, SpaceKind};
use crate::Vmid;
use crate::error::Errno;
use crate::parts;
use crate::path::hash_path;
use crate::store::NONE;
use crate::wire::{FileLock, LockFamily, LockKind};

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOutcome {
    /// The request succeeded.
    Done,
    /// The request waits, and [`LockTable::take_completion`] will return its result. If the file is
    /// delegated, this includes a request that must not wait for a lock: it waits for the return of
    /// the delegation.
    Queued,
    /// The table is unchanged. From now on the member decides on the file's record locks itself,
    /// and may have this many of them.
    Delegated(usize),
}

impl LockTable<'_> {
    /// Sets, changes or releases a lock for the member `from`. If the request has to wait, (`from`,
    /// `seq`) identifies it from then on.
    ///
    /// # Errors
    /// As in `fcntl(2)` and `flock(2)`: `EINVAL` for a range that ends before it starts, `EAGAIN`
    /// if a lock conflicts and the request does not wait, `EDEADLK` if the wait would be a
    /// deadlock that is found within 4,096 steps, `ENOLCK` if a table is full.
    pub fn set(&mut self, from: Vmid, seq: u64, lock: &FileLock<'_>) -> Result<SetOutcome, Errno> {
        let hash = hash_path(lock.path);
        self.record_use(from, lock, hash);
        self.set_hashed(from, seq, lock, hash)
    }

    /// Like [`LockTable::set`] for a request that does not wait; `hash` is the [hash](hash_path) of
    /// the path. Returns false, and changes nothing, if the file's record locks are delegated and
    /// the request is for one of them.
    ///
    /// # Errors
    /// As [`LockTable::set`].
    pub(crate) fn try_set(
        &mut self,
        from: Vmid,
        lock: &FileLock<'_>,
        hash: u64,
    ) -> Result<bool, Errno> {
        let slot = self.find_slot(lock.path, hash);
        let space = Owner::of(from, lock).space();
        // The idle file is not delegated.
        if slot.is_some_and(|file| self.delegation_holder(file, space).is_some()) {
            return Ok(false);
        }
        self.record_use(from, lock, hash);
        self.set_on_found_file(from, 0, lock, (slot, hash))
            .map(|_| true)
    }

    pub(super) fn record_use(&mut self, from: Vmid, lock: &FileLock<'_>, hash: u64) {
        if parts::DELEGATIONS
            && lock.family != LockFamily::Flock
            && lock.kind != LockKind::Unlock
            && !self.delegations.contention.is_empty()
        {
            self.delegations.contention.record_use(hash, from);
        }
    }

    pub(super) fn set_hashed(
        &mut self,
        from: Vmid,
        seq: u64,
        lock: &FileLock<'_>,
        hash: u64,
    ) -> Result<SetOutcome, Errno> {
        let slot = self.find_slot(lock.path, hash);
        self.set_on_found_file(from, seq, lock, (slot, hash))
    }

    /// Like [`LockTable::set`], for a caller that has looked the slot of the file up already.
    #[inline(never)]
    pub(super) fn set_on_found_file(
        &mut self,
        from: Vmid,
        seq: u64,
        lock: &FileLock<'_>,
        file: (Option<u32>, u64),
    ) -> Result<SetOutcome, Errno> {
        self.search.begin();
        let set = self.set_on_file(from, seq, lock, file);
        self.release_closed();
        set
    }

    #[inline]
    pub(super) fn set_on_file(
        &mut self,
        from: Vmid,
        seq: u64,
        lock: &FileLock<'_>,
        (slot, hash): (Option<u32>, u64),
    ) -> Result<SetOutcome, Errno> {
        let file = slot.filter(|slot| *slot != self.idle_file);
        let owner = Owner::of(from, lock);
        let range = range_of(lock).ok_or(Errno::EINVAL)?;
        if lock.kind == LockKind::Unlock {
            return match file {
                // Only this member has locks there.
                Some(file) if self.delegation_holder(file, owner.space()) == Some(from) => self
                    .defer(
                        file,
                        owner,
                        range,
                        (from, seq),
                        LockCommand::from_lock(lock),
                    ),
                Some(file) => self.unlock(file, owner, range).map(|()| SetOutcome::Done),
                None => Ok(SetOutcome::Done),
            };
        }
        if let Owner::Open(open_file) | Owner::Flock(open_file) = owner
            && !self.open_files.hold(open_file, from)
        {
            return Err(Errno::ENOLCK);
        }
        let file = match file {
            Some(file) => file,
            None => self
                .add_file(from, lock.path, hash, slot)
                .ok_or(Errno::ENOLCK)?,
        };
        let set = if self.delegation_holder(file, owner.space()).is_some() {
            self.defer(
                file,
                owner,
                range,
                (from, seq),
                LockCommand::from_lock(lock),
            )
        } else {
            let command = LockCommand::from_lock(lock);
            self.set_on(file, owner, range, (from, seq), (command, false))
        };
        self.drop_file_if_unused(file);
        set
    }

    #[inline]
    pub(super) fn set_on(
        &mut self,
        file: u32,
        owner: Owner,
        range: Range,
        (from, seq): (Vmid, u64),
        (command, is_resumed): (LockCommand, bool),
    ) -> Result<SetOutcome, Errno> {
        let (write, wait) = (command.is_write(), command.may_wait());
        let space = owner.space();
        let mut mine = self.find_holder(owner, file);
        let (blocker, mut place) =
            self.find_conflict_or_place(file, space, range, write, mine.unwrap_or(NONE));
        // A request that is resumed has paid for its place.
        if blocker.is_some()
            && wait
            && (self.waits.is_full() || !is_resumed && !self.may_add_request(from))
        {
            return Err(Errno::ENOLCK);
        }
        if space == SpaceKind::WholeFile
            && let Some(held) = mine.take()
        {
            if self.trees.at(self.holder_at(held).root).write == write {
                return Ok(SetOutcome::Done);
            }
            // As in the kernel, the old lock is lost even if the new one is refused.
            self.release_range(file, owner, range)?;
            place = InsertPoint::UNKNOWN;
        }
        let outcome = match blocker {
            None => self
                .grant_to(mine, place, file, (owner, Charge::to(from)), range, write)
                .map(|()| SetOutcome::Done),
            Some(_) if !wait => Err(Errno::EAGAIN),
            Some(blocker) => {
                let waiting = WaitingRequest {
                    from,
                    seq,
                    owner,
                    file,
                    range,
                    command,
                    state: RequestState::Waiting,
                    ..FREE
                };
                self.wait_for_lock(waiting, blocker)
                    .map(|()| SetOutcome::Queued)
            }
        };
        self.serve_unblocked();
        outcome
    }

    /// Ends a waiting request with `EINTR`, unless it is complete already.
    pub fn cancel(&mut self, from: Vmid, seq: u64) {
        self.search.begin();
        self.cancel_request(from, seq, Errno::EINTR);
        self.release_closed();
    }
}

/// Returns the range of a lock. `None` if it ends before it starts.
pub(super) fn range_of(lock: &FileLock<'_>) -> Option<Range> {
    match lock.family {
        LockFamily::Flock => Some((0, u64::MAX)),
        LockFamily::Posix | LockFamily::Ofd => {
            (lock.start <= lock.end).then_some((lock.start, lock.end))
        }
    }
}
