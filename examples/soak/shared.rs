//! What all processes share: a file with record locks and another with `flock`, in which whoever has a
//! lock leaves its pid meanwhile; and values in which each counts for itself.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use libos_ipc::host::HostNode;
use libos_ipc::wire::ProcessState;
use libos_ipc::{Error, Id, Wait};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How many parts of a file are locked each by itself.
pub(crate) const PARTS: u64 = 4;
/// How long one is, in bytes: a pid.
pub(crate) const PART: u64 = 4;

/// How many processes share one value.
pub(crate) const SHARERS: u32 = 50;

/// A value that several share: how often each of them has changed it.
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

/// The number of the value that the process at a place shares with others.
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

    /// Whoever is at that part; 0: nobody.
    fn at(&self, part: u64) -> io::Result<Id> {
        let mut pid = [0; 4];
        self.0.read_exact_at(&mut pid, part * PART)?;
        Ok(Id::from_le_bytes(pid))
    }

    fn put(&self, part: u64, pid: Id) -> io::Result<()> {
        self.0.write_all_at(&pid.to_le_bytes(), part * PART)
    }

    /// Uses a part that is locked for this process alone. Another that is still there must be dead.
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

    /// That nobody who lives changes it.
    pub(crate) fn see_none(&self, node: &HostNode, part: u64, wait: Wait<'_>) -> Result<()> {
        let other = self.at(part)?;
        if other == 0 {
            return Ok(());
        }
        match node.process(other, wait) {
            Ok(process) if process.state == ProcessState::Zombie => Ok(()),
            Err(Error::NoSuchProcess | Error::Refused(_)) => Ok(()),
            Ok(process) => anyhow::bail!(
                "part {part} is locked by two: {other} is there, and {:?}",
                process.state
            ),
            Err(error) => Err(error).context("asking who is at a part"),
        }
    }
}
