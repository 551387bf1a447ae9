//! Numbers in messages. `Display` of the integers can pad them, which takes a KiB of code.

use crate::invariant::{Count, OrBroken};

/// A number in a message, without the code for padding.
pub(crate) struct Number(pub(crate) u64);

impl core::fmt::Display for Number {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Number(number) = *self;
        if number >= 10 {
            Number(number / 10).fmt(f)?;
        }
        let digit = usize::try_from(number % 10).or_broken(0);
        f.write_str("0123456789".get(digit..=digit).or_broken(""))
    }
}

/// A number in a message that takes at least so many places, with that text in each place before it.
pub(crate) struct Padded(pub(crate) u64, pub(crate) u32, pub(crate) &'static str);

impl core::fmt::Display for Padded {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Padded(number, places, filler) = *self;
        let further_digits = number.checked_ilog10().unwrap_or(0);
        (further_digits.plus(1)..places).try_for_each(|_| f.write_str(filler))?;
        Number(number).fmt(f)
    }
}
