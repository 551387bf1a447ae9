//! What is worth a person's attention, for the `log` facade and for a library OS in C;
//! nothing without those features.
//!
//! A logger is the embedder's code: nothing is logged while another thread may spin for a lock.

/// Logs an event, at a level named as the facade names it.
macro_rules! event {
    ($level:ident, $($said:tt)+) => {{
        #[cfg(feature = "log")]
        log::$level!(target: "libos_ipc", $($said)+);
        #[cfg(feature = "capi")]
        $crate::capi::log::$level(format_args!($($said)+));
        #[cfg(not(any(feature = "log", feature = "capi")))]
        let _ = format_args!($($said)+);
    }};
}

pub(crate) use event;
