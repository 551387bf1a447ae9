//! A platform with one byte channel as its only connection: a serial port of a virtual machine, for
//! example.
//!
//! All one-way streams of a member share the channel. `Mux` is the state machine at each of its
//! ends: at the member's end, where [`MuxPal`] makes a [`Pal`](crate::pal::Pal) of it, and at the
//! end of the process that connects the member with the others (`host::Proxy`). It has no I/O, no
//! clock and no lock, so it is tested by itself.
//!
//! *Credit.* The reader of a stream grants the number of bytes that it has room for, and the writer
//! sends no more. So bytes from the channel never have to wait, and a stream that is not read
//! blocks its own writer only.
//!
//! *Opening* waits for the answer of the other end, so that an absent peer does not appear
//! reachable: [`ConnectError::Busy`](crate::pal::ConnectError::Busy) is returned until the answer
//! has arrived.
//!
//! # What goes over the line
//! Frames have 8 bytes: kind (u8), 0 (u8; in HELLO the version, 1), stream (u16), value (u32), all
//! little-endian. The bytes of the stream follow a DATA frame. A stream's writer sends the first
//! three kinds, its reader the others.
//!
//! | kind | name | stream | value |
//! | --- | --- | --- | --- |
//! | 1 | HELLO, the first of each end | the number of streams that it reads at once | 0 |
//! | 2 | OPEN | a free number | the VMID of the target; 0 towards the member |
//! | 3 | DATA | its number | the number of bytes that follow, at least 1 |
//! | 4 | END: closed by its writer | its number | 0 |
//! | 5 | CREDIT; the first one accepts the stream | its number | the number of further bytes that may be sent |
//! | 6 | STOP: closed by its reader, or refused | its number | 0 closed or no reader, 1 busy, 2 not allowed |
//!
//! *Numbers.* The writer of a stream chooses its number, and uses it again only when both ends are
//! closed and each end knows that of the other. So no late frame is taken for one of another
//! stream.

mod endpoint;
mod frame;
mod machine;
mod pal;
mod state;
mod streams;

pub use self::endpoint::{ByteChannel, MuxEndpoint};
pub use self::frame::MuxError;
pub use self::pal::{MuxPal, MuxStream};
#[cfg(not(feature = "testing"))]
pub(crate) use self::{frame::Stop, machine::Mux};
#[cfg(feature = "testing")]
pub use self::{frame::Stop, machine::Mux};
