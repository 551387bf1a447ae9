//! The value of a queue: a ring of items.

use core::mem::size_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::invariant::OrBroken;
use crate::shared_state::Client;
use crate::store::copy;

/// The header of the value. The items follow it.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(in crate::node) struct Ring {
    /// The largest number of items, and the size of each: all processes must agree.
    pub(super) capacity: u32,
    size: u32,
    /// The place of the first item.
    first: u32,
    length: u32,
}

/// A step on a ring, with the bytes of the item.
pub(in crate::node) enum RingStep<'i> {
    Push(&'i [u8]),
    Pop(&'i mut [u8]),
}

impl RingStep<'_> {
    /// Returns the ring after the step and the place of the item; `None` if the ring is full or
    /// empty.
    pub(super) fn on(&self, mut ring: Ring) -> Option<(Ring, u32)> {
        let first = ring.first;
        let place = match self {
            RingStep::Push(_) => {
                let end = first.checked_add(ring.length)?;
                ring.length = ring.length.checked_add(1)?;
                end.checked_rem(ring.capacity)?
            }
            RingStep::Pop(_) => {
                ring.length = ring.length.checked_sub(1)?;
                ring.first = first.checked_add(1)?.checked_rem(ring.capacity)?;
                first
            }
        };
        (ring.length <= ring.capacity).then_some((ring, place))
    }

    /// Copies the item to its place or from there.
    pub(super) fn copy(&mut self, place: &mut [u8]) {
        match self {
            RingStep::Push(item) => copy(place, item),
            RingStep::Pop(item) => copy(item, place),
        }
    }
}

impl Ring {
    /// Makes a ring without items; `None` if `capacity` is 0, or if the value would be longer than `limit`.
    pub(super) fn new(capacity: u32, size: usize, limit: usize) -> Option<Ring> {
        let size = u32::try_from(size).ok()?;
        let (first, length) = (0, 0);
        let ring = Ring {
            capacity,
            size,
            first,
            length,
        };
        (capacity > 0 && ring.offset(capacity)? <= limit).then_some(ring)
    }

    /// Returns the ring in a value, which other processes have written; `self`, which is empty, if no process has
    /// written the value yet. `None` if the value is that of a queue with another capacity or item size.
    pub(super) fn read(self, value: &[u8]) -> Option<Ring> {
        if value.is_empty() {
            return Some(self);
        }
        let (ring, _) = Ring::read_from_prefix(value).ok()?;
        let is_same = ring.capacity == self.capacity && ring.size == self.size;
        let is_whole = self.offset(self.capacity) == Some(value.len());
        let is_sound = ring.first < ring.capacity && ring.length <= ring.capacity;
        (is_same && is_whole && is_sound).then_some(ring)
    }

    /// Returns the offset of a place in the value.
    fn offset(self, place: u32) -> Option<usize> {
        let items = usize::try_from(place.checked_mul(self.size)?).ok()?;
        items.checked_add(size_of::<Ring>())
    }

    /// Writes itself to the value, and returns the bytes of the item at that place.
    pub(super) fn write<'c>(self, client: &'c mut Client<'_>, place: u32) -> &'c mut [u8] {
        let whole = self.offset(self.capacity).or_broken(0);
        let value = client.data_mut(whole);
        copy(value, self.as_bytes());
        let at = self.offset(place).or_broken(whole);
        let items = value.get_mut(at..).or_broken(&mut []);
        items.get_mut(..self.size as usize).or_broken(&mut [])
    }
}
