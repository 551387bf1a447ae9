//! The results that a platform may never return: they are refused where they come in.
//!
//! With debug assertions such a result is a panic, which names the rule that the platform breaks. Without them
//! the stream is taken to be broken, the fault is counted ([`Statistics::platform_faults`]), and the worker
//! logs the first one: the process goes on, and no byte outside of a buffer is touched.
//!
//! [`Statistics::platform_faults`]: crate::Statistics::platform_faults

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::{Interest, ReadyList, StreamError, Token};
use crate::log::log_event;
use crate::sync::UncheckedAtomicU64;

/// A result that a platform may never return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum PlatformFault {
    /// A read returned more bytes than its buffer has.
    ReadCount = 1,
    /// A write returned more bytes than it was given.
    WriteCount,
    /// A write returned 0.
    EmptyWrite,
    /// A wait reported more streams than there was room for.
    #[cfg(feature = "capi")]
    ReadyCount,
    /// A wait reported a readiness or a token that does not exist.
    Readiness,
}

impl PlatformFault {
    const fn text(self) -> &'static str {
        match self {
            PlatformFault::ReadCount => "a read returned more bytes than its buffer has",
            PlatformFault::WriteCount => "a write returned more bytes than it was given",
            PlatformFault::EmptyWrite => "a write returned 0 instead of an error",
            #[cfg(feature = "capi")]
            PlatformFault::ReadyCount => "a wait reported more streams than there was room for",
            PlatformFault::Readiness => "a wait reported a readiness or token that does not exist",
        }
    }

    const fn with_number(number: u8) -> Option<PlatformFault> {
        Some(match number {
            1 => PlatformFault::ReadCount,
            2 => PlatformFault::WriteCount,
            3 => PlatformFault::EmptyWrite,
            #[cfg(feature = "capi")]
            4 => PlatformFault::ReadyCount,
            0 => return None,
            _ => PlatformFault::Readiness,
        })
    }
}

impl fmt::Display for PlatformFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

// One counter for all nodes of the process: the wrappers of platforms that find a fault do not know their
// node.
static COUNT: UncheckedAtomicU64 = UncheckedAtomicU64::new(0);
static FIRST: AtomicU8 = AtomicU8::new(0);
static IS_LOGGED: AtomicBool = AtomicBool::new(false);

/// Reports a fault of the platform.
#[cold]
#[inline(never)]
#[cfg_attr(not(static_library), track_caller)]
pub(crate) fn report_fault(fault: PlatformFault) {
    #[cfg(debug_assertions)]
    #[allow(clippy::panic)]
    {
        panic!("a fault of the platform: {fault}");
    }
    #[cfg(not(debug_assertions))]
    {
        let _ = FIRST.compare_exchange(0, fault as u8, Ordering::Relaxed, Ordering::Relaxed);
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

/// Returns how many faults of platforms were found in this process.
pub(crate) fn fault_count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Logs the first fault of a platform, once. The caller holds no lock, because a logger is code of the
/// embedder.
#[inline]
pub(crate) fn log_fault() {
    if FIRST.load(Ordering::Relaxed) != 0 {
        log_first();
    }
}

#[cold]
#[inline(never)]
fn log_first() {
    if let Some(fault) = PlatformFault::with_number(FIRST.load(Ordering::Relaxed))
        && !IS_LOGGED.swap(true, Ordering::Relaxed)
    {
        log_event!(error, "a defect of the platform: {fault}");
    }
}

/// Checks the result of a read into a buffer of `room` bytes.
///
/// # Errors
/// [`StreamError::Closed`] if it is more than there is room for.
#[inline]
#[cfg_attr(not(static_library), track_caller)]
pub(crate) fn checked_read(
    read: Result<usize, StreamError>,
    room: usize,
) -> Result<usize, StreamError> {
    match read {
        Ok(count) if count > room => {
            report_fault(PlatformFault::ReadCount);
            Err(StreamError::Closed)
        }
        read => read,
    }
}

/// Checks the result of a write of `offered` bytes, at least 1.
///
/// # Errors
/// [`StreamError::Closed`] if it is 0 or more than was offered.
#[inline]
#[cfg_attr(not(static_library), track_caller)]
pub(crate) fn checked_write(
    written: Result<usize, StreamError>,
    offered: usize,
) -> Result<usize, StreamError> {
    let fault = match written {
        Ok(count) if count > offered => PlatformFault::WriteCount,
        Ok(0) => PlatformFault::EmptyWrite,
        written => return written,
    };
    report_fault(fault);
    Err(StreamError::Closed)
}

/// Checks what a wait has reported.
#[inline]
#[cfg_attr(not(static_library), track_caller)]
pub(crate) fn check_ready(ready: &ReadyList) {
    for (token, readiness) in ready {
        let is_known = token.0 <= Token::HIGHEST || *token == Token::LISTENER;
        if !is_known || !Interest::all().contains(*readiness) {
            report_fault(PlatformFault::Readiness);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
