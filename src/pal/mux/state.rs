//! The state of an endpoint: the machine, and the node's watches.

use super::{Mux, Stop};
use crate::invariant::{Count, OrBroken};
use crate::pal::{ConnectError, Interest, READY_AT_ONCE, ReadyList, Token};

#[derive(Debug)]
pub(super) struct State<const STREAMS: usize, const WINDOW: usize> {
    pub(super) mux: Mux<STREAMS, WINDOW>,
    writers: [Option<Watch>; STREAMS],
    readers: [Option<Watch>; STREAMS],
    /// Whether a `connect` has claimed the open stream.
    claimed: [bool; STREAMS],
    pub(super) listener_ignored: bool,
    /// The place where the next report begins, so that each stream is reported in turn when more
    /// are ready than one report holds.
    next: usize,
}

type Watch = (Token, Interest);

#[derive(Clone, Copy, Debug)]
pub(super) enum StreamHalf {
    Writer(u16),
    Reader(u16),
}

impl<const STREAMS: usize, const WINDOW: usize> State<STREAMS, WINDOW> {
    pub(super) const fn new() -> Self {
        State {
            mux: Mux::new(),
            writers: [None; STREAMS],
            readers: [None; STREAMS],
            claimed: [false; STREAMS],
            listener_ignored: false,
            next: 0,
        }
    }

    pub(super) fn watch(&mut self, end: StreamHalf) -> Option<&mut Option<Watch>> {
        match end {
            StreamHalf::Writer(stream) => self.writers.get_mut(usize::from(stream)),
            StreamHalf::Reader(stream) => self.readers.get_mut(usize::from(stream)),
        }
    }

    fn claim(&mut self, stream: u16, claimed: bool) {
        if let Some(slot) = self.claimed.get_mut(usize::from(stream)) {
            *slot = claimed;
        }
    }

    fn is_claimed(&self, stream: u16) -> bool {
        self.claimed.get(usize::from(stream)) == Some(&true)
    }

    /// Opens a stream, or returns the result of an attempt under way.
    pub(super) fn connect(&mut self, to: u32) -> Result<u16, ConnectError> {
        let begun = self
            .mux
            .open_streams()
            .find(|(stream, whom)| *whom == to && !self.is_claimed(*stream));
        let Some((stream, _)) = begun else {
            if self.mux.open(to).is_none() {
                // A stream whose `connect` was not repeated is dropped, so that the next attempt
                // has room.
                self.drop_unclaimed();
            }
            return if self.mux.fault().is_some() {
                Err(ConnectError::NotListening)
            } else {
                Err(ConnectError::Busy)
            };
        };
        let error = match self.mux.stopped(stream) {
            None if self.mux.is_accepted(stream) => {
                self.claim(stream, true);
                return Ok(stream);
            }
            None => return Err(ConnectError::Busy),
            Some(Stop::Closed) => ConnectError::NotListening,
            Some(Stop::Busy) => ConnectError::Busy,
            Some(Stop::NotAllowed) => ConnectError::NotAllowed,
        };
        self.mux.end(stream);
        Err(error)
    }

    fn drop_unclaimed(&mut self) {
        let unclaimed = self.mux.open_streams().find(|(stream, _)| {
            let is_decided = self.mux.is_accepted(*stream) || self.mux.stopped(*stream).is_some();
            is_decided && !self.is_claimed(*stream)
        });
        if let Some((stream, _)) = unclaimed {
            self.mux.end(stream);
        }
    }

    pub(super) fn close(&mut self, end: StreamHalf) {
        if let Some(watch) = self.watch(end) {
            *watch = None;
        }
        match end {
            StreamHalf::Writer(stream) => {
                self.claim(stream, false);
                self.mux.end(stream);
            }
            StreamHalf::Reader(stream) => self.mux.stop(stream, Stop::Closed),
        }
    }

    fn readiness(&self, end: StreamHalf, interest: Interest) -> Interest {
        match end {
            StreamHalf::Writer(stream) => {
                let is_gone = self.mux.stopped(stream).is_some();
                let takes_more = is_gone || self.mux.room(stream) > 0;
                interest.reported(false, takes_more, is_gone)
            }
            StreamHalf::Reader(stream) => {
                let is_over = self.mux.is_ended(stream);
                let has_more = is_over || self.mux.readable(stream) > 0;
                interest.reported(has_more, false, is_over)
            }
        }
    }

    /// Reports the ready streams.
    pub(super) fn poll(&mut self, ready: &mut ReadyList) {
        if !self.listener_ignored && self.mux.has_opened() {
            let _ = ready.push((Token::LISTENER, Interest::READ));
        }
        let begin = self.next;
        for step in 0..STREAMS {
            if ready.len().plus(2) > READY_AT_ONCE {
                return;
            }
            let slot = begin.plus(step).checked_rem(STREAMS).or_broken(0);
            self.next = slot.plus(1);
            let Ok(stream) = u16::try_from(slot) else {
                return;
            };
            for end in [StreamHalf::Reader(stream), StreamHalf::Writer(stream)] {
                let Some(&mut Some((token, interest))) = self.watch(end) else {
                    continue;
                };
                let readiness = self.readiness(end, interest);
                if !readiness.is_empty() {
                    let _ = ready.push((token, readiness));
                }
            }
        }
    }
}
