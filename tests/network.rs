//! The host platform on a network: TCP, and the sockets of virtual machines where there are any.
#![cfg(feature = "std")]
#![allow(missing_docs)]

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use libos_ipc::host::{Addresses, Host, HostNode};
use libos_ipc::pal::{AcceptError, ConnectError, Interest, Pal, Stream, StreamError, Token};
use libos_ipc::{
    ChildSelector, Config, Exit, FileLock, Identity, LockFamily, LockKind, Node, StartError, Wait,
};

mod common;
use common::{LONG, vmid, wait};

/// Listens at the addresses of members 1 and 2, at ports that are free.
fn pair(make: impl Fn(u16) -> Addresses) -> Option<(Addresses, Host, Host)> {
    for _ in 0..100 {
        // Below the ports that the kernel gives to connections.
        let addresses = make(fastrand::u16(10_000..30_000));
        let listen = |number| Host::listen_at(&addresses, vmid(number));
        match (listen(1), listen(2)) {
            (Ok(one), Ok(two)) => return Some((addresses, one, two)),
            (Err(error), _) | (_, Err(error)) if error.kind() != ErrorKind::AddrInUse => {
                println!("skipped: {error}");
                return None;
            }
            _ => {}
        }
    }
    panic!("no free ports");
}

/// All addresses that begin with 127 are this machine's: no other run of these tests uses this one.
fn tcp(base: u16) -> Addresses {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Addresses::Tcp {
        host: Ipv4Addr::new(127, high, middle, low).into(),
        base,
    }
}

/// CID 1 is this machine. Few machines have that transport, and no package provides it: it is no failure to have none.
fn vsock(base: u16) -> Addresses {
    Addresses::Vsock {
        cid: 1,
        base: base.into(),
    }
}

/// Moves bytes from one member to the other, and ends the stream on either side.
fn streams_work(one: &Host, two: &Host) {
    for ends_first in ["writer", "reader"] {
        let out = one.connect(vmid(2)).unwrap();
        assert_eq!(wait(two).as_slice(), [(Token::LISTENER, Interest::READ)]);
        let inward = two.accept().unwrap();
        assert_eq!(inward.opener(), None, "a network does not know it");
        assert_eq!(two.accept().err(), Some(AcceptError::WouldBlock));
        let mut buffer = [0; 16];
        assert_eq!(inward.read(&mut buffer), Err(StreamError::WouldBlock));
        two.watch(&inward, Token(7), Interest::READ).unwrap();
        assert_eq!(out.write(&[b"he", b"", b"ll", b"o"]), Ok(5));
        assert_eq!(wait(two).as_slice(), [(Token(7), Interest::READ)]);
        assert_eq!(inward.read(&mut buffer), Ok(5));
        if ends_first == "writer" {
            assert_eq!(out.write(&[b"bye"]), Ok(3));
            drop(out);
            let mut last = Vec::new();
            loop {
                wait(two);
                match inward.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => last.extend_from_slice(&buffer[..count]),
                    Err(error) => assert_eq!(error, StreamError::WouldBlock),
                }
            }
            assert_eq!(last, b"bye");
        } else {
            // A writer without anything to write sees the end, too.
            one.watch(&out, Token(3), Interest::HANG_UP).unwrap();
            drop(inward);
            assert_eq!(wait(one).as_slice(), [(Token(3), Interest::HANG_UP)]);
        }
    }
}

#[test]
fn streams_over_tcp_carry_bytes_and_their_ends() {
    let (_, one, two) = pair(tcp).unwrap();
    streams_work(&one, &two);
}

#[test]
fn streams_over_vsock_carry_bytes_and_their_ends() {
    if let Some((_, one, two)) = pair(vsock) {
        streams_work(&one, &two);
    }
}

#[test]
fn a_full_tcp_stream_would_block_until_it_is_read() {
    let (_, one, two) = pair(tcp).unwrap();
    let out = one.connect(vmid(2)).unwrap();
    wait(&two);
    let inward = two.accept().unwrap();
    let block = [1; 16384];
    let mut sent = 0;
    let error = loop {
        match out.write(&[&block, &block]) {
            Ok(count) => sent += count,
            Err(error) => break error,
        }
    };
    assert_eq!(error, StreamError::WouldBlock);
    one.watch(&out, Token(1), Interest::WRITE).unwrap();
    two.watch(&inward, Token(2), Interest::READ).unwrap();
    let mut buffer = [0; 16384];
    let mut received = 0;
    while received < sent {
        wait(&two);
        received += inward.read(&mut buffer).unwrap_or(0);
    }
    assert_eq!(received, sent);
    assert_eq!(wait(&one).as_slice(), [(Token(1), Interest::WRITE)]);
}

#[test]
fn a_port_where_no_process_listens_is_not_connected_to() {
    let (_, one, _two) = pair(tcp).unwrap();
    for number in 3..10 {
        let refused = one.connect(vmid(number)).err();
        // Another program may listen there.
        assert!(matches!(refused, None | Some(ConnectError::NotListening)));
    }
    assert_eq!(
        one.connect(vmid(900_000)).err(),
        Some(ConnectError::NotListening)
    );
}

#[test]
fn errors_of_addresses_say_what_to_do() {
    let (addresses, _one, _two) = pair(tcp).unwrap();
    let text = |addresses: &Addresses, number| {
        let error = Host::listen_at(addresses, vmid(number)).err().unwrap();
        error.to_string()
    };
    assert!(text(&addresses, 1).contains("another process listens there"));
    assert!(text(&tcp(65_000), 536).contains("there are 535"));
    let none = Addresses::TcpMap(Arc::new(|_| None));
    assert!(text(&none, 1).contains("no address"));
    // An address of documentation, which no machine has.
    let far = Addresses::TcpMap(Arc::new(|_| Some(SocketAddr::from(([192, 0, 2, 1], 1)))));
    assert!(
        text(&far, 1).contains("no such address"),
        "{}",
        text(&far, 1)
    );
    for wrong in [
        "tcp:",
        "tcp:localhost:1",
        "tcp:127.0.0.1",
        "vsock:1",
        "vsock:a:b",
    ] {
        let error = wrong.parse::<Addresses>().err().unwrap();
        assert!(error.to_string().contains("expected"), "{error}");
    }
}

#[test]
fn addresses_as_text_are_read_again() {
    for text in [
        "unix:/run/family",
        "tcp:127.0.0.1:40000",
        "tcp:[::1]:40000",
        "vsock:1:40000",
    ] {
        assert_eq!(text.parse::<Addresses>().unwrap().to_string(), text);
    }
    assert_eq!(
        "/run/family".parse::<Addresses>().unwrap().to_string(),
        "unix:/run/family"
    );
}

/// Streams that others could read and change are used only if the embedder asks for them.
#[test]
fn a_node_on_a_network_needs_secure_streams_or_the_permission_for_plain_ones() {
    let (_, one, two) = pair(tcp).unwrap();
    let memory = || vec![std::mem::MaybeUninit::uninit(); 4 << 20];
    let made = Node::new(one, Identity::LEADER, Config::DEFAULT, &mut memory()).err();
    assert_eq!(made, Some(StartError::NotSecure));
    let made = Node::new(
        two.allow_plain(),
        Identity::LEADER,
        Config::DEFAULT,
        &mut memory(),
    )
    .err();
    assert_eq!(made, None);
}

/// Checks locks, signals and exits between the two nodes of a family.
fn family_works<P: Pal + 'static>(start: impl Fn(Identity) -> HostNode<P>) {
    let wait = Wait::at_most(LONG);
    let first = start(Identity::LEADER);
    first.join(wait).unwrap();
    let identity = first.start_child(wait).unwrap();
    let child = start(identity);
    let pid = child.join(wait).unwrap();
    let lock = |kind| FileLock {
        family: LockFamily::Posix,
        kind,
        start: 0,
        end: 9,
        pid: child.pid().unwrap().get(),
        handle: 0,
        wait: false,
        path: b"/file",
    };
    child.set_lock(&lock(LockKind::Write), wait).unwrap();
    child.set_lock(&lock(LockKind::Unlock), wait).unwrap();
    let (mine, theirs) = (
        first.share::<u64>(Some(7)).unwrap(),
        child.share::<u64>(Some(7)).unwrap(),
    );
    *theirs.write(wait).unwrap() += 5;
    assert_eq!(*mine.read(wait).unwrap(), 5);
    drop(theirs);
    child
        .exit(
            Exit {
                code: 3,
                ..Exit::default()
            },
            wait,
        )
        .unwrap();
    drop(child);
    assert_eq!(
        first
            .wait_child(ChildSelector::Pid(pid), wait)
            .unwrap()
            .code,
        3
    );
    drop(mine);
    first.shut_down(Duration::from_secs(5));
}

#[test]
fn a_family_works_over_plain_tcp_if_it_is_allowed() {
    let (_, one, two) = pair(tcp).unwrap();
    let hosts = RefCell::new(vec![two, one]);
    family_works(|identity| {
        let host = hosts.borrow_mut().pop().unwrap();
        HostNode::over(
            host.allow_plain(),
            identity,
            Config::DEFAULT,
            Box::new(NoEmbedder),
        )
        .unwrap()
    });
}

struct NoEmbedder;
impl<P: Pal> libos_ipc::Embedder<P> for NoEmbedder {}

#[cfg(feature = "secure")]
mod secure {
    use libos_ipc::host::random;
    use libos_ipc::pal::secure::FamilyKey;

    use super::*;

    fn works_at(addresses: &Addresses) {
        let key = FamilyKey::generate(random).unwrap();
        family_works(|identity| {
            let key = key.clone();
            HostNode::start_secure_at(
                addresses,
                identity,
                Config::DEFAULT,
                key,
                Box::new(NoEmbedder),
            )
            .unwrap()
        });
    }

    #[test]
    fn a_family_works_over_secure_tcp() {
        let (addresses, one, two) = pair(tcp).unwrap();
        drop((one, two));
        works_at(&addresses);
    }

    #[test]
    fn a_family_works_over_secure_vsock() {
        if let Some((addresses, one, two)) = pair(vsock) {
            drop((one, two));
            works_at(&addresses);
        }
    }
}
