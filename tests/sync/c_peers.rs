//! Sync handles with processes in C as peers, byte for byte. The oracle is the layout of the C
//! implementation in `docs/protocol.md`.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::wire::SyncState;
use libos_ipc::{Config, Error, Identity, LeaseLimits, Refusal, Vmid, Wait};

use crate::c_server::{
    CONFIRM_CLOSE, CONFIRM_DOWNGRADE, CONFIRM_UPGRADE, EXCLUSIVE, INVALID, NONE, REQUEST_CLOSE,
    REQUEST_DOWNGRADE, REQUEST_UPGRADE, SHARED,
};
use crate::host_family::Family;
use crate::peer::{Peer, assert_closed, frame};

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(10));

const ID: u64 = 0x0000_0002_0000_0001;

/// A message: its code, state and data.
type ClientMessage<'a> = (u8, i32, &'a [u8]);

/// Returns the payload of a message in the layout of C: the data begins in the struct's padding, and four spare bytes end it.
fn sync(state: i32, data: &[u8]) -> Vec<u8> {
    let mut bytes = ID.to_le_bytes().to_vec();
    bytes.extend((data.len() as u64).to_le_bytes());
    bytes.extend(state.to_le_bytes());
    bytes.extend(data);
    bytes.extend([0; 4]);
    bytes
}

/// A client in C.
struct Client(Peer);

impl Client {
    fn join(family: &Family, vmid: u32) -> Client {
        Client(Peer::join(&family.base, vmid))
    }

    fn send(&mut self, code: u8, state: i32, data: &[u8]) {
        let bytes = frame(0, code, &sync(state, data));
        self.0.to.write_all(&bytes).unwrap();
    }

    /// Checks that the next message of the server is exactly this.
    fn expect_message(&mut self, code: u8, state: i32, data: &[u8]) {
        let expected = frame(0, code, &sync(state, data));
        let mut bytes = vec![0; expected.len()];
        self.0.from().read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, expected);
    }

    /// Checks that the server has no message: it answers another request first.
    fn expect_no_message(&mut self) {
        assert_eq!(self.0.owner_of(1), 1);
    }
}

fn family() -> Family {
    Family::new()
}

#[test]
fn value_moves_with_the_lease_between_c_clients() {
    let family = family();
    let (mut one, mut two) = (Client::join(&family, 2), Client::join(&family, 3));
    one.send(REQUEST_UPGRADE, EXCLUSIVE, b"");
    one.expect_message(CONFIRM_UPGRADE, EXCLUSIVE, b"");
    two.send(REQUEST_UPGRADE, SHARED, b"");
    one.expect_message(REQUEST_DOWNGRADE, SHARED, b"");
    two.expect_no_message();
    one.send(CONFIRM_DOWNGRADE, SHARED, b"data");
    two.expect_message(CONFIRM_UPGRADE, SHARED, b"data");
    two.send(REQUEST_UPGRADE, EXCLUSIVE, b"");
    one.expect_message(REQUEST_DOWNGRADE, INVALID, b"");
    one.send(CONFIRM_DOWNGRADE, INVALID, b"");
    two.expect_message(CONFIRM_UPGRADE, EXCLUSIVE, b"data");
    two.send(REQUEST_CLOSE, EXCLUSIVE, b"more data");
    two.expect_message(CONFIRM_CLOSE, INVALID, b"");
    one.send(REQUEST_UPGRADE, SHARED, b"");
    one.expect_message(CONFIRM_UPGRADE, SHARED, b"more data");
    one.send(REQUEST_CLOSE, SHARED, b"");
    one.expect_message(CONFIRM_CLOSE, INVALID, b"");
    assert_eq!(family.leader.statistics().pools.served_handles.now, 0);
}

#[test]
fn c_client_that_requests_twice_gets_the_stronger_lease() {
    let family = family();
    let (mut one, mut two) = (Client::join(&family, 2), Client::join(&family, 3));
    // The server grants both requests, one after the other.
    one.send(REQUEST_UPGRADE, SHARED, b"");
    one.send(REQUEST_UPGRADE, EXCLUSIVE, b"");
    one.expect_message(CONFIRM_UPGRADE, SHARED, b"");
    one.expect_message(CONFIRM_UPGRADE, EXCLUSIVE, b"");
    // While another client excludes them, only the stronger one counts.
    two.send(REQUEST_UPGRADE, SHARED, b"");
    two.send(REQUEST_UPGRADE, EXCLUSIVE, b"");
    one.expect_message(REQUEST_DOWNGRADE, SHARED, b"");
    one.expect_message(REQUEST_DOWNGRADE, INVALID, b"");
    one.send(CONFIRM_DOWNGRADE, SHARED, b"1");
    two.expect_no_message();
    one.send(CONFIRM_DOWNGRADE, INVALID, b"");
    two.expect_message(CONFIRM_UPGRADE, EXCLUSIVE, b"1");
    // The server grants the stronger one at once.
    one.send(REQUEST_UPGRADE, SHARED, b"");
    two.expect_message(REQUEST_DOWNGRADE, SHARED, b"");
    one.send(REQUEST_UPGRADE, EXCLUSIVE, b"");
    two.expect_message(REQUEST_DOWNGRADE, INVALID, b"");
    two.send(CONFIRM_DOWNGRADE, INVALID, b"2");
    one.expect_message(CONFIRM_UPGRADE, EXCLUSIVE, b"2");
}

#[test]
fn writer_is_not_starved_by_readers_of_other_processes() {
    let family = family();
    let mut clients = [2, 3, 4, 5].map(|vmid| Client::join(&family, vmid));
    let [one, two, writer, late] = &mut clients;
    for reader in [&mut *one, &mut *two] {
        reader.send(REQUEST_UPGRADE, SHARED, b"");
        reader.expect_message(CONFIRM_UPGRADE, SHARED, b"");
    }
    writer.send(REQUEST_UPGRADE, EXCLUSIVE, b"");
    one.expect_message(REQUEST_DOWNGRADE, INVALID, b"");
    two.expect_message(REQUEST_DOWNGRADE, INVALID, b"");
    late.send(REQUEST_UPGRADE, SHARED, b"");
    one.send(CONFIRM_DOWNGRADE, INVALID, b"");
    one.send(REQUEST_UPGRADE, SHARED, b"");
    for waiting in [&mut *one, &mut *late, &mut *writer] {
        waiting.expect_no_message();
    }
    two.send(CONFIRM_DOWNGRADE, INVALID, b"");
    writer.expect_message(CONFIRM_UPGRADE, EXCLUSIVE, b"");
    writer.expect_message(REQUEST_DOWNGRADE, SHARED, b"");
    writer.send(CONFIRM_DOWNGRADE, SHARED, b"x");
    for waiting in [one, late] {
        waiting.expect_message(CONFIRM_UPGRADE, SHARED, b"x");
    }
}

#[test]
fn protocol_violation_closes_only_its_own_connection() {
    let sent: [(&str, &[ClientMessage<'_>]); 9] = [
        ("no state", &[(REQUEST_UPGRADE, NONE, b"")]),
        ("nothing to return", &[(CONFIRM_DOWNGRADE, INVALID, b"")]),
        ("nothing to close", &[(REQUEST_CLOSE, SHARED, b"")]),
        (
            "not revoked",
            &[
                (REQUEST_UPGRADE, SHARED, b""),
                (CONFIRM_DOWNGRADE, INVALID, b""),
            ],
        ),
        (
            "asked again after closing",
            &[
                (REQUEST_UPGRADE, SHARED, b""),
                (REQUEST_CLOSE, SHARED, b""),
                (REQUEST_CLOSE, SHARED, b""),
            ],
        ),
        (
            "too much data",
            &[
                (REQUEST_UPGRADE, EXCLUSIVE, b""),
                (REQUEST_CLOSE, EXCLUSIVE, &[0; 1025]),
            ],
        ),
        (
            "a message that only a server sends",
            &[(CONFIRM_UPGRADE, SHARED, b"")],
        ),
        (
            "a message that only a server sends",
            &[(REQUEST_DOWNGRADE, SHARED, b"")],
        ),
        (
            "a message that only a server sends",
            &[(CONFIRM_CLOSE, INVALID, b"")],
        ),
    ];
    for (what, sent) in sent {
        let family = family();
        let mut good = Client::join(&family, 2);
        let mut bad = Client::join(&family, 3);
        for (code, state, data) in sent {
            bad.send(*code, *state, data);
        }
        assert_closed(&mut bad.0.to, what);
        let statistics = family.leader.statistics();
        let refused = statistics.refused(Refusal::SyncProtocolViolation)
            + statistics.refused(Refusal::WrongRole);
        assert_eq!(refused, 1, "{what}");
        good.send(REQUEST_UPGRADE, EXCLUSIVE, b"");
        good.expect_message(CONFIRM_UPGRADE, EXCLUSIVE, b"");
        assert!(family.leader.check_invariants());
    }
}

#[test]
fn c_client_without_room_keeps_its_connection() {
    let mut config = Config::DEFAULT;
    config.capacities.leases = LeaseLimits {
        handles: 0,
        clients: 0,
    };
    let family = Family::with(config);
    let mut one = Client::join(&family, 2);
    one.send(REQUEST_UPGRADE, SHARED, b"");
    one.expect_no_message();
    assert_eq!(family.leader.statistics().rejected_oneway, 1);
    one.send(REQUEST_CLOSE, INVALID, b"");
    one.expect_message(CONFIRM_CLOSE, INVALID, b"");
}

/// Reads the HELLO that a member sends to a leader first; a leader in C skips it.
fn expect_hello(from: &mut UnixStream) {
    let mut bytes = [0; 33];
    from.read_exact(&mut bytes).unwrap();
    let hello = [&1_u32.to_le_bytes()[..], &[0; 12]].concat();
    assert_eq!(bytes[..], frame(0, 64, &hello));
}

/// A leader in C, and its member.
struct Server {
    node: HostNode,
    to: UnixStream,
    from: UnixStream,
}

impl Server {
    fn start(base: &Path) -> Server {
        let listener = UnixListener::bind(format!("{}.1", base.display())).unwrap();
        let vmid = Vmid::new(2).unwrap();
        let identity = Identity::child(vmid, Vmid::LEADER);
        let node = HostNode::start(base, identity, Config::DEFAULT).unwrap();
        node.connect(Vmid::LEADER).unwrap();
        let (mut from, _) = listener.accept().unwrap();
        let mut sent = [0; 4];
        from.read_exact(&mut sent).unwrap();
        assert_eq!(sent, 2_u32.to_le_bytes());
        let mut to = UnixStream::connect(format!("{}.2", base.display())).unwrap();
        to.write_all(&1_u32.to_le_bytes()).unwrap();
        Server { node, to, from }
    }

    fn send(&mut self, code: u8, state: i32, data: &[u8]) {
        self.to
            .write_all(&frame(0, code, &sync(state, data)))
            .unwrap();
    }

    fn expect_message(&mut self, code: u8, state: i32, data: &[u8]) {
        let expected = frame(0, code, &sync(state, data));
        let mut bytes = vec![0; expected.len()];
        self.from.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, expected);
    }
}

#[test]
fn member_shares_values_through_a_c_leader() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(&directory.path().join("f"));
    let Server { node, to, from } = &mut server;
    let (mut to, mut from) = (to.try_clone().unwrap(), from.try_clone().unwrap());
    let mut hello_from = from.try_clone().unwrap();
    let mut exchange = |sent: &[ClientMessage<'_>], expected: &[ClientMessage<'_>]| {
        for (code, state, data) in expected {
            let expected = frame(0, *code, &sync(*state, data));
            let mut bytes = vec![0; expected.len()];
            from.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, expected);
        }
        for (code, state, data) in sent {
            to.write_all(&frame(0, *code, &sync(*state, data))).unwrap();
        }
    };
    let handle = node.open_sync(Some(ID)).unwrap();
    let (shared, exclusive) = (SyncState::Shared, SyncState::Exclusive);
    let mut data = [0; 8];
    thread::scope(|scope| {
        let taken = scope.spawn(|| node.lock_sync(handle, shared, &mut data, WAIT).unwrap().0);
        expect_hello(&mut hello_from);
        exchange(
            &[(CONFIRM_UPGRADE, SHARED, b"abc")],
            &[(REQUEST_UPGRADE, SHARED, b"")],
        );
        assert_eq!(taken.join().unwrap(), 3);
    });
    assert_eq!(&data[..3], b"abc");
    // The lease is not upgraded in place, for the leader in C would let others change the value in
    // between. The unused lease goes back first.
    assert_eq!(node.upgrade_sync(handle, WAIT), Err(Error::Unsupported));
    node.unlock_sync(handle, shared, None).unwrap();
    thread::scope(|scope| {
        let taken = scope.spawn(|| node.lock_sync(handle, exclusive, &mut [], WAIT).unwrap().0);
        exchange(
            &[(CONFIRM_UPGRADE, EXCLUSIVE, b"abc")],
            &[
                (CONFIRM_DOWNGRADE, INVALID, b""),
                (REQUEST_UPGRADE, EXCLUSIVE, b""),
            ],
        );
        assert_eq!(taken.join().unwrap(), 3);
    });
    // The leader revokes the lease in two steps while it is in use; the member has received both
    // when it answers another request.
    exchange(
        &[
            (REQUEST_DOWNGRADE, SHARED, b""),
            (REQUEST_DOWNGRADE, INVALID, b""),
        ],
        &[],
    );
    while node.statistics().frames_in < 4 {
        thread::yield_now();
    }
    node.unlock_sync(handle, exclusive, Some(b"defg")).unwrap();
    exchange(&[], &[(CONFIRM_DOWNGRADE, INVALID, b"defg")]);
    // An unused lease goes back at once, in two steps.
    thread::scope(|scope| {
        let taken = scope.spawn(|| {
            node.lock_sync(handle, exclusive, &mut data, WAIT)
                .unwrap()
                .0
        });
        exchange(
            &[(CONFIRM_UPGRADE, EXCLUSIVE, b"hi")],
            &[(REQUEST_UPGRADE, EXCLUSIVE, b"")],
        );
        assert_eq!(taken.join().unwrap(), 2);
    });
    node.unlock_sync(handle, exclusive, None).unwrap();
    exchange(&[(REQUEST_DOWNGRADE, SHARED, b"")], &[]);
    exchange(
        &[(REQUEST_DOWNGRADE, INVALID, b"")],
        &[(CONFIRM_DOWNGRADE, SHARED, b"hi")],
    );
    exchange(&[], &[(CONFIRM_DOWNGRADE, INVALID, b"")]);
    // A leader in C does not learn that a wait has ended: the member keeps the lease that arrives
    // late.
    let short = Wait::at_most(Duration::from_millis(5));
    let late = node.lock_sync(handle, exclusive, &mut data, short);
    assert_eq!(late.err(), Some(Error::TimedOut));
    exchange(
        &[(CONFIRM_UPGRADE, EXCLUSIVE, b"late")],
        &[(REQUEST_UPGRADE, EXCLUSIVE, b"")],
    );
    node.lock_sync(handle, shared, &mut data, WAIT).unwrap();
    assert_eq!(&data[..4], b"late");
    node.unlock_sync(handle, shared, None).unwrap();
    thread::scope(|scope| {
        let closed = scope.spawn(|| node.close_sync(handle, WAIT));
        exchange(
            &[(CONFIRM_CLOSE, INVALID, b"")],
            &[(REQUEST_CLOSE, EXCLUSIVE, b"late")],
        );
        assert_eq!(closed.join().unwrap(), Ok(()));
    });
}

#[test]
fn leader_that_violates_the_protocol_is_disconnected() {
    let sent: [&[ClientMessage<'_>]; 5] = [
        &[(CONFIRM_UPGRADE, EXCLUSIVE, b"more than it asked for")],
        &[(CONFIRM_UPGRADE, SHARED, &[0; 1025])],
        &[(CONFIRM_CLOSE, INVALID, b"")],
        &[
            (CONFIRM_UPGRADE, SHARED, b""),
            (REQUEST_DOWNGRADE, EXCLUSIVE, b""),
        ],
        &[(REQUEST_UPGRADE, SHARED, b"")],
    ];
    for sent in sent {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Server::start(&directory.path().join("f"));
        let handle = server.node.open_sync(Some(ID)).unwrap();
        let now = Wait::at_most(Duration::ZERO);
        let _ = server
            .node
            .lock_sync(handle, SyncState::Shared, &mut [], now);
        expect_hello(&mut server.from);
        server.expect_message(REQUEST_UPGRADE, SHARED, b"");
        for (code, state, data) in sent {
            server.send(*code, *state, data);
        }
        assert_closed(&mut server.from, "it is surprised");
        let statistics = server.node.statistics();
        let refused = statistics.refused(Refusal::SyncProtocolViolation)
            + statistics.refused(Refusal::WrongRole)
            + Refusal::all()
                .filter(|refusal| matches!(refusal, Refusal::Malformed(_)))
                .map(|refusal| statistics.refused(refusal))
                .sum::<u64>();
        assert_eq!(refused, 1);
    }
}
