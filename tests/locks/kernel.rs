//! Real processes that lock real files on the host's kernel, step by step.
//!
//! Each process is this test program again, in the one test that is ignored otherwise. It reads its
//! orders on its standard input and answers on its standard error, which the test harness does not
//! use. Whether it has finished or waits for a lock is determined without timing: it reports when
//! it begins, and the host's information about its thread from then on is valid.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write, stderr, stdin};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use libc::c_int;
use nix::fcntl::{FcntlArg, fcntl};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};

pub(crate) const FILES: usize = 2;
/// The open files of each process for each file. The process uses the first for its record locks.
pub(crate) const HANDLES: usize = 3;

const EINTR: i32 = 4;
/// The answer of a process when it begins an order.
const BEGUN: u8 = 1;

/// The operations of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Operation {
    Posix,
    Ofd,
    Flock,
    PosixGet,
    OfdGet,
    Close,
    Reset,
}

const ALL: [Operation; 7] = [
    Operation::Posix,
    Operation::Ofd,
    Operation::Flock,
    Operation::PosixGet,
    Operation::OfdGet,
    Operation::Close,
    Operation::Reset,
];

/// An operation with its arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) what: Operation,
    pub(crate) file: u8,
    pub(crate) handle: u8,
    /// As on the wire: 0 read, 1 write, 2 unlock.
    pub(crate) kind: u8,
    pub(crate) wait: bool,
    pub(crate) start: u8,
    /// 0: to the end of the file.
    pub(crate) length: u8,
}

const ORDER_LENGTH: usize = 7;
const ANSWER_LENGTH: usize = 9;

/// The outcome of an operation: an error number or 0, and the conflicting lock of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) errno: i32,
    pub(crate) lock: Option<Found>,
}

/// The lock that a query returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) kind: u8,
    pub(crate) start: u8,
    /// 0: to the end of the file.
    pub(crate) length: u8,
    /// The pid of the holder; -1 for a lock of an open file.
    pub(crate) pid: i32,
}

/// A process that executes orders.
pub(crate) struct Process {
    child: Child,
    thread: u32,
    state: File,
    /// The system call of the thread, if the host shows it.
    call: Option<File>,
    /// The time for which the thread has run.
    run: File,
}

impl Process {
    pub(crate) fn start(directory: &Path) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["kernel::process_under_command", "--exact", "--ignored"])
            .args(["--nocapture", "--quiet"])
            .env("LOCK_FILES", directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut thread = [0; 4];
        let answers = child.stderr.as_mut().unwrap();
        answers.read_exact(&mut thread).unwrap();
        let thread = u32::from_le_bytes(thread);
        let about = |what| format!("/proc/{}/task/{thread}/{what}", child.id());
        let state = File::open(about("stat")).unwrap();
        let call = File::open(about("syscall")).ok();
        let run = File::open(about("schedstat")).or_else(|_| File::open(about("status")));
        let run = run.unwrap();
        Process {
            child,
            thread,
            state,
            call,
            run,
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub(crate) fn order(&mut self, order: Order) {
        let bytes = [
            order.what as u8,
            order.file,
            order.handle,
            order.kind,
            u8::from(order.wait),
            order.start,
            order.length,
        ];
        self.child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(&bytes)
            .unwrap();
        let mut begun = [0];
        let answers = self.child.stderr.as_mut().unwrap();
        answers.read_exact(&mut begun).unwrap();
        assert_eq!(begun, [BEGUN]);
    }

    /// Returns the outcome of the order; `None` if the process waits for a lock.
    pub(crate) fn outcome(&mut self) -> Option<Outcome> {
        loop {
            if self.has_answered() {
                return Some(self.answer());
            }
            if self.sleeps() {
                // The process may have answered just before, and wait for the next order.
                return self.has_answered().then(|| self.answer());
            }
            std::thread::yield_now();
        }
    }

    fn has_answered(&self) -> bool {
        let answers = self.child.stderr.as_ref().unwrap();
        let mut set = [PollFd::new(answers, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut set, Some(&now)).unwrap() > 0
    }

    fn answer(&mut self) -> Outcome {
        let mut bytes = [0; ANSWER_LENGTH];
        let answers = self.child.stderr.as_mut().unwrap();
        answers.read_exact(&mut bytes).unwrap();
        let [errno, is_there, kind, start, length, pid @ ..] = bytes;
        let found = Found {
            kind,
            start,
            length,
            pid: i32::from_le_bytes(pid),
        };
        Outcome {
            errno: i32::from(errno),
            lock: (is_there != 0).then_some(found),
        }
    }

    fn sleeps(&mut self) -> bool {
        let state = text(&mut self.state).unwrap();
        if !state.rsplit(") ").next().unwrap().starts_with('S') {
            return false;
        }
        // The thread may sleep for other reasons than a lock, but not for long.
        let Some(Ok(call)) = self.call.as_mut().map(text) else {
            return true;
        };
        let locks = [libc::SYS_fcntl, libc::SYS_flock];
        let number = call.split(' ').next().and_then(|word| word.parse().ok());
        number.is_some_and(|number| locks.contains(&number))
    }

    /// Returns a text that changes whenever the thread runs.
    pub(crate) fn run_time(&mut self) -> String {
        text(&mut self.run).unwrap()
    }

    /// Interrupts the wait for a lock.
    pub(crate) fn interrupt(&self) {
        let process = c_int::try_from(self.child.id()).unwrap();
        let thread = c_int::try_from(self.thread).unwrap();
        // SAFETY: the call takes three numbers, and the process is a child of this one that was not
        // waited for.
        unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
    }

    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Drop for Process {
    /// Kills the process: one that waits for a lock does not see the end of its input, and would stay for ever.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(file: &mut File) -> std::io::Result<String> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn range(order: &[u8], kind: i32) -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(kind).unwrap(),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap(),
        l_start: order[5].into(),
        l_len: order[6].into(),
        l_pid: 0,
    }
}

fn open(directory: &Path) -> Vec<Vec<File>> {
    let file = |file: usize| {
        (0..HANDLES)
            .map(|_| {
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(directory.join(file.to_string()))
                    .unwrap()
            })
            .collect()
    };
    (0..FILES).map(file).collect()
}

/// The handler of the signal that interrupts a wait.
extern "C" fn ignore_signal(_: c_int) {}

/// The test that executes orders in a process of its own.
#[test]
#[ignore = "one of the processes of the other tests"]
fn process_under_command() {
    let Some(directory) = std::env::var_os("LOCK_FILES").map(PathBuf::from) else {
        return;
    };
    // SAFETY: the handler does nothing, and the struct is valid when zeroed. Without SA_RESTART a
    // signal ends a wait.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore_signal as *const () as usize;
        libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
    }
    let mut files = open(&directory);
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    stderr().write_all(&thread.to_le_bytes()).unwrap();
    let mut order = [0; ORDER_LENGTH];
    let mut input = stdin();
    while input.read_exact(&mut order).is_ok() {
        stderr().write_all(&[BEGUN]).unwrap();
        let outcome = execute(&mut files, &directory, &order);
        let mut answer = [0; ANSWER_LENGTH];
        answer[0] = u8::try_from(outcome.errno).unwrap();
        if let Some(found) = outcome.lock {
            answer[1..5].copy_from_slice(&[1, found.kind, found.start, found.length]);
            answer[5..].copy_from_slice(&found.pid.to_le_bytes());
        }
        stderr().write_all(&answer).unwrap();
    }
    std::process::exit(0);
}

fn execute(files: &mut Vec<Vec<File>>, directory: &Path, order: &[u8; ORDER_LENGTH]) -> Outcome {
    let what = ALL[usize::from(order[0])];
    let (file, handle) = (usize::from(order[1]), usize::from(order[2]));
    let open_file = &files[file][handle];
    let descriptor = open_file.as_fd();
    let kind = [libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK][usize::from(order[3])];
    let mut lock = range(order, kind);
    let wait = order[4] != 0;
    let mut found = None;
    let result = match what {
        Operation::Posix if wait => fcntl(descriptor, FcntlArg::F_SETLKW(&lock)).map(drop),
        Operation::Posix => fcntl(descriptor, FcntlArg::F_SETLK(&lock)).map(drop),
        Operation::Ofd if wait => fcntl(descriptor, FcntlArg::F_OFD_SETLKW(&lock)).map(drop),
        Operation::Ofd => fcntl(descriptor, FcntlArg::F_OFD_SETLK(&lock)).map(drop),
        Operation::PosixGet | Operation::OfdGet => {
            let result = if what == Operation::PosixGet {
                fcntl(descriptor, FcntlArg::F_GETLK(&mut lock))
            } else {
                fcntl(descriptor, FcntlArg::F_OFD_GETLK(&mut lock))
            };
            if result.is_ok() && i32::from(lock.l_type) != libc::F_UNLCK {
                found = Some(Found {
                    kind: u8::from(i32::from(lock.l_type) == libc::F_WRLCK),
                    start: u8::try_from(lock.l_start).unwrap(),
                    length: u8::try_from(lock.l_len).unwrap(),
                    pid: lock.l_pid,
                });
            }
            result.map(drop)
        }
        Operation::Flock => {
            let operation = match (order[3], wait) {
                (0, true) => FlockOperation::LockShared,
                (0, false) => FlockOperation::NonBlockingLockShared,
                (1, true) => FlockOperation::LockExclusive,
                (1, false) => FlockOperation::NonBlockingLockExclusive,
                _ => FlockOperation::Unlock,
            };
            flock(descriptor, operation)
                .map_err(|errno| nix::errno::Errno::from_raw(errno.raw_os_error()))
        }
        Operation::Close => {
            files[file].remove(handle);
            let path = directory.join(file.to_string());
            let again = OpenOptions::new().read(true).write(true).open(path);
            files[file].insert(handle, again.unwrap());
            Ok(())
        }
        Operation::Reset => {
            files.clear();
            *files = open(directory);
            Ok(())
        }
    };
    Outcome {
        errno: result.err().map_or(0, |errno| errno as i32),
        lock: found,
    }
}

#[test]
fn waiting_process_is_distinguished_from_a_running_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut one = Process::start(directory.path());
    let mut other = Process::start(directory.path());
    let write = Order {
        what: Operation::Posix,
        file: 0,
        handle: 0,
        kind: 1,
        wait: true,
        start: 0,
        length: 1,
    };
    let done = Some(Outcome {
        errno: 0,
        lock: None,
    });
    one.order(write);
    assert_eq!(one.outcome(), done);
    other.order(write);
    assert_eq!(other.outcome(), None);
    other.interrupt();
    let interrupted = loop {
        if let Some(outcome) = other.outcome() {
            break outcome;
        }
    };
    assert_eq!(interrupted.errno, EINTR);
    one.kill();
    other.order(write);
    assert_eq!(other.outcome(), done);
    other.kill();
}
