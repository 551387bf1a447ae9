//! The end that opened the stream: it begins the handshake, then sends records.
//!
//! A record that the inner stream does not accept at once stays in the buffer, and its bytes count
//! as written only when the last of it is sent. So the bytes that the caller takes for sent are
//! sent, and the caller is the one to whom writability is reported.

use super::error::TransferError;
use super::handshake::{ANSWER, HELLO, Handshake};
use super::record::{HEADER, Key, LONGEST, RECORD};
use super::{Breach, HandshakeParameters};
use crate::Vmid;
use crate::invariant::Count;
use crate::pal::{Interest, StreamError};
use crate::store::total;

pub(super) struct OutgoingRecords {
    stage: TxStage,
    handshake: Option<Handshake>,
    key: Option<Key>,
    buffer: [u8; LONGEST],
    /// The part of the buffer that is not sent yet; during the handshake, the part of the answer
    /// that was received.
    from: usize,
    to: usize,
    /// The number of the caller's bytes that are in records, but not reported as written.
    sealed: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TxStage {
    /// Nothing was sent yet.
    New,
    /// Sends the first message.
    Hello,
    /// Waits for the answer.
    Answer,
    Open,
    Broken,
}

impl OutgoingRecords {
    pub(super) const fn new() -> OutgoingRecords {
        OutgoingRecords {
            stage: TxStage::New,
            handshake: None,
            key: None,
            buffer: [0; LONGEST],
            from: 0,
            to: 0,
            sealed: 0,
        }
    }

    /// Returns the readiness of the inner stream that the next step needs.
    pub(super) fn need(&self) -> Interest {
        match self.stage {
            TxStage::Answer => Interest::READ,
            _ => Interest::WRITE,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.stage == TxStage::Open
    }

    /// Continues the handshake if it is not complete, then writes as many bytes of `parts` as fit
    /// in one record.
    pub(super) fn write(
        &mut self,
        family: &HandshakeParameters,
        [own, peer]: [Vmid; 2],
        parts: &[&[u8]],
        pull: impl FnMut(&mut [u8]) -> Result<usize, StreamError>,
        mut push: impl FnMut(&[u8]) -> Result<usize, StreamError>,
    ) -> Result<usize, TransferError> {
        if self.stage == TxStage::New {
            let (hello, _) = self.buffer.split_at_mut(HELLO);
            self.handshake = Some(Handshake::begin(family, own, peer, hello)?);
            (self.stage, self.to) = (TxStage::Hello, HELLO);
        }
        if self.stage == TxStage::Hello {
            self.push(&mut push).map_err(unfinished)?;
            (self.stage, self.from, self.to) = (TxStage::Answer, 0, 0);
        }
        if self.stage == TxStage::Answer {
            self.read_answer(pull)?;
        }
        if self.stage == TxStage::Broken {
            return Err(StreamError::Closed.into());
        }
        self.push(&mut push)?;
        let offered = parts.iter().map(|part| part.len()).sum();
        if offered == 0 {
            // An empty record would end the stream.
            return Ok(0);
        }
        if self.sealed == 0 {
            self.sealed = self.seal(parts).ok_or(Breach::Record)?;
            self.push(&mut push)?;
        }
        let written = self.sealed.min(offered);
        self.sealed = self.sealed.minus(written);
        Ok(written)
    }

    /// Reads the answer.
    fn read_answer(
        &mut self,
        mut pull: impl FnMut(&mut [u8]) -> Result<usize, StreamError>,
    ) -> Result<(), TransferError> {
        let (answer, _) = self.buffer.split_at_mut(ANSWER);
        while let Some(missing) = answer.get_mut(self.to..).filter(|rest| !rest.is_empty()) {
            match pull(missing) {
                Ok(0) => return Err(Breach::Unfinished.into()),
                Ok(count) => self.to = total!(self.to, count),
                Err(error) => return Err(unfinished(error)),
            }
        }
        if let Some(handshake) = &mut self.handshake {
            self.key = Some(handshake.finish(answer)?);
        }
        // The handshake is wiped in place.
        self.handshake = None;
        (self.stage, self.from, self.to) = (TxStage::Open, 0, 0);
        Ok(())
    }

    /// Sends the unsent part of the buffer.
    fn push(
        &mut self,
        mut push: impl FnMut(&[u8]) -> Result<usize, StreamError>,
    ) -> Result<(), StreamError> {
        while let Some(rest) = self.buffer.get(self.from..self.to) {
            if rest.is_empty() {
                break;
            }
            self.from = total!(self.from, push(rest)?);
        }
        Ok(())
    }

    /// Seals as many bytes of `parts` as fit in a record, and returns their number.
    fn seal(&mut self, parts: &[&[u8]]) -> Option<usize> {
        let mut count = 0_usize;
        let (_, body) = self.buffer.split_at_mut(HEADER);
        for part in parts {
            let room = RECORD.minus(count);
            let (part, _) = part.split_at(part.len().min(room));
            let end = count.plus(part.len());
            body.get_mut(count..end)?.copy_from_slice(part);
            count = end;
        }
        let length = self.key.as_mut()?.seal(&mut self.buffer, count)?;
        (self.from, self.to) = (0, length);
        Some(count)
    }

    /// Sends the closing record, which is empty. Returns false if it could not be sent.
    pub(super) fn end(&mut self, push: impl FnMut(&[u8]) -> Result<usize, StreamError>) -> bool {
        self.from == self.to && self.seal(&[]).is_some() && self.push(push).is_ok()
    }

    /// Drops the keys: nothing can be sent any more.
    pub(super) fn mark_broken(&mut self) {
        self.stage = TxStage::Broken;
        (self.handshake, self.key) = (None, None);
    }
}

/// Converts an error during the handshake.
fn unfinished(error: StreamError) -> TransferError {
    match error {
        StreamError::Closed => Breach::Unfinished.into(),
        error => TransferError::Stream(error),
    }
}
