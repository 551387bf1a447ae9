//! The stream of a platform with a defect.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::sync::{Arc, Mutex};
use std::thread;
use std::vec::Vec;

use super::Defect;
use super::state::{State, lock};
use crate::pal::{Pal, Stream, StreamError};
use crate::sync::UncheckedAtomicU64 as AtomicU64;

/// A stream of a [`Defective`] platform.
pub struct DefectiveStream<P: Pal> {
    pub(super) inner: Arc<P::Stream>,
    pub(super) state: Arc<State>,
    pub(super) number: usize,
    pub(super) token: AtomicU64,
    /// The bytes that were read before they were asked for.
    pub(super) ahead: Mutex<Vec<u8>>,
    /// The stream reads as ended: its bytes are lost.
    pub(super) is_empty: bool,
}

impl<P: Pal> DefectiveStream<P> {
    fn read_ahead(&self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let mut ahead = lock(&self.ahead);
        let mut space = [0; 4096];
        let result = loop {
            match self.inner.read(&mut space) {
                Ok(0) => break Err(StreamError::Closed),
                Ok(count) => ahead.extend_from_slice(&space[..count]),
                Err(error) => break Err(error),
            }
        };
        if result == Err(StreamError::Closed) {
            ahead.clear();
            return Ok(0);
        }
        if ahead.is_empty() {
            return result;
        }
        let count = buffer.len().min(ahead.len());
        for (to, from) in buffer.iter_mut().zip(ahead.drain(..count)) {
            *to = from;
        }
        Ok(count)
    }

    fn write_by_buffer(&self, parts: &[&[u8]]) -> Result<usize, StreamError> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        *lock(&self.state.buffer) = parts.concat();
        thread::sleep(Duration::from_micros(50));
        let buffer = lock(&self.state.buffer);
        self.inner.write(&[&buffer[..length.min(buffer.len())]])
    }
}

impl<P: Pal> Stream for DefectiveStream<P> {
    fn read(&self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        match self.state.defect {
            Defect::EndLosesBytes => return self.read_ahead(buffer),
            _ if self.is_empty => return Ok(0),
            Defect::ReadBlocks => loop {
                match self.inner.read(buffer) {
                    Err(StreamError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
                    read => return read,
                }
            },
            _ => {}
        }
        let count = self.inner.read(buffer)?;
        match self.state.defect {
            Defect::ReadReorders if count > 1 => buffer.swap(0, 1),
            Defect::ReadTooLong if count > 0 => return Ok(buffer.len() + 1),
            _ => {}
        }
        Ok(count)
    }

    fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError> {
        let state = &self.state;
        let offered: usize = parts.iter().map(|part| part.len()).sum();
        if state.defect == Defect::FullStopsOthers {
            let full = state.full.load(Ordering::SeqCst);
            if full != 0 && full != self.number {
                return Err(StreamError::WouldBlock);
            }
        }
        let written = match (state.defect, parts) {
            (Defect::SharedBuffer, _) => self.write_by_buffer(parts),
            (Defect::FourthPartIsLost, [first, second, third, fourth]) => {
                let all = first.len() + second.len() + third.len();
                let written = self.inner.write(&[first, second, third]);
                written.map(|count| count + if count == all { fourth.len() } else { 0 })
            }
            _ => self.inner.write(parts),
        };
        if written == Err(StreamError::WouldBlock) {
            state.full.store(self.number, Ordering::SeqCst);
            lock(&state.muted).insert(self.token.load(Ordering::SeqCst));
        }
        match state.defect {
            Defect::WriteTooLong => Ok(written? + offered),
            Defect::WriteReturnsAll => written.map(|_| offered),
            Defect::ReaderGoneIsFull => written.map_err(|_| StreamError::WouldBlock),
            _ => written,
        }
    }

    fn opener(&self) -> Option<u32> {
        self.inner.opener()
    }
}

impl<P: Pal> Drop for DefectiveStream<P> {
    fn drop(&mut self) {
        let full = self.number;
        let state = &self.state;
        let _ = state
            .full
            .compare_exchange(full, 0, Ordering::SeqCst, Ordering::SeqCst);
        if state.defect == Defect::DropStaysOpen {
            core::mem::forget(Arc::clone(&self.inner));
        }
    }
}
