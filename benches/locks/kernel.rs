//! The host kernel's own record locks.

use std::fs::{File, OpenOptions};
use std::io::Result;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use tempfile::TempDir;

use crate::STEP;
use crate::common::process::{Child, ready, wait_for_the_end};

/// A file on which another process holds record locks of the kernel.
pub(crate) struct Kernel {
    file: File,
    _holder: Child,
    _directory: TempDir,
}

pub(crate) fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// Sets or clears a lock with `F_SETLK` or, if the call may wait, `F_SETLKW`.
pub(crate) fn set(file: &File, kind: i32, start: u64, wait: bool) -> Result<()> {
    let lock = libc::flock {
        l_type: i16::try_from(kind).expect("small"),
        l_whence: 0,
        l_start: i64::try_from(start).expect("small"),
        l_len: (STEP / 2).cast_signed(),
        l_pid: 0,
    };
    let argument = if wait {
        FcntlArg::F_SETLKW(&lock)
    } else {
        FcntlArg::F_SETLK(&lock)
    };
    fcntl(file, argument)?;
    Ok(())
}

impl Kernel {
    pub(crate) fn new(held: u32) -> Result<Kernel> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("file");
        let file = open(&path)?;
        let path = path.to_str().expect("UTF-8");
        let holder = Child::start(&["holder", path, &held.to_string()])?;
        Ok(Kernel {
            file,
            _holder: holder,
            _directory: directory,
        })
    }

    /// Sets and clears a lock `count` times. Returns the time of one set and one clear.
    pub(crate) fn set_and_clear(&self, offsets: &[u64], count: u32) -> Result<Duration> {
        let start = Instant::now();
        for offset in offsets.iter().cycle().take(count as usize) {
            set(&self.file, libc::F_WRLCK, *offset, false)?;
            set(&self.file, libc::F_UNLCK, *offset, false)?;
        }
        Ok(start.elapsed() / count)
    }
}

/// Runs a process that holds that many locks.
pub(crate) fn hold(path: &str, held: u32) -> Result<()> {
    let file = open(Path::new(path))?;
    for number in 0..held {
        set(&file, libc::F_WRLCK, u64::from(number) * STEP, false)?;
    }
    ready()?;
    wait_for_the_end()
}
