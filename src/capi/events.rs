//! Writes the node's last events, as text, to the log callback of the library OS.

use core::ffi::c_int;

use super::{node, status};

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_dump_events() -> c_int {
    status(node().map(|node| {
        for event in node.events() {
            crate::log::c::debug(format_args!("{event}"));
        }
    }))
}
