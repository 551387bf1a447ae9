//! An event on a futex word, which can also wake a thread that polls a stream.
//!
//! The word has [`SET`], [`SLEEPING`] (a thread sleeps on the word itself) and above these the
//! number of threads that poll, counted in units of [`POLLER`]. For pollers there is an eventfd,
//! made for the first of them, so that events without pollers cost no descriptor.
//!
//! # Why no wake-up gets lost
//! * *Sleeper.* It sleeps only while the word is, bit for bit, the value that it read: without
//!   `SET`, and with its own `SLEEPING`. The kernel compares and puts the thread to sleep in one
//!   step. `set` first adds `SET`: if that comes before the comparison, the sleeper does not sleep;
//!   if after, `set` finds `SLEEPING` and wakes it. `set` removes `SLEEPING` before it wakes, so a
//!   thread that adds the bit before that is woken, and a thread that adds it later keeps the bit.
//! * *Poller.* It adds itself to the count in one step with a test of `SET`. If `SET` comes first,
//!   the poller sees it; if later, `set` finds the count and writes the eventfd, which stays
//!   readable until it is drained. A poller that drains it while the event is set and other pollers
//!   are counted writes it again for them; a new poller needs no write, because it sees `SET`. If a
//!   late `set` writes after its poller has returned, the next poller finds that write, drains it
//!   and, when the event is no longer set, polls again.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::thread::futex;

use super::clock;
use crate::pal::{Deadline, Event};

const SET: u32 = 1;
const SLEEPING: u32 = 2;
const POLLER: u32 = 4;
const TWO_POLLERS: u32 = 2 * POLLER;

/// The interval at which a poller reads the word if no descriptor is left for an eventfd.
const RECHECK_INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 1_000_000,
};

/// An event that threads wait for, alone or together with a stream.
#[derive(Debug, Default)]
pub struct HostEvent {
    word: AtomicU32,
    eventfd: OnceLock<OwnedFd>,
}

impl Event for HostEvent {
    fn set(&self) {
        let before = self.word.fetch_or(SET, Ordering::AcqRel);
        if before & SET != 0 {
            return;
        }
        if before & SLEEPING != 0 {
            self.word.fetch_and(!SLEEPING, Ordering::AcqRel);
            let _ = futex::wake(&self.word, futex::Flags::PRIVATE, i32::MAX.unsigned_abs());
        }
        if before >= POLLER {
            self.signal_pollers();
        }
    }

    fn clear(&self) {
        self.word.fetch_and(!SET, Ordering::AcqRel);
    }

    fn is_set(&self) -> bool {
        self.word.load(Ordering::Acquire) & SET != 0
    }
}

impl HostEvent {
    /// Sleeps until the event is set or `until` is reached. It may return early.
    pub(super) fn wait(&self, until: Deadline) {
        let seen = self.word.load(Ordering::Acquire);
        if seen & SET != 0 {
            return;
        }
        let asleep = seen | SLEEPING;
        if seen != asleep
            && self
                .word
                .compare_exchange(seen, asleep, Ordering::AcqRel, Ordering::Acquire)
                .is_err()
        {
            return;
        }
        let until = until.time().map(clock::timespec);
        // The time limit of a wait with a bit set is a point on the clock, not a span, so nothing has to be
        // computed.
        let _ = futex::wait_bitset(
            &self.word,
            futex::Flags::PRIVATE,
            asleep,
            until.as_ref(),
            std::num::NonZeroU32::MAX,
        );
    }

    /// Sleeps until `stream` is readable or hung up, the event is set, or `until` is reached. Returns true if it is the stream
    /// that has ended the wait.
    pub(super) fn wait_readable(&self, stream: BorrowedFd<'_>, until: Deadline) -> bool {
        if self.is_set() {
            return false;
        }
        let eventfd = self.eventfd();
        let is_readable = if self.word.fetch_add(POLLER, Ordering::AcqRel) & SET != 0 {
            false
        } else {
            loop {
                if let Some(is_readable) = self.poll(stream, eventfd, until) {
                    break is_readable;
                }
            }
        };
        self.word.fetch_sub(POLLER, Ordering::AcqRel);
        is_readable
    }

    /// Polls once, in a thread that is counted as a poller. Returns true if the stream is ready, false if the event is set or
    /// the time is over, and `None` if the poll ended for another reason.
    fn poll(
        &self,
        stream: BorrowedFd<'_>,
        eventfd: Option<BorrowedFd<'_>>,
        until: Deadline,
    ) -> Option<bool> {
        let readable = PollFlags::IN | PollFlags::RDHUP;
        let mut fds = [
            PollFd::from_borrowed_fd(stream, readable),
            PollFd::from_borrowed_fd(eventfd.unwrap_or(stream), PollFlags::IN),
        ];
        let left = clock::left(until);
        let slice = match left {
            None if eventfd.is_none() => Some(RECHECK_INTERVAL),
            Some(left) if eventfd.is_none() => Some(left.min(RECHECK_INTERVAL)),
            left => left,
        };
        let found = poll(&mut fds, slice.as_ref());
        let [stream, signalled] = &fds;
        if eventfd.is_some() && !signalled.revents().is_empty() {
            self.drain();
        }
        if self.is_set() {
            return Some(false);
        }
        if !stream.revents().is_empty() {
            return Some(true);
        }
        match found {
            Ok(0) if slice == left => Some(false),
            Ok(_) | Err(Errno::INTR) => None,
            // The kernel is not expected to fail here. The caller reads the stream, and finds its fault if it has one.
            Err(_) => Some(true),
        }
    }

    /// Returns the eventfd, made at the first call; `None` if there is no descriptor for it.
    fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        if self.eventfd.get().is_none() {
            let made = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
            // If another thread was faster, this one is closed again.
            let _ = self.eventfd.set(made);
        }
        self.eventfd.get().map(AsFd::as_fd)
    }

    fn signal_pollers(&self) {
        if let Some(eventfd) = self.eventfd.get() {
            // The write can fail only when it is readable already.
            let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
        }
    }

    /// Makes the eventfd unreadable again, unless other pollers have to see that the event is set.
    fn drain(&self) {
        if let Some(eventfd) = self.eventfd.get() {
            let _ = rustix::io::read(eventfd, &mut [0_u8; 8]);
        }
        let word = self.word.load(Ordering::Acquire);
        let others = word >= TWO_POLLERS;
        if word & SET != 0 && others {
            self.signal_pollers();
        }
    }
}
