//! The host's settings of a process: its core, its priority, its number of open files.

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores of the leader and the innocent, and of the attacker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    First,
    Second,
}

/// Runs this process, and those that it starts, on one core only. Returns false if there is only
/// one.
pub(crate) fn pin(core: Core) -> Result<bool> {
    // The parent of an attacker runs on the first core only, so the inherited set says nothing.
    let mut wanted = CpuSet::new();
    wanted.set(usize::from(core == Core::Second));
    if sched_setaffinity(None, &wanted).is_ok() {
        return Ok(true);
    }
    let allowed = sched_getaffinity(None).context("the cores of this process")?;
    Ok(allowed.count() > 1)
}

/// Sets the nice value of this process.
pub(crate) fn set_nice(nice: i32) -> Result<()> {
    setpriority_process(None, nice).context("another priority")
}

/// Allows as many open files as the host lets this process have.
pub(crate) fn allow_many_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, all).context("more open files")
}
