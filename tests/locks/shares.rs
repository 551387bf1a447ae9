//! Locks between the members of a family over real connections: waits, interrupts, deaths and
//! limits.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::wire::{FileLock, HeldLock, LockFamily, LockKind};
use libos_ipc::{Config, Errno, Error, Id, Interrupt, LockLimits, Quota, Wait};

use crate::host_family::Family;
use crate::requests::{BUSY, WAIT, flock, ofd, unlock, waiting, write};

const LONG: Duration = Duration::from_secs(10);

/// A member, and the pid of its process.
pub(crate) struct Member {
    pub(crate) node: HostNode,
    pub(crate) pid: Id,
}

impl Family {
    pub(crate) fn member_with_pid(&self) -> Member {
        let node = self.member();
        let pid = node.pid().unwrap().get();
        Member { node, pid }
    }

    fn waiting(&self) -> usize {
        self.leader.statistics().pools.waiting_for_locks.now
    }

    pub(crate) fn until_waiting(&self, count: usize) {
        while self.waiting() != count {
            thread::yield_now();
        }
    }

    /// Returns true if no lock is held, noted or waited for.
    pub(crate) fn is_clean(&self) -> bool {
        let pools = self.leader.statistics().pools;
        let used = [
            pools.locks,
            pools.locked_files,
            pools.waiting_for_locks,
            pools.lock_handles,
        ];
        self.leader.check_invariants() && used.iter().all(|fill| fill.now == 0)
    }
}

#[test]
fn waiter_is_granted_the_lock_between_any_two_members() {
    let family = Family::new();
    let (one, two) = (family.member_with_pid(), family.member_with_pid());
    let first = &family.leader;
    let pid = first.pid().unwrap();
    // Two members, and a member with the leader's own process, in both directions.
    let pairs = [
        (&one.node, one.pid, &two.node, two.pid),
        (first, pid.get(), &two.node, two.pid),
        (&one.node, one.pid, first, pid.get()),
    ];
    for (holder, holder_pid, waiter, waiter_pid) in pairs {
        let held = write(holder_pid, 10, 19);
        let wanted = write(waiter_pid, 19, u64::MAX);
        assert_eq!(holder.set_lock(&held, WAIT), Ok(()));
        assert_eq!(waiter.set_lock(&wanted, WAIT), BUSY);
        let found = HeldLock {
            family: LockFamily::Posix,
            write: true,
            start: 10,
            end: 19,
            pid: holder_pid,
            handle: 0,
        };
        assert_eq!(waiter.find_lock(&wanted, WAIT), Ok(Some(found)));
        assert_eq!(holder.find_lock(&held, WAIT), Ok(None));
        thread::scope(|scope| {
            let served = scope.spawn(|| waiter.set_lock(&waiting(wanted), WAIT));
            family.until_waiting(1);
            assert_eq!(holder.set_lock(&unlock(held), WAIT), Ok(()));
            assert_eq!(served.join().unwrap(), Ok(()));
        });
        assert_eq!(waiter.set_lock(&unlock(wanted), WAIT), Ok(()));
        assert!(family.is_clean());
    }
}

#[test]
fn read_lock_of_a_member_does_not_wait_for_a_waiting_write_lock() {
    let family = Family::new();
    let [reader, writer, other, child] = [(); 4].map(|()| family.member_with_pid());
    let shared = |lock| FileLock {
        kind: LockKind::Read,
        ..lock
    };
    // For each family: the lock of the reader, of the writer, of another reader, and the second
    // lock of the first reader (for record locks, the lock of its child).
    let posix = |member: &Member| write(member.pid, 0, 9);
    let families = [
        [&reader, &writer, &other, &child].map(posix),
        [1, 2, 3, 4].map(|handle| ofd(handle, 0, 9)),
        [1, 2, 3, 4].map(flock),
    ];
    for [first, wanted, passing, second] in families {
        let by_child = first.family == LockFamily::Posix;
        let again = if by_child { &child } else { &reader };
        assert_eq!(reader.node.set_lock(&shared(first), WAIT), Ok(()));
        // It waits while the others make hundreds of requests.
        let wait = Wait::at_most(LONG * 6);
        thread::scope(|scope| {
            let served = scope.spawn(|| writer.node.set_lock(&waiting(wanted), wait));
            family.until_waiting(1);
            for _ in 0..200 {
                let lock = waiting(shared(passing));
                assert_eq!(other.node.set_lock(&lock, WAIT), Ok(()));
                assert_eq!(other.node.set_lock(&unlock(passing), WAIT), Ok(()));
            }
            let lock = waiting(shared(second));
            assert_eq!(again.node.set_lock(&lock, WAIT), Ok(()));
            assert_eq!(family.waiting(), 1);
            assert_eq!(reader.node.set_lock(&unlock(first), WAIT), Ok(()));
            assert_eq!(again.node.set_lock(&unlock(second), WAIT), Ok(()));
            assert_eq!(served.join().unwrap(), Ok(()));
        });
        assert_eq!(writer.node.set_lock(&unlock(wanted), WAIT), Ok(()));
    }
}

#[test]
fn downgrade_at_a_member_grants_read_locks_queued_behind_a_write_lock() {
    let family = Family::new();
    let [one, two, three] = [(); 3].map(|()| family.member_with_pid());
    let posix = |member: &Member| write(member.pid, 0, 9);
    let families = [
        [&one, &two, &three].map(posix),
        [1, 2, 3].map(|handle| ofd(handle, 0, 9)),
        [1, 2, 3].map(flock),
    ];
    for [held, to_write, to_read] in families {
        let shared = |lock| FileLock {
            kind: LockKind::Read,
            ..lock
        };
        assert_eq!(one.node.set_lock(&held, WAIT), Ok(()));
        thread::scope(|scope| {
            let writer = scope.spawn(|| two.node.set_lock(&waiting(to_write), WAIT));
            family.until_waiting(1);
            let reader = scope.spawn(|| three.node.set_lock(&waiting(shared(to_read)), WAIT));
            family.until_waiting(2);
            assert_eq!(one.node.set_lock(&shared(held), WAIT), Ok(()));
            assert_eq!(reader.join().unwrap(), Ok(()));
            assert_eq!(family.waiting(), 1);
            assert_eq!(one.node.set_lock(&unlock(held), WAIT), Ok(()));
            assert_eq!(three.node.set_lock(&unlock(to_read), WAIT), Ok(()));
            assert_eq!(writer.join().unwrap(), Ok(()));
        });
        assert_eq!(two.node.set_lock(&unlock(to_write), WAIT), Ok(()));
    }
}

#[test]
fn interrupted_or_timed_out_wait_ends_and_leaves_no_request() {
    let family = Family::new();
    let (one, two) = (family.member_with_pid(), family.member_with_pid());
    let first = &family.leader;
    assert_eq!(one.node.set_lock(&write(one.pid, 0, 9), WAIT), Ok(()));
    for (node, pid) in [(&two.node, two.pid), (first, first.pid().unwrap().get())] {
        let wanted = waiting(write(pid, 5, 6));
        let short = Wait::at_most(Duration::from_millis(5));
        assert_eq!(node.set_lock(&wanted, short), Err(Error::TimedOut));
        let interrupt = Interrupt::new();
        thread::scope(|scope| {
            let wait = WAIT.or_until(&interrupt);
            let ended = scope.spawn(move || node.set_lock(&wanted, wait));
            family.until_waiting(1);
            interrupt.raise(node);
            assert_eq!(ended.join().unwrap(), Err(Error::Interrupted));
        });
        // The leader has dropped the request when the call returns.
        assert_eq!(family.waiting(), 0);
    }
    assert_eq!(one.node.clear_locks(one.pid, WAIT), Ok(()));
    assert!(family.is_clean());
}

#[test]
fn cycle_of_waiting_members_gets_edeadlk() {
    let family = Family::new();
    let members: Vec<Member> = (0..4).map(|_| family.member_with_pid()).collect();
    for (at, member) in (0..).zip(&members) {
        assert_eq!(
            member.node.set_lock(&write(member.pid, at, at), WAIT),
            Ok(())
        );
    }
    thread::scope(|scope| {
        for (at, member) in (1..4).zip(&members) {
            let wanted = waiting(write(member.pid, at, at));
            scope.spawn(move || {
                assert_eq!(member.node.set_lock(&wanted, WAIT), Ok(()));
                assert_eq!(member.node.clear_locks(member.pid, WAIT), Ok(()));
            });
            family.until_waiting(usize::try_from(at).unwrap());
        }
        let last = &members[3];
        let wanted = waiting(write(last.pid, 0, 0));
        let outcome = last.node.set_lock(&wanted, WAIT);
        assert_eq!(
            outcome,
            Err(Error::Refused {
                errno: Errno::EDEADLK,
                by: None
            })
        );
        // Releasing its locks lets the next member continue, and so all of them.
        assert_eq!(last.node.clear_locks(last.pid, WAIT), Ok(()));
    });
    assert!(family.is_clean());
}

#[test]
fn locks_of_a_dead_member_are_released() {
    let family = Family::new();
    let (one, two) = (family.member_with_pid(), family.member_with_pid());
    let locks = [write(one.pid, 0, 9), flock(7), ofd(8, 20, 29)];
    for lock in &locks {
        assert_eq!(one.node.set_lock(lock, WAIT), Ok(()));
    }
    let wanted = [write(two.pid, 0, 9), flock(17), ofd(18, 25, u64::MAX)];
    for lock in &wanted {
        assert_eq!(two.node.set_lock(lock, WAIT), BUSY);
    }
    let (sender, served) = channel();
    thread::scope(|scope| {
        for lock in wanted {
            let (two, sender) = (&two, sender.clone());
            scope.spawn(move || {
                sender
                    .send(two.node.set_lock(&waiting(lock), WAIT))
                    .unwrap();
            });
        }
        family.until_waiting(3);
        one.node.shut_down(Duration::ZERO);
        for _ in &wanted {
            assert_eq!(served.recv_timeout(LONG).unwrap(), Ok(()));
        }
    });
    two.node.shut_down(LONG);
    while !family.is_clean() {
        thread::yield_now();
    }
}

#[test]
fn requests_of_a_dead_member_are_dropped() {
    let family = Family::new();
    let (one, two, three) = (
        family.member_with_pid(),
        family.member_with_pid(),
        family.member_with_pid(),
    );
    assert_eq!(one.node.set_lock(&write(one.pid, 0, 9), WAIT), Ok(()));
    let wanted = waiting(write(two.pid, 0, 9));
    thread::scope(|scope| {
        scope.spawn(|| two.node.set_lock(&wanted, WAIT));
        family.until_waiting(1);
        let served = scope.spawn(|| three.node.set_lock(&waiting(write(three.pid, 5, 5)), WAIT));
        family.until_waiting(2);
        two.node.shut_down(Duration::ZERO);
        family.until_waiting(1);
        assert_eq!(one.node.clear_locks(one.pid, WAIT), Ok(()));
        assert_eq!(served.join().unwrap(), Ok(()));
    });
}

#[test]
fn open_file_stays_locked_until_its_last_holder_closes_it() {
    let family = Family::new();
    let (parent, child, other) = (
        family.member_with_pid(),
        family.member_with_pid(),
        family.member_with_pid(),
    );
    for (lock, wanted) in [(flock(7), flock(9)), (ofd(8, 0, 5), ofd(10, 5, 5))] {
        assert_eq!(parent.node.set_lock(&lock, WAIT), Ok(()));
        assert_eq!(child.node.hold_open_file(lock.handle, WAIT), Ok(()));
        assert_eq!(parent.node.close_open_file(lock.handle, WAIT), Ok(()));
        assert_eq!(other.node.set_lock(&wanted, WAIT), BUSY);
        assert_eq!(child.node.close_open_file(lock.handle, WAIT), Ok(()));
        let served = other.node.set_lock(&waiting(wanted), WAIT);
        assert_eq!(served, Ok(()));
        assert_eq!(other.node.close_open_file(wanted.handle, WAIT), Ok(()));
    }
    assert!(family.is_clean());
}

#[test]
fn process_that_never_locked_sends_nothing_when_it_closes() {
    let family = Family::new();
    let member = family.member_with_pid();
    let sent = |node: &HostNode| node.statistics().frames_out;
    let before = sent(&member.node);
    for number in 0..20_u8 {
        let path = [b'/', number];
        assert_eq!(member.node.close_file(&path, member.pid, WAIT), Ok(()));
        assert_eq!(member.node.close_open_file(number.into(), WAIT), Ok(()));
    }
    assert_eq!(member.node.clear_locks(member.pid, WAIT), Ok(()));
    assert_eq!(sent(&member.node), before);
    // A process that has locked sends the unlock: closing any descriptor drops its locks.
    let lock = write(member.pid, 0, 9);
    assert_eq!(member.node.set_lock(&lock, WAIT), Ok(()));
    assert_eq!(member.node.close_file(lock.path, member.pid, WAIT), Ok(()));
    assert_eq!(member.node.find_lock(&write(1, 0, 9), WAIT), Ok(None));
    assert_eq!(family.leader.find_lock(&write(1, 0, 9), WAIT), Ok(None));
    assert!(family.is_clean());
}

#[test]
fn member_with_its_part_of_the_locks_is_refused_and_another_member_is_not() {
    let mut config = Config {
        quota: Quota::Fair,
        ..Config::DEFAULT
    };
    config.capacities.peers = 3;
    config.capacities.locks.locks = 24;
    let family = Family::with(config);
    let (hog, other) = (family.member_with_pid(), family.member_with_pid());
    let taken = (0..24)
        .map(|at| hog.node.set_lock(&write(hog.pid, 2 * at, 2 * at), WAIT))
        .take_while(Result::is_ok);
    // One in reserve, and half of the twenty that all share.
    assert_eq!(taken.count(), 11);
    assert_eq!(family.leader.statistics().refused_by_quota, 1);
    assert_eq!(
        other.node.set_lock(&write(other.pid, 100, 100), WAIT),
        Ok(())
    );
}

#[test]
fn request_at_a_limit_is_refused_and_changes_nothing() {
    let mut config = Config {
        quota: Quota::Off,
        ..Config::DEFAULT
    };
    config.capacities.locks = LockLimits {
        locks: 3,
        files: 2,
        waiting: 1,
        open_files: 1,
    };
    let family = Family::with(config);
    let (one, two) = (family.member_with_pid(), family.member_with_pid());
    let full = Err(Error::Refused {
        errno: Errno::ENOLCK,
        by: None,
    });
    let lock = |start| write(one.pid, start, start + 3);
    for start in [0, 10, 20] {
        assert_eq!(one.node.set_lock(&lock(start), WAIT), Ok(()));
    }
    assert_eq!(one.node.set_lock(&lock(30), WAIT), full);
    // A split needs one more slot; a merge needs fewer.
    assert_eq!(one.node.set_lock(&unlock(write(one.pid, 1, 2)), WAIT), full);
    assert_eq!(one.node.set_lock(&write(one.pid, 0, 23), WAIT), Ok(()));
    assert_eq!(
        one.node.set_lock(&unlock(write(one.pid, 1, 2)), WAIT),
        Ok(())
    );
    // The limit of paths.
    let named = |path| FileLock {
        path,
        ..write(two.pid, 0, 0)
    };
    assert_eq!(two.node.set_lock(&named(b"a"), WAIT), Ok(()));
    assert_eq!(two.node.set_lock(&named(b"b"), WAIT), full);
    // The limit of open files.
    let unlocked = FileLock {
        kind: LockKind::Unlock,
        ..named(b"a")
    };
    assert_eq!(two.node.set_lock(&unlocked, WAIT), Ok(()));
    assert_eq!(two.node.set_lock(&flock(1), WAIT), Ok(()));
    assert_eq!(two.node.set_lock(&flock(2), WAIT), full);
    assert_eq!(two.node.close_open_file(1, WAIT), Ok(()));
    // The limit of waiting requests.
    let wanted = waiting(write(two.pid, 0, 0));
    thread::scope(|scope| {
        let served = scope.spawn(|| two.node.set_lock(&wanted, WAIT));
        family.until_waiting(1);
        let pid = family.leader.pid().unwrap();
        let outcome = family
            .leader
            .set_lock(&waiting(write(pid.get(), 0, 0)), WAIT);
        assert_eq!(outcome, full);
        assert_eq!(one.node.clear_locks(one.pid, WAIT), Ok(()));
        assert_eq!(served.join().unwrap(), Ok(()));
    });
    assert_eq!(two.node.clear_locks(two.pid, WAIT), Ok(()));
    assert!(family.is_clean());
}
