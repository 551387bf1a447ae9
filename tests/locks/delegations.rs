//! Delegated files over real connections: the holder sends nothing, and every other member sees the
//! same locks as without a delegation.

use std::io::Read;
use std::thread;
use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::wire::{
    DelegatedLock, DelegatedLockList, FileLock, HeldLock, LockFamily, LockKind, Message,
};
use libos_ipc::{Config, Errno, Error, Exit, Id, Identity, Refusal, Resource};

use crate::host_family::Family;
use crate::peer::{Peer, assert_closed};
use crate::requests::{BUSY, WAIT, flock, ofd, read, unlock, waiting, write};
use crate::shares::Member;

/// Returns the number of frames that the members send while `what` runs.
pub(crate) fn sent(members: &[&Member], what: impl FnOnce()) -> u64 {
    let count = || -> u64 {
        let sent = |member: &&Member| member.node.statistics().frames_out;
        members.iter().map(sent).sum()
    };
    let before = count();
    what();
    count() - before
}

pub(crate) fn delegations(family: &Family) -> usize {
    family.leader.statistics().pools.delegations.now
}

pub(crate) fn held(write: bool, start: u64, end: u64, pid: Id) -> HeldLock {
    HeldLock {
        family: LockFamily::Posix,
        write,
        start,
        end,
        pid,
        handle: 0,
    }
}

pub(crate) fn set(member: &Member, lock: &FileLock<'_>) {
    assert_eq!(member.node.set_lock(lock, WAIT), Ok(()), "{lock:?}");
}

#[test]
fn member_that_locks_a_file_alone_sends_no_frames() {
    let family = Family::new();
    let one = family.member_with_pid();
    set(&one, &write(one.pid, 0, 9));
    assert_eq!(delegations(&family), 1);
    let frames = sent(&[&one], || {
        for start in 0..1_000 {
            let lock = write(one.pid, start * 10, start * 10 + 9);
            set(&one, &lock);
            assert_eq!(one.node.find_lock(&lock, WAIT), Ok(None));
            set(&one, &unlock(lock));
        }
        // Another process of the same member.
        let other = write(one.pid + 1, 5, 15);
        set(&one, &write(one.pid, 0, 9));
        assert_eq!(one.node.set_lock(&other, WAIT), BUSY);
        let found = one.node.find_lock(&other, WAIT);
        assert_eq!(found, Ok(Some(held(true, 0, 9, one.pid))));
        assert_eq!(one.node.close_file(other.path, one.pid, WAIT), Ok(()));
        set(&one, &other);
    });
    assert_eq!(frames, 0);
}

#[test]
fn recalled_file_is_returned_with_its_locks() {
    let family = Family::new();
    let (one, two) = (family.member_with_pid(), family.member_with_pid());
    set(&one, &write(one.pid, 0, 9));
    set(&one, &read(one.pid, 20, 29));
    set(&one, &read(one.pid + 1, 25, 39));
    assert_eq!(delegations(&family), 1);
    // A query recalls the file, too.
    let all = write(two.pid, 30, u64::MAX);
    let found = two.node.find_lock(&all, WAIT);
    assert_eq!(found, Ok(Some(held(false, 25, 39, one.pid + 1))));
    assert_eq!(delegations(&family), 0);
    assert_eq!(two.node.set_lock(&write(two.pid, 29, 29), WAIT), BUSY);
    set(&two, &read(two.pid, 20, 30));
    set(&two, &write(two.pid, 40, 50));
    assert_eq!(one.node.set_lock(&write(one.pid, 50, 50), WAIT), BUSY);
    for member in [&one, &two] {
        assert_eq!(member.node.clear_locks(member.pid, WAIT), Ok(()));
        assert_eq!(member.node.clear_locks(one.pid + 1, WAIT), Ok(()));
    }
    assert!(family.is_clean());
}

#[test]
fn waiter_is_granted_the_lock_when_the_delegation_holder_unlocks() {
    let family = Family::new();
    let two = family.member_with_pid();
    let (first, pid) = (&family.leader, family.leader.pid().unwrap());
    for (waiter, waiter_pid, path) in [(&two.node, two.pid, b"/a"), (first, pid.get(), b"/b")] {
        // A member that has returned a file late, as on a busy machine, would get no other for a while.
        let one = family.member_with_pid();
        let lock = FileLock {
            path,
            ..write(one.pid, 0, 9)
        };
        set(&one, &lock);
        assert_eq!(delegations(&family), 1);
        let wanted = FileLock {
            pid: waiter_pid,
            ..lock
        };
        // Waiting or not, the request gets the true answer.
        assert_eq!(waiter.set_lock(&wanted, WAIT), BUSY);
        assert_eq!(delegations(&family), 0);
        thread::scope(|scope| {
            let served = scope.spawn(|| waiter.set_lock(&waiting(wanted), WAIT));
            family.until_waiting(1);
            set(&one, &unlock(lock));
            assert_eq!(served.join().unwrap(), Ok(()));
        });
        assert_eq!(waiter.set_lock(&unlock(wanted), WAIT), Ok(()));
    }
    assert!(family.is_clean());
}

#[test]
fn deadlock_through_a_delegated_file_is_detected() {
    let family = Family::new();
    let (one, two) = (family.member_with_pid(), family.member_with_pid());
    let on = |member: &Member, path| FileLock {
        path,
        ..write(member.pid, 0, 0)
    };
    set(&one, &on(&one, b"/a"));
    set(&two, &on(&two, b"/b"));
    assert_eq!(delegations(&family), 2);
    // The order of the returns decides which request closes the cycle.
    let want = |member: &Member, path| {
        let outcome = member.node.set_lock(&waiting(on(member, path)), WAIT);
        if outcome
            == Err(Error::Refused {
                errno: Errno::EDEADLK,
                by: None,
            })
        {
            assert_eq!(member.node.clear_locks(member.pid, WAIT), Ok(()));
        }
        outcome
    };
    let outcomes = thread::scope(|scope| {
        let other = scope.spawn(|| want(&one, b"/b"));
        [want(&two, b"/a"), other.join().unwrap()]
    });
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    assert_eq!(failed, 1, "EDEADLK for one of them: {outcomes:?}");
}

#[test]
fn exited_process_holds_no_locks_while_its_node_still_runs() {
    let family = Family::new();
    let (one, two) = (family.member_with_pid(), family.member_with_pid());
    set(&one, &write(one.pid, 0, 9));
    assert_eq!(delegations(&family), 1);
    one.node.exit(Exit::default(), WAIT).unwrap();
    set(&two, &waiting(write(two.pid, 0, 9)));
}

#[test]
fn delegation_of_a_dead_member_ends_and_can_be_granted_again() {
    let family = Family::new();
    let (one, two, three) = (
        family.member_with_pid(),
        family.member_with_pid(),
        family.member_with_pid(),
    );
    set(&one, &write(one.pid, 0, 9));
    assert_eq!(delegations(&family), 1);
    one.node.shut_down(Duration::ZERO);
    while delegations(&family) > 0 {
        thread::yield_now();
    }
    set(&two, &waiting(write(two.pid, 0, 9)));
    // The next member that is alone gets the delegation at once.
    two.node.shut_down(Duration::ZERO);
    while !family.is_clean() {
        thread::yield_now();
    }
    set(&three, &write(three.pid, 0, 9));
    assert_eq!(delegations(&family), 1);
}

#[test]
fn contended_file_is_delegated_again_only_after_enough_uses_by_one_member() {
    let family = Family::new();
    let (one, two) = (family.member_with_pid(), family.member_with_pid());
    set(&one, &write(one.pid, 0, 9));
    set(&one, &unlock(write(one.pid, 0, 9)));
    for member in [&two, &one, &two] {
        let lock = write(member.pid, 0, 9);
        set(member, &lock);
        set(member, &unlock(lock));
        assert_eq!(delegations(&family), 0);
    }
    for _ in 0..40 {
        let lock = write(two.pid, 0, 9);
        set(&two, &lock);
        set(&two, &unlock(lock));
    }
    assert_eq!(delegations(&family), 1);
}

#[test]
fn locks_beyond_the_delegation_limits_go_to_the_leader() {
    let family = Family::new();
    let (one, two) = (family.member_with_pid(), family.member_with_pid());
    // More locks than one return can carry.
    for at in 0..100 {
        set(&one, &write(one.pid, at * 2, at * 2));
    }
    assert_eq!(delegations(&family), 0);
    assert_eq!(family.leader.statistics().pools.locks.now, 100);
    assert_eq!(two.node.set_lock(&write(two.pid, 0, 0), WAIT), BUSY);
    assert_eq!(two.node.set_lock(&write(two.pid, 198, 198), WAIT), BUSY);
    // More files than the member has room for.
    let limit = one.node.statistics().pools.delegated_files.limit;
    let paths: Vec<[u8; 2]> = (0..=limit).map(|at| [b'a', b'a' + at as u8]).collect();
    for (at, path) in paths.iter().enumerate() {
        let lock = FileLock {
            path,
            ..write(one.pid, 0, 0)
        };
        set(&one, &lock);
        let theirs = FileLock {
            pid: two.pid,
            ..lock
        };
        let is_last = at == limit;
        assert_eq!(delegations(&family), at + usize::from(!is_last));
        if is_last {
            assert_eq!(two.node.set_lock(&theirs, WAIT), BUSY);
        }
    }
    assert_eq!(one.node.clear_locks(one.pid, WAIT), Ok(()));
    for path in &paths {
        let theirs = FileLock {
            path,
            ..write(two.pid, 0, 0)
        };
        set(&two, &theirs);
    }
}

#[test]
fn ofd_lock_recalls_a_delegation_and_flock_does_not() {
    let family = Family::new();
    let (one, two) = (family.member_with_pid(), family.member_with_pid());
    set(&one, &write(one.pid, 0, 9));
    // A `flock` lock is no record lock, and recalls nothing.
    set(&two, &flock(7));
    assert_eq!(delegations(&family), 1);
    assert_eq!(two.node.set_lock(&ofd(8, 5, 5), WAIT), BUSY);
    assert_eq!(delegations(&family), 0);
    set(&two, &ofd(8, 10, 10));
    assert_eq!(one.node.set_lock(&write(one.pid, 0, 10), WAIT), BUSY);
}

/// Prepares a child that inherits open file 7, which the parent locks and closes.
fn child_with_locked_file(parent: &Member) -> Identity {
    set(parent, &flock(7));
    let identity = parent.node.start_child(WAIT).unwrap();
    assert_eq!(parent.node.give_open_file(identity.vmid, 7, WAIT), Ok(()));
    assert_eq!(parent.node.close_open_file(7, WAIT), Ok(()));
    identity
}

#[test]
fn child_holds_an_inherited_open_file_until_it_closes_ends_or_is_abandoned() {
    let family = Family::new();
    let (parent, other) = (family.member_with_pid(), family.member_with_pid());
    let kept = |wanted: FileLock<'static>| other.node.set_lock(&wanted, WAIT) == BUSY;
    let identity = child_with_locked_file(&parent);
    assert!(kept(flock(9)), "before it has joined");
    let child = HostNode::start(&family.base, identity, Config::DEFAULT).unwrap();
    child.join(WAIT).unwrap();
    let gone = family.leader.statistics().disconnects;
    parent.node.shut_down(Duration::ZERO);
    while family.leader.statistics().disconnects == gone {
        thread::yield_now();
    }
    assert!(kept(flock(9)), "without its parent");
    child.shut_down(Duration::ZERO);
    set(&other, &waiting(flock(9)));
    assert_eq!(other.node.close_open_file(9, WAIT), Ok(()));

    // A child that never joins holds the open file until its parent abandons it or is gone.
    for is_abandoned in [true, false] {
        // If the parent is gone, the start limit has to pass.
        let family = Family::with(Config {
            start_limit: Duration::from_millis(100),
            ..Config::DEFAULT
        });
        let (parent, other) = (family.member_with_pid(), family.member_with_pid());
        let kept = |wanted: FileLock<'static>| other.node.set_lock(&wanted, WAIT) == BUSY;
        let identity = child_with_locked_file(&parent);
        assert!(kept(flock(9)));
        if is_abandoned {
            parent.node.abandon_child(identity.vmid).unwrap();
        } else {
            parent.node.shut_down(Duration::ZERO);
        }
        set(&other, &waiting(flock(9)));
        assert_eq!(other.node.close_open_file(9, WAIT), Ok(()));
    }
    // Any member may transfer an open file to the child, not only its parent.
    let mine = other.node.start_child(WAIT).unwrap();
    let third = family.member_with_pid();
    assert_eq!(third.node.give_open_file(mine.vmid, 7, WAIT), Ok(()));
    assert_eq!(third.node.close_open_file(7, WAIT), Ok(()));
    assert_eq!(family.leader.statistics().pools.lock_handles.now, 1);
    assert_eq!(other.node.abandon_child(mine.vmid), Ok(()));
    while family.leader.statistics().pools.lock_handles.now > 0 {
        thread::yield_now();
    }
}

/// A member that holds the delegation of the file of [`write`], and sends what the test wants.
struct RawMember(Peer);

const HELLO: u8 = 64;
const RECALL: u8 = 74;
const LIMITS: u8 = 96;

impl RawMember {
    fn with_delegation(family: &Family) -> RawMember {
        let identity = family.leader.start_child(WAIT).unwrap();
        let mut rogue = RawMember(Peer::join(&family.base, identity.vmid.get()));
        let hello = [1, 0, identity.pid.unwrap().get(), 1]
            .map(u32::to_le_bytes)
            .concat();
        rogue.0.send(HELLO, &hello);
        let answer = rogue.next();
        assert_eq!(answer.0, HELLO);
        assert_eq!(rogue.next().0, LIMITS);
        let lock = FileLock {
            handle: 5,
            ..write(identity.pid.unwrap().get(), 0, 9)
        };
        rogue.send(1, &Message::FileLockDelegate(lock));
        let (code, payload) = rogue.next();
        assert_eq!((code, payload), (0, 32_u32.to_le_bytes().to_vec()));
        rogue
    }

    fn send(&mut self, seq: u64, message: &Message<'_>) {
        let mut frame = vec![0; message.length()];
        message.encode(seq, &mut frame).unwrap();
        self.0.send(message.code(), &frame[17..]);
    }

    /// Returns the code and the payload of the next frame.
    fn next(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; 17];
        self.0.from().read_exact(&mut header).unwrap();
        let size = u64::from_le_bytes(header[..8].try_into().unwrap());
        let mut payload = vec![0; usize::try_from(size).unwrap() - 17];
        self.0.from().read_exact(&mut payload).unwrap();
        (header[16], payload)
    }
}

#[test]
fn member_that_does_not_return_a_delegation_in_time_is_disconnected() {
    let limit = Duration::from_millis(100);
    let family = Family::with(Config {
        recall_limit: limit,
        ..Config::DEFAULT
    });
    let two = family.member_with_pid();
    let mut rogue = RawMember::with_delegation(&family);
    // The recall limit counts only while another member wants the file.
    assert_eq!(two.node.find_lock(&flock(1), WAIT), Ok(None));
    let start = std::time::Instant::now();
    set(&two, &write(two.pid, 0, 9));
    assert!(start.elapsed() >= limit);
    assert_eq!(rogue.next(), (RECALL, 5_u64.to_le_bytes().to_vec()));
    assert_closed(rogue.0.from(), "it has not given back");
    let statistics = family.leader.statistics();
    assert_eq!(statistics.refused(Refusal::NotReturned), 1);
    assert_eq!(delegations(&family), 0);
}

#[test]
fn member_that_returns_a_delegation_late_gets_no_other_for_a_while() {
    let late = Duration::from_millis(60);
    let family = Family::new();
    let two = family.member_with_pid();
    let mut rogue = RawMember::with_delegation(&family);
    let delegate = |rogue: &mut RawMember, number, path| {
        let lock = FileLock {
            handle: number,
            path,
            ..write(1, 0, 9)
        };
        rogue.send(number, &Message::FileLockDelegate(lock));
        let (code, payload) = rogue.next();
        assert_eq!(code, 0);
        u32::from_le_bytes(payload.try_into().unwrap())
    };
    let return_delegation = |rogue: &mut RawMember, delegation, after| {
        assert_eq!(rogue.next().0, RECALL);
        thread::sleep(after);
        let list = DelegatedLockList::new();
        let locks = list.locks();
        rogue.send(0, &Message::FileLockReturn { delegation, locks });
    };
    thread::scope(|scope| {
        scope.spawn(|| set(&two, &write(two.pid, 0, 9)));
        return_delegation(&mut rogue, 5, late);
    });
    // The member is granted the lock, and not the file.
    assert_eq!(delegate(&mut rogue, 6, b"/another"), 0);
    assert_eq!(delegations(&family), 0);
    // The late return is no reason to close its connection, and others are not affected.
    let three = family.member_with_pid();
    let mut third = write(three.pid, 0, 9);
    third.path = b"/a/third";
    set(&three, &third);
    assert_eq!(delegations(&family), 1);
    assert_eq!(family.leader.statistics().refused(Refusal::NotReturned), 0);
}

#[test]
fn invalid_return_of_a_delegation_costs_only_the_connection_of_its_sender() {
    let lock = |pid, start, end, write| DelegatedLock {
        start,
        end,
        pid,
        write,
    };
    let returns: [(u64, &[DelegatedLock]); 4] = [
        // The delegation is unknown.
        (6, &[]),
        // Two locks that conflict.
        (5, &[lock(1, 0, 9, true), lock(2, 9, 9, false)]),
        (5, &[lock(1, 0, 9, false), lock(2, 0, 9, true)]),
        // Two overlapping locks of one owner.
        (5, &[lock(1, 0, 9, true), lock(1, 5, 15, false)]),
    ];
    for (delegation, locks) in returns {
        let family = Family::new();
        let two = family.member_with_pid();
        let mut rogue = RawMember::with_delegation(&family);
        let mut list = DelegatedLockList::new();
        assert!(locks.iter().all(|lock| list.push(*lock)));
        let locks = list.locks();
        rogue.send(0, &Message::FileLockReturn { delegation, locks });
        assert_closed(rogue.0.from(), "it gave back nonsense");
        set(&two, &waiting(write(two.pid, 0, 9)));
        assert_eq!(two.node.clear_locks(two.pid, WAIT), Ok(()));
        drop(rogue);
        two.node.shut_down(WAIT_LIMIT);
        while !family.is_clean() {
            thread::yield_now();
        }
    }
}

const WAIT_LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_path_that_no_frame_can_hold_is_refused_at_the_leader_as_at_a_member() {
    let family = Family::new();
    let member = family.member_with_pid();
    let most = Config::default().capacities.frame_length;
    let paths = [b"/a\0b".to_vec(), vec![b'a'; most], vec![0]];
    for path in &paths {
        for node in [&family.leader, &member.node] {
            let lock = FileLock {
                path,
                ..write(1, 0, 9)
            };
            let clear = FileLock {
                kind: LockKind::Unlock,
                ..lock
            };
            let too_long = Error::Full(Resource::FrameLength);
            assert_eq!(node.set_lock(&lock, WAIT), Err(too_long));
            assert_eq!(
                node.set_lock(&FileLock { wait: true, ..lock }, WAIT),
                Err(too_long)
            );
            assert_eq!(node.set_lock(&clear, WAIT), Err(too_long));
            assert_eq!(node.find_lock(&lock, WAIT), Err(too_long));
        }
    }
    assert_eq!(family.leader.statistics().pools.locked_files.peak, 0);
}
