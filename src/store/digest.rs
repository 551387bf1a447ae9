//! Digests of states. Two machines in the same state have the same digest.
//!
//! A digest is kept up to date as the state changes, so that it is available after every operation. There are
//! two ways. A part of the state that is small, or seldom changes, is [`Digested`]: its digest is
//! computed anew when the part may have changed since the last time. The entries of a large table
//! that changes often add up to a [`Sum`].

use core::cell::Cell;
use core::hash::{Hash, Hasher};
use core::ops::{Deref, DerefMut};

use super::hash64;
use crate::invariant::Count;

/// Whether a machine may have a replica, with which it compares digests: in a family with an heir, and in tests. In other
/// builds no digest is kept.
pub(crate) const HAS_REPLICAS: bool = cfg!(any(test, feature = "testing", feature = "succession"));

/// Computes the digest of numbers. It depends neither on addresses nor on the processor's byte
/// order.
pub(crate) struct Digest {
    state: u64,
    /// Digests that are known are computed again.
    recomputes: bool,
}

/// The state of an empty digest (the fraction of the golden ratio).
const START: u64 = 0x9e37_79b9_7f4a_7c15;

const FACTOR: u64 = 0xd6e8_feb8_6659_fd93;

impl Digest {
    /// Makes an empty digest.
    pub(crate) const fn new() -> Self {
        Digest {
            state: START,
            recomputes: false,
        }
    }

    /// Makes an empty digest that computes everything anew.
    pub(crate) const fn anew() -> Self {
        Digest {
            state: START,
            recomputes: true,
        }
    }

    /// Returns the digest of one value.
    pub(crate) fn of(thing: &impl Hash) -> u64 {
        let mut digest = Digest::new();
        thing.hash(&mut digest);
        hash64(digest.state)
    }

    /// Adds all values and their number.
    pub(crate) fn add_all<'a, T: Hash + 'a>(&mut self, things: impl Iterator<Item = &'a T>) {
        let mut count = 0_usize;
        for thing in things {
            thing.hash(self);
            count.increment();
        }
        self.write_usize(count);
    }
}

impl Hasher for Digest {
    fn finish(&self) -> u64 {
        self.state
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.write_u8(*byte);
        }
        self.write_usize(bytes.len());
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        // The order of the numbers matters.
        let mixed = (self.state ^ number).wrapping_mul(FACTOR);
        self.state = mixed ^ (mixed >> 32);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number.cast_unsigned() as u64);
    }

    fn write_i32(&mut self, number: i32) {
        self.write_u64(number.cast_unsigned().into());
    }
}

/// A part of a state with its digest.
pub(crate) struct Digested<T> {
    part: T,
    /// None if the part may have changed since the digest was computed.
    digest: Cell<Option<u64>>,
}

impl<T> Digested<T> {
    pub(crate) const fn new(part: T) -> Self {
        Digested {
            part,
            digest: Cell::new(None),
        }
    }

    /// Adds the digest of the part. `compute` computes it if it is not known.
    pub(crate) fn digest(&self, digest: &mut Digest, compute: impl FnOnce(&T, &mut Digest)) {
        let known = self
            .digest
            .get()
            .filter(|_| HAS_REPLICAS && !digest.recomputes);
        let of_part = known.unwrap_or_else(|| {
            let mut of_part = Digest {
                state: START,
                ..*digest
            };
            compute(&self.part, &mut of_part);
            if !digest.recomputes {
                self.digest.set(Some(of_part.state));
            }
            of_part.state
        });
        digest.write_u64(of_part);
    }
}

impl<T> Deref for Digested<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.part
    }
}

impl<T> DerefMut for Digested<T> {
    fn deref_mut(&mut self) -> &mut T {
        if HAS_REPLICAS {
            self.digest.set(None);
        }
        &mut self.part
    }
}

/// The sum of the digests of many values in any order. Nothing is computed before the sum is read
/// for the first time.
#[derive(Default)]
pub(crate) struct Sum(Cell<Option<u64>>);

impl Sum {
    /// Adds a value.
    pub(crate) fn add(&self, thing: impl Hash) {
        if HAS_REPLICAS && let Some(sum) = self.0.get() {
            self.0.set(Some(sum.wrapping_add(Digest::of(&thing))));
        }
    }

    /// Removes a value.
    pub(crate) fn subtract(&self, thing: impl Hash) {
        if HAS_REPLICAS && let Some(sum) = self.0.get() {
            self.0.set(Some(sum.wrapping_sub(Digest::of(&thing))));
        }
    }

    /// Adds the sum to `digest`; `things` are all values of the sum.
    pub(crate) fn digest<T: Hash>(&self, digest: &mut Digest, things: impl Iterator<Item = T>) {
        let known = self.0.get().filter(|_| HAS_REPLICAS && !digest.recomputes);
        let sum = known.unwrap_or_else(|| {
            let sum = things.fold(0_u64, |sum, thing| sum.wrapping_add(Digest::of(&thing)));
            if !digest.recomputes {
                self.0.set(Some(sum));
            }
            sum
        });
        digest.write_u64(sum);
    }
}
