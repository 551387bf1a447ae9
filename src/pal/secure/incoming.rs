//! The end that accepted the stream: it answers the handshake, then receives records.
//!
//! Bytes are read into one buffer, records are opened in place, and their content is copied out.

use super::error::TransferError;
use super::handshake::{ANSWER, HELLO, MAGIC, answer};
use super::record::{HEADER, Key, LONGEST, Opened, TAG, is_complete};
use super::{Breach, HandshakeParameters};
use crate::Vmid;
use crate::invariant::Count;
use crate::pal::{Interest, StreamError};
use crate::store::total;

pub(super) struct IncomingRecords {
    stage: RxStage,
    key: Option<Key>,
    buffer: [u8; LONGEST],
    /// Opened bytes that were not returned yet.
    plain: ByteRange,
    /// Bytes that were read and not opened yet; during the handshake, the bytes of the answer that
    /// are not sent yet.
    sealed: ByteRange,
    /// The VMID of the handshake, and the number of its bytes that the stream has repeated.
    opener: [u8; 4],
    repeated: usize,
}

/// A range of the buffer.
#[derive(Clone, Copy, Default)]
struct ByteRange {
    from: usize,
    to: usize,
}

impl ByteRange {
    const fn new(from: usize, length: usize) -> ByteRange {
        ByteRange {
            from,
            to: total!(from, length),
        }
    }

    const fn is_empty(self) -> bool {
        self.from >= self.to
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RxStage {
    /// Waits for the first message.
    Hello,
    /// Sends the answer.
    Answer,
    Open,
    /// The sender has closed the stream.
    Ended,
    /// The stream is no longer trusted; with the reason until it was reported.
    Broken(Option<Breach>),
}

impl IncomingRecords {
    pub(super) const fn new() -> IncomingRecords {
        IncomingRecords {
            stage: RxStage::Hello,
            key: None,
            buffer: [0; LONGEST],
            plain: ByteRange::new(0, 0),
            sealed: ByteRange::new(0, 0),
            opener: [0; 4],
            repeated: 0,
        }
    }

    /// Returns the VMID of the handshake, if it is known.
    pub(super) fn opener(&self) -> Option<Vmid> {
        Vmid::new(u32::from_le_bytes(self.opener))
    }

    /// Returns the readiness of the inner stream that the next step needs. If the step needs no
    /// bytes, this is writability, which an idle stream always has in the unused direction.
    pub(super) fn need(&self) -> Interest {
        match self.stage {
            RxStage::Answer => Interest::WRITE,
            _ if self.has_more() => Interest::READ | Interest::WRITE,
            _ => Interest::READ,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.key.is_some() && self.stage != RxStage::Answer
    }

    pub(super) fn has_ended(&self) -> bool {
        self.stage == RxStage::Ended
    }

    /// Returns true if there is a result to report without further reads.
    fn has_more(&self) -> bool {
        let sealed = self.buffer.get(self.sealed.from..self.sealed.to);
        match self.stage {
            RxStage::Ended | RxStage::Broken(_) => true,
            RxStage::Open => !self.plain.is_empty() || sealed.is_some_and(is_complete),
            RxStage::Hello | RxStage::Answer => false,
        }
    }

    /// Continues the handshake if it is not complete, then reads.
    pub(super) fn read(
        &mut self,
        family: &HandshakeParameters,
        own: Vmid,
        out: &mut [u8],
        mut pull: impl FnMut(&mut [u8]) -> Result<usize, StreamError>,
        push: impl FnMut(&[u8]) -> Result<usize, StreamError>,
    ) -> Result<usize, TransferError> {
        if self.stage == RxStage::Hello {
            self.read_hello(&mut pull)?;
            let mut message = [0; ANSWER];
            let (hello, _) = self.buffer.split_at(HELLO);
            let (opener, key) = answer(family, own, hello, &mut message)?;
            self.buffer.split_at_mut(ANSWER).0.copy_from_slice(&message);
            self.sealed = ByteRange::new(0, ANSWER);
            (self.opener, self.key) = (opener, Some(key));
            self.stage = RxStage::Answer;
        }
        if self.stage == RxStage::Answer {
            self.send_answer(push)?;
        }
        self.read_records(out, pull)
    }

    /// Reads the first message, and no more.
    fn read_hello(
        &mut self,
        mut pull: impl FnMut(&mut [u8]) -> Result<usize, StreamError>,
    ) -> Result<(), TransferError> {
        let (hello, _) = self.buffer.split_at_mut(HELLO);
        while let Some(missing) = hello
            .get_mut(self.sealed.to..)
            .filter(|rest| !rest.is_empty())
        {
            match pull(missing) {
                Ok(0) | Err(StreamError::Closed) => return Err(Breach::Unfinished.into()),
                Ok(count) => self.sealed.to = total!(self.sealed.to, count),
                Err(error) => return Err(error.into()),
            }
            let (received, _) = hello.split_at(self.sealed.to.min(HELLO));
            if !received
                .iter()
                .zip(&MAGIC)
                .all(|(received, magic)| received == magic)
            {
                return Err(Breach::NotSecure.into());
            }
        }
        Ok(())
    }

    fn send_answer(
        &mut self,
        mut push: impl FnMut(&[u8]) -> Result<usize, StreamError>,
    ) -> Result<(), TransferError> {
        while let Some(rest) = self
            .buffer
            .get(self.sealed.from..self.sealed.to)
            .filter(|rest| !rest.is_empty())
        {
            match push(rest) {
                Ok(count) => self.sealed.from = total!(self.sealed.from, count),
                Err(StreamError::Closed) => return Err(Breach::Unfinished.into()),
                Err(error) => return Err(error.into()),
            }
        }
        self.sealed = ByteRange::default();
        self.stage = RxStage::Open;
        Ok(())
    }

    /// Returns the content of records, and reads only if there is none. Bytes from before a breach
    /// are returned before the breach is reported.
    fn read_records(
        &mut self,
        out: &mut [u8],
        mut pull: impl FnMut(&mut [u8]) -> Result<usize, StreamError>,
    ) -> Result<usize, TransferError> {
        let mut count = self.copy_out(out);
        while self.stage == RxStage::Open && count < out.len() {
            match self.open_next() {
                Opened::Record(_) => {
                    let (_, rest) = out.split_at_mut(count);
                    count = count.plus(self.copy_out(rest));
                }
                Opened::Invalid => self.stage = RxStage::Broken(Some(Breach::Record)),
                Opened::Incomplete if count > 0 => break,
                Opened::Incomplete => self.pull(&mut pull)?,
            }
        }
        match &mut self.stage {
            _ if count > 0 => Ok(count),
            RxStage::Broken(why) => Err(why.take().map_or(
                TransferError::Stream(StreamError::Closed),
                TransferError::Breach,
            )),
            _ => Ok(0),
        }
    }

    /// Opens the first record of the bytes that were read.
    fn open_next(&mut self) -> Opened {
        let sealed = self.buffer.get_mut(self.sealed.from..self.sealed.to);
        let (Some(key), Some(sealed)) = (&mut self.key, sealed) else {
            return Opened::Invalid;
        };
        let opened = key.open(sealed);
        if let Opened::Record(length) = opened {
            self.plain = ByteRange::new(self.sealed.from.plus(HEADER), length);
            self.sealed.from = self.plain.to.plus(TAG);
            if length == 0 {
                self.stage = RxStage::Ended;
            } else if !self.repeats_opener() {
                self.plain = ByteRange::default();
                self.stage = RxStage::Broken(Some(Breach::Vmid));
            }
        }
        opened
    }

    /// Returns true if the first bytes of the stream are the VMID of the handshake.
    fn repeats_opener(&mut self) -> bool {
        let plain = self.buffer.get(self.plain.from..self.plain.to);
        let claim = self.opener.get(self.repeated..);
        let (Some(plain), Some(claim)) = (plain, claim) else {
            return false;
        };
        self.repeated = self.repeated.plus(plain.len().min(claim.len()));
        plain
            .iter()
            .zip(claim)
            .all(|(received, opener)| received == opener)
    }

    /// Reads more bytes. A stream that ends without a closing record is broken.
    fn pull(
        &mut self,
        pull: impl FnOnce(&mut [u8]) -> Result<usize, StreamError>,
    ) -> Result<(), TransferError> {
        if self.sealed.from > 0 {
            self.buffer.copy_within(self.sealed.from..self.sealed.to, 0);
            self.sealed = ByteRange::new(0, self.sealed.to.minus(self.sealed.from));
        }
        let Some(space) = self.buffer.get_mut(self.sealed.to..) else {
            return Err(Breach::Record.into());
        };
        match pull(space) {
            Ok(0) | Err(StreamError::Closed) => {
                self.stage = RxStage::Broken(Some(Breach::Truncated));
            }
            Ok(count) => self.sealed.to = total!(self.sealed.to, count),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Copies opened bytes to `out`, and returns their number.
    fn copy_out(&mut self, out: &mut [u8]) -> usize {
        let Some(plain) = self.buffer.get(self.plain.from..self.plain.to) else {
            return 0;
        };
        let count = plain.len().min(out.len());
        let ((plain, _), (out, _)) = (plain.split_at(count), out.split_at_mut(count));
        out.copy_from_slice(plain);
        self.plain.from = self.plain.from.plus(count);
        count
    }

    /// Drops the key: no further bytes are trusted.
    pub(super) fn mark_broken(&mut self) {
        self.key = None;
        if !self.has_ended() {
            self.stage = RxStage::Broken(None);
        }
    }
}
