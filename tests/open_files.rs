//! Open files that are transferred and closed in every order, on the table and on the kernel.
//!
//! To the kernel a process is the set of its descriptors, and a descriptor in transit is one that
//! no process has yet: a lock depends only on whether any descriptor of the open file is left,
//! wherever it is. So all descriptors belong to this process, which starts no other meanwhile: that
//! would inherit them all for a moment. One test uses real processes of `sh`.
#![allow(missing_docs, clippy::cast_possible_truncation)]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use libos_ipc::file_locks::{LockLimits, LockTable, SetOutcome};
use libos_ipc::store::Arena;
use libos_ipc::wire::{FileLock, LockFamily, LockKind};
use libos_ipc::{Errno, Vmid};
use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

const PROCESSES: usize = 4;
const LIMITS: LockLimits = LockLimits {
    locks: 64,
    files: 1,
    waiting: 0,
    open_files: 256,
};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Lets the tests of this file run one at a time: a guard is held by the one that runs.
fn lock_tests() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The kernel's side of a process: its descriptors of each open file.
type Descriptors = BTreeMap<u64, Vec<OwnedFd>>;

/// The table of the leader, and the descriptors of the kernel.
struct TableAndKernel<'m> {
    locks: LockTable<'m>,
    directory: TempDir,
    /// By index: the VMID, whether the process has joined, and its descriptors. A new process at an index has a new VMID.
    processes: Vec<(Vmid, bool, Descriptors)>,
    /// The descriptors in transit to the process at that index.
    sent: Vec<(usize, u64, OwnedFd)>,
    next_vmid: u32,
    next_handle: u64,
}

impl TableAndKernel<'_> {
    fn new_vmid(&mut self) -> Vmid {
        self.next_vmid += 1;
        Vmid::new(self.next_vmid).unwrap()
    }

    /// Returns an open file of the process at that index.
    fn pick_handle(&self, index: usize, rng: &mut fastrand::Rng) -> Option<u64> {
        let handles: Vec<u64> = self.processes[index].2.keys().copied().collect();
        (!handles.is_empty()).then(|| handles[rng.usize(..handles.len())])
    }

    fn open(&mut self, index: usize) {
        let path = self.directory.path().join("file");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = OwnedFd::from(options.open(path).unwrap());
        self.next_handle += 1;
        self.processes[index].2.insert(self.next_handle, vec![file]);
    }

    /// Requests a lock without waiting.
    fn lock(&mut self, index: usize, handle: u64, rng: &mut fastrand::Rng) {
        let (vmid, has_joined, descriptors) = &mut self.processes[index];
        // A process that makes a request has joined.
        if !std::mem::replace(has_joined, true) {
            assert_eq!(self.locks.confirm_portion(*vmid, u64::MAX, false), 0);
        }
        let descriptor = &descriptors[&handle][0];
        let kind = LockKind::ALL[rng.usize(..3)];
        let is_flock = rng.bool();
        let (start, length) = (rng.u8(..6), rng.u8(1..6));
        let done = if is_flock {
            flock(
                descriptor,
                match kind {
                    LockKind::Read => FlockOperation::NonBlockingLockShared,
                    LockKind::Write => FlockOperation::NonBlockingLockExclusive,
                    LockKind::Unlock => FlockOperation::Unlock,
                },
            )
            .is_ok()
        } else {
            let kind = match kind {
                LockKind::Read => libc::F_RDLCK,
                LockKind::Write => libc::F_WRLCK,
                LockKind::Unlock => libc::F_UNLCK,
            };
            let lock = libc::flock {
                l_type: kind as libc::c_short,
                l_whence: libc::SEEK_SET as libc::c_short,
                l_start: start.into(),
                l_len: length.into(),
                l_pid: 0,
            };
            fcntl(descriptor.as_fd(), FcntlArg::F_OFD_SETLK(&lock)).is_ok()
        };
        let lock = FileLock {
            family: if is_flock {
                LockFamily::Flock
            } else {
                LockFamily::Ofd
            },
            kind,
            start: start.into(),
            end: u64::from(start + length - 1),
            pid: 0,
            handle,
            wait: false,
            path: b"file",
        };
        let expected = if done {
            Ok(SetOutcome::Done)
        } else {
            Err(Errno::EAGAIN)
        };
        assert_eq!(self.locks.set(*vmid, 1, &lock), expected, "{lock:?}");
    }

    fn close(&mut self, index: usize, handle: u64) {
        let (vmid, _, descriptors) = &mut self.processes[index];
        descriptors.remove(&handle);
        self.locks.close_open_file(*vmid, handle);
    }

    /// Lets a process start another, or send a descriptor to one.
    fn transfer(&mut self, from: usize, to: usize, rng: &mut fastrand::Rng) {
        let vmid = self.processes[from].0;
        let is_there = |(_, _, descriptors): &(Vmid, bool, Descriptors)| !descriptors.is_empty();
        if !is_there(&self.processes[to]) && rng.bool() {
            // A new process, which inherits everything.
            self.die(to);
            let child = self.processes[to].0;
            let copies: Vec<(u64, OwnedFd)> = self.processes[from]
                .2
                .iter()
                .map(|(handle, open)| (*handle, open[0].try_clone().unwrap()))
                .collect();
            for (handle, copy) in copies {
                for _ in 0..=rng.usize(..2) {
                    assert!(self.locks.inherit_open_file(vmid, child, handle));
                }
                self.processes[to].2.insert(handle, vec![copy]);
            }
            self.processes[to].1 = rng.bool();
            if self.processes[to].1 {
                assert_eq!(self.locks.confirm_portion(child, u64::MAX, false), 0);
            }
        } else if let Some(handle) = self.pick_handle(from, rng)
            && from != to
        {
            let (receiver, has_joined, _) = &mut self.processes[to];
            if !std::mem::replace(has_joined, true) {
                assert_eq!(self.locks.confirm_portion(*receiver, u64::MAX, false), 0);
            }
            assert!(self.locks.send_open_file(vmid, *receiver, handle));
            let copy = self.processes[from].2[&handle][0].try_clone().unwrap();
            if rng.u8(..8) == 0 {
                let receiver = self.processes[to].0;
                self.locks.retract_open_file(vmid, receiver, handle);
            } else {
                self.sent.push((to, handle, copy));
            }
        }
    }

    fn arrive(&mut self, rng: &mut fastrand::Rng) {
        if self.sent.is_empty() {
            return;
        }
        let (to, handle, descriptor) = self.sent.swap_remove(rng.usize(..self.sent.len()));
        let (vmid, _, descriptors) = &mut self.processes[to];
        assert!(self.locks.accept_open_file(*vmid, handle));
        descriptors.entry(handle).or_default().push(descriptor);
    }

    fn die(&mut self, index: usize) {
        let vmid = self.processes[index].0;
        self.processes[index].2.clear();
        self.sent.retain(|(to, ..)| *to != index);
        // Its children have all been announced, and may still join.
        self.locks.reclaim(vmid);
        self.locks.on_left(vmid);
        self.processes[index] = (self.new_vmid(), true, Descriptors::new());
    }
}

fn run(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut memory = Box::new_uninit_slice(LockTable::bytes(&LIMITS));
    let mut both = TableAndKernel {
        locks: LockTable::new(&mut Arena::new(&mut memory), &LIMITS).unwrap(),
        directory: tempfile::tempdir().unwrap(),
        processes: Vec::new(),
        sent: Vec::new(),
        next_vmid: 1,
        next_handle: 0,
    };
    for _ in 0..PROCESSES {
        let vmid = both.new_vmid();
        both.processes.push((vmid, true, Descriptors::new()));
    }
    for _ in 0..120 {
        let (one, other) = (rng.usize(..PROCESSES), rng.usize(..PROCESSES));
        let handle = both.pick_handle(one, &mut rng);
        match (rng.u8(..20), handle) {
            (0..3, _) if both.processes[one].2.len() < 3 => both.open(one),
            (3, _) => both.die(one),
            (4..8, _) => both.transfer(one, other, &mut rng),
            (8..10, _) => both.arrive(&mut rng),
            (10..12, Some(handle)) => both.close(one, handle),
            (_, Some(handle)) => both.lock(one, handle, &mut rng),
            _ => {}
        }
        assert!(both.locks.check_invariants());
    }
    for index in 0..PROCESSES {
        both.die(index);
    }
    assert_eq!(both.locks.open_file_usage().0, 0);
    assert_eq!(both.locks.lock_usage().0, 0);
}

#[test]
fn transferred_open_files_keep_locks_as_the_kernel_does() {
    let _guard = lock_tests();
    let programs = std::env::var("LOCK_PROGRAMS").ok();
    let programs = programs.map_or(1_000, |count| count.parse().unwrap());
    for seed in 0..programs {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "seed {seed}");
    }
}

fn other(path: &std::path::Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

/// Waits until the thread sleeps in a locking system call, as far as the host shows it.
fn until_waiting(thread: impl std::fmt::Display) {
    let locks = [libc::SYS_fcntl, libc::SYS_flock];
    let about = |what| std::fs::read_to_string(format!("/proc/self/task/{thread}/{what}"));
    let is_in_call = || match about("syscall") {
        Ok(call) => {
            let number = call.split(' ').next().and_then(|word| word.parse().ok());
            number.is_some_and(|number| locks.contains(&number))
        }
        Err(_) => true,
    };
    while !(is_in_call() && about("stat").unwrap().contains(") S ")) {
        thread::yield_now();
    }
}

/// The kernel's side of the test of that name in `tests/locks/holders.rs`.
#[test]
fn close_does_not_end_a_wait_in_another_thread() {
    let _guard = lock_tests();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, "").unwrap();
    for is_flock in [true, false] {
        let lock = |file: &dyn AsFd, kind: i32, wait: bool| {
            if is_flock {
                let operation = match (kind, wait) {
                    (libc::F_UNLCK, _) => FlockOperation::Unlock,
                    (_, true) => FlockOperation::LockExclusive,
                    _ => FlockOperation::NonBlockingLockExclusive,
                };
                return flock(file, operation).is_ok();
            }
            let lock = libc::flock {
                l_type: kind as libc::c_short,
                l_whence: libc::SEEK_SET as libc::c_short,
                l_start: 0,
                l_len: 0,
                l_pid: 0,
            };
            let how = if wait {
                FcntlArg::F_OFD_SETLKW(&lock)
            } else {
                FcntlArg::F_OFD_SETLK(&lock)
            };
            fcntl(file.as_fd(), how).is_ok()
        };
        let (one, third) = (other(&path), other(&path));
        assert!(lock(&one, libc::F_WRLCK, false));
        let two = OwnedFd::from(other(&path));
        let number = std::os::fd::AsRawFd::as_raw_fd(&two);
        let (sender, thread_id) = channel();
        thread::scope(|scope| {
            let waits = scope.spawn(move || {
                sender.send(rustix::thread::gettid()).unwrap();
                // SAFETY: the other thread closes it only when this one waits with it.
                #[allow(unsafe_code)]
                let two = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
                lock(&two, libc::F_WRLCK, true)
            });
            let thread_id = thread_id.recv().unwrap().as_raw_nonzero();
            until_waiting(thread_id.to_string());
            drop(two);
            assert!(!lock(&third, libc::F_WRLCK, false));
            assert!(lock(&one, libc::F_UNLCK, false));
            assert!(waits.join().unwrap(), "it got the lock");
        });
        assert!(lock(&third, libc::F_WRLCK, false), "which is gone");
    }
}

/// The kernel's side of `tests/locks/holders.rs`,
/// `lock_set_by_a_child_stays_until_the_parent_closes`.
#[test]
fn open_file_of_a_shell_keeps_the_lock_that_a_child_set() {
    let _guard = lock_tests();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let script = "(flock -n 9 || exit 1; flock -n $0 true && exit 2; exit 0) || exit $?
        flock -n $0 true && exit 3
        exec 9>&-
        flock -n $0 true || exit 4";
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("{{ {script}\n}} 9>$0")])
        .arg(&path);
    let Ok(output) = shell.output() else { return };
    let code = output.status.code();
    if code != Some(127) {
        assert_eq!(code, Some(0), "{output:?}");
    }
}
