//! How the library calls the functions of a table that a C program has given it.

use core::ffi::c_int;

use crate::error::Errno;

/// The result of a function that the table does not have.
pub(super) const MISSING: c_int = Errno::ENOSYS.negated();

/// Calls a function of the platform, with its context.
macro_rules! call {
    ($table:expr, $name:ident ($($argument:expr),*), $missing:expr) => {
        match $table.$name {
            // SAFETY: `libos_ipc_setup` requires functions that do what the header states. The pointers are to
            // live memory of this library, or came from the same table.
            Some(function) => unsafe { function($table.context, $($argument),*) },
            None => $missing,
        }
    };
}
pub(super) use call;
