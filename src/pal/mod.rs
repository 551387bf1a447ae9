//! The platform abstraction layer: the only way to the outside, which an embedder implements.
//!
//! A [`Pal`] gives a node one-way byte streams to and from its peers, reports which of them are
//! ready, lets a thread wait for an [`Event`], and has a clock. A node needs nothing else of the
//! platform. Wrappers (fault injection, tracing, encryption) are PALs over a PAL, so they stack;
//! [`forward_pal`](crate::forward_pal) writes the methods that they only forward.
//!
//! # What a node relies on
//! * Streams are reliable, ordered and used in one direction: the connecting side writes, the
//!   accepting side reads. Reads and writes never block. (A wrapper may need the other direction
//!   for a handshake, as `secure` does.) A stream that is not read holds up no other stream.
//! * Readiness is *level-triggered*: every [`Pal::wait`] reports a stream that is ready and
//!   watched, until it is no longer ready or no longer watched.
//! * All methods may be called from any thread at any time; only one thread at a time calls
//!   [`Pal::wait`]. A platform for one thread ([`Driving::Caller`](crate::Driving::Caller)) need not
//!   end a wait under way for a call of another thread.
//! * A platform may move bytes in [`Pal::wait`] only: a node calls it again and again.
//!
//! `testing::conformance` (feature `testing`) checks a platform. It names the rules of this module that the
//! platform breaks.

use core::fmt;
use core::ops::{Add, Sub};
use core::time::Duration;

use bitflags::bitflags;

use crate::Vmid;

mod deadline;
pub(crate) mod fault;
mod flag;
mod forward;
pub mod mux;
#[cfg(feature = "secure")]
pub mod secure;
mod stream;

pub use deadline::Deadline;
pub use flag::Flag;
pub use stream::{LogWriterEnd, Stream, StreamError};

/// A point on the PAL's monotonic clock: nanoseconds since any fixed moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// Returns the time from `earlier` to this; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    /// Returns the point that much later; the sum saturates.
    #[cfg_attr(static_library, inline(never))]
    fn add(self, span: Duration) -> Time {
        Time(
            self.0
                .saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub<Time> for Time {
    type Output = Duration;
    /// Like [`Time::since`].
    fn sub(self, earlier: Time) -> Duration {
        self.since(earlier)
    }
}

/// The reason why no stream to a peer could be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// No process listens under that VMID: there is none, or none any more.
    NotListening,
    /// The peer's backlog is full, or the platform lacks resources at present. The caller may try
    /// again.
    Busy,
    /// The process that listens there is not of this family (a process of another user, for
    /// example).
    NotAllowed,
}

/// The reason why no stream was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptError {
    /// No stream is waiting to be accepted.
    WouldBlock,
    /// A stream of a process that is not of this family was refused. More streams may be waiting.
    NotAllowed,
    /// The platform is out of descriptors or memory. The caller may try again after something was
    /// closed.
    Exhausted,
}

/// The platform has exhausted a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfResources;

impl fmt::Display for OutOfResources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the platform has no more of what was asked for")
    }
}

/// An event that threads wait for: set or clear, and clear at first. It stays set until it is cleared.
pub trait Event: Send + Sync {
    /// Called before a call waits with the event, and perhaps again. A platform that has few events may make
    /// one here.
    ///
    /// # Errors
    /// [`OutOfResources`] if the platform has no more events: then the call fails.
    fn prepare(&self) -> Result<(), OutOfResources> {
        Ok(())
    }
    /// Sets it and wakes the threads that wait for it. It is cheap if no thread waits, and never
    /// blocks.
    fn set(&self);
    /// Clears it.
    fn clear(&self);
    /// Returns true if it is set.
    fn is_set(&self) -> bool;
}

bitflags! {
    /// The interest of a watch in a stream, and the readiness that [`Pal::wait`] reports for it:
    /// never more than the watch is interested in. After a hang-up there may still be bytes to
    /// read. A hang-up is reported for each of the three interests, so a watch with nothing to read
    /// or write uses `HANG_UP` to see it. For an empty interest a PAL may report one hang-up all
    /// the same, once after each [`Pal::watch`] or [`Pal::rewatch`], so that a short change of the
    /// interest is cheap.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Interest: u8 {
        /// Bytes, or the end of the stream, can be read.
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

/// The node's name of a watched stream. The PAL does not interpret it. The highest two bits are
/// clear, so that a wrapper can use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub u64);

impl Token {
    /// Reported when a stream waits to be accepted. It is never passed to [`Pal::watch`], and
    /// neither are the 15 numbers below it, which a PAL may use for its own watches.
    pub const LISTENER: Token = Token(u64::MAX);

    /// The highest token of a stream.
    pub(crate) const HIGHEST: u64 = u64::MAX >> 2;
}

/// The greatest number of ready streams that one [`Pal::wait`] reports. The next one reports the
/// rest, so that each ready stream is reported in turn, even if the others stay ready.
pub const READY_AT_ONCE: usize = 64;

/// The ready streams, and their readiness.
pub type ReadyList = heapless::Vec<(Token, Interest), READY_AT_ONCE>;

/// A platform, for one node of a family.
///
/// The node's own address accepts connections before the PAL is passed to the node.
pub trait Pal: Send + Sync {
    /// A byte stream.
    type Stream: Stream;
    /// An event.
    type Event: Event;

    /// Whether [`Pal::wait_readable`] works. If so, a thread that waits for an answer can read it
    /// from the stream itself, without a switch to the worker.
    const SUPPORTS_CALLER_READ: bool;

    /// Whether the node may ask the time often. If not, it does so only for time limits: the
    /// [recorded events](crate::Node::events) and [`pending_calls`](crate::Node::pending_calls) then carry the
    /// time at which it last asked.
    const CLOCK_IS_CHEAP: bool = true;

    /// Whether an accepted stream carries nothing before an exchange with the process that opened
    /// it. If so, each stream is unidentified for a while, and at the limit of unidentified streams
    /// new ones wait instead of replacing the oldest.
    const HAS_HANDSHAKE: bool = false;

    /// Whether [`Pal::is_secure`] may return true. A platform whose streams are always plain sets it to
    /// false: then its nodes have no code for heartbeats.
    const MAY_BE_SECURE: bool = true;

    /// Returns true if the streams are encrypted and authenticated, as those of `secure` with a key:
    /// then [`Stream::read`] returns 0 only for an end that the peer itself has made, and
    /// [`StreamError::Closed`] for a cut, and the node sends heartbeats
    /// ([`Config::silence_limit`](crate::Config::silence_limit)). A wrapper forwards it.
    fn is_secure(&self) -> bool {
        false
    }

    /// Returns true if a node on this platform needs secure streams, because others can read and change plain
    /// ones. A wrapper forwards it. Without secure streams [`Node::new`](crate::Node::new) fails then.
    fn requires_secure(&self) -> bool {
        false
    }

    /// Like [`Pal::SUPPORTS_CALLER_READ`], for a platform that knows only when it runs.
    fn supports_caller_read(&self) -> bool {
        Self::SUPPORTS_CALLER_READ
    }

    /// Makes an event. Called only while the node is set up.
    ///
    /// # Errors
    /// [`OutOfResources`] if the platform has no more events.
    fn event(&self) -> Result<Self::Event, OutOfResources>;

    /// Opens a stream to the process with that VMID, without blocking. The stream may be returned
    /// before the peer has accepted it; if the peer never does, it reads as closed. So does a stream to
    /// a process that does not exist, if the platform learns that only later.
    ///
    /// # Errors
    /// See [`ConnectError`].
    fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError>;

    /// Accepts the next stream to this node, without blocking.
    ///
    /// # Errors
    /// See [`AcceptError`].
    fn accept(&self) -> Result<Self::Stream, AcceptError>;

    /// Turns the report of [`Token::LISTENER`] on or off. It is on at first.
    fn watch_listener(&self, on: bool);

    /// Ends the listening: from now on a [`Pal::connect`] to this process fails with [`ConnectError::NotListening`], and the
    /// streams that were not accepted are closed. The node calls this at the end of its shutdown; nothing is accepted
    /// after it. The default does nothing: then a process that connects with this one learns of its end only when the
    /// platform is dropped. A wrapper forwards it.
    fn stop_listening(&self) {}

    /// Begins to watch `stream`, which is not watched yet, under the name `token`. The watch also
    /// takes effect for a [`Pal::wait`] under way.
    ///
    /// # Errors
    /// [`OutOfResources`] if the platform has no room for another watch.
    fn watch(
        &self,
        stream: &Self::Stream,
        token: Token,
        interest: Interest,
    ) -> Result<(), OutOfResources>;

    /// Changes the token and the interest of a watched stream. The change also takes effect for a
    /// [`Pal::wait`] under way.
    fn rewatch(&self, stream: &Self::Stream, token: Token, interest: Interest);

    /// Ends the watch. The stream may be dropped after that. A [`Pal::wait`] under way in another
    /// thread may still report it once. Its token is not reported for any other stream.
    fn unwatch(&self, stream: &Self::Stream);

    /// Waits until a watched stream is ready, [`Pal::wake`] is called, or the wait is over at
    /// `until`, and fills `ready`, which is empty at the call. It may return early with nothing.
    fn wait(&self, ready: &mut ReadyList, until: Deadline);

    /// Ends the [`Pal::wait`] under way, or the next one if there is none.
    fn wake(&self);

    /// Waits until `event` is set or the wait is over at `until`, and returns at once then, also if
    /// the event was set before the call. It may return early.
    fn wait_event(&self, event: &Self::Event, until: Deadline);

    /// Waits until `stream` is readable or hung up, `event` is set, or the wait is over at `until`,
    /// and returns at once in each of the three cases: the time limits and interrupts of a node's
    /// calls are as exact as this call, and a thread of the same process may use the event to hand
    /// something over. A platform whose wait for a stream can't be ended in this way sets
    /// [`Pal::SUPPORTS_CALLER_READ`] to false. The result is [`true`] if the stream has ended the wait. It may be [`true`] although the stream is
    /// not readable. Called only if [`Pal::SUPPORTS_CALLER_READ`].
    fn wait_readable(&self, stream: &Self::Stream, event: &Self::Event, until: Deadline) -> bool;

    /// Waits as [`Pal::wait_readable`] does, and reads. A platform on which one call can do both
    /// does so; it may react to `event`, and to nothing else, late by some milliseconds. So the
    /// node calls this only where the event means no more than that the connection ends.
    ///
    /// # Errors
    /// As [`Stream::read`]; [`StreamError::WouldBlock`] if the event or the time limit ended the
    /// wait.
    fn read_waiting(
        &self,
        stream: &Self::Stream,
        event: &Self::Event,
        buffer: &mut [u8],
        until: Deadline,
    ) -> Result<usize, StreamError> {
        self.wait_readable(stream, event, until);
        stream.read(buffer)
    }

    /// Ends the process with that VMID, which does not react, for certain: it may be stopped, and would go on
    /// later. Returns true once it is dead, or nobody listens under its VMID. The node calls this again after a
    /// while if it is not yet. It does not block. A platform that can't do that returns false, the default:
    /// then a family waits for a leader that has stopped
    /// ([`Config::stall_limit`](crate::Config::stall_limit)). A wrapper forwards it.
    fn end(&self, peer: Vmid) -> bool {
        let _ = peer;
        false
    }

    /// Removes what a process with that VMID has left behind, if it is dead: on a host, for example, the file of its
    /// socket. The leader's node calls this after the connection with a member has ended; the process may still be
    /// there, or a new one with its VMID. It does not block. The default does nothing. A wrapper forwards it.
    fn clean_up_after(&self, peer: Vmid) {
        let _ = peer;
    }

    /// Returns the time of the monotonic clock. It is cheap. The clock counts nanoseconds. It does not
    /// stand still, and never goes back, in any thread.
    fn now(&self) -> Time;

    /// Lets another thread run, since this one waits for a spinlock that another thread holds. A
    /// thread calls it after each 64 attempts to take the lock; `attempts` is the number of its
    /// earlier calls in this wait. A thread that uses a contended sync handle also calls it now and
    /// then, with 0.
    ///
    /// The thread may hold other spinlocks of the node. So the function returns soon, does not
    /// sleep for long, and makes no call of the node. It has no `self`, since all locks of a node
    /// keep it as a plain function.
    ///
    /// The default only spins; with the feature `std` it yields the processor
    /// (`std::thread::yield_now`). A platform on which threads share a processor overrides it.
    fn contended(attempts: u32) {
        spin(attempts);
    }
}

/// The default of [`Pal::contended`] and [`ByteChannel::contended`](mux::ByteChannel::contended).
fn spin(_attempts: u32) {
    #[cfg(feature = "std")]
    std::thread::yield_now();
    #[cfg(not(feature = "std"))]
    core::hint::spin_loop();
}
