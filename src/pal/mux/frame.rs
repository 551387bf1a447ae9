//! What goes over the line, as the module's page has it.

use core::fmt;

/// The bytes of a frame, without the data after it.
pub(super) const FRAME: usize = 8;

/// What HELLO says.
const VERSION: u8 = 1;

/// What a frame says. The first three of a stream come from its writer, the others from its
/// reader; a writer numbers its own streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// First of all: the stream field says how many streams this end reads at once.
    Hello,
    /// A stream begins. The value is the VMID it is for, or 0 where that is clear.
    Open,
    /// The value says how many bytes of the stream follow, at least 1.
    Data,
    /// The writer has closed its end: nothing follows.
    End,
    /// The writer may send `value` more bytes. The first of these accepts the stream.
    Credit,
    /// The reader has closed its end, or there is none. The value is a [`Stop`].
    Stop,
}

/// Why a reader's end is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It was read, and is closed; or nobody is there to read it.
    Closed,
    /// It can't be opened for now: worth a retry.
    Busy,
    /// Who listens there is not of this family.
    NotAllowed,
}

/// What the other end of a line did that it must not: nothing more is read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MuxError {
    /// A frame of no known kind, or with a value that it can't have.
    // Not 0: so "none" is, and a machine that is a `static` takes no room in an image.
    Malformed = 1,
    /// Its first frame is not HELLO of this version.
    NoHello,
    /// A stream number beyond those that this end has.
    NoSuchStream,
    /// It opens a stream that is open.
    AlreadyOpen,
    /// It goes on with a stream that is not open or that it has ended.
    NotOpen,
    /// It sends more than it may.
    BeyondCredit,
    /// It allows more than can be counted.
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
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) stream: u16,
    pub(super) value: u32,
}

impl Frame {
    pub(super) fn bytes(self) -> [u8; FRAME] {
        let (kind, extra) = match self.kind {
            Kind::Hello => (1, VERSION),
            Kind::Open => (2, 0),
            Kind::Data => (3, 0),
            Kind::End => (4, 0),
            Kind::Credit => (5, 0),
            Kind::Stop => (6, 0),
        };
        let [low, high] = self.stream.to_le_bytes();
        let [a, b, c, d] = self.value.to_le_bytes();
        [kind, extra, low, high, a, b, c, d]
    }

    pub(super) fn read(bytes: [u8; FRAME]) -> Result<Frame, MuxError> {
        let [kind, extra, low, high, a, b, c, d] = bytes;
        let kind = match (kind, extra) {
            (1, VERSION) => Kind::Hello,
            (2, 0) => Kind::Open,
            (3, 0) => Kind::Data,
            (4, 0) => Kind::End,
            (5, 0) => Kind::Credit,
            (6, 0) => Kind::Stop,
            _ => return Err(MuxError::Malformed),
        };
        let (stream, value) = (
            u16::from_le_bytes([low, high]),
            u32::from_le_bytes([a, b, c, d]),
        );
        let is_sensible = match kind {
            Kind::Data | Kind::Credit => value > 0,
            Kind::Hello | Kind::End => value == 0,
            Kind::Open | Kind::Stop => true,
        };
        if is_sensible {
            Ok(Frame {
                kind,
                stream,
                value,
            })
        } else {
            Err(MuxError::Malformed)
        }
    }
}
