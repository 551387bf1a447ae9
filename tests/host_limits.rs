//! The host platform when the process has no descriptors left, or a peer no room. These tests have a process of their
//! own, and run one after another, because the limit is that of the whole process.
#![cfg(feature = "std")]
#![allow(missing_docs)]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use libos_ipc::Vmid;
use libos_ipc::host::{Host, raise_descriptor_limit};
use libos_ipc::pal::{AcceptError, ConnectError, Deadline, Event, Pal, Stream};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Locked by a test that changes the limit.
static LIMIT: Mutex<()> = Mutex::new(());

#[test]
fn exhausted_descriptors_give_another_error_than_a_missing_listener() {
    let _limit = LIMIT.lock().unwrap();
    let dir = tempfile::TempDir::new().unwrap();
    let base = dir.path().join("family");
    let limit = raise_descriptor_limit().unwrap();
    assert_eq!(
        getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        limit
    );
    let (one, two) = (Vmid::LEADER, Vmid::new(2).unwrap());
    let (one, host) = (
        Host::listen(&base, one).unwrap(),
        Host::listen(&base, two).unwrap(),
    );

    if limit > 5000 {
        let mut streams = Vec::new();
        let refused = loop {
            match one.connect(two) {
                Ok(stream) => streams.push(stream),
                Err(error) => break error,
            }
            assert!(streams.len() < 4200, "the backlog has no end");
        };
        assert_eq!(refused, ConnectError::Busy);
        while host.accept().is_ok() {}
    }

    let out = one.connect(two).unwrap();
    let inward = host.accept().unwrap();
    let _waiting = one.connect(two).unwrap();
    let before = getrlimit(Resource::Nofile);
    // Descriptors 0 to 2 are in use. (With a lower limit, a poll of two is not allowed either.)
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(3),
            ..before
        },
    )
    .unwrap();
    assert_eq!(one.connect(two).err(), Some(ConnectError::Busy));
    assert_eq!(host.accept().err(), Some(AcceptError::Exhausted));

    // The event's descriptor can't be made: waiting works all the same.
    let event = host.event().unwrap();
    let soon = Deadline::At(host.now() + Duration::from_millis(3));
    assert!(!host.wait_readable(&inward, &event, soon));
    thread::scope(|scope| {
        scope.spawn(|| event.set());
        assert!(!host.wait_readable(&inward, &event, Deadline::Never));
    });
    event.clear();
    out.write(&[b"x"]).unwrap();
    assert!(host.wait_readable(&inward, &event, Deadline::Never));

    setrlimit(Resource::Nofile, before).unwrap();
    assert!(host.accept().is_ok());
}

/// Runs as a process of its own, until it is killed.
#[test]
fn listener() {
    if let Ok(base) = std::env::var("LISTENER_BASE") {
        let _host = Host::listen(Path::new(&base), Vmid::new(2).unwrap()).unwrap();
        println!("listening");
        loop {
            thread::park();
        }
    }
}

#[test]
fn a_process_that_cannot_be_killed_for_want_of_descriptors_is_not_called_dead() {
    let _limit = LIMIT.lock().unwrap();
    let dir = tempfile::TempDir::new().unwrap();
    let base = dir.path().join("family");
    let two = Vmid::new(2).unwrap();
    let host = Host::listen(&base, Vmid::LEADER).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "listener", "--nocapture"])
        .env("LISTENER_BASE", &base)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("listening")));

    let before = getrlimit(Resource::Nofile);
    let current = Some(64);
    setrlimit(Resource::Nofile, Rlimit { current, ..before }).unwrap();
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    // With each round one descriptor more is free. The process takes a moment to end when it is killed.
    let mut refused = 0;
    let until = Instant::now() + Duration::from_secs(20);
    while !host.end(two) {
        refused += 1;
        assert!(Instant::now() < until, "it does not end");
        if files.pop().is_none() {
            thread::yield_now();
        }
    }
    setrlimit(Resource::Nofile, before).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    // One round had no descriptor for the connection, and one none for the process.
    assert!(refused >= 2, "{refused}");
}
