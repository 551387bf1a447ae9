//! Sync handles, byte for byte: with processes in C on either side.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::wire::SyncState;
use libos_ipc::{Config, Error, Identity, LeaseLimits, Refusal, Vmid, Wait};

use crate::peer::{Peer, assert_closed, frame};
use crate::shared::Family;

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(10));

const REQUEST_UPGRADE: u8 = 9;
const REQUEST_DOWNGRADE: u8 = 10;
const REQUEST_CLOSE: u8 = 11;
const CONFIRM_UPGRADE: u8 = 12;
const CONFIRM_DOWNGRADE: u8 = 13;
const CONFIRM_CLOSE: u8 = 14;

const NONE: i32 = 0;
const INVALID: i32 = 1;
const SHARED: i32 = 2;
const EXCLUSIVE: i32 = 3;

const ID: u64 = 0x0000_0002_0000_0001;

/// A code, a state, data.
type Said<'a> = (u8, i32, &'a [u8]);

/// What C lays out: the data begins in the struct's padding, and four spare bytes end it.
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

    fn say(&mut self, code: u8, state: i32, data: &[u8]) {
        let bytes = frame(0, code, &sync(state, data));
        self.0.to.write_all(&bytes).unwrap();
    }

    /// The next that the server says is exactly this.
    fn hears(&mut self, code: u8, state: i32, data: &[u8]) {
        let expected = frame(0, code, &sync(state, data));
        let mut bytes = vec![0; expected.len()];
        self.0.from().read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, expected);
    }

    /// The server has nothing more to say: it answers something else first.
    fn hears_nothing(&mut self) {
        assert_eq!(self.0.owner_of(1), 1);
    }
}

fn family() -> Family {
    Family::new()
}

#[test]
fn the_data_goes_from_one_to_the_other() {
    let family = family();
    let (mut one, mut two) = (Client::join(&family, 2), Client::join(&family, 3));
    one.say(REQUEST_UPGRADE, EXCLUSIVE, b"");
    one.hears(CONFIRM_UPGRADE, EXCLUSIVE, b"");
    two.say(REQUEST_UPGRADE, SHARED, b"");
    one.hears(REQUEST_DOWNGRADE, SHARED, b"");
    two.hears_nothing();
    one.say(CONFIRM_DOWNGRADE, SHARED, b"data");
    two.hears(CONFIRM_UPGRADE, SHARED, b"data");
    two.say(REQUEST_UPGRADE, EXCLUSIVE, b"");
    one.hears(REQUEST_DOWNGRADE, INVALID, b"");
    one.say(CONFIRM_DOWNGRADE, INVALID, b"");
    two.hears(CONFIRM_UPGRADE, EXCLUSIVE, b"data");
    two.say(REQUEST_CLOSE, EXCLUSIVE, b"more data");
    two.hears(CONFIRM_CLOSE, INVALID, b"");
    one.say(REQUEST_UPGRADE, SHARED, b"");
    one.hears(CONFIRM_UPGRADE, SHARED, b"more data");
    one.say(REQUEST_CLOSE, SHARED, b"");
    one.hears(CONFIRM_CLOSE, INVALID, b"");
    assert_eq!(family.leader.statistics().pools.served_handles.now, 0);
}

#[test]
fn a_client_asks_for_more_before_it_has_less() {
    let family = family();
    let (mut one, mut two) = (Client::join(&family, 2), Client::join(&family, 3));
    // Both are granted, one after the other.
    one.say(REQUEST_UPGRADE, SHARED, b"");
    one.say(REQUEST_UPGRADE, EXCLUSIVE, b"");
    one.hears(CONFIRM_UPGRADE, SHARED, b"");
    one.hears(CONFIRM_UPGRADE, EXCLUSIVE, b"");
    // Where another is in the way, only the more.
    two.say(REQUEST_UPGRADE, SHARED, b"");
    two.say(REQUEST_UPGRADE, EXCLUSIVE, b"");
    one.hears(REQUEST_DOWNGRADE, SHARED, b"");
    one.hears(REQUEST_DOWNGRADE, INVALID, b"");
    one.say(CONFIRM_DOWNGRADE, SHARED, b"1");
    two.hears_nothing();
    one.say(CONFIRM_DOWNGRADE, INVALID, b"");
    two.hears(CONFIRM_UPGRADE, EXCLUSIVE, b"1");
    // Or both are confirmed at once.
    one.say(REQUEST_UPGRADE, SHARED, b"");
    two.hears(REQUEST_DOWNGRADE, SHARED, b"");
    one.say(REQUEST_UPGRADE, EXCLUSIVE, b"");
    two.hears(REQUEST_DOWNGRADE, INVALID, b"");
    two.say(CONFIRM_DOWNGRADE, INVALID, b"2");
    one.hears(CONFIRM_UPGRADE, EXCLUSIVE, b"2");
}

#[test]
fn one_that_changes_is_not_starved_by_those_who_read() {
    let family = family();
    let mut clients = [2, 3, 4, 5].map(|vmid| Client::join(&family, vmid));
    let [one, two, writer, late] = &mut clients;
    for reader in [&mut *one, &mut *two] {
        reader.say(REQUEST_UPGRADE, SHARED, b"");
        reader.hears(CONFIRM_UPGRADE, SHARED, b"");
    }
    writer.say(REQUEST_UPGRADE, EXCLUSIVE, b"");
    one.hears(REQUEST_DOWNGRADE, INVALID, b"");
    two.hears(REQUEST_DOWNGRADE, INVALID, b"");
    late.say(REQUEST_UPGRADE, SHARED, b"");
    one.say(CONFIRM_DOWNGRADE, INVALID, b"");
    one.say(REQUEST_UPGRADE, SHARED, b"");
    for waiting in [&mut *one, &mut *late, &mut *writer] {
        waiting.hears_nothing();
    }
    two.say(CONFIRM_DOWNGRADE, INVALID, b"");
    writer.hears(CONFIRM_UPGRADE, EXCLUSIVE, b"");
    writer.hears(REQUEST_DOWNGRADE, SHARED, b"");
    writer.say(CONFIRM_DOWNGRADE, SHARED, b"x");
    for waiting in [one, late] {
        waiting.hears(CONFIRM_UPGRADE, SHARED, b"x");
    }
}

#[test]
fn what_does_not_fit_closes_the_connection_and_harms_nobody() {
    let says: [(&str, &[Said<'_>]); 9] = [
        ("no state", &[(REQUEST_UPGRADE, NONE, b"")]),
        ("nothing to give back", &[(CONFIRM_DOWNGRADE, INVALID, b"")]),
        ("nothing to close", &[(REQUEST_CLOSE, SHARED, b"")]),
        (
            "not asked to give back",
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
        ("a server's word", &[(CONFIRM_UPGRADE, SHARED, b"")]),
        ("a server's word", &[(REQUEST_DOWNGRADE, SHARED, b"")]),
        ("a server's word", &[(CONFIRM_CLOSE, INVALID, b"")]),
    ];
    for (what, says) in says {
        let family = family();
        let mut good = Client::join(&family, 2);
        let mut bad = Client::join(&family, 3);
        for (code, state, data) in says {
            bad.say(*code, *state, data);
        }
        assert_closed(&mut bad.0.to, what);
        let statistics = family.leader.statistics();
        let refused = statistics.refused(Refusal::SyncProtocolViolation)
            + statistics.refused(Refusal::WrongRole);
        assert_eq!(refused, 1, "{what}");
        good.say(REQUEST_UPGRADE, EXCLUSIVE, b"");
        good.hears(CONFIRM_UPGRADE, EXCLUSIVE, b"");
        assert!(family.leader.is_sound());
    }
}

#[test]
fn a_client_in_c_that_finds_no_room_lives_on() {
    let mut config = Config::DEFAULT;
    config.capacities.leases = LeaseLimits {
        handles: 0,
        clients: 0,
    };
    let family = Family::with(config);
    let mut one = Client::join(&family, 2);
    one.say(REQUEST_UPGRADE, SHARED, b"");
    one.hears_nothing();
    assert_eq!(family.leader.statistics().undone, 1);
    one.say(REQUEST_CLOSE, INVALID, b"");
    one.hears(CONFIRM_CLOSE, INVALID, b"");
}

/// What a member says first to a leader, which skips it if it is in C.
fn hears_hello(from: &mut UnixStream) {
    let mut bytes = [0; 33];
    from.read_exact(&mut bytes).unwrap();
    let hello = [&1_u32.to_le_bytes()[..], &[0; 12]].concat();
    assert_eq!(bytes[..], frame(0, 64, &hello));
}

/// A leader in C, and the member that it has.
struct Server {
    node: HostNode,
    to: UnixStream,
    from: UnixStream,
}

impl Server {
    fn start(base: &Path) -> Server {
        let listener = UnixListener::bind(format!("{}.1", base.display())).unwrap();
        let vmid = Vmid::new(2).unwrap();
        let identity = Identity::child(vmid, Vmid::FIRST);
        let node = HostNode::start(base, identity, Config::DEFAULT).unwrap();
        node.connect(Vmid::FIRST).unwrap();
        let (mut from, _) = listener.accept().unwrap();
        let mut said = [0; 4];
        from.read_exact(&mut said).unwrap();
        assert_eq!(said, 2_u32.to_le_bytes());
        let mut to = UnixStream::connect(format!("{}.2", base.display())).unwrap();
        to.write_all(&1_u32.to_le_bytes()).unwrap();
        Server { node, to, from }
    }

    fn say(&mut self, code: u8, state: i32, data: &[u8]) {
        self.to
            .write_all(&frame(0, code, &sync(state, data)))
            .unwrap();
    }

    fn hears(&mut self, code: u8, state: i32, data: &[u8]) {
        let expected = frame(0, code, &sync(state, data));
        let mut bytes = vec![0; expected.len()];
        self.from.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, expected);
    }
}

#[test]
fn a_member_has_a_leader_in_c() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(&directory.path().join("f"));
    let Server { node, to, from } = &mut server;
    let (mut to, mut from) = (to.try_clone().unwrap(), from.try_clone().unwrap());
    let mut hello_from = from.try_clone().unwrap();
    let mut talk = |says: &[Said<'_>], hears: &[Said<'_>]| {
        for (code, state, data) in hears {
            let expected = frame(0, *code, &sync(*state, data));
            let mut bytes = vec![0; expected.len()];
            from.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, expected);
        }
        for (code, state, data) in says {
            to.write_all(&frame(0, *code, &sync(*state, data))).unwrap();
        }
    };
    let handle = node.open_sync(Some(ID)).unwrap();
    let (shared, exclusive) = (SyncState::Shared, SyncState::Exclusive);
    let mut data = [0; 8];
    thread::scope(|scope| {
        let taken = scope.spawn(|| node.lock_sync(handle, shared, &mut data, WAIT).unwrap().0);
        hears_hello(&mut hello_from);
        talk(
            &[(CONFIRM_UPGRADE, SHARED, b"abc")],
            &[(REQUEST_UPGRADE, SHARED, b"")],
        );
        assert_eq!(taken.join().unwrap(), 3);
    });
    assert_eq!(&data[..3], b"abc");
    // Not in place: others would come in between. What is not used goes back first.
    assert_eq!(node.upgrade_sync(handle, WAIT), Err(Error::Unsupported));
    node.unlock_sync(handle, shared, None).unwrap();
    thread::scope(|scope| {
        let taken = scope.spawn(|| node.lock_sync(handle, exclusive, &mut [], WAIT).unwrap().0);
        talk(
            &[(CONFIRM_UPGRADE, EXCLUSIVE, b"abc")],
            &[
                (CONFIRM_DOWNGRADE, INVALID, b""),
                (REQUEST_UPGRADE, EXCLUSIVE, b""),
            ],
        );
        assert_eq!(taken.join().unwrap(), 3);
    });
    // Asked back to the one and then to the other while it is in use: both are heard when the member
    // answers something else.
    talk(
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
    talk(&[], &[(CONFIRM_DOWNGRADE, INVALID, b"defg")]);
    // Unused it goes back at once, step by step.
    thread::scope(|scope| {
        let taken = scope.spawn(|| {
            node.lock_sync(handle, exclusive, &mut data, WAIT)
                .unwrap()
                .0
        });
        talk(
            &[(CONFIRM_UPGRADE, EXCLUSIVE, b"hi")],
            &[(REQUEST_UPGRADE, EXCLUSIVE, b"")],
        );
        assert_eq!(taken.join().unwrap(), 2);
    });
    node.unlock_sync(handle, exclusive, None).unwrap();
    talk(&[(REQUEST_DOWNGRADE, SHARED, b"")], &[]);
    talk(
        &[(REQUEST_DOWNGRADE, INVALID, b"")],
        &[(CONFIRM_DOWNGRADE, SHARED, b"hi")],
    );
    talk(&[], &[(CONFIRM_DOWNGRADE, INVALID, b"")]);
    // A leader in C is not told that a wait is over: what comes late is kept.
    let short = Wait::at_most(Duration::from_millis(5));
    let late = node.lock_sync(handle, exclusive, &mut data, short);
    assert_eq!(late.err(), Some(Error::TimedOut));
    talk(
        &[(CONFIRM_UPGRADE, EXCLUSIVE, b"late")],
        &[(REQUEST_UPGRADE, EXCLUSIVE, b"")],
    );
    node.lock_sync(handle, shared, &mut data, WAIT).unwrap();
    assert_eq!(&data[..4], b"late");
    node.unlock_sync(handle, shared, None).unwrap();
    thread::scope(|scope| {
        let closed = scope.spawn(|| node.close_sync(handle, WAIT));
        talk(
            &[(CONFIRM_CLOSE, INVALID, b"")],
            &[(REQUEST_CLOSE, EXCLUSIVE, b"late")],
        );
        assert_eq!(closed.join().unwrap(), Ok(()));
    });
}

#[test]
fn a_leader_that_says_what_does_not_fit_is_left() {
    let says: [&[Said<'_>]; 5] = [
        &[(CONFIRM_UPGRADE, EXCLUSIVE, b"more than it asked for")],
        &[(CONFIRM_UPGRADE, SHARED, &[0; 1025])],
        &[(CONFIRM_CLOSE, INVALID, b"")],
        &[
            (CONFIRM_UPGRADE, SHARED, b""),
            (REQUEST_DOWNGRADE, EXCLUSIVE, b""),
        ],
        &[(REQUEST_UPGRADE, SHARED, b"")],
    ];
    for says in says {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Server::start(&directory.path().join("f"));
        let handle = server.node.open_sync(Some(ID)).unwrap();
        let now = Wait::at_most(Duration::ZERO);
        let _ = server
            .node
            .lock_sync(handle, SyncState::Shared, &mut [], now);
        hears_hello(&mut server.from);
        server.hears(REQUEST_UPGRADE, SHARED, b"");
        for (code, state, data) in says {
            server.say(*code, *state, data);
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
