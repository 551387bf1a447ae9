//! One end of a channel, and its I/O.

use core::sync::atomic::AtomicBool;
use core::time::Duration;

use spin::mutex::{SpinMutex, SpinMutexGuard};

use super::state::State;
use super::{MuxError, MuxPal};
use crate::pal::fault::{PlatformFault, report_fault};
use crate::pal::{Deadline, Time, spin};
use crate::store::{ByteRing, acquire};

/// The number of bytes that are read from the channel or written to it at once.
const CHUNK: usize = 1024;

/// The number of reads before other work is done.
const CHUNKS_PER_POLL: u32 = 64;

/// The pause before [`MuxEndpoint::flush`] looks again whether another thread has sent the frames.
const RECHECK: Duration = Duration::from_millis(1);

/// The machine's part of a [`MuxEndpoint`]: a reliable and ordered byte channel, and a clock.
pub trait ByteChannel: Send + Sync {
    /// Reads as many bytes as are available and fit, without blocking, and returns their number; 0
    /// if there are none.
    fn read(&self, buffer: &mut [u8]) -> usize;

    /// Writes as many of `bytes` as possible without blocking, and returns their number.
    fn write(&self, bytes: &[u8]) -> usize;

    /// Waits until there are bytes to read, more bytes can be written after a partial write, or the
    /// wait is over at `until`. It may return early. It must return for bytes that
    /// arrived just before the call.
    fn wait(&self, until: Deadline);

    /// Returns the time of the monotonic clock. It is cheap.
    fn now(&self) -> Time;

    /// Lets another thread run: the [`Pal::contended`](crate::pal::Pal::contended) of the platform over this channel.
    fn contended(attempts: u32) {
        spin(attempts);
    }
}

/// One end of a channel and its streams: up to `STREAMS` that are written and as many that are
/// read, with room for `WINDOW` bytes of each stream that is read. All memory is inside, and it can
/// be a `static`.
///
/// It is made for a member with a single thread ([`Driving::Caller`](crate::Driving::Caller)): a
/// wake from another thread only ends the next wait. Other threads may use the streams: the state is
/// decided upon under a spinlock, but the channel is read and written without it. A thread that
/// finds another one at the channel leaves its frames to that one and does not wait.
// These are not `SpinLock`s, which have a rank and a function: an endpoint in a `static` is all zero,
// so it takes no room in an image.
#[derive(Debug)]
pub struct MuxEndpoint<L, const STREAMS: usize, const WINDOW: usize> {
    pub(super) channel: L,
    state: SpinMutex<State<STREAMS, WINDOW>>,
    /// The token of the thread that reads from the channel, and its buffer. It is only tried.
    rx: SpinMutex<[u8; CHUNK]>,
    /// The token of the thread that writes to the channel, and the bytes that it takes next. It is
    /// only tried.
    tx: SpinMutex<ByteRing<CHUNK>>,
    pub(super) woken: AtomicBool,
}

/// The result of an attempt to send all pending frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendProgress {
    All,
    /// The channel takes no more bytes at present.
    Partly,
    /// Another thread writes to the channel. It sends these frames, too.
    ByAnother,
}

impl<L: ByteChannel, const STREAMS: usize, const WINDOW: usize> MuxEndpoint<L, STREAMS, WINDOW> {
    /// Makes one end of the channel.
    pub const fn new(channel: L) -> Self {
        MuxEndpoint {
            channel,
            state: SpinMutex::new(State::new()),
            rx: SpinMutex::new([0; CHUNK]),
            tx: SpinMutex::new(ByteRing::new()),
            woken: AtomicBool::new(false),
        }
    }

    /// Returns the platform of a node at this end. For one node.
    pub const fn pal(&self) -> MuxPal<'_, L, STREAMS, WINDOW> {
        MuxPal::new(self)
    }

    /// Returns the channel.
    pub fn channel(&self) -> &L {
        &self.channel
    }

    /// Returns the protocol violation of the other end, if there was one.
    pub fn fault(&self) -> Option<MuxError> {
        self.lock().mux.fault()
    }

    /// Sends the remaining bytes, after the node has ended. Returns false if not all were sent at
    /// `until`.
    pub fn flush(&self, until: Time) -> bool {
        loop {
            let sent = self.send();
            let now = self.channel.now();
            if sent == SendProgress::All || now >= until {
                return sent == SendProgress::All;
            }
            // Nothing reports the end of another thread's write.
            let until = match sent {
                SendProgress::ByAnother => until.min(now + RECHECK),
                _ => until,
            };
            self.channel.wait(Deadline::At(until));
        }
    }

    pub(super) fn lock(&self) -> SpinMutexGuard<'_, State<STREAMS, WINDOW>> {
        acquire(L::contended, || self.state.try_lock())
    }

    /// Sends the pending frames.
    pub(super) fn send(&self) -> SendProgress {
        loop {
            let Some(mut tx) = self.tx.try_lock() else {
                return SendProgress::ByAnother;
            };
            if !self.write_pending(&mut tx) {
                return SendProgress::Partly;
            }
            drop(tx);
            // A thread that found the token taken has left its frames to this one.
            if self.lock().mux.poll_transmit().is_empty() {
                return SendProgress::All;
            }
        }
    }

    /// Writes the pending frames. Returns false if the channel takes no more bytes at present.
    fn write_pending(&self, tx: &mut ByteRing<CHUNK>) -> bool {
        loop {
            if tx.is_empty() {
                let mut state = self.lock();
                let count = tx.push(state.mux.poll_transmit());
                state.mux.mark_sent(count);
            }
            if tx.is_empty() {
                return true;
            }
            let offered = tx.front();
            let length = offered.len();
            let mut count = self.channel.write(offered);
            if count > length {
                report_fault(PlatformFault::WriteCount);
                count = length;
            }
            if count == 0 {
                return false;
            }
            tx.skip(count);
        }
    }

    /// Receives the bytes that have arrived, unless another thread does so.
    pub(super) fn receive(&self) {
        let Some(mut buffer) = self.rx.try_lock() else {
            return;
        };
        for _ in 0..CHUNKS_PER_POLL {
            let count = self.channel.read(&mut *buffer);
            let Some(came) = buffer.get(..count) else {
                report_fault(PlatformFault::ReadCount);
                return;
            };
            if came.is_empty() || self.lock().mux.receive(came).is_err() {
                return;
            }
        }
    }

    /// Calls `act` with the streams, and sends the resulting frames.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State<STREAMS, WINDOW>) -> T) -> T {
        let done = act(&mut self.lock());
        self.send();
        done
    }
}
