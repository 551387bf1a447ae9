//! Numbered places of a table: which are free, and which share a hash.

use crate::error::Error;
use crate::store::{Arena, Table, bytes_for};

/// No place.
pub(crate) const NONE: u32 = u32::MAX;

/// Which of a fixed number of places are free. Places that were never used are not in the list,
/// so their memory stays untouched.
pub(crate) struct Places<'m> {
    next_free: Table<'m, u32>,
    free: u32,
    fresh: usize,
    taken: usize,
    most: usize,
}

impl<'m> Places<'m> {
    pub(crate) const fn bytes(capacity: usize) -> usize {
        bytes_for::<u32>(capacity)
    }

    pub(crate) fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        Ok(Places {
            next_free: arena.table(capacity, |_| Ok(NONE))?,
            free: NONE,
            fresh: 0,
            taken: 0,
            most: 0,
        })
    }

    pub(crate) fn take(&mut self) -> Option<u32> {
        let place = if let Some(next) = self.next_free.get(self.free as usize) {
            let place = self.free;
            self.free = *next;
            place
        } else {
            if self.fresh >= self.next_free.len() {
                return None;
            }
            let place = u32::try_from(self.fresh).ok()?;
            self.fresh = self.fresh.saturating_add(1);
            place
        };
        self.taken = self.taken.saturating_add(1);
        self.most = self.most.max(self.taken);
        Some(place)
    }

    pub(crate) fn give(&mut self, place: u32) {
        if let Some(next) = self.next_free.get_mut(place as usize) {
            *next = self.free;
            self.free = place;
            self.taken = self.taken.saturating_sub(1);
        }
    }

    /// How many more can be taken.
    pub(crate) fn left(&self) -> usize {
        self.next_free.len().saturating_sub(self.taken)
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// One beyond the highest place that was ever taken.
    pub(crate) fn used(&self) -> u32 {
        u32::try_from(self.fresh).unwrap_or(NONE)
    }
}

/// Places found by a hash that is well [mixed](mix): a chain for each of a fixed number of buckets.
pub(crate) struct Buckets<'m> {
    heads: Table<'m, u32>,
    next: Table<'m, u32>,
}

impl<'m> Buckets<'m> {
    pub(crate) const fn bytes(capacity: usize) -> usize {
        bytes_for::<u32>(capacity).saturating_mul(2)
    }

    pub(crate) fn new(arena: &mut Arena<'m>, capacity: usize) -> Result<Self, Error> {
        Ok(Buckets {
            heads: arena.table(capacity, |_| Ok(NONE))?,
            next: arena.table(capacity, |_| Ok(NONE))?,
        })
    }

    /// The hash's upper bits choose the bucket, as a fraction of all: a division would take several
    /// times as long.
    #[inline]
    fn bucket(&self, hash: u64) -> usize {
        let bucket = u128::from(hash).wrapping_mul(self.heads.len() as u128) >> 64;
        usize::try_from(bucket).unwrap_or(0)
    }

    /// The first place of the hash's chain.
    pub(crate) fn first(&self, hash: u64) -> u32 {
        self.heads.get(self.bucket(hash)).copied().unwrap_or(NONE)
    }

    /// The place behind `place` in its chain.
    pub(crate) fn after(&self, place: u32) -> u32 {
        self.next.get(place as usize).copied().unwrap_or(NONE)
    }

    /// The first place of the hash's chain that fits.
    pub(crate) fn find(&self, hash: u64, fits: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = self.first(hash);
        while at != NONE {
            if fits(at) {
                return Some(at);
            }
            at = self.after(at);
        }
        None
    }

    pub(crate) fn insert(&mut self, hash: u64, place: u32) {
        let bucket = self.bucket(hash);
        if let (Some(head), Some(next)) = (
            self.heads.get_mut(bucket),
            self.next.get_mut(place as usize),
        ) {
            *next = *head;
            *head = place;
        }
    }

    pub(crate) fn remove(&mut self, hash: u64, place: u32) {
        let behind = self.after(place);
        let bucket = self.bucket(hash);
        let Some(head) = self.heads.get_mut(bucket) else {
            return;
        };
        if *head == place {
            *head = behind;
            return;
        }
        let mut at = *head;
        while at != NONE {
            let next = self.after(at);
            if next == place {
                if let Some(next) = self.next.get_mut(at as usize) {
                    *next = behind;
                }
                return;
            }
            at = next;
        }
    }
}

/// Spreads the bits of a number (the finaliser of `SplitMix64`).
pub(crate) const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
