//! The limits of a node.

use crate::file_locks::LockLimits;
use crate::parts;
use crate::shared_state::LeaseLimits;
use crate::wire::{Answer, DelegatedLocks};

/// The limits of one node. Each is a number of entries; at the limit a call gets
/// [`Error::Full`](crate::Error::Full) with the name of the limit.
///
/// A new version may add fields, so a value is built from another: `Capacities { peers: 8,
/// ..Capacities::DEFAULT }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Other processes that this node can be connected to at once.
    pub peers: usize,
    /// Accepted streams whose peer has not stated its VMID yet.
    pub unidentified: usize,
    /// Calls that can wait at once for an answer, or for room to send. A quarter of them, at most 16, is set aside
    /// for calls that end by themselves: calls that wait for a lock, a shared value or the end of a process get the
    /// rest.
    pub waiters: usize,
    /// The longest frame received from a peer or sent to one, in bytes. The node has one buffer of
    /// this size for each peer.
    pub frame_length: usize,
    /// The bytes that can wait to be sent to one peer. The node has two buffers of half this size
    /// for each peer, and half must hold the longest frame and a reserve of 128 bytes for answers. If half does not hold a path (4125
    /// bytes), requests for metadata of this process are refused (`ENOMEM`).
    pub send_queue: usize,
    /// ID ranges in the leader's table. Up to a quarter of them, and at most 4096, can be IDs that
    /// were given to processes which have not connected yet. A member that is not the leader has
    /// none.
    pub ranges: usize,
    /// ID ranges that this process can own: one for its children, those of its threads (32 IDs in
    /// each), and IDs that were transferred to it.
    pub own_ranges: usize,
    /// Processes and zombies in the leader's table, and pids that only name a group or session. A
    /// member that is not the leader has none.
    pub processes: usize,
    /// Real-time signals (32 to 64), and signals for threads, that are queued one by one at the
    /// leader until their target has joined, or reads. At the limit a signal for a thread is
    /// refused (`EAGAIN`), and a signal for a process, a group or all is pending once, as with
    /// `kill(2)`. As many calls can wait at the leader for such a target's answer. A member that is
    /// not the leader has none.
    pub queued_signals: usize,
    /// Children of this process that are alive or were not reaped.
    pub children: usize,
    /// Calls that can request a path or credentials at once; the node has a buffer of 4 KiB for
    /// each.
    pub reply_buffers: usize,
    /// File locks in the leader's tables.
    pub locks: LockLimits,
    /// Files whose record locks the leader may delegate to this process at once, if this is not the
    /// leader: locks on such a file need no message. Zero: none. It needs a frame length of
    /// [`Capacities::DELEGATION_FRAME`], here and at the leader.
    pub delegated_files: usize,
    /// Sync handles that this process uses at once.
    pub sync_handles: usize,
    /// The greatest length of the data of a sync handle, in bytes, the same in all processes of the
    /// family. A frame with the data must not exceed the frame length: it is 41 bytes longer than
    /// the data.
    pub sync_data: usize,
    /// Sync handles in the leader's tables.
    pub leases: LeaseLimits,
    /// The number of events that [`Node::events`](crate::Node::events) keeps, rounded up to a power
    /// of two. Zero: none, at no cost.
    pub events: usize,
}

impl Capacities {
    /// Limits for a family of up to 64 processes, in less than 2.8 MiB. The tables that the members
    /// share are large enough to reserve a place for each ([`Quota::Fair`](crate::Quota::Fair)).
    pub const DEFAULT: Capacities = Capacities {
        peers: 64,
        unidentified: 8,
        waiters: 64,
        frame_length: 4352,
        send_queue: 16 * 1024,
        ranges: 2048,
        own_ranges: 128,
        processes: 264,
        queued_signals: 256,
        children: 64,
        reply_buffers: 4,
        locks: LockLimits {
            locks: 1024,
            files: 264,
            waiting: 264,
            open_files: 512,
        },
        delegated_files: 8,
        sync_handles: 16,
        sync_data: 1024,
        leases: LeaseLimits {
            handles: 264,
            clients: 512,
        },
        events: 256,
    };

    /// Limits for a host process that leads hundreds of members. Memory that is never used stays
    /// untouched.
    pub const LARGE: Capacities = Capacities {
        peers: 2048,
        unidentified: 64,
        waiters: 1024,
        frame_length: 16 * 1024,
        send_queue: 64 * 1024,
        ranges: 262_144,
        own_ranges: 1024,
        processes: 8200,
        queued_signals: 4096,
        children: 1024,
        reply_buffers: 64,
        locks: LockLimits {
            locks: 65_536,
            files: 8200,
            waiting: 8200,
            open_files: 16_384,
        },
        delegated_files: 64,
        sync_handles: 256,
        sync_data: 1024,
        leases: LeaseLimits {
            handles: 8200,
            clients: 16_384,
        },
        events: 4096,
    };
}

impl Capacities {
    /// The length of the longest frame with the locks of a file, in bytes.
    pub const DELEGATION_FRAME: usize = DelegatedLocks::frame_length(DelegatedLocks::MAX);

    /// Returns true if a frame holds the longest list of locks that returns with a delegation.
    pub(crate) const fn fits_delegation(&self) -> bool {
        parts::DELEGATIONS && self.frame_length >= Self::DELEGATION_FRAME
    }

    /// Returns true if a peer's queue can hold an answer with metadata.
    pub(crate) const fn fits_metadata(&self) -> bool {
        self.send_queue / 2 >= Answer::LONGEST_META
    }

    /// Returns the number of files that can be delegated to a process that is not the leader.
    pub(crate) const fn max_delegated_files(&self) -> usize {
        if self.fits_delegation() {
            self.delegated_files
        } else {
            0
        }
    }
}

impl Default for Capacities {
    fn default() -> Self {
        Self::DEFAULT
    }
}
