//! File locks as a child would do them: a field of bytes, and who has which.
//!
//! It decides where the table under test and the kernel may differ: whether a wait is a true
//! deadlock (the kernel looks along one lock at a time, and gives up after ten), whether somebody who
//! waits could be served, and which lock `F_GETLK` is to name.

use std::collections::{BTreeMap, BTreeSet};

use libos_ipc::file_locks::Owner;

/// Bytes of a file; the last stands for all that follow.
pub(crate) const BYTES: usize = 24;

/// A lock that is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) owner: Owner,
    pub(crate) file: usize,
    pub(crate) start: usize,
    /// One beyond the last byte.
    pub(crate) end: usize,
    pub(crate) write: bool,
}

/// Which bytes somebody has, and whether to write.
type Bytes = [Option<bool>; BYTES];

#[derive(Clone, Default)]
pub(crate) struct Model {
    /// By file and owner, who are told apart by what they print.
    held: BTreeMap<(usize, String), (Owner, Bytes)>,
    /// When each of them first locked the file.
    since: BTreeMap<(usize, String), u64>,
    /// The number of the step.
    pub(crate) now: u64,
}

/// The lowest lock that an owner has in somebody's way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lowest {
    pub(crate) start: usize,
    /// The step in which its owner first locked the file.
    pub(crate) since: u64,
}

fn sees(one: Owner, other: Owner) -> bool {
    let whole = |owner| matches!(owner, Owner::Flock(_));
    whole(one) == whole(other)
}

impl Wish {
    /// Whether the two can't be had both.
    pub(crate) fn conflicts_with(&self, other: &Wish) -> bool {
        self.owner != other.owner
            && self.file == other.file
            && sees(self.owner, other.owner)
            && (self.write || other.write)
            && self.start < other.end
            && other.start < self.end
    }
}

impl Model {
    pub(crate) fn set(&mut self, wish: &Wish, lock: Option<bool>) {
        let key = (wish.file, format!("{:?}", wish.owner));
        let entry = self
            .held
            .entry(key.clone())
            .or_insert((wish.owner, [None; BYTES]));
        if entry.1.iter().all(Option::is_none) {
            self.since.insert(key, self.now);
        }
        entry.1[wish.start..wish.end].fill(lock);
    }

    pub(crate) fn forget(&mut self, fits: impl Fn(usize, Owner) -> bool) {
        self.held
            .retain(|(file, _), (owner, _)| !fits(*file, *owner));
    }

    /// Who has something that is in the way.
    pub(crate) fn in_the_way(&self, wish: &Wish) -> Vec<Owner> {
        self.held
            .iter()
            .filter(|((file, _), (owner, bytes))| {
                *file == wish.file
                    && *owner != wish.owner
                    && sees(*owner, wish.owner)
                    && bytes[wish.start..wish.end]
                        .iter()
                        .flatten()
                        .any(|write| *write || wish.write)
            })
            .map(|(_, (owner, _))| *owner)
            .collect()
    }

    /// The lowest lock that each owner in the way has there: of locks that touch the range, though they
    /// may begin before it.
    pub(crate) fn lowest_in_the_way(&self, wish: &Wish) -> Vec<Lowest> {
        let conflicts = |lock: bool| lock || wish.write;
        self.in_the_way(wish)
            .into_iter()
            .filter_map(|owner| {
                let key = (wish.file, format!("{owner:?}"));
                Some(Lowest {
                    start: self.first_of(owner, wish, conflicts)?,
                    since: *self.since.get(&key)?,
                })
            })
            .collect()
    }

    /// The first byte of the first lock that the owner itself has in the range.
    pub(crate) fn first_own(&self, wish: &Wish) -> Option<usize> {
        self.first_of(wish.owner, wish, |_| true)
    }

    fn first_of(&self, owner: Owner, wish: &Wish, fits: impl Fn(bool) -> bool) -> Option<usize> {
        let key = (wish.file, format!("{owner:?}"));
        let (_, bytes) = self.held.get(&key)?;
        let at = (wish.start..wish.end).find(|at| bytes[*at].is_some_and(&fits))?;
        let before = bytes[..at].iter().rev();
        Some(at - before.take_while(|lock| **lock == bytes[at]).count())
    }

    /// Whether a process that waited for this would wait for itself.
    pub(crate) fn is_deadlock(&self, wish: &Wish, waiting: &[Wish]) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = vec![*wish];
        while let Some(one) = next.pop() {
            for owner in self.in_the_way(&one) {
                if owner == wish.owner {
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
