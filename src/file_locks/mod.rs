//! The file locks of the family: the semantics of `fcntl(2)` and `flock(2)` across all members.
//!
//! The table is a deterministic state machine, like the rest of the leader. It has an entry for a
//! file as long as a lock is held on the file or a request waits for one. The locks of a file are
//! kept in interval trees, read locks apart from write locks, because two read locks never
//! conflict. Each holder's own locks, which never overlap, are in a further tree. `flock` locks
//! cover a whole file and have a space of their own: `fcntl` locks and `flock` locks never
//! conflict.

mod candidates;
mod conflicts;
mod deadlock;
mod delegation;
mod digest;
mod fast_path;
mod holders;
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
mod set;
mod table;
mod wait_queue;
mod waiting;
mod waiting_request;

use crate::error::Error;
use crate::invariant::Count;

use crate::store::{
    Arena, HashIndex, NONE, Quotas, SlotAllocator, Steps, Table, bytes_for, image, memory_sum,
};
use candidates::Candidates;
use deadlock::DeadlockSearch;
pub use delegation::AwaitedBy;
use delegation::DelegationTable;
use holders::{EMPTY_HOLDER, Holder, hash_owner_and_file};
use interval_tree::IntervalTrees;
#[cfg(debug_assertions)]
pub(crate) use open_files::MAX_IN_TRANSIT;
use open_files::OpenFileTable;
pub use owner::Owner;
use paths::PathStore;
pub use set::SetOutcome;
use set::range_of;
use table::{EMPTY_FILE, File, SpaceKind};
use wait_queue::WaitQueue;
pub use waiting::Completion;

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
    /// Returns the memory that the tables take, in bytes.
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

    /// Returns the number of locks that were removed so far. A request removes each lock that its
    /// owner has in the range, which is the only work that no limit of the table bounds.
    pub(crate) fn removed(&self) -> u64 {
        self.removed
    }

    /// Returns the number of locks that are held now, and the peak.
    pub fn lock_usage(&self) -> (usize, usize) {
        (self.trees.slots().in_use(), self.trees.slots().peak())
    }

    /// Returns the number of requests that wait now, and the peak.
    pub fn waiting_usage(&self) -> (usize, usize) {
        self.waits.usage()
    }

    /// Returns the number of files with locks or waiting requests now, and the peak.
    pub fn file_usage(&self) -> (usize, usize) {
        let idle = usize::from(self.idle_file != NONE);
        (self.file_slots.in_use().minus(idle), self.file_slots.peak())
    }

    /// Returns the number of references to open files now, and the peak.
    pub fn open_file_usage(&self) -> (usize, usize) {
        self.open_files.usage()
    }
}
