//! The members that hold each open file.
//!
//! A member holds an open file that it has locked or has reported, and one that another member has
//! transferred to it. A starting process inherits an open file once. Each open file that is sent to
//! a member takes a slot of its own until it has arrived: several may be in transit at once, and
//! closing one of them leaves the others. The locks of an open file are released with its last
//! holder.

mod closing;
mod index;
mod locks;
mod notices;
mod quotas;
mod reference;
mod transfers;

use crate::Vmid;

use crate::invariant::{Count, OrBroken};
use crate::store::{
    Arena, Digest, HashIndex, Quotas, SlotAllocator, Steps, Table, TransmitQueue, bytes_for, image,
    memory_sum,
};

use quotas::OPEN_FILES;
use reference::{FREE, HoldState, NoticeState, Reference, ReferenceKey};

/// How often an open file may be in transit to one member: what concerns a notice of the open file visits
/// all of these references.
pub(crate) const MAX_IN_TRANSIT: u32 = 256;

image!(OpenFileTable<'_> {
    fields { listed, unjoined, withheld }
    tables {
        references: slots.high_water() as usize => FREE,
        closed: *listed => 0,
    }
    parts { slots, outbox, quotas }
    omitted { by_number, steps }
    valid { *listed <= closed.len() }
});

/// A fixed number of references, each of a member to an open file.
pub(super) struct OpenFileTable<'m> {
    references: Table<'m, Reference>,
    slots: SlotAllocator<'m>,
    by_number: HashIndex<'m>,
    /// The first `listed` entries are the slots of references that are [`HoldState::Closing`], and
    /// without requests, whose locks are still to be released. A slot is listed at most once.
    closed: Table<'m, u32>,
    listed: usize,
    /// The number of references [`HoldState::Inherited`] by a process that has not joined.
    unjoined: usize,
    /// The number of references with [`NoticeState::Withheld`].
    withheld: usize,
    /// The references with [`NoticeState::Pending`].
    outbox: TransmitQueue<'m>,
    quotas: Quotas<'m>,
    steps: Steps,
}

impl<'m> OpenFileTable<'m> {
    pub(super) const fn bytes(capacity: usize) -> usize {
        memory_sum!(
            bytes_for::<Reference>(capacity),
            SlotAllocator::bytes(capacity),
            HashIndex::bytes(capacity),
            bytes_for::<u32>(capacity),
            TransmitQueue::bytes(capacity),
        )
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize, members: usize) -> Self {
        OpenFileTable {
            references: arena.alloc_filled(capacity, &FREE),
            slots: SlotAllocator::new(arena, capacity),
            by_number: HashIndex::new(arena, capacity),
            closed: arena.alloc_filled(capacity, &0),
            listed: 0,
            unjoined: 0,
            withheld: 0,
            outbox: TransmitQueue::new(arena, capacity),
            quotas: Quotas::new(arena, members, &[capacity]),
            steps: Steps::default(),
        }
    }

    /// Returns the number of entries that were visited.
    #[cfg(debug_assertions)]
    pub(super) fn steps(&self) -> u64 {
        self.steps.get().wrapping_add(self.by_number.steps())
    }

    pub(super) fn digest(&self, digest: &mut Digest) {
        self.slots.digest(digest);
        digest.add_all(
            self.references
                .iter()
                .take(self.slots.high_water() as usize),
        );
        self.outbox.digest(digest);
        digest.add_all(self.closed.iter().take(self.listed));
        self.quotas.digest(digest);
    }

    /// Makes what is not in an image. Returns false if the image was none.
    pub(super) fn complete_image(&mut self) -> bool {
        self.by_number.clear();
        let is_valid =
            self.slots.is_valid() && self.outbox.is_valid() && self.quotas.complete_image();
        if is_valid {
            for slot in 0..self.slots.high_water() {
                if self.at(slot).vmid.is_some() {
                    self.insert_key(slot);
                }
            }
        }
        is_valid
    }

    fn at(&self, slot: u32) -> &Reference {
        self.steps.count();
        reference_in(&self.references, slot)
    }

    /// Adds a reference, which is charged to `payer`. The caller has checked its quota.
    fn add(&mut self, payer: Vmid, reference: Reference) -> bool {
        let Some(slot) = self.slots.alloc() else {
            return false;
        };
        let payer = self.quotas.charge(payer, OPEN_FILES, 1);
        let Reference { state, notice, .. } = reference;
        if let Some(free) = self.at_mut(slot) {
            *free = Reference {
                state: FREE.state,
                notice: FREE.notice,
                payer,
                ..reference
            };
        }
        self.set(slot, state, notice);
        self.insert_into_index(slot);
        true
    }

    /// Returns the reference in the slot, to change what neither a counter nor the outbox depends
    /// on.
    fn at_mut(&mut self, slot: u32) -> Option<&mut Reference> {
        self.references.get_mut(slot as usize)
    }

    /// Sets the state and the notice, on which the counters and the outbox depend.
    fn set(&mut self, slot: u32, state: HoldState, notice: NoticeState) {
        let Some(reference) = self.references.get_mut(slot as usize) else {
            return;
        };
        let was_unjoined = reference.is_unjoined();
        let was_withheld = reference.notice == NoticeState::Withheld;
        (reference.state, reference.notice) = (state, notice);
        count_change(&mut self.unjoined, was_unjoined, reference.is_unjoined());
        count_change(
            &mut self.withheld,
            was_withheld,
            notice == NoticeState::Withheld,
        );
        if notice == NoticeState::Pending {
            self.outbox.push(slot);
        } else {
            self.outbox.remove(slot);
        }
    }

    /// Frees the slot. Returns whether it was the last reference to the open file.
    pub(super) fn remove(&mut self, slot: u32) -> bool {
        let Reference {
            open_file,
            is_listed,
            ..
        } = *self.at(slot);
        if is_listed {
            self.unlist(slot);
        }
        self.remove_from_index(slot);
        let payer = self.at(slot).payer;
        self.quotas.release(payer, OPEN_FILES, 1);
        self.set(slot, FREE.state, FREE.notice);
        if let Some(reference) = self.at_mut(slot) {
            *reference = FREE;
        }
        self.slots.free(slot);
        self.find_any(open_file).is_none()
    }

    /// Removes the reference from the list of those that are closed.
    fn unlist(&mut self, slot: u32) {
        let listed = self.closed.get(..self.listed).or_broken(&[]);
        let at = listed.iter().position(|listed| *listed == slot);
        let last = listed.last().copied();
        if let (Some(at), Some(last)) = (at, last)
            && let Some(place) = self.closed.get_mut(at)
        {
            *place = last;
            self.listed.decrement();
        }
    }

    /// Records that the member uses the open file. Returns false if the table is full.
    pub(super) fn hold(&mut self, open_file: u64, vmid: Vmid) -> bool {
        let held = self.find_held(open_file, vmid);
        // An open file that the member uses has arrived.
        if let Some(slot) = held.or_else(|| self.find_first_sent(open_file, vmid)) {
            // From its first use on, an open file that was given to the member is charged to it.
            self.charge_to(slot, vmid);
            // The giver is a part of the key of a reference that is in transit.
            self.remove_from_index(slot);
            self.set(slot, HoldState::Held, NoticeState::Confirmed);
            self.insert_into_index(slot);
            return true;
        }
        let has_room = self.slots.remaining() > 0 && self.quotas.may_grow(vmid, OPEN_FILES, 1);
        let reference = Reference {
            open_file,
            vmid: Some(vmid),
            ..FREE
        };
        has_room && self.add(vmid, reference)
    }

    /// Returns true if the reference is the last one to its open file.
    pub(super) fn is_last(&self, slot: u32) -> bool {
        let open_file = self.at(slot).open_file;
        self.find_any(open_file) == Some(slot) && self.next(slot).is_none()
    }

    /// Returns the open file of a reference that ends with the member: its own, or one that a child which
    /// will not come has inherited from it.
    pub(super) fn reference_of(
        &self,
        vmid: Vmid,
        slot: u32,
        is_abandoned: &dyn Fn(Vmid) -> bool,
    ) -> Option<u64> {
        let reference = self.at(slot);
        let holder = reference.vmid?;
        let inherited = HoldState::Inherited {
            by: vmid,
            has_joined: false,
        };
        let ends = holder == vmid || reference.state == inherited && is_abandoned(holder);
        ends.then_some(reference.open_file)
    }

    pub(super) fn high_water(&self) -> u32 {
        self.slots.high_water()
    }

    /// Returns true if the counters agree with the table. It is slow, and meant for tests.
    pub(super) fn check_invariants(&self) -> bool {
        let number = |matches: fn(&Reference) -> bool| {
            self.references
                .iter()
                .filter(|reference| matches(reference))
                .count()
        };
        number(|reference| reference.is_listed) == self.listed
            && number(|reference| {
                reference.is_closing() && reference.requests == 0 && !reference.is_listed
            }) == 0
            && self.unjoined == number(Reference::is_unjoined)
            && self.withheld == number(|reference| reference.notice == NoticeState::Withheld)
            && self.outbox.check_invariants(|slot| {
                let reference = self.references.get(slot as usize);
                reference.is_some_and(|reference| reference.notice == NoticeState::Pending)
            })
            && self.slots.in_use() == number(|reference| reference.vmid.is_some())
            && (0..self.slots.high_water()).all(|slot| self.counts_transfers(slot))
    }

    /// Returns true if the number of references in transit is right, if the one in the slot is the first
    /// of them.
    fn counts_transfers(&self, slot: u32) -> bool {
        if self.first_in_transit(slot) != Some(slot) {
            return true;
        }
        let vmid = self.at(slot).vmid;
        let mut number = 0_u32;
        let mut sent = Some(slot);
        while let Some(slot) = sent.filter(|slot| self.at(*slot).vmid == vmid) {
            number.increment();
            sent = self.next(slot);
        }
        number == self.at(slot).in_transit
    }

    pub(super) fn usage(&self) -> (usize, usize) {
        (self.slots.in_use(), self.slots.peak())
    }
}

/// Counts a thing in if it is to be counted now, and out if it was before.
fn count_change(counter: &mut usize, was: bool, is: bool) {
    match (was, is) {
        (false, true) => counter.increment(),
        (true, false) => counter.decrement(),
        _ => {}
    }
}

#[cfg_attr(static_library, inline(never))]
fn reference_in<'t>(references: &'t Table<'_, Reference>, slot: u32) -> &'t Reference {
    references.get(slot as usize).unwrap_or(&FREE)
}
