//! A digest of a state: the same for two machines that are in the same state.

use core::hash::{Hash, Hasher};

use super::hash64;

/// Takes in numbers and gives their digest. It depends on no address, and not on how the processor
/// stores numbers.
pub(crate) struct Digest(u64);

impl Digest {
    pub(crate) const fn new() -> Self {
        Digest(0)
    }

    /// Takes in all of them, and how many there are.
    pub(crate) fn add_all<'a, T: Hash + 'a>(&mut self, things: impl Iterator<Item = &'a T>) {
        let mut count = 0_usize;
        for thing in things {
            thing.hash(self);
            count = count.saturating_add(1);
        }
        self.write_usize(count);
    }
}

impl Hasher for Digest {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u8(*byte);
        }
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
        // The order counts.
        self.0 = hash64(self.0.rotate_left(1) ^ number);
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
