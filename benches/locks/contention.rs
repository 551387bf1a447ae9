//! Two processes that compete for one lock all the time.

use std::io::Result;
use std::path::Path;
use std::time::{Duration, Instant};

use libos_ipc::host::HostNode;
use libos_ipc::wire::{FileLock, LockKind};
use libos_ipc::{Config, Identity, Vmid};

use crate::common::process::{Child, ready};
use crate::common::{WAIT, row};
use crate::{kernel, lock};

/// The length of a measurement.
const TIME: Duration = Duration::from_secs(1);

/// Locks and unlocks as fast as possible, by the kernel or by the family, and prints the number of
/// rounds.
pub(crate) fn contender(role: &[String]) -> Result<()> {
    let path = Path::new(&role[2]);
    let count = if role[1] == "kernel" {
        let file = kernel::open(path)?;
        ready()?;
        contend(|kind| match kind {
            LockKind::Unlock => kernel::set(&file, libc::F_UNLCK, 0, true),
            _ => kernel::set(&file, libc::F_WRLCK, 0, true),
        })?
    } else {
        let vmid = Vmid::new(role[3].parse().expect("a number")).expect("not 0");
        let identity = Identity {
            parent: None,
            ..Identity::child(vmid, Vmid::LEADER)
        };
        let node = HostNode::start(path, identity, Config::DEFAULT)?;
        let pid = node.join(WAIT).expect("there is a leader");
        ready()?;
        let count = contend(|kind| {
            let wanted = FileLock {
                wait: true,
                ..lock(pid.get(), 0, kind)
            };
            node.set_lock(&wanted, WAIT).map_err(std::io::Error::other)
        })?;
        drop(node);
        count
    };
    println!("{count}");
    Ok(())
}

/// Sets and clears a lock for a while, and returns how often.
fn contend(set: impl Fn(LockKind) -> Result<()>) -> Result<u32> {
    // Both processes start together, so that neither has the lock to itself for long.
    std::io::stdin().read_line(&mut String::new())?;
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < TIME {
        set(LockKind::Write)?;
        set(LockKind::Unlock)?;
        count += 1;
    }
    Ok(count)
}

/// Runs two contenders, for the kernel's locks or for those of the family, and returns the number of their rounds.
fn rounds(locks_of: &str, path: &Path) -> Result<u32> {
    let path = path.to_str().expect("UTF-8");
    let mut contenders = [
        Child::start(&["contender", locks_of, path, "2"])?,
        Child::start(&["contender", locks_of, path, "3"])?,
    ];
    for contender in &mut contenders {
        contender.tell("go")?;
    }
    let mut sum = 0;
    for contender in &mut contenders {
        sum += contender.line()?.parse::<u32>().expect("a number");
    }
    Ok(sum)
}

pub(crate) fn measure() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("f");
    let _leader = Child::start(&["leader", base.to_str().expect("UTF-8")])?;
    let theirs = TIME / rounds("kernel", &directory.path().join("file"))?;
    let ours = TIME / rounds("family", &base)?;
    row(
        "two contend for a lock, each turn: the kernel",
        theirs,
        None,
    );
    row(
        "two contend for a lock, each turn: ours",
        ours,
        Some(theirs),
    );
    Ok(())
}
