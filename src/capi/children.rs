//! Waiting for the ends of children.

use core::ffi::c_int;
use core::time::Duration;

use super::call_limits::wait_within;
use super::ffi_copy::write;
use super::tables::{libos_ipc_call_limit, libos_ipc_cld_exit};
use super::{node, status};
use crate::error::{Error, Invalid};
use crate::{ChildExit, ChildSelector, Pid, Wait};

/// The options of `libos_ipc_wait`.
const WNOHANG: c_int = 1;
const WNOWAIT: c_int = 0x0100_0000;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn libos_ipc_wait(
    which: u32,
    id: u32,
    options: c_int,
    exit: *mut libos_ipc_cld_exit,
    limit: *const libos_ipc_call_limit,
) -> c_int {
    let wait = if options & WNOHANG == 0 {
        // SAFETY: the header requires a limit that `wait_within` can read.
        unsafe { wait_within(limit, Wait::FOREVER) }
    } else {
        Wait::at_most(Duration::ZERO)
    };
    let ended = match wait_for(which, id, options, wait) {
        // The struct with pid 0 means that no child has ended.
        Err(Error::TimedOut) if options & WNOHANG != 0 => Ok(libos_ipc_cld_exit::default()),
        ended => ended.map(|ended| exit_of(&ended)),
    };
    // SAFETY: the header requires NULL or room for the struct.
    status(ended.map(|ended| unsafe { write(exit, ended) }))
}

fn wait_for(which: u32, id: u32, options: c_int, wait: Wait<'_>) -> Result<ChildExit, Error> {
    let node = node()?;
    if options & !(WNOHANG | WNOWAIT) != 0 {
        return Err(Error::Invalid(Invalid::CArgument));
    }
    let which = match which {
        0 => ChildSelector::Any,
        1 => ChildSelector::Pid(Pid::new(id).ok_or(Error::Invalid(Invalid::CArgument))?),
        2 => ChildSelector::Group(Pid::new(id)),
        _ => return Err(Error::Invalid(Invalid::CArgument)),
    };
    if options & WNOWAIT == 0 {
        node.wait_child(which, wait)
    } else {
        node.peek_child(which, wait)
    }
}

/// Converts an exit to the struct of the header.
pub(super) fn exit_of(exit: &ChildExit) -> libos_ipc_cld_exit {
    libos_ipc_cld_exit {
        ppid: Pid::number(exit.parent_pid),
        pid: exit.pid.get(),
        uid: exit.uid,
        exitcode: exit.code,
        term_signal: exit.signal,
    }
}
