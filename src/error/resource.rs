//! The bounded resources of a node.

use core::fmt;

/// A bounded resource of a node. Each has its limit in [`Capacities`](crate::Capacities).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// Peers that this node is connected to.
    Peers,
    /// Bytes waiting to be sent to one peer.
    SendQueue,
    /// Calls that wait for an answer.
    Waiters,
    /// ID ranges in the leader's table.
    Ranges,
    /// ID ranges that this process owns.
    OwnRanges,
    /// Processes, zombies, and pids of groups and sessions in the leader's table.
    Processes,
    /// Children of this process that are alive or were not reaped.
    Children,
    /// Calls that request metadata at once.
    ReplyBuffers,
    /// Sync handles that this process uses.
    SyncHandles,
    /// The length of one frame.
    FrameLength,
    /// The length of the data of a sync handle, which must be the same in all processes of the
    /// family.
    SyncData,
    /// The memory passed to the node at its creation.
    Memory,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resource::Peers => "peers",
            Resource::SendQueue => "send queue bytes",
            Resource::Waiters => "waiters",
            Resource::Ranges => "the leader's ID ranges",
            Resource::OwnRanges => "this process's ID ranges",
            Resource::Processes => "the leader's processes",
            Resource::Children => "children of this process",
            Resource::ReplyBuffers => "calls for metadata",
            Resource::SyncHandles => "sync handles of this process",
            Resource::FrameLength => "frame length",
            Resource::SyncData => "data of a sync handle",
            Resource::Memory => "node memory",
        })
    }
}
