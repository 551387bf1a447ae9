//! The header of an entry of the file, which precedes the frame's own bytes. `docs/debugging.md` has the
//! table of its fields.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Vmid;
use crate::pal::Time;

/// The version of the layout below.
pub(super) const VERSION: u8 = 1;

/// The content of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole frame.
    Frame = 0,
    /// Bytes that are no frame: the stream has announced an impossible size.
    NoFrame = 1,
    /// The beginning of a frame whose stream ended.
    CutOff = 2,
    /// No content: `index` frames were not recorded, for lack of room.
    Lost = 3,
}

/// The ends that have recorded the frame: bits of [`EntryHeader::seen`].
pub(super) const BY_SENDER: u8 = 1;
pub(super) const BY_RECEIVER: u8 = 2;

/// The header of an entry.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Unaligned, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct EntryHeader {
    pub(super) version: u8,
    pub(super) kind: u8,
    pub(super) seen: u8,
    pub(super) reserved: u8,
    /// The VMIDs; 0 for one that is not known.
    pub(super) sender: U32,
    pub(super) receiver: U32,
    pub(super) reserved_too: U32,
    /// The number of the entry in its stream, from 0.
    pub(super) index: U64,
    /// The time at which the sender passed the last byte to the platform, on the clock of the
    /// members; 0 if that was not recorded.
    pub(super) sent: U64,
    /// The time at which the receiver had read the last byte; 0 if that was not recorded.
    pub(super) received: U64,
}

/// The length of the header, in bytes.
pub(super) const HEADER_LENGTH: usize = size_of::<EntryHeader>();
const _: () = assert!(HEADER_LENGTH == 40);

impl EntryHeader {
    /// Returns the earliest of the recorded times.
    pub(super) fn time(&self) -> u64 {
        if self.seen & BY_SENDER != 0 {
            self.sent.get()
        } else {
            self.received.get()
        }
    }

    pub(super) fn is(&self, kind: Kind) -> bool {
        self.kind == kind as u8
    }

    /// Makes the header of the entry for `count` frames of the member `us` that were not recorded.
    pub(super) fn lost(us: u32, count: u64, time: u64) -> EntryHeader {
        EntryHeader {
            version: VERSION,
            kind: Kind::Lost as u8,
            seen: BY_SENDER,
            reserved: 0,
            sender: us.into(),
            receiver: 0.into(),
            reserved_too: 0.into(),
            index: count.into(),
            sent: time.into(),
            received: 0.into(),
        }
    }
}

/// One end of a stream, with the VMIDs of both ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordedEnd {
    sender: u32,
    receiver: u32,
    seen: u8,
}

impl RecordedEnd {
    /// Makes the sending end of the member `us`, of a stream to `peer`.
    pub(super) fn sender(us: Vmid, peer: Vmid) -> RecordedEnd {
        RecordedEnd {
            sender: us.get(),
            receiver: peer.get(),
            seen: BY_SENDER,
        }
    }

    /// Makes the receiving end of the member `us`, of a stream whose sender is not known yet.
    pub(super) fn receiver(us: Vmid) -> RecordedEnd {
        RecordedEnd {
            sender: 0,
            receiver: us.get(),
            seen: BY_RECEIVER,
        }
    }

    pub(super) fn is_sender(&self) -> bool {
        self.seen == BY_SENDER
    }

    /// Records that the stream comes from `vmid`.
    pub(super) fn comes_from(&mut self, vmid: u32) {
        self.sender = vmid;
    }

    /// Makes the header of entry `index` of this stream, recorded at this end.
    pub(super) fn header(&self, kind: Kind, index: u64, time: Time) -> EntryHeader {
        let (sent, received) = if self.is_sender() {
            (time.0, 0)
        } else {
            (0, time.0)
        };
        EntryHeader {
            version: VERSION,
            kind: kind as u8,
            seen: self.seen,
            reserved: 0,
            sender: self.sender.into(),
            receiver: self.receiver.into(),
            reserved_too: 0.into(),
            index: index.into(),
            sent: sent.into(),
            received: received.into(),
        }
    }
}
