//! What is worth a person's attention, for the `log` facade; nothing without that feature.
//!
//! A logger is the embedder's code: nothing is logged while another thread may spin for a lock.

/// Logs an event, at a level named as the facade names it.
macro_rules! event {
    ($level:ident, $($said:tt)+) => {{
        #[cfg(feature = "log")]
        log::$level!(target: "libos_ipc", $($said)+);
        #[cfg(not(feature = "log"))]
        let _ = format_args!($($said)+);
    }};
}

pub(crate) use event;
