//! Loads one slice of an image.

use super::Malformed;
use super::entry::{Entry, Reader};
use super::saver::{HEAD, checksum};
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
    /// Makes one that loads the slice.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes have no head, or another checksum.
    pub(crate) fn new(slice: &'b [u8]) -> Result<Self, Malformed> {
        let (head, body) = slice.split_at_checked(HEAD).ok_or(Malformed)?;
        let (sum, words) = head.split_first_chunk::<8>().ok_or(Malformed)?;
        let mut words = Reader::new(words);
        let rest = slice.get(8..).ok_or(Malformed)?;
        if u64::from_le_bytes(*sum) != checksum(rest) {
            return Err(Malformed);
        }
        let part = u32::load(&mut words)?;
        let mut place = || u32::load(&mut words).map(|number| number as usize);
        Ok(Loader {
            part,
            first: place()?,
            offset: place()?,
            count: place()?,
            body,
            at: 0,
        })
    }

    /// # Errors
    /// [`Malformed`] if the machine has no such part.
    pub(crate) fn finish(&self) -> Result<(), Malformed> {
        if self.part < self.at {
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    fn enters(&mut self) -> bool {
        let at = self.at;
        self.at.increment();
        at == self.part
    }

    /// Visits a part with `capacity` entries of at most that size.
    ///
    /// # Errors
    /// [`Malformed`] if the slice does not fit to the part, or `load` refuses an entry.
    #[inline(never)]
    pub(crate) fn rows(
        &mut self,
        size: usize,
        capacity: usize,
        load: &mut dyn FnMut(usize, &mut Reader<'_>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        if !self.enters() {
            return Ok(());
        }
        let end = self.first.checked_add(self.count).ok_or(Malformed)?;
        let length = self.count.checked_mul(size).ok_or(Malformed)?;
        if end > capacity || self.body.len() != length || self.offset != 0 {
            return Err(Malformed);
        }
        let places = self.body.chunks_exact(size.max(1));
        for (index, place) in (self.first..end).zip(places) {
            load(index, &mut Reader::new(place))?;
        }
        Ok(())
    }

    /// Visits a table.
    ///
    /// # Errors
    /// As [`Loader::rows`].
    pub(crate) fn table<T: Entry>(&mut self, table: &mut [T]) -> Result<(), Malformed> {
        self.rows(T::SIZE, table.len(), &mut |index, from| {
            *table.get_mut(index).ok_or(Malformed)? = T::load(from)?;
            Ok(())
        })
    }

    /// Visits a part of byte strings. `get` returns the bytes of one from an offset on, of a given number.
    ///
    /// # Errors
    /// [`Malformed`] if `get` returns none.
    pub(crate) fn bytes<'t>(
        &mut self,
        get: impl FnOnce(usize, usize, usize) -> Option<&'t mut [u8]>,
    ) -> Result<(), Malformed> {
        if !self.enters() {
            return Ok(());
        }
        let to = get(self.first, self.offset, self.count).ok_or(Malformed)?;
        if to.len() != self.body.len() || self.count != self.body.len() {
            return Err(Malformed);
        }
        copy(to, self.body);
        Ok(())
    }
}
