//! The states of a stream at its two ends.

use bitflags::bitflags;

use super::frame::{MuxError, Stop};
use crate::store::ByteRing;

bitflags! {
    /// The state of a stream that this end writes. If it is empty, the number is free.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct TxState: u8 {
        /// The stream was opened here.
        const OPENED = 1;
        /// The other end has received the OPEN, or will.
        const OPEN_SENT = 2;
        /// The other end has accepted it.
        const ACCEPTED = 4;
        /// The stream was closed here.
        const ENDED = 8;
        /// The END was sent.
        const END_SENT = 16;
        /// The stream was closed at the other end.
        const STOPPED = 32;
    }
}

bitflags! {
    /// The state of a stream that this end reads. If it is empty, the number is free.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct RxState: u8 {
        /// The stream was opened at the other end.
        const OPENED = 1;
        /// The stream was closed at the other end: the ring has the remaining bytes.
        const ENDED = 8;
        /// The stream was closed here: further bytes are dropped.
        const STOPPED = 16;
        /// The STOP was sent.
        const STOP_SENT = 32;
    }
}

/// A stream that this end writes.
#[derive(Debug)]
pub(super) struct TxStream {
    pub(super) life: TxState,
    /// The VMID of the target.
    pub(super) to: u32,
    /// The number of bytes that may still be sent.
    pub(super) credit: u32,
    /// The reason of the STOP.
    pub(super) stop: Stop,
}

impl TxStream {
    pub(super) const FREE: TxStream = TxStream {
        life: TxState::empty(),
        to: 0,
        credit: 0,
        stop: Stop::Closed,
    };

    /// Frees the number when each end knows that both ends are closed.
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

    /// Returns true if the reader knows of the stream and has not sent STOP.
    fn is_open_at_reader(&self) -> bool {
        self.life.contains(TxState::OPEN_SENT) && !self.life.contains(TxState::STOPPED)
    }
}

/// A stream that this end reads.
#[derive(Debug)]
pub(super) struct RxStream<const WINDOW: usize> {
    pub(super) life: RxState,
    /// The bytes that were received and not read.
    pub(super) ring: ByteRing<WINDOW>,
    /// The number of bytes that the other end may still send.
    pub(super) granted: usize,
    /// The number of bytes that were read and not granted again.
    pub(super) consumed: usize,
    /// The reason that STOP will have if it is closed here.
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

    /// Records that `length` bytes follow.
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

    /// Stores bytes that were announced: there is room for them.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        if !self.life.contains(RxState::STOPPED) {
            self.ring.push(bytes);
        }
    }

    /// Frees the number when each end knows that both ends are closed.
    pub(super) fn free_if_finished(&mut self) {
        if self.life.contains(RxState::ENDED | RxState::STOP_SENT) {
            self.life = RxState::empty();
        }
    }

    /// Returns the number of bytes to grant now. It is 0 until half the window was read, so that
    /// one frame serves many reads.
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
