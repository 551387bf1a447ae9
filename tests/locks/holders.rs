//! Open files with several holders: closing, transfer and death. `tests/open_files.rs` compares the
//! rules with the kernel.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::wire::FileLock;
use libos_ipc::{ChildSelector, Config, Errno, Error, Exit, Identity, Interrupt, Quota, Vmid};

use crate::host_family::Family;
use crate::peer::{GET_ID_OWNER, frame};
use crate::requests::{BUSY, WAIT, flock, ofd, unlock, waiting};

const LONG: Duration = Duration::from_secs(10);
const TRIES: usize = 500;

/// Returns true if another open file can take the lock.
fn is_free(other: &HostNode, lock: FileLock<'static>) -> bool {
    match other.set_lock(&lock, WAIT) {
        Ok(()) => {
            assert_eq!(other.set_lock(&unlock(lock), WAIT), Ok(()));
            true
        }
        busy => {
            assert_eq!(busy, BUSY);
            false
        }
    }
}

fn shared(family: &Family) -> usize {
    family.leader.statistics().pools.lock_handles.now
}

#[test]
fn closing_a_locked_open_file_frees_the_lock_before_close_returns() {
    let family = Family::new();
    let (one, two) = (family.member_with_pid(), family.member_with_pid());
    let leader = &family.leader;
    let pairs = [
        (&one.node, &two.node),
        (&one.node, leader),
        (leader, &two.node),
    ];
    for (closes, asks) in pairs {
        for (lock, wanted) in [(flock(7), flock(9)), (ofd(8, 0, 5), ofd(10, 5, 5))] {
            for _ in 0..TRIES {
                assert_eq!(closes.set_lock(&lock, WAIT), Ok(()));
                assert_eq!(closes.close_open_file(lock.handle, WAIT), Ok(()));
                assert_eq!(asks.set_lock(&wanted, WAIT), Ok(()));
                assert_eq!(asks.close_open_file(wanted.handle, WAIT), Ok(()));
            }
        }
    }
    assert!(family.is_clean());
}

#[test]
fn lock_stays_when_one_of_two_holders_closes() {
    let family = Family::new();
    let (one, two, other) = (
        family.member_with_pid(),
        family.member_with_pid(),
        family.member_with_pid(),
    );
    let pairs = [
        (&one.node, &two.node),
        (&family.leader, &two.node),
        (&one.node, &family.leader),
    ];
    for (first, second) in pairs {
        for _ in 0..TRIES {
            assert_eq!(first.set_lock(&flock(7), WAIT), Ok(()));
            assert_eq!(second.hold_open_file(7, WAIT), Ok(()));
            assert_eq!(first.close_open_file(7, WAIT), Ok(()));
            assert_eq!(other.node.set_lock(&flock(9), WAIT), BUSY);
            assert_eq!(second.close_open_file(7, WAIT), Ok(()));
            assert_eq!(other.node.set_lock(&flock(9), WAIT), Ok(()));
            assert_eq!(other.node.close_open_file(9, WAIT), Ok(()));
        }
    }
    assert!(family.is_clean());
}

#[test]
fn inherited_open_file_is_held_before_its_process_joins() {
    let family = Family::new();
    let (parent, other) = (family.member_with_pid(), family.member_with_pid());
    for _ in 0..20 {
        assert_eq!(parent.node.set_lock(&flock(7), WAIT), Ok(()));
        let identity = parent.node.start_child(WAIT).unwrap();
        let child = HostNode::start(&family.base, identity, Config::DEFAULT).unwrap();
        assert_eq!(child.hold_open_file(7, WAIT), Ok(()));
        assert_eq!(parent.node.close_open_file(7, WAIT), Ok(()));
        assert!(!is_free(&other.node, flock(9)));
        child.join(WAIT).unwrap();
        assert!(!is_free(&other.node, flock(9)));
        assert_eq!(child.close_open_file(7, WAIT), Ok(()));
        assert!(is_free(&other.node, flock(9)));
        child.exit(Exit::default(), WAIT).unwrap();
        child.shut_down(LONG);
        let which = ChildSelector::Pid(identity.pid.unwrap());
        assert_eq!(parent.node.wait_child(which, WAIT).map(drop), Ok(()));
    }
}

#[test]
fn transferred_open_file_is_held_after_the_giver_closes_or_dies() {
    let family = Family::new();
    let (receiver, other) = (family.member_with_pid(), family.member_with_pid());
    for dies in [false, true] {
        for to in [&receiver.node, &family.leader] {
            let giver = family.member_with_pid();
            assert_eq!(giver.node.set_lock(&flock(7), WAIT), Ok(()));
            let vmid = to.identity().vmid;
            assert_eq!(giver.node.give_open_file(vmid, 7, WAIT), Ok(()));
            assert_eq!(shared(&family), 2);
            if dies {
                giver.node.shut_down(Duration::ZERO);
                while shared(&family) == 2 {
                    thread::yield_now();
                }
            } else {
                assert_eq!(giver.node.close_open_file(7, WAIT), Ok(()));
            }
            assert!(!is_free(&other.node, flock(9)));
            // The descriptor arrives, and the receiver closes it.
            assert_eq!(to.hold_open_file(7, WAIT), Ok(()));
            assert_eq!(shared(&family), 2, "its, and the other's own");
            assert!(!is_free(&other.node, flock(9)));
            assert_eq!(to.close_open_file(7, WAIT), Ok(()));
            assert!(is_free(&other.node, flock(9)));
            assert_eq!(other.node.close_open_file(9, WAIT), Ok(()));
            assert!(family.is_clean());
        }
    }
}

/// A descriptor may come before the leader's notice that the receiver holds the open file.
#[test]
fn receiver_that_closes_as_soon_as_the_giver_returns_leaves_no_lock() {
    let family = Family::new();
    let (one, two, other) = (
        family.member_with_pid(),
        family.member_with_pid(),
        family.member_with_pid(),
    );
    let leader = &family.leader;
    let pairs = [
        (&one.node, &two.node),
        (leader, &two.node),
        (&one.node, leader),
    ];
    for (block, (giver, receiver)) in (1..).zip(pairs) {
        let vmid = receiver.identity().vmid;
        for handle in (block << 20..).take(TRIES) {
            assert_eq!(giver.set_lock(&flock(handle), WAIT), Ok(()));
            assert_eq!(giver.give_open_file(vmid, handle, WAIT), Ok(()));
            assert_eq!(receiver.close_open_file(handle, WAIT), Ok(()));
            assert_eq!(giver.close_open_file(handle, WAIT), Ok(()));
            assert!(is_free(&other.node, flock(9)));
        }
    }
    assert_eq!(other.node.close_open_file(9, WAIT), Ok(()));
    assert!(family.is_clean());
}

/// `(flock 9; work) 9>file`: the shell opens the file, its child locks and ends, the shell closes
/// it.
#[test]
fn lock_set_by_a_child_stays_until_the_parent_closes() {
    let family = Family::new();
    let (parent, other) = (family.member_with_pid(), family.member_with_pid());
    for parent in [&parent.node, &family.leader] {
        for tries in 0..20 {
            let identity = parent.start_child(WAIT).unwrap();
            assert_eq!(parent.give_open_file(identity.vmid, 7, WAIT), Ok(()));
            let child = HostNode::start(&family.base, identity, Config::DEFAULT).unwrap();
            child.join(WAIT).unwrap();
            assert_eq!(child.set_lock(&flock(7), WAIT), Ok(()));
            if tries % 2 == 0 {
                child.exit(Exit::default(), WAIT).unwrap();
            }
            child.shut_down(LONG);
            let which = ChildSelector::Pid(identity.pid.unwrap());
            assert_eq!(parent.wait_child(which, WAIT).map(drop), Ok(()));
            assert!(!is_free(&other.node, flock(9)), "the parent has it open");
            assert_eq!(parent.close_open_file(7, WAIT), Ok(()));
            assert!(is_free(&other.node, flock(9)));
        }
    }
}

#[test]
fn child_that_only_closes_an_inherited_open_file_releases_it() {
    let family = Family::new();
    let (parent, other) = (family.member_with_pid(), family.member_with_pid());
    for _ in 0..20 {
        let handles = [flock(7), ofd(8, 0, 9)];
        for lock in &handles {
            assert_eq!(parent.node.set_lock(lock, WAIT), Ok(()));
        }
        let identity = parent.node.start_child(WAIT).unwrap();
        for lock in &handles {
            // Repeated inheritance changes nothing for a starting process.
            for _ in 0..2 {
                let given = parent.node.give_open_file(identity.vmid, lock.handle, WAIT);
                assert_eq!(given, Ok(()));
            }
        }
        let child = HostNode::start(&family.base, identity, Config::DEFAULT).unwrap();
        child.join(WAIT).unwrap();
        for (lock, wanted) in handles.into_iter().zip([flock(9), ofd(10, 5, 5)]) {
            assert_eq!(parent.node.close_open_file(lock.handle, WAIT), Ok(()));
            assert!(!is_free(&other.node, wanted));
            assert_eq!(child.close_open_file(lock.handle, WAIT), Ok(()));
            assert!(is_free(&other.node, wanted));
        }
        // The child does not report an open file that it was not given.
        let sent = child.statistics().frames_out;
        assert_eq!(child.close_open_file(5, WAIT), Ok(()));
        assert_eq!(child.statistics().frames_out, sent);
        child.shut_down(LONG);
        let which = ChildSelector::Pid(identity.pid.unwrap());
        assert_eq!(parent.node.wait_child(which, WAIT).map(drop), Ok(()));
    }
}

#[test]
fn each_descriptor_in_transit_keeps_the_lock() {
    let family = Family::new();
    let (one, two, other) = (
        family.member_with_pid(),
        family.member_with_pid(),
        family.member_with_pid(),
    );
    let vmid = two.node.identity().vmid;
    let kept = || !is_free(&other.node, flock(9));
    assert_eq!(one.node.set_lock(&flock(7), WAIT), Ok(()));
    // Three descriptors are sent: one is closed before the next arrives, and one can't be sent at
    // all.
    for _ in 0..3 {
        assert_eq!(one.node.give_open_file(vmid, 7, WAIT), Ok(()));
    }
    assert_eq!(one.node.close_open_file(7, WAIT), Ok(()));
    assert_eq!(two.node.hold_open_file(7, WAIT), Ok(()));
    assert_eq!(two.node.close_open_file(7, WAIT), Ok(()));
    assert!(kept());
    assert_eq!(two.node.hold_open_file(7, WAIT), Ok(()));
    assert!(kept());
    assert_eq!(one.node.take_back_open_file(vmid, 7, WAIT), Ok(()));
    assert!(kept());
    assert_eq!(
        one.node.take_back_open_file(vmid, 7, WAIT),
        Ok(()),
        "what is used stays"
    );
    assert!(kept());
    assert_eq!(two.node.close_open_file(7, WAIT), Ok(()));
    assert!(!kept());
    // An open file that the member has already arrives again.
    assert_eq!(two.node.set_lock(&flock(7), WAIT), Ok(()));
    assert_eq!(one.node.give_open_file(vmid, 7, WAIT), Ok(()));
    assert_eq!(one.node.close_open_file(7, WAIT), Ok(()));
    assert_eq!(two.node.hold_open_file(7, WAIT), Ok(()));
    assert_eq!(two.node.close_open_file(7, WAIT), Ok(()));
    assert!(!kept());
    assert_eq!(other.node.close_open_file(9, WAIT), Ok(()));
    assert!(family.is_clean());
}

#[test]
fn process_that_never_joins_holds_its_open_files_until_it_is_abandoned() {
    let family = Family::new();
    let other = family.member_with_pid();
    let parent = family.member_with_pid();
    assert_eq!(parent.node.set_lock(&flock(7), WAIT), Ok(()));
    let identity = parent.node.start_child(WAIT).unwrap();
    assert_eq!(parent.node.give_open_file(identity.vmid, 7, WAIT), Ok(()));
    assert_eq!(parent.node.close_open_file(7, WAIT), Ok(()));
    assert!(!is_free(&other.node, flock(9)));
    assert_eq!(parent.node.abandon_child(identity.vmid), Ok(()));
    assert_eq!(other.node.set_lock(&waiting(flock(9)), WAIT), Ok(()));
    assert_eq!(other.node.close_open_file(9, WAIT), Ok(()));
    // A VMID that is never used: together with the giver.
    assert_eq!(parent.node.set_lock(&flock(7), WAIT), Ok(()));
    let vmid = parent.node.new_vmid(WAIT).unwrap();
    assert_eq!(parent.node.give_open_file(vmid, 7, WAIT), Ok(()));
    assert_eq!(parent.node.close_open_file(7, WAIT), Ok(()));
    assert!(!is_free(&other.node, flock(9)));
    parent.node.shut_down(LONG);
    assert_eq!(other.node.set_lock(&waiting(flock(9)), WAIT), Ok(()));
    assert_eq!(other.node.close_open_file(9, WAIT), Ok(()));
    assert!(family.is_clean());
    // A member that has left.
    let vmid = parent.node.identity().vmid;
    let given = other.node.give_open_file(vmid, 9, WAIT);
    assert_eq!(given, Err(Error::NoSuchProcess));
    assert!(family.is_clean());
}

#[test]
fn transfer_at_the_limit_of_open_files_is_refused_and_changes_nothing() {
    let mut config = Config {
        quota: Quota::Off,
        ..Config::DEFAULT
    };
    config.capacities.locks.open_files = 2;
    let family = Family::with(config);
    let (one, two, other) = (
        family.member_with_pid(),
        family.member_with_pid(),
        family.member_with_pid(),
    );
    let full = Err(Error::Refused {
        errno: Errno::ENOLCK,
        by: None,
    });
    let vmid = two.node.identity().vmid;
    assert_eq!(other.node.set_lock(&flock(9), WAIT), Ok(()));
    // Two slots are needed, and one is free.
    assert_eq!(one.node.give_open_file(vmid, 7, WAIT), full);
    assert_eq!(shared(&family), 1);
    assert_eq!(other.node.give_open_file(vmid, 9, WAIT), Ok(()));
    assert_eq!(other.node.give_open_file(vmid, 9, WAIT), full);
    assert_eq!(one.node.hold_open_file(7, WAIT), full);
    // Neither the use of a transferred open file nor its close needs a slot.
    assert_eq!(two.node.hold_open_file(9, WAIT), Ok(()));
    assert_eq!(two.node.set_lock(&flock(9), WAIT), Ok(()));
    assert_eq!(two.node.close_open_file(9, WAIT), Ok(()));
    assert_eq!(other.node.close_open_file(9, WAIT), Ok(()));
    assert!(family.is_clean());
}

/// `tests/open_files.rs` asks the host's kernel for the same.
#[test]
fn close_does_not_end_a_wait_of_the_same_process() {
    let family = Family::new();
    let (one, two, other) = (
        family.member_with_pid(),
        family.member_with_pid(),
        family.member_with_pid(),
    );
    for waiter in [&two.node, &family.leader] {
        for (held, lock, wanted) in [
            (flock(7), flock(8), flock(9)),
            (ofd(7, 0, 9), ofd(8, 0, 9), ofd(9, 0, 9)),
        ] {
            assert_eq!(one.node.set_lock(&held, WAIT), Ok(()));
            thread::scope(|scope| {
                let waits = scope.spawn(|| waiter.set_lock(&waiting(lock), WAIT));
                family.until_waiting(1);
                assert_eq!(waiter.close_open_file(8, WAIT), Ok(()));
                assert_eq!(family.leader.statistics().pools.waiting_for_locks.now, 1);
                assert_eq!(one.node.set_lock(&unlock(held), WAIT), Ok(()));
                assert_eq!(waits.join().unwrap(), Ok(()), "it got the lock");
            });
            assert!(
                is_free(&other.node, wanted),
                "which went with the open file"
            );
            // A cancelled request releases its reference, too.
            assert_eq!(one.node.set_lock(&held, WAIT), Ok(()));
            let shared_before = shared(&family);
            let interrupt = Interrupt::new();
            thread::scope(|scope| {
                let wait = WAIT.or_until(&interrupt);
                let waits = scope.spawn(move || waiter.set_lock(&waiting(lock), wait));
                family.until_waiting(1);
                assert_eq!(waiter.close_open_file(8, WAIT), Ok(()));
                interrupt.raise(waiter);
                assert_eq!(waits.join().unwrap(), Err(Error::Interrupted));
            });
            assert_eq!(shared(&family), shared_before);
            for (member, handle) in [(&one.node, 7), (&other.node, 9)] {
                assert_eq!(member.close_open_file(handle, WAIT), Ok(()));
            }
            assert!(family.is_clean());
        }
    }
}

#[test]
fn reaped_process_has_released_its_open_files() {
    let family = Family::new();
    let (parent, other) = (family.member_with_pid(), family.member_with_pid());
    for _ in 0..50 {
        let identity = parent.node.start_child(WAIT).unwrap();
        let child = HostNode::start(&family.base, identity, Config::DEFAULT).unwrap();
        child.join(WAIT).unwrap();
        assert_eq!(child.set_lock(&flock(7), WAIT), Ok(()));
        assert_eq!(child.set_lock(&ofd(8, 0, 9), WAIT), Ok(()));
        child.exit(Exit::default(), WAIT).unwrap();
        child.shut_down(LONG);
        let which = ChildSelector::Pid(identity.pid.unwrap());
        assert_eq!(parent.node.wait_child(which, WAIT).map(drop), Ok(()));
        assert!(is_free(&other.node, flock(9)));
        assert!(is_free(&other.node, ofd(10, 0, 9)));
    }
}

/// Answers as a leader in C, up to the question of member 2 for the owner of an ID: it skips unknown messages.
fn answer_as_in_c(listener: &UnixListener, base: &Path) {
    let (mut from, _) = listener.accept().unwrap();
    let mut said = [0; 4];
    from.read_exact(&mut said).unwrap();
    let mut to = UnixStream::connect(format!("{}.2", base.display())).unwrap();
    to.write_all(&1_u32.to_le_bytes()).unwrap();
    let mut header = [0; 17];
    while from.read_exact(&mut header).is_ok() {
        let size = u64::from_le_bytes(header[..8].try_into().unwrap());
        let seq = u64::from_le_bytes(header[8..16].try_into().unwrap());
        let mut payload = vec![0; usize::try_from(size).unwrap() - header.len()];
        from.read_exact(&mut payload).unwrap();
        if header[16] == GET_ID_OWNER {
            to.write_all(&frame(seq, 0, &1_u32.to_le_bytes())).unwrap();
        }
    }
}

#[test]
fn leader_in_c_skips_messages_about_open_files() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("f");
    let listener = UnixListener::bind(format!("{}.1", base.display())).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| answer_as_in_c(&listener, &base));
        let identity = Identity::child(Vmid::new(2).unwrap(), Vmid::LEADER);
        let member = HostNode::start(&base, identity, Config::DEFAULT).unwrap();
        assert_eq!(member.close_open_file(7, WAIT), Ok(()), "never locked");
        let cannot = Err(Error::Unsupported);
        assert_eq!(member.hold_open_file(7, WAIT), cannot);
        assert_eq!(member.give_open_file(Vmid::LEADER, 7, WAIT), cannot);
        assert_eq!(member.take_back_open_file(Vmid::LEADER, 7, WAIT), cannot);
        assert_eq!(member.close_open_file(7, WAIT), cannot);
        member.shut_down(LONG);
    });
}
