//! The platform at one end of a channel, with a state machine at the other.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use libos_ipc::Vmid;
use libos_ipc::pal::mux::{ByteChannel, Mux, MuxEndpoint, MuxPal, MuxStream, Stop};
use libos_ipc::pal::{
    AcceptError, ConnectError, Deadline, Interest, Pal, READY_AT_ONCE, ReadyList, Stream,
    StreamError, Time, Token,
};

const STREAMS: usize = 100;
const WINDOW: usize = 64;

/// A channel in memory, whose other end the test controls.
#[derive(Debug, Default)]
struct MemoryChannel(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    coming: VecDeque<u8>,
    going: VecDeque<u8>,
    now: u64,
    rests: usize,
}

impl ByteChannel for MemoryChannel {
    fn read(&self, buffer: &mut [u8]) -> usize {
        let mut inner = self.0.lock().unwrap();
        let count = buffer.len().min(inner.coming.len());
        for (to, from) in buffer.iter_mut().zip(inner.coming.drain(..count)) {
            *to = from;
        }
        count
    }

    fn write(&self, bytes: &[u8]) -> usize {
        self.0.lock().unwrap().going.extend(bytes);
        bytes.len()
    }

    fn wait(&self, until: Deadline) {
        let mut inner = self.0.lock().unwrap();
        inner.rests += 1;
        if let Some(until) = until.time() {
            inner.now = until.0;
        }
    }

    fn now(&self) -> Time {
        Time(self.0.lock().unwrap().now)
    }
}

type MemberPal<'t> = MuxPal<'t, MemoryChannel, STREAMS, WINDOW>;
type End<'t> = MuxStream<'t, MemoryChannel, STREAMS, WINDOW>;

/// A member's end and the other end.
struct Ends {
    endpoint: Box<MuxEndpoint<MemoryChannel, STREAMS, WINDOW>>,
    other: RefCell<Box<Mux<STREAMS, WINDOW>>>,
}

impl Ends {
    fn new() -> Ends {
        let ends = Ends {
            endpoint: Box::new(MuxEndpoint::new(MemoryChannel::default())),
            other: RefCell::new(Box::new(Mux::new())),
        };
        ends.exchange();
        ends
    }

    fn pal(&self) -> MemberPal<'_> {
        self.endpoint.pal()
    }

    /// Delivers the bytes of both ends, and returns the ready streams of the member's.
    fn exchange(&self) -> ReadyList {
        let mut ready = ReadyList::new();
        for _ in 0..2 {
            ready.clear();
            self.pal().wait(&mut ready, Deadline::Now);
            let mut inner = self.endpoint.channel().0.lock().unwrap();
            let mut other = self.other.borrow_mut();
            let bytes: Vec<u8> = inner.going.drain(..).collect();
            other.receive(&bytes).unwrap();
            loop {
                let bytes = other.poll_transmit();
                if bytes.is_empty() {
                    break;
                }
                inner.coming.extend(bytes);
                let count = bytes.len();
                other.mark_sent(count);
            }
        }
        ready
    }

    /// Returns a stream to that peer, and its number.
    fn connected(&self, peer: u32) -> (End<'_>, u16) {
        assert_eq!(
            self.pal().connect(vmid(peer)).unwrap_err(),
            ConnectError::Busy
        );
        self.exchange();
        let (number, to) = self.other.borrow_mut().next_opened().unwrap();
        assert_eq!(to, peer);
        self.other.borrow_mut().accept(number);
        self.exchange();
        (self.pal().connect(vmid(peer)).unwrap(), number)
    }
}

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

#[test]
fn connecting_waits_until_the_other_end_accepts() {
    let ends = Ends::new();
    let (stream, number) = ends.connected(7);
    assert_eq!(stream.write(&[b"ab", b"c"]), Ok(3));
    ends.exchange();
    assert_eq!(ends.other.borrow().front(number), b"abc");
    let refusals = [
        (Stop::Closed, ConnectError::NotListening),
        (Stop::Busy, ConnectError::Busy),
        (Stop::NotAllowed, ConnectError::NotAllowed),
    ];
    for (stop, error) in refusals {
        assert_eq!(ends.pal().connect(vmid(8)).unwrap_err(), ConnectError::Busy);
        // Connecting again in the meantime opens no other stream.
        assert_eq!(ends.pal().connect(vmid(8)).unwrap_err(), ConnectError::Busy);
        ends.exchange();
        let (number, _) = ends.other.borrow_mut().next_opened().unwrap();
        assert!(!ends.other.borrow().has_opened());
        ends.other.borrow_mut().stop(number, stop);
        ends.exchange();
        assert_eq!(ends.pal().connect(vmid(8)).unwrap_err(), error);
    }
}

#[test]
fn a_wait_ends_when_a_connection_is_accepted_or_refused() {
    let ends = Ends::new();
    assert!(ends.pal().connect(vmid(7)).is_err());
    ends.exchange();
    let (number, _) = ends.other.borrow_mut().next_opened().unwrap();
    ends.other.borrow_mut().accept(number);
    ends.exchange();
    let rests = || ends.endpoint.channel().0.lock().unwrap().rests;
    let before = rests();
    // The frame arrived with the last exchange, and was not reported yet.
    let mut ready = ReadyList::new();
    ends.pal().wait(&mut ready, Deadline::Never);
    assert_eq!(rests(), before);
    ends.pal().wait(&mut ready, Deadline::At(Time(5)));
    assert_eq!(rests(), before + 1);
    assert_eq!(ends.pal().now(), Time(5));
}

#[test]
fn an_abandoned_connection_attempt_frees_its_stream() {
    let ends = Ends::new();
    for peer in 0..STREAMS {
        let peer = u32::try_from(peer).unwrap() + 10;
        assert!(ends.pal().connect(vmid(peer)).is_err());
        ends.exchange();
        let (number, _) = ends.other.borrow_mut().next_opened().unwrap();
        ends.other.borrow_mut().accept(number);
        ends.exchange();
    }
    // All numbers are in use by streams that were not claimed.
    assert_eq!(ends.pal().connect(vmid(9)).unwrap_err(), ConnectError::Busy);
    ends.exchange();
    for number in 0..u16::try_from(STREAMS).unwrap() {
        if ends.other.borrow().is_ended(number) {
            ends.other.borrow_mut().stop(number, Stop::Closed);
        }
    }
    ends.exchange();
    drop(ends.connected(9));
}

#[test]
fn readiness_matches_the_state_of_the_mux_stream() {
    let ends = Ends::new();
    let token = Token(5);
    let (stream, number) = ends.connected(7);
    let pal = ends.pal();
    let both = Interest::WRITE | Interest::HANG_UP;
    pal.watch(&stream, token, both).unwrap();
    assert_eq!(ends.exchange()[..], [(token, Interest::WRITE)]);
    assert_eq!(stream.write(&[&[0; 2 * WINDOW]]), Ok(WINDOW));
    assert_eq!(stream.write(&[&[0]]), Err(StreamError::WouldBlock));
    assert!(ends.exchange().is_empty(), "it has no credit");
    ends.other.borrow_mut().skip(number, WINDOW);
    assert_eq!(ends.exchange()[..], [(token, Interest::WRITE)]);
    pal.rewatch(&stream, token, Interest::HANG_UP);
    assert!(ends.exchange().is_empty());
    ends.other.borrow_mut().stop(number, Stop::Closed);
    assert_eq!(ends.exchange()[..], [(token, Interest::HANG_UP)]);
    assert_eq!(stream.write(&[&[0]]), Err(StreamError::Closed));
    pal.unwatch(&stream);
    assert!(ends.exchange().is_empty());
}

#[test]
fn bytes_that_have_arrived_are_read_after_the_end() {
    let ends = Ends::new();
    let pal = ends.pal();
    assert_eq!(pal.accept().unwrap_err(), AcceptError::WouldBlock);
    let number = ends.other.borrow_mut().open(0).unwrap();
    let report = (Token::LISTENER, Interest::READ);
    assert_eq!(ends.exchange()[..], [report]);
    pal.watch_listener(false);
    assert!(ends.exchange().is_empty());
    pal.watch_listener(true);
    assert_eq!(ends.exchange()[..], [report]);
    let stream = pal.accept().unwrap();
    pal.watch(&stream, Token(1), Interest::READ).unwrap();
    assert!(ends.exchange().is_empty());
    let mut buffer = [0; 100];
    assert_eq!(stream.read(&mut buffer), Err(StreamError::WouldBlock));
    assert_eq!(ends.other.borrow_mut().write(number, &[b"last"]), Ok(4));
    ends.other.borrow_mut().end(number);
    let over = Interest::READ | Interest::HANG_UP;
    assert_eq!(ends.exchange()[..], [(Token(1), over)]);
    assert_eq!(stream.read(&mut buffer[..3]), Ok(3));
    assert_eq!(stream.read(&mut buffer), Ok(1));
    assert_eq!(stream.read(&mut buffer), Ok(0));
    drop(stream);
    ends.exchange();
    assert_eq!(
        ends.other.borrow_mut().open(0),
        Some(number),
        "it is free again"
    );
}

#[test]
fn every_ready_stream_is_reported_in_turn() {
    let ends = Ends::new();
    let streams: Vec<_> = (0..STREAMS)
        .map(|place| {
            let (stream, _) = ends.connected(u32::try_from(place).unwrap() + 10);
            let token = Token(place as u64);
            ends.pal().watch(&stream, token, Interest::WRITE).unwrap();
            stream
        })
        .collect();
    let mut seen = vec![false; streams.len()];
    for _ in 0..4 {
        let mut ready = ReadyList::new();
        ends.pal().wait(&mut ready, Deadline::Now);
        assert!(ready.len() <= READY_AT_ONCE);
        for (token, _) in ready {
            seen[usize::try_from(token.0).unwrap()] = true;
        }
    }
    assert!(seen.iter().all(|seen| *seen), "{seen:?}");
    // All bytes were sent.
    assert!(ends.endpoint.flush(Time(0) + Duration::from_secs(1)));
}
