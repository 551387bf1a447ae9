//! Why streams ended, and how often.

use core::fmt;

use crate::counters::Counter;

/// Why a secure stream ended before its sender said that it was the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Breach {
    /// What came first is no handshake of this kind: the other side has no key, or it is another
    /// program.
    NotSecure,
    /// The handshake does not fit: another key, another family, meant for or said to come from
    /// another process, altered, or an answer to another stream.
    Handshake,
    /// It ended within the handshake: the other side turned it away, died, or was cut off.
    Unfinished,
    /// A record that is not the next one as its sender made it: altered, out of order, repeated, or
    /// left out.
    Record,
    /// The sender went by another VMID in the stream than in the handshake.
    Vmid,
    /// It ended without the record that says so: its sender died, or the host cut it off. What came
    /// before is genuine, but it may not be all that was sent.
    Truncated,
    /// The platform gave no random numbers.
    NoRandom,
}

impl Breach {
    /// All there are.
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

/// What a [`SecurePal`](super::SecurePal) PAL has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SecureStatistics {
    /// Handshakes that were completed, of streams opened and accepted.
    pub handshakes: u64,
    /// Streams whose sender said that it was the end, and all before that had come.
    pub ended: u64,
    breaches: [u64; Breach::ALL.len()],
}

impl SecureStatistics {
    /// How many streams ended for that reason.
    pub fn breaches(&self, reason: Breach) -> u64 {
        self.breaches.get(reason as usize).copied().unwrap_or(0)
    }
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) handshakes: Counter,
    pub(super) ended: Counter,
    breaches: [Counter; Breach::ALL.len()],
}

impl Counters {
    pub(super) const fn new() -> Counters {
        Counters {
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
