//! The platform of the member at one end of a line.

use core::sync::atomic::{AtomicBool, Ordering};

use spin::Mutex;

use super::{Mux, MuxError, Stop};
use crate::Vmid;
use crate::pal::{
    AcceptError, ConnectError, Event, Flag, Interest, OutOfResources, Pal, READY_AT_ONCE,
    ReadyList, Stream, StreamError, Time, Token,
};

/// How many bytes are read from the line at once.
const CHUNK: usize = 1024;

/// How many pieces are read before others have their turn.
const CHUNKS_PER_POLL: u32 = 64;

/// The machine's part of a [`MuxEndpoint`]: a byte channel, reliable and in order, and a clock.
pub trait ByteChannel: Send + Sync {
    /// Reads what has come without blocking, as much as fits, and says how much; 0: nothing.
    fn read(&self, buffer: &mut [u8]) -> usize;

    /// Writes as many of `bytes` as go without blocking, and says how many.
    fn write(&self, bytes: &[u8]) -> usize;

    /// Lets time pass until there is something to read, something more can be written after a
    /// write that did not take all, or the clock reaches `until` (`None`: no limit). May return
    /// early, but not fail to return for what came just before the call.
    fn wait(&self, until: Option<Time>);

    /// The monotonic clock. Cheap.
    fn now(&self) -> Time;
}

/// One end of a line and its streams: up to `STREAMS` that are written and as many that are read,
/// with room for `WINDOW` bytes of each of these. All memory is inside, and it can be a `static`.
///
/// It is made for a member that has a single thread
/// ([`Driving::Caller`](crate::Driving::Caller)): a wake from another thread only ends the wait
/// that comes next.
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
    /// Which of those that are opened somebody has come for.
    claimed: [bool; STREAMS],
    listener_ignored: bool,
    /// Where the next look begins, so that nobody is left out when more are ready than one report
    /// holds.
    next: usize,
}

type Watch = (Token, Interest);

#[derive(Clone, Copy, Debug)]
enum End {
    Writer(u16),
    Reader(u16),
}

impl<L: ByteChannel, const STREAMS: usize, const WINDOW: usize> MuxEndpoint<L, STREAMS, WINDOW> {
    /// An end of that line.
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

    /// The platform of a node at this end. For one node.
    pub const fn pal(&self) -> MuxPal<'_, L, STREAMS, WINDOW> {
        MuxPal { endpoint: self }
    }

    /// The line.
    pub fn channel(&self) -> &L {
        &self.channel
    }

    /// What the other end did that it must not, if anything.
    pub fn fault(&self) -> Option<MuxError> {
        self.state.lock().mux.fault()
    }

    /// Sends what waits to go out, for after the node is gone. False if that took until `until`.
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

    /// Moves bytes between the line and the streams, both ways.
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

    /// Does something with the streams, and sends what that has to say.
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

    /// Begins a stream, or sees what became of it.
    fn connect(&mut self, to: u32) -> Result<u16, ConnectError> {
        let begun = self
            .mux
            .open_streams()
            .find(|(stream, whom)| *whom == to && !self.is_claimed(*stream));
        let Some((stream, _)) = begun else {
            if self.mux.open(to).is_none() {
                // One that was begun for somebody who lost interest makes room, for the next try.
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

    /// Reports what is ready.
    fn poll(&mut self, ready: &mut ReadyList) {
        if !self.listener_ignored && self.mux.has_opened() {
            let _ = ready.push((Token::LISTENER, Interest::READ));
        }
        let begin = self.next;
        for step in 0..STREAMS {
            if ready.len().saturating_add(2) > READY_AT_ONCE {
                return;
            }
            let slot = begin.saturating_add(step).checked_rem(STREAMS).unwrap_or(0);
            self.next = slot.saturating_add(1);
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

/// The platform of a member whose streams share one line: the end that a [`MuxEndpoint`] keeps.
#[derive(Debug)]
pub struct MuxPal<'t, L, const STREAMS: usize, const WINDOW: usize> {
    endpoint: &'t MuxEndpoint<L, STREAMS, WINDOW>,
}

/// One end of a stream over a line.
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

    /// As a rule the first call for a peer says that it is busy, for the other end has to be asked.
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
                // Who tries to connect is to look again, instead of resting.
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
