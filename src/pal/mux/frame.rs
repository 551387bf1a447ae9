//! The frames of the channel, as documented in the module.

use core::fmt;

/// The length of a frame in bytes, without the data after it.
pub(super) const FRAME: usize = 8;

/// The version in HELLO.
const VERSION: u8 = 1;

/// The kind of a frame. A stream's writer sends the first three kinds after HELLO, its reader the
/// others. The writer chooses the number of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// The first frame. The stream field has the number of streams that this end reads at once.
    Hello,
    /// Opens a stream. The value is the VMID of the target, or 0 where the target is clear.
    Open,
    /// The value is the number of bytes of the stream that follow, at least 1.
    Data,
    /// The writer has closed its end: no data follow.
    End,
    /// The writer may send `value` more bytes. The first such frame accepts the stream.
    Credit,
    /// The reader has closed its end, or there is no reader. The value is a [`Stop`].
    Stop,
}

/// The reason why a reader's end is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The reader has closed it; or there is no reader.
    Closed,
    /// The stream can't be opened at present. The writer may try again.
    Busy,
    /// The process that listens there is not of this family.
    NotAllowed,
}

/// The protocol violation of the other end of a channel. Nothing more is read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MuxError {
    /// A frame of an unknown kind, or with an undefined value.
    // The numbers begin at 1, so that `None` is 0, and a machine that is a `static` takes no room
    // in an image.
    Malformed = 1,
    /// The first frame is not HELLO of this version.
    NoHello,
    /// The stream number is higher than those that this end has.
    NoSuchStream,
    /// The frame opens a stream that is open.
    AlreadyOpen,
    /// The frame is for a stream that is not open or has ended.
    NotOpen,
    /// The peer sends more than its credit.
    BeyondCredit,
    /// The peer grants more credit than can be counted.
    TooMuchCredit,
}

impl fmt::Display for MuxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MuxError::Malformed => "a frame makes no sense",
            MuxError::NoHello => "it did not begin with HELLO of this version",
            MuxError::NoSuchStream => "a stream number is too high",
            MuxError::AlreadyOpen => "it opened a stream twice",
            MuxError::NotOpen => "it went on with a stream that is not open",
            MuxError::BeyondCredit => "it sent more than it may",
            MuxError::TooMuchCredit => "it allowed more than can be counted",
        })
    }
}

impl core::error::Error for MuxError {}

impl Stop {
    pub(super) fn value(self) -> u32 {
        match self {
            Stop::Closed => 0,
            Stop::Busy => 1,
            Stop::NotAllowed => 2,
        }
    }

    pub(super) fn read(value: u32) -> Result<Stop, MuxError> {
        match value {
            0 => Ok(Stop::Closed),
            1 => Ok(Stop::Busy),
            2 => Ok(Stop::NotAllowed),
            _ => Err(MuxError::Malformed),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MuxFrame {
    pub(super) kind: FrameKind,
    pub(super) stream: u16,
    pub(super) value: u32,
}

impl MuxFrame {
    pub(super) fn bytes(self) -> [u8; FRAME] {
        let (kind, extra) = match self.kind {
            FrameKind::Hello => (1, VERSION),
            FrameKind::Open => (2, 0),
            FrameKind::Data => (3, 0),
            FrameKind::End => (4, 0),
            FrameKind::Credit => (5, 0),
            FrameKind::Stop => (6, 0),
        };
        let [low, high] = self.stream.to_le_bytes();
        let [a, b, c, d] = self.value.to_le_bytes();
        [kind, extra, low, high, a, b, c, d]
    }

    pub(super) fn read(bytes: [u8; FRAME]) -> Result<MuxFrame, MuxError> {
        let [kind, extra, low, high, a, b, c, d] = bytes;
        let kind = match (kind, extra) {
            (1, VERSION) => FrameKind::Hello,
            (2, 0) => FrameKind::Open,
            (3, 0) => FrameKind::Data,
            (4, 0) => FrameKind::End,
            (5, 0) => FrameKind::Credit,
            (6, 0) => FrameKind::Stop,
            _ => return Err(MuxError::Malformed),
        };
        let (stream, value) = (
            u16::from_le_bytes([low, high]),
            u32::from_le_bytes([a, b, c, d]),
        );
        let is_sensible = match kind {
            FrameKind::Data | FrameKind::Credit => value > 0,
            FrameKind::Hello | FrameKind::End => value == 0,
            FrameKind::Open | FrameKind::Stop => true,
        };
        if is_sensible {
            Ok(MuxFrame {
                kind,
                stream,
                value,
            })
        } else {
            Err(MuxError::Malformed)
        }
    }
}
