//! Processes in C that a parent of this crate starts: they never say HELLO.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use libos_ipc::events::EventKind;
use libos_ipc::host::HostNode;
use libos_ipc::wire::ProcessState;
use libos_ipc::{ChildSelector, Config, Error, Identity, Target, Wait};
use tempfile::TempDir;

use crate::peer::{Peer, frame};

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(10));
const PID_KILL: u8 = 7;
const PID_GETMETA: u8 = 8;
const CHILD_EXIT: u8 = 2;
const ESRCH: i32 = 3;

struct Family {
    _directory: TempDir,
    base: PathBuf,
    leader: HostNode,
    parent: HostNode,
}

impl Family {
    fn new() -> Family {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("f");
        let leader = HostNode::start(&base, Identity::LEADER, Config::DEFAULT).unwrap();
        leader.join(WAIT).unwrap();
        let identity = leader.start_child(WAIT).unwrap();
        let parent = HostNode::start(&base, identity, Config::DEFAULT).unwrap();
        parent.join(WAIT).unwrap();
        Family {
            _directory: directory,
            base,
            leader,
            parent,
        }
    }

    /// Makes a process in C that is this child, after its first message to the leader.
    fn run(&self, child: Identity) -> Peer {
        let mut peer = Peer::join(&self.base, child.vmid.get());
        assert_eq!(peer.owner_of(child.pid.unwrap().get()), child.vmid.get());
        peer
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Returns the next signal: its number, its kind of target, and its target.
fn signal(peer: &mut Peer) -> (u32, u32, u32) {
    let from = peer.from();
    let mut bytes = [0; 37];
    from.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes[16], PID_KILL);
    let word = |at: usize| u32::from_le_bytes(bytes[17 + at..21 + at].try_into().unwrap());
    (word(12), word(16), word(8))
}

const THREAD: u32 = 0;
const PROCESS: u32 = 1;
const ALL: u32 = 3;

#[test]
fn a_signal_for_all_reaches_a_child_in_c() {
    let family = Family::new();
    for parent in [&family.parent, &family.leader] {
        let child = parent.start_child(WAIT).unwrap();
        // Signals wait for it only while it is starting.
        family.parent.kill(Target::All, 12, WAIT).unwrap();
        let state = |pid| parent.process(pid, WAIT).unwrap().state;
        assert_eq!(state(child.pid), ProcessState::Starting);
        let mut peer = family.run(child);
        assert_eq!(state(child.pid), ProcessState::Running);
        assert_eq!(signal(&mut peer), (12, PROCESS, child.pid.unwrap().get()));
        for number in [10, 15] {
            family.parent.kill(Target::All, number, WAIT).unwrap();
            assert_eq!(signal(&mut peer), (number.unsigned_abs(), ALL, 0));
        }
        drop(peer);
        parent
            .wait_child(ChildSelector::Pid(child.pid.unwrap()), WAIT)
            .unwrap();
    }
}

#[test]
fn the_exit_code_of_a_child_in_c_is_reported_to_its_parent() {
    let family = Family::new();
    for round in 0..50 {
        for parent in [&family.parent, &family.leader] {
            let child = parent.start_child(WAIT).unwrap();
            let peer = family.run(child);
            let at = parent.identity().vmid;
            // The exit report goes to its parent only, as its last message.
            let [from, to] = [child.pid, child.parent_pid].map(|pid| pid.unwrap().get());
            let exit = words(&[to, from, 1000, round, 0]);
            let exit = frame(0, CHILD_EXIT, &exit);
            if at.get() == 1 {
                let mut to = &peer.to;
                to.write_all(&exit).unwrap();
                drop(peer);
            } else {
                let address = format!("{}.{at}", family.base.display());
                let mut to = UnixStream::connect(address).unwrap();
                to.write_all(&child.vmid.get().to_le_bytes()).unwrap();
                to.write_all(&exit).unwrap();
                // The leader sees the end of the process as soon as its stream to the leader ends, and notifies
                // the parent. The parent reads the child's own report first only if it knows the child's stream by then;
                // one that still waits in the parent's backlog comes too late, and the child counts as killed.
                let connected = EventKind::Connected(child.vmid);
                while !parent.events().any(|event| event.kind == connected) {
                    std::thread::yield_now();
                }
                drop(peer);
                drop(to);
            }
            let seen = parent
                .wait_child(ChildSelector::Pid(child.pid.unwrap()), WAIT)
                .unwrap();
            assert_eq!((seen.code, seen.signal), (round, 0));
        }
    }
    assert!(family.leader.check_invariants());
}

#[test]
fn a_request_of_a_process_in_c_about_process_0_finds_no_process() {
    let family = Family::new();
    let child = family.leader.start_child(WAIT).unwrap();
    let mut peer = family.run(child);
    for target in [THREAD, PROCESS] {
        // Sender, pid, ID, signal.
        let answer = peer.ask(PID_KILL, &words(&[1000, 0, 0, 9, target]));
        assert_eq!(i32::from_le_bytes(answer.try_into().unwrap()), -ESRCH);
    }
    let answer = peer.ask(PID_GETMETA, &words(&[0, 1]));
    assert_eq!(answer[..8], [0; 8], "the length of the data");
    assert_eq!(i32::from_le_bytes(answer[8..].try_into().unwrap()), -ESRCH);
}

#[test]
fn an_exit_report_without_a_pid_is_about_no_child() {
    let family = Family::new();
    let child = family.leader.start_child(WAIT).unwrap();
    let mut peer = family.run(child);
    peer.to
        .write_all(&frame(0, CHILD_EXIT, &words(&[1, 0, 1000, 5, 0])))
        .unwrap();
    // The leader handles its messages in order.
    peer.owner_of(1);
    let now = Wait::at_most(Duration::ZERO);
    let seen = family.leader.wait_child(ChildSelector::Any, now);
    assert_eq!(seen, Err(Error::TimedOut));
    assert_eq!(peer.owner_of(child.pid.unwrap().get()), child.vmid.get());
}

#[test]
fn a_child_in_c_that_ends_without_an_exit_report_was_killed() {
    let family = Family::new();
    for parent in [&family.parent, &family.leader] {
        let child = parent.start_child(WAIT).unwrap();
        drop(family.run(child));
        let seen = parent
            .wait_child(ChildSelector::Pid(child.pid.unwrap()), WAIT)
            .unwrap();
        assert_eq!((seen.code, seen.signal), (0, 30));
    }
}
