//! Log messages for the facades `log`, `tracing` and `defmt`, and for a library OS in C. Without those
//! features there are none.
//!
//! A logger is the embedder's code, so nothing is logged while another thread may spin for a lock.

use crate::invariant::{Count, OrBroken};

/// Logs an event, at a level named as the facades name it.
macro_rules! log_event {
    ($level:ident, $($args:tt)+) => {{
        #[cfg(feature = "log")]
        log::$level!(target: "libos_ipc", $($args)+);
        #[cfg(feature = "tracing")]
        tracing::$level!(target: "libos_ipc", $($args)+);
        // The types of the arguments have `Display` only: the text is formatted on the device.
        #[cfg(feature = "defmt")]
        defmt::$level!("{}", defmt::Display2Format(&format_args!($($args)+)));
        #[cfg(feature = "capi")]
        $crate::log::c::$level(format_args!($($args)+));
        #[cfg(not(any(feature = "log", feature = "tracing", feature = "defmt", feature = "capi")))]
        let _ = format_args!($($args)+);
    }};
}

pub(crate) use log_event;

/// A text in a message. `Display` of `str` pads texts, which takes a KiB of code.
pub(crate) struct Text<'t>(pub(crate) &'t str);

impl core::fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.0)
    }
}

/// A number in a message, without the code for padding, either.
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

/// The sink of log messages in a library OS in C, which the C API sets.
#[cfg(feature = "capi")]
pub(crate) mod c {
    use core::fmt::Arguments;

    use crate::store::Once;

    /// It gets a level (0 error, 1 warning, 2 debug) and the text. Nothing is logged before it is
    /// set.
    pub(crate) static SINK: Once<fn(u32, Arguments<'_>)> = Once::new();

    #[inline(never)]
    fn send(level: u32, text: Arguments<'_>) {
        if let Some(sink) = SINK.get() {
            sink(level, text);
        }
    }

    pub(crate) fn error(text: Arguments<'_>) {
        send(0, text);
    }

    pub(crate) fn warn(text: Arguments<'_>) {
        send(1, text);
    }

    pub(crate) fn debug(text: Arguments<'_>) {
        send(2, text);
    }
}
