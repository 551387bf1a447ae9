//! The state machine at each end of a channel, without a channel.

use std::collections::VecDeque;

use libos_ipc::pal::StreamError;
use libos_ipc::pal::mux::{Mux, MuxError, Stop};
use proptest::prelude::*;

const STREAMS: usize = 3;
const WINDOW: usize = 16;

type End = Mux<STREAMS, WINDOW>;

/// Returns the byte at that place of any stream.
fn byte(at: usize) -> u8 {
    u8::try_from(at % 251).unwrap()
}

/// A stream as its two ends see it, in the order of opening.
#[derive(Debug)]
struct Stream {
    from: usize,
    number: u16,
    written: usize,
    read: usize,
    ended: bool,
    stopped: bool,
    /// The other end has seen the OPEN.
    seen: bool,
}

/// Two ends and the bytes between them.
struct Pair {
    ends: [Box<End>; 2],
    /// The bytes in transit from each end.
    lines: [VecDeque<u8>; 2],
    streams: Vec<Stream>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Open(usize),
    Accept(usize),
    Write(usize, usize),
    Read(usize, usize),
    End(usize),
    Stop(usize),
    /// An end sends that many bytes.
    Send(usize, usize),
    /// That many bytes arrive at the other end.
    Arrive(usize, usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    let end = 0..2_usize;
    let stream = 0..8_usize;
    prop_oneof![
        end.clone().prop_map(Step::Open),
        end.clone().prop_map(Step::Accept),
        (stream.clone(), 0..40_usize).prop_map(|(stream, count)| Step::Write(stream, count)),
        (stream.clone(), 1..40_usize).prop_map(|(stream, count)| Step::Read(stream, count)),
        stream.clone().prop_map(Step::End),
        stream.prop_map(Step::Stop),
        (end.clone(), 1..100_usize).prop_map(|(end, count)| Step::Send(end, count)),
        (end, 1..100_usize).prop_map(|(end, count)| Step::Arrive(end, count)),
    ]
}

impl Pair {
    fn new() -> Pair {
        Pair {
            ends: [Box::default(), Box::default()],
            lines: [VecDeque::new(), VecDeque::new()],
            streams: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Open(end) => {
                if let Some(number) = self.ends[end].open(7) {
                    let mut before = self.streams.iter();
                    assert!(
                        before
                            .all(|stream| stream.ended
                                || (stream.from, stream.number) != (end, number)),
                        "a number that is in use"
                    );
                    self.streams.push(Stream {
                        from: end,
                        number,
                        written: 0,
                        read: 0,
                        ended: false,
                        stopped: false,
                        seen: false,
                    });
                }
            }
            Step::Accept(end) => {
                if let Some((number, to)) = self.ends[end].next_opened() {
                    assert_eq!(to, 7);
                    let stream = self
                        .streams
                        .iter_mut()
                        .find(|stream| {
                            stream.from != end && stream.number == number && !stream.seen
                        })
                        .expect("nobody opened it");
                    stream.seen = true;
                    self.ends[end].accept(number);
                }
            }
            Step::Write(at, count) => self.write(at, count),
            Step::Read(at, count) => self.read(at, count),
            Step::End(at) => {
                if let Some(stream) = self.streams.get_mut(at).filter(|stream| !stream.ended) {
                    stream.ended = true;
                    self.ends[stream.from].end(stream.number);
                }
            }
            Step::Stop(at) => {
                let open = |stream: &&mut Stream| stream.seen && !stream.stopped;
                if let Some(stream) = self.streams.get_mut(at).filter(open) {
                    stream.stopped = true;
                    self.ends[1 - stream.from].stop(stream.number, Stop::Closed);
                }
            }
            Step::Send(end, count) => self.send(end, count),
            Step::Arrive(end, count) => {
                let line = &mut self.lines[1 - end];
                let bytes: Vec<u8> = line.drain(..count.min(line.len())).collect();
                self.ends[end].receive(&bytes).unwrap();
            }
        }
    }

    fn send(&mut self, end: usize, count: usize) {
        let bytes = self.ends[end].poll_transmit();
        let bytes = &bytes[..count.min(bytes.len())];
        self.lines[end].extend(bytes);
        let count = bytes.len();
        self.ends[end].mark_sent(count);
    }

    fn write(&mut self, at: usize, count: usize) {
        let Some(stream) = self.streams.get_mut(at).filter(|stream| !stream.ended) else {
            return;
        };
        let bytes: Vec<u8> = (stream.written..stream.written + count).map(byte).collect();
        let (one, two) = bytes.split_at(count / 3);
        match self.ends[stream.from].write(stream.number, &[one, &[], two]) {
            Ok(count) => {
                assert!(stream.seen, "written before it was accepted");
                stream.written += count;
                assert!(
                    stream.written - stream.read <= WINDOW || stream.stopped,
                    "more than there is room for"
                );
            }
            Err(StreamError::Closed) => assert!(stream.stopped),
            Err(error) => assert_eq!(error, StreamError::WouldBlock),
        }
    }

    fn read(&mut self, at: usize, count: usize) {
        let open = |stream: &&mut Stream| stream.seen && !stream.stopped;
        let Some(stream) = self.streams.get_mut(at).filter(open) else {
            return;
        };
        let mut buffer = vec![0; count];
        match self.ends[1 - stream.from].read(stream.number, &mut buffer) {
            Ok(0) => {
                assert!(stream.ended, "it reads as ended");
                assert_eq!(stream.read, stream.written, "bytes are lost");
            }
            Ok(count) => {
                for byte_read in &buffer[..count] {
                    assert_eq!(*byte_read, byte(stream.read));
                    stream.read += 1;
                }
                assert!(stream.read <= stream.written);
            }
            Err(error) => assert_eq!(error, StreamError::WouldBlock),
        }
    }

    /// Delivers all bytes, until nothing changes.
    fn settle(&mut self) {
        let mut is_moving = true;
        while is_moving {
            is_moving = false;
            for end in 0..2 {
                self.send(end, usize::MAX);
                is_moving |= !self.lines[end].is_empty() || self.ends[1 - end].has_opened();
                self.step(Step::Arrive(1 - end, usize::MAX));
                self.step(Step::Accept(1 - end));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever happens in any order: bytes arrive in order and none is lost, no fault is reported,
    /// and when all is closed all numbers are free again.
    #[test]
    fn each_stream_carries_its_bytes_in_order(steps in prop::collection::vec(any_step(), 0..200)) {
        let mut pair = Pair::new();
        for step in steps {
            pair.step(step);
        }
        pair.settle();
        for _ in 0..20 {
            for at in 0..pair.streams.len() {
                pair.read(at, 100);
            }
            pair.settle();
        }
        for at in 0..pair.streams.len() {
            let stream = &pair.streams[at];
            prop_assert!(stream.stopped || stream.read == stream.written, "{stream:?}");
            pair.step(Step::End(at));
            pair.settle();
            pair.read(at, 100);
            pair.step(Step::Stop(at));
        }
        pair.settle();
        for end in 0..2 {
            prop_assert_eq!(pair.ends[end].open_streams().count(), 0);
            for number in 0..STREAMS {
                prop_assert_eq!(pair.ends[end].open(7), u16::try_from(number).ok());
            }
        }
    }

    /// No received bytes do harm: at worst they are a fault, and then all streams are closed.
    #[test]
    fn any_bytes_are_accepted_or_a_fault(
        pieces in prop::collection::vec(any_piece(), 0..60),
        steps in prop::collection::vec(any_step(), 0..60),
    ) {
        let mut end = End::new();
        let mut steps = steps.into_iter();
        for piece in pieces {
            if end.receive(&piece).is_err() {
                break;
            }
            // The numbers are those of existing streams, open or not.
            match steps.next() {
                Some(Step::Open(_)) => drop(end.open(1)),
                Some(Step::Accept(_)) => {
                    if let Some((number, _)) = end.next_opened() {
                        end.accept(number);
                    }
                }
                Some(Step::Write(at, count)) => drop(end.write(number(at), &[&vec![0; count]])),
                Some(Step::Read(at, count)) => drop(end.read(number(at), &mut vec![0; count])),
                Some(Step::End(at)) => end.end(number(at)),
                Some(Step::Stop(at)) => end.stop(number(at), Stop::Busy),
                Some(Step::Send(..) | Step::Arrive(..)) => {
                    let count = end.poll_transmit().len();
                    end.mark_sent(count);
                }
                None => {}
            }
            for at in 0..STREAMS {
                prop_assert!(end.readable(number(at)) <= WINDOW);
            }
        }
        if end.fault().is_some() {
            prop_assert!(!end.can_open());
            prop_assert_eq!(end.stopped(0), Some(Stop::Closed));
            prop_assert!(end.is_ended(0));
            prop_assert!(end.receive(&hello()).is_err());
        }
    }
}

fn number(at: usize) -> u16 {
    u16::try_from(at).unwrap()
}

fn frame(kind: u8, stream: u16, value: u32) -> Vec<u8> {
    let extra = u8::from(kind == 1);
    let mut bytes = vec![kind, extra];
    bytes.extend(stream.to_le_bytes());
    bytes.extend(value.to_le_bytes());
    bytes
}

fn hello() -> Vec<u8> {
    frame(1, 3, 0)
}

/// Generates frames, most of them valid.
fn any_piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => (1..8_u8, 0..4_u16, 0..20_u32).prop_map(|(kind, stream, value)| {
            let mut bytes = frame(kind, stream, value);
            if kind == 3 {
                bytes.extend(vec![0; value as usize]);
            }
            bytes
        }),
        4 => Just(hello()),
        1 => prop::collection::vec(any::<u8>(), 0..30),
    ]
}

/// Returns the fault after HELLO, these frames, and one stream that was opened here.
fn fault(frames: &[Vec<u8>]) -> Option<MuxError> {
    let mut end = End::new();
    end.receive(&hello()).unwrap();
    end.open(1).unwrap();
    for bytes in frames {
        if let Err(fault) = end.receive(bytes) {
            return Some(fault);
        }
        if let Some((number, _)) = end.next_opened() {
            end.accept(number);
        }
    }
    None
}

#[test]
fn each_protocol_violation_is_detected() {
    let data = |stream, count: usize| {
        let mut bytes = frame(3, stream, u32::try_from(count).unwrap());
        bytes.extend(vec![0; count]);
        bytes
    };
    let open = frame(2, 0, 1);
    let cases: [(&[Vec<u8>], MuxError); 17] = [
        (&[frame(0, 0, 0)], MuxError::Malformed),
        (&[frame(7, 0, 0)], MuxError::Malformed),
        (&[vec![2, 1, 0, 0, 0, 0, 0, 0]], MuxError::Malformed),
        (&[frame(3, 0, 0)], MuxError::Malformed),
        (&[frame(5, 0, 0)], MuxError::Malformed),
        (&[frame(6, 0, 3)], MuxError::Malformed),
        (&[hello()], MuxError::Malformed),
        (&[frame(2, 3, 1)], MuxError::NoSuchStream),
        (&[frame(5, 3, 1)], MuxError::NoSuchStream),
        (&[open.clone(), open.clone()], MuxError::AlreadyOpen),
        (&[data(0, 1)], MuxError::NotOpen),
        (
            &[open.clone(), frame(4, 0, 0), data(0, 1)],
            MuxError::NotOpen,
        ),
        (&[frame(5, 1, 1)], MuxError::NotOpen),
        (&[frame(6, 0, 0), frame(5, 0, 1)], MuxError::NotOpen),
        (&[open.clone(), data(0, WINDOW + 1)], MuxError::BeyondCredit),
        (&[open, data(0, WINDOW), data(0, 1)], MuxError::BeyondCredit),
        (
            &[frame(5, 0, u32::MAX), frame(5, 0, 1)],
            MuxError::TooMuchCredit,
        ),
    ];
    for (frames, expected) in cases {
        assert_eq!(fault(frames), Some(expected), "{frames:?}");
    }
    let mut end = End::new();
    assert_eq!(end.receive(&frame(2, 0, 1)), Err(MuxError::NoHello));
}

#[test]
fn a_stream_that_is_not_read_does_not_block_other_streams() {
    let mut pair = Pair::new();
    pair.settle();
    pair.step(Step::Open(0));
    pair.step(Step::Open(0));
    pair.settle();
    for _ in 0..1000 {
        pair.write(0, 100);
        pair.write(1, 100);
        pair.settle();
        pair.read(1, 100);
    }
    assert_eq!(pair.streams[0].written, WINDOW, "nobody reads it");
    assert!(pair.streams[1].read >= 500 * WINDOW, "{:?}", pair.streams);
}

#[test]
fn frames_without_room_on_a_full_channel_are_sent_later() {
    let mut end = Mux::<64, 16>::new();
    end.receive(&frame(1, 64, 0)).unwrap();
    let big = end.open(1).unwrap();
    end.receive(&frame(5, big, u32::MAX)).unwrap();
    while end.write(big, &[&[0; 512]]).is_ok() {}
    assert_eq!(end.room(big), 0, "the line is full");
    // None of this finds room now.
    for _ in 1..64 {
        end.open(1).unwrap();
    }
    for number in 0..64 {
        end.receive(&frame(2, number, 1)).unwrap();
    }
    while let Some((number, _)) = end.next_opened() {
        end.accept(number);
        end.stop(number, Stop::NotAllowed);
    }
    end.end(big);
    let mut received = Vec::new();
    loop {
        let bytes = end.poll_transmit();
        if bytes.is_empty() {
            break;
        }
        let count = bytes.len().min(7);
        received.extend_from_slice(&bytes[..count]);
        end.mark_sent(count);
    }
    let kinds = |kind: u8| {
        let mut rest = received.as_slice();
        let mut found = 0;
        while let Some((head, after)) = rest.split_first_chunk::<8>() {
            let value = u32::from_le_bytes(head[4..].try_into().unwrap()) as usize;
            rest = if head[0] == 3 { &after[value..] } else { after };
            found += usize::from(head[0] == kind);
        }
        found
    };
    assert_eq!([kinds(1), kinds(2), kinds(4), kinds(6)], [1, 64, 1, 64]);
}
