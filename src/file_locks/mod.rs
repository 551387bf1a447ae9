//! The file locks of the family: the semantics of `fcntl(2)` and `flock(2)` across all members.
//!
//! The table is a deterministic state machine, like the rest of the leader. It has an entry for a
//! file as long as a lock is held on the file or a request waits for one. The locks of a file are
//! kept in interval trees, read locks apart from write locks, because two read locks never
//! conflict. Each holder's own locks, which never overlap, are in a further tree. `flock` locks
//! cover a whole file and have a space of their own: `fcntl` locks and `flock` locks never
//! conflict.

mod alone;
mod candidates;
mod conflicts;
mod deadlock;
mod delegation;
mod digest;
mod image;
mod interval_tree;
mod invariants;
mod open_files;
mod owner;
mod paths;
mod portions;
mod query;
mod quotas;
mod reach;
mod scheduling;
mod search;
mod table;
mod wait_queue;
mod waiting;
mod waiting_request;

use crate::Vmid;
use crate::error::{Errno, Error};
use crate::invariant::Count;
use crate::parts;
use crate::path::hash_path;
use crate::wire::{FileLock, LockFamily, LockKind};

use crate::store::{
    Arena, HashIndex, NONE, Quotas, SlotAllocator, Steps, Table, bytes_for, image, memory_sum,
};
use candidates::Candidates;
use deadlock::DeadlockSearch;
use delegation::DelegationTable;
use interval_tree::{IntervalTrees, Place};
#[cfg(debug_assertions)]
pub(crate) use open_files::MAX_IN_TRANSIT;
use open_files::OpenFileTable;
pub use owner::Owner;
use paths::PathStore;
use quotas::Charge;
use table::{EMPTY_FILE, EMPTY_HOLDER, File, Holder, SpaceKind, hash_owner_and_file};
use wait_queue::WaitQueue;
pub use waiting::Completion;
use waiting_request::{FREE, Operation, State, WaitingRequest};

/// The limits of the lock tables.
///
/// A new version may add fields, so a value is built from another: `LockLimits { locks: 16,
/// ..LockLimits::NONE }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LockLimits {
    /// Locked ranges.
    pub locks: usize,
    /// Files on which a lock is held or waited for. Their paths may be 240 bytes long on average.
    pub files: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Open files with `flock` or OFD locks, counted once for each process that holds them.
    pub open_files: usize,
}

impl LockLimits {
    /// No locks at all: each request gets `ENOLCK`.
    pub const NONE: LockLimits = LockLimits {
        locks: 0,
        files: 0,
        waiting: 0,
        open_files: 0,
    };
}

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

/// The first and the last byte of a range.
type Range = (u64, u64);

/// The table of file locks.
pub struct LockTable<'m> {
    trees: IntervalTrees<'m>,
    paths: PathStore<'m>,
    files: Table<'m, File>,
    file_slots: SlotAllocator<'m>,
    by_path: HashIndex<'m>,
    /// The file that was dropped last, if its place was not freed yet.
    idle_file: u32,
    /// The slot of the file that was added last. It may be another file's by now, or nobody's.
    last_added: u32,
    holders: Table<'m, Holder>,
    holder_slots: SlotAllocator<'m>,
    by_owner: HashIndex<'m>,
    by_owner_and_file: HashIndex<'m>,
    /// The number of the newest holder.
    last_holder: u64,
    waits: WaitQueue<'m>,
    candidates: Candidates<'m>,
    /// Requests are left that are to be tried.
    is_serving: bool,
    search: DeadlockSearch<'m>,
    open_files: OpenFileTable<'m>,
    delegations: DelegationTable<'m>,
    /// The number of locks that were removed so far.
    removed: u64,
    quotas: Quotas<'m>,
    steps: Steps,
}

image!(LockTable<'_> {
    fields { idle_file, last_holder, is_serving, removed }
    tables {
        files: file_slots.high_water() as usize => EMPTY_FILE,
        holders: holder_slots.high_water() as usize => EMPTY_HOLDER,
    }
    parts {
        trees,
        paths,
        file_slots,
        holder_slots,
        waits,
        candidates,
        search,
        open_files,
        delegations,
        quotas,
    }
    omitted { by_path, last_added, by_owner, by_owner_and_file, steps }
});

impl<'m> LockTable<'m> {
    /// The memory that the tables take, in bytes.
    pub const fn bytes(limits: &LockLimits) -> usize {
        memory_sum!(
            IntervalTrees::bytes(limits.locks),
            PathStore::bytes(PathStore::chunks_for(limits.files)),
            bytes_for::<File>(limits.files),
            SlotAllocator::bytes(limits.files),
            HashIndex::bytes(limits.files),
            bytes_for::<Holder>(limits.locks),
            SlotAllocator::bytes(limits.locks),
            HashIndex::bytes(limits.locks),
            HashIndex::bytes(limits.locks),
            WaitQueue::bytes(limits.waiting),
            Candidates::bytes(limits.waiting),
            DeadlockSearch::bytes(limits),
            OpenFileTable::bytes(limits.open_files),
            DelegationTable::bytes(limits.files),
        )
    }

    /// Makes empty tables in memory from `arena`.
    ///
    /// # Errors
    /// [`Error::Full`] if the arena is too small.
    pub fn new(arena: &mut Arena<'m>, limits: &LockLimits) -> Result<Self, Error> {
        Self::shared(arena, limits, 0)
    }

    /// Makes empty tables that at most `members` of a family share: none of them gets more than its
    /// quota (`docs/design.md`). 0 members: there are no quotas.
    ///
    /// # Errors
    /// [`Error::Full`] if the arena is too small.
    pub fn shared(
        arena: &mut Arena<'m>,
        limits: &LockLimits,
        members: usize,
    ) -> Result<Self, Error> {
        arena.checked(|arena| Self::make(arena, limits, members))
    }

    pub(crate) fn make(arena: &mut Arena<'m>, limits: &LockLimits, members: usize) -> Self {
        LockTable {
            trees: IntervalTrees::new(arena, limits.locks),
            paths: PathStore::new(arena, PathStore::chunks_for(limits.files)),
            files: arena.alloc_filled(limits.files, &EMPTY_FILE),
            file_slots: SlotAllocator::new(arena, limits.files),
            by_path: HashIndex::new(arena, limits.files),
            idle_file: NONE,
            last_added: NONE,
            holders: arena.alloc_filled(limits.locks, &EMPTY_HOLDER),
            holder_slots: SlotAllocator::new(arena, limits.locks),
            by_owner: HashIndex::new(arena, limits.locks),
            by_owner_and_file: HashIndex::new(arena, limits.locks),
            last_holder: 0,
            waits: WaitQueue::new(arena, limits.waiting),
            candidates: Candidates::new(arena, limits.waiting),
            is_serving: false,
            search: DeadlockSearch::new(arena, limits),
            open_files: OpenFileTable::new(arena, limits.open_files, members),
            delegations: DelegationTable::new(arena, limits),
            removed: 0,
            quotas: Self::quotas(arena, members, limits),
            steps: Steps::default(),
        }
    }

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

    /// As [`LockTable::set`] for a request that does not wait; `hash` is the [hash](hash_path) of
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

    fn record_use(&mut self, from: Vmid, lock: &FileLock<'_>, hash: u64) {
        if parts::DELEGATIONS
            && lock.family != LockFamily::Flock
            && lock.kind != LockKind::Unlock
            && !self.delegations.contention.is_empty()
        {
            self.delegations.contention.record_use(hash, from);
        }
    }

    fn set_hashed(
        &mut self,
        from: Vmid,
        seq: u64,
        lock: &FileLock<'_>,
        hash: u64,
    ) -> Result<SetOutcome, Errno> {
        let slot = self.find_slot(lock.path, hash);
        self.set_on_found_file(from, seq, lock, (slot, hash))
    }

    /// As [`LockTable::set`], for a caller that has looked the slot of the file up already.
    #[inline(never)]
    fn set_on_found_file(
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
    fn set_on_file(
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
                Some(file) if self.delegation_holder(file, owner.space()) == Some(from) => {
                    self.defer(file, owner, range, (from, seq), Operation::from_lock(lock))
                }
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
            self.defer(file, owner, range, (from, seq), Operation::from_lock(lock))
        } else {
            let operation = Operation::from_lock(lock);
            self.set_on(file, owner, range, (from, seq), (operation, false))
        };
        self.drop_file_if_unused(file);
        set
    }

    #[inline]
    fn set_on(
        &mut self,
        file: u32,
        owner: Owner,
        range: Range,
        (from, seq): (Vmid, u64),
        (operation, is_resumed): (Operation, bool),
    ) -> Result<SetOutcome, Errno> {
        let (write, wait) = (operation.is_write(), operation.may_wait());
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
            place = Place::UNKNOWN;
        }
        let outcome = match blocker {
            None => self
                .grant_to((mine, place), file, (owner, Charge::to(from)), range, write)
                .map(|()| SetOutcome::Done),
            Some(_) if !wait => Err(Errno::EAGAIN),
            Some(blocker) => {
                let waiting = WaitingRequest {
                    from,
                    seq,
                    owner,
                    file,
                    range,
                    operation,
                    state: State::Waiting,
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

    /// How many entries of its tables the operations so far have visited. Only in builds with debug
    /// assertions: tests assert the bound of each operation.
    #[cfg(debug_assertions)]
    pub fn steps(&self) -> u64 {
        [
            self.trees.steps(),
            self.paths.steps(),
            self.by_path.steps(),
            self.delegations.steps(),
            self.by_owner.steps(),
            self.by_owner_and_file.steps(),
            self.waits.steps(),
            self.open_files.steps(),
            self.steps.get(),
        ]
        .into_iter()
        .fold(0, u64::wrapping_add)
    }

    /// The number of locks that were removed so far. A request removes each lock that its owner has in
    /// the range, which is the only work that no limit of the table bounds.
    pub(crate) fn removed(&self) -> u64 {
        self.removed
    }

    /// The number of locks that are held now, and the peak.
    pub fn lock_usage(&self) -> (usize, usize) {
        (self.trees.slots().in_use(), self.trees.slots().peak())
    }

    /// The number of requests that wait now, and the peak.
    pub fn waiting_usage(&self) -> (usize, usize) {
        self.waits.usage()
    }

    /// The number of files with locks or waiting requests now, and the peak.
    pub fn file_usage(&self) -> (usize, usize) {
        let idle = usize::from(self.idle_file != NONE);
        (self.file_slots.in_use().minus(idle), self.file_slots.peak())
    }

    /// The number of references to open files now, and the peak.
    pub fn open_file_usage(&self) -> (usize, usize) {
        self.open_files.usage()
    }
}

/// The range of a lock. `None` if it ends before it starts.
fn range_of(lock: &FileLock<'_>) -> Option<Range> {
    match lock.family {
        LockFamily::Flock => Some((0, u64::MAX)),
        LockFamily::Posix | LockFamily::Ofd => {
            (lock.start <= lock.end).then_some((lock.start, lock.end))
        }
    }
}
