//! The last events of a node, for diagnosis.
//!
//! A node keeps its last [`Capacities::events`](crate::Capacities::events) events in its memory:
//! frames, connections that are opened, closed and refused, calls and their results. Reading them
//! takes no lock, so it is possible after a fault, from any thread, even after a panic.

mod display;
mod encoding;
mod ring;

pub(crate) use self::ring::EventRing;
use self::ring::VALUE_MASK;
use crate::Vmid;
use crate::counters::Refusal;
use crate::error::Error;
use crate::pal::Time;

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
        /// The epoch of the leader: 1 for the first one.
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
            let ago = self.now.0.wrapping_sub(time) & VALUE_MASK;
            return Some(EventRecord {
                number,
                time: Time(self.now.0.wrapping_sub(ago)),
                kind,
            });
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
