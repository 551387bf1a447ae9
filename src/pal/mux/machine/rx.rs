//! What comes on the line.

use super::Mux;
use crate::pal::mux::frame::{FRAME, Frame, Kind, MuxError, Stop};
use crate::pal::mux::streams::{Incoming, Outgoing};

impl<const STREAMS: usize, const WINDOW: usize> Mux<STREAMS, WINDOW> {
    /// Takes in bytes of the line.
    ///
    /// # Errors
    /// What is wrong with them. Then the line is of no use any more, as after [`Mux::hang_up`].
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), MuxError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let outcome = self.take(bytes);
        if let Err(fault) = outcome {
            self.fault = Some(fault);
            self.hang_up();
        }
        outcome
    }

    /// The line has come to its end: every stream reads as closed when what came before was read.
    pub fn hang_up(&mut self) {
        self.hung_up = true;
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), MuxError> {
        while !bytes.is_empty() {
            if let Some((stream, left)) = self.coming {
                let (data, rest) = bytes.split_at(bytes.len().min(left));
                self.hear(stream)?.take(data);
                bytes = rest;
                let left = left.saturating_sub(data.len());
                self.coming = (left > 0).then_some((stream, left));
                continue;
            }
            let missing = self.head.get_mut(self.head_length..).unwrap_or(&mut []);
            let (missing, _) = missing.split_at_mut(bytes.len().min(missing.len()));
            let (part, rest) = bytes.split_at(missing.len());
            missing.copy_from_slice(part);
            bytes = rest;
            self.head_length = self.head_length.saturating_add(part.len());
            if self.head_length == FRAME {
                self.head_length = 0;
                self.act(Frame::read(self.head)?)?;
            }
        }
        Ok(())
    }

    fn act(&mut self, frame: Frame) -> Result<(), MuxError> {
        let Frame {
            kind,
            stream,
            value,
        } = frame;
        match (kind, self.theirs) {
            (Kind::Hello, None) => {
                self.theirs = Some(stream);
                self.decided = true;
                return Ok(());
            }
            (Kind::Hello, Some(_)) => return Err(MuxError::Malformed),
            (_, None) => return Err(MuxError::NoHello),
            (_, Some(_)) => {}
        }
        match kind {
            Kind::Hello => Ok(()),
            Kind::Open => {
                self.hear(stream)?.opened()?;
                // There is a place for each stream, and one is opened again only when it is free.
                self.opened
                    .push_back((stream, value))
                    .map_err(|_| MuxError::AlreadyOpen)
            }
            Kind::Data => {
                let length = usize::try_from(value).map_err(|_| MuxError::Malformed)?;
                self.hear(stream)?.announced(length)?;
                self.coming = Some((stream, length));
                Ok(())
            }
            Kind::End => self.hear(stream)?.ended(),
            Kind::Credit => {
                self.decided = true;
                self.write_end(stream)?.allow(value)
            }
            Kind::Stop => {
                self.decided = true;
                self.write_end(stream)?.stopped(Stop::read(value)?)
            }
        }
    }

    pub(super) fn hear(&mut self, stream: u16) -> Result<&mut Incoming<WINDOW>, MuxError> {
        self.incoming
            .get_mut(usize::from(stream))
            .ok_or(MuxError::NoSuchStream)
    }

    fn write_end(&mut self, stream: u16) -> Result<&mut Outgoing, MuxError> {
        self.outgoing
            .get_mut(usize::from(stream))
            .ok_or(MuxError::NoSuchStream)
    }
}
