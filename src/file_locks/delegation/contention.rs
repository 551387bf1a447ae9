//! Contention: the files that several members used lately. Such a file is not delegated before one
//! member has used it alone for long enough.

use crate::Vmid;
use crate::invariant::{Count, OrBroken};
use crate::store::{Arena, Digest, SortedMap, Table, bytes_for, entry, image, total};
use core::hash::Hash;

/// The number of consecutive lock requests that a single member has to make before a contended file
/// is delegated to it.
const REGRANT_THRESHOLD: u32 = 32;

/// The number of files that the table remembers. No choice of paths makes it forget a file before so many
/// others are contended.
// The model checker has small stacks.
const ENTRIES: usize = if cfg!(loom) { 1 } else { 64 };

/// A file that several members use.
#[derive(Clone, Copy, Hash)]
struct ContentionEntry {
    key: u32,
    last: Option<Vmid>,
    streak: u32,
}

entry!(ContentionEntry { key, last, streak });

const EMPTY: ContentionEntry = ContentionEntry {
    key: 0,
    last: None,
    streak: 0,
};

/// The files that several members used lately.
pub(in crate::file_locks) struct Contention<'m> {
    by_key: SortedMap<'m>,
    entries: Table<'m, ContentionEntry>,
    /// The slot of the file that was added first, or a free one: the next file gets it.
    oldest: u32,
}

image!(Contention<'_> {
    fields { oldest }
    tables { entries: entries.len() => EMPTY }
    parts { by_key }
    valid { by_key.is_valid(entries.len()) }
});

/// Half of the hash of a path: files with the same one count as one file.
fn key_of(hash: u64) -> u32 {
    u32::try_from(hash >> u32::BITS).or_broken(0)
}

impl<'m> Contention<'m> {
    /// The length of the table, for a lock table with room for that many files.
    const fn length(files: usize) -> usize {
        if files == 0 { 0 } else { ENTRIES }
    }

    pub(super) const fn bytes(files: usize) -> usize {
        total!(
            SortedMap::bytes(Self::length(files)),
            bytes_for::<ContentionEntry>(Self::length(files)),
        )
    }

    pub(super) fn new(arena: &mut Arena<'m>, files: usize) -> Self {
        Contention {
            by_key: SortedMap::new(arena, Self::length(files)),
            entries: arena.alloc_filled(Self::length(files), &EMPTY),
            oldest: 0,
        }
    }

    pub(super) fn digest(&self, digest: &mut Digest) {
        // A file has a slot if and only if it has an entry.
        digest.add_all(self.entries.iter());
        self.oldest.hash(digest);
    }

    /// Records that another member uses the file too, or that its delegation holder could not
    /// decide alone.
    pub(super) fn record_contention(&mut self, hash: u64, by: Vmid) {
        let key = key_of(hash);
        let known = self.by_key.get(key);
        let slot = known.or_else(|| self.add(key));
        let entry = slot.and_then(|slot| self.entries.get_mut(slot as usize));
        if let Some(entry) = entry {
            *entry = ContentionEntry {
                key,
                last: Some(by),
                streak: 0,
            };
        }
    }

    /// Adds a file in the place of the one that was added first. Returns its slot.
    fn add(&mut self, key: u32) -> Option<u32> {
        let slot = self.oldest;
        let entry = self.entries.get(slot as usize)?;
        if entry.last.is_some() {
            self.by_key.remove(entry.key);
        }
        self.by_key.insert(key, slot);
        let next = slot.plus(1);
        let is_last = next as usize >= ENTRIES;
        self.oldest = if is_last { 0 } else { next };
        Some(slot)
    }

    /// Records that a member uses the file. Returns whether the file may be delegated to it.
    pub(in crate::file_locks) fn record_use(&mut self, hash: u64, by: Vmid) -> bool {
        let slot = self.by_key.get(key_of(hash));
        let entry = slot.and_then(|slot| self.entries.get_mut(slot as usize));
        let Some(entry) = entry else {
            return true;
        };
        entry.streak = if entry.last == Some(by) {
            entry.streak.saturating_add(1)
        } else {
            0
        };
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

    /// A hash whose low half is the same for all files: a choice of paths of one bucket.
    fn hash(file: u32) -> u64 {
        u64::from(file) << u32::BITS | 5
    }

    #[test]
    fn contended_file_is_remembered_although_others_are_whose_hashes_are_like_its_own() {
        with_table(|table| {
            table.record_contention(hash(0), member(2));
            for other in 1..64 {
                table.record_contention(hash(other), member(3));
            }
            for _ in 0..10_000 {
                assert!(table.record_use(hash(100), member(3)));
            }
            for _ in 0..REGRANT_THRESHOLD {
                assert!(!table.record_use(hash(0), member(3)));
            }
            assert!(table.record_use(hash(0), member(3)));
        });
    }
}
