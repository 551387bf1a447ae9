//! The host's kernel with signals that are not delivered yet, and with zombies.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr::null_mut;

use libc::{c_int, pid_t, sigset_t};

use crate::kernel::{await_byte, close, code_of, fork, lock_forks, pipe, read_byte, write_byte};

/// The call that sends a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignalCall {
    /// `kill(2)`
    Process(c_int),
    /// `tgkill(2)` of the main thread
    Thread(c_int),
}

impl SignalCall {
    pub(crate) fn signal(self) -> c_int {
        match self {
            SignalCall::Process(signal) | SignalCall::Thread(signal) => signal,
        }
    }
}

/// Returns the result of `kill(2)` with a signal for a pid that no process has: an error number, or
/// 0.
pub(crate) fn kill_nobody(signal: c_int) -> c_int {
    // SAFETY: no memory is passed; there is no such process.
    let result = unsafe { libc::kill(pid_t::MAX, signal) };
    let error = std::io::Error::last_os_error().raw_os_error();
    if result == 0 { 0 } else { error.unwrap_or(0) }
}

/// Returns the set of all signals.
fn all_signals() -> sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigfillset` fills it.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    }
}

/// Returns the error number of a call that returned this, or 0.
fn result_of(returned: c_int) -> c_int {
    if returned == 0 {
        return 0;
    }
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

/// Sends a signal with that call. Returns its error number, or 0.
fn send(to: pid_t, tid: pid_t, call: SignalCall) -> c_int {
    // SAFETY: no memory is involved.
    result_of(unsafe {
        match call {
            SignalCall::Process(signal) => libc::kill(to, signal),
            SignalCall::Thread(signal) => {
                c_int::try_from(libc::syscall(libc::SYS_tgkill, to, tid, signal)).unwrap()
            }
        }
    })
}

/// Returns the number of queued signals of all processes of this user. Timers count, too.
fn queued_now() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("SigQ:"));
    let queued = line.unwrap().trim().split('/').next().unwrap();
    queued.parse().unwrap()
}

/// Like [`pending_after`], for a process that may have that many queued.
pub(crate) fn pending_at_limit(signals: &[SignalCall], queued: u64) -> (Vec<c_int>, Vec<c_int>) {
    let mut before = None;
    loop {
        let others = queued_now();
        let limit = QueueLimit { queued, others };
        let (outcome, is_alone) = pending_with(signals, Some(limit));
        // The signals of other programs of this user come and go: they disturb no two tries alike.
        if is_alone || queued_now() == others && before.as_ref() == Some(&outcome) {
            return outcome;
        }
        before = Some(outcome);
    }
}

/// How many signals a process may have queued.
#[derive(Clone, Copy)]
struct QueueLimit {
    queued: u64,
    /// The number of those of other processes of this user, which count, too.
    others: u64,
}

/// Sends the signals to a process that has blocked all of them. Returns the result of each call, and the pending signals
/// at the end, by number.
pub(crate) fn pending_after(signals: &[SignalCall]) -> (Vec<c_int>, Vec<c_int>) {
    pending_with(signals, None).0
}

/// Makes the caller, which has one thread, a process of a user that has no other one. Returns false if it may not.
fn become_another_user() -> bool {
    // SAFETY: no memory is involved.
    unsafe {
        let user = 40_000 + libc::getpid() % 20_000;
        libc::syscall(libc::SYS_setresuid, user, user, user) == 0
    }
}

/// Like [`pending_after`], with a limit. Returns also whether no signals of other processes counted.
fn pending_with(
    signals: &[SignalCall],
    limit: Option<QueueLimit>,
) -> ((Vec<c_int>, Vec<c_int>), bool) {
    let _guard = lock_forks();
    let (go, out) = (pipe(), pipe());
    let (set, mut before) = (all_signals(), MaybeUninit::uninit());
    // The copy has them blocked from its start. SAFETY: both are signal sets.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, before.as_mut_ptr()) };
    let child = fork(|| {
        close(go[1]);
        let mut is_alone = false;
        if let Some(QueueLimit { queued, others }) = limit {
            is_alone = become_another_user();
            let most = if is_alone { queued } else { queued + others };
            let limit = libc::rlimit {
                rlim_cur: most,
                rlim_max: most,
            };
            // SAFETY: a limit.
            unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &raw const limit) };
        }
        // The copy is ready.
        write_byte(out[1], u8::from(is_alone));
        await_byte(go[0]);
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        loop {
            // SAFETY: a set and a time.
            let signal = unsafe { libc::sigtimedwait(&raw const set, null_mut(), &raw const now) };
            let Ok(number) = u8::try_from(signal) else {
                return 0;
            };
            // SAFETY: one byte.
            unsafe { libc::write(out[1], (&raw const number).cast(), 1) };
        }
    });
    // SAFETY: the set from before.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), null_mut()) };
    close(out[1]);
    let is_alone = read_byte(out[0]) == 1;
    let results = signals
        .iter()
        .map(|call| send(child, child, *call))
        .collect();
    close(go[1]);
    let mut pending = Vec::new();
    let mut number = 0_u8;
    // SAFETY: room for one byte.
    while unsafe { libc::read(out[0], (&raw mut number).cast(), 1) } == 1 {
        pending.push(c_int::from(number));
    }
    code_of(child);
    close(go[0]);
    close(out[0]);
    ((results, pending), is_alone)
}

/// Returns the results of the calls for a zombie that leads a group of its own: for itself, its
/// main thread, another thread, its group.
pub(crate) fn signals_for_a_zombie(signal: c_int) -> [c_int; 4] {
    let _guard = lock_forks();
    // SAFETY: no memory is involved.
    let zombie = fork(|| unsafe { libc::setpgid(0, 0) });
    let mut ended = MaybeUninit::uninit();
    // SAFETY: room for the result.
    unsafe {
        let id = libc::id_t::try_from(zombie).unwrap();
        let how = libc::WEXITED | libc::WNOWAIT;
        assert_eq!(libc::waitid(libc::P_PID, id, ended.as_mut_ptr(), how), 0);
    }
    let results = [
        send(zombie, zombie, SignalCall::Process(signal)),
        send(zombie, zombie, SignalCall::Thread(signal)),
        send(zombie, zombie + 1, SignalCall::Thread(signal)),
        send(-zombie, zombie, SignalCall::Process(signal)),
    ];
    code_of(zombie);
    results
}
