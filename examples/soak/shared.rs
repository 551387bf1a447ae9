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
pub(crate) const PART_LENGTH: u64 = 4;

/// The time after which a process must be dead whose locks are free.
const DEATH_LIMIT: Duration = Duration::from_secs(10);

/// The number of processes that share one value.
pub(crate) const SHARERS: u32 = 50;

/// A shared value: the number of changes by each of its processes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Value {
    /// The number of changes by all processes.
    pub(crate) sum: u64,
    /// The number of changes by the processes of each slot.
    pub(crate) by_slot: [u64; SHARERS as usize],
}

impl Value {
    pub(crate) fn check_invariants(&self) -> bool {
        self.sum == self.by_slot.iter().sum::<u64>()
    }
}

/// Returns the path of the file beside `file` that is locked with `flock`.
pub(crate) fn flocked_path(file: &Path) -> PathBuf {
    let mut name = file.to_owned().into_os_string();
    name.push(".flock");
    name.into()
}

/// Returns the number of the value that the process in a slot shares with others.
pub(crate) fn value_id(slot: u32) -> u64 {
    u64::from(slot / SHARERS) + 1
}

/// A file of which each part is written under a lock.
pub(crate) struct LockedFile(File);

impl LockedFile {
    pub(crate) fn create(path: &Path) -> io::Result<()> {
        File::create_new(path)?.set_len(PARTS * PART_LENGTH)
    }

    pub(crate) fn open(path: &Path) -> io::Result<LockedFile> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(LockedFile(file))
    }

    /// Returns the pid in that part; 0 for none.
    fn read_pid(&self, part: u64) -> io::Result<Id> {
        let mut pid = [0; 4];
        self.0.read_exact_at(&mut pid, part * PART_LENGTH)?;
        Ok(Id::from_le_bytes(pid))
    }

    fn write_pid(&self, part: u64, pid: Id) -> io::Result<()> {
        self.0.write_all_at(&pid.to_le_bytes(), part * PART_LENGTH)
    }

    /// Writes to a part that is locked for this process alone. A process whose pid is still in it must be dead.
    pub(crate) fn use_exclusively(
        &self,
        node: &HostNode,
        part: u64,
        pid: Id,
        wait: Wait<'_>,
    ) -> Result<()> {
        self.check_unused(node, part, wait)?;
        self.write_pid(part, pid)?;
        std::thread::yield_now();
        let found = self.read_pid(part)?;
        ensure!(
            found == pid,
            "{found} has written to part {part}, which {pid} has locked"
        );
        Ok(self.write_pid(part, 0)?)
    }

    /// Checks that no live process changes the part.
    pub(crate) fn check_unused(&self, node: &HostNode, part: u64, wait: Wait<'_>) -> Result<()> {
        let other = self.read_pid(part)?;
        if other == 0 {
            return Ok(());
        }
        // As in the kernel, the locks of a process that dies are free a moment before it is dead.
        let until = Instant::now() + DEATH_LIMIT;
        loop {
            match node.process(Pid::new(other), wait) {
                Ok(process) if process.state == ProcessState::Zombie => return Ok(()),
                Err(Error::NoSuchProcess | Error::Refused { .. }) => return Ok(()),
                Ok(_) if Instant::now() < until => sleep(Duration::from_millis(1)),
                Ok(process) => anyhow::bail!(
                    "part {part} is locked by two: {other} is there, and {:?}",
                    process.state
                ),
                Err(error) => {
                    return Err(error).context("querying the process whose pid is in a part");
                }
            }
        }
    }
}
