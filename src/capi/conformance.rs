//! The check of a platform, as `include/libos_ipc_check.h` declares it.

use core::ffi::{c_char, c_int, c_void};
use std::boxed::Box;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::format;
use std::sync::Mutex;

use super::callback_result;
use super::callbacks::call;
use super::event::CEvent;
use super::platform::{CPlatform, CStream};
use super::tables::libos_ipc_platform;
use crate::error::Errno;
use crate::pal::{AcceptError, ConnectError, Pal};
use crate::testing::conformance::{Check, Report};
use crate::{Vmid, forward_pal};

/// The one platform of the process, as the platform of each node of a check: a stream to any of the nodes leads to this
/// process.
struct OnePlatform {
    inner: &'static CPlatform,
    listens_as: Vmid,
    nodes: &'static Mutex<BTreeSet<u32>>,
}

impl Pal for OnePlatform {
    type Stream = CStream;
    type Event = CEvent;

    const SUPPORTS_CALLER_READ: bool = true;

    fn supports_caller_read(&self) -> bool {
        self.inner.supports_caller_read()
    }

    forward_pal!(inner: event, watch_listener, wait, wake, wait_event, now);
    forward_pal!(inner, stream: watch, rewatch, unwatch, wait_readable);

    fn connect(&self, peer: Vmid) -> Result<CStream, ConnectError> {
        let nodes = self.nodes.lock();
        let is_node = nodes.is_ok_and(|nodes| nodes.contains(&peer.get()));
        let to = if is_node { self.listens_as } else { peer };
        self.inner.connect(to)
    }

    fn accept(&self) -> Result<CStream, AcceptError> {
        self.inner.accept()
    }
}

/// Prints a report, line by line.
fn print(
    report: &Report,
    print: Option<unsafe extern "C" fn(*mut c_void, *const c_char)>,
    context: *mut c_void,
) {
    let Some(print) = print else { return };
    for line in format!("{report}").lines() {
        if let Ok(text) = CString::new(line) {
            // SAFETY: the header requires a function that does what it states. The text lives until it returns.
            unsafe { print(context, text.as_ptr()) }
        }
    }
}

/// # Safety
/// As the header states: `platform` is a table whose functions do not panic or unwind.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_check_platform(
    platform: *const libos_ipc_platform,
    vmid: u32,
    print_line: Option<unsafe extern "C" fn(*mut c_void, *const c_char)>,
    context: *mut c_void,
) -> c_int {
    const INVALID: c_int = Errno::EINVAL.negated();
    let Some(listens_as) = Vmid::new(vmid) else {
        return INVALID;
    };
    if platform.is_null() {
        return INVALID;
    }
    // SAFETY: the caller passes a whole table. Its members are numbers and pointers that may be NULL, so every bit
    // pattern is a valid value.
    let mut table = unsafe { platform.read_unaligned() };
    // The checks need no memory of the platform.
    table.memory = core::ptr::dangling_mut::<u128>().cast();
    if table.first_missing().is_some() {
        return INVALID;
    }
    // A thread of a check may never return from the platform.
    let table: &'static libos_ipc_platform = Box::leak(Box::new(table));
    let listening = call!(table, listen(vmid), INVALID);
    if let Err(error) = callback_result(listening) {
        return Errno::status(&Err::<(), _>(error));
    }
    let platform: &'static CPlatform = Box::leak(Box::new(CPlatform(table)));
    let nodes: &'static Mutex<BTreeSet<u32>> = Box::leak(Box::default());
    let check = Check {
        has_threads: table.thread_create.is_some(),
        is_only_one: true,
        ..Check::default()
    };
    let report = check.run(move |node| {
        if let Ok(mut nodes) = nodes.lock() {
            nodes.insert(node.get());
        }
        OnePlatform {
            inner: platform,
            listens_as,
            nodes,
        }
    });
    print(&report, print_line, context);
    c_int::try_from(report.violations.len()).map_or(c_int::MAX, |count| count)
}
