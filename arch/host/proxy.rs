//! A proxy for a member whose only connection is one byte channel: a virtual machine with a serial
//! port, for example.
//!
//! The family sees the process of an ordinary member: it listens at the member's path, and opens
//! streams to the others. The proxy does not trust the member: it checks each byte of the channel
//! ([`Mux`]), the memory for the member is bounded, and each stream must begin with the member's
//! own VMID. If the member violates the protocol, its channel is closed, so the family sees it
//! dead.

use std::boxed::Box;
use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use std::vec;
use std::vec::Vec;

use super::{Host, HostStream};
use crate::Vmid;
use crate::invariant::OrBroken;
use crate::pal::mux::{Mux, MuxError, Stop};
use crate::pal::{
    AcceptError, ConnectError, Deadline, Interest, Pal, ReadyList, Stream, StreamError, Time, Token,
};

/// The greatest number of streams at once, in each direction.
const STREAMS: usize = 128;
/// The greatest number of bytes of a stream that are kept for a peer that does not read.
const WINDOW: usize = 2 * 1024;
/// The greatest number of bytes that are read at once.
const CHUNK: usize = 16 * 1024;
/// The time in which peers may read the last bytes of a member that has ended.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// The time after which streams are accepted again when the system was out of descriptors.
const RETRY_ACCEPT: Duration = Duration::from_millis(100);

/// The token of the channel.
const CHANNEL: Token = Token(u64::MAX >> 1);

/// Returns the token of a stream that the family writes.
fn family_token(stream: u16) -> Token {
    Token(u64::from(stream) << 1)
}

/// Returns the token of a stream that the member writes.
fn member_token(stream: u16) -> Token {
    Token(u64::from(stream) << 1 | 1)
}

/// The reason why a [`Proxy`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxyEnd {
    /// The channel was closed: the member's machine has ended.
    Closed,
    /// The member violated the protocol of the channel.
    Fault(MuxError),
    /// The member used the VMID of another process.
    WrongVmid,
}

impl fmt::Display for ProxyEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProxyEnd::Closed => f.write_str("the channel was closed"),
            ProxyEnd::Fault(fault) => write!(f, "the channel is cut: {fault}"),
            ProxyEnd::WrongVmid => f.write_str("the channel is cut: it spoke as another process"),
        }
    }
}

/// The proxy of a member on this host. It runs in one thread.
pub struct Proxy {
    host: Host,
    member: Vmid,
    channel: WatchedStream,
    mux: Box<Mux<STREAMS, WINDOW>>,
    /// Streams that the family writes, by their numbers on the channel.
    from_family: Vec<Option<WatchedStream>>,
    /// Streams that the member writes, by their numbers on the channel, with the number of checked
    /// bytes of the VMID at their beginning.
    from_member: Vec<Option<(WatchedStream, usize)>>,
    listens: bool,
    /// The time at which a process that is out of descriptors accepts streams again.
    retry_accept_at: Option<Time>,
    end: Option<ProxyEnd>,
}

/// A watched stream and its interest.
struct WatchedStream {
    stream: HostStream,
    token: Token,
    interest: Interest,
}

impl WatchedStream {
    /// Watches a stream. `None` if there is no memory for the watch.
    fn new(
        host: &Host,
        stream: HostStream,
        token: Token,
        interest: Interest,
    ) -> Option<WatchedStream> {
        host.watch(&stream, token, interest).ok()?;
        Some(WatchedStream {
            stream,
            token,
            interest,
        })
    }

    fn set_interest(&mut self, host: &Host, interest: Interest) {
        if self.interest != interest {
            host.rewatch(&self.stream, self.token, interest);
            self.interest = interest;
        }
    }
}

impl Proxy {
    /// Makes the proxy of `member` in the family at `base`, over that channel. From now on other
    /// members can connect, so this comes before the start of the member.
    ///
    /// # Errors
    /// As [`Host::listen`].
    pub fn new(base: &Path, member: Vmid, channel: UnixStream) -> io::Result<Proxy> {
        let host = Host::listen(base, member)?;
        let stream = HostStream::new(channel.into());
        let channel = WatchedStream::new(&host, stream, CHANNEL, Interest::READ)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Proxy {
            host,
            member,
            channel,
            mux: Box::new(Mux::new()),
            from_family: (0..STREAMS).map(|_| None).collect(),
            from_member: (0..STREAMS).map(|_| None).collect(),
            listens: true,
            retry_accept_at: None,
            end: None,
        })
    }

    /// Moves bytes until the channel ends, and returns the reason. If the member's machine has
    /// ended, the proxy first delivers the last bytes that the member sent.
    pub fn run(mut self) -> ProxyEnd {
        let mut chunk = vec![0; CHUNK];
        let mut ready = ReadyList::new();
        let mut last = None;
        loop {
            self.update();
            if let Some(end) = self.end {
                let last = *last.get_or_insert_with(|| self.host.now() + DRAIN_LIMIT);
                let is_done = self.from_member.iter().all(Option::is_none);
                if end != ProxyEnd::Closed || is_done || self.host.now() >= last {
                    return end;
                }
            }
            ready.clear();
            let until = last.or(self.retry_accept_at);
            self.host
                .wait(&mut ready, until.map_or(Deadline::Never, Deadline::At));
            for (token, readiness) in &ready {
                self.on_ready(*token, *readiness, &mut chunk);
            }
        }
    }

    /// Handles a stream that is ready.
    fn on_ready(&mut self, token: Token, readiness: Interest, chunk: &mut [u8]) {
        if token == Token::LISTENER {
            self.accept();
        } else if token == CHANNEL {
            if readiness.intersects(Interest::READ | Interest::HANG_UP) {
                self.read_channel(chunk);
            }
        } else if let Ok(stream) = u16::try_from(token.0 >> 1) {
            if token == family_token(stream) {
                self.read_family(stream, chunk);
            } else if readiness.contains(Interest::HANG_UP) {
                self.close_from_member(stream);
            } else if let Some(Some((watched, _))) = self.from_member.get_mut(usize::from(stream)) {
                // The peer accepts more bytes of the member's stream, which `update` writes.
                watched.set_interest(&self.host, Interest::HANG_UP);
            }
        }
    }

    /// Accepts streams to the member, as long as the channel has room for more streams.
    fn accept(&mut self) {
        while self.mux.can_open() {
            match self.host.accept() {
                Ok(stream) => {
                    let Some(number) = self.mux.open(0) else {
                        return;
                    };
                    let token = family_token(number);
                    let watched = WatchedStream::new(&self.host, stream, token, Interest::empty());
                    match self.from_family.get_mut(usize::from(number)) {
                        Some(place) if watched.is_some() => *place = watched,
                        _ => self.mux.end(number),
                    }
                }
                Err(AcceptError::NotAllowed) => {}
                Err(AcceptError::WouldBlock) => return,
                Err(AcceptError::Exhausted) => {
                    self.retry_accept_at = Some(self.host.now() + RETRY_ACCEPT);
                    return;
                }
            }
        }
    }

    fn read_channel(&mut self, chunk: &mut [u8]) {
        match self.channel.stream.read(chunk) {
            Ok(count) if count > 0 => {
                let received = chunk.get(..count).or_broken(&[]);
                if let Err(fault) = self.mux.receive(received) {
                    self.end = Some(ProxyEnd::Fault(fault));
                }
            }
            Ok(_) | Err(StreamError::Closed) => self.hang_up(),
            Err(StreamError::WouldBlock | StreamError::Interrupted) => {}
        }
    }

    /// Handles the end of the channel.
    fn hang_up(&mut self) {
        self.mux.hang_up();
        self.host.unwatch(&self.channel.stream);
        self.end = Some(ProxyEnd::Closed);
    }

    /// Reads a stream of the family, as many bytes as the channel accepts.
    fn read_family(&mut self, stream: u16, chunk: &mut [u8]) {
        let Some(Some(watched)) = self.from_family.get_mut(usize::from(stream)) else {
            return;
        };
        let room = self.mux.room(stream).min(chunk.len());
        let Some(chunk) = chunk.get_mut(..room).filter(|chunk| !chunk.is_empty()) else {
            return;
        };
        match watched.stream.read(chunk) {
            Ok(count) if count > 0 => {
                let received = chunk.get(..count).or_broken(&[]);
                // The room was checked before.
                let _ = self.mux.write(stream, &[received]);
            }
            Ok(_) | Err(StreamError::Closed) => self.close_from_family(stream),
            Err(StreamError::WouldBlock | StreamError::Interrupted) => {}
        }
    }

    fn close_from_family(&mut self, stream: u16) {
        let place = self.from_family.get_mut(usize::from(stream));
        if let Some(watched) = place.and_then(Option::take) {
            self.host.unwatch(&watched.stream);
            self.mux.end(stream);
        }
    }

    fn close_from_member(&mut self, stream: u16) {
        let place = self.from_member.get_mut(usize::from(stream));
        if let Some((watched, _)) = place.and_then(Option::take) {
            self.host.unwatch(&watched.stream);
            self.mux.stop(stream, Stop::Closed);
        }
    }

    /// Does the work that is possible now, and watches for the rest.
    fn update(&mut self) {
        while let Some((stream, to)) = self.mux.next_opened() {
            self.connect(stream, to);
        }
        for (stream, _) in (0..).zip(0..STREAMS) {
            self.write_family(stream);
        }
        self.write_channel();
        // The bytes that were written to the channel have made room for others.
        for (stream, place) in (0..).zip(&mut self.from_family) {
            let Some(watched) = place else { continue };
            if self.mux.stopped(stream).is_some() {
                self.host.unwatch(&watched.stream);
                *place = None;
                self.mux.end(stream);
            } else if self.mux.room(stream) > 0 {
                watched.set_interest(&self.host, Interest::READ);
            } else {
                watched.set_interest(&self.host, Interest::empty());
            }
        }
        let now = || self.host.now();
        self.retry_accept_at = self.retry_accept_at.filter(|until| now() < *until);
        let listens = self.mux.can_open() && self.retry_accept_at.is_none();
        if listens != self.listens {
            self.host.watch_listener(listens);
            self.listens = listens;
        }
    }

    /// Opens a stream for the member.
    fn connect(&mut self, stream: u16, to: u32) {
        let connected = match Vmid::new(to) {
            Some(peer) => self.host.connect(peer),
            None => Err(ConnectError::NotListening),
        };
        let refused = match connected {
            Ok(connected) => {
                let token = member_token(stream);
                let watched = WatchedStream::new(&self.host, connected, token, Interest::HANG_UP);
                match (watched, self.from_member.get_mut(usize::from(stream))) {
                    (Some(watched), Some(place)) => {
                        *place = Some((watched, 0));
                        return self.mux.accept(stream);
                    }
                    _ => Stop::Busy,
                }
            }
            Err(ConnectError::NotListening) => Stop::Closed,
            Err(ConnectError::Busy) => Stop::Busy,
            Err(ConnectError::NotAllowed) => Stop::NotAllowed,
        };
        self.mux.stop(stream, refused);
    }

    /// Writes the bytes that the member sent on one of its streams, as far as the reader accepts
    /// them.
    fn write_family(&mut self, stream: u16) {
        let own = self.member.get().to_le_bytes();
        loop {
            let Some(Some((watched, checked))) = self.from_member.get_mut(usize::from(stream))
            else {
                return;
            };
            if watched.interest.contains(Interest::WRITE) {
                return;
            }
            let received = self.mux.front(stream);
            if received.is_empty() {
                if self.mux.is_ended(stream) {
                    self.close_from_member(stream);
                }
                return;
            }
            let rest = own.get(*checked..).or_broken(&[]);
            if rest
                .iter()
                .zip(received)
                .any(|(ours, theirs)| ours != theirs)
            {
                self.end = Some(ProxyEnd::WrongVmid);
                return;
            }
            match watched.stream.write(&[received]) {
                Ok(count) => {
                    *checked = checked.saturating_add(count).min(own.len());
                    self.mux.skip(stream, count);
                }
                Err(StreamError::WouldBlock) => {
                    watched.set_interest(&self.host, Interest::HANG_UP | Interest::WRITE);
                    return;
                }
                Err(StreamError::Interrupted) => {}
                Err(StreamError::Closed) => return self.close_from_member(stream),
            }
        }
    }

    fn write_channel(&mut self) {
        if self.end.is_some() {
            return;
        }
        loop {
            let bytes = self.mux.poll_transmit();
            if bytes.is_empty() {
                return self.channel.set_interest(&self.host, Interest::READ);
            }
            match self.channel.stream.write(&[bytes]) {
                Ok(count) => self.mux.mark_sent(count),
                Err(StreamError::WouldBlock) => {
                    let both = Interest::READ | Interest::WRITE;
                    return self.channel.set_interest(&self.host, both);
                }
                Err(StreamError::Interrupted) => {}
                // The reader is gone. The proxy still reads to the end what the member sent before.
                Err(StreamError::Closed) => {
                    let count = bytes.len();
                    self.mux.mark_sent(count);
                }
            }
        }
    }
}
