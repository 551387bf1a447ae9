//! The members that hold each open file.
//!
//! A member holds an open file that it has locked or has reported, and one that another member has
//! transferred to it. A starting process inherits an open file once. Each open file that is sent to
//! a member takes a slot of its own until it has arrived: several may be in transit at once, and
//! closing one of them leaves the others. The locks of an open file are released with its last
//! holder.

mod locks;
mod notices;
mod quotas;

use crate::Vmid;
use core::cmp::Ordering;
use core::hash::Hash;

use crate::invariant::{Count, OrBroken};
use crate::store::{
    Arena, Digest, Entry, HashIndex, Malformed, Payer, Portion, Quotas, Reader, SlotAllocator,
    Steps, Table, TransmitQueue, Writer, bytes_for, codes, entry, hash64, image, total,
};

use quotas::OPEN_FILES;

/// How often an open file may be in transit to one member: what concerns a notice of the open file visits
/// all of these references.
pub(crate) const MAX_IN_TRANSIT: u32 = 256;

/// The state of a member's reference to an open file.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum HoldState {
    /// The member uses the open file.
    Held,
    /// The member has closed the open file while one of its requests still waits for a lock of it.
    /// Like a system call in progress, the request keeps the open file until it ends.
    Closing,
    /// The member has inherited the open file from `by`, and has not used it yet.
    Inherited {
        by: Vmid,
        /// Whether the inheriting process has joined.
        has_joined: bool,
    },
    /// `by` sends the open file to the member; it is in transit.
    Sent { by: Vmid },
}

/// The state of the notice that tells a receiver of a transferred open file, so that the receiver
/// reports its close.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Notice {
    /// The receiver can't be sent a notice yet.
    Withheld,
    /// The notice is to be sent.
    Pending,
    Sent,
    /// The receiver has confirmed the notice, or needs none.
    Confirmed,
}

#[derive(Clone, Copy, Hash)]
struct Reference {
    open_file: u64,
    /// `None` for a free slot.
    vmid: Option<Vmid>,
    state: HoldState,
    notice: Notice,
    /// The number of the member's requests that wait for a lock of the open file.
    requests: u32,
    /// In the first reference to an open file that is in transit to a member: the number of these.
    in_transit: u32,
    /// Whether the slot is in the list that [`OpenFileTable::take_closed`] works through.
    is_listed: bool,
    payer: Payer,
}

impl Entry for HoldState {
    const SIZE: usize = 6;

    fn save(&self, to: &mut Writer<'_>) {
        match self {
            HoldState::Held => 0_u8.save(to),
            HoldState::Closing => 1_u8.save(to),
            HoldState::Inherited { by, has_joined } => (2_u8, (*by, *has_joined)).save(to),
            HoldState::Sent { by } => (3_u8, *by).save(to),
        }
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match u8::load(from)? {
            0 => HoldState::Held,
            1 => HoldState::Closing,
            2 => HoldState::Inherited {
                by: Entry::load(from)?,
                has_joined: Entry::load(from)?,
            },
            3 => HoldState::Sent {
                by: Entry::load(from)?,
            },
            _ => return Err(Malformed),
        })
    }
}

codes!(Notice {
    Withheld = 0,
    Pending = 1,
    Sent = 2,
    Confirmed = 3
});

entry!(Reference {
    open_file,
    vmid,
    state,
    notice,
    requests,
    in_transit,
    is_listed,
    payer,
});

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

const FREE: Reference = Reference {
    open_file: 0,
    vmid: None,
    state: HoldState::Held,
    notice: Notice::Confirmed,
    requests: 0,
    in_transit: 0,
    is_listed: false,
    payer: Payer::NOBODY,
};

impl Reference {
    fn key(&self, slot: u32) -> Key {
        Key {
            open_file: self.open_file,
            vmid: self.vmid.map_or(0, Vmid::get),
            by: match self.state {
                HoldState::Sent { by } => by.get(),
                _ => 0,
            },
            slot,
        }
    }

    fn is_closing(&self) -> bool {
        self.state == HoldState::Closing
    }

    /// Whether it is in transit to its member.
    fn is_sent(&self) -> bool {
        matches!(self.state, HoldState::Sent { .. })
    }

    fn is_unjoined(&self) -> bool {
        matches!(
            self.state,
            HoldState::Inherited {
                has_joined: false,
                ..
            }
        )
    }
}

/// The key of a reference in the index. References that are in transit are behind the one that the
/// member has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    open_file: u64,
    vmid: u32,
    /// The giver of a reference that is in transit; 0 for the one that the member has.
    by: u32,
    slot: u32,
}

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
    /// The number of references with [`Notice::Withheld`].
    withheld: usize,
    /// The references with [`Notice::Pending`].
    outbox: TransmitQueue<'m>,
    quotas: Quotas<'m>,
    steps: Steps,
}

impl<'m> OpenFileTable<'m> {
    pub(super) const fn bytes(capacity: usize) -> usize {
        total!(
            bytes_for::<Reference>(capacity),
            SlotAllocator::bytes(capacity),
            HashIndex::bytes(capacity),
            bytes_for::<u32>(capacity),
            TransmitQueue::bytes(capacity),
        )
    }

    pub(super) fn new(arena: &mut Arena<'m>, capacity: usize, members: usize) -> Self {
        OpenFileTable {
            references: arena.alloc_filled(capacity, FREE),
            slots: SlotAllocator::new(arena, capacity),
            by_number: HashIndex::new(arena, capacity),
            closed: arena.alloc_filled(capacity, 0),
            listed: 0,
            unjoined: 0,
            withheld: 0,
            outbox: TransmitQueue::new(arena, capacity),
            quotas: Quotas::new(arena, members, &[capacity]),
            steps: Steps::default(),
        }
    }

    /// The number of entries that were visited.
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

    /// The first reference to the open file whose key is `key` or a higher one.
    fn first_from(&self, key: Key) -> Option<u32> {
        let found = self.by_number.find_first(hash64(key.open_file), |slot| {
            if self.at(slot).key(slot) < key {
                Ordering::Less
            } else {
                Ordering::Equal
            }
        });
        found.filter(|slot| self.at(*slot).open_file == key.open_file)
    }

    /// The first of the member's references to the open file that `by` or a higher giver has sent;
    /// the one that is not in transit, if there is one and `by` is 0.
    fn find_from(&self, open_file: u64, vmid: Vmid, by: u32) -> Option<u32> {
        let key = Key {
            open_file,
            vmid: vmid.get(),
            by,
            slot: 0,
        };
        let found = self.first_from(key);
        found.filter(|slot| self.at(*slot).vmid == Some(vmid))
    }

    /// The first reference to the open file.
    fn find_any(&self, open_file: u64) -> Option<u32> {
        self.first_from(Key {
            open_file,
            vmid: 0,
            by: 0,
            slot: 0,
        })
    }

    /// The member's reference to the open file, unless that is in transit.
    fn find_held(&self, open_file: u64, vmid: Vmid) -> Option<u32> {
        self.find_sent(open_file, vmid, 0)
    }

    /// The first reference to the open file that is in transit from `by` to the member.
    fn find_sent(&self, open_file: u64, vmid: Vmid, by: u32) -> Option<u32> {
        let found = self.find_from(open_file, vmid, by);
        found.filter(|slot| self.at(*slot).key(*slot).by == by)
    }

    /// The first reference to the open file that is in transit to the member.
    fn find_first_sent(&self, open_file: u64, vmid: Vmid) -> Option<u32> {
        self.find_from(open_file, vmid, 1)
    }

    /// The next reference to the same open file.
    fn next(&self, slot: u32) -> Option<u32> {
        let key = self.at(slot).key(slot);
        self.first_from(Key {
            slot: slot.plus(1),
            ..key
        })
    }

    /// The first of the member's references to the open file that matches. Visits those before it.
    fn find_matching(
        &self,
        open_file: u64,
        vmid: Vmid,
        matches: impl Fn(&Reference) -> bool,
    ) -> Option<u32> {
        let mut found = self.find_from(open_file, vmid, 0);
        while let Some(slot) = found {
            let reference = self.at(slot);
            if reference.vmid != Some(vmid) {
                return None;
            }
            if matches(reference) {
                break;
            }
            found = self.next(slot);
        }
        found
    }

    /// Changes the references of the member to the open file for which `matches` is true.
    fn change_matching(
        &mut self,
        open_file: u64,
        vmid: Vmid,
        matches: impl Fn(&Reference) -> bool,
        change: impl Fn(&mut Reference),
    ) {
        let mut found = self.find_from(open_file, vmid, 0);
        while let Some(slot) = found {
            let reference = *self.at(slot);
            if reference.vmid != Some(vmid) {
                return;
            }
            if matches(&reference) {
                self.change(slot, |reference| change(reference));
            }
            found = self.next(slot);
        }
    }

    /// Records that the member, whose process is connected, has the open file itself.
    pub(super) fn mark_open_file_joined(&mut self, open_file: u64, vmid: Vmid) {
        self.change_matching(open_file, vmid, Reference::is_unjoined, |reference| {
            if let HoldState::Inherited { has_joined, .. } = &mut reference.state {
                *has_joined = true;
            }
        });
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
        self.change(slot, |free| *free = Reference { payer, ..reference });
        self.insert_into_index(slot);
        true
    }

    fn insert_into_index(&mut self, slot: u32) {
        if self.at(slot).is_sent() {
            self.insert_sent(slot);
        } else {
            self.insert_key(slot);
        }
    }

    /// As [`OpenFileTable::insert_into_index`], of a reference in transit.
    #[inline(never)]
    fn insert_sent(&mut self, slot: u32) {
        let first = self.first_in_transit(slot);
        let in_transit = first.map_or(0, |first| self.at(first).in_transit);
        self.insert_key(slot);
        if let Some(first) = self.first_in_transit(slot) {
            self.change(first, |first| first.in_transit = in_transit.plus(1));
        }
    }

    #[inline]
    fn insert_key(&mut self, slot: u32) {
        let key = self.at(slot).key(slot);
        let references = &self.references;
        self.by_number
            .insert(hash64(key.open_file), slot, &|other| {
                reference_in(references, other).key(other).cmp(&key)
            });
    }

    fn remove_from_index(&mut self, slot: u32) {
        if self.at(slot).is_sent() {
            self.remove_sent(slot);
        } else {
            self.remove_key(slot);
        }
    }

    /// As [`OpenFileTable::remove_from_index`], of a reference in transit.
    #[inline(never)]
    fn remove_sent(&mut self, slot: u32) {
        let first = self.first_in_transit(slot);
        let in_transit = first.map_or(0, |first| self.at(first).in_transit);
        self.remove_key(slot);
        if let Some(first) = self.first_in_transit(slot) {
            self.change(first, |first| first.in_transit = in_transit.minus(1));
        }
    }

    #[inline]
    fn remove_key(&mut self, slot: u32) {
        let key = self.at(slot).key(slot);
        let references = &self.references;
        self.by_number
            .remove(hash64(key.open_file), slot, &|other| {
                reference_in(references, other).key(other).cmp(&key)
            });
    }

    /// The first reference in transit to the same member, if the open file is in transit with that in the
    /// slot: it counts them all.
    fn first_in_transit(&self, slot: u32) -> Option<u32> {
        let reference = self.at(slot);
        let vmid = reference.vmid?;
        reference
            .is_sent()
            .then(|| self.find_first_sent(reference.open_file, vmid))?
    }

    fn change(&mut self, slot: u32, change: impl FnOnce(&mut Reference)) {
        let Some(reference) = self.references.get_mut(slot as usize) else {
            return;
        };
        let was = *reference;
        change(reference);
        let is = *reference;
        for (counter, matches) in [
            (
                &mut self.unjoined,
                Reference::is_unjoined as fn(&Reference) -> bool,
            ),
            (&mut self.withheld, |reference| {
                reference.notice == Notice::Withheld
            }),
        ] {
            match (matches(&was), matches(&is)) {
                (false, true) => counter.increment(),
                (true, false) => counter.decrement(),
                _ => {}
            }
        }
        if is.notice == Notice::Pending {
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
        self.change(slot, |reference| *reference = FREE);
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
            self.change(slot, |reference| {
                reference.state = HoldState::Held;
                reference.notice = Notice::Confirmed;
            });
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

    /// Records that the member has the open file: one that was sent to it has arrived. Returns
    /// false if the table is full.
    pub(super) fn accept(&mut self, open_file: u64, vmid: Vmid) -> bool {
        if self.find_held(open_file, vmid).is_some()
            && let Some(arrived) = self.find_first_sent(open_file, vmid)
        {
            self.remove(arrived);
        }
        self.hold(open_file, vmid)
    }

    /// Transfers the open file from the member `by` to a process that inherits it, or to a member
    /// to which it is sent. `by` holds the open file from now on if it did not before. Returns
    /// false, and changes nothing, if the table is full, or the open file is in transit to the member
    /// [`MAX_IN_TRANSIT`] times.
    pub(super) fn transfer(&mut self, open_file: u64, by: Vmid, to: Vmid, inherits: bool) -> bool {
        let is_new = to != by && !(inherits && self.find_held(open_file, to).is_some());
        if is_new && !inherits && self.is_in_transit_too_often(open_file, to) {
            return false;
        }
        let is_held = self.find_from(open_file, by, 0).is_some();
        let needed = usize::from(is_new).plus(usize::from(!is_held));
        if self.slots.remaining() < needed
            || needed > 0 && !self.quotas.may_grow(by, OPEN_FILES, needed)
            || !self.hold(open_file, by)
        {
            return false;
        }
        let state = if inherits {
            HoldState::Inherited {
                by,
                has_joined: false,
            }
        } else {
            HoldState::Sent { by }
        };
        !is_new
            || self.add(
                by,
                Reference {
                    open_file,
                    vmid: Some(to),
                    state,
                    notice: Notice::Withheld,
                    ..FREE
                },
            )
    }

    /// Whether the open file is in transit to the member so often that it is not sent once more.
    fn is_in_transit_too_often(&self, open_file: u64, to: Vmid) -> bool {
        let first = self.find_first_sent(open_file, to);
        first.is_some_and(|first| self.at(first).in_transit >= MAX_IN_TRANSIT)
    }

    /// Withdraws a transfer from `by` to `to` that failed. If it was the last reference to the open
    /// file, that is closed: its locks are still to be released.
    pub(super) fn retract(&mut self, open_file: u64, by: Vmid, to: Vmid) {
        let inherited = HoldState::Inherited {
            by,
            has_joined: false,
        };
        let held = self.find_held(open_file, to);
        let transferred = held
            .filter(|slot| self.at(*slot).state == inherited)
            .or_else(|| self.find_sent(open_file, to, by.get()));
        let Some(slot) = transferred else { return };
        if self.is_last(slot) {
            self.remove_from_index(slot);
            self.change(slot, |reference| {
                reference.state = HoldState::Closing;
                reference.notice = Notice::Confirmed;
            });
            self.insert_into_index(slot);
            self.list_closed(slot);
        } else {
            self.remove(slot);
        }
    }

    /// Records that the member has closed the open file, or, if it has not reported it yet, one
    /// that was sent to it. If a request of the member still waits for a lock of the open file, the
    /// reference stays until the request ends. Returns whether it was the last reference to the
    /// open file.
    pub(super) fn close(&mut self, open_file: u64, vmid: Vmid) -> bool {
        if let Some(slot) = self.find_open(open_file, vmid)
            && self.at(slot).requests > 0
        {
            self.change(slot, |reference| reference.state = HoldState::Closing);
            return false;
        }
        let slot = self.find_removed_by_close(open_file, vmid);
        slot.is_some_and(|slot| self.remove(slot))
    }

    fn find_open(&self, open_file: u64, vmid: Vmid) -> Option<u32> {
        let held = self.find_held(open_file, vmid);
        held.filter(|slot| !self.at(*slot).is_closing())
    }

    /// The reference that a close removes.
    fn find_removed_by_close(&self, open_file: u64, vmid: Vmid) -> Option<u32> {
        let held = self.find_open(open_file, vmid);
        let slot = held.or_else(|| self.find_first_sent(open_file, vmid))?;
        Some(slot).filter(|slot| self.at(*slot).requests == 0)
    }

    /// Whether a close removes the last reference to the open file.
    pub(super) fn is_last_holder(&self, open_file: u64, vmid: Vmid) -> bool {
        let slot = self.find_removed_by_close(open_file, vmid);
        slot.is_some_and(|slot| self.is_last(slot))
    }

    /// Whether the reference is the last one to its open file.
    pub(super) fn is_last(&self, slot: u32) -> bool {
        let open_file = self.at(slot).open_file;
        self.find_any(open_file) == Some(slot) && self.next(slot).is_none()
    }

    /// The open file of a reference that ends with the member: its own, or one that a child which
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

    /// Records that a request of the member, which holds the open file, waits for a lock of it.
    pub(super) fn request_waits(&mut self, open_file: u64, vmid: Vmid) {
        if let Some(slot) = self.find_held(open_file, vmid) {
            self.change(slot, |reference| {
                reference.requests.increment();
            });
        }
    }

    /// Records that such a request has ended.
    pub(super) fn request_ended(&mut self, open_file: u64, vmid: Vmid) {
        let Some(slot) = self.find_held(open_file, vmid) else {
            return;
        };
        self.change(slot, |reference| {
            reference.requests.decrement();
        });
        let reference = *self.at(slot);
        if reference.requests == 0 && reference.is_closing() {
            self.list_closed(slot);
        }
    }

    /// Adds a reference that is closed to the list of those whose locks are to be released.
    pub(super) fn list_closed(&mut self, slot: u32) {
        if !self.at(slot).is_listed
            && let Some(free) = self.closed.get_mut(self.listed)
        {
            *free = slot;
            self.listed.increment();
            self.change(slot, |reference| reference.is_listed = true);
        }
    }

    /// Takes a reference that is closed, and without waiting requests, out of the list. Returns its
    /// slot and its open file.
    pub(super) fn take_closed(&mut self) -> Option<(u32, u64)> {
        loop {
            self.listed = self.listed.checked_sub(1)?;
            let slot = *self.closed.get(self.listed)?;
            self.change(slot, |reference| reference.is_listed = false);
            let reference = *self.at(slot);
            // The member may wait for another lock by now, or use the open file again.
            if reference.requests == 0 && reference.is_closing() {
                return Some((slot, reference.open_file));
            }
        }
    }

    /// Whether the locks of a closed open file are still to be released.
    pub(super) fn has_closed(&self) -> bool {
        self.listed > 0
    }

    /// Records of a portion of the references that the member's process has joined: the open files that it
    /// has inherited are its own; and, if `allows_notices`, that it may get notices. Returns what is left to
    /// do.
    pub(super) fn confirm_portion(&mut self, vmid: Vmid, left: u64, allows_notices: bool) -> u64 {
        if self.unjoined == 0 && (self.withheld == 0 || !allows_notices) {
            return 0;
        }
        let mut portion = Portion::new();
        // Upward, since notices are sent in this order.
        for slot in u64::MAX.minus(left)..self.slots.high_water().into() {
            if !portion.take_slot() {
                return u64::MAX.minus(slot);
            }
            let slot = u32::try_from(slot).or_broken(u32::MAX);
            if self.at(slot).vmid != Some(vmid) {
                continue;
            }
            self.change(slot, |reference| {
                if let HoldState::Inherited { has_joined, .. } = &mut reference.state {
                    *has_joined = true;
                }
                if allows_notices && reference.notice == Notice::Withheld {
                    reference.notice = Notice::Pending;
                }
            });
        }
        0
    }

    /// Whether the counters agree with the table. It is slow, and meant for tests.
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
            && self.withheld == number(|reference| reference.notice == Notice::Withheld)
            && self.outbox.check_invariants(|slot| {
                let reference = self.references.get(slot as usize);
                reference.is_some_and(|reference| reference.notice == Notice::Pending)
            })
            && self.slots.in_use() == number(|reference| reference.vmid.is_some())
            && (0..self.slots.high_water()).all(|slot| self.counts_transfers(slot))
    }

    /// Whether the number of references in transit is right, if the one in the slot is the first of them.
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

fn reference_in<'t>(references: &'t Table<'_, Reference>, slot: u32) -> &'t Reference {
    references.get(slot as usize).unwrap_or(&FREE)
}
