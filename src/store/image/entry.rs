//! The bytes of the entries of tables: all numbers in little-endian order, without padding between them.

use super::Malformed;
use crate::error::Errno;
use crate::store::{Payer, copy, total};
use crate::{Pid, Vmid};

/// Writes an entry to a place that is as long as the longest entry.
pub(crate) struct Writer<'b> {
    rest: &'b mut [u8],
}

impl<'b> Writer<'b> {
    pub(super) fn new(place: &'b mut [u8]) -> Self {
        Writer { rest: place }
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
pub(crate) struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    pub(super) fn new(place: &'b [u8]) -> Self {
        Reader { rest: place }
    }

    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*bytes)
    }
}

/// A value in an image.
pub(crate) trait Entry: Sized {
    /// The length of its longest bytes.
    const SIZE: usize;

    fn save(&self, to: &mut Writer<'_>);

    /// # Errors
    /// [`Malformed`] for bytes that no value has.
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed>;
}

/// Returns the size of a field.
pub(crate) const fn field_size<S, T: Entry>(_field: fn(&S) -> &T) -> usize {
    T::SIZE
}

/// Implements [`Entry`] for a struct, all of whose fields are named.
macro_rules! entry {
    ($type:ty { $($field:ident),* $(,)? }) => {
        impl $crate::store::Entry for $type {
            const SIZE: usize = $crate::store::total!(
                0_usize $(, $crate::store::field_size::<Self, _>(|of| &of.$field))*
            );

            fn save(&self, to: &mut $crate::store::Writer<'_>) {
                let Self { $($field),* } = self;
                $($crate::store::Entry::save($field, to);)*
            }

            fn load(
                from: &mut $crate::store::Reader<'_>,
            ) -> Result<Self, $crate::store::Malformed> {
                Ok(Self { $($field: $crate::store::Entry::load(from)?),* })
            }
        }
    };
}

/// Implements [`Entry`] for an enum whose variants have no fields: the byte of each is named.
macro_rules! codes {
    ($type:ident { $($variant:ident = $code:literal),* $(,)? }) => {
        impl $crate::store::Entry for $type {
            const SIZE: usize = 1;

            fn save(&self, to: &mut $crate::store::Writer<'_>) {
                to.put(&[match self { $($type::$variant => $code),* }]);
            }

            fn load(
                from: &mut $crate::store::Reader<'_>,
            ) -> Result<Self, $crate::store::Malformed> {
                match from.take::<1>()? {
                    $([$code] => Ok($type::$variant),)*
                    _ => Err($crate::store::Malformed),
                }
            }
        }
    };
}

pub(crate) use {codes, entry};

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Entry for $number {
            const SIZE: usize = size_of::<$number>();

            fn save(&self, to: &mut Writer<'_>) {
                to.put(&self.to_le_bytes());
            }

            fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
                from.take().map(<$number>::from_le_bytes)
            }
        }
    )*};
}

numbers!(u8, u16, u32, u64, i32);

impl Entry for usize {
    const SIZE: usize = 8;

    fn save(&self, to: &mut Writer<'_>) {
        (*self as u64).save(to);
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        usize::try_from(u64::load(from)?).map_err(|_| Malformed)
    }
}

impl Entry for bool {
    const SIZE: usize = 1;

    fn save(&self, to: &mut Writer<'_>) {
        u8::from(*self).save(to);
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match u8::load(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }
}

impl Entry for Vmid {
    const SIZE: usize = 4;

    fn save(&self, to: &mut Writer<'_>) {
        self.get().save(to);
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Vmid::new(u32::load(from)?).ok_or(Malformed)
    }
}

impl Entry for Pid {
    const SIZE: usize = 4;

    fn save(&self, to: &mut Writer<'_>) {
        self.get().save(to);
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Pid::new(u32::load(from)?).ok_or(Malformed)
    }
}

impl Entry for Errno {
    const SIZE: usize = 4;

    fn save(&self, to: &mut Writer<'_>) {
        self.get().save(to);
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Errno::new(i32::load(from)?).ok_or(Malformed)
    }
}

impl Entry for Payer {
    const SIZE: usize = 4;

    fn save(&self, to: &mut Writer<'_>) {
        self.account().save(to);
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        u32::load(from).map(Payer::of_account)
    }
}

impl Entry for () {
    const SIZE: usize = 0;

    fn save(&self, _: &mut Writer<'_>) {}

    fn load(_: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(())
    }
}

impl<T: Entry> Entry for Option<T> {
    const SIZE: usize = total!(1_usize, T::SIZE);

    fn save(&self, to: &mut Writer<'_>) {
        self.is_some().save(to);
        if let Some(value) = self {
            value.save(to);
        }
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        bool::load(from)?.then(|| T::load(from)).transpose()
    }
}

impl<T: Entry, E: Entry> Entry for Result<T, E> {
    const SIZE: usize = total!(1_usize, if T::SIZE > E::SIZE { T::SIZE } else { E::SIZE });

    fn save(&self, to: &mut Writer<'_>) {
        self.is_ok().save(to);
        match self {
            Ok(value) => value.save(to),
            Err(error) => error.save(to),
        }
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(if bool::load(from)? {
            Ok(T::load(from)?)
        } else {
            Err(E::load(from)?)
        })
    }
}

impl<A: Entry, B: Entry> Entry for (A, B) {
    const SIZE: usize = total!(A::SIZE, B::SIZE);

    fn save(&self, to: &mut Writer<'_>) {
        self.0.save(to);
        self.1.save(to);
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok((A::load(from)?, B::load(from)?))
    }
}

impl<T: Entry + Copy, const N: usize> Entry for [T; N] {
    const SIZE: usize = T::SIZE.wrapping_mul(N);

    fn save(&self, to: &mut Writer<'_>) {
        for value in self {
            value.save(to);
        }
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut values = [T::load(from)?; N];
        for value in values.iter_mut().skip(1) {
            *value = T::load(from)?;
        }
        Ok(values)
    }
}
