//! Writes the node's last events and its waiting calls, as text, to the log callback of the library OS.

use core::ffi::c_int;

use super::{node, node_any_phase, status};
use crate::number::Number;

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_dump_calls() -> c_int {
    status(node_any_phase().map(|node| {
        for call in node.pending_calls() {
            // The formatting of a `Duration` has code for a panic.
            let waited = u64::try_from(call.waited.as_millis()).unwrap_or(u64::MAX);
            let waited = Number(waited);
            crate::log::c::debug(format_args!(
                "{} of {} for {waited} ms",
                call.what, call.peer
            ));
        }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_dump_events() -> c_int {
    status(node().map(|node| {
        for event in node.events() {
            crate::log::c::debug(format_args!("{event}"));
        }
    }))
}
