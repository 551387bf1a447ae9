//! A stream that misbehaves.

use core::sync::atomic::{AtomicBool, Ordering};

use spin::{Mutex, RwLock};

use super::record::{Operation, Outcome, Record};
use super::{Faults, Faulty};
use crate::pal::{Interest, OutOfResources, Pal, Stream, StreamError, Time, Token, Woken};

/// The contract of [`Stream::write`] allows no more.
const PARTS: usize = 4;

/// A stream of a [`Faulty`] node.
#[derive(Debug)]
pub struct FaultyStream<'p, P: Pal> {
    pal: &'p Faulty<P>,
    number: u64,
    broken: AtomicBool,
    /// `None` once it is broken and nobody waits in it any more: dropped, for the peer to see.
    inner: RwLock<Option<P::Stream>>,
    /// What the node watches it for, broken or not.
    watch: Mutex<Option<(Token, Interest)>>,
    /// The PAL underneath watches it.
    watched_inside: AtomicBool,
}

/// What the dice say about one read or write.
enum Fate {
    Fails(StreamError),
    /// It moves that many bytes at most.
    AtMost(usize),
}

impl<'p, P: Pal> FaultyStream<'p, P> {
    pub(super) fn new(pal: &'p Faulty<P>, inner: P::Stream) -> Self {
        FaultyStream {
            pal,
            number: pal.state.lock().number(),
            broken: AtomicBool::new(false),
            inner: RwLock::new(Some(inner)),
            watch: Mutex::new(None),
            watched_inside: AtomicBool::new(false),
        }
    }

    /// Reads or writes `asked` bytes by `go`, which is told how many of them at most.
    fn go(
        &self,
        operation: Operation,
        asked: usize,
        rate: u16,
        go: impl FnOnce(&P::Stream, usize) -> Result<usize, StreamError>,
    ) -> Result<usize, StreamError> {
        let mut cut = false;
        let result = match self.fate(asked, rate) {
            Fate::Fails(error) => Err(error),
            Fate::AtMost(most) => {
                let inner = self.inner.read();
                // Counted after the fact, so between two threads the cut may come a bit late.
                let result = inner
                    .as_ref()
                    .map_or(Err(StreamError::Closed), |inner| go(inner, most));
                cut = self.pal.state.lock().count(result);
                result
            }
        };
        self.pal.state.lock().records.add(Record {
            operation,
            asked,
            outcome: Outcome::of_move(result),
        });
        if cut || result == Err(StreamError::Closed) {
            self.break_it();
        }
        result
    }

    fn fate(&self, asked: usize, short: u16) -> Fate {
        let Faults {
            would_block,
            interrupted,
            disconnect,
            ..
        } = self.pal.faults;
        if self.broken.load(Ordering::Acquire) {
            return Fate::Fails(StreamError::Closed);
        }
        let mut state = self.pal.state.lock();
        let left = state.left().unwrap_or(usize::MAX);
        if left == 0 {
            // A cut before the first byte.
            state.count(Ok(0));
            return Fate::Fails(StreamError::Closed);
        }
        let dice = &mut state.dice;
        if dice.strikes(interrupted) {
            Fate::Fails(StreamError::Interrupted)
        } else if dice.strikes(would_block) {
            Fate::Fails(StreamError::WouldBlock)
        } else if dice.strikes(disconnect) {
            Fate::Fails(StreamError::Closed)
        } else if dice.strikes(short) {
            Fate::AtMost(dice.up_to(asked).min(left))
        } else {
            Fate::AtMost(asked.min(left))
        }
    }

    fn break_it(&self) {
        if self.broken.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some((token, interest)) = *self.watch.lock() {
            self.pal.state.lock().report(token, interest);
            // Whoever waits does so for the PAL underneath, which will say nothing of this.
            self.pal.inner.wake();
        }
        self.let_go();
    }

    /// Closes the stream underneath if it is broken and nobody is in it. Whoever is in it does so
    /// on leaving.
    fn let_go(&self) {
        if self.broken.load(Ordering::Acquire)
            && let Some(mut inner) = self.inner.try_write()
            && let Some(stream) = inner.take()
            && self.watched_inside.swap(false, Ordering::AcqRel)
        {
            self.pal.inner.unwatch(&stream);
        }
    }

    pub(super) fn watch(&self, token: Token, interest: Interest) -> Result<(), OutOfResources> {
        let mut watch = self.watch.lock();
        if let Some(inner) = &*self.inner.read() {
            self.pal.inner.watch(inner, token, interest)?;
            self.watched_inside.store(true, Ordering::Release);
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
            self.let_go();
        }
    }

    pub(super) fn unwatch(&self) {
        let Some((token, _)) = self.watch.lock().take() else {
            return;
        };
        self.pal.state.lock().retract(token);
        if let Some(inner) = &*self.inner.read()
            && self.watched_inside.swap(false, Ordering::AcqRel)
        {
            self.pal.inner.unwatch(inner);
        }
        self.let_go();
    }

    pub(super) fn wait_readable(&self, event: &P::Event, until: Option<Time>) -> Woken {
        let woken = match &*self.inner.read() {
            Some(inner) if !self.broken.load(Ordering::Acquire) => {
                self.pal.inner.wait_readable(inner, event, until)
            }
            _ => Woken::Readable,
        };
        self.let_go();
        woken
    }
}

impl<P: Pal> Stream for FaultyStream<'_, P> {
    fn read(&self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let rate = self.pal.faults.short_read;
        self.go(
            Operation::Read(self.number),
            buffer.len(),
            rate,
            |inner, most| {
                let (buffer, _) = buffer.split_at_mut(most.min(buffer.len()));
                inner.read(buffer)
            },
        )
    }

    fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError> {
        let rate = self.pal.faults.short_write;
        let asked = parts
            .iter()
            .fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        self.go(
            Operation::Write(self.number),
            asked,
            rate,
            |inner, mut most| {
                let mut taken: heapless::Vec<&[u8], PARTS> = heapless::Vec::new();
                for part in parts {
                    let (part, _) = part.split_at(most.min(part.len()));
                    most = most.saturating_sub(part.len());
                    let _ = taken.push(part);
                }
                inner.write(&taken)
            },
        )
    }
}

impl<P: Pal> Drop for FaultyStream<'_, P> {
    fn drop(&mut self) {
        if let Some((token, _)) = self.watch.lock().take() {
            self.pal.state.lock().retract(token);
        }
    }
}
