//! The first messages of handshakes that this process has answered.
//!
//! The host can repeat a message that it has seen. The repeated one passes all checks, and the stream
//! would take the place of an unidentified one until the time limit, since its opener never goes on.
//! So a first message that is known is refused.

use spin::mutex::SpinMutex;

use crate::invariant::{Count, OrBroken};
use crate::store::{Contended, acquire};

/// The number of first messages that are remembered: the last ones. A family of the default limits
/// has fewer members.
const REMEMBERED: usize = 256;

/// The start of each opener's public key, which is random and never used twice.
type Name = [u8; 8];

/// The last first messages.
pub(super) struct FirstMessages {
    names: SpinMutex<ReplayRing>,
    contended: Contended,
}

struct ReplayRing {
    names: [Name; REMEMBERED],
    /// The place of the next name, which replaces the oldest one.
    next: usize,
}

impl FirstMessages {
    pub(super) const fn new(contended: Contended) -> FirstMessages {
        FirstMessages {
            names: SpinMutex::new(ReplayRing {
                names: [[0; 8]; REMEMBERED],
                next: 0,
            }),
            contended,
        }
    }

    /// Records the first message with that public key. Returns false if it is a repeated one.
    pub(super) fn add(&self, key: &[u8]) -> bool {
        let Some(name) = key.first_chunk::<8>() else {
            return false;
        };
        let mut ring = acquire(self.contended, || self.names.try_lock());
        if ring.names.contains(name) {
            return false;
        }
        let at = ring.next;
        if let Some(slot) = ring.names.get_mut(at) {
            *slot = *name;
        }
        ring.next = at.plus(1).checked_rem(REMEMBERED).or_broken(0);
        true
    }
}
