//! A forked process has copies of a member's sockets and continues: the family takes the member for
//! ended when the member itself ends.
#![cfg(feature = "std")]
#![allow(missing_docs, unsafe_code)]

mod common;
#[path = "common/copy.rs"]
mod copy;

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{LONG, base, family, poll_ready, vmid};
use copy::ForkedCopy;
use libos_ipc::host::{Host, HostNode};
use libos_ipc::pal::{AcceptError, ConnectError, Interest, Pal, Stream, StreamError, Token};
use libos_ipc::{ChildSelector, Config, Driving, Exit, Identity, Vmid, Wait};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use tempfile::TempDir;

const WAIT: Wait<'static> = Wait::at_most(LONG);

#[test]
fn bytes_written_before_the_close_are_read() {
    let family = family();
    let (out, inward) = family.stream();
    family.two.watch(&inward, Token(7), Interest::READ).unwrap();
    out.write(&[b"the ", b"last"]).unwrap();
    let _copy = ForkedCopy::fork();
    drop(out);
    let all = Interest::READ | Interest::HANG_UP;
    assert_eq!(poll_ready(&family.two).as_slice(), [(Token(7), all)]);
    let mut buffer = [0; 16];
    assert_eq!(inward.read(&mut buffer), Ok(8));
    assert_eq!(&buffer[..8], b"the last");
    assert_eq!(inward.read(&mut buffer), Ok(0));
}

#[test]
fn a_write_to_a_stream_closed_by_its_reader_fails() {
    let family = family();
    let (out, inward) = family.stream();
    family.one.watch(&out, Token(7), Interest::HANG_UP).unwrap();
    out.write(&[b"unread"]).unwrap();
    let _copy = ForkedCopy::fork();
    drop(inward);
    let gone = [(Token(7), Interest::HANG_UP)];
    assert_eq!(poll_ready(&family.one).as_slice(), gone);
    assert_eq!(out.write(&[b"x"]), Err(StreamError::Closed));
}

#[test]
fn a_closed_stream_is_not_reported_any_more() {
    let family = family();
    let (out, inward) = family.stream();
    family.two.watch(&inward, Token(7), Interest::READ).unwrap();
    let _copy = ForkedCopy::fork();
    drop(out);
    family.two.unwatch(&inward);
    drop(inward);
    assert!(poll_ready(&family.two).is_empty());
}

#[test]
fn connecting_to_a_member_that_has_ended_fails() {
    let family = family();
    let waiting = family.one.connect(vmid(2)).unwrap();
    let said_last = family.one.connect(vmid(2)).unwrap();
    said_last.write(&[b"unread"]).unwrap();
    let elsewhere = family.dir.path().join("link");
    std::fs::hard_link(family.two.path().unwrap(), &elsewhere).unwrap();
    let _copy = ForkedCopy::fork();
    drop(family.two);
    for stream in [&waiting, &said_last] {
        assert_eq!(stream.write(&[b"x"]), Err(StreamError::Closed));
    }
    let refused = family.one.connect(vmid(2)).err();
    assert_eq!(refused, Some(ConnectError::NotListening));
    // The same holds for another name of the same socket.
    let refused = std::os::unix::net::UnixStream::connect(elsewhere);
    let kind = std::io::ErrorKind::ConnectionRefused;
    assert_eq!(refused.unwrap_err().kind(), kind);
    // The next process with that VMID is reachable.
    let next = Host::listen(&base(&family.dir), vmid(2)).unwrap();
    family.one.connect(vmid(2)).unwrap();
    next.accept().unwrap();
    assert_eq!(next.accept().err(), Some(AcceptError::WouldBlock));
}

#[test]
fn a_forked_copy_keeps_neither_member_nor_leader_alive() {
    let dir = TempDir::new().unwrap();
    let leader = HostNode::start(&base(&dir), Identity::LEADER, Config::DEFAULT).unwrap();
    leader.join(WAIT).unwrap();
    let start = |identity| {
        let node = HostNode::start(&base(&dir), identity, Config::DEFAULT).unwrap();
        node.join(WAIT).unwrap();
        node
    };
    let parent = start(leader.start_child(WAIT).unwrap());
    let identity = parent.start_child(WAIT).unwrap();
    let child = start(identity);
    child.owner_of(parent.pid().unwrap().get(), WAIT).unwrap();
    let _copy = ForkedCopy::fork();
    child.exit(Exit::default(), WAIT).unwrap();
    drop(child);
    let ended = parent
        .wait_child(ChildSelector::Pid(identity.pid.unwrap()), WAIT)
        .unwrap();
    assert_eq!(ended.pid, identity.pid.unwrap());
    // This process sends nothing before it ends.
    let pid = parent.pid().unwrap();
    drop(parent);
    let ended = leader.wait_child(ChildSelector::Pid(pid), WAIT).unwrap();
    assert_eq!(ended.pid, pid);
    assert_eq!(leader.leave(WAIT), Ok(()));
    assert!(leader.shut_down(Duration::from_secs(5)));
}

#[test]
fn an_executed_program_inherits_no_descriptor() {
    let dir = TempDir::new().unwrap();
    let leader = HostNode::start(&base(&dir), Identity::LEADER, Config::DEFAULT).unwrap();
    let identity = Identity::child(vmid(2), Vmid::LEADER);
    let member = HostNode::start(&base(&dir), identity, Config::DEFAULT).unwrap();
    member.take_id(WAIT).unwrap();
    let list = Command::new("ls")
        .args(["-l", "/proc/self/fd/"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(list.contains("/dev/null"), "{list}");
    for kind in ["socket:", "anon_inode:", &*dir.path().to_string_lossy()] {
        assert!(!list.contains(kind), "{list}");
    }
    drop((member, leader));
}

/// Runs `work` in a forked process with its copies. Returns true if it succeeded in time.
fn forked(work: impl FnOnce() -> bool) -> bool {
    // SAFETY: the copy works on its own copies, and takes no lock that another thread may hold
    // except the allocator's, which the C library handles.
    let child = match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let code = i32::from(!work());
            // SAFETY: it ends the process at once.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => child,
    };
    let until = Instant::now() + LONG;
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)).unwrap() {
            WaitStatus::Exited(_, code) => return code == 0,
            WaitStatus::StillAlive if Instant::now() < until => thread::yield_now(),
            _ => {
                kill(child, Signal::SIGKILL).unwrap();
                waitpid(child, None).unwrap();
                return false;
            }
        }
    }
}

#[test]
fn a_forked_copy_that_drops_the_node_leaves_the_original_working() {
    let dir = TempDir::new().unwrap();
    for driving in [Driving::Worker, Driving::Caller] {
        let config = Config {
            driving,
            ..Config::DEFAULT
        };
        let base = base(&dir);
        let leader = HostNode::start(&base, Identity::LEADER, Config::DEFAULT).unwrap();
        let identity = Identity::child(vmid(2), Vmid::LEADER);
        let member = HostNode::start(&base, identity, config).unwrap();
        assert_eq!(member.owner_of(77, WAIT), Ok(None));
        // The copies of all that it has, with the streams.
        let copies = || {
            // SAFETY: the copy never uses the originals again.
            drop(unsafe {
                [
                    core::ptr::read(&raw const member),
                    core::ptr::read(&raw const leader),
                ]
            });
            true
        };
        assert!(forked(copies), "{driving:?}");
        assert_eq!(member.owner_of(77, WAIT), Ok(None));
        assert_eq!(leader.statistics().disconnects, 0);
        // The sockets exist, and connections are accepted.
        let identity = Identity::child(vmid(3), Vmid::LEADER);
        let newcomer = HostNode::start(&base, identity, Config::DEFAULT).unwrap();
        assert_eq!(newcomer.owner_of(77, WAIT), Ok(None));
    }
}

#[test]
fn a_forked_copy_that_drops_the_platform_leaves_the_original_working() {
    let family = family();
    let (out, inward) = family.stream();
    let copies = || {
        let hosts = [&raw const family.one, &raw const family.two];
        let streams = [&raw const out, &raw const inward];
        // SAFETY: the copy never uses the originals again.
        drop(unsafe { (streams.map(|at| at.read()), hosts.map(|at| at.read())) });
        true
    };
    assert!(forked(copies));
    assert_eq!(out.write(&[b"still"]), Ok(5));
    assert_eq!(inward.read(&mut [0; 8]), Ok(5));
    let (out, _inward) = family.stream();
    assert_eq!(out.write(&[b"new"]), Ok(3));
}

#[test]
fn a_umask_that_makes_the_socket_or_its_directory_unusable_is_an_error() {
    let dir = TempDir::new().unwrap();
    let refused = |mask: u32, base: &std::path::Path| {
        forked(|| {
            umask(Mode::from_bits_truncate(mask));
            match Host::listen(base, vmid(2)) {
                Ok(_) => mask == 0o077,
                Err(error) => mask != 0o077 && error.to_string().contains("umask"),
            }
        })
    };
    for mask in [0o200, 0o277, 0o777, 0o077] {
        assert!(refused(mask, &base(&dir)), "{mask:03o}");
        assert!(!base(&dir).with_extension("2").exists(), "nothing is left");
    }
    for mask in [0o100, 0o277, 0o777, 0o077] {
        let new = dir.path().join(format!("{mask:o}"));
        assert!(refused(mask, &new.join("family")), "{mask:03o}");
        assert_eq!(new.exists(), mask == 0o077, "nothing is left");
    }
}
