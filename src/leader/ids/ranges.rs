//! The owners of ID ranges (protocol, "IDs").

use crate::error::{Errno, Error, Invalid, Resource};
use core::hash::Hasher;

use super::quotas::RANGES;
use crate::invariant::Count;
use crate::store::{Arena, Digest, Interval, IntervalMap, Quotas, image, memory_sum};
use crate::wire::IdRange;
use crate::{Id, Vmid};

/// The longest range that is assigned at once.
const LONGEST_RANGE: u32 = 32;
const _: () = assert!(LONGEST_RANGE <= crate::store::MAX_INTERVAL);

/// The ID at which the search continues after the highest ID. ID 1 is the first that a family
/// assigns, usually to its first process, so no other process ever has it.
const FIRST_AGAIN: Id = 2;

/// The result of [`Ranges::alloc`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alloc {
    /// This range, which the requester owns now.
    Range(IdRange),
    /// All IDs are used up.
    NoneLeft,
    /// The table is full ([`Resource::Ranges`]), or the quota of the requester is used up.
    TableFull,
}

/// The table of ID ranges: non-overlapping, each with one owner.
pub struct Ranges<'m> {
    pub(super) intervals: IntervalMap<'m>,
    /// The ID at which the search for free IDs continues.
    next: Id,
    wrap: bool,
    pub(super) quotas: Quotas<'m>,
}

image!(Ranges<'_> {
    fields { next }
    parts { intervals, quotas }
    omitted { wrap }
});

impl<'m> Ranges<'m> {
    /// Returns the memory of a table of `capacity` ranges, in bytes.
    pub const fn bytes(capacity: usize) -> usize {
        Self::shared_bytes(capacity, 0)
    }

    /// Returns the memory of a table of `capacity` ranges that `members` share, in bytes.
    pub const fn shared_bytes(capacity: usize, members: usize) -> usize {
        memory_sum!(IntervalMap::bytes(capacity), Quotas::bytes(members))
    }

    /// Makes an empty table of `capacity` ranges, allocated from `arena`. With `wrap`, released IDs
    /// are assigned again once the top is reached, from 2 on; without it no ID is assigned after
    /// the top.
    ///
    /// # Errors
    /// [`Error::Full`] if the arena is too small.
    pub fn new(arena: &mut Arena<'m>, capacity: usize, wrap: bool) -> Result<Self, Error> {
        Self::shared(arena, capacity, wrap, 0)
    }

    /// Makes an empty table that at most `members` of a family share: none of them gets more than its
    /// quota. 0 members: there are no quotas.
    ///
    /// # Errors
    /// As [`Ranges::new`].
    pub fn shared(
        arena: &mut Arena<'m>,
        capacity: usize,
        wrap: bool,
        members: usize,
    ) -> Result<Self, Error> {
        arena.checked(|arena| Self::make(arena, capacity, wrap, members))
    }

    #[cfg_attr(static_library, inline(never))]
    pub(in crate::leader) fn make(
        arena: &mut Arena<'m>,
        capacity: usize,
        wrap: bool,
        members: usize,
    ) -> Self {
        Ranges {
            intervals: IntervalMap::new(arena, capacity),
            next: 1,
            wrap,
            quotas: Quotas::new(arena, members, &[capacity]),
        }
    }

    /// Assigns the next free range after the last one, at most 32 long: a shorter one if IDs that
    /// are still owned leave no more room. It takes O(log n) steps, for any number of ranges before
    /// the free one.
    pub fn alloc(&mut self, owner: Vmid) -> Alloc {
        if self.intervals.remaining() == 0 {
            return Alloc::TableFull;
        }
        let mut from = self.next;
        let gap = loop {
            if let Some(gap) = self.intervals.next_free(from) {
                break gap;
            }
            if !self.wrap || from == FIRST_AGAIN {
                return Alloc::NoneLeft;
            }
            from = FIRST_AGAIN;
        };
        let Some(payer) = self.quotas.try_charge(owner, RANGES, 1) else {
            return Alloc::TableFull;
        };
        let start = gap.start;
        let end = start.plus(LONGEST_RANGE - 1).min(gap.end);
        if !self.intervals.insert(gap, end, owner.get(), payer) {
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
        match self.intervals.find(range.start) {
            Some(interval) if interval.start() == range.start && interval.end() == range.end => {
                if interval.owner() != owner.get() {
                    return Err(Error::Refused {
                        errno: Errno::EPERM,
                        by: None,
                    });
                }
                self.remove(interval);
                Ok(())
            }
            _ => Err(Error::Invalid(Invalid::IdRange)),
        }
    }

    /// Gives one ID of a range of `from` to `to`. The range is split into up to three, each of
    /// which is released separately.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`] if the ID has no owner, [`Error::Refused`] (`EPERM`) if a process
    /// other than `from` owns it, [`Error::Full`] if the table, or the quota of one of the two, has no
    /// room for the parts; then nothing has changed.
    pub fn change_owner(&mut self, from: Vmid, id: Id, to: Vmid) -> Result<(), Error> {
        self.split_off(from, id, to, Some(to))
    }

    /// Like [`Ranges::change_owner`], for a process that has not connected: the ID is charged to the payer of the range
    /// until [`Ranges::charge_receiver`].
    ///
    /// # Errors
    /// As there.
    pub(in crate::leader) fn grant_pending(
        &mut self,
        from: Vmid,
        id: Id,
        to: Vmid,
    ) -> Result<(), Error> {
        self.split_off(from, id, to, None)
    }

    fn split_off(
        &mut self,
        from: Vmid,
        id: Id,
        to: Vmid,
        receiver: Option<Vmid>,
    ) -> Result<(), Error> {
        let mut interval = self.intervals.find(id).ok_or(Error::NoSuchProcess)?;
        if interval.owner() != from.get() {
            return Err(Error::Refused {
                errno: Errno::EPERM,
                by: None,
            });
        }
        let (start, end) = (interval.start(), interval.end());
        let parts = usize::from(start < id).plus(usize::from(id < end));
        let payer = interval.payer();
        let receiver = receiver.filter(|receiver| !self.quotas.is_payer(payer, *receiver));
        // The number of places that the payer of the range keeps, beside the one that it pays for already.
        let more = match receiver {
            Some(_) => parts.max(1).minus(1),
            None => parts,
        };
        let has_quota = (more == 0 || self.quotas.payer_may_grow(payer, RANGES, more))
            && receiver.is_none_or(|receiver| self.quotas.may_grow(receiver, RANGES, 1));
        if self.intervals.remaining() < parts || !has_quota {
            return Err(Error::Full(Resource::Ranges));
        }
        self.quotas.charge_more(payer, RANGES, parts);
        if start < id {
            self.intervals.split(&mut interval, id, to.get());
        } else {
            self.intervals.set_owner(&mut interval, to.get());
        }
        if id < end {
            let mut rest = interval;
            self.intervals.split(&mut rest, id.plus(1), from.get());
        }
        if let Some(receiver) = receiver {
            self.charge(interval, receiver);
        }
        Ok(())
    }

    fn remove(&mut self, interval: Interval) {
        self.intervals.remove(interval);
        self.quotas.release(interval.payer(), RANGES, 1);
    }

    /// Returns true if `owner` owns `id` as a range of one ID.
    pub(in crate::leader) fn is_single(&mut self, id: Id, owner: Vmid) -> bool {
        self.intervals.find(id).is_some_and(|interval| {
            interval.start() == id && interval.end() == id && interval.owner() == owner.get()
        })
    }

    /// Gives a range of one ID to `to`, whichever process owns it. It stays charged as it is.
    pub(in crate::leader) fn give_single(&mut self, id: Id, to: Vmid) {
        if let Some(mut interval) = self.intervals.find(id)
            && interval.start() == interval.end()
        {
            self.intervals.set_owner(&mut interval, to.get());
        }
    }

    /// Frees a range of one ID, whichever process owns it.
    pub(in crate::leader) fn free_single(&mut self, id: Id) {
        if let Some(interval) = self.intervals.find(id)
            && interval.start() == interval.end()
        {
            self.remove(interval);
        }
    }

    /// Returns the owner of `id`, if it has one.
    pub fn owner_of(&mut self, id: Id) -> Option<Vmid> {
        self.intervals
            .find(id)
            .and_then(|interval| Vmid::new(interval.owner()))
    }

    /// Returns the number of table entries that were visited.
    #[cfg(debug_assertions)]
    pub(in crate::leader) fn steps(&self) -> u64 {
        self.intervals.steps()
    }

    pub(in crate::leader) fn complete_image(&mut self) -> bool {
        self.intervals.complete_image() && self.quotas.complete_image()
    }

    pub(in crate::leader) fn digest(&self, digest: &mut Digest) {
        digest.write_u32(self.next);
        self.intervals.digest(digest);
        self.quotas.digest(digest);
    }

    /// Returns the number of ranges that are owned.
    pub fn len(&self) -> usize {
        self.intervals.len()
    }

    /// Returns true if no range is owned.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the highest number of ranges so far.
    pub fn peak(&self) -> usize {
        self.intervals.peak()
    }

    /// Returns true if no slot was lost: each is in the pool or in the tree. It is slow, and meant for tests.
    pub fn check_invariants(&self) -> bool {
        self.intervals.check_invariants() && self.check_quotas()
    }
}
