//! The platform in memory.
#![allow(missing_docs, clippy::cast_possible_truncation)]

use std::time::Duration;

use libos_ipc::Vmid;
use libos_ipc::pal::{
    AcceptError, ConnectError, Deadline, Event, Interest, Pal, ReadyList, Stream, StreamError,
    Time, Token,
};
use libos_ipc::testing::loopback::{Loopback, Network};

type Net = Network<4, 100, 16>;
type Node<'n> = Loopback<'n, 4, 100, 16>;

/// A network can be a static.
static STATIC: Network<2, 1, 4> = Network::new();

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

fn poll_ready<P: Pal>(node: &P) -> ReadyList {
    let mut ready = ReadyList::new();
    node.wait(&mut ready, Deadline::Never);
    ready
}

fn stream<P: Pal>(from: &P, to: &P, number: u32) -> (P::Stream, P::Stream) {
    (from.connect(vmid(number)).unwrap(), to.accept().unwrap())
}

fn two(net: &Net) -> (Node<'_>, Node<'_>) {
    (net.join(vmid(1)).unwrap(), net.join(vmid(2)).unwrap())
}

#[test]
fn bytes_arrive_in_order_in_any_pieces() {
    let net = Net::new();
    let (one, two) = two(&net);
    let (out, inward) = stream(&one, &two, 2);
    let (mut next_out, mut next_in) = (0_u8, 0_u8);
    for step in 1..2000_usize {
        let bytes: Vec<u8> = (0..step % 19)
            .map(|n| next_out.wrapping_add(n as u8))
            .collect();
        let (a, b) = bytes.split_at(bytes.len() / 3);
        match out.write(&[a, &[], b]) {
            Ok(count) => next_out = next_out.wrapping_add(count as u8),
            Err(error) => assert_eq!(error, StreamError::WouldBlock),
        }
        let mut buffer = [0; 32];
        match inward.read(&mut buffer[..=step % 13]) {
            Ok(count) => {
                for byte in &buffer[..count] {
                    assert_eq!(*byte, next_in);
                    next_in = next_in.wrapping_add(1);
                }
            }
            Err(error) => assert_eq!(error, StreamError::WouldBlock),
        }
    }
}

#[test]
fn readiness_matches_the_state_of_the_stream() {
    let net = Net::new();
    let (one, two) = two(&net);
    let out = one.connect(vmid(2)).unwrap();
    assert_eq!(
        poll_ready(&two).as_slice(),
        [(Token::LISTENER, Interest::READ)]
    );
    two.watch_listener(false);
    assert!(poll_ready(&two).is_empty());
    let inward = two.accept().unwrap();
    assert_eq!(two.accept().err(), Some(AcceptError::WouldBlock));

    one.watch(&out, Token(1), Interest::WRITE).unwrap();
    two.watch(&inward, Token(2), Interest::READ).unwrap();
    assert_eq!(poll_ready(&one).as_slice(), [(Token(1), Interest::WRITE)]);
    assert!(poll_ready(&two).is_empty());
    assert_eq!(out.write(&[&[7; 20]]), Ok(16));
    assert_eq!(out.write(&[&[7; 20]]), Err(StreamError::WouldBlock));
    assert!(poll_ready(&one).is_empty());
    for _ in 0..2 {
        assert_eq!(poll_ready(&two).as_slice(), [(Token(2), Interest::READ)]);
    }
    two.rewatch(&inward, Token(3), Interest::empty());
    assert!(poll_ready(&two).is_empty());
    two.rewatch(&inward, Token(3), Interest::HANG_UP);
    assert!(poll_ready(&two).is_empty());
    drop(out);
    assert_eq!(poll_ready(&two).as_slice(), [(Token(3), Interest::HANG_UP)]);
    two.rewatch(&inward, Token(3), Interest::READ);
    let all = Interest::READ | Interest::HANG_UP;
    assert_eq!(poll_ready(&two).as_slice(), [(Token(3), all)]);
    // Bytes written before the end can still be read.
    assert_eq!(inward.read(&mut [0; 20]), Ok(16));
    assert_eq!(inward.read(&mut [0; 20]), Ok(0));
    two.unwatch(&inward);
    assert!(poll_ready(&two).is_empty());
}

#[test]
fn a_writer_sees_that_its_reader_has_closed() {
    let net = Net::new();
    let (one, two) = two(&net);
    for interest in [Interest::HANG_UP, Interest::READ, Interest::WRITE] {
        let (out, inward) = stream(&one, &two, 2);
        one.watch(&out, Token(1), interest).unwrap();
        drop(inward);
        assert!(poll_ready(&one)[0].1.contains(Interest::HANG_UP));
        assert_eq!(out.write(&[b"x"]), Err(StreamError::Closed));
    }
    // The same holds for a stream that was never accepted.
    let out = one.connect(vmid(2)).unwrap();
    one.watch(&out, Token(1), Interest::HANG_UP).unwrap();
    assert!(poll_ready(&one).is_empty());
    drop(two);
    assert_eq!(poll_ready(&one).as_slice(), [(Token(1), Interest::HANG_UP)]);
    assert_eq!(one.connect(vmid(2)).err(), Some(ConnectError::NotListening));
}

#[test]
fn pipes_and_nodes_are_reused() {
    let net: Network<2, 3, 1> = Network::new();
    let one = net.join(vmid(1)).unwrap();
    for _ in 0..5 {
        let two = net.join(vmid(2)).unwrap();
        assert!(net.join(vmid(2)).is_err(), "the VMID is taken");
        assert!(net.join(vmid(3)).is_err(), "the network is full");
        let (out, inward) = stream(&one, &two, 2);
        two.watch(&inward, Token(1), Interest::READ).unwrap();
        let unaccepted = [one.connect(vmid(2)).unwrap(), one.connect(vmid(2)).unwrap()];
        assert_eq!(one.connect(vmid(2)).err(), Some(ConnectError::Busy));
        // A stream that outlives its node does no harm to the next node in its slot.
        drop(two);
        let heir = net.join(vmid(2)).unwrap();
        drop((unaccepted, out));
        let (out, inward2) = stream(&one, &heir, 2);
        heir.watch(&inward2, Token(2), Interest::READ).unwrap();
        drop(inward);
        drop(out);
        assert_eq!(poll_ready(&heir)[0].0, Token(2));
    }
}

#[test]
fn every_one_of_many_ready_streams_is_reported() {
    let net = Net::new();
    let (one, two) = two(&net);
    let streams: Vec<_> = (0..100).map(|_| stream(&one, &two, 2)).collect();
    for (number, (out, inward)) in (0..).zip(&streams) {
        two.watch(inward, Token(number), Interest::READ).unwrap();
        out.write(&[b"!"]).unwrap();
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..2 {
        let ready = poll_ready(&two);
        assert!(ready.is_full());
        seen.extend(ready.iter().map(|(token, _)| token.0));
    }
    assert_eq!(seen.len(), 100);
    // Each is reported once in each round, even after all have changed their order.
    for (_, inward) in &streams[..50] {
        inward.read(&mut [0; 4]).unwrap();
    }
    let mut left: Vec<_> = poll_ready(&two).iter().map(|(token, _)| token.0).collect();
    left.sort_unstable();
    assert_eq!(left, (50..100).collect::<Vec<_>>());
}

#[test]
fn the_clock_moves_only_when_advanced() {
    let one = STATIC.join(vmid(1)).unwrap();
    assert_eq!(one.now(), Time(0));
    STATIC.advance(Duration::from_micros(3));
    assert_eq!(one.now(), Time(3000));
    assert_eq!(STATIC.now(), Time(3000));
    // The wait does not wait until then.
    one.wait(&mut ReadyList::new(), Deadline::At(Time(4000)));
    let event = one.event().unwrap();
    one.wait_event(&event, Deadline::Never);
    event.set();
    assert!(event.is_set());
    event.clear();
    assert!(!event.is_set());
    assert_eq!(one.now(), Time(3000));
}
