//! The processes of this bench.

use std::io::{Result, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use libos_ipc::Config;
use tempfile::TempDir;

use crate::common::process::Child;

/// A family whose leader is a process of its own.
pub(crate) struct Family {
    directory: TempDir,
    base: std::path::PathBuf,
    pub(crate) leader: Child,
}

impl Family {
    pub(crate) fn start(config: &Config) -> Result<Family> {
        Self::start_as("leader", config)
    }

    /// Starts a leader in that role.
    pub(crate) fn start_as(role: &str, config: &Config) -> Result<Family> {
        let directory = tempfile::tempdir()?;
        let base = directory.path().join("family");
        let spin = config.spin.as_nanos().to_string();
        let leader = Child::start(&[role, base.to_str().expect("UTF-8"), &spin])?;
        Ok(Family {
            directory,
            base,
            leader,
        })
    }

    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    /// Connects members that never send a request.
    pub(crate) fn connect_idle_members(&self, count: u32) -> Result<Vec<UnixStream>> {
        let leader = self.directory.path().join("family.1");
        (0..count)
            .map(|number| {
                let mut stream = UnixStream::connect(&leader)?;
                stream.write_all(&(10_000 + number).to_le_bytes())?;
                Ok(stream)
            })
            .collect()
    }
}
