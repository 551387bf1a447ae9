//! The functions of `include/libos_ipc.h`, which says what each does.
//!
//! What comes in through a pointer is copied once and checked then ([`ffi_copy`]), so that nothing
//! changes between check and use. A handle of a sync object is a name, not an address. The one node
//! of the process, and the tables it stands on, are in two statics that are written once (`state`).
#![allow(unsafe_code)]
// C reaches them.
#![allow(unreachable_pub)]
// The names are those of the C header.
#![allow(non_camel_case_types, non_upper_case_globals)]

mod events;
mod ffi_copy;
mod ids;
mod inbound;
mod library_os;
mod locks;
mod log;
mod messages;
mod platform;
mod processes;
#[cfg(all(static_library, not(feature = "std")))]
mod runtime;
mod secure;
mod setup;
mod state;
mod statistics;
mod syncs;
mod tables;

use core::ffi::c_int;

use crate::error::Error;
use crate::{Node, Vmid, Wait};

use platform::CPlatform;

/// What the node of a process in C stands on.
#[cfg(not(feature = "secure"))]
type CPal = CPlatform;
#[cfg(feature = "secure")]
type CPal = &'static crate::pal::secure::SecurePal<CPlatform>;

/// The node of a process in C.
type CNode = Node<'static, CPal>;

const _: () = assert!(
    size_of::<usize>() == 8,
    "the C structs are those of 64 bits"
);

/// The node, once `init_ipc` has made it.
fn node_or_what_is_left() -> Result<&'static CNode, Error> {
    state::NODE.get().ok_or(Error::Invalid)
}

/// The node, from `init_ipc` until `terminate_ipc_worker`.
fn node() -> Result<&'static CNode, Error> {
    let node = node_or_what_is_left()?;
    if node.phase() == crate::node::Phase::Running {
        Ok(node)
    } else {
        Err(Error::ShuttingDown)
    }
}

/// How long a call may wait for an answer.
fn wait() -> Wait<'static> {
    state::SETUP
        .get()
        .and_then(|setup| setup.call_limit)
        .map_or(Wait::FOREVER, Wait::at_most)
}

/// A VMID that must not be 0.
fn vmid(number: u32) -> Result<Vmid, Error> {
    Vmid::new(number).ok_or(Error::Invalid)
}

/// What a function returns: 0 or a negative error number.
fn status(outcome: Result<(), Error>) -> c_int {
    match outcome {
        Ok(()) => 0,
        Err(error) => error.errno().saturating_neg(),
    }
}

/// What a function of the library OS returned: 0 or a negative error number. Any other counts as 0.
fn outcome(returned: c_int) -> Result<(), i32> {
    if returned < 0 {
        Err(returned.saturating_neg())
    } else {
        Ok(())
    }
}
