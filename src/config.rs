//! What an embedder decides: every limit of a node, and how it is driven.

use core::fmt;
use core::time::Duration;

use crate::file_locks::LockLimits;
use crate::leader::SignalLimits;
use crate::shared_state::LeaseLimits;
use crate::wire::{Answer, DelegatedLocks};
use crate::{Id, Vmid};

/// The limits of one node. Each is the number of things that fit; at the limit a call gets
/// [`Error::Full`](crate::Error::Full) which names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Other processes this node can be connected with at once.
    pub peers: usize,
    /// Accepted streams whose peer has not said yet which VMID it is.
    pub unidentified: usize,
    /// Calls that can wait for an answer, or for room to send, at once.
    pub waiters: usize,
    /// The longest frame taken from a peer or sent to one, in bytes. One buffer of this size is
    /// kept for each peer.
    pub frame_length: usize,
    /// The bytes that can wait to be sent to one peer. Two buffers of half this size are kept for
    /// each peer; half must hold the longest frame. Where half does not hold a path (4125 bytes),
    /// who asks for metadata of this process is refused (`ENOMEM`).
    pub send_queue: usize,
    /// ID ranges in the leader's table; as many as a quarter of them, and 4096 at most, can be IDs that
    /// were given to processes which have not come yet. A member that is not the leader keeps none.
    pub ranges: usize,
    /// ID ranges that this process can own: one for its children, those of its threads (32 in each), and IDs
    /// that were handed to it.
    pub own_ranges: usize,
    /// Processes in the leader's table, and zombies, and pids that only name a group or session
    /// yet. A member that is not the leader keeps none.
    pub processes: usize,
    /// Real-time signals (32 to 64), and signals for threads, that wait at the leader one by one: until
    /// their target has joined, or reads. At the limit one for a thread is refused (`EAGAIN`), and one
    /// for a process, a group or all is pending once, as with `kill(2)`. As many calls can wait at the
    /// leader for such a target's answer. A member that is not the leader keeps none.
    pub queued_signals: usize,
    /// Children of this process that live or were not reaped.
    pub children: usize,
    /// Calls that ask for a path or for credentials at once; a buffer of 4 KiB is kept for each.
    pub reply_buffers: usize,
    /// File locks in the leader's tables.
    pub locks: LockLimits,
    /// Files whose record locks the leader may lend to this process at once, if it is not the leader
    /// itself: locks there take no message. Zero: none. It needs a frame length of
    /// [`DelegatedLocks::frame_length`](crate::wire::DelegatedLocks::frame_length) of
    /// [`DelegatedLocks::MAX`](crate::wire::DelegatedLocks::MAX), here and at the leader.
    pub delegated_files: usize,
    /// Sync handles that this process uses at once.
    pub sync_handles: usize,
    /// The most data of a sync handle, in bytes, the same in all processes of the family. A frame
    /// with that has to fit the frame length: it is 41 bytes longer.
    pub sync_data: usize,
    /// Sync handles in the leader's tables.
    pub leases: LeaseLimits,
    /// The last events that are kept, for [`Node::events`](crate::Node::events); made a power of
    /// two. Zero: none, at no cost.
    pub events: usize,
}

impl Capacities {
    /// A family of up to 64 processes, in less than 2 MiB.
    pub const DEFAULT: Capacities = Capacities {
        peers: 64,
        unidentified: 8,
        waiters: 64,
        frame_length: 4352,
        send_queue: 16 * 1024,
        ranges: 2048,
        own_ranges: 128,
        processes: 128,
        queued_signals: 256,
        children: 64,
        reply_buffers: 4,
        locks: LockLimits {
            locks: 1024,
            files: 128,
            waiting: 64,
            open_files: 256,
        },
        delegated_files: 8,
        sync_handles: 16,
        sync_data: 1024,
        leases: LeaseLimits {
            handles: 64,
            clients: 512,
        },
        events: 256,
    };

    /// A host process that leads hundreds of members: memory that is never used stays untouched.
    pub const LARGE: Capacities = Capacities {
        peers: 2048,
        unidentified: 64,
        waiters: 1024,
        frame_length: 16 * 1024,
        send_queue: 64 * 1024,
        ranges: 262_144,
        own_ranges: 1024,
        processes: 4096,
        queued_signals: 4096,
        children: 1024,
        reply_buffers: 64,
        locks: LockLimits {
            locks: 65_536,
            files: 4096,
            waiting: 1024,
            open_files: 16_384,
        },
        delegated_files: 64,
        sync_handles: 256,
        sync_data: 1024,
        leases: LeaseLimits {
            handles: 1024,
            clients: 16_384,
        },
        events: 4096,
    };
}

impl Capacities {
    /// Whether a frame holds all that comes back with a file that was lent.
    pub(crate) const fn fits_delegation(&self) -> bool {
        self.frame_length >= DelegatedLocks::frame_length(DelegatedLocks::MAX)
    }

    /// Whether a peer's queue ever has room for an answer with metadata.
    pub(crate) const fn fits_metadata(&self) -> bool {
        self.send_queue / 2 >= Answer::LONGEST_META
    }

    /// The limits of the leader's signals. A target is a process or a connected member.
    pub const fn signals(&self) -> SignalLimits {
        SignalLimits {
            targets: self.processes.saturating_add(self.peers),
            queued: self.queued_signals,
        }
    }

    /// How many files a process that is no leader can borrow.
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

/// Who moves a node's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driving {
    /// A thread of its own, in [`Node::work`](crate::Node::work).
    Worker,
    /// Whoever calls: [`Node::poll`](crate::Node::poll) between calls, and every blocking call
    /// while it waits. For a program with a single thread.
    Caller,
}

/// All that is decided about a node when it is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The limits.
    pub capacities: Capacities,
    /// Who moves the bytes.
    pub driving: Driving,
    /// How long a thread that waits looks again and again before it sleeps. Waking a sleeping
    /// core may take longer than the whole exchange. It is given up by itself, and tried again
    /// now and then, where it doesn't pay (a single core, a slow peer). Zero: never.
    pub spin: Duration,
    /// Whether the leader hands out released IDs again once the highest was reached, as a kernel does
    /// with pids. Without, a family has come to its end when it has used 131,072 ranges.
    pub wrap_ids: bool,
    /// Whether the leader leaves a dead member's ID ranges alone. By default it takes them back.
    pub keep_ranges_of_dead: bool,
    /// How long a peer whose backlog is full, or that does not say its VMID, is waited for.
    pub connect_limit: Duration,
    /// How long a member may take to give back a file whose locks are lent to it, while others wait
    /// for it: then its connection is closed, and its locks are gone. And how long a leader may take
    /// to say what became of a wait for a lock that was called off: then the connection is closed, too.
    pub recall_limit: Duration,
    /// As the leader: how long a process that is being started may take to join after its parent has
    /// ended. One that has not come by then is abandoned, and what it was given is free. While its parent
    /// lives there is no such limit: the parent [buries](crate::Node::abandon_child) one that will not come.
    pub start_limit: Duration,
}

impl Config {
    /// The default limits, a worker thread, a short spin, and IDs that are given out again.
    pub const DEFAULT: Config = Config {
        capacities: Capacities::DEFAULT,
        driving: Driving::Worker,
        spin: Duration::from_micros(100),
        wrap_ids: true,
        keep_ranges_of_dead: false,
        connect_limit: Duration::from_secs(5),
        recall_limit: Duration::from_secs(5),
        start_limit: Duration::from_mins(1),
    };
}

impl Default for Config {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Who a process is in its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// This process.
    pub vmid: Vmid,
    /// The process that started it; none for the first.
    pub parent: Option<Vmid>,
    /// The leader; none if this process is the leader itself.
    pub leader: Option<Vmid>,
    /// The pid that the parent took for this process ([`Node::start_child`](crate::Node::start_child)); 0 for none:
    /// then [`Node::join`](crate::Node::join) takes one.
    pub pid: Id,
    /// The parent's pid; 0 for none.
    pub parent_pid: Id,
}

impl Identity {
    /// The first process of a family: VMID 1, the leader.
    pub const LEADER: Identity = Identity {
        vmid: Vmid::LEADER,
        parent: None,
        leader: None,
        pid: 0,
        parent_pid: 0,
    };

    /// A process that `parent` started, in the family led by the first process, without a pid.
    /// Where the parent uses this crate too, [`Node::start_child`](crate::Node::start_child) gives
    /// the identity, with a pid.
    pub const fn child(vmid: Vmid, parent: Vmid) -> Identity {
        Identity {
            vmid,
            parent: Some(parent),
            leader: Some(Vmid::LEADER),
            pid: 0,
            parent_pid: 0,
        }
    }

    /// The identity as five numbers, for a command line or a boot message:
    /// [`Identity::from_numbers`] reads them.
    pub const fn numbers(&self) -> [u32; 5] {
        [
            self.vmid.get(),
            number(self.parent),
            number(self.leader),
            self.pid,
            self.parent_pid,
        ]
    }

    /// The identity that [`Identity::numbers`] gave. `None` if these are no such numbers.
    pub const fn from_numbers(numbers: [u32; 5]) -> Option<Identity> {
        let [vmid, parent, leader, pid, parent_pid] = numbers;
        let Some(vmid) = Vmid::new(vmid) else {
            return None;
        };
        Some(Identity {
            vmid,
            parent: Vmid::new(parent),
            leader: Vmid::new(leader),
            pid,
            parent_pid,
        })
    }

    /// Whether this process is the leader.
    pub const fn is_leader(&self) -> bool {
        self.leader.is_none()
    }
}

const fn number(vmid: Option<Vmid>) -> u32 {
    match vmid {
        Some(vmid) => vmid.get(),
        None => 0,
    }
}

/// How much memory each part of a node takes, in bytes. Known at compile time; `Display` gives a
/// table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// Peers: their places in the table, without their buffers.
    pub peers: usize,
    /// Buffers for incoming frames.
    pub receive_buffers: usize,
    /// Buffers for outgoing frames.
    pub send_buffers: usize,
    /// Calls that wait.
    pub waiters: usize,
    /// The leader's tables.
    pub leader: usize,
    /// This process's own IDs.
    pub own_ids: usize,
    /// This process's children.
    pub children: usize,
    /// Files whose locks are lent to this process.
    pub delegated_files: usize,
    /// Sync handles of this process.
    pub sync_handles: usize,
    /// Sync handles of the family, at the leader.
    pub leases: usize,
    /// The last events.
    pub events: usize,
}

impl MemoryUse {
    /// All of it: what [`Node::new`](crate::Node::new) has to be given.
    pub const fn total(&self) -> usize {
        self.peers
            .saturating_add(self.receive_buffers)
            .saturating_add(self.send_buffers)
            .saturating_add(self.waiters)
            .saturating_add(self.leader)
            .saturating_add(self.own_ids)
            .saturating_add(self.children)
            .saturating_add(self.delegated_files)
            .saturating_add(self.sync_handles)
            .saturating_add(self.leases)
            .saturating_add(self.events)
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
            ("events", self.events),
            ("total", self.total()),
        ] {
            writeln!(f, "{name:<16} {bytes:>12} bytes")?;
        }
        Ok(())
    }
}
