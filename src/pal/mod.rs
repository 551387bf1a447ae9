//! The only door to the outside: what an embedder implements.
//!
//! A [`Pal`] gives a node one-way byte streams to and from its peers, tells which of them are
//! ready, lets a thread wait for an [`Event`], and tells the time. A node never asks more of the
//! platform than this. Wrappers (faults, tracing, encryption) are PALs over a PAL, so they
//! stack; [`forward_pal`](crate::forward_pal) writes what they only pass on.
//!
//! # What a node relies on
//! * Streams are reliable, ordered and one-way in use: the connecting side writes, the accepting
//!   side reads. Reads and writes never block. (A wrapper may need the way back for a handshake, as
//!   `secure` does.)
//! * Readiness is *level-triggered*: a stream that is ready and watched is reported by every
//!   [`Pal::wait`] until it is no longer ready or no longer watched.
//! * All methods may be called from any thread at any time; only one thread at a time is in
//!   [`Pal::wait`].

use core::fmt;
use core::ops::{Add, Sub};
use core::time::Duration;

use bitflags::bitflags;

use crate::Vmid;

mod flag;
mod forward;
pub mod mux;
#[cfg(feature = "secure")]
pub mod secure;

pub use flag::Flag;

/// A point on the PAL's monotonic clock: nanoseconds since any fixed moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// How long it is from `earlier` to this; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    /// The point that much later; stops at the end of the clock.
    fn add(self, span: Duration) -> Time {
        Time(
            self.0
                .saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub<Time> for Time {
    type Output = Duration;
    /// As [`Time::since`].
    fn sub(self, earlier: Time) -> Duration {
        self.since(earlier)
    }
}

/// Why a read or write of a stream moved no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// Nothing to read, or no room to write, for now.
    WouldBlock,
    /// Interrupted before anything was moved: the node tries again.
    Interrupted,
    /// The stream is broken or closed by the peer, for good.
    Closed,
}

/// One end of a byte stream. Dropping it ends it for the peer, too, which still reads what was written
/// before: also if the process was forked and the copy has the descriptor (`shutdown(2)`).
pub trait Stream: Send + Sync {
    /// Reads at most `buffer.len()` bytes without blocking and says how many; 0 says that the
    /// peer closed its end and everything was read. `buffer` is never empty.
    ///
    /// # Errors
    /// As [`StreamError`] says.
    fn read(&self, buffer: &mut [u8]) -> Result<usize, StreamError>;

    /// Writes the bytes of `parts`, in order, as many as go without blocking, and says how many.
    /// At least one part is not empty; at most 4 parts are given. What it did not take is offered
    /// again by the next write, before anything else: a wrapper may have begun to send it.
    ///
    /// # Errors
    /// As [`StreamError`] says.
    fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError>;
}

/// Why no stream to a peer could be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// Nobody listens under that VMID: there is no such process (any more).
    NotListening,
    /// The peer's backlog is full, or the platform is short of something for now: worth a retry.
    Busy,
    /// Somebody listens there who is not of this family (another user, say).
    NotAllowed,
}

/// Why no stream was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptError {
    /// Nobody is waiting to be accepted.
    WouldBlock,
    /// Somebody who is not of this family was turned away: there may be more to accept.
    NotAllowed,
    /// The platform is out of descriptors or memory: no use to try before something is closed.
    Exhausted,
}

/// The platform has no more of what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfResources;

impl fmt::Display for OutOfResources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the platform has no more of what was asked for")
    }
}

/// Something to wait on: set or clear, clear at first.
pub trait Event: Send + Sync {
    /// Sets it and wakes whoever waits on it. Cheap if nobody does; never blocks.
    fn set(&self);
    /// Clears it.
    fn clear(&self);
    /// Whether it is set.
    fn is_set(&self) -> bool;
}

bitflags! {
    /// What the node asks a watch to report of a stream, and what [`Pal::wait`] reports of it: nothing but
    /// what is asked for. After a hang-up there may still be bytes to read. A hang-up is reported to each of the
    /// three, so whoever must not miss one while there is nothing to read or write asks for
    /// `HANG_UP`. To nobody's interest (`empty`) a PAL may report one hang-up in spite of that,
    /// once per [`Pal::watch`] or [`Pal::rewatch`], so that a change to and fro costs little.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Interest: u8 {
        /// Bytes, or the end, can be read.
        const READ = 1;
        /// Bytes can be written.
        const WRITE = 2;
        /// The peer closed its end, or the stream broke.
        const HANG_UP = 4;
    }
}

impl Interest {
    /// Returns what a watch with this interest reports of a stream in that state.
    pub(crate) fn reported(self, readable: bool, writable: bool, hung_up: bool) -> Self {
        let mut reported = Interest::empty();
        reported.set(Interest::READ, readable && self.contains(Interest::READ));
        reported.set(Interest::WRITE, writable && self.contains(Interest::WRITE));
        reported.set(Interest::HANG_UP, hung_up && !self.is_empty());
        reported
    }
}

/// What a node calls a stream when it asks to watch it. Opaque to the PAL. The highest two bits are
/// clear, so a wrapper can note something in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub u64);

impl Token {
    /// Reported when somebody waits to be accepted. Never given to [`Pal::watch`], nor are the 15
    /// numbers below it, which a PAL keeps for its own watches.
    pub const LISTENER: Token = Token(u64::MAX);
}

/// How many ready streams one [`Pal::wait`] reports at most. The rest is reported by the next.
pub const READY_AT_ONCE: usize = 64;

/// Which watched streams are ready, and for what.
pub type ReadyList = heapless::Vec<(Token, Interest), READY_AT_ONCE>;

/// A platform, as seen by one node of a family.
///
/// The node's own listening address is ready to be connected to before the PAL is handed over.
pub trait Pal: Send + Sync {
    /// A byte stream.
    type Stream: Stream;
    /// An event.
    type Event: Event;

    /// Whether [`Pal::wait_readable`] works, so that a thread which waits for an answer may read
    /// it off the stream itself, without a hand-over from the worker.
    const SUPPORTS_CALLER_READ: bool;

    /// Whether a stream that was accepted says nothing before an exchange with its opener, so that each
    /// is a stranger for a while: others wait then, rather than that it goes to make room for them.
    const HAS_HANDSHAKE: bool = false;

    /// A new event. Only called while the node is set up.
    ///
    /// # Errors
    /// When the platform has no more of them.
    fn event(&self) -> Result<Self::Event, OutOfResources>;

    /// Opens a stream to the process with that VMID, without blocking. A stream may be returned
    /// before the peer has accepted it; it reads as closed if that never happens.
    ///
    /// # Errors
    /// As [`ConnectError`] says.
    fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError>;

    /// Takes the next stream that somebody opened to this node, without blocking.
    ///
    /// # Errors
    /// As [`AcceptError`] says.
    fn accept(&self) -> Result<Self::Stream, AcceptError>;

    /// Turns the report of [`Token::LISTENER`] on or off. On at first.
    fn watch_listener(&self, on: bool);

    /// Begins to watch `stream`, which is not watched yet, under the name `token`. Takes effect
    /// also for a [`Pal::wait`] under way.
    ///
    /// # Errors
    /// When the platform has no more room for it.
    fn watch(
        &self,
        stream: &Self::Stream,
        token: Token,
        interest: Interest,
    ) -> Result<(), OutOfResources>;

    /// Changes what is reported of a watched stream.
    fn rewatch(&self, stream: &Self::Stream, token: Token, interest: Interest);

    /// Ends the watch. The stream may be dropped after that. A [`Pal::wait`] under way in another
    /// thread may still report it once.
    fn unwatch(&self, stream: &Self::Stream);

    /// Waits until a watched stream is ready, [`Pal::wake`] is called, or the clock reaches
    /// `until` (`None`: no limit; a time in the past: only looks), and fills `ready`, which comes
    /// in empty. May return early with nothing.
    fn wait(&self, ready: &mut ReadyList, until: Option<Time>);

    /// Ends the [`Pal::wait`] under way, or the next one if there is none.
    fn wake(&self);

    /// Waits until `event` is set or the clock reaches `until`, and comes back at once then. May return
    /// early.
    fn wait_event(&self, event: &Self::Event, until: Option<Time>);

    /// Waits until `stream` is readable or hung up, `event` is set, or the clock reaches `until`, and
    /// comes back at once whichever of the three it is: the time limits and interrupts of a node's calls
    /// are as exact as this is, and a thread of the same process may hand something over by the event.
    /// A platform whose wait for a stream can't be ended like that sets [`Pal::SUPPORTS_CALLER_READ`] to
    /// false. May say [`true`] when it is not. Called only where [`Pal::SUPPORTS_CALLER_READ`].
    fn wait_readable(
        &self,
        stream: &Self::Stream,
        event: &Self::Event,
        until: Option<Time>,
    ) -> bool;

    /// Waits as [`Pal::wait_readable`] does, and reads. A platform where one call can do both
    /// does so; it may heed `event`, and nothing else, late by some milliseconds. So the node calls
    /// this only where the event means no more than that the connection is to end.
    ///
    /// # Errors
    /// As [`Stream::read`]; [`StreamError::WouldBlock`] if the event or the time ended it.
    fn read_waiting(
        &self,
        stream: &Self::Stream,
        event: &Self::Event,
        buffer: &mut [u8],
        until: Option<Time>,
    ) -> Result<usize, StreamError> {
        self.wait_readable(stream, event, until);
        stream.read(buffer)
    }

    /// The monotonic clock. Cheap.
    fn now(&self) -> Time;
}
