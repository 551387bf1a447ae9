//! The fault injector, over the platform in memory and, with a thread, over the host's.
#![allow(missing_docs, clippy::cast_possible_truncation)]

use libos_ipc::Vmid;
use libos_ipc::pal::{
    ConnectError, Deadline, Interest, Pal, ReadyList, Stream, StreamError, Token,
};
use libos_ipc::testing::fault_injector::{FaultInjector, Faults, LOG_LENGTH, Operation, Outcome};
use libos_ipc::testing::loopback::{Loopback, Network};

type Net = Network<2, 4, 64>;
type Node<'n> = Loopback<'n, 2, 4, 64>;

const BYTES: usize = 3000;

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

fn byte(position: usize) -> u8 {
    (position % 251) as u8
}

fn pair(
    net: &Net,
    faults: Faults,
    seed: u64,
) -> (FaultInjector<Node<'_>>, FaultInjector<Node<'_>>) {
    let one = net.join(vmid(1)).unwrap();
    let two = net.join(vmid(2)).unwrap();
    (
        FaultInjector::new(one, faults, seed),
        FaultInjector::new(two, faults, !seed),
    )
}

fn connect<P: Pal>(pal: &P) -> P::Stream {
    loop {
        match pal.connect(vmid(2)) {
            Ok(stream) => return stream,
            Err(error) => assert_eq!(error, ConnectError::Busy),
        }
    }
}

/// Sends [`BYTES`] bytes as a worker does: only when the stream is reported writable, in three
/// parts at a time. Returns the received bytes, and the error at each end: `None` for an orderly
/// end.
fn transfer<P: Pal>(from: &P, to: &P) -> (Vec<u8>, Option<StreamError>, Option<StreamError>) {
    let bytes: Vec<u8> = (0..BYTES).map(byte).collect();
    let out = connect(from);
    let inward = to.accept().unwrap();
    from.watch(&out, Token(1), Interest::WRITE).unwrap();
    to.watch(&inward, Token(2), Interest::READ).unwrap();
    let mut out = Some(out);
    let (mut sent, mut received) = (0, Vec::new());
    let (mut out_end, mut in_end) = (None, None);
    let mut inward_open = true;
    for _ in 0..1_000_000 {
        let (mut writable, mut readable) = (ReadyList::new(), ReadyList::new());
        from.wait(&mut writable, Deadline::Now);
        to.wait(&mut readable, Deadline::Now);
        if let Some(stream) = &out
            && !writable.is_empty()
        {
            let part = &bytes[sent..BYTES.min(sent + 90)];
            let (a, b) = part.split_at(part.len() / 2);
            match stream.write(&[a, &[], b]) {
                Ok(count) => sent += count,
                Err(StreamError::Closed) => out_end = Some(StreamError::Closed),
                Err(_) => {}
            }
            if sent == BYTES || out_end.is_some() {
                from.unwatch(stream);
                out = None;
            }
        }
        if !readable.is_empty() {
            let mut buffer = [0; 50];
            match inward.read(&mut buffer) {
                Ok(0) => inward_open = false,
                Ok(count) => received.extend_from_slice(&buffer[..count]),
                Err(StreamError::Closed) => {
                    in_end = Some(StreamError::Closed);
                    inward_open = false;
                }
                Err(_) => {}
            }
        }
        if !inward_open {
            to.unwatch(&inward);
            drop(inward);
            // The other end must be notified.
            if let Some(stream) = &out {
                let mut ready = ReadyList::new();
                from.wait(&mut ready, Deadline::Now);
                let is_ready = ready
                    .iter()
                    .any(|(_, what)| what.contains(Interest::HANG_UP));
                assert!(
                    is_ready || sent == BYTES,
                    "the writer was not reported ready"
                );
                from.unwatch(stream);
            }
            return (received, out_end, in_end);
        }
    }
    panic!(
        "it came to a standstill after {sent} bytes out and {} in",
        received.len()
    );
}

#[test]
fn without_faults_all_bytes_arrive() {
    let net = Net::new();
    let (one, two) = pair(&net, Faults::NONE, 1);
    let (received, out_end, in_end) = transfer(&&one, &&two);
    assert_eq!((received.len(), out_end, in_end), (BYTES, None, None));
    assert_eq!(one.bytes_moved(), BYTES as u64);
}

#[test]
fn bytes_arrive_intact_and_in_order() {
    for seed in 0..50 {
        let net = Net::new();
        let (one, two) = pair(&net, Faults::HARMLESS, seed);
        let (received, out_end, in_end) = transfer(&&one, &&two);
        assert_eq!((out_end, in_end), (None, None));
        assert!(
            received.iter().copied().eq((0..BYTES).map(byte)),
            "seed {seed}"
        );
    }
}

#[test]
fn each_fault_occurs_when_its_chance_is_certain() {
    let net = Net::new();
    let always = |faults| pair(&net, faults, 5).0;
    let busy = always(Faults {
        connect_busy: 1024,
        ..Faults::NONE
    });
    assert_eq!((&&busy).connect(vmid(1)).err(), Some(ConnectError::Busy));
    drop(busy);
    let cases = [
        (
            Faults {
                would_block: 1024,
                ..Faults::NONE
            },
            StreamError::WouldBlock,
        ),
        (
            Faults {
                interrupted: 1024,
                ..Faults::NONE
            },
            StreamError::Interrupted,
        ),
        (
            Faults {
                disconnect: 1024,
                ..Faults::NONE
            },
            StreamError::Closed,
        ),
    ];
    for (faults, error) in cases {
        let (one, two) = pair(&net, faults, 5);
        let out = connect(&&one);
        let inward = (&&two).accept().unwrap();
        assert_eq!(out.write(&[b"x"]), Err(error));
        assert_eq!(inward.read(&mut [0; 4]), Err(error));
    }
    let short = Faults {
        short_write: 1024,
        short_read: 1024,
        ..Faults::NONE
    };
    let (one, two) = pair(&net, short, 5);
    let out = connect(&&one);
    let inward = (&&two).accept().unwrap();
    let written = out.write(&[&[1; 30], &[2; 30]]).unwrap();
    assert!((1..60).contains(&written));
    assert!((1..60).contains(&inward.read(&mut [0; 60]).unwrap()));
}

#[test]
fn bytes_before_a_disconnect_arrive_and_both_ends_see_it() {
    let faults = Faults {
        disconnect: 40,
        ..Faults::HARMLESS
    };
    let (mut cut_out, mut cut_in) = (0, 0);
    for seed in 0..200 {
        let net = Net::new();
        let (one, two) = pair(&net, faults, seed);
        let (received, out_end, in_end) = transfer(&&one, &&two);
        assert!(
            received.iter().copied().eq((0..received.len()).map(byte)),
            "seed {seed}"
        );
        cut_out += u32::from(out_end.is_some());
        cut_in += u32::from(in_end.is_some());
    }
    assert!(
        cut_out > 10 && cut_in > 10,
        "{cut_out} and {cut_in} were cut"
    );
}

#[test]
fn a_cut_comes_after_exactly_that_many_bytes() {
    for at in 0..=BYTES as u64 + 1 {
        let cut = Faults {
            cut_after: Some(at),
            ..Faults::NONE
        };
        let whole = at > BYTES as u64;

        let net = Net::new();
        let one = FaultInjector::new(net.join(vmid(1)).unwrap(), cut, at);
        let two = FaultInjector::new(net.join(vmid(2)).unwrap(), Faults::NONE, at);
        let (received, ..) = transfer(&&one, &&two);
        assert_eq!(
            received.len() as u64,
            at.min(BYTES as u64),
            "cut at the writer"
        );
        assert_eq!(one.bytes_moved(), at.min(BYTES as u64));

        let net = Net::new();
        let one = FaultInjector::new(net.join(vmid(1)).unwrap(), Faults::NONE, at);
        let two = FaultInjector::new(net.join(vmid(2)).unwrap(), cut, at);
        let (received, _, in_end) = transfer(&&one, &&two);
        assert_eq!(
            received.len() as u64,
            at.min(BYTES as u64),
            "cut at the reader"
        );
        assert_eq!(in_end.is_none(), whole, "at {at}");
    }
}

#[test]
fn a_broken_stream_is_reported_for_as_long_as_it_is_watched() {
    let net = Net::new();
    let cut = Faults {
        cut_after: Some(3),
        ..Faults::NONE
    };
    let (one, two) = pair(&net, cut, 0);
    let (one, two) = (&&one, &&two);
    let (out, inward) = (connect(one), two.accept().unwrap());
    one.watch(&out, Token(1), Interest::HANG_UP).unwrap();
    two.watch(&inward, Token(2), Interest::READ).unwrap();
    assert_eq!(out.write(&[b"abcd"]), Ok(3));
    let wait_once = |pal: &dyn Fn(&mut ReadyList)| {
        let mut ready = ReadyList::new();
        pal(&mut ready);
        ready
    };
    let at_one = || wait_once(&|ready| one.wait(ready, Deadline::Never));
    for _ in 0..2 {
        assert_eq!(at_one().as_slice(), [(Token(1), Interest::HANG_UP)]);
    }
    // The peer sees it as closed.
    let at_two = wait_once(&|ready| two.wait(ready, Deadline::Never));
    assert_eq!(
        at_two.as_slice(),
        [(Token(2), Interest::READ | Interest::HANG_UP)]
    );
    one.rewatch(&out, Token(3), Interest::empty());
    assert!(at_one().is_empty());
    one.rewatch(&out, Token(3), Interest::WRITE);
    let all = Interest::WRITE | Interest::HANG_UP;
    assert_eq!(at_one().as_slice(), [(Token(3), all)]);
    assert_eq!(out.write(&[b"d"]), Err(StreamError::Closed));
    one.unwatch(&out);
    assert!(at_one().is_empty());
    // Watching it again is allowed, and dropping it ends the watch.
    one.watch(&out, Token(4), Interest::READ).unwrap();
    assert_eq!(at_one().len(), 1);
    drop(out);
    assert!(at_one().is_empty());
}

#[test]
fn the_same_seed_injects_the_same_faults() {
    let run = |seed| {
        let net = Net::new();
        let faults = Faults {
            disconnect: 5,
            ..Faults::HARMLESS
        };
        let (one, two) = pair(&net, faults, seed);
        let end = transfer(&&one, &&two);
        (end, one.log(), two.log())
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).1, run(4).1);
}

#[test]
fn the_log_has_the_last_operations() {
    let net = Net::new();
    let (one, two) = pair(&net, Faults::NONE, 0);
    let out = (&&one).connect(vmid(2)).unwrap();
    assert_eq!(
        (&&one).connect(vmid(9)).err(),
        Some(ConnectError::NotListening)
    );
    let inward = (&&two).accept().unwrap();
    out.write(&[b"abc", b"de"]).unwrap();
    inward.read(&mut [0; 9]).unwrap();
    inward.read(&mut [0; 9]).unwrap_err();
    let text = format!("{}{}", one.log(), two.log());
    let expected = "connect to 2: done\nconnect to 9: NotListening\nstream 0: write 5: 5\n\
                    accept: done\nstream 0: read 9: 5\nstream 0: read 9: WouldBlock\n";
    assert_eq!(text, expected);
    for _ in 0..LOG_LENGTH {
        inward.read(&mut [0; 1]).unwrap_err();
    }
    let recorded = two.log();
    assert_eq!(recorded.iter().count(), LOG_LENGTH);
    for record in &recorded {
        assert_eq!(record.operation, Operation::Read(0));
        assert_eq!(record.outcome, Outcome::Failed(StreamError::WouldBlock));
    }
}

/// Over real sockets, with a thread that reads by itself.
#[cfg(feature = "std")]
#[test]
fn streams_of_the_host_are_wrapped_too() {
    use libos_ipc::host::Host;
    use libos_ipc::pal::Event;

    let dir = tempfile::TempDir::new().unwrap();
    let base = dir.path().join("family");
    let host = |number| Host::listen(&base, vmid(number)).unwrap();
    let one = FaultInjector::new(host(1), Faults::HARMLESS, 1);
    let cut = Faults {
        cut_after: Some(BYTES as u64),
        ..Faults::HARMLESS
    };
    let two = FaultInjector::new(host(2), cut, 2);
    let (one, two) = (&&one, &&two);
    let (out, inward) = (connect(one), two.accept().unwrap());
    two.watch(&inward, Token(2), Interest::empty()).unwrap();
    let event = two.event().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let bytes: Vec<u8> = (0..BYTES).map(byte).collect();
            let mut left = &bytes[..];
            while !left.is_empty() {
                if let Ok(count) = out.write(&[left]) {
                    left = &left[count..];
                }
            }
        });
        let mut received = Vec::new();
        while received.len() < BYTES {
            assert!(two.wait_readable(&inward, &event, Deadline::Never));
            let mut buffer = [0; 100];
            match inward.read(&mut buffer) {
                Ok(count) => received.extend_from_slice(&buffer[..count]),
                Err(error) => assert_ne!(error, StreamError::Closed),
            }
        }
        assert!(received.iter().copied().eq((0..BYTES).map(byte)));
    });
    // The stream is cut at the last byte: reported once it is watched, and the writer sees it.
    assert!(two.wait_readable(&inward, &event, Deadline::Never));
    event.set();
    assert!(!two.wait_readable(&inward, &event, Deadline::Never));
    two.rewatch(&inward, Token(2), Interest::READ);
    let mut ready = ReadyList::new();
    two.wait(&mut ready, Deadline::Never);
    let all = Interest::READ | Interest::HANG_UP;
    assert_eq!(ready.as_slice(), [(Token(2), all)]);
    one.watch(&out, Token(1), Interest::HANG_UP).unwrap();
    ready.clear();
    one.wait(&mut ready, Deadline::Now);
    assert_eq!(ready.as_slice(), [(Token(1), Interest::HANG_UP)]);
}

#[test]
fn opener_of_an_accepted_stream_is_known_as_to_the_platform_inside() {
    let net = Net::new();
    let (one, two) = pair(&net, Faults::NONE, 1);
    let _out = connect(&&one);
    assert!((&two).accept().unwrap().opener().is_some());
}
