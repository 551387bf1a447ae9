//! What can be wrong with bytes that came, and with a buffer that bytes should go to.

use core::fmt;

/// Why a frame was refused. Whoever sent it does not keep to the protocol: the connection it came
/// on can't be trusted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// The frame says that it is shorter than its own header.
    TooShort,
    /// The frame says that it is longer than the receiver takes.
    TooLong,
    /// The payload has not the size of the struct that its code calls for.
    PayloadLength,
    /// A length inside the payload and the frame's own length disagree.
    LengthsDisagree,
    /// A field has a value that means nothing.
    BadValue,
    /// A path is not terminated.
    NoTerminator,
}

impl Malformed {
    /// Every reason, each at its own [`index`](Malformed::index): for tables of counters.
    pub const ALL: [Malformed; 6] = [
        Malformed::TooShort,
        Malformed::TooLong,
        Malformed::PayloadLength,
        Malformed::LengthsDisagree,
        Malformed::BadValue,
        Malformed::NoTerminator,
    ];

    /// Where the reason stands in [`ALL`](Malformed::ALL).
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

/// The frame does not fit in the buffer; nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TooSmall;

impl fmt::Display for TooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the frame does not fit in the buffer")
    }
}

impl core::error::Error for TooSmall {}
