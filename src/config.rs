//! The configuration of a node.

mod capacities;
mod memory_use;

use core::time::Duration;

pub use self::capacities::Capacities;
pub use self::memory_use::MemoryUse;
use crate::heirs::{Adoption, Heirs};
use crate::leader::{LeaderCapacities, SignalLimits};
use crate::store::total;
use crate::wire::Heartbeat;

/// The bytes that every send queue keeps free for one answer. A peer's request is read only if the
/// queue of that peer has room for its answer.
pub(crate) const ANSWER_RESERVE: usize = 128;

// The reserve holds the longest answer that is not metadata.
const _: () = assert!(ANSWER_RESERVE >= crate::wire::HEADER_LENGTH + 48);

/// The bounds of [`Config::silence_limit`].
pub(crate) const SHORTEST_SILENCE: Duration = Duration::from_millis(1);
pub(crate) const LONGEST_SILENCE: Duration = Duration::from_nanos(Heartbeat::LONGEST);

/// The thread that drives a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Driving {
    /// A thread of its own, in [`Node::work`](crate::Node::work).
    Worker,
    /// The calling thread: in [`Node::poll`](crate::Node::poll) between calls, and in every
    /// blocking call while it waits. For a program with a single thread.
    Caller,
}

/// How the members of a family share the tables of the leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quota {
    /// Each member may fill a table; then the others get [`Error::Full`](crate::Error::Full).
    Off,
    /// A member gets at most a fair part of a table. A quarter of the table is reserved for the
    /// members that can be connected, each the same. Of the rest a member gets another place as long
    /// as that leaves as many places free for one more member as it would have itself, divided by
    /// the number of members that use the rest: about half of it if the member is alone.
    #[default]
    Fair,
}

/// The VMIDs with which the leader lets a process connect.
///
/// A VMID that the leader has given out ([`Node::new_vmid`](crate::Node::new_vmid),
/// [`Node::start_child`](crate::Node::start_child), `GET_NEW_VMID`) is used by one process: when the process
/// has left, no other connects with its VMID. If [`Node::disconnect`](crate::Node::disconnect) of the leader has
/// closed the connection, the process has not left for good, and may come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Admission {
    /// The leader also lets a process connect with a VMID that was not given out yet, again and again: for
    /// families whose launcher numbers the processes itself, as C programs may.
    #[default]
    Any,
    /// Only a VMID that was given out, or that [`Node::announce`](crate::Node::announce) has announced: for
    /// families whose members are not trusted. A member can't pose as many with numbers of its own.
    Known,
}

/// The configuration of a node.
///
/// A new version may add fields, so a value is built from another: `Config { spin: Duration::ZERO,
/// ..Config::DEFAULT }`.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The limits.
    pub capacities: Capacities,
    /// The thread that drives the node.
    pub driving: Driving,
    /// The time for which a waiting thread polls before it sleeps. Waking a sleeping core may take
    /// longer than the whole exchange. Where polling does not pay (on a single core, with a slow
    /// peer), the node stops it by itself and tries it again from time to time. Zero: never.
    pub spin: Duration,
    /// Whether the leader assigns released IDs again once the highest ID was assigned, as a kernel
    /// does with pids. If not, a family can assign no more IDs after 131,072 ranges.
    pub wrap_ids: bool,
    /// How much of its tables the leader gives to one member.
    pub quota: Quota,
    /// Which processes the leader admits.
    pub admission: Admission,
    /// Whether the leader keeps the ID ranges of a dead member. By default it reclaims them.
    pub keep_ranges_of_dead: bool,
    /// The time limit for a peer whose backlog is full, or that does not state its VMID.
    pub connect_limit: Duration,
    /// The time in which a member must return a delegation while other members wait for the file:
    /// after it, the leader closes the connection, and the member's locks are released. It is also
    /// the time in which a leader must answer a cancelled wait for a lock: after it, the member
    /// closes the connection.
    pub recall_limit: Duration,
    /// At the leader: the time in which a member must return the lease of a shared value while another
    /// process waits for it, counted from the revocation. After it, the leader closes the connection, and
    /// the others get the last value that the leader has; a value that the member may have changed is
    /// reported to the next process ([`Shared::write`](crate::Shared::write)). It does not hold for
    /// processes in C, which know no extensions. None, the default: a member may keep a lease as long as
    /// it uses it, for example while a debugger stops it.
    pub lease_limit: Option<Duration>,
    /// At the leader: the time in which a process that is being started must join after its parent
    /// has ended. After it, the process is abandoned, and its IDs and open files are free. There is
    /// no such limit while its parent lives: the parent [abandons](crate::Node::abandon_child) a
    /// child that will not come.
    pub start_limit: Duration,
    /// On secure streams: how long a member uses what the leader gave it (delegated files, leases,
    /// IDs) without a sign of life from the leader, and how long it waits for the first one. A member that was cut off gets
    /// [`Error::CutOff`](crate::Error::CutOff) from its calls for locks, leases and IDs from then on, and
    /// [`Embedder::cut_off`](crate::Embedder::cut_off) is called. A leader keeps all that a member had
    /// for a quarter longer than that after it has lost it, unless the member has ended its stream
    /// itself. So no two processes have the same lock, lease or ID, as long as their clocks advance at
    /// about the same rate. `None`: there are no heartbeats, and what a lost member had is free at once;
    /// the leader decides that for its members. At least a millisecond, and at most a minute.
    ///
    /// The worker sends the heartbeats. So with [`Driving::Caller`] the program must call
    /// [`Node::poll`](crate::Node::poll) at least four times in this time, or set `None`.
    pub silence_limit: Option<Duration>,
    /// Whether the platform's streams must be secure ([`Pal::is_secure`](crate::pal::Pal::is_secure)):
    /// without a key [`Node::new`](crate::Node::new) returns [`StartError::NotSecure`](crate::StartError::NotSecure),
    /// instead of a node whose streams the host can read and change. Not set by default.
    pub require_secure: bool,
    /// The processes that may lead the family after its leader: the same in all processes of the family. A family
    /// survives its leader if the leader has this setting, and the members that have it follow the new leader:
    /// they keep what they have, their calls wait until it leads, and then go on. Memory for a second leader is
    /// reserved in each process that may lead. On secure streams the host could pretend that the leader is
    /// dead, so there another process only follows a leader that [leaves](crate::Node::leave).
    pub heirs: Heirs,
    /// At the leader: how long the heir may leave its log unread before it is dismissed, and another one is
    /// chosen. The answers of the leader wait for the heir as long as that.
    pub heir_patience: Duration,
    /// At the heir: how long a leader may give no sign of life before the platform ends it
    /// ([`Pal::end`](crate::pal::Pal::end)) and the heir takes over: at least 10 ms, and longer than all pauses
    /// of a leader that will go on, such as a debugger's. Zero, the default: the family waits for a
    /// leader that has stopped.
    pub stall_limit: Duration,
    /// At a member: how long it waits for a successor of a leader that is gone, before its calls fail with
    /// [`Error::LeaderGone`](crate::Error::LeaderGone).
    pub succession_limit: Duration,
    /// The parent that the children of the family's first process have when another process leads.
    pub adoption: Adoption,
}

impl Config {
    /// The default limits, a worker thread, a short time of polling, and reuse of IDs.
    pub const DEFAULT: Config = Config {
        capacities: Capacities::DEFAULT,
        driving: Driving::Worker,
        spin: Duration::from_micros(100),
        wrap_ids: true,
        quota: Quota::Fair,
        admission: Admission::Any,
        keep_ranges_of_dead: false,
        connect_limit: Duration::from_secs(5),
        recall_limit: Duration::from_secs(5),
        lease_limit: None,
        start_limit: Duration::from_secs(60),
        silence_limit: Some(Duration::from_secs(2)),
        require_secure: false,
        heirs: Heirs::None,
        heir_patience: Duration::from_millis(100),
        stall_limit: Duration::ZERO,
        succession_limit: Duration::from_secs(5),
        adoption: Adoption::None,
    };
}

impl Config {
    /// True if the library is built with the feature `succession`, by which a family outlives its leader.
    pub(crate) const HAS_SUCCESSION: bool = cfg!(feature = "succession");

    /// Returns true if this process goes on with another leader when its leader is gone.
    pub(crate) const fn follows(&self) -> bool {
        Self::HAS_SUCCESSION && !matches!(self.heirs, Heirs::None)
    }

    /// Returns true if this process may lead the family after its leader.
    pub(crate) const fn may_lead(&self) -> bool {
        self.follows() && matches!(self.driving, Driving::Worker)
    }

    /// Returns the limits of the tables of a leader with this configuration.
    #[cfg_attr(static_library, inline(never))]
    pub(crate) const fn leader_capacities(&self) -> LeaderCapacities {
        let capacities = &self.capacities;
        LeaderCapacities {
            ranges: capacities.ranges,
            processes: capacities.processes,
            peers: capacities.peers,
            signals: SignalLimits {
                // A target is a process or a connected member.
                targets: total!(capacities.processes, capacities.peers),
                queued: capacities.queued_signals,
            },
            locks: capacities.locks,
            leases: capacities.leases,
            sync_data: capacities.sync_data,
            wrap_ids: self.wrap_ids,
            members: self.members(),
            id_members: if self.keep_ranges_of_dead {
                0
            } else {
                self.members()
            },
            adopts: matches!(self.adoption, Adoption::NewLeader),
            roster: match self.heirs {
                Heirs::None => 0,
                Heirs::Any | Heirs::Listed(_) => capacities.peers,
            },
        }
    }

    /// Returns the number of members that share the leader's tables by quotas.
    const fn members(&self) -> usize {
        match self.quota {
            Quota::Off => 0,
            Quota::Fair => total!(self.capacities.peers, 1),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::DEFAULT
    }
}
