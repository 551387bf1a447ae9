//! Contention: the files that several members used lately. Such a file is not delegated before one
//! member has used it alone for long enough.

use crate::Vmid;
use crate::invariant::Count;
use crate::store::{Arena, Digest, Image, Loader, Malformed, Saver, Table, bytes_for, entry};

/// The number of consecutive lock requests that a single member has to make before a contended file
/// is delegated to it.
const REGRANT_THRESHOLD: u32 = 32;

/// The number of uses for which all files of an entry count as contended after one contended file
/// has replaced another there: the table has forgotten which ones are.
const DOUBTFUL_USES: u32 = 1024;

/// The number of contended files that the table remembers. Two files whose hashes select the same
/// entry replace each other.
// The model checker has small stacks.
const ENTRIES: usize = if cfg!(loom) { 1 } else { 64 };

/// A file that several members use.
#[derive(Clone, Copy, Hash)]
struct ContentionEntry {
    hash: u64,
    last: Option<Vmid>,
    streak: u32,
    /// For how many uses the other files of this entry count as contended.
    doubtful: u32,
}

const EMPTY: ContentionEntry = ContentionEntry {
    hash: 0,
    last: None,
    streak: 0,
    doubtful: 0,
};

/// The files that several members used lately.
pub(in crate::file_locks) struct Contention<'m>(Table<'m, ContentionEntry>);

entry!(ContentionEntry {
    hash,
    last,
    streak,
    doubtful
});

impl Image for Contention<'_> {
    fn save(&self, out: &mut Saver<'_>) {
        out.table(&self.0, self.0.len());
    }

    fn load(&mut self, from: &mut Loader<'_>) -> Result<(), Malformed> {
        from.table(&mut self.0)
    }

    fn clear_unused(&mut self) {}
}

impl<'m> Contention<'m> {
    /// The length of the table, for a lock table with room for that many files.
    const fn length(files: usize) -> usize {
        if files == 0 { 0 } else { ENTRIES }
    }

    pub(super) const fn bytes(files: usize) -> usize {
        bytes_for::<ContentionEntry>(Self::length(files))
    }

    pub(super) fn new(arena: &mut Arena<'m>, files: usize) -> Self {
        let entries = arena.alloc_filled(Self::length(files), &EMPTY);
        Contention(entries)
    }

    pub(super) fn digest(&self, digest: &mut Digest) {
        digest.add_all(self.0.iter());
    }

    fn entry(&mut self, hash: u64) -> Option<&mut ContentionEntry> {
        let slot = hash.checked_rem(ENTRIES as u64)?;
        self.0.get_mut(usize::try_from(slot).ok()?)
    }

    /// Records that another member uses the file too, or that its delegation holder could not
    /// decide alone.
    pub(super) fn record_contention(&mut self, hash: u64, by: Vmid) {
        if let Some(entry) = self.entry(hash) {
            let is_contended = entry.last.is_some() && entry.streak < REGRANT_THRESHOLD;
            let doubtful = if is_contended && entry.hash != hash {
                DOUBTFUL_USES
            } else {
                entry.doubtful
            };
            *entry = ContentionEntry {
                hash,
                last: Some(by),
                streak: 0,
                doubtful,
            };
        }
    }

    /// Records that a member uses the file. Returns whether the file may be delegated to it.
    pub(in crate::file_locks) fn record_use(&mut self, hash: u64, by: Vmid) -> bool {
        let Some(entry) = self.entry(hash) else {
            return false;
        };
        if entry.last.is_none() || entry.hash != hash {
            if entry.doubtful == 0 {
                return true;
            }
            entry.doubtful.decrement();
            return false;
        }
        entry.streak = if entry.last == Some(by) {
            entry.streak.saturating_add(1)
        } else {
            0
        };
        entry.last = Some(by);
        entry.streak >= REGRANT_THRESHOLD
    }
}
