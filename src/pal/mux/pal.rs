//! The platform of the member at one end of a channel.

use core::sync::atomic::{AtomicBool, Ordering};

use spin::Mutex;

use super::{Mux, MuxError, Stop};
use crate::Vmid;
use crate::invariant::{Count, OrBroken};
use crate::pal::{
    AcceptError, ConnectError, Event, Flag, Interest, OutOfResources, Pal, READY_AT_ONCE,
    ReadyList, Stream, StreamError, Time, Token,
};

/// The number of bytes that are read from the channel at once.
const CHUNK: usize = 1024;

/// The number of reads before other work is done.
const CHUNKS_PER_POLL: u32 = 64;

/// The machine's part of a [`MuxEndpoint`]: a reliable and ordered byte channel, and a clock.
pub trait ByteChannel: Send + Sync {
    /// Reads as many bytes as are available and fit, without blocking, and returns their number; 0
    /// if there are none.
    fn read(&self, buffer: &mut [u8]) -> usize;

    /// Writes as many of `bytes` as possible without blocking, and returns their number.
    fn write(&self, bytes: &[u8]) -> usize;

    /// Waits until there are bytes to read, more bytes can be written after a partial write, or the
    /// clock reaches `until` (`None`: no limit). It may return early. It must return for bytes that
    /// arrived just before the call.
    fn wait(&self, until: Option<Time>);

    /// Returns the time of the monotonic clock. It is cheap.
    fn now(&self) -> Time;
}

/// One end of a channel and its streams: up to `STREAMS` that are written and as many that are
/// read, with room for `WINDOW` bytes of each stream that is read. All memory is inside, and it can
/// be a `static`.
///
/// It is made for a member with a single thread ([`Driving::Caller`](crate::Driving::Caller)): a
/// wake from another thread only ends the next wait.
#[derive(Debug)]
pub struct MuxEndpoint<L, const STREAMS: usize, const WINDOW: usize> {
    channel: L,
    state: Mutex<State<STREAMS, WINDOW>>,
    woken: AtomicBool,
}

#[derive(Debug)]
struct State<const STREAMS: usize, const WINDOW: usize> {
    mux: Mux<STREAMS, WINDOW>,
    writers: [Option<Watch>; STREAMS],
    readers: [Option<Watch>; STREAMS],
    /// Whether a `connect` has claimed the open stream.
    claimed: [bool; STREAMS],
    listener_ignored: bool,
    /// The place where the next report begins, so that each stream is reported in turn when more
    /// are ready than one report holds.
    next: usize,
}

type Watch = (Token, Interest);

#[derive(Clone, Copy, Debug)]
enum End {
    Writer(u16),
    Reader(u16),
}

impl<L: ByteChannel, const STREAMS: usize, const WINDOW: usize> MuxEndpoint<L, STREAMS, WINDOW> {
    /// Makes one end of the channel.
    pub const fn new(channel: L) -> Self {
        MuxEndpoint {
            channel,
            state: Mutex::new(State {
                mux: Mux::new(),
                writers: [None; STREAMS],
                readers: [None; STREAMS],
                claimed: [false; STREAMS],
                listener_ignored: false,
                next: 0,
            }),
            woken: AtomicBool::new(false),
        }
    }

    /// Returns the platform of a node at this end. For one node.
    pub const fn pal(&self) -> MuxPal<'_, L, STREAMS, WINDOW> {
        MuxPal { endpoint: self }
    }

    /// Returns the channel.
    pub fn channel(&self) -> &L {
        &self.channel
    }

    /// Returns the protocol violation of the other end, if there was one.
    pub fn fault(&self) -> Option<MuxError> {
        self.state.lock().mux.fault()
    }

    /// Sends the remaining bytes, after the node has ended. False if not all were sent at `until`.
    pub fn flush(&self, until: Time) -> bool {
        loop {
            let is_sent = {
                let mut state = self.state.lock();
                self.send(&mut state);
                state.mux.poll_transmit().is_empty()
            };
            if is_sent || self.channel.now() >= until {
                return is_sent;
            }
            self.channel.wait(Some(until));
        }
    }

    fn send(&self, state: &mut State<STREAMS, WINDOW>) {
        loop {
            let bytes = state.mux.poll_transmit();
            let count = if bytes.is_empty() {
                0
            } else {
                self.channel.write(bytes)
            };
            if count == 0 {
                return;
            }
            state.mux.mark_sent(count);
        }
    }

    /// Moves bytes between the channel and the streams, in both directions.
    fn exchange(&self, state: &mut State<STREAMS, WINDOW>) {
        let mut piece = [0; CHUNK];
        for _ in 0..CHUNKS_PER_POLL {
            let count = self.channel.read(&mut piece);
            let came = piece.get(..count).unwrap_or(&[]);
            if came.is_empty() || state.mux.receive(came).is_err() {
                break;
            }
        }
        self.send(state);
    }

    /// Calls `act` with the streams, and sends the resulting frames.
    fn with<T>(&self, act: impl FnOnce(&mut State<STREAMS, WINDOW>) -> T) -> T {
        let mut state = self.state.lock();
        let done = act(&mut state);
        self.send(&mut state);
        done
    }
}

impl<const STREAMS: usize, const WINDOW: usize> State<STREAMS, WINDOW> {
    fn watch(&mut self, end: End) -> Option<&mut Option<Watch>> {
        match end {
            End::Writer(stream) => self.writers.get_mut(usize::from(stream)),
            End::Reader(stream) => self.readers.get_mut(usize::from(stream)),
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
    fn connect(&mut self, to: u32) -> Result<u16, ConnectError> {
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

    fn close(&mut self, end: End) {
        if let Some(watch) = self.watch(end) {
            *watch = None;
        }
        match end {
            End::Writer(stream) => {
                self.claim(stream, false);
                self.mux.end(stream);
            }
            End::Reader(stream) => self.mux.stop(stream, Stop::Closed),
        }
    }

    fn readiness(&self, end: End, interest: Interest) -> Interest {
        match end {
            End::Writer(stream) => {
                let is_gone = self.mux.stopped(stream).is_some();
                let takes_more = is_gone || self.mux.room(stream) > 0;
                interest.reported(false, takes_more, is_gone)
            }
            End::Reader(stream) => {
                let is_over = self.mux.is_ended(stream);
                let has_more = is_over || self.mux.readable(stream) > 0;
                interest.reported(has_more, false, is_over)
            }
        }
    }

    /// Reports the ready streams.
    fn poll(&mut self, ready: &mut ReadyList) {
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
            for end in [End::Reader(stream), End::Writer(stream)] {
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

/// The platform of a member whose streams share one channel: the end that a [`MuxEndpoint`] has.
#[derive(Debug)]
pub struct MuxPal<'t, L, const STREAMS: usize, const WINDOW: usize> {
    endpoint: &'t MuxEndpoint<L, STREAMS, WINDOW>,
}

/// One end of a stream over a channel.
#[derive(Debug)]
pub struct MuxStream<'t, L: ByteChannel, const STREAMS: usize, const WINDOW: usize> {
    endpoint: &'t MuxEndpoint<L, STREAMS, WINDOW>,
    end: End,
}

impl<L: ByteChannel, const STREAMS: usize, const WINDOW: usize> Stream
    for MuxStream<'_, L, STREAMS, WINDOW>
{
    fn read(&self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        match self.end {
            End::Reader(stream) => self.endpoint.with(|state| state.mux.read(stream, buffer)),
            End::Writer(_) => Err(StreamError::Closed),
        }
    }

    fn write(&self, parts: &[&[u8]]) -> Result<usize, StreamError> {
        match self.end {
            End::Writer(stream) => self.endpoint.with(|state| state.mux.write(stream, parts)),
            End::Reader(_) => Err(StreamError::Closed),
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
    fn stream(&self, end: End) -> MuxStream<'t, L, STREAMS, WINDOW> {
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

    fn event(&self) -> Result<Flag, OutOfResources> {
        Ok(Flag::default())
    }

    /// The first call for a peer usually returns `Busy`, since the other end has to answer first.
    fn connect(&self, peer: Vmid) -> Result<Self::Stream, ConnectError> {
        let stream = self.endpoint.with(|state| state.connect(peer.get()))?;
        Ok(self.stream(End::Writer(stream)))
    }

    fn accept(&self) -> Result<Self::Stream, AcceptError> {
        let opened = self.endpoint.with(|state| {
            let (stream, _) = state.mux.next_opened()?;
            state.mux.accept(stream);
            Some(stream)
        });
        let stream = opened.ok_or(AcceptError::WouldBlock)?;
        Ok(self.stream(End::Reader(stream)))
    }

    fn watch_listener(&self, on: bool) {
        self.endpoint.state.lock().listener_ignored = !on;
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
        if let Some(watch) = self.endpoint.state.lock().watch(stream.end) {
            *watch = Some((token, interest));
        }
    }

    fn unwatch(&self, stream: &Self::Stream) {
        if let Some(watch) = self.endpoint.state.lock().watch(stream.end) {
            *watch = None;
        }
    }

    fn wait(&self, ready: &mut ReadyList, until: Option<Time>) {
        let mut has_waited = false;
        loop {
            let is_over = {
                let mut state = self.endpoint.state.lock();
                self.endpoint.exchange(&mut state);
                state.poll(ready);
                let is_over = has_waited || !ready.is_empty() || until == Some(Time(0));
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

    fn wait_event(&self, event: &Flag, until: Option<Time>) {
        if !event.is_set() {
            self.endpoint.channel.wait(until);
        }
    }

    fn wait_readable(&self, _: &Self::Stream, _: &Flag, _: Option<Time>) -> bool {
        false
    }

    fn now(&self) -> Time {
        self.endpoint.channel.now()
    }
}
