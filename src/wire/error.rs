//! The errors of malformed bytes and of buffers without room.

use core::fmt;

/// The reason why a frame was refused. The sender violates the protocol, so its connection is
/// closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Malformed {
    /// The size field is less than the header's length.
    TooShort,
    /// The size field is more than the receiver's limit.
    TooLong,
    /// The payload does not have the length of the struct for its code.
    PayloadLength,
    /// A length inside the payload disagrees with the frame's size.
    LengthsDisagree,
    /// A field has an undefined value.
    BadValue,
    /// A path is not terminated.
    NoTerminator,
}

impl Malformed {
    /// All reasons, each at its own [`index`](Malformed::index), for tables of counters.
    pub const ALL: [Malformed; 6] = [
        Malformed::TooShort,
        Malformed::TooLong,
        Malformed::PayloadLength,
        Malformed::LengthsDisagree,
        Malformed::BadValue,
        Malformed::NoTerminator,
    ];

    /// Returns the index of the reason in [`ALL`](Malformed::ALL).
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::TooShort => "the frame says it is shorter than a header",
            Malformed::TooLong => "the frame is longer than this process takes",
            Malformed::PayloadLength => "the payload has the wrong length for its code",
            Malformed::LengthsDisagree => "a length in the payload disagrees with the frame's",
            Malformed::BadValue => "a field has a value that means nothing",
            Malformed::NoTerminator => "a path has no NUL at its end",
        })
    }
}

impl core::error::Error for Malformed {}

/// The frame does not fit in the buffer, which is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TooSmall;

impl fmt::Display for TooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the frame does not fit in the buffer")
    }
}

impl core::error::Error for TooSmall {}
