//! Saves one slice of an image.

use super::entry::{ImageEntry, ImageWriter};
use super::{MalformedImage, SMALLEST_SLICE};
use crate::invariant::{Count, OrBroken};
use crate::store::{Digest, copy};
use core::hash::Hasher;

/// The place of a slice in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ImageCursor {
    /// The part, and the first entry of the slice.
    pub(super) part: u32,
    pub(super) first: u32,
    /// The first byte, in an entry that is longer than a slice.
    pub(super) offset: u32,
    number: u32,
}

impl ImageCursor {
    /// The first slice.
    pub const START: ImageCursor = ImageCursor {
        part: 0,
        first: 0,
        offset: 0,
        number: 0,
    };

    /// Returns the number of the slice among all slices that the image may ever have, if all have this length.
    pub const fn number(self) -> u32 {
        self.number
    }
}

/// The length of a slice's header: a checksum of what follows, the part, the first entry, the offset in it, and the number
/// of entries or bytes.
pub(super) const HEADER_LENGTH: usize = 24;

/// Computes the checksum of a slice from the bytes after the first eight.
pub(super) fn compute_checksum(bytes: &[u8]) -> u64 {
    let mut digest = Digest::new();
    digest.write(bytes);
    digest.finish()
}

/// Writes the checksum to the start of a slice.
pub(crate) fn seal(slice: &mut [u8]) {
    if let Some((sum, rest)) = slice.split_at_mut_checked(8) {
        copy(sum, &compute_checksum(rest).to_le_bytes());
    }
}

/// Divides by a number of entries, which is not 0.
fn quotient(number: usize, by: usize) -> usize {
    number.checked_div(by).or_broken(0)
}

/// Returns the number of slices for so many entries or bytes, if a slice has at most `most` of them: one if there are none.
fn slices_for(length: usize, most: usize) -> usize {
    let rest = length.max(1).minus(1);
    rest.checked_div(most).or_broken(0).plus(1)
}

/// Saves the slice at a cursor.
pub(crate) struct Saver<'b> {
    cursor: ImageCursor,
    out: &'b mut [u8],
    /// The longest slice, in bytes.
    room: usize,
    /// The length of the slice that was saved, in bytes.
    length: usize,
    /// The part that is visited next, and the number of its first slice.
    part: u32,
    number: usize,
    next: Option<ImageCursor>,
}

impl<'b> Saver<'b> {
    /// Makes a saver of the slice at `cursor`, which it writes to `out`. `None` if `out` is too small.
    pub(crate) fn new(cursor: ImageCursor, out: &'b mut [u8]) -> Option<Self> {
        let room = out.len();
        (room >= SMALLEST_SLICE).then_some(Saver {
            room,
            cursor,
            out,
            length: 0,
            part: 0,
            number: 0,
            next: None,
        })
    }

    /// Makes a saver that only counts the slices, which have at most `room` bytes.
    pub(crate) fn counter(room: usize) -> Saver<'static> {
        Saver {
            cursor: ImageCursor {
                part: u32::MAX,
                ..ImageCursor::START
            },
            out: &mut [],
            room,
            length: 0,
            part: 0,
            number: 0,
            next: None,
        }
    }

    /// Returns the length of the slice, and the cursor of the next one. `None` if there is no such slice.
    pub(crate) fn finish(self) -> Option<(usize, Option<ImageCursor>)> {
        seal(self.out.get_mut(..self.length)?);
        Some((self.length, self.next))
    }

    /// Returns the number of slices of all parts that were visited.
    pub(crate) fn slices(&self) -> usize {
        self.number
    }

    /// Returns how many entries of that size fit in a slice.
    fn entries_per_slice(&self, size: usize) -> usize {
        let room = self.room.minus(HEADER_LENGTH);
        room.checked_div(size).map_or(1, |count| count.max(1))
    }

    fn cursor(&self, first: usize, offset: usize, number: usize) -> ImageCursor {
        let short = |number: usize| u32::try_from(number).or_broken(u32::MAX);
        ImageCursor {
            part: self.part,
            first: short(first),
            offset: short(offset),
            number: short(number),
        }
    }

    /// Writes the header of the slice, and returns the place of its body.
    fn begin(&mut self, count: usize, bytes: usize) -> Option<&mut [u8]> {
        self.length = HEADER_LENGTH.plus(bytes);
        let ImageCursor {
            part,
            first,
            offset,
            ..
        } = self.cursor;
        let count = u32::try_from(count).ok()?;
        let header = [0, 0, part, first, offset, count];
        let (to, rest) = self.out.split_at_mut_checked(HEADER_LENGTH)?;
        for (to, word) in to.chunks_exact_mut(4).zip(header) {
            copy(to, &word.to_le_bytes());
        }
        rest.get_mut(..bytes)
    }

    /// Visits a part with `capacity` entries of at most that size, of which the first `used` are saved.
    #[inline(never)]
    pub(crate) fn entries(
        &mut self,
        size: usize,
        (capacity, used): (usize, usize),
        save: &dyn Fn(usize, &mut ImageWriter<'_>),
    ) {
        let (fitting, number) = (self.entries_per_slice(size), self.number);
        let used = used.min(capacity);
        if self.part == self.cursor.part {
            let first = used.min(self.cursor.first as usize);
            let end = used.min(first.plus(fitting));
            let count = end.minus(first);
            if end < used {
                self.next = Some(self.cursor(end, 0, number.plus(quotient(end, fitting))));
            }
            let places = self.begin(count, count.wrapping_mul(size));
            let places = places.or_broken(&mut []).chunks_exact_mut(size.max(1));
            for (index, place) in (first..end).zip(places) {
                place.fill(0);
                save(index, &mut ImageWriter::new(place));
            }
        } else if self.part > self.cursor.part && self.next.is_none() && used > 0 {
            self.next = Some(self.cursor(0, 0, number));
        }
        self.number = number.plus(slices_for(capacity, fitting));
        self.part.increment();
    }

    /// Visits a table.
    pub(crate) fn table<T: ImageEntry>(&mut self, table: &[T], used: usize) {
        self.entries(T::SIZE, (table.len(), used), &|index, to| {
            if let Some(entry) = table.get(index) {
                entry.save(to);
            }
        });
    }

    /// Visits a part of `capacity` byte strings of at most `longest` bytes, of which the first `used` are saved. A long
    /// one takes several slices.
    pub(crate) fn bytes<'t>(
        &mut self,
        longest: usize,
        (capacity, used): (usize, usize),
        get: &dyn Fn(usize) -> &'t [u8],
    ) {
        let (fitting, number) = (self.entries_per_slice(1), self.number);
        let each = slices_for(longest, fitting);
        let (first, offset) = (self.cursor.first as usize, self.cursor.offset as usize);
        if self.part == self.cursor.part && first < used {
            let left = get(first).get(offset..).map_or(&[][..], |left| left);
            let count = left.len().min(fitting);
            let number_of = |first: usize| number.plus(first.wrapping_mul(each));
            if count < left.len() {
                let end = offset.plus(count);
                let number = number_of(first).plus(quotient(end, fitting));
                self.next = Some(self.cursor(first, end, number));
            } else if first.plus(1) < used {
                self.next = Some(self.cursor(first.plus(1), 0, number_of(first.plus(1))));
            }
            if let Some(to) = self.begin(count, count) {
                copy(to, left);
            }
        } else if self.part > self.cursor.part && self.next.is_none() && used > 0 {
            self.next = Some(self.cursor(0, 0, number));
        }
        self.number = number.plus(capacity.wrapping_mul(each));
        self.part.increment();
    }
}

/// Returns the checksum that a slice begins with. It changes with the slice, but for one change in 2⁶⁴.
pub(crate) fn stored_checksum(slice: &[u8]) -> Result<u64, MalformedImage> {
    let sum = slice.first_chunk().ok_or(MalformedImage)?;
    Ok(u64::from_le_bytes(*sum))
}
