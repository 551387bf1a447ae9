//! The example `family --serve`, seen by members that share no code with it.
#![cfg(feature = "std")]

#[path = "../common/example.rs"]
mod example;
mod locks;
mod peer;
mod server;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use peer::{
    ALLOC_ID_RANGE, CHANGE_ID_OWNER, GET_ID_OWNER, GET_NEW_VMID, LIMIT, Peer, RELEASE_ID_RANGE,
    assert_closed, connect, frame, numbers, pair,
};
use server::Server;

const EPERM: i32 = 1;
const ESRCH: i32 = 3;

fn refusal(errno: i32) -> Vec<u8> {
    (-errno).to_le_bytes().to_vec()
}

#[test]
fn vmids_rise_and_are_never_one_in_use() {
    let server = Server::start();
    let mut peers = [Peer::join(&server.base(), 2), Peer::join(&server.base(), 3)];
    // The leader knows the members after their first request.
    assert_eq!(peers.each_mut().map(|peer| peer.owner_of(1)), [0, 0]);
    let mut last = 3;
    for round in 0..20 {
        let answer = numbers(&peers[round % 2].ask(GET_NEW_VMID, &[]));
        let [vmid] = answer[..] else {
            panic!("{answer:?}")
        };
        assert!(vmid > last, "{vmid} after {last}");
        last = vmid;
    }
}

#[test]
fn ranges_are_handed_out_split_and_released() {
    let server = Server::start();
    let mut peer = Peer::join(&server.base(), 2);
    assert_eq!(peer.owner_of(1), 0);
    assert_eq!(numbers(&peer.ask(ALLOC_ID_RANGE, &[])), [1, 32]);
    assert_eq!(numbers(&peer.ask(ALLOC_ID_RANGE, &[])), [33, 64]);
    assert_eq!(
        [0, 1, 32, 33, 64, 65, u32::MAX].map(|id| peer.owner_of(id)),
        [0, 2, 2, 2, 2, 0, 0]
    );

    let mut other = Peer::join(&server.base(), 3);
    assert_eq!(peer.ask(CHANGE_ID_OWNER, &pair(10, 3)), []);
    assert_eq!([9, 10, 11].map(|id| other.owner_of(id)), [2, 3, 2]);
    // The two ends of a range.
    assert_eq!(peer.ask(CHANGE_ID_OWNER, &pair(33, 3)), []);
    assert_eq!(peer.ask(CHANGE_ID_OWNER, &pair(64, 3)), []);
    assert_eq!([33, 34, 63, 64].map(|id| peer.owner_of(id)), [3, 2, 2, 3]);

    // Each part is released by itself, and only by its owner. A release has no answer.
    peer.send(RELEASE_ID_RANGE, &pair(1, 9));
    peer.send(RELEASE_ID_RANGE, &pair(33, 64));
    peer.send(RELEASE_ID_RANGE, &pair(10, 10));
    peer.send(RELEASE_ID_RANGE, &pair(34, 62));
    assert_eq!(
        [1, 9, 10, 11, 33, 34, 62].map(|id| peer.owner_of(id)),
        [0, 0, 3, 2, 3, 2, 2]
    );
    other.send(RELEASE_ID_RANGE, &pair(10, 10));
    assert_eq!(other.owner_of(10), 0);
    // A released range is not assigned again soon.
    assert_eq!(numbers(&other.ask(ALLOC_ID_RANGE, &[])), [65, 96]);
}

#[test]
fn a_request_that_fails_is_answered_with_an_error() {
    let server = Server::start();
    let mut peer = Peer::join(&server.base(), 2);
    let mut other = Peer::join(&server.base(), 3);
    assert_eq!(numbers(&other.ask(ALLOC_ID_RANGE, &[])), [1, 32]);
    assert_eq!(peer.ask(CHANGE_ID_OWNER, &pair(5, 2)), refusal(EPERM));
    assert_eq!(peer.ask(CHANGE_ID_OWNER, &pair(1000, 2)), refusal(ESRCH));
    assert_eq!(peer.ask(CHANGE_ID_OWNER, &pair(0, 2)).len(), 4);
    assert_eq!(other.ask(CHANGE_ID_OWNER, &pair(5, 0)).len(), 4);
    assert_eq!(peer.owner_of(5), 3);
}

#[test]
fn many_requests_in_one_write_are_answered_in_order() {
    let server = Server::start();
    let mut peer = Peer::join(&server.base(), 2);
    let mut bytes = Vec::new();
    for seq in 1..=1000_u32 {
        let request = match seq % 3 {
            0 => frame(seq.into(), GET_NEW_VMID, &[]),
            1 => frame(seq.into(), ALLOC_ID_RANGE, &[]),
            _ => frame(seq.into(), GET_ID_OWNER, &seq.to_le_bytes()),
        };
        bytes.extend(request);
    }
    peer.to.write_all(&bytes).unwrap();
    let (mut start, mut vmid) = (1, 2);
    for seq in 1..=1000 {
        let answer = numbers(&peer.answer_to(seq));
        match seq % 3 {
            0 => {
                assert!(answer[0] > vmid);
                vmid = answer[0];
            }
            1 => {
                assert_eq!(answer, [start, start + 31]);
                start += 32;
            }
            _ => assert_eq!(answer, [2]),
        }
    }
}

#[test]
fn an_answer_has_all_64_bits_of_the_sequence_number() {
    let server = Server::start();
    let mut peer = Peer::join(&server.base(), 2);
    for seq in [u64::MAX, 1 << 63, 1 << 32, 1] {
        peer.to
            .write_all(&frame(seq, GET_ID_OWNER, &1_u32.to_le_bytes()))
            .unwrap();
        assert_eq!(numbers(&peer.answer_to(seq)), [0]);
    }
}

#[test]
fn a_frame_may_come_byte_by_byte() {
    let server = Server::start();
    let base = server.base();
    let mut slow = Peer::join(&base, 2);
    let mut quick = Peer::join(&base, 3);
    for seq in 1..=3 {
        for byte in frame(seq, GET_ID_OWNER, &7_u32.to_le_bytes()) {
            slow.to.write_all(&[byte]).unwrap();
            // No other member waits for the rest of the frame. (And its first byte has arrived by
            // now.)
            assert_eq!(quick.owner_of(7), 0);
        }
        assert_eq!(numbers(&slow.answer_to(seq)), [0]);
    }
    // The VMID at the beginning may be split as well.
    let mut stream = UnixStream::connect(server.socket()).unwrap();
    let listener = UnixListener::bind(base.with_extension("4")).unwrap();
    for byte in 4_u32
        .to_le_bytes()
        .into_iter()
        .chain(frame(1, GET_NEW_VMID, &[]))
    {
        stream.write_all(&[byte]).unwrap();
        assert_eq!(quick.owner_of(7), 0);
    }
    let (mut from, _) = listener.accept().unwrap();
    from.set_read_timeout(Some(LIMIT)).unwrap();
    let mut answer = [0; 4 + 17 + 4];
    from.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..4], 1_u32.to_le_bytes());
}

#[test]
fn a_bad_frame_costs_only_its_own_connection() {
    let server = Server::start();
    let base = server.base();
    let mut good = Peer::join(&base, 3);
    let sized = |size: u64| {
        let mut bytes = frame(1, GET_NEW_VMID, &[]);
        bytes[..8].copy_from_slice(&size.to_le_bytes());
        bytes
    };
    for (what, bytes) in [
        ("size 0", sized(0)),
        ("size 16", sized(16)),
        ("a huge size", sized(u64::MAX)),
        ("a size beyond the limit", sized(1 << 20)),
        ("the sign bit", sized(1 << 63)),
        ("no ID", frame(1, GET_ID_OWNER, &[])),
        ("half an ID", frame(1, GET_ID_OWNER, &[1, 2])),
        ("half a range", frame(1, RELEASE_ID_RANGE, &[1, 0, 0, 0])),
        ("no owner", frame(1, CHANGE_ID_OWNER, &[1, 0, 0, 0])),
        ("a short kill", frame(1, 7, &[0; 19])),
        ("a short lock", frame(1, 15, &[0; 47])),
        ("a lock with no end of its path", frame(1, 15, &[1; 60])),
        ("sync data that is not there", frame(1, 9, &[255; 24])),
    ] {
        let mut bad = Peer::join(&base, 2);
        assert_eq!(bad.owner_of(1), 0, "{what}");
        assert_eq!(numbers(&bad.ask(ALLOC_ID_RANGE, &[])).len(), 2);
        bad.to.write_all(&bytes).unwrap();
        assert_closed(&mut bad.to, what);
        assert_closed(bad.from(), what);
        assert_eq!(good.owner_of(1), 0, "{what}");
    }
    // The member may connect again.
    let mut back = Peer::join(&base, 2);
    assert_eq!(back.owner_of(1), 0);
}

#[test]
fn vmid_zero_and_the_leaders_vmid_are_refused() {
    let server = Server::start();
    for vmid in [0, 1] {
        assert_closed(
            &mut connect(&server.base(), vmid),
            "a number that no member may have",
        );
    }
    let mut good = Peer::join(&server.base(), u32::MAX);
    assert_eq!(good.owner_of(1), 0);
}

#[test]
fn unknown_codes_are_skipped() {
    let server = Server::start();
    let mut peer = Peer::join(&server.base(), 2);
    for code in 18..=255 {
        let length = usize::from(code) % 40;
        peer.send(code, &vec![code; length]);
    }
    // An answer to nothing is dropped.
    peer.to.write_all(&frame(95, 0, &[1, 2, 3, 4])).unwrap();
    assert_eq!(peer.owner_of(1), 0);
}

#[test]
fn a_number_in_use_is_refused_to_others() {
    let server = Server::start();
    let base = server.base();
    let mut first = Peer::join(&base, 2);
    assert_eq!(numbers(&first.ask(ALLOC_ID_RANGE, &[])), [1, 32]);
    for _ in 0..10 {
        let mut second = connect(&base, 2);
        // The connection may be refused before it has sent this.
        let _ = second.write_all(&frame(1, RELEASE_ID_RANGE, &pair(1, 32)));
        assert_closed(&mut second, "a number in use");
        assert_eq!(first.owner_of(1), 2);
    }
    drop(first);
    // Then the VMID is free, at once for a process that sees the end of the first connection.
    let mut third = Peer::join(&base, 2);
    assert_eq!(third.owner_of(1), 0);
}

#[test]
fn a_peer_that_never_reads_does_not_block_other_peers() {
    const REQUESTS: u64 = 100_000;
    let server = Server::start();
    let base = server.base();
    let mut flood = Peer::join(&base, 2);
    let mut other = Peer::join(&base, 3);
    assert_eq!(flood.owner_of(1), 0);
    let mut bytes = Vec::new();
    for seq in 2..REQUESTS + 2 {
        bytes.extend(frame(seq, GET_ID_OWNER, &1_u32.to_le_bytes()));
    }
    // The member writes as much as possible, until nothing was accepted for a while.
    flood.to.set_nonblocking(true).unwrap();
    let mut sent = 0;
    let mut last = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut asked = 0;
    while last.elapsed() < Duration::from_millis(300) || asked < 1000 {
        match flood.to.write(&bytes[sent..]) {
            Ok(0) => {}
            Ok(count) => {
                sent += count;
                last = Instant::now();
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
        let start = Instant::now();
        assert_eq!(other.owner_of(1), 0);
        slowest = slowest.max(start.elapsed());
        asked += 1;
    }
    // A leader that waits for the other peer waits until it gives it up, after 5 s.
    assert!(
        slowest < Duration::from_secs(3),
        "a request took {slowest:?}"
    );
    assert!(
        sent < bytes.len(),
        "the leader took in {sent} bytes and none of the answers was read"
    );
    // If it reads after all, it gets every answer.
    flood.to.set_nonblocking(false).unwrap();
    let mut to = flood.to.try_clone().unwrap();
    let writer = thread::spawn(move || to.write_all(&bytes[sent..]).unwrap());
    for seq in 2..REQUESTS + 2 {
        assert_eq!(numbers(&flood.answer_to(seq)), [0]);
    }
    writer.join().unwrap();
    assert_eq!(flood.ask(GET_ID_OWNER, &pair(1, 0)[..4]).len(), 4);
}

/// Waits until these IDs have no owner, as the leader answers that member.
fn await_free<const COUNT: usize>(peer: &mut Peer, ids: [u32; COUNT]) {
    let until = Instant::now() + LIMIT;
    while ids.map(|id| peer.owner_of(id)) != [0; COUNT] {
        assert!(Instant::now() < until, "not within {LIMIT:?}");
    }
}

#[test]
fn ranges_of_a_member_are_freed_when_it_leaves() {
    let server = Server::start();
    let mut peer = Peer::join(&server.base(), 2);
    let mut other = Peer::join(&server.base(), 3);
    for _ in 0..100 {
        peer.ask(ALLOC_ID_RANGE, &[]);
    }
    assert_eq!(numbers(&other.ask(ALLOC_ID_RANGE, &[])), [3201, 3232]);
    assert_eq!(other.ask(CHANGE_ID_OWNER, &pair(3210, 2)), []);
    assert_eq!(peer.ask(CHANGE_ID_OWNER, &pair(5, 3)), []);
    assert_eq!(
        [1, 5, 3200, 3210].map(|id| other.owner_of(id)),
        [2, 3, 2, 2]
    );
    drop(peer);
    await_free(&mut other, [1, 3200, 3210]);
    // The others keep their IDs, and no ID can be transferred to the member that left.
    assert_eq!([5, 3201, 3232].map(|id| other.owner_of(id)), [3, 3, 3]);
    assert_eq!(other.ask(CHANGE_ID_OWNER, &pair(5, 2)), refusal(ESRCH));
}

#[test]
fn an_id_given_to_an_absent_process_is_freed_when_the_giver_leaves() {
    let server = Server::start();
    let mut giver = Peer::join(&server.base(), 2);
    let mut other = Peer::join(&server.base(), 3);
    assert_eq!(numbers(&giver.ask(ALLOC_ID_RANGE, &[])), [1, 32]);
    assert_eq!(numbers(&other.ask(ALLOC_ID_RANGE, &[])), [33, 64]);
    // The IDs go to a member that is connected, one that will connect, and one that never does.
    for (id, to) in [(1, 3), (2, 4), (3, 5)] {
        assert_eq!(giver.ask(CHANGE_ID_OWNER, &pair(id, to)), []);
    }
    assert_eq!(other.ask(CHANGE_ID_OWNER, &pair(33, 5)), []);
    let mut child = Peer::join(&server.base(), 4);
    assert_eq!(child.owner_of(3), 5);
    drop(giver);
    await_free(&mut other, [3, 4]);
    // An ID that another process gave to the same process stays its own.
    assert_eq!([1, 2, 33].map(|id| other.owner_of(id)), [3, 4, 5]);
}

#[test]
fn a_signal_ends_the_server_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::start();
        let base = server.base();
        let mut peer = Peer::join(&base, 2);
        assert_eq!(peer.owner_of(1), 0);
        // One peer sends nothing, one reads nothing, one ends in mid-frame.
        let _silent = UnixStream::connect(server.socket()).unwrap();
        let mut unresponsive = Peer::join(&base, 3);
        unresponsive
            .to
            .set_write_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        for seq in 1..200_000 {
            if unresponsive
                .to
                .write_all(&frame(seq, GET_ID_OWNER, &[1, 0, 0, 0]))
                .is_err()
            {
                break;
            }
        }
        peer.to.write_all(&17_u64.to_le_bytes()).unwrap();
        assert_eq!(Peer::join(&base, 4).owner_of(1), 0);
        let (status, rest) = server.end_by(signal);
        assert!(status.success(), "{status}: {rest}");
        assert!(rest.contains("at most 3 members at once"), "{rest}");
        assert_closed(&mut peer.to, "the end");
    }
}

#[test]
fn quiet_prints_nothing_and_a_relative_base_works() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start_at(directory, Path::new("f"), &["--quiet"]);
    server.wait_until_open();
    let mut peer = Peer::join(&server.base(), 2);
    assert_eq!(numbers(&peer.ask(ALLOC_ID_RANGE, &[])), [1, 32]);
    drop(peer);
    let (status, rest) = server.end_by(Signal::TERM);
    assert!(status.success());
    assert_eq!(rest, "");
}

#[test]
fn a_socket_of_a_killed_leader_is_replaced() {
    let server = Server::start();
    let base = server.base();
    let directory = tempfile::tempdir().unwrap();
    let left = directory.path().join("f.1");
    drop(UnixListener::bind(&left).unwrap());
    assert!(left.exists());
    // The socket of a live process is not replaced.
    let twice = Server::start_at(tempfile::tempdir().unwrap(), &base, &["--quiet"]);
    let (status, _) = twice.end_without_signal();
    assert_eq!(status.code(), Some(1));
    assert_eq!(Peer::join(&base, 2).owner_of(1), 0);
    let at = directory.path().join("f");
    let mut server = Server::start_at(directory, &at, &[]);
    assert!(server.line().contains("listening"));
    assert_eq!(Peer::join(&at, 2).owner_of(1), 0);
}
