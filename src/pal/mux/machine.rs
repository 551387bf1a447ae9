//! The machine at one end of a line: streams on one side, the line's bytes on the other.

use heapless::Deque;

use super::frame::{FRAME, Frame, Kind, LineFault, Stop};
use super::streams::{Hearing, Incoming, Outgoing, Writing};
use crate::pal::StreamError;
use crate::store::Ring;

/// How many bytes wait to go out on the line at most.
const LINE: usize = 16 * 1024;

/// One end of a line: up to `STREAMS` streams that are written here and as many that are read here,
/// with up to `WINDOW` bytes of each that came and were not read.
///
/// Nothing in it blocks, waits or asks the time. What it has to say is taken with
/// [`Mux::to_send`]; what came is given to [`Mux::receive`], which checks every byte of it, and
/// always takes all: a stream's writer sends no more than the reader has room for.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug)]
pub struct Mux<const STREAMS: usize, const WINDOW: usize> {
    outgoing: [Outgoing; STREAMS],
    incoming: [Incoming<WINDOW>; STREAMS],
    /// Streams that were opened there and not yet looked at here, with whom they are for.
    opened: Deque<(u16, u32), STREAMS>,
    line: Ring<LINE>,
    hello_sent: bool,
    /// Nothing is to be said that is not on the line.
    paid: bool,
    /// How many streams the other end reads; none before it has said so.
    theirs: Option<u16>,
    /// A frame that came in part.
    head: [u8; FRAME],
    head_length: usize,
    /// The stream whose data comes, and how much of it.
    coming: Option<(u16, usize)>,
    /// Something became of a stream that was opened here.
    decided: bool,
    /// Nothing comes any more.
    hung_up: bool,
    fault: Option<LineFault>,
}

impl<const STREAMS: usize, const WINDOW: usize> Mux<STREAMS, WINDOW> {
    const COUNT: u16 = {
        assert!(STREAMS > 0 && STREAMS <= u16::MAX as usize);
        // Credits are counted in 32 bits.
        assert!(WINDOW > 0 && WINDOW <= 1 << 30);
        #[allow(clippy::cast_possible_truncation, reason = "just checked")]
        {
            STREAMS as u16
        }
    };

    /// One end of a fresh line.
    pub const fn new() -> Self {
        Mux {
            outgoing: [Outgoing::FREE; STREAMS],
            incoming: [const { Incoming::new() }; STREAMS],
            opened: Deque::new(),
            line: Ring::new(),
            hello_sent: false,
            paid: false,
            theirs: None,
            head: [0; FRAME],
            head_length: 0,
            coming: None,
            decided: false,
            hung_up: false,
            fault: None,
        }
    }

    /// What the other end did that it must not, if anything. All streams are closed then.
    pub fn fault(&self) -> Option<LineFault> {
        self.fault
    }

    /// What is to go out on the line next; empty if nothing is.
    pub fn to_send(&mut self) -> &[u8] {
        self.pay();
        self.line.front()
    }

    /// The first `count` bytes of [`Mux::to_send`] are on their way.
    pub fn sent(&mut self, count: usize) {
        self.line.skip(count);
    }

    /// Takes in bytes of the line.
    ///
    /// # Errors
    /// What is wrong with them. Then the line is of no use any more, as after [`Mux::hang_up`].
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), LineFault> {
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

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), LineFault> {
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

    fn act(&mut self, frame: Frame) -> Result<(), LineFault> {
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
            (Kind::Hello, Some(_)) => return Err(LineFault::Malformed),
            (_, None) => return Err(LineFault::NoHello),
            (_, Some(_)) => {}
        }
        match kind {
            Kind::Hello => Ok(()),
            Kind::Open => {
                self.hear(stream)?.opened()?;
                // There is a place for each stream, and one is opened again only when it is free.
                self.opened
                    .push_back((stream, value))
                    .map_err(|_| LineFault::AlreadyOpen)
            }
            Kind::Data => {
                let length = usize::try_from(value).map_err(|_| LineFault::Malformed)?;
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

    fn hear(&mut self, stream: u16) -> Result<&mut Incoming<WINDOW>, LineFault> {
        self.incoming
            .get_mut(usize::from(stream))
            .ok_or(LineFault::NoSuchStream)
    }

    fn write_end(&mut self, stream: u16) -> Result<&mut Outgoing, LineFault> {
        self.outgoing
            .get_mut(usize::from(stream))
            .ok_or(LineFault::NoSuchStream)
    }

    /// Whether the other end has accepted or refused a stream since this was last asked.
    pub fn take_decided(&mut self) -> bool {
        core::mem::take(&mut self.decided)
    }

    // Streams that are written here.

    /// Whether [`Mux::open`] can begin a stream.
    pub fn can_open(&self) -> bool {
        self.free().is_some()
    }

    /// The lowest number that is free at both ends.
    fn free(&self) -> Option<u16> {
        if self.hung_up {
            return None;
        }
        let limit = usize::from(self.theirs?).min(STREAMS);
        (0..)
            .zip(self.outgoing.iter().take(limit))
            .find_map(|(stream, outgoing)| outgoing.life.is_empty().then_some(stream))
    }

    /// Begins a stream, if one is free. It takes bytes when the other end has accepted it.
    pub fn open(&mut self, to: u32) -> Option<u16> {
        let stream = self.free()?;
        let outgoing = self.outgoing.get_mut(usize::from(stream))?;
        *outgoing = Outgoing {
            life: Writing::OPENED,
            to,
            ..Outgoing::FREE
        };
        self.paid = false;
        self.pay();
        Some(stream)
    }

    /// The streams that are open here, with whom they are for.
    pub fn writing(&self) -> impl Iterator<Item = (u16, u32)> {
        (0..).zip(&self.outgoing).filter_map(|(stream, outgoing)| {
            let is_open = !outgoing.life.is_empty() && !outgoing.life.contains(Writing::ENDED);
            is_open.then_some((stream, outgoing.to))
        })
    }

    /// Whether the other end has accepted it.
    pub fn is_accepted(&self, stream: u16) -> bool {
        self.outgoing
            .get(usize::from(stream))
            .is_some_and(|outgoing| outgoing.life.contains(Writing::ACCEPTED))
    }

    /// Why nothing that is written to it goes anywhere, if it is so.
    pub fn stopped(&self, stream: u16) -> Option<Stop> {
        let outgoing = self.outgoing.get(usize::from(stream))?;
        if self.hung_up {
            return Some(Stop::Closed);
        }
        let is_stopped = outgoing.life.contains(Writing::STOPPED);
        is_stopped.then_some(outgoing.stop)
    }

    /// How many bytes go into it now.
    pub fn room(&self, stream: u16) -> usize {
        let Some(outgoing) = self.outgoing.get(usize::from(stream)) else {
            return 0;
        };
        if !self.paid || self.stopped(stream).is_some() {
            return 0;
        }
        let credit = usize::try_from(outgoing.credit).unwrap_or(usize::MAX);
        credit.min(self.line.room().saturating_sub(FRAME))
    }

    /// Writes the bytes of `parts`, as many as go, and says how many.
    ///
    /// # Errors
    /// [`StreamError::WouldBlock`] if none go now, [`StreamError::Closed`] if none ever will.
    pub fn write(&mut self, stream: u16, parts: &[&[u8]]) -> Result<usize, StreamError> {
        if self.stopped(stream).is_some() {
            return Err(StreamError::Closed);
        }
        self.pay();
        let asked = parts
            .iter()
            .fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        let count = asked.min(self.room(stream));
        let Ok(value) = u32::try_from(count) else {
            return Err(StreamError::WouldBlock);
        };
        if count == 0 || !self.say(Kind::Data, stream, value) {
            return Err(StreamError::WouldBlock);
        }
        let mut left = count;
        for part in parts {
            let (part, _) = part.split_at(part.len().min(left));
            left = left.saturating_sub(self.line.push(part));
        }
        if let Some(outgoing) = self.outgoing.get_mut(usize::from(stream)) {
            outgoing.credit = outgoing.credit.saturating_sub(value);
        }
        Ok(count)
    }

    /// Closes it: what was written still arrives.
    pub fn end(&mut self, stream: u16) {
        let Some(outgoing) = self.outgoing.get_mut(usize::from(stream)) else {
            return;
        };
        if !outgoing.life.is_empty() {
            outgoing.life |= Writing::ENDED;
            self.paid = false;
            self.pay();
        }
    }

    // Streams that are read here.

    /// The next stream that the other end has opened, and whom it is for.
    pub fn next_opened(&mut self) -> Option<(u16, u32)> {
        self.opened.pop_front()
    }

    /// Whether [`Mux::next_opened`] has one.
    pub fn has_opened(&self) -> bool {
        !self.opened.is_empty()
    }

    /// Accepts it: its writer may send.
    pub fn accept(&mut self, stream: u16) {
        if let Ok(incoming) = self.hear(stream) {
            incoming.consumed = WINDOW;
            self.paid = false;
            self.pay();
        }
    }

    /// How many bytes of it can be read.
    pub fn readable(&self, stream: u16) -> usize {
        self.incoming
            .get(usize::from(stream))
            .map_or(0, |incoming| incoming.ring.len())
    }

    /// Whether its writer has closed it: what can be read is the rest.
    pub fn is_ended(&self, stream: u16) -> bool {
        let incoming = self.incoming.get(usize::from(stream));
        self.hung_up || incoming.is_none_or(|incoming| incoming.life.contains(Hearing::ENDED))
    }

    /// Reads as much as there is and fits; 0 after the last byte of a stream that was closed.
    ///
    /// # Errors
    /// [`StreamError::WouldBlock`] if there is nothing for now.
    pub fn read(&mut self, stream: u16, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let is_ended = self.is_ended(stream);
        let Ok(incoming) = self.hear(stream) else {
            return Err(StreamError::Closed);
        };
        let count = incoming.ring.pull(buffer);
        self.was_read(stream, count);
        if count == 0 && !is_ended {
            Err(StreamError::WouldBlock)
        } else {
            Ok(count)
        }
    }

    /// What can be read, or its first part, to look at; [`Mux::skip`] takes it away.
    pub fn front(&self, stream: u16) -> &[u8] {
        self.incoming
            .get(usize::from(stream))
            .map_or(&[], |incoming| incoming.ring.front())
    }

    /// Drops the first `count` bytes of [`Mux::front`].
    pub fn skip(&mut self, stream: u16, count: usize) {
        if let Ok(incoming) = self.hear(stream) {
            incoming.ring.skip(count);
            self.was_read(stream, count);
        }
    }

    fn was_read(&mut self, stream: u16, count: usize) {
        let Ok(incoming) = self.hear(stream) else {
            return;
        };
        incoming.consumed = incoming.consumed.saturating_add(count);
        if incoming.due() > 0 {
            self.paid = false;
            self.pay();
        }
    }

    /// Closes it. What comes yet is dropped.
    pub fn stop(&mut self, stream: u16, stop: Stop) {
        let Ok(incoming) = self.hear(stream) else {
            return;
        };
        if incoming.life.contains(Hearing::OPENED) {
            incoming.life |= Hearing::STOPPED;
            incoming.stop = stop;
            incoming.ring.clear();
            self.paid = false;
            self.pay();
        }
    }

    // What is said on the line.

    /// Puts a frame on the line, if there is room: for its data, too.
    fn say(&mut self, kind: Kind, stream: u16, value: u32) -> bool {
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
    fn pay(&mut self) {
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

impl<const STREAMS: usize, const WINDOW: usize> Default for Mux<STREAMS, WINDOW> {
    fn default() -> Self {
        Self::new()
    }
}
