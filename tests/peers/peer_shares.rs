//! The share of one peer in a poll iteration of the leader.

use std::io::Write;
use std::net::Shutdown;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libos_ipc::host::{Host, HostNode};
use libos_ipc::pal::{Deadline, Pal};
use libos_ipc::{Capacities, Config, Driving, Identity, Node, Wait};

use crate::peer::{ALLOC_ID_RANGE, GET_ID_OWNER, Peer, RELEASE_ID_RANGE, connect, frame, pair};

/// The most frames of one peer in a poll iteration.
const SHARE: u64 = 32;
const PID_KILL: u8 = 7;
const ALL: u32 = 3;

/// Runs a test with a leader whose worker is the test: each call of `poll` is a poll iteration.
fn with_leader(test: impl FnOnce(&Path, &Node<'_, Host>)) {
    with_leader_of(128, test);
}

/// Like [`with_leader`], with room for so many peers.
fn with_leader_of(peers: usize, test: impl FnOnce(&Path, &Node<'_, Host>)) {
    let capacities = Capacities {
        peers,
        ..Capacities::DEFAULT
    };
    with_config(capacities, test);
}

fn with_config(capacities: Capacities, test: impl FnOnce(&Path, &Node<'_, Host>)) {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("f");
    let config = Config {
        driving: Driving::Caller,
        start_limit: Duration::from_millis(20),
        capacities,
        ..Config::DEFAULT
    };
    let bytes = Node::<Host>::memory(&Identity::LEADER, &config).total();
    let mut memory = vec![std::mem::MaybeUninit::uninit(); bytes];
    let host = Host::listen(&base, Identity::LEADER.vmid).unwrap();
    let node = Node::new(host, Identity::LEADER, config, &mut memory).unwrap();
    test(&base, &node);
}

/// Runs one poll iteration. Returns how many frames it handled.
fn iterate(leader: &Node<'_, Host>) -> u64 {
    let before = leader.statistics().frames_in;
    leader.poll(Deadline::Now);
    leader.statistics().frames_in - before
}

/// Sends so many requests that have no answer and no effect.
fn flood(peer: &mut Peer, frames: usize) {
    let release = frame(0, RELEASE_ID_RANGE, &pair(7, 7));
    peer.to.write_all(&release.repeat(frames)).unwrap();
}

#[test]
fn flooding_peers_have_32_frames_per_iteration_and_another_is_served_in_the_first() {
    with_leader(|base, leader| {
        let mut peers: Vec<Peer> = (2..6).map(|vmid| Peer::join(base, vmid)).collect();
        for _ in 0..8 {
            iterate(leader);
        }
        let innocent = peers.pop().unwrap();
        let mut innocent = innocent;
        for peer in &mut peers {
            flood(peer, 500);
        }
        let seq = innocent.send(GET_ID_OWNER, &1_u32.to_le_bytes());
        assert!((1..=3 * SHARE + 1).contains(&iterate(leader)));
        // The answer is there after one poll iteration, or two if the first one opened the stream.
        iterate(leader);
        assert_eq!(innocent.answer_to(seq), [0; 4]);
        let mut left = 1_500 - 6 * SHARE;
        while left > 0 {
            let handled = iterate(leader);
            assert!(handled <= 3 * SHARE, "{handled} frames");
            left = left.saturating_sub(handled);
        }
    });
}

#[test]
fn sixty_flooding_peers_have_four_frames_per_iteration_each() {
    with_leader(|base, leader| {
        let mut peers: Vec<Peer> = (2..63).map(|vmid| Peer::join(base, vmid)).collect();
        while leader.statistics().pools.peers.now < 61 {
            iterate(leader);
        }
        let mut innocent = peers.pop().unwrap();
        for peer in &mut peers {
            flood(peer, 100);
        }
        let seq = innocent.send(GET_ID_OWNER, &1_u32.to_le_bytes());
        let mut handled = 0;
        while handled < 6_001 {
            let now = iterate(leader);
            assert!(now <= 61 * 4, "{now} frames in an iteration");
            handled += now;
        }
        iterate(leader);
        assert_eq!(innocent.answer_to(seq), [0; 4]);
    });
}

#[test]
fn peer_that_is_served_alone_has_256_cheap_frames_per_iteration_until_another_comes() {
    with_leader(|base, leader| {
        let mut peer = Peer::join(base, 2);
        let mut innocent = Peer::join(base, 3);
        for _ in 0..8 {
            iterate(leader);
        }
        flood(&mut peer, 3_000);
        let most = (0..8).map(|_| iterate(leader)).max().unwrap();
        assert!((SHARE + 1..=8 * SHARE).contains(&most), "{most} frames");
        let seq = innocent.send(GET_ID_OWNER, &1_u32.to_le_bytes());
        iterate(leader);
        assert_eq!(innocent.answer_to(seq), [0; 4]);
        // Both are served in the iteration of the answer, and so the next one is short again.
        assert!(iterate(leader) <= SHARE + 1);
    });
}

#[test]
fn stream_that_claims_the_vmid_of_a_flooding_peer_takes_no_more_of_an_iteration() {
    with_leader(|base, leader| {
        let mut peer = Peer::join(base, 2);
        iterate(leader);
        iterate(leader);
        flood(&mut peer, 2_000);
        for _ in 0..20 {
            let claims: Vec<_> = (0..20).map(|_| connect(base, 2)).collect();
            let handled = iterate(leader);
            assert!(handled <= SHARE, "{handled} frames");
            drop(claims);
        }
        // The peer keeps its place.
        while iterate(leader) > 0 {}
        assert_eq!(leader.statistics().pools.peers.now, 1);
    });
}

#[test]
fn worker_sleeps_while_a_child_waits_for_the_place_of_another_peer() {
    with_leader_of(1, |base, leader| {
        let wait = Wait::at_most(Duration::from_secs(5));
        leader.join(wait).unwrap();
        let child = leader.start_child(wait).unwrap();
        let other = Peer::join(base, 100);
        while leader.statistics().pools.peers.now < 1 {
            iterate(leader);
        }
        // The child sends a frame behind its VMID, which nothing reads yet.
        let mut stream = connect(base, child.vmid.get());
        let request = frame(1, GET_ID_OWNER, &1_u32.to_le_bytes());
        stream.write_all(&request).unwrap();
        for _ in 0..8 {
            iterate(leader);
        }
        assert_ne!(leader.poll_once(), Some(Deadline::Now));
        drop(other);
        let before = leader.statistics().frames_in;
        while leader.statistics().frames_in == before {
            iterate(leader);
        }
    });
}

#[test]
fn peer_that_comes_back_takes_its_place_when_the_old_stream_was_read_to_its_end() {
    with_leader(|base, leader| {
        let mut peer = Peer::join(base, 2);
        iterate(leader);
        iterate(leader);
        flood(&mut peer, 1_000);
        drop(peer);
        let mut peer = Peer::join(base, 2);
        let seq = peer.send(GET_ID_OWNER, &1_u32.to_le_bytes());
        let before = leader.statistics().frames_in;
        for _ in 0..400 {
            iterate(leader);
        }
        assert_eq!(peer.answer_to(seq), [0; 4]);
        assert_eq!(leader.statistics().frames_in - before, 1_001);
    });
}

#[test]
fn signals_for_all_are_handled_one_per_iteration_and_sent_to_32_peers_per_iteration() {
    with_leader(|base, leader| {
        let mut peers: Vec<Peer> = (2..102).map(|vmid| Peer::join(base, vmid)).collect();
        while leader.statistics().pools.peers.now < 100 {
            iterate(leader);
        }
        // The sender, the pid, the ID, the signal and the target.
        let mut kill: Vec<u8> = Vec::new();
        for number in [0, 0, 0, 10, ALL] {
            kill.extend(number.to_le_bytes());
        }
        for peer in &mut peers[..3] {
            peer.to.write_all(&frame(0, PID_KILL, &kill)).unwrap();
        }
        let (mut handled, mut iterations) = (0, 0);
        let start = leader.statistics().frames_out;
        while handled < 3 || leader.statistics().frames_out - start < 100 {
            let before = leader.statistics().frames_out;
            let now = iterate(leader);
            assert!(now <= 1, "{now} signals for all in an iteration");
            let sent = leader.statistics().frames_out - before;
            // The senders are served besides.
            assert!(sent <= SHARE + 3, "{sent} frames sent");
            (handled, iterations) = (handled + now, iterations + 1);
            assert!(iterations < 1_000);
        }
    });
}

#[test]
fn scans_of_all_processes_by_many_peers_take_the_share_of_one_in_an_iteration() {
    const PEERS: u32 = 20;
    with_config(
        Capacities {
            peers: 128,
            processes: 8200,
            ..Capacities::DEFAULT
        },
        |base, leader| {
            let mut peers: Vec<Peer> = (2..2 + PEERS).map(|vmid| Peer::join(base, vmid)).collect();
            for peer in &mut peers {
                peer.to.write_all(&frame(0, HELLO, &hello())).unwrap();
            }
            for _ in 0..8 {
                iterate(leader);
            }
            for code_and_length in [(PROCESS_QUERY, 24), (PROCESS_CHANGE, 12), (PROCESS_END, 8)] {
                let (code, length) = code_and_length;
                for peer in &mut peers {
                    let scan = frame(7, code, &vec![0; length]);
                    peer.to.write_all(&scan.repeat(2)).unwrap();
                }
                let mut left = 2 * u64::from(PEERS);
                while left > 0 {
                    let handled = iterate(leader);
                    assert!(handled <= 1, "{handled} frames with code {code}");
                    left -= handled;
                }
            }
        },
    );
}

const HELLO: u8 = 64;
const PROCESS_CHANGE: u8 = 67;
const PROCESS_QUERY: u8 = 68;
const PROCESS_END: u8 = 101;

/// Returns a HELLO with the version, no features, no pid and no parent.
fn hello() -> Vec<u8> {
    [1_u32, 0, 0, 0]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

const FILE_LOCK_SET: u8 = 15;
const WRITE: u32 = 1;
const UNLOCK: u32 = 2;

/// Returns a request about a record lock of process 1, as a process in C lays it out.
fn lock(kind: u32, (first, last): (u64, u64)) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend([1, kind].iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend([first, last].iter().flat_map(|word| word.to_le_bytes()));
    // The pid, the open file, and whether it waits.
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(b"\0/data/file\0");
    bytes.resize(48 + 11, 0);
    bytes
}

#[test]
fn request_that_removes_many_locks_counts_as_many_frames() {
    const CHEAP: u32 = 20;
    for (locks, is_dear) in [(50_u32, false), (200, true)] {
        with_leader(|base, leader| {
            let mut peer = Peer::join(base, 2);
            for _ in 0..8 {
                iterate(leader);
            }
            for byte in (0..locks).map(u64::from) {
                let seq = peer.send(FILE_LOCK_SET, &lock(WRITE, (2 * byte, 2 * byte)));
                // The answer may open the stream.
                for _ in 0..2 {
                    iterate(leader);
                }
                assert_eq!(peer.answer_to(seq), [0; 4]);
            }
            assert_eq!(leader.statistics().pools.locks.now, locks as usize);
            let unlock = frame(0, FILE_LOCK_SET, &lock(UNLOCK, (0, u64::MAX)));
            let release = frame(0, RELEASE_ID_RANGE, &pair(7, 7));
            let all = [unlock, release.repeat(CHEAP as usize)].concat();
            peer.to.write_all(&all).unwrap();
            let all_frames = u64::from(CHEAP) + 1;
            let first = iterate(leader);
            assert_eq!(leader.statistics().pools.locks.now, 0);
            // The locks are released at once, and the frames behind that are handled later.
            assert_eq!(first, if is_dear { 1 } else { all_frames }, "{locks} locks");
            assert_eq!(first + iterate(leader), all_frames);
        });
    }
}

#[test]
fn leader_that_shuts_down_among_many_signals_for_all_closes_its_streams() {
    with_leader(|base, leader| {
        let mut peers: Vec<Peer> = (2..10).map(|vmid| Peer::join(base, vmid)).collect();
        for _ in 0..8 {
            iterate(leader);
        }
        let mut kill: Vec<u8> = Vec::new();
        for number in [0, 0, 0, 10, ALL] {
            kill.extend(number.to_le_bytes());
        }
        let kills = frame(0, PID_KILL, &kill).repeat(1_000);
        for peer in &mut peers {
            peer.to.write_all(&kills).unwrap();
        }
        iterate(leader);
        leader.shut_down(Duration::from_millis(10));
        let mut iterations = 0;
        while leader.poll(Deadline::Now) {
            iterations += 1;
            assert!(iterations < 10_000, "a stream stays open");
        }
    });
}

#[test]
fn leader_waits_without_polling_for_the_second_end_of_a_peer_that_has_closed_one_stream() {
    with_leader(|base, leader| {
        let mut peer = Peer::join(base, 2);
        let seq = peer.send(GET_ID_OWNER, &1_u32.to_le_bytes());
        iterate(leader);
        iterate(leader);
        assert_eq!(peer.answer_to(seq), [0; 4]);
        peer.from().shutdown(Shutdown::Both).unwrap();
        let end = Instant::now() + Duration::from_millis(50);
        let mut iterations = 0;
        while Instant::now() < end {
            leader.poll(Deadline::At(leader.pal().now() + Duration::from_millis(50)));
            iterations += 1;
        }
        // One every two milliseconds, and some for what happens.
        assert!(iterations < 60, "{iterations} poll iterations in 50 ms");
        peer.to.shutdown(Shutdown::Both).unwrap();
        while leader.statistics().pools.peers.now > 0 {
            iterate(leader);
        }
    });
}

#[test]
fn streams_of_newcomers_are_accepted_16_per_iteration() {
    with_leader(|base, leader| {
        let mut streams: Vec<_> = (2..102).map(|vmid| connect(base, vmid)).collect();
        let mut iterations = 0;
        while leader.statistics().accepted < 100 {
            let before = leader.statistics().accepted;
            iterate(leader);
            let accepted = leader.statistics().accepted - before;
            assert!(accepted <= 16, "{accepted} streams accepted");
            iterations += 1;
            assert!(iterations < 1_000);
        }
        streams.clear();
    });
}

#[test]
fn ends_of_many_peers_are_handled_32_per_iteration_and_others_are_served_meanwhile() {
    with_leader(|base, leader| {
        let mut peers: Vec<Peer> = (2..103).map(|vmid| Peer::join(base, vmid)).collect();
        while leader.statistics().pools.peers.now < 101 {
            iterate(leader);
        }
        let mut other = peers.pop().unwrap();
        peers.clear();
        flood(&mut other, 4);
        let mut frames = 0;
        for iterations in 0.. {
            let before = leader.statistics().disconnects;
            if before == 100 {
                break;
            }
            frames += iterate(leader);
            let ended = leader.statistics().disconnects - before;
            assert!(ended <= SHARE, "{ended} ends handled");
            assert!(iterations < 1_000);
            assert!(frames == 4 || leader.statistics().disconnects <= 2 * SHARE);
        }
        assert_eq!(leader.statistics().pools.peers.now, 1);
    });
}

#[test]
fn ranges_of_a_member_that_died_are_reclaimed_in_portions_before_its_end_is_handled() {
    with_leader(|base, leader| {
        let mut hoarder = Peer::join(base, 2);
        let mut other = Peer::join(base, 3);
        let ranges = || leader.statistics().pools.ranges.now;
        let before = ranges();
        hoarder
            .to
            .write_all(&frame(1, ALLOC_ID_RANGE, &[]).repeat(200))
            .unwrap();
        while ranges() < before + 200 {
            iterate(leader);
        }
        drop(hoarder);
        let mut portions = 0;
        while leader.statistics().disconnects == 0 {
            let now = ranges();
            flood(&mut other, 1);
            let handled = iterate(leader);
            let freed = now - ranges();
            assert!(freed <= 64, "{freed} ranges in an iteration");
            portions += usize::from(freed > 0);
            assert_eq!(handled, 1, "the other member was not served");
        }
        assert_eq!((ranges(), portions), (before, 4));
    });
}

#[test]
fn starts_whose_time_has_passed_are_abandoned_one_per_iteration() {
    with_leader(|base, leader| {
        let wait = Wait::at_most(Duration::from_secs(20));
        leader.join(wait).unwrap();
        let identity = leader.start_child(wait).unwrap();
        let running = || leader.statistics().pools.processes.now;
        let mut most = 0;
        // The time of the starts may be over before the thread of their parent has ended.
        let mut abandons_one = || {
            let before = running();
            iterate(leader);
            let fewer = before.saturating_sub(running());
            assert!(fewer <= 1, "{fewer} abandoned");
            most = most.max(running());
            most
        };
        std::thread::scope(|scope| {
            let parent = scope.spawn(move || {
                let parent = HostNode::start(base, identity, Config::DEFAULT).unwrap();
                parent.join(wait).unwrap();
                for _ in 0..40 {
                    parent.start_child(wait).unwrap();
                }
                parent.shut_down(Duration::ZERO);
            });
            while !parent.is_finished() {
                abandons_one();
            }
        });
        while leader.statistics().disconnects == 0 {
            abandons_one();
        }
        let all = abandons_one();
        assert!(all > 40, "{all} processes");
        while running() > all - 40 {
            abandons_one();
        }
    });
}

#[test]
fn ids_of_a_child_that_its_parent_abandons_are_reclaimed_in_portions() {
    with_leader(|base, leader| {
        let wait = Wait::at_most(Duration::from_secs(20));
        leader.join(wait).unwrap();
        let identity = leader.start_child(wait).unwrap();
        let ranges = || leader.statistics().pools.ranges.now;
        let (is_full, is_counted) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let parent = scope.spawn(|| {
                let parent = HostNode::start(base, identity, Config::DEFAULT).unwrap();
                parent.join(wait).unwrap();
                let child = parent.start_child(wait).unwrap();
                for _ in 0..200 {
                    parent.take_id_for(child.vmid, wait).unwrap();
                }
                is_full.store(true, Ordering::SeqCst);
                while !is_counted.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                parent.abandon_child(child.vmid).unwrap();
                parent.shut_down(Duration::from_secs(20));
            });
            while !is_full.load(Ordering::SeqCst) {
                iterate(leader);
            }
            let full = ranges();
            is_counted.store(true, Ordering::SeqCst);
            while !parent.is_finished() || leader.statistics().disconnects == 0 {
                let before = ranges();
                iterate(leader);
                let freed = before.saturating_sub(ranges());
                // A portion when the peer is served, one when it is ready, and the pid of the child.
                assert!(freed <= 129, "{freed} ranges in an iteration");
            }
            assert!(full >= ranges() + 200);
        });
    });
}
