//! One end of a secure stream: the state machine of the protocol, and the inner stream.

use core::ops::Deref;

use super::error::TransferError;
use super::incoming::IncomingRecords;
use super::outgoing::OutgoingRecords;
use super::{Breach, SecurePal};
use crate::Vmid;
use crate::invariant::Count;
use crate::log::log_event;
use crate::pal::fault::{checked_read, checked_write};
use crate::pal::{Deadline, Interest, OutOfResources, Pal, Stream, StreamError, Token};
use crate::store::{Rank, SpinLock};
use crate::sync::{AtomicU8, AtomicU64, Ordering};

/// A bit of the token: the stream was opened by this node. Any readiness of the inner stream is
/// then reported as writable, otherwise as readable.
const OPENED_HERE: u64 = 1 << 63;

/// A bit beside those of [`Interest`]: the stream is watched.
const WATCHED: u8 = 1 << 7;

/// The greatest number of attempts to send the closing record when it is interrupted.
const END_TRIES: u32 = 8;

/// A stream of a [`SecurePal`].
pub struct SecureStream<P: Pal, R: Deref<Target = SecurePal<P>>> {
    pal: R,
    inner: P::Stream,
    kind: Direction,
    /// The readiness of the inner stream that the next step needs.
    need: AtomicU8,
    /// The node's interest.
    asked: AtomicU8,
    token: AtomicU64,
}

/// The end of the stream. The machine is a token, a lock that is only tried: its holder may be
/// reading.
#[allow(
    clippy::large_enum_variant,
    reason = "both have a buffer, there is nothing to put it into, and only wrappers without a key are plain"
)]
enum Direction {
    Plain,
    Outgoing(Vmid, SpinLock<OutgoingRecords>),
    Incoming(SpinLock<IncomingRecords>),
}

/// Returns the interest in the inner stream where the node's interest is `asked`.
fn inner_interest(kind: &Direction, asked: Interest, need: Interest) -> Interest {
    let moves = match kind {
        Direction::Plain => return asked,
        Direction::Outgoing(..) => Interest::WRITE,
        Direction::Incoming(_) => Interest::READ,
    };
    let mut interest = asked & Interest::HANG_UP;
    if asked.contains(moves) {
        interest |= need;
    } else if !asked.is_empty() {
        // A hang-up is reported for each interest.
        interest |= Interest::HANG_UP;
    }
    interest
}

/// Converts the report of an inner stream to the report for the node.
pub(super) fn translate(token: Token, readiness: Interest) -> (Token, Interest) {
    if token == Token::LISTENER {
        return (token, readiness);
    }
    let mut reported = readiness & Interest::HANG_UP;
    let opened = token.0 & OPENED_HERE != 0;
    if readiness.intersects(Interest::READ | Interest::WRITE) {
        reported |= if opened {
            Interest::WRITE
        } else {
            Interest::READ
        };
    }
    (Token(token.0 & !OPENED_HERE), reported)
}

impl<P: Pal, R: Deref<Target = SecurePal<P>> + Clone> SecureStream<P, R> {
    /// Makes the end of a stream that was opened to `peer`.
    pub(super) fn opened(pal: &R, inner: P::Stream, peer: Vmid) -> Self {
        let kind = || {
            Direction::Outgoing(
                peer,
                SpinLock::new(Rank::Token, P::contended, OutgoingRecords::new()),
            )
        };
        Self::new(pal, inner, kind, Interest::WRITE)
    }

    /// Makes the end of a stream that was accepted.
    pub(super) fn accepted(pal: &R, inner: P::Stream) -> Self {
        let kind = || {
            Direction::Incoming(SpinLock::new(
                Rank::Token,
                P::contended,
                IncomingRecords::new(),
            ))
        };
        Self::new(pal, inner, kind, Interest::READ)
    }

    fn new(pal: &R, inner: P::Stream, kind: impl FnOnce() -> Direction, need: Interest) -> Self {
        let kind = if pal.is_secure() {
            kind()
        } else {
            Direction::Plain
        };
        SecureStream {
            pal: pal.clone(),
            inner,
            kind,
            need: AtomicU8::new(need.bits()),
            asked: AtomicU8::new(0),
            token: AtomicU64::new(0),
        }
    }
}

impl<P: Pal, R: Deref<Target = SecurePal<P>>> SecureStream<P, R> {
    pub(super) fn inner(&self) -> &P::Stream {
        &self.inner
    }

    /// Reads from the inner stream.
    fn pull(&self, space: &mut [u8]) -> Result<usize, StreamError> {
        let room = space.len();
        checked_read(self.inner.read(space), room)
    }

    /// Writes to the inner stream.
    fn push(&self, bytes: &[u8]) -> Result<usize, StreamError> {
        checked_write(self.inner.write(&[bytes]), bytes.len())
    }

    fn need(&self) -> Interest {
        Interest::from_bits_truncate(self.need.load(Ordering::SeqCst))
    }

    /// Returns true if bytes can be read for which the inner stream will not be reported ready.
    pub(super) fn has_more(&self) -> bool {
        matches!(self.kind, Direction::Incoming(_)) && self.need().contains(Interest::WRITE)
    }

    /// Returns the token and interest of the watch of the inner stream; `None` if it is not
    /// watched.
    fn inner_watch(&self) -> Option<(Token, Interest)> {
        let asked = self.asked.load(Ordering::SeqCst);
        let interest = Interest::from_bits_truncate(asked & !WATCHED);
        let interest = inner_interest(&self.kind, interest, self.need());
        let token = Token(self.token.load(Ordering::SeqCst));
        (asked & WATCHED != 0).then_some((token, interest))
    }

    /// Updates the watch of the inner stream. If two threads do so at once, the last one has the
    /// latest state.
    fn update_watch(&self) {
        let mut next = self.inner_watch();
        while let Some((token, interest)) = next {
            self.pal.inner.rewatch(&self.inner, token, interest);
            let now = self.inner_watch();
            next = now.filter(|_| now != next);
        }
    }

    fn set_need(&self, need: Interest) {
        if self.need.swap(need.bits(), Ordering::SeqCst) != need.bits() {
            self.update_watch();
        }
    }

    /// Records the node's interest.
    fn set_watch(&self, token: Token, interest: Interest) {
        let opened = match self.kind {
            Direction::Outgoing(..) => OPENED_HERE,
            _ => 0,
        };
        self.token.store(token.0 | opened, Ordering::SeqCst);
        self.asked
            .store(interest.bits() | WATCHED, Ordering::SeqCst);
    }

    pub(super) fn watch(&self, token: Token, interest: Interest) -> Result<(), OutOfResources> {
        self.set_watch(token, interest);
        let Some((token, interest)) = self.inner_watch() else {
            return Ok(());
        };
        let watched = self.pal.inner.watch(&self.inner, token, interest);
        if watched.is_err() {
            self.asked.store(0, Ordering::SeqCst);
        } else if self.inner_watch() != Some((token, interest)) {
            self.update_watch();
        }
        watched
    }

    pub(super) fn rewatch(&self, token: Token, interest: Interest) {
        self.set_watch(token, interest);
        self.update_watch();
    }

    pub(super) fn unwatch(&self) {
        self.asked.store(0, Ordering::SeqCst);
        self.pal.inner.unwatch(&self.inner);
    }

    /// Converts the result of a read or write for the node.
    fn report(
        &self,
        result: Result<usize, TransferError>,
        peer: Option<Vmid>,
        mark_broken: impl FnOnce(),
    ) -> Result<usize, StreamError> {
        match result {
            Ok(count) => Ok(count),
            Err(TransferError::Stream(error)) => Err(error),
            Err(TransferError::Breach(breach)) => {
                mark_broken();
                self.pal.counters.count(breach);
                let who = peer.map_or(0, Vmid::get);
                if breach == Breach::Truncated {
                    log_event!(debug, "a stream of process {who} is over: {breach}");
                } else {
                    log_event!(warn, "a stream of process {who} is refused: {breach}");
                }
                Err(StreamError::Closed)
            }
        }
    }

    /// Reads, where `pull` reads the inner stream.
    fn read_by(
        &self,
        incoming: &SpinLock<IncomingRecords>,
        buffer: &mut [u8],
        pull: impl FnMut(&mut [u8]) -> Result<usize, StreamError>,
    ) -> Result<usize, StreamError> {
        let Some(family) = &self.pal.family else {
            return Err(StreamError::Closed);
        };
        let Some(mut incoming) = incoming.try_lock() else {
            return Err(StreamError::WouldBlock);
        };
        let before = (incoming.is_open(), incoming.has_ended());
        let push = |bytes: &[u8]| self.push(bytes);
        let read = incoming.read(family, self.pal.own, buffer, pull, push);
        let counters = &self.pal.counters;
        if !before.0 && incoming.is_open() {
            counters.handshakes.add(1);
        }
        if !before.1 && incoming.has_ended() {
            counters.ended.add(1);
        }
        let peer = incoming.opener();
        let reported = self.report(read, peer, || incoming.mark_broken());
        self.set_need(incoming.need());
        reported
    }

    /// Like [`Pal::read_waiting`].
    pub(super) fn read_waiting(
        &self,
        event: &P::Event,
        buffer: &mut [u8],
        until: Deadline,
    ) -> Result<usize, StreamError> {
        let pal = &self.pal.inner;
        let Direction::Incoming(incoming) = &self.kind else {
            return pal.read_waiting(&self.inner, event, buffer, until);
        };
        let mut has_waited = false;
        self.read_by(incoming, buffer, |space| {
            if core::mem::replace(&mut has_waited, true) {
                return self.pull(space);
            }
            let room = space.len();
            checked_read(pal.read_waiting(&self.inner, event, space, until), room)
        })
    }
}

impl<P: Pal, R: Deref<Target = SecurePal<P>> + Send + Sync> Stream for SecureStream<P, R> {
    fn read(&self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        match &self.kind {
            Direction::Plain => self.inner.read(buffer),
            Direction::Incoming(incoming) => {
                self.read_by(incoming, buffer, |space| self.pull(space))
            }
            Direction::Outgoing(..) => Err(StreamError::Closed),
        }
    }

    fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError> {
        let (peer, outgoing) = match &self.kind {
            Direction::Plain => return self.inner.write(parts),
            Direction::Outgoing(peer, outgoing) => (*peer, outgoing),
            Direction::Incoming(_) => return Err(StreamError::Closed),
        };
        let Some(family) = &self.pal.family else {
            return Err(StreamError::Closed);
        };
        let Some(mut outgoing) = outgoing.try_lock() else {
            return Err(StreamError::WouldBlock);
        };
        let was_open = outgoing.is_open();
        let pull = |space: &mut [u8]| self.pull(space);
        let push = |bytes: &[u8]| self.push(bytes);
        let written = outgoing.write(family, [self.pal.own, peer], parts, pull, push);
        if !was_open && outgoing.is_open() {
            self.pal.counters.handshakes.add(1);
        }
        let reported = self.report(written, Some(peer), || outgoing.mark_broken());
        self.set_need(outgoing.need());
        reported
    }

    fn opener(&self) -> Option<u32> {
        self.inner.opener()
    }
}

impl<P: Pal, R: Deref<Target = SecurePal<P>>> Drop for SecureStream<P, R> {
    /// Sends the closing record, if that is possible at once. Otherwise the end looks like a death.
    fn drop(&mut self) {
        let Direction::Outgoing(_, outgoing) = &self.kind else {
            return;
        };
        if let Some(mut outgoing) = outgoing.try_lock()
            && outgoing.is_open()
        {
            let mut tries = 0_u32;
            outgoing.end(|bytes| {
                loop {
                    let written = self.push(bytes);
                    tries.increment();
                    if written != Err(StreamError::Interrupted) || tries >= END_TRIES {
                        return written;
                    }
                }
            });
        }
    }
}
