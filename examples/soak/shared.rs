//! The shared resources: a file with record locks and another with `flock`, in which the holder of
//! a lock writes its pid; and values in which each process has a counter.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libos_ipc::host::HostNode;
use libos_ipc::{Error, Id, Pid, ProcessState, Wait};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The number of parts of a file that are locked separately.
pub(crate) const PARTS: u64 = 4;
/// The length of a part in bytes: a pid.
pub(crate) const PART: u64 = 4;

/// The time in which a process whose locks are free must be dead.
const DYING_LIMIT: Duration = Duration::from_secs(10);

/// The number of processes that share one value.
pub(crate) const SHARERS: u32 = 50;

/// A shared value: the number of changes by each of its processes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Value {
    pub(crate) sum: u64,
    pub(crate) by_place: [u64; SHARERS as usize],
}

impl Value {
    pub(crate) fn check_invariants(&self) -> bool {
        self.sum == self.by_place.iter().sum::<u64>()
    }
}

/// Returns the file beside `file` that is locked with `flock`.
pub(crate) fn flocked_file(file: &Path) -> PathBuf {
    let mut name = file.to_owned().into_os_string();
    name.push(".flock");
    name.into()
}

/// Returns the number of the value that the process in a slot shares with others.
pub(crate) fn value_of(place: u32) -> u64 {
    u64::from(place / SHARERS) + 1
}

/// A file that is written under locks.
pub(crate) struct Guarded(File);

impl Guarded {
    pub(crate) fn create(path: &Path) -> io::Result<()> {
        File::create_new(path)?.set_len(PARTS * PART)
    }

    pub(crate) fn open(path: &Path) -> io::Result<Guarded> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Guarded(file))
    }

    /// Returns the pid in that part; 0 for none.
    fn at(&self, part: u64) -> io::Result<Id> {
        let mut pid = [0; 4];
        self.0.read_exact_at(&mut pid, part * PART)?;
        Ok(Id::from_le_bytes(pid))
    }

    fn put(&self, part: u64, pid: Id) -> io::Result<()> {
        self.0.write_all_at(&pid.to_le_bytes(), part * PART)
    }

    /// Uses a part that is locked for this process alone. A process whose pid is still there must
    /// be dead.
    pub(crate) fn use_alone(
        &self,
        node: &HostNode,
        part: u64,
        pid: Id,
        wait: Wait<'_>,
    ) -> Result<()> {
        self.see_none(node, part, wait)?;
        self.put(part, pid)?;
        std::thread::yield_now();
        let now = self.at(part)?;
        ensure!(
            now == pid,
            "{now} came to part {part}, which {pid} has locked"
        );
        Ok(self.put(part, 0)?)
    }

    /// Checks that no live process changes the part.
    pub(crate) fn see_none(&self, node: &HostNode, part: u64, wait: Wait<'_>) -> Result<()> {
        let other = self.at(part)?;
        if other == 0 {
            return Ok(());
        }
        // As in the kernel, the locks of a process that dies are free a moment before it is dead.
        let until = Instant::now() + DYING_LIMIT;
        loop {
            match node.process(Pid::new(other), wait) {
                Ok(process) if process.state == ProcessState::Zombie => return Ok(()),
                Err(Error::NoSuchProcess | Error::Refused { .. }) => return Ok(()),
                Ok(_) if Instant::now() < until => sleep(Duration::from_millis(1)),
                Ok(process) => anyhow::bail!(
                    "part {part} is locked by two: {other} is there, and {:?}",
                    process.state
                ),
                Err(error) => return Err(error).context("asking who is at a part"),
            }
        }
    }
}
