//! The image of a machine: the content of its tables as bytes, in slices of any size from [`SMALLEST_SLICE`] on.
//!
//! A machine is a list of *parts*, which have numbers in the order in which [`Image::save`] visits them. A part is a
//! table, or a group of plain fields, which counts as a table with one entry. Entries of one table have one size,
//! so a slice has always the same place in its table: it can be saved and loaded again when it has changed. Tables that other
//! fields determine, such as indexes, are left out, and computed anew when all slices are loaded.

mod entry;
mod loader;
mod saver;

pub(crate) use entry::{ImageEntry, ImageReader, ImageWriter, codes, entry, field_size};
pub(crate) use loader::Loader;
pub use saver::ImageCursor;
pub(crate) use saver::{Saver, seal, stored_checksum};

/// A slice has at least this length, so that the longest entry fits.
pub const SMALLEST_SLICE: usize = 2048;

/// The error for bytes that are no image, or no image of a machine with these capacities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedImage;

impl core::fmt::Display for MalformedImage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("these bytes are no part of a leader's image")
    }
}

impl core::error::Error for MalformedImage {}

/// A machine that has an image.
pub(crate) trait Image {
    /// Shows all parts to `out`, which saves one slice.
    fn save(&self, out: &mut Saver<'_>);

    /// Shows all parts to `from`, which loads one slice.
    ///
    /// # Errors
    /// [`MalformedImage`] for bytes that no entry has.
    fn load(&mut self, from: &mut Loader<'_>) -> Result<(), MalformedImage>;

    /// Empties the places of the tables that were never used.
    fn clear_unused(&mut self);
}

/// Implements [`Image`] for a struct. It names all fields, so that a new one does not compile before it is named:
/// `fields` are saved as one part, `tables` each as one, with the number of entries that were ever used and an unused
/// entry, and `parts` are images of their own. `omitted` fields are capacities, or are computed from the others. The image is
/// refused unless `valid` is true: it checks that no count is greater than its table.
macro_rules! image {
    ($type:ty {
        $(fields { $($field:ident),* $(,)? })?
        $(tables { $($table:ident: $used:expr => $unused:expr),* $(,)? })?
        $(parts { $($part:ident),* $(,)? })?
        $(omitted { $($omitted:ident),* $(,)? })?
        $(valid { $valid:expr })?
    }) => {
        impl $crate::store::Image for $type {
            fn save(&self, out: &mut $crate::store::Saver<'_>) {
                let Self { $($($field,)*)? $($($table,)*)? $($($part,)*)? $($($omitted: _,)*)? } = self;
                $(
                    let size = $crate::store::total!(
                        0_usize $(, $crate::store::field_size::<Self, _>(|of| &of.$field))*
                    );
                    out.entries(size, (1, 1), &|_, to| {
                        $($crate::store::ImageEntry::save($field, to);)*
                    });
                )?
                $($(out.table($table, $used);)*)?
                $($($crate::store::Image::save($part, out);)*)?
            }

            fn load(
                &mut self,
                from: &mut $crate::store::Loader<'_>,
            ) -> Result<(), $crate::store::MalformedImage> {
                $(
                    let size = $crate::store::total!(
                        0_usize $(, $crate::store::field_size::<Self, _>(|of| &of.$field))*
                    );
                )?
                let Self { $($($field,)*)? $($($table,)*)? $($($part,)*)? $($($omitted: _,)*)? } = self;
                $(from.entries(size, 1, &mut |_, from| {
                    $(*$field = $crate::store::ImageEntry::load(from)?;)*
                    Ok(())
                })?;)?
                $($(from.table($table)?;)*)?
                $($($crate::store::Image::load($part, from)?;)*)?
                $(if !$valid {
                    return Err($crate::store::MalformedImage);
                })?
                Ok(())
            }

            #[allow(unused_variables, reason = "some have no tables")]
            fn clear_unused(&mut self) {
                let Self { $($($field,)*)? $($($table,)*)? $($($part,)*)? $($($omitted: _,)*)? } = self;
                $($(
                    let used = $used;
                    if let Some(unused) = $table.get_mut(used..) {
                        unused.fill($unused);
                    }
                )*)?
                $($($crate::store::Image::clear_unused($part);)*)?
            }
        }
    };
}

pub(crate) use image;

impl<T: Image> Image for super::Digested<T> {
    fn save(&self, out: &mut Saver<'_>) {
        (**self).save(out);
    }

    fn load(&mut self, from: &mut Loader<'_>) -> Result<(), MalformedImage> {
        (**self).load(from)
    }

    fn clear_unused(&mut self) {
        (**self).clear_unused();
    }
}

/// Follows a list of slots from `first` on, and returns its length. `None` if the list has more than `most` slots, as
/// a circular one has, or if `next` is `None` for one of them.
pub(crate) fn list_length(
    first: u32,
    most: usize,
    next: impl Fn(u32) -> Option<u32>,
) -> Option<usize> {
    let (mut at, mut left) = (first, most);
    while at != super::NONE {
        left = left.checked_sub(1)?;
        at = next(at)?;
    }
    most.checked_sub(left)
}
