//! Log messages for the facades `log`, `tracing` and `defmt`, and for a library OS in C. Without those
//! features there are none.
//!
//! A logger is the embedder's code, so nothing is logged while another thread may spin for a lock.

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

/// The sink of log messages in a library OS in C, which the C API sets.
#[cfg(feature = "capi")]
pub(crate) mod c {
    use core::fmt::Arguments;

    use crate::store::Once;

    /// The function gets a level (0 error, 1 warning, 2 debug) and the text. Nothing is logged
    /// before it is set.
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
