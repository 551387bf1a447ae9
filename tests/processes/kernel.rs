//! The behaviour of the host's kernel, with real processes.
//!
//! A forked copy of a test has one thread, and makes only system calls. It has all descriptors of
//! that moment, so one test forks at a time.
#![allow(unsafe_code)]

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::{c_int, pid_t};

use crate::family::until;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Lets no other thread of this test program fork until the guard is dropped.
pub(crate) fn lock_forks() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a pipe: the reading and the writing end.
pub(crate) fn pipe() -> [c_int; 2] {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    ends
}

/// Waits until the other end is closed, or a byte was written. Returns true if it was a byte.
pub(crate) fn await_byte(end: c_int) -> bool {
    let mut byte = 0_u8;
    // SAFETY: room for one byte.
    unsafe { libc::read(end, (&raw mut byte).cast(), 1) == 1 }
}

pub(crate) fn close(end: c_int) {
    // SAFETY: no memory is involved.
    unsafe { libc::close(end) };
}

/// Forks a process that exits with the result of `body`.
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

/// Waits for that child and returns its exit code.
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

/// Returns true if `waitpid(0)` reaps a child of the caller's group at the call, although the
/// caller is moved to another group while it waits.
pub(crate) fn own_group_is_that_of_the_call() -> bool {
    let _guard = lock_forks();
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

/// Writes one byte.
pub(crate) fn write_byte(end: c_int, byte: u8) {
    // SAFETY: one byte is there.
    assert_eq!(unsafe { libc::write(end, (&raw const byte).cast(), 1) }, 1);
}

/// Waits for one byte, and returns it.
pub(crate) fn read_byte(end: c_int) -> u8 {
    let mut byte = 0_u8;
    // SAFETY: room for one byte.
    assert_eq!(unsafe { libc::read(end, (&raw mut byte).cast(), 1) }, 1);
    byte
}

/// Returns the set with the signal of a parent's end only.
fn end_of_parent() -> libc::sigset_t {
    // SAFETY: the set is made here.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGUSR1);
        set
    }
}

/// From now on the end of the calling process's parent is pending for [`await_end`].
fn watch_parent() {
    let set = end_of_parent();
    // SAFETY: the set lives; no other memory is involved.
    unsafe {
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGUSR1);
    }
}

/// Waits for the end of the parent, which is not pending after that.
fn await_end() {
    let (set, mut signal) = (end_of_parent(), 0);
    // SAFETY: the set lives, and there is room for a number.
    unsafe { libc::sigwait(&raw const set, &raw mut signal) };
}

/// Returns true if the end of the parent is pending.
fn is_end_pending() -> bool {
    let mut set = end_of_parent();
    // SAFETY: room for a set.
    unsafe {
        libc::sigpending(&raw mut set);
        libc::sigismember(&raw const set, libc::SIGUSR1) == 1
    }
}

/// Returns the notices of `PR_SET_PDEATHSIG`, `e` for each end, of two processes: one requests them
/// before its parent ends, the other after that; then the subreaper ends, their parent by then.
pub(crate) fn ends_of_parents() -> [String; 2] {
    let _guard = lock_forks();
    let [from_early, early] = pipe();
    let [from_late, late] = pipe();
    let [from_reaper, reaper_out] = pipe();
    let [late_may, let_late] = pipe();
    let [parent_may, let_parent] = pipe();
    let [reaper_may, let_reaper] = pipe();
    let reaper = fork(|| {
        // SAFETY: no memory is involved.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
        let parent = fork(|| {
            fork(|| {
                watch_parent();
                write_byte(early, b'b');
                for _ in 0..2 {
                    await_end();
                    write_byte(early, b'e');
                }
                write_byte(early, if is_end_pending() { b'e' } else { b'.' });
                0
            });
            fork(|| {
                read_byte(late_may);
                watch_parent();
                write_byte(late, if is_end_pending() { b'e' } else { b'b' });
                await_end();
                write_byte(late, b'e');
                write_byte(late, if is_end_pending() { b'e' } else { b'.' });
                0
            });
            read_byte(parent_may);
            0
        });
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(parent, std::ptr::null_mut(), 0) };
        write_byte(reaper_out, b'b');
        read_byte(reaper_may);
        0
    });
    let mut received = [String::new(), String::new()];
    let mut next = |at: usize, from| received[at].push(char::from(read_byte(from)));
    next(0, from_early);
    write_byte(let_parent, 0);
    next(0, from_early);
    read_byte(from_reaper);
    write_byte(let_late, 0);
    next(1, from_late);
    write_byte(let_reaper, 0);
    for _ in 0..2 {
        next(0, from_early);
        next(1, from_late);
    }
    assert_eq!(code_of(reaper), 0);
    for ends in [
        [from_early, early],
        [from_late, late],
        [from_reaper, reaper_out],
        [late_may, let_late],
        [parent_may, let_parent],
        [reaper_may, let_reaper],
    ] {
        ends.into_iter().for_each(close);
    }
    received
}

/// Returns the results of `getpgid`, `getsid`, `setpgid`, `kill` with 0 and `waitpid` for a
/// thread's ID. For the first two: whether they are those of its process. For the others: the error
/// number, or 0.
pub(crate) fn calls_with_a_thread() -> ([bool; 2], [c_int; 3]) {
    let _guard = lock_forks();
    let errno = |result: c_int| {
        if result == -1 {
            std::io::Error::last_os_error().raw_os_error().unwrap()
        } else {
            0
        }
    };
    std::thread::spawn(move || {
        // SAFETY: no memory is involved but that of a NULL status.
        unsafe {
            let tid = libc::gettid();
            assert_ne!(tid, libc::getpid());
            let same = [
                libc::getpgid(tid) == libc::getpgid(0),
                libc::getsid(tid) == libc::getsid(0),
            ];
            let set = errno(libc::setpgid(tid, 0));
            let killed = errno(libc::kill(tid, 0));
            let waited = errno(libc::waitpid(tid, std::ptr::null_mut(), libc::WNOHANG));
            (same, [set, killed, waited])
        }
    })
    .join()
    .unwrap()
}
