//! The family's file locks: what `fcntl(2)` and `flock(2)` do, for all members.
//!
//! A pure state machine, as the rest of the leader. A file is there as long as somebody has a lock
//! on it or waits for one. Its locks stand in trees by range, those to read and those to write
//! apart, for two readers are never in each other's way; each holder's own locks, which never
//! overlap, stand in a tree besides. `flock` locks are locks on a whole file in a space of their
//! own: the two kinds do not see each other.

mod conflicts;
mod deadlock;
mod delegation;
mod interval_tree;
mod invariants;
mod open_files;
mod owner;
mod paths;
mod query;
mod reach;
mod scheduling;
mod search;
mod table;
mod wait_queue;

use crate::error::{Error, errno};
use crate::wire::{FileLock, LockFamily, LockKind};
use crate::{Id, Vmid};

use crate::store::{Arena, HashIndex, NONE, SlotAllocator, Table, bytes_for};
use delegation::DelegationTable;
use interval_tree::IntervalTrees;
use open_files::OpenFileTable;
pub use owner::Owner;
use paths::PathStore;
pub(crate) use paths::hash_path;
use table::{EMPTY_FILE, EMPTY_HOLDER, File, Holder, SpaceKind, hash_owner_and_file};
pub use wait_queue::Completion;
use wait_queue::{Operation, WaitQueue};

/// The limits of the lock tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockLimits {
    /// Locks: pieces of files that somebody holds.
    pub locks: usize,
    /// Files that are locked or waited for. Their names may be 240 bytes long on average.
    pub files: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Open files with `flock` or OFD locks, counted once for each process that has them.
    pub handles: usize,
}

impl LockLimits {
    /// No locks at all: each request gets `ENOLCK`.
    pub const NONE: LockLimits = LockLimits {
        locks: 0,
        files: 0,
        waiting: 0,
        handles: 0,
    };
}

/// Pieces of names for each file.
const CHUNKS_PER_PATH: usize = 4;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOutcome {
    /// It is done.
    Done,
    /// It waits; [`LockTable::take_completion`] will say what became of it. So may a request that does not
    /// want to, if the file is lent: until that has come back.
    Queued,
    /// Nothing was done, but the member decides on the file's record locks itself from now on, and
    /// may have that many of them.
    Delegated(usize),
}

/// A piece of a file.
type Range = (u64, u64);

/// The table of file locks.
pub struct LockTable<'m> {
    trees: IntervalTrees<'m>,
    paths: PathStore<'m>,
    files: Table<'m, File>,
    file_places: SlotAllocator<'m>,
    by_path: HashIndex<'m>,
    holders: Table<'m, Holder>,
    holder_places: SlotAllocator<'m>,
    by_owner: HashIndex<'m>,
    by_owner_and_file: HashIndex<'m>,
    /// The number of the holder that came last.
    last_holder: u64,
    waits: WaitQueue<'m>,
    open_files: OpenFileTable<'m>,
    delegations: DelegationTable<'m>,
}

impl<'m> LockTable<'m> {
    /// The memory the tables take.
    pub const fn bytes(limits: &LockLimits) -> usize {
        IntervalTrees::bytes(limits.locks)
            .saturating_add(PathStore::bytes(
                limits.files.saturating_mul(CHUNKS_PER_PATH),
            ))
            .saturating_add(bytes_for::<File>(limits.files))
            .saturating_add(SlotAllocator::bytes(limits.files))
            .saturating_add(HashIndex::bytes(limits.files))
            .saturating_add(bytes_for::<Holder>(limits.locks))
            .saturating_add(SlotAllocator::bytes(limits.locks))
            .saturating_add(HashIndex::bytes(limits.locks).saturating_mul(2))
            .saturating_add(WaitQueue::bytes(limits.waiting))
            .saturating_add(OpenFileTable::bytes(limits.handles))
            .saturating_add(DelegationTable::bytes(limits.files))
    }

    /// Empty tables, cut from `arena`.
    ///
    /// # Errors
    /// [`Error::Full`] if the arena is too small.
    pub fn new(arena: &mut Arena<'m>, limits: &LockLimits) -> Result<Self, Error> {
        Ok(LockTable {
            trees: IntervalTrees::new(arena, limits.locks)?,
            paths: PathStore::new(arena, limits.files.saturating_mul(CHUNKS_PER_PATH))?,
            files: arena.alloc_table(limits.files, |_| Ok(EMPTY_FILE))?,
            file_places: SlotAllocator::new(arena, limits.files)?,
            by_path: HashIndex::new(arena, limits.files)?,
            holders: arena.alloc_table(limits.locks, |_| Ok(EMPTY_HOLDER))?,
            holder_places: SlotAllocator::new(arena, limits.locks)?,
            by_owner: HashIndex::new(arena, limits.locks)?,
            by_owner_and_file: HashIndex::new(arena, limits.locks)?,
            last_holder: 0,
            waits: WaitQueue::new(arena, limits.waiting)?,
            open_files: OpenFileTable::new(arena, limits.handles)?,
            delegations: DelegationTable::new(arena, limits)?,
        })
    }

    /// Sets, changes or drops a lock for the member `from`. If the request may wait and has to, it
    /// is named by (`from`, `seq`) from then on.
    ///
    /// # Errors
    /// As `fcntl(2)` and `flock(2)` have them: `EINVAL` for a range that ends before it starts,
    /// `EAGAIN` for a lock that is in the way, `EDEADLK` if waiting would be for ever, `ENOLCK` if
    /// a table is full.
    pub fn set(&mut self, from: Vmid, seq: u64, lock: &FileLock<'_>) -> Result<SetOutcome, i32> {
        let hash = hash_path(lock.path);
        self.record_use(from, lock, hash);
        self.set_hashed(from, seq, lock, hash)
    }

    /// As [`LockTable::set`] for a request that cannot wait, of a file whose path has that
    /// [hash](hash_path). False if its record locks are lent and the lock is one of them: nothing was done.
    ///
    /// # Errors
    /// As [`LockTable::set`].
    pub(crate) fn try_set(
        &mut self,
        from: Vmid,
        lock: &FileLock<'_>,
        hash: u64,
    ) -> Result<bool, i32> {
        let file = self.find_file_hashed(lock.path, hash);
        let space = Owner::of(from, lock).space();
        if file.is_some_and(|file| self.delegation_holder(file, space).is_some()) {
            return Ok(false);
        }
        self.record_use(from, lock, hash);
        let set = self.set_on_file(from, 0, lock, (file, hash));
        self.release_closed();
        set.map(|_| true)
    }

    fn record_use(&mut self, from: Vmid, lock: &FileLock<'_>, hash: u64) {
        if lock.family != LockFamily::Flock && lock.kind != LockKind::Unlock {
            self.delegations.contention.record_use(hash, from);
        }
    }

    fn set_hashed(
        &mut self,
        from: Vmid,
        seq: u64,
        lock: &FileLock<'_>,
        hash: u64,
    ) -> Result<SetOutcome, i32> {
        let file = self.find_file_hashed(lock.path, hash);
        let set = self.set_on_file(from, seq, lock, (file, hash));
        self.release_closed();
        set
    }

    /// The same, where it is known already whether the file is in the table.
    fn set_on_file(
        &mut self,
        from: Vmid,
        seq: u64,
        lock: &FileLock<'_>,
        (file, hash): (Option<u32>, u64),
    ) -> Result<SetOutcome, i32> {
        let owner = Owner::of(from, lock);
        let range = range_of(lock).ok_or(errno::EINVAL)?;
        if lock.kind == LockKind::Unlock {
            return match file {
                // Nobody else has anything there.
                Some(file) if self.delegation_holder(file, owner.space()) == Some(from) => {
                    self.defer(file, owner, range, (from, seq), Operation::from_lock(lock))
                }
                Some(file) => self.unlock(file, owner, range).map(|()| SetOutcome::Done),
                None => Ok(SetOutcome::Done),
            };
        }
        if let Owner::Open(handle) | Owner::Flock(handle) = owner
            && !self.open_files.hold(handle, from)
        {
            return Err(errno::ENOLCK);
        }
        let file = match file {
            Some(file) => file,
            None => self.add_file(lock.path, hash).ok_or(errno::ENOLCK)?,
        };
        let set = if self.delegation_holder(file, owner.space()).is_some() {
            self.defer(file, owner, range, (from, seq), Operation::from_lock(lock))
        } else {
            self.set_on(file, owner, range, (from, seq), Operation::from_lock(lock))
        };
        self.drop_file_if_unused(file);
        set
    }

    fn set_on(
        &mut self,
        file: u32,
        owner: Owner,
        range: Range,
        (from, seq): (Vmid, u64),
        operation: Operation,
    ) -> Result<SetOutcome, i32> {
        let (write, wait) = (operation.is_write(), operation.may_wait());
        let space = owner.space();
        let mine = self.find_holder(owner, file).unwrap_or(NONE);
        let is_free = self
            .find_conflict(file, space, range, write, mine)
            .is_none();
        if !is_free && wait && self.waits.is_full() {
            return Err(errno::ENOLCK);
        }
        let mut released = false;
        if space == SpaceKind::WholeFile && mine != NONE {
            if self.trees.at(self.holder_at(mine).root).write == write {
                return Ok(SetOutcome::Done);
            }
            // As the kernel does: the old lock is gone, even if the new one can't be had.
            released = self.release_range(file, owner, range)?;
        }
        let outcome = if is_free {
            self.grant(file, owner, range, write).map(|has_released| {
                released |= has_released;
                SetOutcome::Done
            })
        } else if !wait {
            Err(errno::EAGAIN)
        } else {
            self.wait_for_lock(file, owner, range, operation, (from, seq))
                .map(|()| SetOutcome::Queued)
        };
        if released {
            self.grant_waiting(file, space);
        }
        outcome
    }

    /// Drops all locks of a process of that member, and its requests that wait (`ESRCH`).
    pub fn release_process(&mut self, vmid: Vmid, pid: Id) {
        let owner = Owner::Process { vmid, pid };
        self.cancel_matching(errno::ESRCH, |waiting| waiting.owner == owner);
        self.release_owner(owner);
        self.release_closed();
    }

    /// The member is gone: what it alone held is free, and its requests wait no more.
    pub fn reclaim(&mut self, vmid: Vmid) {
        self.drop_requests_of(vmid);
        let mut at = 0;
        while let Some((handle, is_free)) = self.open_files.take_from(vmid, &mut at) {
            if is_free {
                self.release_open_file(handle);
            }
        }
        for place in 0..self.holder_places.high_water() {
            let holder = *self.holder_at(place);
            if holder.file != NONE
                && matches!(holder.owner, Owner::Process { vmid: of, .. } if of == vmid)
            {
                self.release_holder(place);
            }
        }
        self.end_delegations_of(vmid);
        self.release_closed();
    }

    /// A request that waits is to wait no more: `EINTR`, unless it was decided already.
    pub fn cancel(&mut self, from: Vmid, seq: u64) {
        self.cancel_matching(errno::EINTR, |waiting| {
            waiting.from == from && waiting.seq == seq
        });
        self.release_closed();
    }

    /// Locks that are held now, and the most ever.
    pub fn lock_usage(&self) -> (usize, usize) {
        (self.trees.places().in_use(), self.trees.places().peak())
    }

    /// Requests that wait now, and the most ever.
    pub fn waiting_usage(&self) -> (usize, usize) {
        self.waits.usage()
    }

    /// Files that are locked or waited for now, and the most ever.
    pub fn file_usage(&self) -> (usize, usize) {
        (self.file_places.in_use(), self.file_places.peak())
    }

    /// Open files that are noted now, and the most ever.
    pub fn open_file_usage(&self) -> (usize, usize) {
        self.open_files.usage()
    }
}

/// The range that a lock is about. None if it ends before it starts.
fn range_of(lock: &FileLock<'_>) -> Option<Range> {
    match lock.family {
        LockFamily::Flock => Some((0, u64::MAX)),
        LockFamily::Posix | LockFamily::Ofd => {
            (lock.start <= lock.end).then_some((lock.start, lock.end))
        }
    }
}
