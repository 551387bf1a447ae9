//! The processes of this bench.

use std::io::{Result, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use libos_ipc::Config;
use tempfile::TempDir;

use crate::common::floor;
use crate::common::process::{Child, ready, wait_for_the_end};

/// A leader in a process of its own.
pub(crate) struct Family {
    directory: TempDir,
    base: std::path::PathBuf,
    pub(crate) leader: Child,
}

impl Family {
    pub(crate) fn start(config: &Config) -> Result<Family> {
        Self::start_as("leader", config)
    }

    /// With a leader of another kind.
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

    /// Members that are connected and never ask anything.
    pub(crate) fn idle(&self, count: u32) -> Result<Vec<UnixStream>> {
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

/// What a child does.
pub(crate) fn play(role: &[String]) -> Result<()> {
    match role[0].as_str() {
        "leader" => {
            let spin = Duration::from_nanos(role[2].parse().expect("a number"));
            let config = Config {
                spin,
                ..crate::common::large()
            };
            let node = crate::kill::leader(&role[1], config)?;
            ready()?;
            wait_for_the_end()?;
            drop(node);
            Ok(())
        }
        #[cfg(feature = "secure")]
        "secure-leader" => crate::secure::leader(&role[1], role[2].parse().expect("a number")),
        "echo" => floor::echo(&role[1], role[2].parse().expect("a number")),
        "sink" => floor::sink(&role[1]),
        "target" => crate::kill::target(&role[1]),
        "crowd" => {
            let number = |at: usize| role[at].parse().expect("a number");
            crate::kill::crowd(&role[1], number(2), number(3))
        }
        "client" => crate::clients::client(&role[1], role[2].parse().expect("a number")),
        role => panic!("no role {role}"),
    }
}
