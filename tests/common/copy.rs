//! A process that was forked and executes nothing: it has copies of all descriptors.
#![allow(unsafe_code)]

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pause};

/// The copy lives until this is dropped.
pub(crate) struct Copy(Pid);

impl Copy {
    pub(crate) fn fork() -> Copy {
        // SAFETY: the copy makes system calls and nothing else, until it is killed.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => loop {
                pause();
            },
            ForkResult::Parent { child } => Copy(child),
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGKILL).unwrap();
        waitpid(self.0, None).unwrap();
    }
}
