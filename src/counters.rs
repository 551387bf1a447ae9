//! What a node counts. Everything can be read at any time, without a lock.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::wire::Malformed;

/// Why a peer lost its connection through its own fault, or a stranger was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// It sent a frame that is not one.
    Malformed(Malformed),
    /// It sent a message of a role that it or this node doesn't have.
    WrongRole,
    /// Its answer to a request doesn't have the request's form.
    WrongAnswer,
    /// It went by VMID 0 or by this node's own.
    BadVmid,
    /// It went by the VMID of a process that is connected.
    VmidTaken,
    /// It did not say its VMID in time, or too many such were waiting.
    NoVmid,
    /// It could not be answered: it does not listen, or let its backlog stay full.
    Unreachable,
    /// It did not give back in time a file whose locks were lent to it.
    NotReturned,
    /// It sent a sync message that does not fit what it has of the handle.
    SyncProtocolViolation,
    /// There is no room for one more peer.
    PeersFull,
    /// It is not of this family (another user).
    NotAllowed,
}

impl Refusal {
    const OWN: [Refusal; 10] = [
        Refusal::WrongRole,
        Refusal::WrongAnswer,
        Refusal::BadVmid,
        Refusal::VmidTaken,
        Refusal::NoVmid,
        Refusal::Unreachable,
        Refusal::NotReturned,
        Refusal::SyncProtocolViolation,
        Refusal::PeersFull,
        Refusal::NotAllowed,
    ];
    const COUNT: usize = Malformed::ALL.len() + Self::OWN.len();

    pub(crate) fn index(self) -> usize {
        match self {
            Refusal::Malformed(malformed) => malformed.index(),
            own => Self::OWN
                .iter()
                .position(|refusal| *refusal == own)
                .unwrap_or(0)
                .saturating_add(Malformed::ALL.len()),
        }
    }

    /// All there are.
    pub fn all() -> impl Iterator<Item = Refusal> {
        Malformed::ALL
            .into_iter()
            .map(Refusal::Malformed)
            .chain(Self::OWN)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Malformed(malformed) => return malformed.fmt(f),
            Refusal::WrongRole => "message of a role the peer or this node doesn't have",
            Refusal::WrongAnswer => "answer that doesn't have the form of its request",
            Refusal::BadVmid => "VMID 0 or this node's own claimed",
            Refusal::VmidTaken => "VMID of a connected process claimed",
            Refusal::NoVmid => "VMID not said in time",
            Refusal::Unreachable => "peer can't be answered: it doesn't listen",
            Refusal::NotReturned => "file that was lent not given back in time",
            Refusal::SyncProtocolViolation => "sync message that does not fit the handle's state",
            Refusal::PeersFull => "no room for one more peer",
            Refusal::NotAllowed => "not of this family",
        })
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
            refusals: [Counter; Refusal::COUNT],
        }

        /// What a node has counted since it was made, and how full it is.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Statistics {
            $($(#[$doc])* pub $name: u64,)*
            /// Connections refused or closed for a fault of the peer, by reason. See
            /// [`Statistics::refused`].
            refusals: [u64; Refusal::COUNT],
            /// How full the node's pools are.
            pub pools: Pools,
        }

        impl Counters {
            pub(crate) fn read(&self, pools: Pools) -> Statistics {
                let mut refusals = [0; Refusal::COUNT];
                for (value, counter) in refusals.iter_mut().zip(&self.refusals) {
                    *value = counter.get();
                }
                Statistics { $($name: self.$name.get(),)* refusals, pools }
            }
        }
    };
}

counters! {
    /// Whole frames received.
    frames_in,
    /// Frames accepted for sending.
    frames_out,
    /// Bytes received.
    bytes_in,
    /// Bytes sent.
    bytes_out,
    /// Reads that moved bytes.
    reads,
    /// Writes that moved bytes: fewer than frames where frames go in batches.
    writes,
    /// Streams accepted.
    accepted,
    /// Streams opened.
    connected,
    /// Peers that went away, for whatever reason.
    disconnects,
    /// Answers to calls that had given up, and to none: dropped.
    late_answers,
    /// Frames with a code that nobody knows: skipped.
    unknown_codes,
    /// Well-formed requests that could not be done and to which no answer is due.
    rejected_oneway,
    /// Orphans that this process inherited whose end found no room in its table of children, and that
    /// nobody waits for, since its library OS is in C and keeps its zombies itself.
    dropped_orphan_exits,
    /// Times a peer's requests were left unread until it reads its answers.
    paused_reads,
    /// Times that spinning met what it waited for before the time was over.
    spins_won,
    /// Times that spinning was in vain.
    spins_lost,
}

impl Counters {
    pub(crate) fn refuse(&self, refusal: Refusal) {
        if let Some(counter) = self.refusals.get(refusal.index()) {
            counter.add(1);
        }
    }
}

impl Statistics {
    /// How many connections were refused or closed for that reason.
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refusals.get(reason.index()).copied().unwrap_or(0)
    }

    /// How many were, for all reasons together.
    pub fn refused_total(&self) -> u64 {
        self.refusals
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// One counter.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[cfg(feature = "secure")]
    pub(crate) const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How full one pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Things in use now.
    pub now: usize,
    /// The most that were ever in use at once.
    pub peak: usize,
    /// The limit.
    pub limit: usize,
}

/// The pools, each with what it is called for people.
macro_rules! pools {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// How full the pools of a node are.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Pools {
            $($(#[$doc])* pub $name: Usage,)*
        }

        impl Pools {
            /// Each pool with its name.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, Usage)> {
                [$(($text, self.$name),)*].into_iter()
            }
        }
    };
}

pools! {
    /// Peers.
    peers = "peers",
    /// Calls that wait.
    waiters = "calls that wait",
    /// ID ranges in the leader's table.
    ranges = "ID ranges of the family",
    /// ID ranges of this process.
    own_ranges = "own ID ranges",
    /// Processes, zombies and names in the leader's table.
    processes = "processes",
    /// Signals that wait one by one at the leader.
    queued_signals = "queued signals",
    /// Children of this process.
    children = "children",
    /// File locks in the leader's table.
    locks = "file locks",
    /// Files in it.
    locked_files = "files with locks",
    /// Requests for file locks that wait.
    waiting_for_locks = "waiting for file locks",
    /// Open files with locks.
    lock_handles = "open files with locks",
    /// Files that the leader has lent to members.
    delegations = "files lent",
    /// Files that are lent to this process.
    delegated_files = "files borrowed",
    /// Sync handles that this process uses.
    sync_handles = "sync handles",
    /// Sync handles that any process uses, at the leader.
    served_handles = "sync handles of the family",
    /// Their clients: processes that use them, each counted for each.
    sync_clients = "their clients",
    /// Bytes waiting to be sent to the peer that has the most of them.
    send_queue = "fullest send queue, bytes",
}
