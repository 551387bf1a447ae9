//! A platform whose only way out is one byte channel: a serial port of a virtual machine, say.
//!
//! All one-way streams of a member share the channel, the *line*. [`Mux`] is the machine at each of
//! its ends: the member's, where [`OneLine`] makes a [`Pal`](crate::pal::Pal) of it, and that of
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
//! *Numbers.* The writer of a stream chooses its number, and uses it again only when both have
//! closed it and know that of each other. So no late frame is taken for one of another stream.

mod frame;
mod machine;
mod pal;
mod streams;

pub use self::frame::{LineFault, Stop};
pub use self::machine::Mux;
pub use self::pal::{Line, LineStream, OneLine, Terminal};
