//! The owners of ID ranges (protocol, "IDs").

use crate::error::{Errno, Error, Resource};
use core::hash::Hasher;

use crate::invariant::Count;
use crate::store::{Arena, Digest, IntervalMap, OwnerCursor};
use crate::wire::IdRange;
use crate::{Id, Vmid};

/// The longest range that is assigned at once.
const LONGEST_RANGE: u32 = 32;
const _: () = assert!(LONGEST_RANGE <= crate::store::MAX_INTERVAL);

/// The ID at which the search continues after the highest ID. ID 1 is the first that a family
/// assigns, usually to its first process, so no other process ever has it.
const FIRST_AGAIN: Id = 2;

/// The greatest number of ranges of a dead owner that one call examines, since the table is behind
/// a spinlock.
const MAX_STEPS: u32 = 64;

/// The result of [`Ranges::alloc`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alloc {
    /// This range, which the requester owns now.
    Range(IdRange),
    /// All IDs are used up.
    NoneLeft,
    /// The table is full ([`Resource::Ranges`]).
    TableFull,
}

/// The table of ID ranges: non-overlapping, each with one owner.
pub struct Ranges<'m> {
    spans: IntervalMap<'m>,
    /// The ID at which the search for free IDs continues.
    next: Id,
    wrap: bool,
}

impl<'m> Ranges<'m> {
    /// The memory of a table of `capacity` ranges, in bytes.
    pub const fn bytes(capacity: usize) -> usize {
        IntervalMap::bytes(capacity)
    }

    /// Makes an empty table of `capacity` ranges, allocated from `arena`. With `wrap`, released IDs
    /// are assigned again once the top is reached, from 2 on; without it no ID is assigned after
    /// the top.
    ///
    /// # Errors
    /// [`Error::Full`] if the arena is too small.
    pub fn new(arena: &mut Arena<'m>, capacity: usize, wrap: bool) -> Result<Self, Error> {
        Ok(Ranges {
            spans: IntervalMap::new(arena, capacity)?,
            next: 1,
            wrap,
        })
    }

    /// Assigns the next free range after the last one, at most 32 long: a shorter one if IDs that
    /// are still owned leave no more room. It takes O(log n) steps, for any number of ranges before
    /// the free one.
    pub fn alloc(&mut self, owner: Vmid) -> Alloc {
        if self.spans.remaining() == 0 {
            return Alloc::TableFull;
        }
        let mut found = self.spans.next_free(self.next);
        if found.is_none() && self.wrap {
            found = self.spans.next_free(FIRST_AGAIN);
        }
        let Some((start, free_to)) = found else {
            return Alloc::NoneLeft;
        };
        let end = start.plus(LONGEST_RANGE - 1).min(free_to);
        if !self.spans.insert(start, end, owner.get()) {
            return Alloc::TableFull;
        }
        self.next = end.plus(1);
        Alloc::Range(IdRange { start, end })
    }

    /// Releases a range of its owner: a whole one, exactly as the table has it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such range, [`Error::Refused`] (`EPERM`) if another
    /// process owns it.
    pub fn release(&mut self, owner: Vmid, range: IdRange) -> Result<(), Error> {
        match self.spans.find(range.start) {
            Some(span) if span.start() == range.start && span.end() == range.end => {
                if span.owner() != owner.get() {
                    return Err(Error::Refused(Errno::EPERM));
                }
                self.spans.remove(span);
                Ok(())
            }
            _ => Err(Error::Invalid),
        }
    }

    /// Gives one ID of a range of `from` to `to`. The range is split into up to three, each of
    /// which is released separately.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if the ID has no owner, [`Error::Refused`] (`EPERM`) if a process
    /// other than `from` owns it, [`Error::Full`] if the table has no room for the parts; then
    /// nothing has changed.
    pub fn change_owner(&mut self, from: Vmid, id: Id, to: Vmid) -> Result<(), Error> {
        let span = self.spans.find(id).ok_or(Error::NoSuchProcess)?;
        if span.owner() != from.get() {
            return Err(Error::Refused(Errno::EPERM));
        }
        let (start, end) = (span.start(), span.end());
        let parts = usize::from(start < id).plus(usize::from(id < end));
        if self.spans.remaining() < parts {
            return Err(Error::Full(Resource::Ranges));
        }
        if start < id {
            self.spans.shorten(span, id.minus(1));
            self.spans.insert(id, id, to.get());
        } else {
            self.spans.shorten(span, id);
            self.spans.set_owner(span, to.get());
        }
        if id < end {
            self.spans.insert(id.plus(1), end, from.get());
        }
        Ok(())
    }

    /// Returns true if `owner` owns `id` as a range of one ID.
    pub(in crate::leader) fn is_single(&mut self, id: Id, owner: Vmid) -> bool {
        self.spans.find(id).is_some_and(|span| {
            span.start() == id && span.end() == id && span.owner() == owner.get()
        })
    }

    /// Gives a range of one ID to `to`, whichever process owns it.
    pub(in crate::leader) fn give_single(&mut self, id: Id, to: Vmid) {
        if let Some(span) = self.spans.find(id)
            && span.start() == span.end()
        {
            self.spans.set_owner(span, to.get());
        }
    }

    /// Frees a range of one ID, whichever process owns it.
    pub(in crate::leader) fn free_single(&mut self, id: Id) {
        if let Some(span) = self.spans.find(id)
            && span.start() == span.end()
        {
            self.spans.remove(span);
        }
    }

    /// Returns the owner of `id`, if it has one.
    pub fn owner_of(&mut self, id: Id) -> Option<Vmid> {
        self.spans.find(id).and_then(|span| Vmid::new(span.owner()))
    }

    pub(in crate::leader) fn digest(&self, digest: &mut Digest) {
        digest.write_u32(self.next);
        self.spans.digest(digest);
    }

    /// Returns the number of ranges that [`Ranges::reclaim_portion`] must examine for that owner.
    pub fn count_to_reclaim(&mut self, owner: Vmid) -> u64 {
        self.spans.owner_cursor(owner.get()).remaining() as u64
    }

    /// Reclaims ranges of `owner`, which is gone, among the next of the `left` that are still to be
    /// examined. Returns the number that is left.
    pub fn reclaim_portion(&mut self, owner: Vmid, left: u64) -> u64 {
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let mut sweep = OwnerCursor::resume(owner.get(), left);
        if self.spans.remove_next(&mut sweep, MAX_STEPS as usize) {
            0
        } else {
            sweep.remaining() as u64
        }
    }

    /// Returns the number of ranges that are owned.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Returns true if no range is owned.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the highest number of ranges so far.
    pub fn peak(&self) -> usize {
        self.spans.peak()
    }

    /// Returns true if no slot was lost: each is in the pool or in the tree. Slow: for tests.
    pub fn check_invariants(&self) -> bool {
        self.spans.check_invariants()
    }
}
