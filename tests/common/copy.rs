//! A process that was forked and executes nothing: it has copies of all descriptors.
#![allow(unsafe_code)]

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pause};

/// The copy of a process. It is killed when this is dropped.
pub(crate) struct ForkedCopy(Pid);

impl ForkedCopy {
    /// Forks a copy of this process, which only sleeps.
    pub(crate) fn fork() -> ForkedCopy {
        // SAFETY: the copy makes system calls and nothing else, until it is killed.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => loop {
                pause();
            },
            ForkResult::Parent { child } => ForkedCopy(child),
        }
    }
}

impl Drop for ForkedCopy {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGKILL).unwrap();
        waitpid(self.0, None).unwrap();
    }
}
