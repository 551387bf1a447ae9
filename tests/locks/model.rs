//! The oracle for file locks: an array of bytes for each owner.
//!
//! It decides where the table and the kernel may differ: whether a wait is a true deadlock (the
//! kernel follows one lock at a time, and gives up after ten), whether a waiter could be served,
//! and which lock `F_GETLK` has to return.

use std::collections::{BTreeMap, BTreeSet};

use libos_ipc::file_locks::Owner;

/// The number of bytes of a file; the last stands for all that follow.
pub(crate) const BYTES: usize = 24;

/// A requested lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WantedLock {
    pub(crate) owner: Owner,
    pub(crate) file: usize,
    pub(crate) start: usize,
    /// One beyond the last byte.
    pub(crate) end: usize,
    pub(crate) write: bool,
}

/// The locked bytes of an owner, and whether each has a write lock.
type Bytes = [Option<bool>; BYTES];

/// The locked bytes of each file.
#[derive(Clone, Default)]
pub(crate) struct Model {
    /// By file and owner; owners are distinguished by their `Debug` output.
    held: BTreeMap<(usize, String), (Owner, Bytes)>,
    /// The step in which each owner first locked the file.
    since: BTreeMap<(usize, String), u64>,
    /// The number of the present step.
    pub(crate) now: u64,
}

/// The lowest conflicting lock of an owner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LowestConflict {
    pub(crate) start: usize,
    /// The step in which its owner first locked the file.
    pub(crate) since: u64,
}

/// Returns true if both are owners of `flock` locks, or neither is: others never conflict.
fn are_of_one_kind(one: Owner, other: Owner) -> bool {
    let is_flock = |owner| matches!(owner, Owner::Flock(_));
    is_flock(one) == is_flock(other)
}

impl WantedLock {
    /// Returns true if the two locks conflict.
    pub(crate) fn conflicts_with(&self, other: &WantedLock) -> bool {
        self.owner != other.owner
            && self.file == other.file
            && are_of_one_kind(self.owner, other.owner)
            && (self.write || other.write)
            && self.start < other.end
            && other.start < self.end
    }
}

impl Model {
    /// Sets the bytes of the lock: `None` for unlocked, else whether each has a write lock.
    pub(crate) fn set(&mut self, wanted: &WantedLock, lock: Option<bool>) {
        let key = (wanted.file, format!("{:?}", wanted.owner));
        let entry = self
            .held
            .entry(key.clone())
            .or_insert((wanted.owner, [None; BYTES]));
        if entry.1.iter().all(Option::is_none) {
            self.since.insert(key, self.now);
        }
        entry.1[wanted.start..wanted.end].fill(lock);
    }

    /// Removes the locks of the matching files and owners.
    pub(crate) fn forget(&mut self, fits: impl Fn(usize, Owner) -> bool) {
        self.held
            .retain(|(file, _), (owner, _)| !fits(*file, *owner));
    }

    /// Returns the owners of the conflicting locks.
    pub(crate) fn conflicting_owners(&self, wanted: &WantedLock) -> Vec<Owner> {
        self.held
            .iter()
            .filter(|((file, _), (owner, bytes))| {
                *file == wanted.file
                    && *owner != wanted.owner
                    && are_of_one_kind(*owner, wanted.owner)
                    && bytes[wanted.start..wanted.end]
                        .iter()
                        .flatten()
                        .any(|write| *write || wanted.write)
            })
            .map(|(_, (owner, _))| *owner)
            .collect()
    }

    /// Returns the lowest conflicting lock of each owner. It overlaps the range, and may begin
    /// before it.
    pub(crate) fn lowest_conflicts(&self, wanted: &WantedLock) -> Vec<LowestConflict> {
        let conflicts = |lock: bool| lock || wanted.write;
        self.conflicting_owners(wanted)
            .into_iter()
            .filter_map(|owner| {
                let key = (wanted.file, format!("{owner:?}"));
                Some(LowestConflict {
                    start: self.first_of(owner, wanted, conflicts)?,
                    since: *self.since.get(&key)?,
                })
            })
            .collect()
    }

    /// Returns the first byte of the owner's own first lock in the range.
    pub(crate) fn first_own(&self, wanted: &WantedLock) -> Option<usize> {
        self.first_of(wanted.owner, wanted, |_| true)
    }

    fn first_of(
        &self,
        owner: Owner,
        wanted: &WantedLock,
        fits: impl Fn(bool) -> bool,
    ) -> Option<usize> {
        let key = (wanted.file, format!("{owner:?}"));
        let (_, bytes) = self.held.get(&key)?;
        let at = (wanted.start..wanted.end).find(|at| bytes[*at].is_some_and(&fits))?;
        let before = bytes[..at].iter().rev();
        Some(at - before.take_while(|lock| **lock == bytes[at]).count())
    }

    /// Returns true if a process that waited for this would wait for itself.
    pub(crate) fn is_deadlock(&self, wanted: &WantedLock, waiting: &[WantedLock]) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = vec![*wanted];
        while let Some(one) = next.pop() {
            for owner in self.conflicting_owners(&one) {
                if owner == wanted.owner {
                    return true;
                }
                if matches!(owner, Owner::Process { .. }) && seen.insert(format!("{owner:?}")) {
                    next.extend(waiting.iter().filter(|other| other.owner == owner));
                }
            }
        }
        false
    }
}
