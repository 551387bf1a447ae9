//! The counters of a node. They can be read at any time, without a lock.

mod pools;
mod refusal;
mod succession;

use core::sync::atomic::Ordering;

pub use self::pools::{Pools, Usage};
pub use self::refusal::Refusal;
use self::succession::SuccessionGauges;
pub use self::succession::SuccessionStatistics;
use crate::invariant::{OrBroken, broken_count};
use crate::pal::fault::fault_count;
use crate::parts;
use crate::sync::UncheckedAtomicU64;

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
