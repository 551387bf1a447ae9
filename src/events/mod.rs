//! The last events of a node, for diagnosis.
//!
//! A node keeps its last [`Capacities::events`](crate::Capacities::events) events in its memory:
//! frames, connections that are opened, closed and refused, calls and their results. Reading them
//! takes no lock, so it is possible after a fault, from any thread, even after a panic.

mod display;
mod ring;

pub(crate) use self::ring::EventRing;
use self::ring::VALUE;
use crate::counters::Refusal;
use crate::error::{ByteCount, Errno, Error, Invalid, Resource};
use crate::invariant::{Count, OrBroken};
use crate::pal::Time;
use crate::wire::Answer;
use crate::{Id, Vmid, parts};

/// A recorded event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventRecord {
    /// The number of the event in its node, from 0.
    pub number: u64,
    /// The time at which the node last read its clock before the event. It does so when it wakes up
    /// and when a call begins and ends, so events of one wake-up have the same time.
    pub time: Time,
    /// The kind of the event.
    pub kind: EventKind,
}

/// The kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// A frame was received.
    FrameIn(FrameInfo),
    /// A frame was accepted for sending.
    FrameOut(FrameInfo),
    /// A process was connected.
    Connected(Vmid),
    /// A process was disconnected.
    Disconnected(Vmid),
    /// Another process leads the family: this one, if it is its VMID.
    LeaderChanged {
        /// The leader.
        leader: Vmid,
        /// The number of its reign.
        epoch: u32,
    },
    /// A connection was refused, or closed for a fault of the peer.
    Refused {
        /// The peer, if it was identified.
        peer: Option<Vmid>,
        /// The reason.
        reason: Refusal,
    },
    /// A call begins to wait for an answer.
    CallBegun(Call),
    /// A call has ended.
    CallEnded(Call, Result<(), Error>),
}

/// A frame and its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "testing"), non_exhaustive)]
pub struct FrameInfo {
    /// The peer.
    pub peer: Vmid,
    /// The code of its message, as in docs/protocol.md.
    pub code: u8,
    /// The low 32 bits of its sequence number; 0 if no answer is expected.
    pub seq: u32,
    /// Its length in bytes, with the header; at most 2^24 - 1.
    pub length: u32,
}

/// A call that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "testing"), non_exhaustive)]
pub struct Call {
    /// The process that answers. It is this process for a call that it decides itself.
    pub peer: Vmid,
    /// The code of the request, as in docs/protocol.md.
    pub code: u8,
    /// The sequence number of the request.
    pub seq: u32,
}

// The kinds, in the first byte of an event's words.
const FRAME_IN: u8 = 1;
const FRAME_OUT: u8 = 2;
const CONNECTED: u8 = 3;
const DISCONNECTED: u8 = 4;
const REFUSED: u8 = 5;
const BEGUN: u8 = 6;
const ENDED: u8 = 7;
const LEADER_CHANGED: u8 = 8;

/// The error without the limits, for which an event has no room.
const fn limits_differ(limit: Resource) -> Error {
    Error::LimitsDiffer {
        limit,
        ours: ByteCount::new(0),
        theirs: ByteCount::new(0),
    }
}

/// The place of [`Error::Refused`] with any number, which is encoded beside it.
const ANY_REFUSED: Error = Error::Refused {
    errno: Errno::EPERM,
    by: None,
};
/// The place of [`Error::Invalid`] with any cause, whose number is encoded beside it.
const ANY_INVALID: Error = Error::Invalid(Invalid::AtPeer);

/// The errors with which a call can end.
const ERRORS: [Error; 26] = [
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

/// The greatest value in the 24 bits beside a sequence number.
const MAX_DETAIL: u32 = (1 << 24) - 1;

/// Packs the parts of an event into its words.
#[inline]
fn words(kind: u8, detail: u8, code: u8, peer: Id, seq: u64, beside: u32) -> [u64; 2] {
    [
        u64::from(peer) << 24 | u64::from(code) << 16 | u64::from(detail) << 8 | u64::from(kind),
        (seq & 0xffff_ffff) << 24 | u64::from(beside),
    ]
}

impl EventKind {
    fn read([a, b]: [u64; 2]) -> Option<EventKind> {
        let [kind, detail, code, p0, p1, p2, p3, _] = a.to_le_bytes();
        let peer = Vmid::new(u32::from_le_bytes([p0, p1, p2, p3]));
        let seq = u32::try_from(b >> 24).unwrap_or(u32::MAX);
        let beside = u32::try_from(b & u64::from(MAX_DETAIL)).unwrap_or(MAX_DETAIL);
        Some(match kind {
            FRAME_IN | FRAME_OUT => {
                let frame = FrameInfo {
                    peer: peer?,
                    code,
                    seq,
                    length: beside,
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
                    (ENDED, detail) => {
                        let error = match ERRORS.get(usize::from(detail).checked_sub(1)?)? {
                            Error::Refused { .. } => Error::Refused {
                                errno: Errno::new(i32::try_from(beside).ok()?)?,
                                by: None,
                            },
                            Error::Invalid(_) => {
                                Error::Invalid(*Invalid::ALL.get(usize::try_from(beside).ok()?)?)
                            }
                            other => *other,
                        };
                        EventKind::CallEnded(call, Err(error))
                    }
                    _ => return None,
                }
            }
        })
    }
}

impl EventRing<'_> {
    #[inline]
    pub(crate) fn frame_in(&self, peer: Vmid, code: u8, seq: u64, length: usize) {
        let length = u32::try_from(length).unwrap_or(MAX_DETAIL).min(MAX_DETAIL);
        self.add(words(FRAME_IN, 0, code, peer.get(), seq, length));
    }

    #[inline]
    pub(crate) fn frame_out(&self, peer: Vmid, code: u8, seq: u64, length: usize) {
        let length = u32::try_from(length).unwrap_or(MAX_DETAIL).min(MAX_DETAIL);
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
        let (known, beside) = match error {
            Error::Refused { errno, .. } => {
                (ANY_REFUSED, errno.get().cast_unsigned().min(MAX_DETAIL))
            }
            Error::Invalid(cause) => (ANY_INVALID, u32::from(cause as u8)),
            Error::LimitsDiffer { limit, .. } => (limits_differ(limit), 0),
            other => (other, 0),
        };
        let place = ERRORS.iter().position(|error| *error == known);
        // 0 is a call that has succeeded, and no place of an error.
        let place = place.map_or(usize::MAX, |place| place.plus(1));
        let detail = u8::try_from(place).or_broken(u8::MAX);
        self.add(words(ENDED, detail, code, peer.get(), seq, beside));
    }
}

/// The events of a node, oldest first. Its `Display` prints one per line.
#[derive(Clone)]
pub struct Events<'n> {
    ring: &'n EventRing<'n>,
    numbers: core::ops::Range<u64>,
    now: Time,
}

impl<'n> Events<'n> {
    /// Returns the events of the ring, seen at time `now`.
    pub(crate) fn of(ring: &'n EventRing<'n>, now: Time) -> Self {
        Events {
            ring,
            numbers: ring.numbers(),
            now,
        }
    }
}

impl Iterator for Events<'_> {
    type Item = EventRecord;

    fn next(&mut self) -> Option<EventRecord> {
        loop {
            let number = self.numbers.next()?;
            let Some((time, words)) = self.ring.get(number) else {
                continue;
            };
            let Some(kind) = EventKind::read(words) else {
                continue;
            };
            // The upper bits are those of the latest time that is not after `now`.
            let ago = self.now.0.wrapping_sub(time) & VALUE;
            return Some(EventRecord {
                number,
                time: Time(self.now.0.wrapping_sub(ago)),
                kind,
            });
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec::Vec;

    use core::mem::MaybeUninit;

    use super::*;
    use crate::store::Arena;

    fn events(ring: &EventRing<'_>) -> Vec<EventRecord> {
        let numbers = ring.numbers();
        let events = Events {
            ring,
            numbers,
            now: Time(u64::MAX / 3 + 5_000),
        };
        events.collect()
    }

    #[test]
    fn a_change_of_the_leader_reads_back_with_its_epoch() {
        let mut memory = [MaybeUninit::uninit(); 4096];
        let ring = EventRing::new(&mut Arena::new(&mut memory), 8);
        let changes = [(7, 2), (u32::MAX, u32::MAX)];
        for (leader, epoch) in changes {
            ring.leader_changed(Vmid::new(leader).unwrap(), epoch);
        }
        let read: Vec<_> = events(&ring).iter().map(|event| event.kind).collect();
        let expected = changes.map(|(leader, epoch)| EventKind::LeaderChanged {
            leader: Vmid::new(leader).unwrap(),
            epoch,
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn a_call_ended_by_differing_limits_reads_back_with_that_error() {
        let mut memory = [MaybeUninit::uninit(); 4096];
        let ring = EventRing::new(&mut Arena::new(&mut memory), 8);
        for limit in [Resource::FrameLength, Resource::SyncData] {
            let error = Error::LimitsDiffer {
                limit,
                ours: ByteCount::new(512),
                theirs: ByteCount::new(256),
            };
            ring.call_ended(Vmid::LEADER, 1, 1, &Err(error));
            let last = events(&ring).pop().map(|event| event.kind);
            let Some(EventKind::CallEnded(_, outcome)) = last else {
                panic!("{last:?}");
            };
            assert_eq!(outcome, Err(limits_differ(limit)));
        }
    }

    #[test]
    fn each_event_reads_back_as_recorded() {
        let mut memory = [MaybeUninit::uninit(); 4096];
        let ring = EventRing::new(&mut Arena::new(&mut memory), 64);
        let peer = Vmid::new(u32::MAX).unwrap();
        // This is beyond the bits of a word: the clock may count from any moment.
        let time = Time(u64::MAX / 3);
        ring.set_time(time);
        let call = Call {
            peer,
            code: 255,
            seq: u32::MAX,
        };
        let mut expected = Vec::new();
        ring.frame_in(peer, 255, u64::from(u32::MAX), usize::MAX);
        let frame = FrameInfo {
            peer,
            code: 255,
            seq: u32::MAX,
            length: MAX_DETAIL,
        };
        expected.push(EventKind::FrameIn(frame));
        ring.frame_out(Vmid::LEADER, 0, 0, 17);
        expected.push(EventKind::FrameOut(FrameInfo {
            peer: Vmid::LEADER,
            code: 0,
            seq: 0,
            length: 17,
        }));
        ring.connected(peer);
        ring.disconnected(peer);
        ring.call_begun(peer, 255, u64::from(u32::MAX));
        expected.extend([
            EventKind::Connected(peer),
            EventKind::Disconnected(peer),
            EventKind::CallBegun(call),
        ]);
        for reason in Refusal::all() {
            ring.refused(None, reason);
            expected.push(EventKind::Refused { peer: None, reason });
        }
        let refused = [1, 4095].map(|number| Error::Refused {
            errno: Errno::new(number).unwrap(),
            by: None,
        });
        for error in ERRORS.into_iter().take(21).chain(refused) {
            ring.call_ended(peer, 255, u64::from(u32::MAX), &Err(error));
            expected.push(EventKind::CallEnded(call, Err(error)));
        }
        ring.call_ended(
            peer,
            255,
            u64::from(u32::MAX),
            &Ok(Answer::Status(Err(Errno::EAGAIN))),
        );
        expected.push(EventKind::CallEnded(
            call,
            Err(Error::Refused {
                errno: Errno::EAGAIN,
                by: None,
            }),
        ));
        ring.call_ended(peer, 255, u64::from(u32::MAX), &Ok(Answer::DONE));
        expected.push(EventKind::CallEnded(call, Ok(())));
        let found = events(&ring);
        assert!(found.iter().all(|event| event.time == time));
        let found: Vec<_> = found.into_iter().map(|event| event.kind).collect();
        assert_eq!(found, expected);
    }
}
