//! A family of nodes on the host: a leader, and the members that it starts.
#![allow(dead_code, reason = "not all of it is needed in each test")]

use std::path::PathBuf;
use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::{Config, Identity, Wait};
use tempfile::TempDir;

/// Longer than any wait that succeeds.
pub(crate) const LONG: Duration = Duration::from_secs(10);

/// A wait of up to [`LONG`].
pub(crate) const WAIT: Wait<'static> = Wait::at_most(LONG);

/// A family whose processes listen in a directory of its own.
pub(crate) struct Family {
    _directory: TempDir,
    pub(crate) base: PathBuf,
    pub(crate) leader: HostNode,
}

impl Family {
    /// Makes a family with a leader, which has joined.
    pub(crate) fn new() -> Family {
        Family::with(Config::DEFAULT)
    }

    /// Like [`Family::new`], with this configuration of the leader.
    pub(crate) fn with(config: Config) -> Family {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("f");
        let leader = HostNode::start(&base, Identity::LEADER, config).unwrap();
        leader.join(WAIT).unwrap();
        Family {
            _directory: directory,
            base,
            leader,
        }
    }

    /// Returns a new child of the leader, which has joined.
    pub(crate) fn member(&self) -> HostNode {
        let identity = self.leader.start_child(WAIT).unwrap();
        let node = HostNode::start(&self.base, identity, Config::DEFAULT).unwrap();
        node.join(WAIT).unwrap();
        node
    }
}
