//! Maps numbers to slots of a table.

use super::{Arena, Steps, Table, bytes_for, close_gap, entry, image, make_gap};
use crate::invariant::{Count, OrBroken};

#[derive(Clone, Copy, Default)]
struct MapEntry {
    number: u32,
    slot: u32,
}

entry!(MapEntry { number, slot });

image!(SortedMap<'_> {
    fields { count, peak }
    tables { entries: *count => MapEntry::default() }
    omitted { steps }
    valid { *count <= *peak && *peak <= entries.len() }
});

/// A map from numbers to slots, sorted by number: a look-up takes O(log n) steps, and a change
/// moves the entries behind it once.
pub(crate) struct SortedMap<'m> {
    /// The first `count` entries are in use.
    entries: Table<'m, MapEntry>,
    count: usize,
    peak: usize,
    steps: Steps,
}

/// The number of entries in a cache line: so many are moved in one step.
const ENTRIES_PER_LINE: usize = 8;

impl<'m> SortedMap<'m> {
    pub(crate) const fn bytes(capacity: usize) -> usize {
        bytes_for::<MapEntry>(capacity)
    }

    pub(crate) fn new(arena: &mut Arena<'m>, capacity: usize) -> Self {
        SortedMap {
            entries: arena.alloc_filled(capacity, &MapEntry::default()),
            count: 0,
            peak: 0,
            steps: Steps::default(),
        }
    }

    fn find(&self, number: u32) -> Result<usize, usize> {
        let used = self.entries.get(..self.count).or_broken(&[]);
        self.steps
            .count_many(used.len().checked_ilog2().map_or(1, |log| log as usize));
        used.binary_search_by_key(&number, |entry| entry.number)
    }

    /// Returns the slot of the number.
    pub(crate) fn get(&self, number: u32) -> Option<u32> {
        let at = self.find(number).ok()?;
        self.entries.get(at).map(|entry| entry.slot)
    }

    /// Returns the lowest number above `last`.
    pub(crate) fn next(&self, last: u32) -> Option<u32> {
        let used = self.entries.get(..self.count)?;
        let at = used.partition_point(|entry| entry.number <= last);
        used.get(at).map(|entry| entry.number)
    }

    /// Returns the slot of the number that has so many lower ones in the map; [`NONE`](super::NONE) if there is none.
    pub(crate) fn slot_at(&self, at: usize) -> u32 {
        let entry = self.entries.get(at).filter(|_| at < self.count);
        entry.map_or(super::NONE, |entry| entry.slot)
    }

    /// Adds a number with its slot. Returns false if the number is in the map, or there is no room.
    pub(crate) fn insert(&mut self, number: u32, slot: u32) -> bool {
        let Err(at) = self.find(number) else {
            return false;
        };
        let count = self.count.plus(1);
        let Some(tail) = self.entries.get_mut(at..count) else {
            return false;
        };
        self.steps.count_many(tail.len() / ENTRIES_PER_LINE);
        make_gap(tail);
        if let Some(entry) = tail.first_mut() {
            *entry = MapEntry { number, slot };
        }
        self.count = count;
        self.peak = self.peak.max(count);
        true
    }

    /// Removes the number. Returns false if it was not in the map.
    pub(crate) fn remove(&mut self, number: u32) -> bool {
        let Ok(at) = self.find(number) else {
            return false;
        };
        if let Some(tail) = self.entries.get_mut(at..self.count) {
            self.steps.count_many(tail.len() / ENTRIES_PER_LINE);
            close_gap(tail);
        }
        self.count.decrement();
        true
    }

    /// Returns the number of entries that were visited.
    #[cfg(debug_assertions)]
    pub(crate) fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// Returns true if the numbers rise, and the slots are below `slots`. The entries of a loaded image may be wrong.
    pub(crate) fn is_valid(&self, slots: usize) -> bool {
        self.entries.get(..self.count).is_some_and(|used| {
            used.is_sorted_by(|one, other| one.number < other.number)
                && used.iter().all(|entry| (entry.slot as usize) < slots)
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Returns the highest number of entries so far.
    pub(crate) fn peak(&self) -> usize {
        self.peak
    }
}
