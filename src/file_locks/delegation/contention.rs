//! Contention: the files that several members used lately. Such a file is not delegated before one
//! member has used it alone for long enough.

use crate::Vmid;
use crate::invariant::Count;
use crate::store::{Arena, Digest, Steps, Table, bytes_for, close_gap, entry, image, make_gap};
use core::hash::Hash;

/// The number of consecutive lock requests that a single member has to make before a contended file
/// is delegated to it.
const REGRANT_THRESHOLD: u32 = 32;

/// The number of uses for which all unknown files count as contended after the table has forgotten a
/// contended file: it may be any of them.
const DOUBTFUL_USES: u32 = 1024;

/// The number of contended files that the table remembers. It forgets one only for another one, and
/// first the one whose contention is the longest ago, so no choice of paths makes it forget a file earlier.
// The model checker has small stacks.
const ENTRIES: usize = if cfg!(loom) { 1 } else { 64 };

/// A file that several members use.
#[derive(Clone, Copy, Hash)]
struct ContentionEntry {
    hash: u64,
    /// The number of files that were found contended before this one was last.
    contended_at: u64,
    /// None in an entry that was never used.
    last: Option<Vmid>,
    streak: u32,
}

entry!(ContentionEntry {
    hash,
    contended_at,
    last,
    streak
});

impl ContentionEntry {
    fn is_contended(&self) -> bool {
        self.last.is_some() && self.streak < REGRANT_THRESHOLD
    }
}

const EMPTY: ContentionEntry = ContentionEntry {
    hash: 0,
    contended_at: 0,
    last: None,
    streak: 0,
};

/// The files that several members used lately.
pub(in crate::file_locks) struct Contention<'m> {
    /// Sorted by hash.
    entries: Table<'m, ContentionEntry>,
    /// The number of files that were found contended so far.
    count: u64,
    /// For how many uses the files without an entry count as contended.
    doubtful: u32,
    steps: Steps,
}

image!(Contention<'_> {
    fields { count, doubtful }
    tables { entries: entries.len() => EMPTY }
    omitted { steps }
    valid { entries.is_sorted_by_key(|entry| entry.hash) }
});

impl<'m> Contention<'m> {
    /// Returns the length of the table, for a lock table with room for that many files.
    const fn length(files: usize) -> usize {
        if files == 0 { 0 } else { ENTRIES }
    }

    pub(super) const fn bytes(files: usize) -> usize {
        bytes_for::<ContentionEntry>(Self::length(files))
    }

    pub(super) fn new(arena: &mut Arena<'m>, files: usize) -> Self {
        Contention {
            entries: arena.alloc_filled(Self::length(files), &EMPTY),
            count: 0,
            doubtful: 0,
            steps: Steps::default(),
        }
    }

    pub(super) fn digest(&self, digest: &mut Digest) {
        (self.count, self.doubtful).hash(digest);
        digest.add_all(self.entries.iter());
    }

    /// Returns the number of entries that were visited.
    #[cfg(debug_assertions)]
    pub(super) fn steps(&self) -> u64 {
        self.steps.get()
    }

    fn find(&self, hash: u64) -> Result<usize, usize> {
        self.steps.count_many(ENTRIES.ilog2() as usize);
        self.entries.binary_search_by_key(&hash, |entry| entry.hash)
    }

    /// Records that another member uses the file too, or that its delegation holder could not
    /// decide alone.
    pub(super) fn record_contention(&mut self, hash: u64, by: Vmid) {
        self.count = self.count.plus(1);
        let entry = ContentionEntry {
            hash,
            contended_at: self.count,
            last: Some(by),
            streak: 0,
        };
        match self.find(hash) {
            Ok(at) => {
                if let Some(known) = self.entries.get_mut(at) {
                    *known = entry;
                }
            }
            Err(at) => self.add(at, entry),
        }
    }

    /// Adds a file that belongs before the entry `at`. An unused entry gives way, or one of a file that may be delegated
    /// again, or the one whose contention is the longest ago.
    fn add(&mut self, at: usize, entry: ContentionEntry) {
        self.steps.count_many(ENTRIES);
        let order = |(_, one): &(usize, &ContentionEntry)| (one.is_contended(), one.contended_at);
        let Some((oldest, forgotten)) = self.entries.iter().enumerate().min_by_key(order) else {
            return;
        };
        if forgotten.is_contended() {
            self.doubtful = DOUBTFUL_USES;
        }
        // The entries between both places move by one.
        let place = if oldest < at {
            let between = self.entries.get_mut(oldest..at);
            between.and_then(|between| {
                close_gap(between);
                between.last_mut()
            })
        } else {
            let between = self.entries.get_mut(at..=oldest);
            between.and_then(|between| {
                make_gap(between);
                between.first_mut()
            })
        };
        if let Some(place) = place {
            *place = entry;
        }
    }

    /// Returns true if no file was ever found contended.
    pub(in crate::file_locks) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Records that a member uses the file. Returns whether the file may be delegated to it.
    pub(in crate::file_locks) fn record_use(&mut self, hash: u64, by: Vmid) -> bool {
        if self.count == 0 {
            return !self.entries.is_empty();
        }
        let at = self.find(hash).ok();
        let entry = at.and_then(|at| self.entries.get_mut(at));
        let Some(entry) = entry.filter(|entry| entry.last.is_some()) else {
            let is_doubtful = self.doubtful != 0;
            if is_doubtful {
                self.doubtful.decrement();
            }
            return !is_doubtful;
        };
        if entry.last == Some(by) {
            entry.streak = entry.streak.saturating_add(1);
        } else {
            (entry.streak, entry.contended_at) = (0, self.count);
        }
        entry.last = Some(by);
        entry.streak >= REGRANT_THRESHOLD
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use super::*;

    fn with_table(test: impl FnOnce(&mut Contention<'_>)) {
        let mut memory = Box::new_uninit_slice(Contention::bytes(1));
        test(&mut Contention::new(&mut Arena::new(&mut memory), 1));
    }

    fn member(number: u32) -> Vmid {
        Vmid::new(number).unwrap()
    }

    /// Hashes that are equal in each half or in the order of their bits, as a choice of paths can make them.
    fn like_others(file: u64) -> [u64; 3] {
        [file << 32 | 5, 5 << 32 | file, file * 64 + 5]
    }

    #[test]
    fn contended_file_is_remembered_although_others_are_contended_whose_hashes_are_like_its_own() {
        for form in 0..3 {
            let hash = |file: u64| like_others(file)[form];
            with_table(|table| {
                table.record_contention(hash(30), member(2));
                for other in (0..64).filter(|other| *other != 30) {
                    table.record_contention(hash(other), member(3));
                }
                for _ in 0..10_000 {
                    assert!(table.record_use(hash(100), member(3)));
                }
                for _ in 0..REGRANT_THRESHOLD {
                    assert!(!table.record_use(hash(30), member(3)));
                }
                assert!(table.record_use(hash(30), member(3)));
            });
        }
    }

    #[test]
    fn file_that_two_members_use_all_the_time_is_not_forgotten_for_others() {
        with_table(|table| {
            table.record_contention(1 << 40, member(2));
            for other in 0..10_000 {
                table.record_contention(other * 977, member(4));
                let user = member(2 + u32::try_from(other % 2).unwrap());
                assert!(!table.record_use(1 << 40, user));
            }
            // The doubts of the table are over, and it still knows the file.
            for _ in 0..DOUBTFUL_USES {
                table.record_use(1 << 41, member(4));
            }
            assert!(table.record_use(1 << 41, member(4)));
            assert!(!table.record_use(1 << 40, member(4)));
        });
    }

    #[test]
    fn entries_stay_sorted_whichever_gives_way() {
        with_table(|table| {
            let mut rng = fastrand::Rng::with_seed(1);
            for _ in 0..10_000 {
                let (hash, by) = (rng.u64(..200) << 56, member(rng.u32(1..3)));
                if rng.bool() {
                    table.record_contention(hash, by);
                    let known = table.find(hash).map(|at| table.entries[at].last);
                    assert_eq!(known, Ok(Some(by)));
                } else {
                    table.record_use(hash, by);
                }
                assert!(table.entries.is_sorted_by_key(|entry| entry.hash));
            }
        });
    }
}
