//! Which ID belongs to whom (protocol, "ID ranges").

use crate::error::{Error, Resource, errno};
use core::hash::Hasher;

use crate::store::{Arena, Digest, IntervalMap, OwnerCursor};
use crate::wire::IdRange;
use crate::{Id, Vmid};

/// The longest range that is handed out at once.
const LONGEST_RANGE: u32 = 32;
const _: () = assert!(LONGEST_RANGE <= crate::store::MAX_INTERVAL);

/// Where the search goes on after the highest ID. ID 1 is the first that a family has given out:
/// that of its first process, as a rule, so no other process ever has it.
const FIRST_AGAIN: Id = 2;

/// How many ranges of a dead owner one call passes over at most: the table is behind a spinlock.
const MAX_STEPS: u32 = 64;

/// What [`Ranges::alloc`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alloc {
    /// This range, now owned by the asker.
    Range(IdRange),
    /// All IDs are used up.
    NoneLeft,
    /// The table is full ([`Resource::Ranges`]).
    TableFull,
}

/// What is still to be done to take back the ranges of one owner.
#[derive(Debug)]
pub struct Reclaim(OwnerCursor);

/// The table of ID ranges: non-overlapping, each with one owner.
pub struct Ranges<'m> {
    spans: IntervalMap<'m>,
    /// Where the search for free IDs goes on.
    next: Id,
    wrap: bool,
}

impl<'m> Ranges<'m> {
    /// The memory that a table of `capacity` ranges takes.
    pub const fn bytes(capacity: usize) -> usize {
        IntervalMap::bytes(capacity)
    }

    /// An empty table of `capacity` ranges, cut from `arena`. With `wrap`, IDs that were released
    /// are handed out again once the top is reached, from 2 on; without, the top is the end.
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

    /// Hands out the next free range after the last one handed out, at most 32 long: a shorter one
    /// where IDs that are still owned leave no more room. O(log n) steps, however many ranges stand
    /// in the way.
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
        let end = start.saturating_add(LONGEST_RANGE - 1).min(free_to);
        if !self.spans.insert(start, end, owner.get()) {
            return Alloc::TableFull;
        }
        self.next = end.saturating_add(1);
        Alloc::Range(IdRange { start, end })
    }

    /// Takes a range back from its owner: a whole one, just as the table has it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such range, [`Error::Refused`] (`EPERM`) if it is
    /// somebody else's.
    pub fn release(&mut self, owner: Vmid, range: IdRange) -> Result<(), Error> {
        match self.spans.find(range.start) {
            Some(span) if span.start() == range.start && span.end() == range.end => {
                if span.owner() != owner.get() {
                    return Err(Error::Refused(errno::EPERM));
                }
                self.spans.remove(span);
                Ok(())
            }
            _ => Err(Error::Invalid),
        }
    }

    /// Gives one ID of a range of `from` to `to`. The range falls into up to three, each to be
    /// released by itself.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if nobody owns the ID, [`Error::Refused`] (`EPERM`) if somebody
    /// else than `from` does, [`Error::Full`] if the table has no room for the parts; then nothing
    /// has changed.
    pub fn change_owner(&mut self, from: Vmid, id: Id, to: Vmid) -> Result<(), Error> {
        let span = self.spans.find(id).ok_or(Error::NoSuchProcess)?;
        if span.owner() != from.get() {
            return Err(Error::Refused(errno::EPERM));
        }
        let (start, end) = (span.start(), span.end());
        let parts = usize::from(start < id).saturating_add(usize::from(id < end));
        if self.spans.remaining() < parts {
            return Err(Error::Full(Resource::Ranges));
        }
        if start < id {
            self.spans.shorten(span, id.saturating_sub(1));
            self.spans.insert(id, id, to.get());
        } else {
            self.spans.shorten(span, id);
            self.spans.set_owner(span, to.get());
        }
        if id < end {
            self.spans.insert(id.saturating_add(1), end, from.get());
        }
        Ok(())
    }

    /// Whether `owner` has `id` as a range of its own, of length one.
    pub(in crate::leader) fn is_single(&mut self, id: Id, owner: Vmid) -> bool {
        self.spans.find(id).is_some_and(|span| {
            span.start() == id && span.end() == id && span.owner() == owner.get()
        })
    }

    /// Gives a range of length one to `to`, whoever has it.
    pub(in crate::leader) fn give_single(&mut self, id: Id, to: Vmid) {
        if let Some(span) = self.spans.find(id)
            && span.start() == span.end()
        {
            self.spans.set_owner(span, to.get());
        }
    }

    /// Frees a range of length one, whoever has it.
    pub(in crate::leader) fn free_single(&mut self, id: Id) {
        if let Some(span) = self.spans.find(id)
            && span.start() == span.end()
        {
            self.spans.remove(span);
        }
    }

    /// Who owns `id`, if anybody does.
    pub fn owner_of(&mut self, id: Id) -> Option<Vmid> {
        self.spans.find(id).and_then(|span| Vmid::new(span.owner()))
    }

    /// Begins to take back all ranges of `owner`, who is gone.
    pub fn reclaim(&mut self, owner: Vmid) -> Reclaim {
        Reclaim(self.spans.owner_cursor(owner.get()))
    }

    /// Goes on with that, for a bounded number of steps. True when it is done.
    pub fn reclaim_on(&mut self, reclaim: &mut Reclaim) -> bool {
        self.spans.remove_next(&mut reclaim.0, MAX_STEPS as usize)
    }

    pub(in crate::leader) fn digest(&self, digest: &mut Digest) {
        digest.write_u32(self.next);
        self.spans.digest(digest);
    }

    /// How many ranges [`Ranges::reclaim_portion`] has to look at for that owner.
    pub(in crate::leader) fn count_to_reclaim(&mut self, owner: Vmid) -> u64 {
        self.spans.owner_cursor(owner.get()).remaining() as u64
    }

    /// Takes back ranges of `owner`, who is gone, among the next of the `left` that are still to be looked
    /// at. Returns how many are left.
    pub(in crate::leader) fn reclaim_portion(&mut self, owner: Vmid, left: u64) -> u64 {
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let mut sweep = OwnerCursor::resume(owner.get(), left);
        if self.spans.remove_next(&mut sweep, MAX_STEPS as usize) {
            0
        } else {
            sweep.remaining() as u64
        }
    }

    /// How many ranges are owned.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether nobody owns anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most ranges that were ever owned at once.
    pub fn peak(&self) -> usize {
        self.spans.peak()
    }

    /// Whether no node was lost: what is out of the pool is in the tree. Slow: for tests.
    pub fn check_invariants(&self) -> bool {
        self.spans.check_invariants()
    }
}
