//! The settings of a process at the host: its core, its priority, its limit of open files.

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores of the leader and the innocent, and of the attacker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    First,
    Second,
}

/// Pins this process, and those that it starts, to one core. Returns false if the host has only one.
pub(crate) fn pin(core: Core) -> Result<bool> {
    // The parent of an attacker is pinned to the first core, so the inherited set does not tell which cores there are.
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
