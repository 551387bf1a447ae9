//! A platform whose streams the host can neither read nor change.
//!
//! [`SecurePal`] wraps any PAL whose streams carry bytes in both directions. Each stream begins
//! with a handshake of the Noise protocol (`Noise_NNpsk0_25519_AESGCM_BLAKE2s`) with the family's
//! key, bound to the family and to both VMIDs, and continues in records that are encrypted and
//! authenticated. A stream that was altered, replayed, redirected or cut ends with a reason that is
//! counted ([`Breach`]). `docs/security.md` has every byte, and the properties that are claimed and
//! those that are not.
//!
//! No thread and no timer is needed: a handshake proceeds in the reads, writes and waits of the
//! node. Readiness is that of the inner stream, translated: a stream that was opened is writable
//! when its next step can be done, even if the step is to read the answer; a stream that was
//! accepted is readable when bytes are available, even if they were read and decrypted before.

mod error;
mod handshake;
mod incoming;
mod key;
mod outgoing;
mod record;
mod replays;
mod statistics;
mod stream;

pub use self::key::{FamilyKey, Random};
#[cfg(feature = "testing")]
pub use self::record::{RECORD, REKEY_AFTER};
pub use self::statistics::{Breach, SecureStatistics};
pub use self::stream::SecureStream;

use self::replays::FirstMessages;
use self::statistics::SecureCounters;
use self::stream::translate;
use crate::Vmid;
use crate::pal::{AcceptError, ConnectError, Deadline, Event, Pal, ReadyList, StreamError};

/// A PAL with secure streams. The PAL for a node is a reference to it (with `std` also an `Arc`),
/// so that its owner can read its [`SecureStatistics`] while the node runs.
pub struct SecurePal<P: Pal> {
    inner: P,
    own: Vmid,
    family: Option<HandshakeParameters>,
    counters: SecureCounters,
}

/// The parameters of the handshakes.
struct HandshakeParameters {
    key: FamilyKey,
    random: Random,
    first_messages: FirstMessages,
}

impl<P: Pal> SecurePal<P> {
    /// Makes the PAL of the process `own` over `inner`, for the family with that key.
    pub const fn new(inner: P, own: Vmid, key: FamilyKey, random: Random) -> SecurePal<P> {
        SecurePal {
            inner,
            own,
            family: Some(HandshakeParameters {
                key,
                random,
                first_messages: FirstMessages::new(P::contended),
            }),
            counters: SecureCounters::new(),
        }
    }

    /// Makes a PAL that forwards to `inner` **without** any security: for a program that supports
    /// both kinds of families and chooses at run time.
    pub const fn plain(inner: P, own: Vmid) -> SecurePal<P> {
        SecurePal {
            inner,
            own,
            family: None,
            counters: SecureCounters::new(),
        }
    }

    /// Returns true if there is a key. Without a key, streams are those of the inner PAL.
    pub const fn is_secure(&self) -> bool {
        self.family.is_some()
    }

    /// Returns the inner PAL.
    pub const fn inner(&self) -> &P {
        &self.inner
    }

    /// Returns the counters.
    pub fn statistics(&self) -> SecureStatistics {
        self.counters.read()
    }
}

/// Writes the implementation for all kinds of references to a [`SecurePal`], since each stream has
/// such a reference.
macro_rules! pal {
    ([$($generics:tt)*] $handle:ty) => {
        impl<$($generics)*> Pal for $handle {
            type Stream = SecureStream<P, Self>;
            type Event = P::Event;

            const SUPPORTS_CALLER_READ: bool = P::SUPPORTS_CALLER_READ;
            const HAS_HANDSHAKE: bool = true;
            const CLOCK_IS_CHEAP: bool = P::CLOCK_IS_CHEAP;

            fn supports_caller_read(&self) -> bool {
                self.inner.supports_caller_read()
            }

            crate::forward_pal!(P: contended);
            crate::forward_pal!(inner: requires_secure, end, clean_up_after, stop_listening, event, watch_listener, wake, wait_event, now);
            crate::forward_pal!(stream.itself: watch, rewatch, unwatch);

            fn is_secure(&self) -> bool {
                SecurePal::is_secure(self)
            }

            fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError> {
                let stream = self.inner.connect(peer)?;
                Ok(SecureStream::opened(self, stream, peer))
            }

            fn accept(&self) -> Result<Self::Stream, AcceptError> {
                let stream = self.inner.accept()?;
                Ok(SecureStream::accepted(self, stream))
            }

            fn wait(&self, ready: &mut ReadyList, until: Deadline) {
                self.inner.wait(ready, until);
                if self.is_secure() {
                    for (token, readiness) in ready.iter_mut() {
                        (*token, *readiness) = translate(*token, *readiness);
                    }
                }
            }

            fn wait_readable(&self, stream: &Self::Stream, event: &P::Event, until: Deadline) -> bool {
                if event.is_set() {
                    false
                } else if stream.has_more() {
                    true
                } else {
                    self.inner.wait_readable(stream.inner(), event, until)
                }
            }

            fn read_waiting(
                &self,
                stream: &Self::Stream,
                event: &P::Event,
                buffer: &mut [u8],
                until: Deadline,
            ) -> Result<usize, StreamError> {
                stream.read_waiting(event, buffer, until)
            }

        }
    };
}

pal!(['p, P: Pal] &'p SecurePal<P>);
#[cfg(feature = "std")]
pal!([P: Pal] std::sync::Arc<SecurePal<P>>);
