//! Packs an event into the words of the ring.

use super::ring::EventRing;
use super::{Call, EventKind, FrameInfo};
use crate::counters::Refusal;
use crate::error::{ByteCount, Errno, Error, Invalid, Resource};
use crate::invariant::{Count, OrBroken};
use crate::wire::Answer;
use crate::{Id, Vmid, parts};

// The kinds of events, in the first byte of an event's words.
const FRAME_IN: u8 = 1;
const FRAME_OUT: u8 = 2;
const CONNECTED: u8 = 3;
const DISCONNECTED: u8 = 4;
const REFUSED: u8 = 5;
const BEGUN: u8 = 6;
const ENDED: u8 = 7;
const LEADER_CHANGED: u8 = 8;

/// Returns the error without the limits, for which an event has no room.
pub(super) const fn limits_differ(limit: Resource) -> Error {
    Error::LimitsDiffer {
        limit,
        ours: ByteCount::new(0),
        theirs: ByteCount::new(0),
    }
}

/// Stands in [`ERRORS`] for [`Error::Refused`] with any number, which is encoded in the second word.
const ANY_REFUSED: Error = Error::Refused {
    errno: Errno::EPERM,
    by: None,
};
/// Stands in [`ERRORS`] for [`Error::Invalid`] with any cause, whose number is encoded in the second word.
const ANY_INVALID: Error = Error::Invalid(Invalid::AtPeer);

/// The errors with which a call can end. The index in this table, plus one, is the code of an error in an event.
pub(super) const ERRORS: [Error; 26] = [
    Error::Platform,
    Error::NoSuchProcess,
    Error::LeaderGone,
    Error::TimedOut,
    Error::Interrupted,
    Error::NoIds,
    ANY_INVALID,
    Error::NoChild,
    Error::Unsupported,
    Error::ShuttingDown,
    Error::CutOff,
    Error::Full(Resource::Peers),
    Error::Full(Resource::SendQueue),
    Error::Full(Resource::Waiters),
    Error::Full(Resource::Ranges),
    Error::Full(Resource::OwnRanges),
    Error::Full(Resource::Processes),
    Error::Full(Resource::Children),
    Error::Full(Resource::ReplyBuffers),
    Error::Full(Resource::SyncHandles),
    Error::Full(Resource::FrameLength),
    Error::Full(Resource::SyncData),
    Error::Full(Resource::Memory),
    limits_differ(Resource::FrameLength),
    limits_differ(Resource::SyncData),
    ANY_REFUSED,
];

/// The greatest value in the low 24 bits of the second word, below the sequence number.
pub(super) const MAX_LOW: u32 = (1 << 24) - 1;

/// Packs the parts of an event into its words.
#[inline]
fn words(kind: u8, detail: u8, code: u8, peer: Id, seq: u64, low: u32) -> [u64; 2] {
    [
        u64::from(peer) << 24 | u64::from(code) << 16 | u64::from(detail) << 8 | u64::from(kind),
        (seq & 0xffff_ffff) << 24 | u64::from(low),
    ]
}

/// Decodes the error with which a call has ended. `None` for numbers that no error has.
fn read_error(detail: u8, low: u32) -> Option<Error> {
    Some(match ERRORS.get(usize::from(detail).checked_sub(1)?)? {
        Error::Refused { .. } => Error::Refused {
            errno: Errno::new(i32::try_from(low).ok()?)?,
            by: None,
        },
        Error::Invalid(_) => Error::Invalid(*Invalid::ALL.get(usize::try_from(low).ok()?)?),
        other => *other,
    })
}

impl EventKind {
    /// Decodes the two words of an event. `None` if they are no event.
    pub(super) fn read([a, b]: [u64; 2]) -> Option<EventKind> {
        let [kind, detail, code, p0, p1, p2, p3, _] = a.to_le_bytes();
        let peer = Vmid::new(u32::from_le_bytes([p0, p1, p2, p3]));
        let seq = u32::try_from(b >> 24).unwrap_or(u32::MAX);
        let low = u32::try_from(b & u64::from(MAX_LOW)).unwrap_or(MAX_LOW);
        Some(match kind {
            FRAME_IN | FRAME_OUT => {
                let frame = FrameInfo {
                    peer: peer?,
                    code,
                    seq,
                    length: low,
                };
                if kind == FRAME_IN {
                    EventKind::FrameIn(frame)
                } else {
                    EventKind::FrameOut(frame)
                }
            }
            CONNECTED => EventKind::Connected(peer?),
            DISCONNECTED => EventKind::Disconnected(peer?),
            LEADER_CHANGED => EventKind::LeaderChanged {
                leader: peer?,
                epoch: seq,
            },
            REFUSED => EventKind::Refused {
                peer,
                reason: Refusal::all().nth(detail.into())?,
            },
            _ => {
                let call = Call {
                    peer: peer?,
                    code,
                    seq,
                };
                match (kind, detail) {
                    (BEGUN, _) => EventKind::CallBegun(call),
                    (ENDED, 0) => EventKind::CallEnded(call, Ok(())),
                    (ENDED, detail) => EventKind::CallEnded(call, Err(read_error(detail, low)?)),
                    _ => return None,
                }
            }
        })
    }
}

impl EventRing<'_> {
    #[inline]
    pub(crate) fn frame_in(&self, peer: Vmid, code: u8, seq: u64, length: usize) {
        let length = u32::try_from(length).unwrap_or(MAX_LOW).min(MAX_LOW);
        self.add(words(FRAME_IN, 0, code, peer.get(), seq, length));
    }

    #[inline]
    pub(crate) fn frame_out(&self, peer: Vmid, code: u8, seq: u64, length: usize) {
        let length = u32::try_from(length).unwrap_or(MAX_LOW).min(MAX_LOW);
        self.add(words(FRAME_OUT, 0, code, peer.get(), seq, length));
    }

    pub(crate) fn connected(&self, peer: Vmid) {
        self.add(words(CONNECTED, 0, 0, peer.get(), 0, 0));
    }

    pub(crate) fn disconnected(&self, peer: Vmid) {
        self.add(words(DISCONNECTED, 0, 0, peer.get(), 0, 0));
    }

    pub(crate) fn leader_changed(&self, leader: Vmid, epoch: u32) {
        self.add(words(LEADER_CHANGED, 0, 0, leader.get(), epoch.into(), 0));
    }

    pub(crate) fn refused(&self, peer: Option<Vmid>, reason: Refusal) {
        let reason = u8::try_from(reason.index()).or_broken(u8::MAX);
        let peer = peer.map_or(0, Vmid::get);
        self.add(words(REFUSED, reason, 0, peer, 0, 0));
    }

    #[inline]
    pub(crate) fn call_begun(&self, peer: Vmid, code: u8, seq: u64) {
        self.add(words(BEGUN, 0, code, peer.get(), seq, 0));
    }

    /// Records the end of a call. An answer with an error status is recorded as an error.
    #[inline]
    pub(crate) fn call_ended(
        &self,
        peer: Vmid,
        code: u8,
        seq: u64,
        outcome: &Result<Answer<'_>, Error>,
    ) {
        if !parts::EVENTS {
            return;
        }
        let error = match outcome {
            Ok(Answer::Status(Err(errno)) | Answer::Meta(Err(errno))) => Error::Refused {
                errno: *errno,
                by: None,
            },
            Ok(_) => return self.add(words(ENDED, 0, code, peer.get(), seq, 0)),
            Err(error) => *error,
        };
        let (known, low) = match error {
            Error::Refused { errno, .. } => (ANY_REFUSED, errno.get().cast_unsigned().min(MAX_LOW)),
            Error::Invalid(cause) => (ANY_INVALID, u32::from(cause as u8)),
            Error::LimitsDiffer { limit, .. } => (limits_differ(limit), 0),
            other => (other, 0),
        };
        let index = ERRORS.iter().position(|error| *error == known);
        // The code 0 stands for a call that has succeeded.
        let code_of_error = index.map_or(usize::MAX, |index| index.plus(1));
        let detail = u8::try_from(code_of_error).or_broken(u8::MAX);
        self.add(words(ENDED, detail, code, peer.get(), seq, low));
    }
}
