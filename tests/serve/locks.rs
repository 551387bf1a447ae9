//! File locks for members in C.

use crate::peer::{Peer, numbers};
use crate::server::Server;

const FILE_LOCK_SET: u8 = 15;
const FILE_LOCK_GET: u8 = 16;
const FILE_LOCK_CLEAR_PID: u8 = 17;

const POSIX: u32 = 1;
const FLOCK: u32 = 2;
const READ: i32 = 0;
const WRITE: i32 = 1;
const UNLOCK: i32 = 2;
const EAGAIN: i32 = 11;
const EDEADLK: i32 = 35;

struct Lock {
    family: u32,
    kind: i32,
    range: (u64, u64),
    pid: u32,
    handle: u64,
    wait: bool,
}

const LOCK: Lock = Lock {
    family: POSIX,
    kind: WRITE,
    range: (0, u64::MAX),
    pid: 1,
    handle: 0,
    wait: false,
};

impl Lock {
    /// Returns the bytes as a process in C lays them out: the path begins in the struct's padding,
    /// and reserved bytes end the frame.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.family.to_le_bytes());
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.range.0.to_le_bytes());
        bytes.extend(self.range.1.to_le_bytes());
        bytes.extend(self.pid.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.handle.to_le_bytes());
        bytes.push(self.wait.into());
        bytes.extend(b"/data/file\0");
        bytes.resize(48 + 11, 0xAA);
        bytes
    }
}

fn set(peer: &mut Peer, lock: &Lock) -> i32 {
    status(&peer.ask(FILE_LOCK_SET, &lock.bytes()))
}

fn status(answer: &[u8]) -> i32 {
    i32::from_le_bytes(answer.try_into().unwrap())
}

#[test]
fn record_locks_pass_from_member_to_member() {
    let server = Server::start();
    let mut one = Peer::join(&server.base(), 2);
    let mut two = Peer::join(&server.base(), 3);
    assert_eq!(set(&mut one, &LOCK), 0);
    let theirs = Lock { pid: 2, ..LOCK };
    assert_eq!(set(&mut two, &theirs), -EAGAIN);
    let held = two.ask(FILE_LOCK_GET, &theirs.bytes());
    assert_eq!(held.len(), 48);
    assert_eq!(numbers(&held)[..3], [0, POSIX, 1]);
    assert_eq!(numbers(&held)[8], 1, "its pid");

    // A waiting request is answered when the lock is granted.
    let wants = Lock {
        wait: true,
        ..theirs
    };
    let seq = two.send(FILE_LOCK_SET, &wants.bytes());
    let unlock = Lock {
        kind: UNLOCK,
        range: (0, 99),
        ..LOCK
    };
    assert_eq!(set(&mut one, &unlock), 0);
    // The request is not answered yet: the rest is locked.
    assert_eq!(one.owner_of(1), 0);
    assert_eq!(one.ask(FILE_LOCK_CLEAR_PID, &1_u32.to_le_bytes()), [0; 4]);
    assert_eq!(status(&two.answer_to(seq)), 0);

    // A request that would wait for ever gets an error.
    let far = Lock {
        range: (0, 9),
        ..LOCK
    };
    let seq = one.send(FILE_LOCK_SET, &Lock { wait: true, ..far }.bytes());
    assert_eq!(
        set(
            &mut two,
            &Lock {
                kind: UNLOCK,
                range: (0, 4),
                pid: 2,
                ..LOCK
            }
        ),
        0
    );
    assert_eq!(
        set(
            &mut two,
            &Lock {
                kind: UNLOCK,
                range: (5, 9),
                pid: 2,
                ..LOCK
            }
        ),
        0
    );
    assert_eq!(status(&one.answer_to(seq)), 0);
    let seq = one.send(
        FILE_LOCK_SET,
        &Lock {
            wait: true,
            range: (50, 50),
            ..LOCK
        }
        .bytes(),
    );
    let deadlock = Lock {
        wait: true,
        range: (5, 5),
        pid: 2,
        ..LOCK
    };
    assert_eq!(one.owner_of(1), 0, "the leader has handled it");
    assert_eq!(set(&mut two, &deadlock), -EDEADLK);

    // A member that ends without a message leaves no lock.
    drop(two);
    assert_eq!(status(&one.answer_to(seq)), 0);
}

#[test]
fn record_locks_and_flock_locks_do_not_conflict() {
    let server = Server::start();
    let mut one = Peer::join(&server.base(), 2);
    let mut two = Peer::join(&server.base(), 3);
    let flock = |handle, kind| Lock {
        family: FLOCK,
        kind,
        handle,
        ..LOCK
    };
    assert_eq!(set(&mut one, &LOCK), 0);
    assert_eq!(set(&mut two, &flock(7, READ)), 0);
    assert_eq!(set(&mut one, &flock(8, READ)), 0);
    // A conversion first releases the old lock.
    assert_eq!(set(&mut two, &flock(7, WRITE)), -EAGAIN);
    assert_eq!(set(&mut one, &flock(8, WRITE)), 0);
}
