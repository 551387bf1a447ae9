//! Bytes received from the channel.

use super::Mux;
use crate::invariant::{Count, OrBroken};
use crate::pal::mux::frame::{FRAME, FrameKind, MuxError, MuxFrame, Stop};
use crate::pal::mux::streams::{RxStream, TxStream};

impl<const STREAMS: usize, const WINDOW: usize> Mux<STREAMS, WINDOW> {
    /// Processes bytes of the channel.
    ///
    /// # Errors
    /// The protocol violation. Then the channel is unusable, as after [`Mux::hang_up`].
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), MuxError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let outcome = self.process(bytes);
        if let Err(fault) = outcome {
            self.fault = Some(fault);
            self.hang_up();
        }
        outcome
    }

    /// Records the end of the channel: every stream reads as closed after its remaining bytes.
    pub fn hang_up(&mut self) {
        self.hung_up = true;
    }

    fn process(&mut self, mut bytes: &[u8]) -> Result<(), MuxError> {
        while !bytes.is_empty() {
            if let Some((stream, left)) = self.incoming_data {
                let (data, rest) = bytes.split_at(bytes.len().min(left));
                self.rx_stream(stream)?.receive(data);
                bytes = rest;
                let left = left.minus(data.len());
                self.incoming_data = (left > 0).then_some((stream, left));
                continue;
            }
            let missing = self.header.get_mut(self.header_length..).or_broken(&mut []);
            let (missing, _) = missing.split_at_mut(bytes.len().min(missing.len()));
            let (part, rest) = bytes.split_at(missing.len());
            missing.copy_from_slice(part);
            bytes = rest;
            self.header_length = self.header_length.plus(part.len());
            if self.header_length == FRAME {
                self.header_length = 0;
                self.handle_frame(MuxFrame::read(self.header)?)?;
            }
        }
        Ok(())
    }

    fn handle_frame(&mut self, frame: MuxFrame) -> Result<(), MuxError> {
        let MuxFrame {
            kind,
            stream,
            value,
        } = frame;
        match (kind, self.peer_streams) {
            (FrameKind::Hello, None) => {
                self.peer_streams = Some(stream);
                self.changed = true;
                return Ok(());
            }
            (FrameKind::Hello, Some(_)) => return Err(MuxError::Malformed),
            (_, None) => return Err(MuxError::NoHello),
            (_, Some(_)) => {}
        }
        match kind {
            FrameKind::Hello => Ok(()),
            FrameKind::Open => {
                self.rx_stream(stream)?.on_open()?;
                // The queue has a slot for each stream, and a stream is opened again only when it
                // is free.
                self.opened
                    .push_back((stream, value))
                    .map_err(|_| MuxError::AlreadyOpen)
            }
            FrameKind::Data => {
                let length = usize::try_from(value).map_err(|_| MuxError::Malformed)?;
                self.rx_stream(stream)?.on_data(length)?;
                self.incoming_data = Some((stream, length));
                Ok(())
            }
            FrameKind::End => self.rx_stream(stream)?.on_end(),
            FrameKind::Credit => {
                self.changed = true;
                self.tx_stream(stream)?.add_credit(value)
            }
            FrameKind::Stop => {
                self.changed = true;
                self.tx_stream(stream)?.on_stop(Stop::read(value)?)
            }
        }
    }

    pub(super) fn rx_stream(&mut self, stream: u16) -> Result<&mut RxStream<WINDOW>, MuxError> {
        self.incoming
            .get_mut(usize::from(stream))
            .ok_or(MuxError::NoSuchStream)
    }

    fn tx_stream(&mut self, stream: u16) -> Result<&mut TxStream, MuxError> {
        self.outgoing
            .get_mut(usize::from(stream))
            .ok_or(MuxError::NoSuchStream)
    }
}
