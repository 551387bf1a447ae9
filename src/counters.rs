//! The counters of a node. They can be read at any time, without a lock.

use core::fmt;
use core::sync::atomic::Ordering;
use core::time::Duration;

use crate::Vmid;
use crate::config::Capacities;
use crate::invariant::{Count, OrBroken, broken_count};
use crate::pal::Time;
use crate::pal::fault::fault_count;
use crate::parts;
use crate::sync::UncheckedAtomicU64;
use crate::wire::Malformed;

/// The reason why a peer's connection was closed through its own fault, or an unidentified
/// connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The peer sent a malformed frame.
    Malformed(Malformed),
    /// It sent a message of a role that it, or this node, does not have.
    WrongRole,
    /// Its answer does not have the form that the request requires.
    WrongAnswer,
    /// It stated VMID 0 or this node's own.
    BadVmid,
    /// It stated a VMID that no process may use: one that was used up, or, with
    /// [`Admission::Known`](crate::Admission::Known), one that the leader does not know.
    VmidNotAdmitted,
    /// It stated the VMID of a process that is connected.
    VmidTaken,
    /// It did not state its VMID in time, or too many unidentified connections were waiting.
    NoVmid,
    /// It could not be answered: it does not listen, or its backlog stayed full.
    Unreachable,
    /// It did not return a delegation, or a lease ([`Config::lease_limit`](crate::Config::lease_limit)), in time.
    NotReturned,
    /// It sent a sync message that does not match its state of the handle.
    SyncProtocolViolation,
    /// There is no room for another peer.
    PeersFull,
    /// It is not of this family (it belongs to another user).
    NotAllowed,
    /// It claims to lead the family, or to be about to, and was not named for that.
    NotHeir,
    /// Its message is of a reign that has ended.
    StaleReign,
}

impl Refusal {
    const OWN: [Refusal; 13] = [
        Refusal::WrongRole,
        Refusal::WrongAnswer,
        Refusal::BadVmid,
        Refusal::VmidNotAdmitted,
        Refusal::VmidTaken,
        Refusal::NoVmid,
        Refusal::Unreachable,
        Refusal::NotReturned,
        Refusal::SyncProtocolViolation,
        Refusal::PeersFull,
        Refusal::NotAllowed,
        Refusal::NotHeir,
        Refusal::StaleReign,
    ];
    const COUNT: usize = Malformed::ALL.len() + Self::OWN.len();

    pub(crate) fn index(self) -> usize {
        match self {
            Refusal::Malformed(malformed) => malformed.index(),
            own => Self::OWN
                .iter()
                .position(|refusal| *refusal == own)
                .or_broken(0)
                .plus(Malformed::ALL.len()),
        }
    }

    /// Iterates over all reasons.
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
            Refusal::VmidNotAdmitted => "VMID claimed that was used up or not given out",
            Refusal::VmidTaken => "VMID of a connected process claimed",
            Refusal::NoVmid => "VMID not said in time",
            Refusal::Unreachable => "peer can't be answered: it doesn't listen",
            Refusal::NotReturned => "delegation or lease not returned in time",
            Refusal::SyncProtocolViolation => "sync message that does not fit the handle's state",
            Refusal::PeersFull => "no room for one more peer",
            Refusal::NotAllowed => "not of this family",
            Refusal::NotHeir => "claim to lead without having been named heir",
            Refusal::StaleReign => "message of a reign that has ended",
        })
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
            pub(crate) succession: SuccessionGauges,
            refusals: [Counter; Refusal::COUNT],
        }

        /// The counters of a node since it was made, and the usage of its pools.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Statistics {
            $($(#[$doc])* pub $name: u64,)*
            /// Frames accepted for sending.
            pub frames_out: u64,
            /// Connections refused or closed for a fault of the peer, by reason. See
            /// [`Statistics::refused`].
            refusals: [u64; Refusal::COUNT],
            /// Errors in this crate that its own checks found, in all nodes of this process: 0, or a
            /// defect to be reported. The log names the place of the first one. Builds with debug
            /// assertions panic instead.
            pub broken_invariants: u64,
            /// Results of platforms that a platform may never return, in all nodes of this process: 0, or
            /// a defect of the platform. The stream was taken to be broken. The log says which result
            /// came first. Builds with debug assertions panic instead.
            pub platform_faults: u64,
            /// At the leader: requests that were refused although a table had room, because the member
            /// had its part of the table ([`Quota::Fair`](crate::Quota::Fair)).
            pub refused_by_quota: u64,
            /// The leader's heir, and the last change of the leader.
            pub succession: SuccessionStatistics,
            /// The usage of the node's pools.
            pub pools: Pools,
        }

        impl Counters {
            pub(crate) fn read(
                &self,
                frames_out: u64,
                pools: Pools,
                refused_by_quota: u64,
            ) -> Statistics {
                let mut refusals = [0; Refusal::COUNT];
                for (value, counter) in refusals.iter_mut().zip(&self.refusals) {
                    *value = counter.get();
                }
                let broken_invariants = broken_count();
                let platform_faults = fault_count();
                Statistics {
                    $($name: self.$name.get(),)*
                    frames_out,
                    refusals,
                    broken_invariants,
                    platform_faults,
                    refused_by_quota,
                    succession: self.succession.read(),
                    pools,
                }
            }
        }
    };
}

counters! {
    /// Whole frames received.
    frames_in,
    /// Bytes received.
    bytes_in,
    /// Bytes sent.
    bytes_out,
    /// Reads that moved bytes.
    reads,
    /// Writes that moved bytes: fewer than frames if frames are sent in batches.
    writes,
    /// Streams accepted.
    accepted,
    /// Streams opened.
    connected,
    /// Peers that were disconnected, for any reason.
    disconnects,
    /// Answers to calls that had ended, and to none: dropped.
    late_answers,
    /// Frames with an unknown code: skipped.
    unknown_codes,
    /// Well-formed requests without an answer that could not be done.
    rejected_oneway,
    /// Exit reports of orphans that this process inherited, which found no room in its table of
    /// children and were dropped, since its library OS is in C and keeps its zombies itself.
    dropped_orphan_exits,
    /// Times that another process began to lead the family, this one included.
    successions,
    /// Times that the node stopped reading a peer's requests until the peer read its answers.
    paused_reads,
    /// Times that polling ended with the awaited event.
    spins_won,
    /// Times that polling ended at its time limit.
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
    /// Returns the number of connections that were refused or closed for that reason.
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refusals.get(reason.index()).copied().or_broken(0)
    }

    /// Returns the number of connections that were refused or closed, for all reasons.
    pub fn refused_total(&self) -> u64 {
        self.refusals.iter().sum()
    }
}

/// What a process knows of the succession of the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SuccessionStatistics {
    /// The number of the reign: 1 for the family's first leader, and one more after each succession.
    pub epoch: u32,
    /// The process that leads next, if the leader has named one that has all of the leader's state.
    pub heir: Option<Vmid>,
    /// At the leader: the operations that the heir's log stream has not taken yet.
    pub lag_ops: u64,
    /// At the leader: the bytes of these operations.
    pub lag_bytes: u64,
    /// The time from the end of the last leader to the first moment at which this process could send to the
    /// next one.
    pub last_outage: Option<Duration>,
}

impl Default for SuccessionStatistics {
    fn default() -> Self {
        SuccessionStatistics {
            epoch: 1,
            heir: None,
            lag_ops: 0,
            lag_bytes: 0,
            last_outage: None,
        }
    }
}

/// The present values of [`SuccessionStatistics`]. 0 is "none". The lag is that of the log.
#[derive(Default)]
pub(crate) struct SuccessionGauges {
    epoch: Counter,
    heir: Counter,
    outage_began: Counter,
    last_outage: Counter,
}

impl SuccessionGauges {
    fn read(&self) -> SuccessionStatistics {
        let number = |gauge: &Counter| u32::try_from(gauge.get()).or_broken(0);
        let outage = self.last_outage.get();
        SuccessionStatistics {
            epoch: number(&self.epoch).max(1),
            heir: Vmid::new(number(&self.heir)),
            lag_ops: 0,
            lag_bytes: 0,
            last_outage: (outage > 0).then_some(Duration::from_nanos(outage)),
        }
    }

    /// The leader has named the heir, which has all of the leader's state, or has none any more.
    pub(crate) fn set_heir(&self, heir: Option<Vmid>) {
        self.heir.set(Vmid::number(heir).into());
    }

    /// The leader's stream has ended. A later call before [`SuccessionGauges::end_outage`] has no effect.
    pub(crate) fn begin_outage(&self, now: Time) {
        if self.outage_began.get() == 0 {
            self.outage_began.set(now.0.max(1));
        }
    }

    /// Another process leads from now on.
    pub(crate) fn end_outage(&self, now: Time, epoch: u32) {
        self.epoch.set(epoch.into());
        let began = self.outage_began.get();
        if began != 0 {
            self.outage_began.set(0);
            let outage = u64::try_from((now - Time(began)).as_nanos()).or_broken(u64::MAX);
            self.last_outage.set(outage.max(1));
        }
    }
}

/// One counter.
#[derive(Default)]
pub(crate) struct Counter(UncheckedAtomicU64);

impl Counter {
    #[cfg(feature = "secure")]
    pub(crate) const fn new() -> Counter {
        Counter(UncheckedAtomicU64::new(0))
    }

    pub(crate) fn add(&self, count: usize) {
        if parts::STATISTICS {
            self.0.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_outage_lasts_from_the_first_end_of_the_leader_to_the_next_leader() {
        let gauges = SuccessionGauges::default();
        assert_eq!(gauges.read(), SuccessionStatistics::default());
        gauges.begin_outage(Time(1_000));
        // The first heir is gone, too.
        gauges.begin_outage(Time(3_000));
        gauges.end_outage(Time(6_000), 3);
        let seen = gauges.read();
        assert_eq!(seen.epoch, 3);
        assert_eq!(seen.last_outage, Some(Duration::from_micros(5)));
        // A change of the leader without an outage leaves the last one as it was.
        gauges.end_outage(Time(9_000), 4);
        let seen = gauges.read();
        assert_eq!(
            (seen.epoch, seen.last_outage.unwrap().as_nanos()),
            (4, 5_000)
        );
        gauges.set_heir(Vmid::new(7));
        assert_eq!(gauges.read().heir, Vmid::new(7));
        gauges.set_heir(None);
        assert_eq!(gauges.read().heir, None);
    }
}
