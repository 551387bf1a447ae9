//! The reasons why streams ended, with their counts.

use core::fmt;

use crate::counters::Counter;
use crate::invariant::OrBroken;

/// The reason why a secure stream ended before its sender closed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Breach {
    /// The first bytes are no handshake of this kind: the other end has no key, or is another
    /// program.
    NotSecure,
    /// The handshake failed: it has another key or another family, is for or from another process
    /// than stated, was altered, or answers another stream.
    Handshake,
    /// The stream ended during the handshake: the other end refused it, died, or was cut off.
    Unfinished,
    /// A record is not the next one that its sender made: it was altered, reordered, repeated, or
    /// another was dropped before it.
    Record,
    /// The sender stated another VMID in the stream than in the handshake.
    Vmid,
    /// The stream ended without a closing record: its sender died, or the host cut it off. The
    /// bytes before are genuine, but may not be all that were sent.
    Truncated,
    /// The platform's random source failed.
    NoRandom,
}

impl Breach {
    /// All reasons.
    pub const ALL: [Breach; 7] = [
        Breach::NotSecure,
        Breach::Handshake,
        Breach::Unfinished,
        Breach::Record,
        Breach::Vmid,
        Breach::Truncated,
        Breach::NoRandom,
    ];
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Breach::NotSecure => "it does not begin as a secure stream does",
            Breach::Handshake => {
                "its handshake does not fit: another key, family or VMID, or it was altered"
            }
            Breach::Unfinished => "it ended within the handshake",
            Breach::Record => "a record was altered, repeated, left out or put elsewhere",
            Breach::Vmid => "another VMID was claimed than in the handshake",
            Breach::Truncated => "it ended without saying so: its sender died or it was cut off",
            Breach::NoRandom => "the platform gave no random numbers",
        })
    }
}

/// The counters of a [`SecurePal`](super::SecurePal) since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SecureStatistics {
    /// Completed handshakes of streams that were opened or accepted.
    pub handshakes: u64,
    /// Streams that their sender closed and that arrived completely.
    pub ended: u64,
    breaches: [u64; Breach::ALL.len()],
}

impl SecureStatistics {
    /// Returns the number of streams that ended for that reason.
    pub fn breaches(&self, reason: Breach) -> u64 {
        self.breaches.get(reason as usize).copied().or_broken(0)
    }
}

#[derive(Default)]
pub(super) struct SecureCounters {
    pub(super) handshakes: Counter,
    pub(super) ended: Counter,
    breaches: [Counter; Breach::ALL.len()],
}

impl SecureCounters {
    pub(super) const fn new() -> SecureCounters {
        SecureCounters {
            handshakes: Counter::new(),
            ended: Counter::new(),
            breaches: [const { Counter::new() }; Breach::ALL.len()],
        }
    }

    pub(super) fn count(&self, reason: Breach) {
        if let Some(counter) = self.breaches.get(reason as usize) {
            counter.add(1);
        }
    }

    pub(super) fn read(&self) -> SecureStatistics {
        let mut breaches = [0; Breach::ALL.len()];
        for (value, counter) in breaches.iter_mut().zip(&self.breaches) {
            *value = counter.get();
        }
        SecureStatistics {
            handshakes: self.handshakes.get(),
            ended: self.ended.get(),
            breaches,
        }
    }
}
