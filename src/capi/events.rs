//! What happened last, in words, to the log of the library OS.

use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, Ordering};

use super::{log, node, status};

/// The library has a fault: what happened last is said only once, should saying it fail, too.
static FATAL: AtomicBool = AtomicBool::new(false);

#[unsafe(no_mangle)]
pub extern "C" fn libos_ipc_dump_events() -> c_int {
    status(node().map(|node| {
        for event in node.events() {
            log::debug(format_args!("{event}"));
        }
    }))
}

/// Says what happened last, before the end.
pub(super) fn dump_at_the_end() {
    if !FATAL.swap(true, Ordering::Relaxed) {
        libos_ipc_dump_events();
    }
}
