//! Loads one slice of an image.

use super::MalformedImage;
use super::entry::{ImageEntry, ImageReader};
use super::saver::{HEADER_LENGTH, compute_checksum};
use crate::invariant::Count;
use crate::store::copy;

/// Loads a slice into the part that it names.
pub(crate) struct Loader<'b> {
    part: u32,
    first: usize,
    offset: usize,
    count: usize,
    body: &'b [u8],
    /// The part that is visited next.
    at: u32,
}

impl<'b> Loader<'b> {
    /// Makes a loader of the slice.
    ///
    /// # Errors
    /// [`MalformedImage`] if the bytes are shorter than a header, or have another checksum than it states.
    pub(crate) fn new(slice: &'b [u8]) -> Result<Self, MalformedImage> {
        let (header, body) = slice
            .split_at_checked(HEADER_LENGTH)
            .ok_or(MalformedImage)?;
        let (sum, words) = header.split_first_chunk::<8>().ok_or(MalformedImage)?;
        let mut words = ImageReader::new(words);
        let rest = slice.get(8..).ok_or(MalformedImage)?;
        if u64::from_le_bytes(*sum) != compute_checksum(rest) {
            return Err(MalformedImage);
        }
        let part = u32::load(&mut words)?;
        let mut next = || u32::load(&mut words).map(|number| number as usize);
        Ok(Loader {
            part,
            first: next()?,
            offset: next()?,
            count: next()?,
            body,
            at: 0,
        })
    }

    /// Checks that the slice was loaded.
    ///
    /// # Errors
    /// [`MalformedImage`] if the machine has no such part.
    pub(crate) fn finish(&self) -> Result<(), MalformedImage> {
        if self.part < self.at {
            Ok(())
        } else {
            Err(MalformedImage)
        }
    }

    /// Goes on to the next part. Returns true if the slice belongs to the one that is visited now.
    fn enter_part(&mut self) -> bool {
        let at = self.at;
        self.at.increment();
        at == self.part
    }

    /// Visits a part with `capacity` entries of at most that size.
    ///
    /// # Errors
    /// [`MalformedImage`] if the slice does not fit to the part, or `load` refuses an entry.
    #[inline(never)]
    pub(crate) fn entries(
        &mut self,
        size: usize,
        capacity: usize,
        load: &mut dyn FnMut(usize, &mut ImageReader<'_>) -> Result<(), MalformedImage>,
    ) -> Result<(), MalformedImage> {
        if !self.enter_part() {
            return Ok(());
        }
        let end = self.first.checked_add(self.count).ok_or(MalformedImage)?;
        let length = self.count.checked_mul(size).ok_or(MalformedImage)?;
        if end > capacity || self.body.len() != length || self.offset != 0 {
            return Err(MalformedImage);
        }
        let places = self.body.chunks_exact(size.max(1));
        for (index, place) in (self.first..end).zip(places) {
            load(index, &mut ImageReader::new(place))?;
        }
        Ok(())
    }

    /// Visits a table.
    ///
    /// # Errors
    /// As [`Loader::entries`].
    pub(crate) fn table<T: ImageEntry>(&mut self, table: &mut [T]) -> Result<(), MalformedImage> {
        self.entries(T::SIZE, table.len(), &mut |index, from| {
            *table.get_mut(index).ok_or(MalformedImage)? = T::load(from)?;
            Ok(())
        })
    }

    /// Visits a part of byte strings. `get` returns the bytes of one from an offset on, of a given number.
    ///
    /// # Errors
    /// [`MalformedImage`] if `get` returns none.
    pub(crate) fn bytes<'t>(
        &mut self,
        get: impl FnOnce(usize, usize, usize) -> Option<&'t mut [u8]>,
    ) -> Result<(), MalformedImage> {
        if !self.enter_part() {
            return Ok(());
        }
        let to = get(self.first, self.offset, self.count).ok_or(MalformedImage)?;
        if to.len() != self.body.len() || self.count != self.body.len() {
            return Err(MalformedImage);
        }
        copy(to, self.body);
        Ok(())
    }
}
