//! The bytes of the entries of tables: all numbers in little-endian order, without padding between them.

use super::MalformedImage;
use crate::error::Errno;
use crate::store::{Payer, copy, total};
use crate::{Pid, Vmid};

/// Writes an entry to a place that is as long as the longest entry.
pub(crate) struct ImageWriter<'b> {
    rest: &'b mut [u8],
}

impl<'b> ImageWriter<'b> {
    pub(super) fn new(place: &'b mut [u8]) -> Self {
        ImageWriter { rest: place }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        let rest = core::mem::take(&mut self.rest);
        if let Some((place, rest)) = rest.split_at_mut_checked(bytes.len()) {
            copy(place, bytes);
            self.rest = rest;
        }
    }
}

/// Reads an entry.
pub(crate) struct ImageReader<'b> {
    rest: &'b [u8],
}

impl<'b> ImageReader<'b> {
    pub(super) fn new(place: &'b [u8]) -> Self {
        ImageReader { rest: place }
    }

    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], MalformedImage> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(MalformedImage)?;
        self.rest = rest;
        Ok(*bytes)
    }
}

/// A value in an image.
pub(crate) trait ImageEntry: Sized {
    /// The length of its longest bytes.
    const SIZE: usize;

    fn save(&self, to: &mut ImageWriter<'_>);

    /// # Errors
    /// [`MalformedImage`] for bytes that no value has.
    fn load(from: &mut ImageReader<'_>) -> Result<Self, MalformedImage>;
}

/// Returns the size of a field.
pub(crate) const fn field_size<S, T: ImageEntry>(_field: fn(&S) -> &T) -> usize {
    T::SIZE
}

/// Implements [`ImageEntry`] for a struct, all of whose fields are named.
macro_rules! entry {
    ($type:ty { $($field:ident),* $(,)? }) => {
        impl $crate::store::ImageEntry for $type {
            const SIZE: usize = $crate::store::total!(
                0_usize $(, $crate::store::field_size::<Self, _>(|of| &of.$field))*
            );

            fn save(&self, to: &mut $crate::store::ImageWriter<'_>) {
                let Self { $($field),* } = self;
                $($crate::store::ImageEntry::save($field, to);)*
            }

            fn load(
                from: &mut $crate::store::ImageReader<'_>,
            ) -> Result<Self, $crate::store::MalformedImage> {
                Ok(Self { $($field: $crate::store::ImageEntry::load(from)?),* })
            }
        }
    };
}

/// Implements [`ImageEntry`] for an enum whose variants have no fields: the byte of each is named.
macro_rules! codes {
    ($type:ident { $($variant:ident = $code:literal),* $(,)? }) => {
        impl $crate::store::ImageEntry for $type {
            const SIZE: usize = 1;

            fn save(&self, to: &mut $crate::store::ImageWriter<'_>) {
                to.put(&[match self { $($type::$variant => $code),* }]);
            }

            fn load(
                from: &mut $crate::store::ImageReader<'_>,
            ) -> Result<Self, $crate::store::MalformedImage> {
                match from.take::<1>()? {
                    $([$code] => Ok($type::$variant),)*
                    _ => Err($crate::store::MalformedImage),
                }
            }
        }
    };
}

pub(crate) use {codes, entry};

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl ImageEntry for $number {
            const SIZE: usize = size_of::<$number>();

            fn save(&self, to: &mut ImageWriter<'_>) {
                to.put(&self.to_le_bytes());
            }

            fn load(from: &mut ImageReader<'_>) -> Result<Self, MalformedImage> {
                from.take().map(<$number>::from_le_bytes)
            }
        }
    )*};
}

numbers!(u8, u16, u32, u64, i32);

impl ImageEntry for usize {
    const SIZE: usize = 8;

    fn save(&self, to: &mut ImageWriter<'_>) {
        (*self as u64).save(to);
    }

    fn load(from: &mut ImageReader<'_>) -> Result<Self, MalformedImage> {
        usize::try_from(u64::load(from)?).map_err(|_| MalformedImage)
    }
}

impl ImageEntry for bool {
    const SIZE: usize = 1;

    fn save(&self, to: &mut ImageWriter<'_>) {
        u8::from(*self).save(to);
    }

    fn load(from: &mut ImageReader<'_>) -> Result<Self, MalformedImage> {
        match u8::load(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(MalformedImage),
        }
    }
}

impl ImageEntry for Vmid {
    const SIZE: usize = 4;

    fn save(&self, to: &mut ImageWriter<'_>) {
        self.get().save(to);
    }

    fn load(from: &mut ImageReader<'_>) -> Result<Self, MalformedImage> {
        Vmid::new(u32::load(from)?).ok_or(MalformedImage)
    }
}

impl ImageEntry for Pid {
    const SIZE: usize = 4;

    fn save(&self, to: &mut ImageWriter<'_>) {
        self.get().save(to);
    }

    fn load(from: &mut ImageReader<'_>) -> Result<Self, MalformedImage> {
        Pid::new(u32::load(from)?).ok_or(MalformedImage)
    }
}

impl ImageEntry for Errno {
    const SIZE: usize = 4;

    fn save(&self, to: &mut ImageWriter<'_>) {
        self.get().save(to);
    }

    fn load(from: &mut ImageReader<'_>) -> Result<Self, MalformedImage> {
        Errno::new(i32::load(from)?).ok_or(MalformedImage)
    }
}

impl ImageEntry for Payer {
    const SIZE: usize = 4;

    fn save(&self, to: &mut ImageWriter<'_>) {
        self.account().save(to);
    }

    fn load(from: &mut ImageReader<'_>) -> Result<Self, MalformedImage> {
        u32::load(from).map(Payer::of_account)
    }
}

impl ImageEntry for () {
    const SIZE: usize = 0;

    fn save(&self, _: &mut ImageWriter<'_>) {}

    fn load(_: &mut ImageReader<'_>) -> Result<Self, MalformedImage> {
        Ok(())
    }
}

impl<T: ImageEntry> ImageEntry for Option<T> {
    const SIZE: usize = total!(1_usize, T::SIZE);

    fn save(&self, to: &mut ImageWriter<'_>) {
        self.is_some().save(to);
        if let Some(value) = self {
            value.save(to);
        }
    }

    fn load(from: &mut ImageReader<'_>) -> Result<Self, MalformedImage> {
        bool::load(from)?.then(|| T::load(from)).transpose()
    }
}

impl<T: ImageEntry, E: ImageEntry> ImageEntry for Result<T, E> {
    const SIZE: usize = total!(1_usize, if T::SIZE > E::SIZE { T::SIZE } else { E::SIZE });

    fn save(&self, to: &mut ImageWriter<'_>) {
        self.is_ok().save(to);
        match self {
            Ok(value) => value.save(to),
            Err(error) => error.save(to),
        }
    }

    fn load(from: &mut ImageReader<'_>) -> Result<Self, MalformedImage> {
        Ok(if bool::load(from)? {
            Ok(T::load(from)?)
        } else {
            Err(E::load(from)?)
        })
    }
}

impl<A: ImageEntry, B: ImageEntry> ImageEntry for (A, B) {
    const SIZE: usize = total!(A::SIZE, B::SIZE);

    fn save(&self, to: &mut ImageWriter<'_>) {
        self.0.save(to);
        self.1.save(to);
    }

    fn load(from: &mut ImageReader<'_>) -> Result<Self, MalformedImage> {
        Ok((A::load(from)?, B::load(from)?))
    }
}

impl<T: ImageEntry + Copy, const N: usize> ImageEntry for [T; N] {
    const SIZE: usize = T::SIZE.wrapping_mul(N);

    fn save(&self, to: &mut ImageWriter<'_>) {
        for value in self {
            value.save(to);
        }
    }

    fn load(from: &mut ImageReader<'_>) -> Result<Self, MalformedImage> {
        let mut values = [T::load(from)?; N];
        for value in values.iter_mut().skip(1) {
            *value = T::load(from)?;
        }
        Ok(values)
    }
}
