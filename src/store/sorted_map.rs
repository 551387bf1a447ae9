//! Numbers that name places of a table.

use super::{Arena, Table, bytes_for, close_gap, make_gap};
use crate::error::Error;

#[derive(Clone, Copy, Default)]
struct Entry {
    number: u32,
    place: u32,
}

/// Which number stands at which place: sorted, so a look-up takes O(log n) steps and a change one
/// move of what lies behind it.
pub(crate) struct Index<'m> {
    /// The first `count` are in use.
    entries: Table<'m, Entry>,
    count: usize,
    most: usize,
}

impl<'m> Index<'m> {
    pub(crate) const fn bytes(capacity: usize) -> usize {
        bytes_for::<Entry>(capacity)
    }

    pub(crate) fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        Ok(Index {
            entries: arena.table(capacity, |_| Ok(Entry::default()))?,
            count: 0,
            most: 0,
        })
    }

    fn find(&self, number: u32) -> Result<usize, usize> {
        let used = self.entries.get(..self.count).unwrap_or(&[]);
        used.binary_search_by_key(&number, |entry| entry.number)
    }

    /// The place of that number.
    pub(crate) fn get(&self, number: u32) -> Option<u32> {
        let at = self.find(number).ok()?;
        self.entries.get(at).map(|entry| entry.place)
    }

    /// The lowest number above `last`.
    pub(crate) fn next(&self, last: u32) -> Option<u32> {
        let used = self.entries.get(..self.count)?;
        let at = used.partition_point(|entry| entry.number <= last);
        used.get(at).map(|entry| entry.number)
    }

    /// Notes where the number stands. False if it is there already, or there is no room.
    pub(crate) fn insert(&mut self, number: u32, place: u32) -> bool {
        let Err(at) = self.find(number) else {
            return false;
        };
        let count = self.count.saturating_add(1);
        let Some(behind) = self.entries.get_mut(at..count) else {
            return false;
        };
        make_gap(behind);
        if let Some(entry) = behind.first_mut() {
            *entry = Entry { number, place };
        }
        self.count = count;
        self.most = self.most.max(count);
        true
    }

    /// Forgets the number. False if it was not there.
    pub(crate) fn remove(&mut self, number: u32) -> bool {
        let Ok(at) = self.find(number) else {
            return false;
        };
        if let Some(behind) = self.entries.get_mut(at..self.count) {
            close_gap(behind);
        }
        self.count = self.count.saturating_sub(1);
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The most there ever were.
    pub(crate) fn most(&self) -> usize {
        self.most
    }
}
