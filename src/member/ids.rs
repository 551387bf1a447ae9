//! The IDs of this process: the ranges that it owns, and the IDs in use.
//!
//! A range has at most 32 IDs, so one bit for each ID records its use. The table allocates IDs in
//! ascending order. A released ID is not allocated again before its whole range has gone back to
//! the leader and was allocated anew, so that a PID is not reused soon.
//!
//! As soon as a thread has an ID, IDs for children come from a range of their own. The ID of a
//! child leaves its range at once ([`OwnIds::finish_transfer`]), so that range has no ID in use,
//! and a fork splits no range that stays. With one range for both purposes, each thread that lives
//! between two forks would end up with a range of its own.

mod own_range;

use core::mem;

use self::own_range::OwnRange;
use crate::Id;
use crate::error::{Error, Invalid, Resource};
use crate::invariant::{Count, OrBroken};
use crate::store::{Arena, Table, bytes_for, close_gap, make_gap};
use crate::wire::IdRange;

/// The result of [`OwnIds::alloc`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// This ID, which is in use now.
    Id(Id),
    /// The ranges are used up: the caller gets a new one from the leader, adds it with
    /// [`OwnIds::add`], and tries again.
    NeedRange,
}

/// The purpose of an ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A thread of this process.
    Own,
    /// A new process, to which the ID is [transferred](OwnIds::begin_transfer) at once.
    Child,
}

/// The ranges of this process, in order.
pub struct OwnIds<'m> {
    table: Table<'m, OwnRange>,
    count: usize,
    peak: usize,
    cursors: Cursors,
}

/// The ranges from which IDs are allocated.
#[derive(Clone, Copy, Default)]
struct Cursors {
    own: Option<Cursor>,
    children: Option<Cursor>,
}

/// A range from which IDs are allocated.
#[derive(Clone, Copy)]
struct Cursor {
    /// The last ID of the range, which identifies it: splits do not change it.
    end: Id,
    /// The next ID to allocate.
    next: Id,
}

impl Cursors {
    fn has(&self, end: Id) -> bool {
        let mut both = self.own.iter().chain(&self.children);
        both.any(|current| current.end == end)
    }

    fn of(&mut self, purpose: Purpose) -> &mut Option<Cursor> {
        match purpose {
            Purpose::Own => &mut self.own,
            Purpose::Child => &mut self.children,
        }
    }
}

impl<'m> OwnIds<'m> {
    /// Returns the memory for `capacity` ranges, in bytes.
    pub const fn bytes(capacity: usize) -> usize {
        bytes_for::<OwnRange>(capacity)
    }

    /// Makes an empty table for `capacity` ranges, in memory from `arena`.
    ///
    /// # Errors
    /// [`Error::Full`] if the arena is too small.
    pub fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        arena.checked(|arena| Self::make(arena, capacity))
    }

    pub(crate) fn make(arena: &mut Arena<'m>, capacity: usize) -> Self {
        let table = arena.alloc_filled(capacity, &OwnRange::default());
        OwnIds {
            table,
            count: 0,
            peak: 0,
            cursors: Cursors::default(),
        }
    }

    /// Allocates the next ID for that purpose. As long as no thread has an ID of the only range,
    /// that range serves both purposes.
    pub fn alloc(&mut self, purpose: Purpose) -> Allocation {
        let purpose = if self.cursors.children.is_none() && self.is_own_range_unused() {
            Purpose::Own
        } else {
            purpose
        };
        let current = *self.cursors.of(purpose);
        let current = current.or_else(|| {
            // An idle range exists if two threads asked the leader at the same time.
            let mut ranges = self.ranges().iter();
            let idle = ranges.find(|range| range.is_idle() && !self.cursors.has(range.end))?;
            Some(Cursor {
                end: idle.end,
                next: idle.start,
            })
        });
        let Some(Cursor { end, next: id }) = current else {
            return Allocation::NeedRange;
        };
        let Some(range) = self.find_range(id) else {
            return Allocation::NeedRange;
        };
        range.in_use |= range.bit(id);
        *self.cursors.of(purpose) = (id < end).then_some(Cursor {
            end,
            next: id.plus(1),
        });
        Allocation::Id(id)
    }

    /// Returns true if there is a range to allocate from, and none of its IDs is in use.
    fn is_own_range_unused(&mut self) -> bool {
        let own = self.cursors.own;
        let range = own.and_then(|own| self.find_range(own.next));
        range.is_some_and(|range| range.in_use == 0)
    }

    /// Allocates an ID when the leader has no further range: from the range for the other purpose,
    /// or else an ID that was in use before.
    pub fn alloc_any(&mut self) -> Option<Id> {
        for purpose in [Purpose::Own, Purpose::Child] {
            if let Allocation::Id(id) = self.alloc(purpose) {
                return Some(id);
            }
        }
        let count = self.count;
        let used = self.table.get_mut(..count)?;
        let (range, id) = used
            .iter_mut()
            .find_map(|range| range.first_free().map(|id| (range, id)))?;
        range.in_use |= range.bit(id);
        Some(id)
    }

    /// Adds a new range from the leader. IDs are allocated from it when the present range is used
    /// up.
    ///
    /// # Errors
    /// [`Error::Full`] at the limit of ranges; [`Error::Invalid`] if it is not a valid range, is
    /// longer than 32, or overlaps an own range. The caller should then give the range back to the
    /// leader.
    pub fn add(&mut self, range: IdRange) -> Result<(), Error> {
        self.insert(range, 0)
    }

    /// Adds an ID that another process transferred to this one. It is in use from the start.
    ///
    /// # Errors
    /// As [`OwnIds::add`].
    pub fn accept(&mut self, id: Id) -> Result<(), Error> {
        self.insert(IdRange { start: id, end: id }, 1)
    }

    /// Ends the use of `id`. If its range has no ID in use any more and IDs are not allocated from
    /// it, the range is removed and returned: the caller gives it back to the leader.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the ID is not in use here.
    pub fn release(&mut self, id: Id) -> Result<Option<IdRange>, Error> {
        let range = self.find_range(id).ok_or(Error::Invalid(Invalid::Id))?;
        let bit = range.bit(id);
        if range.in_use & bit == 0 {
            return Err(Error::Invalid(Invalid::Id));
        }
        range.in_use &= !bit;
        let (is_idle, end) = (range.is_idle(), range.end);
        Ok(if is_idle && !self.cursors.has(end) {
            self.remove(id)
        } else {
            None
        })
    }

    /// Marks `id` as in transfer to another process. Its range stays until the leader has answered
    /// ([`OwnIds::finish_transfer`]).
    ///
    /// # Errors
    /// [`Error::Invalid`] if the ID is not in use here, [`Error::Full`] if there would be no room
    /// for the parts into which the range is split.
    pub fn begin_transfer(&mut self, id: Id) -> Result<(), Error> {
        let free = self.table.len().minus(self.count);
        let parts = self.reserved_parts();
        let range = self.find_range(id).ok_or(Error::Invalid(Invalid::Id))?;
        let bit = range.bit(id);
        if range.in_use & bit == 0 {
            return Err(Error::Invalid(Invalid::Id));
        }
        // A transfer splits a range into at most two, and only if the ID is inside it. Each
        // transfer in progress may need one more slot.
        let is_inside = range.start < id && id < range.end;
        if is_inside && free <= parts {
            return Err(Error::Full(Resource::OwnRanges));
        }
        range.in_use &= !bit;
        range.in_transfer |= bit;
        Ok(())
    }

    /// Finishes a transfer after the leader's answer: `id` belongs to the other process (`done`),
    /// or is in use here as before. Returns the ranges that have become idle: the caller gives them
    /// back.
    pub fn finish_transfer(&mut self, id: Id, done: bool) -> [Option<IdRange>; 2] {
        let Some(range) = self.find_range(id) else {
            return [None; 2];
        };
        let bit = range.bit(id);
        if range.in_transfer & bit == 0 {
            return [None; 2];
        }
        range.in_transfer &= !bit;
        if !done {
            range.in_use |= bit;
            return [None; 2];
        }
        let whole = *range;
        self.remove(id);
        let parts = [
            whole.part(whole.start, id.minus(1)),
            whole.part(id.plus(1), whole.end),
        ];
        parts.map(|part| {
            let part = part?;
            if part.is_idle() && !self.cursors.has(part.end) {
                return Some(part.range());
            }
            // `begin_transfer` made sure of the room.
            self.insert_range(part);
            None
        })
    }

    /// Removes and returns a range without IDs in use, including one from which IDs are allocated.
    /// A process calls it until it returns `None` before it leaves, and gives the ranges back to
    /// the leader.
    pub fn take_idle_range(&mut self) -> Option<IdRange> {
        self.cursors = Cursors::default();
        let idle = self.ranges().iter().find(|range| range.is_idle())?.start;
        self.remove(idle)
    }

    /// Removes and returns a range, including one in use, because the process ends. The caller
    /// repeats it until it returns `None`, and gives the ranges back to the leader.
    pub fn take_range(&mut self) -> Option<IdRange> {
        self.cursors = Cursors::default();
        let first = self.ranges().first()?.start;
        self.remove(first)
    }

    /// Returns the number of IDs in use.
    pub fn in_use(&self) -> usize {
        self.ranges()
            .iter()
            .map(|range| range.in_use.count_ones() as usize)
            .sum()
    }

    /// Returns the number of ranges that this process owns.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns true if this process owns no range.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the most ranges that this process has owned at once.
    pub fn peak(&self) -> usize {
        self.peak
    }

    fn ranges(&self) -> &[OwnRange] {
        self.table.get(..self.count).or_broken(&[])
    }

    /// Returns the index of the first range that ends at or after `id`.
    fn index_of(&self, id: Id) -> usize {
        self.ranges().partition_point(|range| range.end < id)
    }

    /// Returns true if the ID is in use here.
    pub fn is_in_use(&self, id: Id) -> bool {
        let range = self.ranges().get(self.index_of(id));
        range.is_some_and(|range| range.start <= id && range.in_use & range.bit(id) != 0)
    }

    fn find_range(&mut self, id: Id) -> Option<&mut OwnRange> {
        let index = self.index_of(id);
        let count = self.count;
        self.table
            .get_mut(..count)?
            .get_mut(index)
            .filter(|range| range.start <= id)
    }

    /// Returns the number of further ranges that the transfers in progress may need.
    fn reserved_parts(&self) -> usize {
        self.ranges()
            .iter()
            .map(|range| {
                let ends = range.bit(range.start) | range.bit(range.end);
                (range.in_transfer & !ends).count_ones() as usize
            })
            .sum()
    }

    fn insert(&mut self, range: IdRange, in_use: u32) -> Result<(), Error> {
        let length = range
            .end
            .checked_sub(range.start)
            .ok_or(Error::Invalid(Invalid::IdRange))?;
        if range.start == 0 || range.end > crate::ID_MAX || length >= u32::BITS {
            return Err(Error::Invalid(Invalid::IdRange));
        }
        let index = self.index_of(range.start);
        if self
            .ranges()
            .get(index)
            .is_some_and(|next| next.start <= range.end)
        {
            return Err(Error::Invalid(Invalid::IdIsHere));
        }
        if self.count.plus(self.reserved_parts()) >= self.table.len() {
            return Err(Error::Full(Resource::OwnRanges));
        }
        self.insert_range(OwnRange {
            start: range.start,
            end: range.end,
            in_use,
            in_transfer: 0,
        });
        Ok(())
    }

    fn insert_range(&mut self, range: OwnRange) {
        let index = self.index_of(range.start);
        let count = self.count.plus(1);
        if let Some(tail) = self.table.get_mut(index..count) {
            make_gap(tail);
            if let Some(first) = tail.first_mut() {
                *first = range;
                self.count = count;
                self.peak = self.peak.max(count);
            }
        }
    }

    fn remove(&mut self, id: Id) -> Option<IdRange> {
        let index = self.index_of(id);
        let count = self.count;
        let tail = self.table.get_mut(index..count)?;
        let range = mem::take(tail.first_mut()?).range();
        close_gap(tail);
        self.count.decrement();
        Some(range)
    }
}
