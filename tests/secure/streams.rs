//! Delivery over secure streams, with any faults of the inner streams.

use libos_ipc::pal::secure::{Breach, RECORD, REKEY_AFTER, SecurePal};
use libos_ipc::pal::{Deadline, Interest, Pal, ReadyList, Stream, StreamError, Token};
use libos_ipc::testing::fault_injector::{FaultInjector, Faults};
use proptest::prelude::*;

use super::{Net, Plain, assert_breaches, key, member, poll_ready, random, vmid};

/// The faults that every stream must tolerate.
const HARMLESS: Faults = Faults {
    short_read: 500,
    short_write: 500,
    would_block: 300,
    interrupted: 200,
    ..Faults::NONE
};

fn byte(position: usize) -> u8 {
    (position % 251) as u8
}

fn faulty(net: &Net, number: u32, faults: Faults, seed: u64) -> FaultInjector<Plain<'_>> {
    FaultInjector::new(net.join(vmid(number)).unwrap(), faults, seed)
}

/// The received bytes, and the end at each side: `Closed`, or `None` for an orderly end.
struct Transfer {
    received: usize,
    out_end: Option<StreamError>,
    in_end: Option<StreamError>,
}

/// Sends `total` bytes (with the VMID), at most `at_once` in a write, and reads `at_most`, as a
/// node does: only when the stream is reported ready.
fn transfer<P: Pal>(from: &P, to: &P, total: usize, at_once: usize, at_most: usize) -> Transfer {
    let mut bytes: Vec<u8> = (0..total).map(byte).collect();
    let claim = 1_u32.to_le_bytes();
    let length = total.min(4);
    bytes[..length].copy_from_slice(&claim[..length]);
    let out = from.connect(vmid(2)).unwrap();
    let inward = to.accept().unwrap();
    from.watch(&out, Token(1), Interest::WRITE).unwrap();
    to.watch(&inward, Token(2), Interest::READ).unwrap();
    let (mut out, mut sent, mut received) = (Some(out), 0, Vec::new());
    let (mut out_end, mut buffer) = (None, vec![0; at_most]);
    for _ in 0..1_000_000 {
        let (writable, readable) = (poll_ready(from), poll_ready(to));
        if let Some(stream) = &out
            && !writable.is_empty()
        {
            assert!(writable[0].1.contains(Interest::WRITE), "{writable:?}");
            let part = &bytes[sent..total.min(sent + at_once)];
            let (a, b) = part.split_at(part.len() / 2);
            match stream.write(&[a, &[], b]) {
                Ok(count) => sent += count,
                Err(StreamError::Closed) => out_end = Some(StreamError::Closed),
                Err(_) => {}
            }
            if sent == total || out_end.is_some() {
                from.unwatch(stream);
                out = None;
            }
        }
        if !readable.is_empty() {
            assert!(readable[0].1.contains(Interest::READ), "{readable:?}");
            let end = match inward.read(&mut buffer) {
                Ok(0) => None,
                Ok(count) => {
                    received.extend_from_slice(&buffer[..count]);
                    continue;
                }
                Err(StreamError::Closed) => Some(StreamError::Closed),
                Err(_) => continue,
            };
            // The error is repeated.
            assert!(!matches!(inward.read(&mut buffer), Ok(1..)));
            to.unwatch(&inward);
            if let Some(stream) = &out {
                from.unwatch(stream);
            }
            assert_eq!(received, bytes[..received.len()]);
            return Transfer {
                received: received.len(),
                out_end,
                in_end: end,
            };
        }
    }
    panic!("standstill: {sent} bytes out and {} in", received.len());
}

#[test]
fn bytes_arrive_and_an_orderly_end_differs_from_a_cut() {
    let net = Net::new();
    let (one, two) = (member(&net, 1), member(&net, 2));
    let done = transfer(&&one, &&two, 30_000, 9_000, 1_000);
    assert_eq!(done.received, 30_000);
    assert_eq!((done.out_end, done.in_end), (None, None));
    for pal in [&one, &two] {
        assert_breaches(pal, &[]);
        assert_eq!(pal.statistics().handshakes, 1);
    }
    assert_eq!(two.statistics().ended, 1);
}

#[test]
fn an_empty_write_does_not_end_the_stream() {
    let net = Net::new();
    let (one, two) = (member(&net, 1), member(&net, 2));
    let out = (&&one).connect(vmid(2)).unwrap();
    assert_eq!(out.write(&[]), Err(StreamError::WouldBlock));
    let inward = (&&two).accept().unwrap();
    let mut buffer = [0; 20];
    assert_eq!(inward.read(&mut buffer), Err(StreamError::WouldBlock));
    assert_eq!(out.write(&[]), Ok(0));
    assert_eq!(out.write(&[&1_u32.to_le_bytes(), b"a"]), Ok(5));
    assert_eq!(out.write(&[b"", b""]), Ok(0));
    assert_eq!(out.write(&[b"b"]), Ok(1));
    assert_eq!(inward.read(&mut buffer), Ok(6));
    assert_eq!(&buffer[4..6], b"ab");
    assert_eq!(inward.read(&mut buffer), Err(StreamError::WouldBlock));
    assert_breaches(&two, &[]);
}

#[test]
fn no_plain_byte_appears_on_the_platform_below() {
    let net = Net::new();
    let (one, spy) = (member(&net, 1), net.join(vmid(2)).unwrap());
    let out = (&&one).connect(vmid(2)).unwrap();
    let _ = out.write(&[&1_u32.to_le_bytes(), b"a secret"]);
    let mut seen = [0; 200];
    // Before the other end has answered no data are sent.
    assert_eq!(spy.accept().unwrap().read(&mut seen), Ok(60));
    assert_eq!(&seen[..12], b"\0\0\0\0ipc1\x01\0\0\0");
}

#[test]
fn a_plain_stream_is_that_of_the_platform_below() {
    let net = Net::new();
    let plain = |number| SecurePal::plain(net.join(vmid(number)).unwrap(), vmid(number));
    let (one, two) = (plain(1), plain(2));
    let out = (&&one).connect(vmid(2)).unwrap();
    assert_eq!(out.write(&[b"as ", b"it is"]), Ok(8));
    let inward = (&&two).accept().unwrap();
    (&&two).watch(&inward, Token(2), Interest::READ).unwrap();
    (&&one).watch(&out, Token(1), Interest::WRITE).unwrap();
    assert_eq!(poll_ready(&&two).as_slice(), [(Token(2), Interest::READ)]);
    assert_eq!(poll_ready(&&one).as_slice(), [(Token(1), Interest::WRITE)]);
    let mut buffer = [0; 20];
    assert_eq!(inward.read(&mut buffer), Ok(8));
    assert_eq!(&buffer[..8], b"as it is");
    assert_eq!(two.statistics().handshakes, 0);
}

/// Checks that all bytes arrived. The closing record is tried only a few times: without room the
/// end looks like a death.
fn assert_harmless<P: Pal>(done: &Transfer, total: usize, to: &SecurePal<P>) {
    assert_eq!((done.received, done.out_end), (total, None));
    let is_cut = done.in_end.is_some();
    assert_breaches(
        to,
        if is_cut {
            &[(Breach::Truncated, 1)]
        } else {
            &[]
        },
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn bytes_arrive_in_pieces_of_any_length(seed: u64, total in 4_usize..9_000, at_once in 1_usize..6_000, at_most in 1_usize..6_000) {
        let net = Net::new();
        let (one, two) = (faulty(&net, 1, HARMLESS, seed), faulty(&net, 2, HARMLESS, !seed));
        let one = SecurePal::new(&one, vmid(1), key(), random);
        let two = SecurePal::new(&two, vmid(2), key(), random);
        let done = transfer(&&one, &&two, total, at_once, at_most);
        assert_harmless(&done, total, &two);
    }

    #[test]
    fn injected_faults_above_the_secure_stream_lose_nothing(seed: u64, total in 4_usize..9_000, at_once in 1_usize..6_000, at_most in 1_usize..6_000) {
        let net = Net::new();
        let (one, two) = (member(&net, 1), member(&net, 2));
        let (one, two) = (FaultInjector::new(&one, HARMLESS, seed), FaultInjector::new(&two, HARMLESS, !seed));
        let done = transfer(&&one, &&two, total, at_once, at_most);
        assert_harmless(&done, total, two.inner());
    }
}

#[test]
fn a_cut_at_any_byte_is_seen_by_both_ends() {
    // The handshake's first message, 4 and 96 bytes in two records, and the end.
    let (total, all) = (100, 60 + (22 + 18 * 2 + 96 - 4 - 18) as u64 + 18);
    let cut = |at| Faults {
        cut_after: Some(at),
        ..Faults::NONE
    };
    for at in 0..all + 60 {
        for at_reader in [false, true] {
            let net = Net::new();
            let faults = |here| if here { cut(at) } else { Faults::NONE };
            let one = faulty(&net, 1, faults(!at_reader), at);
            let two = faulty(&net, 2, faults(at_reader), at);
            let one = SecurePal::new(&one, vmid(1), key(), random);
            let two = SecurePal::new(&two, vmid(2), key(), random);
            let done = transfer(&&one, &&two, total, 50, 64);
            let why: Vec<_> = Breach::ALL
                .into_iter()
                .filter(|breach| two.statistics().breaches(*breach) > 0)
                .collect();
            if done.in_end.is_none() {
                assert_eq!(done.received, total, "cut at {at} and not noticed");
                assert!(why.is_empty());
            } else {
                assert!(
                    why == [Breach::Unfinished] && done.received == 0 || why == [Breach::Truncated],
                    "cut at {at}: {why:?}, {}",
                    done.received
                );
            }
        }
    }
}

#[test]
fn bytes_read_ahead_are_reported_until_they_are_read() {
    let net = Net::new();
    let (one, two) = (member(&net, 1), member(&net, 2));
    let (one, two) = (&&one, &&two);
    let out = one.connect(vmid(2)).unwrap();
    let inward = two.accept().unwrap();
    one.watch(&out, Token(1), Interest::HANG_UP | Interest::WRITE)
        .unwrap();
    two.watch(&inward, Token(2), Interest::READ).unwrap();
    let vmid = 1_u32.to_le_bytes();
    assert_eq!(poll_ready(one).as_slice(), [(Token(1), Interest::WRITE)]);
    assert_eq!(out.write(&[&vmid, b"abcd"]), Err(StreamError::WouldBlock));
    // The stream waits for the answer now, and is not reported ready before.
    assert!(poll_ready(one).is_empty());
    assert_eq!(poll_ready(two).as_slice(), [(Token(2), Interest::READ)]);
    assert_eq!(inward.read(&mut [0; 4]), Err(StreamError::WouldBlock));
    assert!(poll_ready(two).is_empty());
    assert_eq!(poll_ready(one).as_slice(), [(Token(1), Interest::WRITE)]);
    assert_eq!(out.write(&[&vmid, b"abcd"]), Ok(8));
    assert_eq!(out.write(&[b"efgh"]), Ok(4));
    let mut buffer = [0; 5];
    assert_eq!(inward.read(&mut buffer[..4]), Ok(4));
    assert_eq!(buffer[..4], vmid);
    // The inner stream is empty.
    for _ in 0..2 {
        assert_eq!(poll_ready(two).as_slice(), [(Token(2), Interest::READ)]);
    }
    let event = two.event().unwrap();
    assert!(two.wait_readable(&inward, &event, Deadline::Never));
    two.rewatch(&inward, Token(3), Interest::empty());
    assert!(poll_ready(two).is_empty());
    two.rewatch(&inward, Token(3), Interest::READ);
    assert_eq!(poll_ready(two).as_slice(), [(Token(3), Interest::READ)]);
    assert_eq!(inward.read(&mut buffer), Ok(5));
    assert_eq!(&buffer, b"abcde");
    assert_eq!(poll_ready(two).as_slice(), [(Token(3), Interest::READ)]);
    assert_eq!(inward.read(&mut buffer), Ok(3));
    assert!(poll_ready(two).is_empty());
    assert_eq!(inward.read(&mut buffer), Err(StreamError::WouldBlock));
    // The end, which was read together with the bytes before it, is reported as well.
    assert_eq!(out.write(&[b"!"]), Ok(1));
    drop(out);
    assert_eq!(inward.read(&mut buffer[..1]), Ok(1));
    let all = Interest::READ | Interest::HANG_UP;
    assert_eq!(poll_ready(two).as_slice(), [(Token(3), all)]);
    assert_eq!(inward.read(&mut buffer), Ok(0));
    assert_eq!(inward.read(&mut buffer), Ok(0));
}

#[test]
fn a_stream_outlives_its_keys() {
    let net = Net::new();
    let (one, two) = (member(&net, 1), member(&net, 2));
    let out = (&&one).connect(vmid(2)).unwrap();
    let inward = (&&two).accept().unwrap();
    let mut number = 1_u32;
    let mut seen = Vec::new();
    let mut buffer = [0; 64];
    while u64::from(number) <= REKEY_AFTER + 10 {
        if out.write(&[&number.to_le_bytes()]) == Ok(4) {
            number += 1;
        }
        while let Ok(count) = inward.read(&mut buffer) {
            seen.extend_from_slice(&buffer[..count]);
        }
    }
    assert!((1..number).flat_map(u32::to_le_bytes).eq(seen));
}

#[test]
fn a_batch_is_one_record_and_one_write() {
    let net = Net::new();
    let one = faulty(&net, 1, Faults::NONE, 0);
    let one = SecurePal::new(&one, vmid(1), key(), random);
    let two = member(&net, 2);
    let out = (&&one).connect(vmid(2)).unwrap();
    let inward = (&&two).accept().unwrap();
    let claim = 1_u32.to_le_bytes();
    let _ = out.write(&[&claim]);
    let _ = inward.read(&mut [0; 1]);
    assert_eq!(out.write(&[&claim]), Ok(4));
    let before = one.inner().log();
    assert_eq!(out.write(&[&[1; 20], &[2; RECORD]]), Ok(RECORD));
    let after = one.inner().log();
    assert_eq!(after.iter().count(), before.iter().count() + 1);
    assert_eq!(
        one.inner().bytes_moved(),
        (60 + 48 + 22 + RECORD + 18) as u64
    );
}

#[test]
fn without_random_numbers_the_handshake_fails() {
    let net = Net::new();
    let broken: libos_ipc::pal::secure::Random = |_| Err(libos_ipc::pal::OutOfResources);
    let one = SecurePal::new(net.join(vmid(1)).unwrap(), vmid(1), key(), broken);
    let out = (&&one).connect(vmid(1)).unwrap();
    assert_eq!(out.write(&[b"x"]), Err(StreamError::Closed));
    assert_breaches(&one, &[(Breach::NoRandom, 1)]);
    let mut ready = ReadyList::new();
    (&&one).wait(&mut ready, Deadline::Now);
    assert_eq!(ready.as_slice(), [(Token::LISTENER, Interest::READ)]);
}
