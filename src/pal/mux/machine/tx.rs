//! What goes out on the line.

use super::Mux;
use crate::pal::mux::frame::{FRAME, Frame, Kind};
use crate::pal::mux::streams::{Hearing, Writing};

impl<const STREAMS: usize, const WINDOW: usize> Mux<STREAMS, WINDOW> {
    /// Puts a frame on the line, if there is room: for its data, too.
    pub(super) fn say(&mut self, kind: Kind, stream: u16, value: u32) -> bool {
        let data = match kind {
            Kind::Data => usize::try_from(value).unwrap_or(usize::MAX),
            _ => 0,
        };
        if self.line.room() < data.saturating_add(FRAME) {
            return false;
        }
        let frame = Frame {
            kind,
            stream,
            value,
        };
        self.line.push(&frame.bytes());
        true
    }

    /// Says what is owed, as far as there is room. It needs no queue: each stream knows what is
    /// to be said about it.
    pub(super) fn pay(&mut self) {
        if !self.paid {
            self.paid = self.pay_all();
        }
    }

    fn pay_all(&mut self) -> bool {
        if !self.hello_sent {
            self.hello_sent = self.say(Kind::Hello, Self::COUNT, 0);
            if !self.hello_sent {
                return false;
            }
        }
        (0..Self::COUNT).all(|stream| self.pay_writer(stream) && self.pay_reader(stream))
    }

    fn pay_writer(&mut self, stream: u16) -> bool {
        let Some(outgoing) = self.outgoing.get(usize::from(stream)) else {
            return true;
        };
        let (life, to) = (outgoing.life, outgoing.to);
        let mut told = Writing::empty();
        let opens = life.contains(Writing::OPENED) && !life.contains(Writing::OPEN_SENT);
        let ends = life.contains(Writing::ENDED) && !life.contains(Writing::END_SENT);
        let mut all = true;
        if opens {
            all = self.say(Kind::Open, stream, to);
            told.set(Writing::OPEN_SENT, all);
        }
        if all && ends {
            all = self.say(Kind::End, stream, 0);
            told.set(Writing::END_SENT, all);
        }
        if !told.is_empty()
            && let Some(outgoing) = self.outgoing.get_mut(usize::from(stream))
        {
            outgoing.life |= told;
            outgoing.settle();
        }
        all
    }

    fn pay_reader(&mut self, stream: u16) -> bool {
        let Some(incoming) = self.incoming.get(usize::from(stream)) else {
            return true;
        };
        let (life, stop, due) = (incoming.life, incoming.stop, incoming.due());
        let stops = life.contains(Hearing::STOPPED) && !life.contains(Hearing::STOP_SENT);
        if stops {
            if !self.say(Kind::Stop, stream, stop.value()) {
                return false;
            }
        } else if due > 0 {
            let more = u32::try_from(due).unwrap_or(0);
            if !self.say(Kind::Credit, stream, more) {
                return false;
            }
        } else {
            return true;
        }
        if let Some(incoming) = self.incoming.get_mut(usize::from(stream)) {
            if stops {
                incoming.life |= Hearing::STOP_SENT;
                incoming.settle();
            } else {
                incoming.granted = incoming.granted.saturating_add(due);
                incoming.consumed = 0;
            }
        }
        true
    }
}
