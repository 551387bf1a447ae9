//! A stream that begins with the leader's VMID, and may be its log.

use super::following::Stage;
use crate::Vmid;
use crate::counters::Refusal;
use crate::node::Node;
use crate::node::connection::UnidentifiedStream;
use crate::pal::{Pal, StreamError};
use crate::sync::Ordering;

/// Whether a stream that begins with the leader's VMID is its log.
pub(in crate::node) enum LogClaim<S> {
    /// The stream is the log, and is read from now on.
    Accepted,
    /// The key has not come yet, on one of the two streams.
    Undecided(UnidentifiedStream<S>),
    /// The stream has another key, or none.
    False(S),
    /// The stream is no log.
    None(S),
}

impl<P: Pal> Node<'_, P> {
    /// Takes a second stream of the leader as its log, if it begins with the key that the leader has stated.
    pub(in crate::node) fn accept_log(
        &self,
        vmid: Vmid,
        candidate: UnidentifiedStream<P::Stream>,
    ) -> LogClaim<P::Stream> {
        // A member that sends the rest of its frames again follows, too.
        let is_led = self.following().is_some_and(|following| {
            matches!(
                following.stage(),
                Stage::Led | Stage::Rejoining | Stage::Resending
            )
        });
        let Some(heir) = self.leadership.heir().filter(|_| is_led) else {
            return LogClaim::None(candidate.stream);
        };
        let has_first = self
            .peers
            .find(vmid)
            .is_some_and(|leader| !leader.lacks_inbound());
        if Some(vmid) != self.led_by() || !has_first {
            return LogClaim::None(candidate.stream);
        }
        let mut candidate = candidate;
        let expected = heir.key.load(Ordering::SeqCst);
        let is_true = match candidate.key.read(&candidate.stream) {
            Ok(key) if expected != 0 => Some(key == expected),
            Ok(_) | Err(StreamError::WouldBlock) => None,
            Err(_) => Some(false),
        };
        let stream = match is_true {
            Some(true) => self.begin_to_read(heir, candidate.stream),
            Some(false) => return LogClaim::False(candidate.stream),
            None => Err(candidate.stream),
        };
        match stream {
            Ok(()) => LogClaim::Accepted,
            Err(stream) if self.now() >= candidate.until => LogClaim::False(stream),
            Err(stream) => LogClaim::Undecided(UnidentifiedStream {
                stream,
                is_watched: false,
                ..candidate
            }),
        }
    }

    /// Handles the key of the log that the leader is about to open.
    pub(in crate::node) fn expect_log(&self, key: &[u8]) -> Result<bool, Refusal> {
        let key = key.try_into().map(u64::from_le_bytes);
        let key = key.map_err(|_| Refusal::WrongRole)?;
        if let Some(heir) = self.leadership.heir() {
            heir.key.store(key, Ordering::SeqCst);
        }
        Ok(true)
    }
}
