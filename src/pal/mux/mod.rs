//! A platform whose only way out is one byte channel: a serial port of a virtual machine, say.
//!
//! All one-way streams of a member share the channel, the *line*. [`Mux`] is the machine at each of
//! its ends: the member's, where [`MuxPal`] makes a [`Pal`](crate::pal::Pal) of it, and that of
//! whoever connects the member with the others (`host::Proxy`). It has no I/O, no clock and no
//! lock, so it is tested on its own.
//!
//! *Credit.* The reader of a stream says how many bytes it has room for, and its writer sends no
//! more. So what comes on the line never has to wait, and a stream that nobody reads holds up its
//! own writer alone.
//!
//! *Opening* waits for the other end's word, so that nobody is taken for reachable who is not:
//! [`ConnectError::Busy`](crate::pal::ConnectError::Busy) until it has come.
//!
//! # What goes over the line
//! Frames of 8 bytes: kind (u8), 0 (u8; in HELLO the version, 1), stream (u16), value (u32), all
//! little-endian. After DATA come that stream's bytes. The first three of a stream come from its
//! writer, the others from its reader.
//!
//! | kind | name | stream | value |
//! | --- | --- | --- | --- |
//! | 1 | HELLO, the first of each end | how many streams it reads at once | 0 |
//! | 2 | OPEN | a free number | the VMID it is for; 0 towards the member |
//! | 3 | DATA | its number | how many bytes follow, at least 1 |
//! | 4 | END: closed by its writer | its number | 0 |
//! | 5 | CREDIT; the first one accepts the stream | its number | how many bytes more may be sent |
//! | 6 | STOP: closed by its reader, or refused | its number | 0 closed or nobody there, 1 busy, 2 not allowed |
//!
//! *Numbers.* The writer of a stream chooses its number, and uses it again only when both have
//! closed it and know that of each other. So no late frame is taken for one of another stream.

mod frame;
mod machine;
mod pal;
mod streams;

pub use self::frame::{MuxError, Stop};
pub use self::machine::Mux;
pub use self::pal::{ByteChannel, MuxEndpoint, MuxPal, MuxStream};
