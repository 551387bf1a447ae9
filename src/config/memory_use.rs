//! The memory that a node needs.

use core::fmt;

use crate::store::total;

/// The memory of each part of a node, in bytes. It is known at compile time; `Display` prints a
/// table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryUse {
    /// The entries of the peer table, without their buffers.
    pub peers: usize,
    /// Buffers for incoming frames.
    pub receive_buffers: usize,
    /// Buffers for outgoing frames.
    pub send_buffers: usize,
    /// Waiting calls.
    pub waiters: usize,
    /// The leader's tables.
    pub leader: usize,
    /// This process's own IDs.
    pub own_ids: usize,
    /// This process's children.
    pub children: usize,
    /// Files whose locks are delegated to this process.
    pub delegated_files: usize,
    /// Sync handles of this process.
    pub sync_handles: usize,
    /// Sync handles of the family, at the leader.
    pub leases: usize,
    /// The frames and tables that are kept for a change of the leader.
    pub succession: usize,
    /// The last events.
    pub events: usize,
}

impl MemoryUse {
    /// Returns the sum: the length of the memory for [`Node::new`](crate::Node::new).
    pub const fn total(&self) -> usize {
        total!(
            self.peers,
            self.receive_buffers,
            self.send_buffers,
            self.waiters,
            self.leader,
            self.own_ids,
            self.children,
            self.delegated_files,
            self.sync_handles,
            self.leases,
            self.succession,
            self.events,
        )
    }
}

impl fmt::Display for MemoryUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, bytes) in [
            ("peers", self.peers),
            ("receive buffers", self.receive_buffers),
            ("send buffers", self.send_buffers),
            ("waiters", self.waiters),
            ("leader's tables", self.leader),
            ("own IDs", self.own_ids),
            ("children", self.children),
            ("delegated files", self.delegated_files),
            ("sync handles", self.sync_handles),
            ("leases", self.leases),
            ("kept for succession", self.succession),
            ("events", self.events),
            ("total", self.total()),
        ] {
            writeln!(f, "{name:<16} {bytes:>12} bytes")?;
        }
        Ok(())
    }
}
