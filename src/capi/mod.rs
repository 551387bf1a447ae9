//! The functions of `include/libos_ipc.h`, which documents each of them.
//!
//! Data behind a pointer is copied once and then checked ([`ffi_copy`]), so it cannot change between check and use. A
//! sync handle is a slot number and a generation, not an address, so a stale handle is refused. A process has one node.
//! The node and the tables of the library OS are in two statics that are written once (`state`).
#![allow(unsafe_code)]
// The functions are reached from C, not from Rust.
#![allow(unreachable_pub)]
// The names are those of the C header.
#![allow(non_camel_case_types, non_upper_case_globals)]

mod call_limits;
mod callbacks;
mod children;
#[cfg(all(feature = "testing", feature = "std"))]
mod conformance;
mod diagnostics;
mod event;
mod ffi_copy;
mod ids;
mod inbound;
mod library_os;
mod limits;
mod locks;
mod log;
mod messages;
mod platform;
mod process_life;
mod process_table;
mod processes;
#[cfg(all(static_library, not(feature = "std")))]
mod runtime;
mod secure;
#[cfg(static_library)]
mod seed_names;
mod setup;
mod state;
mod statistics;
mod syncs;
mod tables;

use core::ffi::c_int;

use crate::error::{Errno, Error, Invalid, Resource};
use crate::log::Text;
use crate::{Node, Vmid, Wait};

use platform::CPlatform;

/// The platform of the node of a C process.
#[cfg(not(feature = "secure"))]
type CPal = CPlatform;
#[cfg(feature = "secure")]
type CPal = &'static crate::pal::secure::SecurePal<CPlatform>;

/// The node of a C process.
type CNode = Node<'static, CPal>;

const _: () = assert!(
    size_of::<usize>() == 8,
    "the C structs are laid out for 64 bits"
);

/// Returns the node, from `libos_ipc_init` on, also after `libos_ipc_terminate_worker`.
///
/// # Errors
/// [`Error::Invalid`] before `libos_ipc_init`.
#[inline]
fn node_any_phase() -> Result<&'static CNode, Error> {
    state::NODE.get().ok_or(Error::Invalid(Invalid::NotStarted))
}

/// Returns the node, from `libos_ipc_init` until `libos_ipc_terminate_worker`.
///
/// # Errors
/// [`Error::Invalid`] before `libos_ipc_init`, [`Error::ShuttingDown`] after `libos_ipc_exit` and `libos_ipc_terminate_worker`.
#[inline]
fn node() -> Result<&'static CNode, Error> {
    check_running()?;
    node_any_phase()
}

// Not inlined: almost every function of the header calls it.
#[inline(never)]
fn check_running() -> Result<(), Error> {
    node_any_phase()?.check_running()
}

/// Returns how long a call may wait for an answer: `libos_ipc_limits.call_limit_ms`.
fn wait() -> Wait<'static> {
    state::SETUP
        .get()
        .and_then(|setup| setup.call_limit)
        .map_or(Wait::FOREVER, Wait::at_most)
}

/// Returns the result of a call that releases something: success after the end of a process that joined, because its
/// end has released everything.
fn released(outcome: Result<(), Error>) -> Result<(), Error> {
    match outcome {
        Err(Error::ShuttingDown) if has_joined() => Ok(()),
        outcome => outcome,
    }
}

/// Returns true if this process has joined, with `libos_ipc_join`.
fn has_joined() -> bool {
    node_any_phase().is_ok_and(|node| node.pid().is_some())
}

/// Checks a VMID.
///
/// # Errors
/// [`Error::Invalid`] for 0.
fn vmid(number: u32) -> Result<Vmid, Error> {
    Vmid::new(number).ok_or(Error::Invalid(Invalid::CArgument))
}

/// Converts a result to the return value of a C function: 0 or a negative error number. Logs which limit is reached,
/// which the number does not tell.
fn status(outcome: Result<(), Error>) -> c_int {
    if let Err(error) = outcome {
        log_limit(error);
    }
    Errno::status(&outcome.map_err(Error::errno))
}

/// Logs which limit is reached, if that is the reason for the error.
fn log_limit(error: Error) {
    if let Some(limit) = reached(error) {
        crate::log::c::warn(format_args!("{} is reached", Text(limit)));
    }
}

/// Returns the limit that is the reason for an error. An answer of the leader has only an error
/// number.
fn reached(error: Error) -> Option<&'static str> {
    match error {
        Error::Full(limit) => Some(field_of(limit)),
        Error::NoIds => Some(field_of(Resource::Ranges)),
        Error::Refused {
            errno: Errno::ENOLCK,
            ..
        } => Some(
            "libos_ipc_limits.locks, locked_files, waiting_for_locks or lock_handles of the leader",
        ),
        Error::Refused {
            errno: Errno::ENOMEM,
            by: None,
        } => Some("libos_ipc_limits.peers, ranges, served_handles or sync_clients of the leader"),
        _ => None,
    }
}

/// Returns the member of the C structs that sets a limit.
fn field_of(limit: Resource) -> &'static str {
    match limit {
        Resource::Peers => "libos_ipc_limits.peers",
        Resource::SendQueue => "libos_ipc_limits.send_queue",
        Resource::Waiters => "libos_ipc_limits.waiters",
        Resource::Ranges => "libos_ipc_limits.ranges of the leader",
        Resource::OwnRanges => "libos_ipc_limits.own_ranges",
        Resource::Processes => "four times libos_ipc_limits.peers of the leader",
        Resource::Children => "libos_ipc_limits.children",
        Resource::ReplyBuffers => "libos_ipc_limits.answers",
        Resource::SyncHandles => "libos_ipc_limits.sync_handles",
        Resource::FrameLength => "libos_ipc_limits.frame_length",
        Resource::SyncData => "libos_ipc_limits.sync_data",
        Resource::Memory => "libos_ipc_platform.memory_size",
    }
}

/// Converts the return value of a function of the library OS: a negative one is an error number, any other is success.
fn callback_result(returned: c_int) -> Result<(), Errno> {
    Errno::check(returned).map(drop)
}
