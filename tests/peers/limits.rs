//! Members whose limits differ.

use std::ffi::CString;
use std::path::Path;
use std::time::{Duration, Instant};

use libos_ipc::host::{Host, HostNode};
use libos_ipc::wire::{FileLock, LockFamily, LockKind, MetaCode, SyncState};
use libos_ipc::{
    ByteCount, Capacities, Config, Embedder, Errno, Error, Identity, Metadata, MetadataReply, Node,
    Pid, Resource, Vmid, Wait,
};
use tempfile::TempDir;

use crate::peer::Peer;

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(10));

/// A library OS whose executable has that path.
struct Os(CString);

impl Embedder<Host> for Os {
    fn metadata(&self, node: &Node<'_, Host>, _: Pid, _: MetaCode, reply: MetadataReply) {
        let _ = reply.send(node, Ok(Metadata::Path(&self.0)));
    }
}

fn config(change: impl FnOnce(&mut Capacities)) -> Config {
    let mut config = Config::DEFAULT;
    change(&mut config.capacities);
    config
}

struct Family {
    directory: TempDir,
    leader: HostNode,
}

impl Family {
    fn new(config: Config) -> Family {
        let directory = tempfile::tempdir().unwrap();
        let leader =
            HostNode::start(&directory.path().join("f"), Identity::LEADER, config).unwrap();
        leader.join(WAIT).unwrap();
        Family { directory, leader }
    }

    fn base(&self) -> std::path::PathBuf {
        self.directory.path().join("f")
    }

    /// Starts a member that has not joined.
    fn member(&self, config: Config, path: &str) -> HostNode {
        let identity = self.leader.start_child(WAIT).unwrap();
        let os = Box::new(Os(CString::new(path).unwrap()));
        HostNode::start_with(&self.base(), identity, config, os).unwrap()
    }

    /// Checks that no member has lost its connection to the leader.
    fn is_whole(&self) {
        let statistics = self.leader.statistics();
        assert_eq!(statistics.refused_total(), 0);
        assert_eq!(statistics.disconnects, 0);
    }
}

const DIFFERS: Error = Error::LimitsDiffer {
    limit: Resource::SyncData,
    ours: ByteCount::new(512),
    theirs: ByteCount::new(1024),
};

#[test]
fn joining_with_another_length_of_sync_data_fails_with_both_lengths() {
    let family = Family::new(Config::DEFAULT);
    let other = family.member(config(|limits| limits.sync_data = 512), "/a");
    assert_eq!(other.join(WAIT), Err(DIFFERS));
    assert_eq!(DIFFERS.errno(), Errno::EPROTO);
    let text = DIFFERS.to_string();
    assert!(text.contains("512") && text.contains("1024"), "{text}");
    assert_eq!(other.pid(), None);
    let handle = other.open_sync(Some(7)).unwrap();
    let locked = other.lock_sync(handle, SyncState::Exclusive, &mut [], WAIT);
    assert_eq!(locked.err(), Some(DIFFERS));
    other.close_sync(handle, WAIT).unwrap();
    // The rest of the family continues.
    let fits = family.member(Config::DEFAULT, "/b");
    fits.join(WAIT).unwrap();
    let handle = fits.open_sync(Some(7)).unwrap();
    let mut data = [0; 1024];
    let state = SyncState::Exclusive;
    fits.lock_sync(handle, state, &mut data, WAIT).unwrap();
    fits.unlock_sync(handle, state, Some(&data)).unwrap();
    family.is_whole();
    assert_eq!(other.statistics().refused_total(), 0);
}

#[test]
fn a_handle_used_before_joining_with_another_length_disturbs_no_member() {
    let family = Family::new(Config::DEFAULT);
    // The data of the leader's handles are longer than the other's limit.
    let handle = family.leader.open_sync(Some(7)).unwrap();
    let state = SyncState::Exclusive;
    let lock = |node: &HostNode, handle| node.lock_sync(handle, state, &mut [], WAIT);
    lock(&family.leader, handle).unwrap();
    family
        .leader
        .unlock_sync(handle, state, Some(&[1; 1024]))
        .unwrap();
    let other = family.member(config(|limits| limits.sync_data = 512), "/a");
    let theirs = other.open_sync(Some(7)).unwrap();
    assert_eq!(lock(&other, theirs).err(), Some(DIFFERS));
    // The lease was not granted, or was returned.
    lock(&family.leader, handle).unwrap();
    family.leader.unlock_sync(handle, state, None).unwrap();
    family.is_whole();
    assert_eq!(other.statistics().refused_total(), 0);
}

#[test]
fn a_member_without_sync_handles_joins_with_any_length() {
    let family = Family::new(Config::DEFAULT);
    let without = config(|limits| (limits.sync_handles, limits.sync_data) = (0, 0));
    let member = family.member(without, "/a");
    member.join(WAIT).unwrap();
    family.is_whole();
}

#[test]
fn a_request_longer_than_the_leaders_limit_fails_and_the_connection_stays() {
    let short = config(|limits| (limits.frame_length, limits.sync_data) = (512, 256));
    let family = Family::new(short);
    let member = family.member(config(|limits| limits.sync_data = 256), "/a");
    member.join(WAIT).unwrap();
    let lock = |path: &[u8]| {
        let lock = FileLock {
            family: LockFamily::Posix,
            kind: LockKind::Write,
            start: 0,
            end: 9,
            pid: member.pid().unwrap().get(),
            handle: 0,
            wait: false,
            path,
        };
        member.set_lock(&lock, WAIT)
    };
    let limit = Resource::FrameLength;
    let (ours, theirs) = (ByteCount::new(4352), ByteCount::new(512));
    let too_long = Error::LimitsDiffer {
        limit,
        ours,
        theirs,
    };
    assert_eq!(lock(&[b'/'; 1000]), Err(too_long));
    assert_eq!(too_long.errno(), Errno::EMSGSIZE);
    lock(&[b'/'; 100]).unwrap();
    family.is_whole();
}

#[test]
fn a_path_longer_than_the_requesters_limit_is_an_error_and_the_connection_stays() {
    for asks_leader in [false, true] {
        let long = format!("/{}", "x".repeat(1000));
        let base_config = config(|limits| limits.sync_data = 256);
        let family = {
            let directory = tempfile::tempdir().unwrap();
            let base = directory.path().join("f");
            let os = Box::new(Os(CString::new(long.as_str()).unwrap()));
            let leader = HostNode::start_with(&base, Identity::LEADER, base_config, os).unwrap();
            leader.join(WAIT).unwrap();
            Family { directory, leader }
        };
        let short = config(|limits| (limits.frame_length, limits.sync_data) = (512, 256));
        let requester = family.member(short, "/a");
        requester.join(WAIT).unwrap();
        let (other, near) = (
            family.member(base_config, &long),
            family.member(base_config, "/near"),
        );
        let (other_pid, near_pid) = (other.join(WAIT).unwrap(), near.join(WAIT).unwrap());
        let target = if asks_leader {
            family.leader.pid().unwrap()
        } else {
            other_pid
        };
        let path_of = |pid| {
            let mut path = [0; 4096];
            let length = requester.path_of(pid, MetaCode::Executable, &mut path, WAIT)?;
            Ok(path[..length].to_vec())
        };
        for _ in 0..2 {
            let full = Error::Full(Resource::FrameLength);
            assert_eq!(path_of(target), Err(full));
            assert_eq!(path_of(near_pid), Ok(b"/near".to_vec()));
        }
        family.is_whole();
        for node in [&requester, &other] {
            assert_eq!(node.statistics().refused_total(), 0);
            assert_eq!(node.statistics().disconnects, 0);
        }
    }
}

const HELLO: u8 = 64;
const SYNC_NOTE: u8 = 76;
const LIMITS: u8 = 96;

fn words<const COUNT: usize>(words: [u32; COUNT]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Returns the code and payload of the leader's next frame.
fn next(peer: &mut Peer) -> (u8, Vec<u8>) {
    use std::io::Read;
    let from = peer.from();
    let mut header = [0; 17];
    from.read_exact(&mut header).unwrap();
    let size = u64::from_le_bytes(header[..8].try_into().unwrap());
    let mut payload = vec![0; usize::try_from(size).unwrap() - 17];
    from.read_exact(&mut payload).unwrap();
    (header[16], payload)
}

/// Requests to change handle 7.
fn ask_for_handle(peer: &mut Peer) {
    let sync = [words([7, 0, 0, 0, 3]), vec![0; 4]].concat();
    peer.send(9, &sync);
}

#[test]
fn the_leader_sends_its_limits_after_its_hello_and_before_any_answer() {
    let family = Family::new(Config::DEFAULT);
    let mut peer = Peer::join(&family.base(), 9);
    peer.send(HELLO, &words([1, 0, 0, 0]));
    let limits = words([1, 1, 4352, 1024]);
    assert_eq!(next(&mut peer), (HELLO, words([1, 0, 0, 0])));
    assert_eq!(next(&mut peer), (LIMITS, limits));
    // An older version sends no limits, and continues as before.
    ask_for_handle(&mut peer);
    assert_eq!(next(&mut peer).0, 12);
    // The limits are sent once.
    peer.send(HELLO, &words([1, 0, 0, 0]));
    assert_eq!(next(&mut peer), (HELLO, words([1, 0, 0, 0])));
    assert_eq!(peer.owner_of(1), 1);
    family.is_whole();
}

#[test]
fn the_leader_refuses_handles_to_a_member_with_another_length() {
    let family = Family::new(Config::DEFAULT);
    let mut peer = Peer::join(&family.base(), 9);
    peer.send(HELLO, &words([1, 0, 0, 0]));
    assert_eq!([next(&mut peer).0, next(&mut peer).0], [HELLO, LIMITS]);
    // The lease that was granted before the leader knew the limits is revoked.
    ask_for_handle(&mut peer);
    assert_eq!(next(&mut peer).0, 12);
    peer.send(LIMITS, &[words([9, 1, 4352, 512]), vec![1; 33]].concat());
    ask_for_handle(&mut peer);
    let note = words([7, 0, 2]);
    assert_eq!(next(&mut peer), (SYNC_NOTE, note));
    let handle = family.leader.open_sync(Some(7)).unwrap();
    let taken = family
        .leader
        .lock_sync(handle, SyncState::Exclusive, &mut [], WAIT);
    assert!(taken.is_ok());
    family.is_whole();
}

#[test]
fn limits_are_not_sent_to_a_process_in_c() {
    let family = Family::new(Config::DEFAULT);
    let mut peer = Peer::join(Path::new(&family.base()), 9);
    // These codes are unknown to it, as its codes are to the leader.
    peer.send(LIMITS, &words([1, 1, 128, 512]));
    assert_eq!(peer.owner_of(1), 1);
    ask_for_handle(&mut peer);
    assert_eq!(next(&mut peer).0, 12);
    assert_eq!(family.leader.statistics().unknown_codes, 1);
    family.is_whole();
}

#[test]
fn a_request_that_fails_at_the_limits_leaves_no_peer() {
    let config = config(|limits| {
        (limits.frame_length, limits.sync_data) = (512, 256);
        limits.reply_buffers = 0;
    });
    let family = Family::new(config);
    let child = family.leader.start_child(WAIT).unwrap();
    let mut path = [0; 100];
    // The answer has no room, or the peer is disconnected already.
    let asked = family
        .leader
        .path_of(child.pid.unwrap(), MetaCode::Executable, &mut path, WAIT);
    assert!(asked.is_err());
    let until = Instant::now() + Duration::from_secs(10);
    while family.leader.statistics().pools.peers.now > 0 {
        assert!(Instant::now() < until, "the peer is left");
        std::thread::yield_now();
    }
}

#[test]
fn a_process_for_which_the_leader_has_no_room_is_refused_with_that_cause() {
    let family = Family::new(config(|limits| limits.peers = 2));
    let members: Vec<_> = (0..2)
        .map(|_| family.member(Config::DEFAULT, "/a"))
        .collect();
    for member in &members {
        member.join(WAIT).unwrap();
    }
    let full = Error::Refused {
        errno: Errno::ENOMEM,
        by: None,
    };
    // The parent of this one has not asked the leader.
    let vmid = Vmid::new(77).unwrap();
    let identity = Identity::child(vmid, Vmid::LEADER);
    let os = Box::new(Os(CString::new("/b").unwrap()));
    let refused = HostNode::start_with(&family.base(), identity, Config::DEFAULT, os).unwrap();
    assert_eq!(refused.join(WAIT), Err(full));
    assert_eq!(refused.take_id(WAIT), Err(full), "a later call");
    // The refused process takes nothing from the others.
    for member in &members {
        member.take_id(WAIT).unwrap();
    }
}

#[test]
fn a_process_that_joins_is_refused_at_a_full_table_of_processes() {
    let family = Family::new(Config {
        quota: libos_ipc::Quota::Off,
        ..config(|limits| limits.processes = 2)
    });
    let first = family.member(Config::DEFAULT, "/a");
    first.join(WAIT).unwrap();
    // The parent of this one has not asked the leader.
    let identity = Identity::child(Vmid::new(77).unwrap(), Vmid::LEADER);
    let os = Box::new(Os(CString::new("/b").unwrap()));
    let second = HostNode::start_with(&family.base(), identity, Config::DEFAULT, os).unwrap();
    let full = Error::Refused {
        errno: Errno::ENOMEM,
        by: None,
    };
    assert_eq!(second.join(WAIT), Err(full));
    assert_eq!(second.pid(), None);
    // Its VMID and its connection are as before.
    second.take_id(WAIT).unwrap();
}
