//! The platform of the member at one end of a channel.

use core::sync::atomic::Ordering;

use super::endpoint::{ByteChannel, MuxEndpoint};
use super::state::StreamHalf;
use crate::Vmid;
use crate::pal::{
    AcceptError, ConnectError, Deadline, Event, Flag, Interest, OutOfResources, Pal, ReadyList,
    Stream, StreamError, Time, Token,
};

/// The platform of a member whose streams share one channel: the end that a [`MuxEndpoint`] has.
#[derive(Debug)]
pub struct MuxPal<'t, L, const STREAMS: usize, const WINDOW: usize> {
    endpoint: &'t MuxEndpoint<L, STREAMS, WINDOW>,
}

/// One end of a stream over a channel.
#[derive(Debug)]
pub struct MuxStream<'t, L: ByteChannel, const STREAMS: usize, const WINDOW: usize> {
    endpoint: &'t MuxEndpoint<L, STREAMS, WINDOW>,
    end: StreamHalf,
}

impl<L: ByteChannel, const STREAMS: usize, const WINDOW: usize> Stream
    for MuxStream<'_, L, STREAMS, WINDOW>
{
    fn read(&self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        match self.end {
            StreamHalf::Reader(stream) => {
                self.endpoint.with(|state| state.mux.read(stream, buffer))
            }
            StreamHalf::Writer(_) => Err(StreamError::Closed),
        }
    }

    fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError> {
        match self.end {
            StreamHalf::Writer(stream) => {
                self.endpoint.with(|state| state.mux.write(stream, parts))
            }
            StreamHalf::Reader(_) => Err(StreamError::Closed),
        }
    }
}

impl<L: ByteChannel, const STREAMS: usize, const WINDOW: usize> Drop
    for MuxStream<'_, L, STREAMS, WINDOW>
{
    fn drop(&mut self) {
        self.endpoint.with(|state| state.close(self.end));
    }
}

impl<'t, L: ByteChannel, const STREAMS: usize, const WINDOW: usize> MuxPal<'t, L, STREAMS, WINDOW> {
    pub(super) const fn new(endpoint: &'t MuxEndpoint<L, STREAMS, WINDOW>) -> Self {
        MuxPal { endpoint }
    }

    fn stream(&self, end: StreamHalf) -> MuxStream<'t, L, STREAMS, WINDOW> {
        MuxStream {
            endpoint: self.endpoint,
            end,
        }
    }
}

impl<'t, L: ByteChannel, const STREAMS: usize, const WINDOW: usize> Pal
    for MuxPal<'t, L, STREAMS, WINDOW>
{
    type Stream = MuxStream<'t, L, STREAMS, WINDOW>;
    type Event = Flag;

    const SUPPORTS_CALLER_READ: bool = false;
    const MAY_BE_SECURE: bool = false;

    fn event(&self) -> Result<Flag, OutOfResources> {
        Ok(Flag::default())
    }

    /// The first call for a peer usually returns `Busy`, since the other end has to answer first.
    fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError> {
        let stream = self.endpoint.with(|state| state.connect(peer.get()))?;
        Ok(self.stream(StreamHalf::Writer(stream)))
    }

    fn accept(&self) -> Result<Self::Stream, AcceptError> {
        let opened = self.endpoint.with(|state| {
            let (stream, _) = state.mux.next_opened()?;
            state.mux.accept(stream);
            Some(stream)
        });
        let stream = opened.ok_or(AcceptError::WouldBlock)?;
        Ok(self.stream(StreamHalf::Reader(stream)))
    }

    fn watch_listener(&self, on: bool) {
        self.endpoint.lock().listener_ignored = !on;
    }

    fn watch(
        &self,
        stream: &Self::Stream,
        token: Token,
        interest: Interest,
    ) -> Result<(), OutOfResources> {
        self.rewatch(stream, token, interest);
        Ok(())
    }

    fn rewatch(&self, stream: &Self::Stream, token: Token, interest: Interest) {
        if let Some(watch) = self.endpoint.lock().watch(stream.end) {
            *watch = Some((token, interest));
        }
    }

    fn unwatch(&self, stream: &Self::Stream) {
        if let Some(watch) = self.endpoint.lock().watch(stream.end) {
            *watch = None;
        }
    }

    fn wait(&self, ready: &mut ReadyList, until: Deadline) {
        let mut has_waited = false;
        loop {
            self.endpoint.receive();
            self.endpoint.send();
            let is_over = {
                let mut state = self.endpoint.lock();
                state.poll(ready);
                let is_over = has_waited || !ready.is_empty() || until == Deadline::Now;
                // A caller that tries to connect tries again at once, instead of sleeping.
                is_over || state.mux.take_changed()
            };
            if self.endpoint.woken.swap(false, Ordering::AcqRel) || is_over {
                return;
            }
            self.endpoint.channel.wait(until);
            has_waited = true;
        }
    }

    fn wake(&self) {
        self.endpoint.woken.store(true, Ordering::Release);
    }

    fn wait_event(&self, event: &Flag, until: Deadline) {
        if !event.is_set() {
            self.endpoint.channel.wait(until);
        }
    }

    fn wait_readable(&self, _: &Self::Stream, _: &Flag, _: Deadline) -> bool {
        false
    }

    fn now(&self) -> Time {
        self.endpoint.channel.now()
    }

    fn contended(attempts: u32) {
        L::contended(attempts);
    }
}
