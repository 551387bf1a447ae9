//! A stream with faults.

use core::sync::atomic::{AtomicBool, Ordering};

use spin::{Mutex, RwLock};

use super::operation_log::{LogEntry, Operation, Outcome};
use super::{FaultInjector, Faults};
use crate::pal::{Deadline, Interest, OutOfResources, Pal, Stream, StreamError, Token};

/// The greatest number of parts in the contract of [`Stream::write`].
const PARTS: usize = 4;

/// A stream of a [`FaultInjector`].
#[derive(Debug)]
pub struct FaultInjectorStream<'p, P: Pal> {
    pal: &'p FaultInjector<P>,
    number: u64,
    broken: AtomicBool,
    /// `None` once the stream is broken and no thread waits in it: it is dropped then, so that the
    /// peer sees the end.
    inner: RwLock<Option<P::Stream>>,
    /// The node's watch, whether the stream is broken or not.
    watch: Mutex<Option<(Token, Interest)>>,
    /// True while the inner PAL watches the stream.
    is_watched_inside: AtomicBool,
}

/// The fault of one read or write.
enum Fault {
    Fail(StreamError),
    /// The read or write moves at most that many bytes.
    UpTo(usize),
}

impl<'p, P: Pal> FaultInjectorStream<'p, P> {
    pub(super) fn new(pal: &'p FaultInjector<P>, inner: P::Stream) -> Self {
        FaultInjectorStream {
            pal,
            number: pal.state.lock().number(),
            broken: AtomicBool::new(false),
            inner: RwLock::new(Some(inner)),
            watch: Mutex::new(None),
            is_watched_inside: AtomicBool::new(false),
        }
    }

    /// Reads or writes `asked` bytes with faults. `transfer` gets the inner stream and the greatest number of bytes to move.
    fn transfer(
        &self,
        operation: Operation,
        asked: usize,
        rate: u16,
        transfer: impl FnOnce(&P::Stream, usize) -> Result<usize, StreamError>,
    ) -> Result<usize, StreamError> {
        let mut cut = false;
        let result = match self.draw_fault(asked, rate) {
            Fault::Fail(error) => Err(error),
            Fault::UpTo(limit) => {
                let inner = self.inner.read();
                // Bytes are counted after the operation, so with two threads the cut may come
                // slightly late.
                let result = inner
                    .as_ref()
                    .map_or(Err(StreamError::Closed), |inner| transfer(inner, limit));
                cut = self.pal.state.lock().count(result);
                result
            }
        };
        self.pal.state.lock().log.add(LogEntry {
            operation,
            asked,
            outcome: Outcome::of_move(result),
        });
        if cut || result == Err(StreamError::Closed) {
            self.mark_broken();
        }
        result
    }

    fn draw_fault(&self, asked: usize, short: u16) -> Fault {
        let Faults {
            would_block,
            interrupted,
            disconnect,
            ..
        } = self.pal.faults;
        if self.broken.load(Ordering::Acquire) {
            return Fault::Fail(StreamError::Closed);
        }
        let mut state = self.pal.state.lock();
        let left = state.left().unwrap_or(usize::MAX);
        if left == 0 {
            // This is a cut before the first byte.
            state.count(Ok(0));
            return Fault::Fail(StreamError::Closed);
        }
        let rng = &mut state.rng;
        if rng.roll(interrupted) {
            Fault::Fail(StreamError::Interrupted)
        } else if rng.roll(would_block) {
            Fault::Fail(StreamError::WouldBlock)
        } else if rng.roll(disconnect) {
            Fault::Fail(StreamError::Closed)
        } else if rng.roll(short) {
            Fault::UpTo(rng.pick_up_to(asked).min(left))
        } else {
            Fault::UpTo(asked.min(left))
        }
    }

    fn mark_broken(&self) {
        if self.broken.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some((token, interest)) = *self.watch.lock() {
            self.pal.state.lock().report(token, interest);
            // A waiting thread waits in the inner PAL, which does not report this fault.
            self.pal.inner.wake();
        }
        self.close_if_broken();
    }

    /// Closes the inner stream if it is broken and no thread uses it. Otherwise the last thread
    /// closes it.
    fn close_if_broken(&self) {
        if self.broken.load(Ordering::Acquire)
            && let Some(mut inner) = self.inner.try_write()
            && let Some(stream) = inner.take()
            && self.is_watched_inside.swap(false, Ordering::AcqRel)
        {
            self.pal.inner.unwatch(&stream);
        }
    }

    pub(super) fn watch(&self, token: Token, interest: Interest) -> Result<(), OutOfResources> {
        let mut watch = self.watch.lock();
        if let Some(inner) = &*self.inner.read() {
            self.pal.inner.watch(inner, token, interest)?;
            self.is_watched_inside.store(true, Ordering::Release);
        }
        *watch = Some((token, interest));
        self.report_if_broken(token, interest);
        Ok(())
    }

    pub(super) fn rewatch(&self, token: Token, interest: Interest) {
        let mut watch = self.watch.lock();
        if let Some((old, _)) = watch.replace((token, interest))
            && old != token
        {
            self.pal.state.lock().retract(old);
        }
        if let Some(inner) = &*self.inner.read() {
            self.pal.inner.rewatch(inner, token, interest);
        }
        self.report_if_broken(token, interest);
    }

    fn report_if_broken(&self, token: Token, interest: Interest) {
        if self.broken.load(Ordering::Acquire) {
            self.pal.state.lock().report(token, interest);
            self.pal.inner.wake();
            self.close_if_broken();
        }
    }

    pub(super) fn unwatch(&self) {
        let Some((token, _)) = self.watch.lock().take() else {
            return;
        };
        self.pal.state.lock().retract(token);
        if let Some(inner) = &*self.inner.read()
            && self.is_watched_inside.swap(false, Ordering::AcqRel)
        {
            self.pal.inner.unwatch(inner);
        }
        self.close_if_broken();
    }

    pub(super) fn wait_readable(&self, event: &P::Event, until: Deadline) -> bool {
        let is_readable = match &*self.inner.read() {
            Some(inner) if !self.broken.load(Ordering::Acquire) => {
                self.pal.inner.wait_readable(inner, event, until)
            }
            _ => true,
        };
        self.close_if_broken();
        is_readable
    }
}

impl<P: Pal> Stream for FaultInjectorStream<'_, P> {
    fn read(&self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let rate = self.pal.faults.short_read;
        self.transfer(
            Operation::Read(self.number),
            buffer.len(),
            rate,
            |inner, limit| {
                let (buffer, _) = buffer.split_at_mut(limit.min(buffer.len()));
                inner.read(buffer)
            },
        )
    }

    fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError> {
        let rate = self.pal.faults.short_write;
        let asked = parts
            .iter()
            .fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        self.transfer(
            Operation::Write(self.number),
            asked,
            rate,
            |inner, mut limit| {
                let mut taken: heapless::Vec<&[u8], PARTS> = heapless::Vec::new();
                for part in parts {
                    let (part, _) = part.split_at(limit.min(part.len()));
                    limit = limit.saturating_sub(part.len());
                    let _ = taken.push(part);
                }
                inner.write(&taken)
            },
        )
    }

    fn opener(&self) -> Option<u32> {
        self.inner.read().as_ref()?.opener()
    }
}

impl<P: Pal> Drop for FaultInjectorStream<'_, P> {
    fn drop(&mut self) {
        if let Some((token, _)) = self.watch.lock().take() {
            self.pal.state.lock().retract(token);
        }
    }
}
