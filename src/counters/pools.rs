//! The usage of a node's pools.

use crate::config::Capacities;

/// The usage of one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// The number of entries in use.
    pub now: usize,
    /// The highest number of entries in use so far.
    pub peak: usize,
    /// The limit.
    pub limit: usize,
}

impl Usage {
    /// Sets the present and the highest number of entries in use.
    pub(crate) fn set(&mut self, (now, peak): (usize, usize)) {
        (self.now, self.peak) = (now, peak);
    }
}

/// Defines the pools, each with its displayed name.
macro_rules! pools {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The usage of a node's pools.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Pools {
            $($(#[$doc])* pub $name: Usage,)*
        }

        impl Pools {
            /// Iterates over the pools with their names.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, Usage)> {
                [$(($text, self.$name),)*].into_iter()
            }
        }
    };
}

pools! {
    /// Peers.
    peers = "peers",
    /// Waiting calls.
    waiters = "calls that wait",
    /// ID ranges in the leader's table.
    ranges = "ID ranges of the family",
    /// ID ranges of this process.
    own_ranges = "own ID ranges",
    /// Processes, zombies and pids of groups and sessions in the leader's table.
    processes = "processes",
    /// Signals that are queued one by one at the leader.
    queued_signals = "queued signals",
    /// Children of this process.
    children = "children",
    /// File locks in the leader's table.
    locks = "file locks",
    /// Files with locks in the leader's table.
    locked_files = "files with locks",
    /// Waiting requests for file locks.
    waiting_for_locks = "waiting for file locks",
    /// Open files with locks.
    lock_handles = "open files with locks",
    /// Files that the leader has delegated to members.
    delegations = "delegations",
    /// Files that are delegated to this process.
    delegated_files = "delegated files",
    /// Sync handles that this process uses.
    sync_handles = "sync handles",
    /// Sync handles that any process uses, at the leader.
    served_handles = "sync handles of the family",
    /// Their clients: pairs of a handle and a process that uses it.
    sync_clients = "their clients",
    /// Bytes waiting to be sent to the peer with the most of them.
    send_queue = "fullest send queue, bytes",
}

impl Pools {
    /// Returns pools without any use.
    // Not inlined: the compiler would keep each number in a place of its own.
    #[cfg_attr(static_library, inline(never))]
    pub(crate) fn of(limits: &Capacities) -> Pools {
        let pool = |limit| Usage {
            limit,
            ..Usage::default()
        };
        Pools {
            peers: pool(limits.peers),
            waiters: pool(limits.waiters),
            ranges: pool(limits.ranges),
            own_ranges: pool(limits.own_ranges),
            processes: pool(limits.processes),
            queued_signals: pool(limits.queued_signals),
            children: pool(limits.children),
            locks: pool(limits.locks.locks),
            locked_files: pool(limits.locks.files),
            waiting_for_locks: pool(limits.locks.waiting),
            lock_handles: pool(limits.locks.open_files),
            // The leader has a part of the files for them.
            delegations: pool(0),
            delegated_files: pool(limits.max_delegated_files()),
            sync_handles: pool(limits.sync_handles),
            served_handles: pool(limits.leases.handles),
            sync_clients: pool(limits.leases.clients),
            send_queue: pool(limits.send_queue / 2),
        }
    }
}
