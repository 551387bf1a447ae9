//! What the host's kernel does, with real processes.
//!
//! A forked copy of a test has one thread, and calls nothing but system calls. It has all descriptors of
//! that moment, so there is one such family at a time.
#![allow(unsafe_code)]

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::{c_int, pid_t};

use crate::family::until;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pipe: what is read from and what is written to.
pub(crate) fn pipe() -> [c_int; 2] {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    ends
}

/// Reads one byte: returns when the other end is closed, or something was written.
pub(crate) fn await_byte(end: c_int) -> bool {
    let mut byte = 0_u8;
    // SAFETY: room for one byte.
    unsafe { libc::read(end, (&raw mut byte).cast(), 1) == 1 }
}

pub(crate) fn close(end: c_int) {
    // SAFETY: no memory is involved.
    unsafe { libc::close(end) };
}

/// Forks a process that ends with what `body` returns.
pub(crate) fn fork(body: impl FnOnce() -> c_int) -> pid_t {
    // SAFETY: the copy only makes system calls, and ends without unwinding or running destructors.
    match unsafe { libc::fork() } {
        0 => {
            let code = body();
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) }
        }
        pid => {
            assert!(pid > 0);
            pid
        }
    }
}

/// Waits for that child: the code that it ended with.
pub(crate) fn code_of(pid: pid_t) -> c_int {
    let mut status = 0;
    // SAFETY: room for a status.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status), "it ended with {status:#x}");
    libc::WEXITSTATUS(status)
}

/// Returns when the process is in that system call.
fn await_call(pid: pid_t, call: libc::c_long) {
    let prefix = format!("{call} ");
    until("it is in the call", || {
        fs::read_to_string(format!("/proc/{pid}/syscall"))
            .unwrap()
            .starts_with(&prefix)
    });
}

/// Whether `waitpid(0)` gets a child of the group that the caller was in at the call, though it is moved
/// to another group while it waits.
pub(crate) fn own_group_is_that_of_the_call() -> bool {
    let _alone = alone();
    let [read, write] = pipe();
    let parent = fork(|| {
        let child = fork(|| {
            close(write);
            await_byte(read);
            0
        });
        close(write);
        // SAFETY: no status is asked for.
        c_int::from(unsafe { libc::waitpid(0, std::ptr::null_mut(), 0) } != child)
    });
    await_call(parent, libc::SYS_wait4);
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::setpgid(parent, parent) }, 0);
    close(write);
    close(read);
    code_of(parent) == 0
}
