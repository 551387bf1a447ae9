//! Streams that are written at this end.

use super::Mux;
use crate::invariant::Count;
use crate::pal::StreamError;
use crate::pal::mux::frame::{FRAME, FrameKind, Stop};
use crate::pal::mux::streams::{TxState, TxStream};

impl<const STREAMS: usize, const WINDOW: usize> Mux<STREAMS, WINDOW> {
    /// Returns true if [`Mux::open`] can open a stream.
    pub fn can_open(&self) -> bool {
        self.free().is_some()
    }

    /// Returns the lowest number that is free at both ends.
    fn free(&self) -> Option<u16> {
        if self.hung_up {
            return None;
        }
        let limit = usize::from(self.peer_streams?).min(STREAMS);
        (0..)
            .zip(self.outgoing.iter().take(limit))
            .find_map(|(stream, outgoing)| outgoing.life.is_empty().then_some(stream))
    }

    /// Opens a stream, if one is free. It accepts bytes when the other end has accepted it.
    pub fn open(&mut self, to: u32) -> Option<u16> {
        let stream = self.free()?;
        let outgoing = self.outgoing.get_mut(usize::from(stream))?;
        *outgoing = TxStream {
            life: TxState::OPENED,
            to,
            ..TxStream::FREE
        };
        self.all_queued = false;
        self.queue_pending();
        Some(stream)
    }

    /// Iterates over the streams that are open here, with their targets.
    pub fn open_streams(&self) -> impl Iterator<Item = (u16, u32)> {
        (0..).zip(&self.outgoing).filter_map(|(stream, outgoing)| {
            let is_open = !outgoing.life.is_empty() && !outgoing.life.contains(TxState::ENDED);
            is_open.then_some((stream, outgoing.to))
        })
    }

    /// Returns true if the other end has accepted it.
    pub fn is_accepted(&self, stream: u16) -> bool {
        self.outgoing
            .get(usize::from(stream))
            .is_some_and(|outgoing| outgoing.life.contains(TxState::ACCEPTED))
    }

    /// Returns the reason why written bytes would be dropped, if they would.
    pub fn stopped(&self, stream: u16) -> Option<Stop> {
        let outgoing = self.outgoing.get(usize::from(stream))?;
        if self.hung_up {
            return Some(Stop::Closed);
        }
        let is_stopped = outgoing.life.contains(TxState::STOPPED);
        is_stopped.then_some(outgoing.stop)
    }

    /// Returns the number of bytes that can be written now.
    pub fn room(&self, stream: u16) -> usize {
        let Some(outgoing) = self.outgoing.get(usize::from(stream)) else {
            return 0;
        };
        if !self.all_queued || self.stopped(stream).is_some() {
            return 0;
        }
        let credit = usize::try_from(outgoing.credit).unwrap_or(usize::MAX);
        credit.min(self.tx_buffer.room().saturating_sub(FRAME))
    }

    /// Writes as many bytes of `parts` as possible, and returns their number.
    ///
    /// # Errors
    /// [`StreamError::WouldBlock`] if none can be written now, [`StreamError::Closed`] if none can
    /// be written ever again.
    pub fn write(&mut self, stream: u16, parts: &[&[u8]]) -> Result<usize, StreamError> {
        if self.stopped(stream).is_some() {
            return Err(StreamError::Closed);
        }
        self.queue_pending();
        let asked = parts
            .iter()
            .fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        let count = asked.min(self.room(stream));
        let Ok(value) = u32::try_from(count) else {
            return Err(StreamError::WouldBlock);
        };
        if count == 0 || !self.queue_frame(FrameKind::Data, stream, value) {
            return Err(StreamError::WouldBlock);
        }
        let mut left = count;
        for part in parts {
            let (part, _) = part.split_at(part.len().min(left));
            left = left.minus(self.tx_buffer.push(part));
        }
        if let Some(outgoing) = self.outgoing.get_mut(usize::from(stream)) {
            outgoing.credit = outgoing.credit.minus(value);
        }
        Ok(count)
    }

    /// Closes the stream: bytes that were written still arrive.
    pub fn end(&mut self, stream: u16) {
        let Some(outgoing) = self.outgoing.get_mut(usize::from(stream)) else {
            return;
        };
        if !outgoing.life.is_empty() {
            outgoing.life |= TxState::ENDED;
            self.all_queued = false;
            self.queue_pending();
        }
    }
}
