//! The two ends that a stream can have here, as the machine keeps them.

use bitflags::bitflags;

use super::frame::{MuxError, Stop};
use crate::store::ByteRing;

bitflags! {
    /// What became of a stream that this end writes. None of them: its number is free.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct TxState: u8 {
        /// It was opened here.
        const OPENED = 1;
        /// The other end knows of it.
        const OPEN_SENT = 2;
        /// It was accepted.
        const ACCEPTED = 4;
        /// Closed here.
        const ENDED = 8;
        /// The other end knows that.
        const END_SENT = 16;
        /// Closed there.
        const STOPPED = 32;
    }
}

bitflags! {
    /// What became of a stream that this end reads. None of them: its number is free.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct RxState: u8 {
        /// It was opened there.
        const OPENED = 1;
        /// Closed there: what is in the ring is the rest.
        const ENDED = 8;
        /// Closed here: what comes is dropped.
        const STOPPED = 16;
        /// The other end knows that.
        const STOP_SENT = 32;
    }
}

/// A stream that this end writes.
#[derive(Debug)]
pub(super) struct TxStream {
    pub(super) life: TxState,
    /// Whom it is for.
    pub(super) to: u32,
    /// How many bytes may be sent yet.
    pub(super) credit: u32,
    /// Why it was stopped.
    pub(super) stop: Stop,
}

impl TxStream {
    pub(super) const FREE: TxStream = TxStream {
        life: TxState::empty(),
        to: 0,
        credit: 0,
        stop: Stop::Closed,
    };

    /// Frees the number when both ends know of both ends.
    pub(super) fn free_if_finished(&mut self) {
        if self.life.contains(TxState::END_SENT | TxState::STOPPED) {
            *self = TxStream::FREE;
        }
    }

    pub(super) fn add_credit(&mut self, more: u32) -> Result<(), MuxError> {
        if !self.is_open_at_reader() {
            return Err(MuxError::NotOpen);
        }
        self.credit = self
            .credit
            .checked_add(more)
            .ok_or(MuxError::TooMuchCredit)?;
        self.life |= TxState::ACCEPTED;
        Ok(())
    }

    pub(super) fn on_stop(&mut self, stop: Stop) -> Result<(), MuxError> {
        if !self.is_open_at_reader() {
            return Err(MuxError::NotOpen);
        }
        self.life |= TxState::STOPPED;
        self.stop = stop;
        self.free_if_finished();
        Ok(())
    }

    /// Whether the reader knows of it and has not said its last word about it.
    fn is_open_at_reader(&self) -> bool {
        self.life.contains(TxState::OPEN_SENT) && !self.life.contains(TxState::STOPPED)
    }
}

/// A stream that this end reads.
#[derive(Debug)]
pub(super) struct RxStream<const WINDOW: usize> {
    pub(super) life: RxState,
    /// What came and was not read yet.
    pub(super) ring: ByteRing<WINDOW>,
    /// How many bytes the other end may send yet.
    pub(super) granted: usize,
    /// How many bytes were read that it was not told of.
    pub(super) consumed: usize,
    /// What is said when it is closed here.
    pub(super) stop: Stop,
}

impl<const WINDOW: usize> RxStream<WINDOW> {
    pub(super) const fn new() -> Self {
        RxStream {
            life: RxState::empty(),
            ring: ByteRing::new(),
            granted: 0,
            consumed: 0,
            stop: Stop::Closed,
        }
    }

    pub(super) fn on_open(&mut self) -> Result<(), MuxError> {
        if !self.life.is_empty() {
            return Err(MuxError::AlreadyOpen);
        }
        self.life = RxState::OPENED;
        self.ring.clear();
        self.granted = 0;
        self.consumed = 0;
        Ok(())
    }

    pub(super) fn on_end(&mut self) -> Result<(), MuxError> {
        if !self.is_receiving() {
            return Err(MuxError::NotOpen);
        }
        self.life |= RxState::ENDED;
        self.free_if_finished();
        Ok(())
    }

    /// That many bytes are going to come.
    pub(super) fn on_data(&mut self, length: usize) -> Result<(), MuxError> {
        if !self.is_receiving() {
            return Err(MuxError::NotOpen);
        }
        self.granted = self
            .granted
            .checked_sub(length)
            .ok_or(MuxError::BeyondCredit)?;
        Ok(())
    }

    /// Takes in bytes that were announced: there is room for them.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        if !self.life.contains(RxState::STOPPED) {
            self.ring.push(bytes);
        }
    }

    /// Frees the number when both ends know of both ends.
    pub(super) fn free_if_finished(&mut self) {
        if self.life.contains(RxState::ENDED | RxState::STOP_SENT) {
            self.life = RxState::empty();
        }
    }

    /// How many bytes the other end should be allowed now: when half the window was read, so that
    /// one frame goes for many reads.
    pub(super) fn pending_credit(&self) -> usize {
        if self.life == RxState::OPENED && self.consumed >= WINDOW.div_ceil(2) {
            self.consumed
        } else {
            0
        }
    }

    fn is_receiving(&self) -> bool {
        self.life.contains(RxState::OPENED) && !self.life.contains(RxState::ENDED)
    }
}
