//! The host platform, over real sockets.
#![cfg(feature = "std")]
#![allow(missing_docs)]

mod common;

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{base, family, poll_ready, vmid, wait};
use libos_ipc::host::{Host, HostNode};
use libos_ipc::pal::{AcceptError, ConnectError, Interest, Pal, Stream, StreamError, Token};
use libos_ipc::{Config, Identity, Vmid, Wait};
use tempfile::TempDir;

#[test]
fn bytes_arrive_in_order_and_the_end_is_reported() {
    let family = family();
    let out = family.one.connect(vmid(2)).unwrap();
    assert_eq!(
        wait(&family.two).as_slice(),
        [(Token::LISTENER, Interest::READ)]
    );
    let inward = family.two.accept().unwrap();
    assert_eq!(inward.opener(), Some(std::process::id()));
    assert_eq!(family.two.accept().err(), Some(AcceptError::WouldBlock));
    let mut buffer = [0; 16];
    assert_eq!(inward.read(&mut buffer), Err(StreamError::WouldBlock));
    family.two.watch(&inward, Token(7), Interest::READ).unwrap();
    assert!(poll_ready(&family.two).is_empty());

    assert_eq!(out.write(&[b"he", b"", b"ll", b"o"]), Ok(5));
    assert_eq!(out.write(&[b", you"]), Ok(5));
    // The stream is reported until it is read.
    for _ in 0..2 {
        assert_eq!(wait(&family.two).as_slice(), [(Token(7), Interest::READ)]);
    }
    drop(out);
    assert_eq!(
        wait(&family.two).as_slice(),
        [(Token(7), Interest::READ | Interest::HANG_UP)]
    );
    assert_eq!(inward.read(&mut buffer), Ok(10));
    assert_eq!(&buffer[..10], b"hello, you");
    assert_eq!(inward.read(&mut buffer), Ok(0));
    family.two.unwatch(&inward);
    assert!(poll_ready(&family.two).is_empty());
}

#[test]
fn a_full_stream_would_block_until_it_is_read() {
    let family = family();
    let (out, inward) = family.stream();
    let block = [1; 16384];
    let mut sent = 0;
    loop {
        match out.write(&[&block, &block]) {
            Ok(count) => sent += count,
            Err(error) => {
                assert_eq!(error, StreamError::WouldBlock);
                break;
            }
        }
    }
    family.one.watch(&out, Token(1), Interest::WRITE).unwrap();
    assert!(poll_ready(&family.one).is_empty());
    let mut buffer = [0; 16384];
    let mut received = 0;
    while let Ok(count) = inward.read(&mut buffer) {
        received += count;
    }
    assert_eq!(received, sent);
    assert_eq!(wait(&family.one).as_slice(), [(Token(1), Interest::WRITE)]);
}

#[test]
fn connecting_without_a_listener_fails() {
    let family = family();
    assert_eq!(
        family.one.connect(vmid(3)).err(),
        Some(ConnectError::NotListening)
    );
    let path = family.two.path().unwrap().to_owned();
    drop(family.two);
    assert!(!path.exists(), "the socket file is removed");
    assert_eq!(
        family.one.connect(vmid(2)).err(),
        Some(ConnectError::NotListening)
    );
    leave_socket_file(&path);
    assert_eq!(
        family.one.connect(vmid(2)).err(),
        Some(ConnectError::NotListening)
    );
}

#[test]
fn platform_that_has_stopped_listening_refuses_and_hangs_up_what_it_has_not_accepted() {
    let family = family();
    let out = family.one.connect(vmid(2)).unwrap();
    family.one.watch(&out, Token(1), Interest::HANG_UP).unwrap();
    family.two.stop_listening();
    assert_eq!(
        wait(&family.one).as_slice(),
        [(Token(1), Interest::HANG_UP)]
    );
    assert_eq!(
        family.one.connect(vmid(2)).err(),
        Some(ConnectError::NotListening)
    );
    family.two.stop_listening();
    assert!(family.two.accept().is_err());
}

#[test]
fn a_stream_that_is_never_accepted_is_hung_up() {
    let family = family();
    let out = family.one.connect(vmid(2)).unwrap();
    family.one.watch(&out, Token(1), Interest::HANG_UP).unwrap();
    assert!(poll_ready(&family.one).is_empty());
    drop(family.two);
    assert_eq!(
        wait(&family.one).as_slice(),
        [(Token(1), Interest::HANG_UP)]
    );
    assert_eq!(out.write(&[b"x"]), Err(StreamError::Closed));
    assert_eq!(out.write(&[b"x", b"y"]), Err(StreamError::Closed));
}

/// Leaves a socket file without a process.
fn leave_socket_file(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
    // A process that another test has forked and that has not executed its program yet has a copy of the socket.
    while UnixStream::connect(path).is_ok() {
        std::thread::yield_now();
    }
    assert!(path.exists());
}

#[test]
fn a_stale_socket_is_replaced_and_one_in_use_is_kept() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("family.9");
    leave_socket_file(&path);
    let host = Host::listen(&base(&dir), vmid(9)).unwrap();
    assert_eq!(host.path(), Some(&*path));

    let error = Host::listen(&base(&dir), vmid(9)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains("live process"), "{error}");
    // The process did not notice the attempt.
    assert!(poll_ready(&host).is_empty());
    let other = Host::listen(&base(&dir), vmid(1)).unwrap();
    other.connect(vmid(9)).unwrap();

    // A file that has replaced it is not removed.
    std::fs::remove_file(&path).unwrap();
    leave_socket_file(&path);
    drop(host);
    assert!(path.exists());
}

#[test]
fn unusable_paths_give_an_error_that_explains_them() {
    let dir = TempDir::new().unwrap();
    let fails = |path: &Path| Host::listen(path, vmid(1)).unwrap_err();
    let error = fails(&dir.path().join("x".repeat(100)));
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("at most 96"), "{error}");
    assert_eq!(fails(Path::new("")).kind(), ErrorKind::InvalidInput);
    assert_eq!(fails(Path::new("/")).kind(), ErrorKind::InvalidInput);
    assert_eq!(
        fails(&dir.path().join("x/")).kind(),
        ErrorKind::InvalidInput
    );
    assert_eq!(
        fails(&dir.path().join("a\0b")).kind(),
        ErrorKind::InvalidInput
    );
    // These names would name files in another directory than it seems.
    for name in [".", "..", "x/.", "x/..", "x//", "x//."] {
        let error = fails(&dir.path().join(name));
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}");
        assert!(!dir.path().join("x").exists());
    }
    for name in [".", "..", "./.", "x/."] {
        assert_eq!(fails(Path::new(name)).kind(), ErrorKind::InvalidInput);
    }

    std::fs::write(dir.path().join("family.1"), "precious").unwrap();
    let error = fails(&base(&dir));
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(
        std::fs::read(dir.path().join("family.1")).unwrap(),
        b"precious"
    );
    // There is a file in place of the directory.
    assert!(
        fails(&dir.path().join("family.1/x"))
            .to_string()
            .contains("cannot make")
    );
}

#[test]
fn files_and_directories_are_private_to_the_user() {
    let dir = TempDir::new().unwrap();
    let deep = dir.path().join("a/b");
    let host = Host::listen(&deep.join("f"), vmid(1)).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(host.path().unwrap()), 0o600);
    assert_eq!(mode(&deep), 0o700);
    assert!(host.directory_is_private());
    std::fs::set_permissions(&deep, PermissionsExt::from_mode(0o770)).unwrap();
    assert!(!host.directory_is_private());
}

/// The directory that is checked is the one that the sockets are in.
#[test]
fn a_directory_is_private_if_the_one_with_the_sockets_is() {
    let dir = TempDir::new().unwrap();
    let (private, public) = (dir.path().join("private"), dir.path().join("public"));
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    std::fs::create_dir_all(private.join("public")).unwrap();
    std::fs::create_dir_all(public.join("private")).unwrap();
    for (path, bits) in [
        (&private, 0o700),
        (&private.join("public"), 0o777),
        (&public, 0o777),
        (&public.join("private"), 0o700),
    ] {
        mode(path, bits);
    }
    std::os::unix::fs::symlink("../public", private.join("link")).unwrap();
    std::os::unix::fs::symlink("../private", public.join("link")).unwrap();
    for (base, is_private) in [
        ("private/f", true),
        ("private//f", true),
        ("private/./f", true),
        ("private/public/../f", true),
        ("private/public/f", false),
        ("private/public/./f", false),
        ("private/public//f", false),
        ("private/link/f", false),
        ("public/link/f", true),
        ("public/private/f", true),
        ("public/private/../f", false),
    ] {
        let host = Host::listen(&dir.path().join(base), vmid(1)).unwrap();
        assert_eq!(host.directory_is_private(), is_private, "{base}");
        let directory = host
            .path()
            .unwrap()
            .parent()
            .unwrap()
            .canonicalize()
            .unwrap();
        let bits = std::fs::metadata(&directory).unwrap().permissions().mode();
        assert_eq!(bits & 0o022 == 0, is_private, "{base}");
    }
}

#[test]
fn a_directory_replaced_after_the_check_is_not_used() {
    let dir = TempDir::new().unwrap();
    let (name, moved) = (dir.path().join("a"), dir.path().join("b"));
    let host = Host::listen(&name.join("f"), vmid(1)).unwrap();
    std::fs::rename(&name, &moved).unwrap();
    std::fs::create_dir(&name).unwrap();
    assert!(host.directory_is_private());
    std::fs::set_permissions(&moved, PermissionsExt::from_mode(0o777)).unwrap();
    assert!(!host.directory_is_private());
}

/// The process of the test below, which changes its current directory.
#[test]
fn process_in_another_directory() {
    let Ok(to) = std::env::var("WANDERS_TO") else {
        return;
    };
    let one = Host::listen(Path::new("f"), vmid(1)).unwrap();
    let two = Host::listen(Path::new("f"), vmid(2)).unwrap();
    let path = two.path().unwrap().to_owned();
    std::env::set_current_dir(to).unwrap();
    one.connect(vmid(2)).unwrap();
    assert!(path.exists());
    drop(two);
    assert!(!path.exists());
}

#[test]
fn a_relative_path_leads_to_the_same_directory_from_anywhere() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process_in_another_directory"])
        .env("WANDERS_TO", to.path())
        .current_dir(from.path())
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn a_hang_up_is_reported_to_every_interest() {
    let asked = [
        Interest::HANG_UP,
        Interest::READ,
        Interest::WRITE,
        Interest::READ | Interest::WRITE,
        Interest::all(),
    ];
    for interest in asked {
        let family = family();
        let (out, inward) = family.stream();
        family.one.watch(&out, Token(1), interest).unwrap();
        drop(inward);
        for _ in 0..3 {
            let ready = wait(&family.one);
            assert_eq!(ready.len(), 1);
            assert!(
                ready[0].1.contains(Interest::HANG_UP),
                "outgoing, {interest:?}"
            );
        }
        let (out, inward) = family.stream();
        family.two.watch(&inward, Token(2), interest).unwrap();
        drop(out);
        for _ in 0..3 {
            let ready = wait(&family.two);
            assert_eq!(ready.len(), 1);
            assert!(
                ready[0].1.contains(Interest::HANG_UP),
                "incoming, {interest:?}"
            );
        }
    }
}

#[test]
fn a_stream_without_interest_reports_only_the_hang_up() {
    let family = family();
    let (out, inward) = family.stream();
    family
        .two
        .watch(&inward, Token(2), Interest::empty())
        .unwrap();
    out.write(&[b"bytes"]).unwrap();
    assert!(poll_ready(&family.two).is_empty());
    for _ in 0..3 {
        family.two.rewatch(&inward, Token(3), Interest::READ);
        assert_eq!(
            poll_ready(&family.two).as_slice(),
            [(Token(3), Interest::READ)]
        );
        family.two.rewatch(&inward, Token(2), Interest::empty());
        assert!(poll_ready(&family.two).is_empty());
    }
    drop(out);
    let reports = (0..5)
        .filter(|_| !poll_ready(&family.two).is_empty())
        .count();
    assert!(
        reports <= 1,
        "a hang-up that was not watched was reported {reports} times"
    );
    family.two.rewatch(&inward, Token(4), Interest::READ);
    let all = Interest::READ | Interest::HANG_UP;
    assert_eq!(poll_ready(&family.two).as_slice(), [(Token(4), all)]);
}

#[test]
fn a_listener_that_is_not_watched_is_not_reported() {
    let family = family();
    family.two.watch_listener(false);
    let _out = family.one.connect(vmid(2)).unwrap();
    assert!(poll_ready(&family.two).is_empty());
    family.two.watch_listener(true);
    assert_eq!(
        poll_ready(&family.two).as_slice(),
        [(Token::LISTENER, Interest::READ)]
    );
}

#[test]
fn every_one_of_many_ready_streams_is_reported() {
    const STREAMS: u64 = 200;
    let family = family();
    let streams: Vec<_> = (0..STREAMS).map(|_| family.stream()).collect();
    for (number, (out, inward)) in (0..).zip(&streams) {
        family
            .two
            .watch(inward, Token(number), Interest::READ)
            .unwrap();
        out.write(&[b"!"]).unwrap();
    }
    // Nothing is read: all stay ready, and each is still reported in turn.
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..10 {
        seen.extend(poll_ready(&family.two).iter().map(|(token, _)| token.0));
    }
    assert_eq!(seen.len(), streams.len());
}

/// The process of another user, for the test below.
#[test]
fn process_of_another_user() {
    let Ok(base) = std::env::var("OTHER_USERS_BASE") else {
        return;
    };
    let host = Host::listen(Path::new(&base), vmid(2)).unwrap();
    println!("listening");
    let refused = host.connect(vmid(1)).err();
    println!("refused: {}", refused == Some(ConnectError::NotAllowed));
    std::io::stdin().lines().next();
}

#[test]
fn a_process_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return; // Nobody else can be played.
    }
    let dir = TempDir::new().unwrap();
    let host = Host::listen(&base(&dir), vmid(1)).unwrap();
    // The file is open to all users, so that only the check of the peer's user refuses them.
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::set_permissions(host.path().unwrap(), PermissionsExt::from_mode(0o666)).unwrap();
    let Ok(mut child) = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process_of_another_user", "--nocapture"])
        .env("OTHER_USERS_BASE", base(&dir))
        .uid(65534)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
    else {
        return; // The test's own file can't be run by others.
    };
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let refused = lines.find_map(|line| {
        let line = line.unwrap();
        line.contains("refused: ").then(|| line.contains("true"))
    });
    assert_eq!(refused, Some(true), "the other process saw the refusal");
    assert_eq!(host.accept().err(), Some(AcceptError::NotAllowed));
    assert_eq!(host.accept().err(), Some(AcceptError::WouldBlock));
    assert_eq!(host.connect(vmid(2)).err(), Some(ConnectError::NotAllowed));
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn equal_relative_paths_in_two_directories_are_two_families() {
    let family = family();
    let elsewhere = TempDir::new().unwrap();
    let other = Host::listen(&base(&elsewhere), vmid(1)).unwrap();
    assert_eq!(
        other.connect(vmid(2)).err(),
        Some(ConnectError::NotListening)
    );
    assert_ne!(family.dir.path(), elsewhere.path());
}

/// Runs as a process of its own: a member that ends only by being killed, or one without descriptors.
#[test]
fn short_lived() {
    let Ok(base) = std::env::var("SHORT_LIVED_BASE") else {
        return;
    };
    if std::env::var("DESCRIPTORS").is_ok() {
        let resource = rustix::process::Resource::Nofile;
        let mut limit = rustix::process::getrlimit(resource);
        limit.current = Some(3);
        rustix::process::setrlimit(resource, limit).unwrap();
        println!(
            "refused: {}",
            Host::listen(Path::new(&base), vmid(2)).unwrap_err()
        );
        return;
    }
    let identity = Identity {
        vmid: vmid(2),
        leader: Some(Vmid::LEADER),
        parent: Some(Vmid::LEADER),
        ..Identity::LEADER
    };
    let node = HostNode::start(Path::new(&base), identity, Config::DEFAULT).unwrap();
    println!("joined: {}", node.join(Wait::at_most(common::LONG)).is_ok());
    std::io::stdin().lines().next();
}

fn short_lived_child(base: &Path) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "short_lived", "--nocapture"]);
    child.env("SHORT_LIVED_BASE", base);
    child.stdin(Stdio::piped()).stdout(Stdio::piped());
    child
}

#[test]
fn the_leader_removes_the_socket_of_a_member_that_was_killed() {
    let dir = TempDir::new().unwrap();
    let leader = HostNode::start(&base(&dir), Identity::LEADER, Config::DEFAULT).unwrap();
    leader.join(Wait::at_most(common::LONG)).unwrap();
    let mut child = short_lived_child(&base(&dir)).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("joined: true")));
    let path = dir.path().join("family.2");
    assert!(path.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    // The leader sees the end of the connection, and at the latest its own end comes after that.
    while leader.statistics().pools.peers.now > 0 {
        std::thread::yield_now();
    }
    drop(leader);
    assert!(!path.exists());
}

#[test]
fn a_new_process_that_takes_the_place_of_a_dead_one_keeps_its_socket() {
    let dir = TempDir::new().unwrap();
    let leader = Host::listen(&base(&dir), vmid(1)).unwrap();
    let path = dir.path().join("family.2");
    for _ in 0..300 {
        leave_socket_file(&path);
        let new = std::thread::scope(|scope| {
            let cleaner = scope.spawn(|| leader.clean_up_after(vmid(2)));
            let new = Host::listen(&base(&dir), vmid(2)).unwrap();
            cleaner.join().unwrap();
            new
        });
        leader.clean_up_after(vmid(2));
        leader.connect(vmid(2)).unwrap();
        drop(new);
    }
}

#[test]
fn the_error_of_a_process_without_descriptors_says_how_to_raise_their_limit() {
    let dir = TempDir::new().unwrap();
    let mut child = short_lived_child(&base(&dir));
    let output = child.env("DESCRIPTORS", "3").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("raise its limit"), "{text}");
}
