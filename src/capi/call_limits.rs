//! Time limits and interrupts of calls.

use core::ffi::c_int;
use core::time::Duration;

use super::tables::{libos_ipc_call_limit, libos_ipc_interrupt};
use super::{node_any_phase, status};
use crate::error::{Error, Invalid};
use crate::{Interrupt, Wait};

const _: () = assert!(
    size_of::<Interrupt>() <= size_of::<libos_ipc_interrupt>()
        && align_of::<Interrupt>() <= align_of::<libos_ipc_interrupt>(),
    "the storage of the header holds an interrupt"
);

/// Returns the limit of a call: `default` if the caller sets none.
///
/// # Safety
/// `limit` is NULL or points to a whole limit, whose interrupt lives until the call has returned.
pub(super) unsafe fn wait_within(
    limit: *const libos_ipc_call_limit,
    default: Wait<'_>,
) -> Wait<'_> {
    if limit.is_null() {
        return default;
    }
    // SAFETY: the caller keeps what `# Safety` requires. The members are a number and a pointer that may be NULL, so every bit pattern is a
    // valid value.
    let limit = unsafe { limit.read_unaligned() };
    let wait = match limit.timeout_ns {
        0 => default,
        u64::MAX => Wait::FOREVER,
        nanoseconds => Wait::at_most(Duration::from_nanos(nanoseconds)),
    };
    // SAFETY: the caller keeps what `# Safety` requires.
    match unsafe { interrupt_at(limit.interrupt) } {
        Ok(interrupt) => wait.or_until(interrupt),
        Err(_) => wait,
    }
}

/// Returns the interrupt in the caller's storage.
///
/// # Errors
/// [`Error::Invalid`] for NULL.
///
/// # Safety
/// `storage` is NULL or points to storage that was all zeros at first, that only this library has changed since, and
/// that lives as long as `'a`.
unsafe fn interrupt_at<'a>(storage: *const libos_ipc_interrupt) -> Result<&'a Interrupt, Error> {
    if storage.is_null() || !storage.is_aligned() {
        return Err(Error::Invalid(Invalid::CArgument));
    }
    // SAFETY: the caller keeps what `# Safety` requires. All members are atomic numbers: other threads may change them, and every bit
    // pattern is a valid value.
    Ok(unsafe { &*storage.cast::<Interrupt>() })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_interrupt_raise(interrupt: *mut libos_ipc_interrupt) -> c_int {
    // SAFETY: the header requires an interrupt that lives until this call returns.
    let interrupt = unsafe { interrupt_at(interrupt) };
    status(node_any_phase().and_then(|node| {
        interrupt?.raise(node);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_interrupt_reset(interrupt: *mut libos_ipc_interrupt) -> c_int {
    // SAFETY: as above.
    status(unsafe { interrupt_at(interrupt) }.map(Interrupt::reset))
}
