//! Shared values of real members over real sockets. The expected results follow from the calls of
//! the test, or from `EOWNERDEAD` of robust mutexes.

use std::thread;
use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::wire::{FileLock, LockFamily, LockKind, SyncState};
use libos_ipc::{
    Capacities, Config, Errno, Error, Identity, Interrupt, Invalid, LeaseLimits, Pid, Quota,
    Refusal, Resource, ValueStatus, Wait,
};

use crate::host_family::Family;

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(10));
const TIMES: u64 = 300;
const NOW: Wait<'static> = Wait::at_most(Duration::ZERO);

impl Family {
    /// Waits until the leader serves no sync handle any more.
    fn until_clean(&self) {
        let used = || {
            let pools = self.leader.statistics().pools;
            pools.served_handles.now + pools.sync_clients.now
        };
        while used() > 0 {
            thread::yield_now();
        }
        assert!(self.leader.check_invariants());
    }
}

/// Returns the number of frames that a node sends while `what` runs.
fn sent(node: &HostNode, what: impl FnOnce()) -> u64 {
    let before = node.statistics().frames_out;
    what();
    node.statistics().frames_out - before
}

/// The server has dropped the leader's own client by then, and sends nothing more about it.
#[test]
fn leader_that_has_left_closes_its_open_handles() {
    let Family { leader, .. } = &Family::new();
    let handle = leader.open_sync(Some(5)).unwrap();
    let state = SyncState::Exclusive;
    leader.lock_sync(handle, state, &mut [], WAIT).unwrap();
    leader.unlock_sync(handle, state, None).unwrap();
    leader.leave(WAIT).unwrap();
    assert_eq!(leader.close_sync(handle, WAIT), Ok(()));
    assert_eq!(leader.statistics().pools.sync_handles.now, 0);
}

#[test]
fn written_value_is_read_by_all_members() {
    let family = Family::new();
    let (one, two) = (family.member(), family.member());
    let nodes = [&family.leader, &one, &two];
    let id = one.share::<u64>(None).unwrap().id();
    let values = nodes.map(|node| node.share::<u64>(Some(id)).unwrap());
    for writer in 0..3 {
        for round in 0..3_u64 {
            let number = writer as u64 * 10 + round + 1;
            *values[writer].write(WAIT).unwrap() = number;
            for value in &values {
                assert_eq!(*value.read(WAIT).unwrap(), number);
            }
        }
    }
    drop(values);
    family.until_clean();
}

#[test]
fn status_reports_changes_of_other_members() {
    let family = Family::new();
    let (one, two) = (family.member(), family.member());
    let id = one.share::<u64>(None).unwrap().id();
    let (mine, theirs) = (one.share::<u64>(Some(id)), two.share::<u64>(Some(id)));
    let (mine, theirs) = (mine.unwrap(), theirs.unwrap());
    let changed = |changed| ValueStatus {
        changed,
        owner_died: false,
    };
    *mine.write(WAIT).unwrap() = 7;
    assert_eq!(theirs.read(WAIT).unwrap().status(), changed(true));
    assert_eq!(theirs.read(WAIT).unwrap().status(), changed(false));
    assert_eq!(mine.read(WAIT).unwrap().status(), changed(false));
    // The member could have changed the value, but did not.
    drop(theirs.write(WAIT).unwrap());
    assert_eq!(mine.read(WAIT).unwrap().status(), changed(false));
    *theirs.write(WAIT).unwrap() = 8;
    assert_eq!(mine.write(WAIT).unwrap().status(), changed(true));
}

#[test]
fn use_with_a_held_lease_sends_no_message() {
    let family = Family::new();
    let one = family.member();
    let value = one.share::<[u64; 8]>(None).unwrap();
    value.write(WAIT).unwrap()[3] = 1;
    let frames = sent(&one, || {
        for _ in 0..1_000 {
            value.write(WAIT).unwrap()[3] += 1;
            assert!(value.read(WAIT).unwrap()[3] > 1);
        }
    });
    assert_eq!(frames, 0);
    // No other process holds a lease, so the reader becomes the writer at once.
    let mut writer = value.read(WAIT).unwrap().upgrade(WAIT).ok().unwrap();
    writer[0] = 5;
    drop(writer);
    assert_eq!(value.read(WAIT).unwrap()[..4], [5, 0, 0, 1001]);
}

#[test]
fn value_in_use_is_not_acquired_by_other_members() {
    let family = Family::new();
    let (one, two) = (family.member(), family.member());
    let mine = one.share::<u32>(Some(9)).unwrap();
    for other in [&two, &family.leader] {
        let theirs = other.share::<u32>(Some(9)).unwrap();
        let reader = mine.read(WAIT).unwrap();
        assert_eq!(*theirs.read(WAIT).unwrap(), 0, "many may read");
        let short = Wait::at_most(Duration::from_millis(5));
        assert_eq!(theirs.write(short).err(), Some(Error::TimedOut));
        let interrupt = Interrupt::new();
        interrupt.raise(other);
        let outcome = theirs.write(WAIT.or_until(&interrupt)).err();
        assert_eq!(outcome, Some(Error::Interrupted));
        thread::scope(|scope| {
            let writer = scope.spawn(|| drop(theirs.write(WAIT).unwrap()));
            // The later reader does not overtake the writer, which waits for this process.
            while mine.read(NOW).is_ok() {
                thread::yield_now();
            }
            drop(reader);
            writer.join().unwrap();
        });
        let writer = mine.write(WAIT).unwrap();
        assert_eq!(theirs.read(short).err(), Some(Error::TimedOut));
        assert_eq!(theirs.write(NOW).err(), Some(Error::TimedOut));
        drop(writer);
        // The failed call requested the lease, so it arrives.
        while theirs.write(NOW).is_err() {
            thread::yield_now();
        }
    }
}

#[test]
fn one_of_two_upgrading_readers_gets_edeadlk() {
    let family = Family::new();
    let (one, two) = (family.member(), family.member());
    let mine = one.share::<u64>(Some(1)).unwrap();
    let theirs = two.share::<u64>(Some(1)).unwrap();
    for _ in 0..50 {
        let (first, second) = (mine.read(WAIT).unwrap(), theirs.read(WAIT).unwrap());
        let upgrade = |reader: libos_ipc::Reader<'_, '_, '_, _, u64>| match reader.upgrade(WAIT) {
            Ok(mut writer) => {
                *writer += 1;
                true
            }
            Err((reader, error)) => {
                assert_eq!(
                    error,
                    Error::Refused {
                        errno: Errno::EDEADLK,
                        by: None
                    }
                );
                drop(reader);
                false
            }
        };
        let done = thread::scope(|scope| {
            let other = scope.spawn(|| upgrade(second));
            [upgrade(first), other.join().unwrap()]
        });
        assert_eq!(done.iter().filter(|done| **done).count(), 1);
    }
    assert_eq!(*mine.read(WAIT).unwrap(), 50);
}

#[test]
fn owner_death_is_reported_to_the_next_members_until_one_may_change() {
    let family = Family::new();
    let (one, two, three) = (family.member(), family.member(), family.member());
    let values = [&two, &three, &family.leader].map(|node| node.share::<u64>(Some(5)).unwrap());
    *values[0].write(WAIT).unwrap() = 1;
    {
        let dying = one.share::<u64>(Some(5)).unwrap();
        let mut writer = dying.write(WAIT).unwrap();
        *writer = 2;
        one.shut_down(Duration::ZERO);
    }
    let read = |value: &libos_ipc::Shared<'_, '_, _, u64>| {
        let reader = value.read(WAIT).unwrap();
        (*reader, reader.status().owner_died)
    };
    assert_eq!(read(&values[0]), (1, true));
    assert_eq!(read(&values[1]), (1, true), "no caller could change it yet");
    let writer = values[2].write(WAIT).unwrap();
    assert!(writer.status().owner_died);
    drop(writer);
    assert_eq!(read(&values[0]), (1, false));
    // Neither a process that only held the lease nor one that reads is a dead owner.
    let idle = family.member();
    drop(idle.share::<u64>(Some(5)).unwrap().read(WAIT).unwrap());
    idle.shut_down(Duration::ZERO);
    assert_eq!(read(&values[0]), (1, false));
}

/// Lets a member die while it changes the value.
fn die_changing(family: &Family, id: u64) {
    let dying = family.member();
    let value = dying.share::<u64>(Some(id)).unwrap();
    let mut writer = value.write(WAIT).unwrap();
    *writer = 99;
    dying.shut_down(Duration::ZERO);
}

#[test]
fn owner_death_ends_the_waits_of_all_threads_and_processes() {
    let family = Family::new();
    let (one, two, dying) = (family.member(), family.member(), family.member());
    let value = dying.share::<u64>(Some(5)).unwrap();
    let values = [&one, &two, &family.leader].map(|node| node.share::<u64>(Some(5)).unwrap());
    *values[0].write(WAIT).unwrap() = 1;
    let mut writer = value.write(WAIT).unwrap();
    *writer = 7;
    thread::scope(|scope| {
        let waiting: Vec<_> = values
            .iter()
            .chain(&values)
            .map(|value| {
                scope.spawn(|| {
                    let reader = value.wait_for(WAIT, |value| *value == 7).unwrap();
                    (*reader, reader.status().owner_died)
                })
            })
            .collect();
        for node in [&one, &two, &family.leader] {
            while node.pending_calls().count() < 2 {
                thread::yield_now();
            }
        }
        dying.shut_down(Duration::ZERO);
        for waiting in waiting {
            assert_eq!(waiting.join().unwrap(), (1, true));
        }
    });
    // A second wait goes on, and its result still reports the death.
    let short = Wait::at_most(Duration::from_millis(5));
    let again = values[0].wait_for(short, |value| *value == 7);
    assert_eq!(again.err(), Some(Error::TimedOut));
    let reader = values[0].wait_for(WAIT, |value| *value == 1).unwrap();
    assert!(reader.status().owner_died);
    drop(reader);
    // A call that may change the value ends the report.
    let mut writer = values[1].write(WAIT).unwrap();
    assert!(writer.status().owner_died);
    *writer = 8;
    drop(writer);
    for value in &values {
        assert!(!value.read(WAIT).unwrap().status().owner_died);
    }
}

#[test]
fn failed_call_leaves_the_owner_death_to_the_next_caller() {
    let family = Family::new();
    let (one, two) = (family.member(), family.member());
    let keep = family.leader.share::<u64>(Some(6)).unwrap();
    *keep.write(WAIT).unwrap() = 3;
    let (exclusive, shared) = (SyncState::Exclusive, SyncState::Shared);
    for state in [shared, exclusive] {
        die_changing(&family, 6);
        // The type has another size than the value.
        let wrong = one.share::<u32>(Some(6)).unwrap();
        if state == exclusive {
            assert_eq!(
                wrong.write(WAIT).err(),
                Some(Error::Invalid(Invalid::ValueSize))
            );
        } else {
            assert_eq!(
                wrong.read(WAIT).err(),
                Some(Error::Invalid(Invalid::ValueSize))
            );
        }
        close(&one, wrong);
        // A handle that is opened in that slot and never read reports nothing.
        drop(one.share::<u64>(Some(6)).unwrap());
        let theirs = two.share::<u64>(Some(6)).unwrap();
        let failed = theirs.wait_for(NOW, |value| *value == 99).err();
        assert_eq!(failed, Some(Error::TimedOut));
        for _ in 0..2 {
            assert!(theirs.read(WAIT).unwrap().status().owner_died, "{state:?}");
        }
        assert!(keep.write(WAIT).unwrap().status().owner_died, "{state:?}");
        assert!(!theirs.read(WAIT).unwrap().status().owner_died);
        close(&two, theirs);
    }
}

/// Closes the value, and waits until the leader has confirmed it: the process may open it again then.
fn close<T>(node: &HostNode, value: libos_ipc::Shared<'_, '_, libos_ipc::host::Host, T>) {
    drop(value);
    while node.statistics().pools.sync_handles.now > 0 {
        let _ = node.close_all_syncs(WAIT);
    }
}

#[test]
fn close_succeeds_while_other_threads_use_all_waiters() {
    let family = Family::new();
    let identity = family.leader.start_child(WAIT).unwrap();
    let config = Config {
        capacities: Capacities {
            waiters: 1,
            ..Capacities::DEFAULT
        },
        ..Config::DEFAULT
    };
    let member = HostNode::start(&family.base, identity, config).unwrap();
    member.join(WAIT).unwrap();
    let handle = member.open_sync(Some(12)).unwrap();
    let shared = SyncState::Shared;
    member.lock_sync(handle, shared, &mut [], WAIT).unwrap();
    member.unlock_sync(handle, shared, None).unwrap();
    let lock = |wait| FileLock {
        family: LockFamily::Posix,
        kind: LockKind::Write,
        start: 0,
        end: 9,
        pid: identity.pid.filter(|_| wait).map_or(0, Pid::get),
        handle: 0,
        wait,
        path: b"/file",
    };
    family.leader.set_lock(&lock(false), WAIT).unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| member.set_lock(&lock(true), WAIT));
        while member.statistics().pools.waiters.now == 0 {
            thread::yield_now();
        }
        assert_eq!(member.close_sync(handle, WAIT), Ok(()));
        let unlock = FileLock {
            kind: LockKind::Unlock,
            ..lock(false)
        };
        family.leader.set_lock(&unlock, WAIT).unwrap();
        assert_eq!(waits.join().unwrap(), Ok(()));
    });
    while member.statistics().pools.sync_handles.now > 0 {
        thread::yield_now();
    }
}

#[test]
fn change_seen_by_a_failed_wait_is_reported_to_the_next_caller() {
    let family = Family::new();
    let (one, two) = (family.member(), family.member());
    let (mine, theirs) = (one.share::<u64>(Some(8)), two.share::<u64>(Some(8)));
    let (mine, theirs) = (mine.unwrap(), theirs.unwrap());
    *theirs.write(WAIT).unwrap() = 1;
    let short = Wait::at_most(Duration::from_millis(50));
    assert!(mine.wait_for(short, |value| *value == 2).is_err());
    assert!(mine.read(WAIT).unwrap().status().changed);
    assert!(!mine.read(WAIT).unwrap().status().changed);
    *theirs.write(WAIT).unwrap() = 2;
    let reader = mine.wait_for(WAIT, |value| *value == 2).unwrap();
    assert!(reader.status().changed);
}

#[test]
fn wait_for_a_value_sends_nothing_while_it_is_unchanged() {
    let family = Family::new();
    let (one, two) = (family.member(), family.member());
    let (mine, theirs) = (one.share::<u64>(Some(3)), two.share::<u64>(Some(3)));
    let (mine, theirs) = (mine.unwrap(), theirs.unwrap());
    let ours = family.leader.share::<u64>(Some(3)).unwrap();
    let short = Wait::at_most(Duration::from_millis(5));
    assert_eq!(
        mine.wait_for(short, |value| *value == 9).err(),
        Some(Error::TimedOut)
    );
    thread::scope(|scope| {
        // A member, the member that writes, and the leader.
        let waiting = [&mine, &theirs, &ours]
            .map(|value| scope.spawn(|| *value.wait_for(WAIT, |value| *value >= 20).unwrap()));
        for _ in 0..20 {
            *theirs.write(WAIT).unwrap() += 1;
        }
        for waiter in waiting {
            assert_eq!(waiter.join().unwrap(), 20);
        }
    });
    // The call sleeps: it sends nothing while the value is unchanged.
    let frames = sent(&one, || {
        let little = Wait::at_most(Duration::from_millis(20));
        assert!(mine.wait_for(little, |value| *value > 20).is_err());
    });
    assert!(frames <= 2, "{frames} frames");
}

#[test]
fn increments_of_all_threads_and_members_are_kept() {
    let family = Family::new();
    let members: Vec<HostNode> = (0..3).map(|_| family.member()).collect();
    let keep = family.leader.share::<u64>(Some(4)).unwrap();
    drop(keep.read(WAIT).unwrap());
    let values: Vec<_> = members
        .iter()
        .map(|node| node.share::<u64>(Some(4)).unwrap())
        .collect();
    thread::scope(|scope| {
        for value in values.iter().chain([&keep]) {
            for _ in 0..3 {
                scope.spawn(move || {
                    for _ in 0..TIMES {
                        *value.write(WAIT).unwrap() += 1;
                        let before = *value.read(WAIT).unwrap();
                        assert!(*value.read(WAIT).unwrap() >= before);
                    }
                });
            }
        }
    });
    assert_eq!(*keep.read(WAIT).unwrap(), TIMES * 3 * 4);
}

#[test]
fn value_of_any_length_up_to_the_limit_is_shared() {
    let family = Family::new();
    let (one, two) = (family.member(), family.member());
    let mine = one.open_sync(None).unwrap();
    assert_eq!(
        one.open_sync(Some(mine.id())),
        Err(Error::Invalid(Invalid::HandleOpen))
    );
    let theirs = two.open_sync(Some(mine.id())).unwrap();
    let mut buffer = [0; 2000];
    let (exclusive, shared) = (SyncState::Exclusive, SyncState::Shared);
    for length in [0_usize, 1, 1000, 1024, 3, 0] {
        let data = vec![length.to_le_bytes()[0]; length];
        one.lock_sync(mine, exclusive, &mut [], WAIT).unwrap();
        assert_eq!(one.unlock_sync(mine, exclusive, Some(&data)), Ok(()));
        let (read, _) = two.lock_sync(theirs, shared, &mut buffer, WAIT).unwrap();
        assert_eq!(buffer[..read], data);
        let refused = two.unlock_sync(theirs, shared, Some(&data));
        assert_eq!(
            refused,
            Err(Error::Invalid(Invalid::ReadOnly)),
            "it may only read"
        );
        assert_eq!(two.unlock_sync(theirs, shared, None), Ok(()));
        assert_eq!(
            two.unlock_sync(theirs, shared, None),
            Err(Error::Invalid(Invalid::NotHeld))
        );
    }
    one.lock_sync(mine, exclusive, &mut [], WAIT).unwrap();
    let too_long = one.unlock_sync(mine, exclusive, Some(&[0; 1025]));
    assert_eq!(too_long, Err(Error::Invalid(Invalid::ValueLength)));
    assert_eq!(
        one.close_sync(mine, WAIT),
        Err(Error::Invalid(Invalid::HandleInUse)),
        "in use"
    );
    one.unlock_sync(mine, exclusive, None).unwrap();
    assert_eq!(one.close_all_syncs(WAIT), Ok(()));
    assert_eq!(two.close_sync(theirs, WAIT), Ok(()));
    assert_eq!(
        two.close_sync(theirs, WAIT),
        Err(Error::Invalid(Invalid::HandleClosed))
    );
    let stale = two.lock_sync(theirs, shared, &mut buffer, WAIT);
    assert_eq!(stale, Err(Error::Invalid(Invalid::HandleClosed)));
    family.until_clean();
    // The handle can be opened again, and its value is empty.
    let again = one.open_sync(Some(mine.id())).unwrap();
    let (length, _) = one.lock_sync(again, shared, &mut buffer, WAIT).unwrap();
    assert_eq!(length, 0);
}

#[test]
fn unlock_in_a_state_that_is_not_held_is_refused_without_effect() {
    let family = Family::new();
    let (one, two) = (family.member(), family.member());
    let mine = one.open_sync(Some(6)).unwrap();
    for held in [SyncState::Shared, SyncState::Exclusive] {
        one.lock_sync(mine, held, &mut [], WAIT).unwrap();
        for other in SyncState::ALL.iter().filter(|state| **state != held) {
            let refused = one.unlock_sync(mine, *other, None);
            assert_eq!(
                refused,
                Err(Error::Invalid(Invalid::NotHeld)),
                "{other:?} instead of {held:?}"
            );
            let taken = one.lock_sync(mine, SyncState::Exclusive, &mut [], NOW);
            assert_eq!(taken.err(), Some(Error::TimedOut), "it is still {held:?}");
        }
        assert_eq!(one.unlock_sync(mine, held, None), Ok(()));
        for state in SyncState::ALL {
            let refused = one.unlock_sync(mine, *state, None);
            assert_eq!(
                refused,
                Err(Error::Invalid(Invalid::NotHeld)),
                "no thread holds it"
            );
        }
    }
    // The only reader is in a call that makes it the writer, so no other thread can release it.
    let theirs = two.open_sync(Some(6)).unwrap();
    two.lock_sync(theirs, SyncState::Shared, &mut [], WAIT)
        .unwrap();
    one.lock_sync(mine, SyncState::Shared, &mut [], WAIT)
        .unwrap();
    thread::scope(|scope| {
        let upgrade = scope.spawn(|| one.upgrade_sync(mine, WAIT));
        while one.pending_calls().count() == 0 {
            thread::yield_now();
        }
        let refused = one.unlock_sync(mine, SyncState::Shared, None);
        assert_eq!(refused, Err(Error::Invalid(Invalid::NotHeld)));
        two.unlock_sync(theirs, SyncState::Shared, None).unwrap();
        assert_eq!(upgrade.join().unwrap(), Ok(()));
    });
    assert_eq!(one.unlock_sync(mine, SyncState::Exclusive, None), Ok(()));
}

/// Before it joins a process has no pid, and its VMID may be the pid of another process.
#[test]
fn fresh_numbers_of_all_processes_differ() {
    let family = Family::new();
    let mut nodes = Vec::new();
    for vmid in 1_000..1_008 {
        let identity =
            Identity::child(libos_ipc::Vmid::new(vmid).unwrap(), libos_ipc::Vmid::LEADER);
        nodes.push(HostNode::start(&family.base, identity, Config::DEFAULT).unwrap());
    }
    for pid in 1_000..1_008 {
        let identity = Identity {
            pid: Pid::new(pid),
            ..family.leader.start_child(WAIT).unwrap()
        };
        nodes.push(HostNode::start(&family.base, identity, Config::DEFAULT).unwrap());
    }
    nodes.extend((0..4).map(|_| family.member()));
    let mut ids = std::collections::BTreeSet::new();
    for node in nodes.iter().chain([&family.leader]) {
        for _ in 0..4 {
            let id = node.open_sync(None).unwrap().id();
            assert!(ids.insert(id), "{:?} makes {id:x} again", node.identity());
            let is_of_c = id >> 32 <= u64::from(libos_ipc::ID_MAX);
            assert!(!is_of_c, "a process in C may make {id:x}");
        }
    }
}

#[test]
fn fresh_number_that_is_open_is_skipped() {
    let family = Family::new();
    let one = family.member();
    let first = one.share::<u64>(None).unwrap().id();
    let open: Vec<_> = (1..=8)
        .map(|more| one.share::<u64>(Some(first + more)).unwrap())
        .collect();
    let fresh = one.share::<u64>(None).unwrap();
    assert!(open.iter().all(|other| other.id() != fresh.id()));
}

#[test]
fn request_at_a_limit_is_refused_and_changes_nothing() {
    let mut config = Config {
        quota: Quota::Off,
        ..Config::DEFAULT
    };
    config.capacities.leases = LeaseLimits {
        handles: 2,
        clients: 3,
    };
    let family = Family::with(config);
    let (one, two) = (family.member(), family.member());
    let open = |node: &HostNode, id| node.open_sync(Some(id)).unwrap();
    let use_it = |node: &HostNode, handle| {
        node.lock_sync(handle, SyncState::Shared, &mut [], WAIT)
            .and_then(|_| node.unlock_sync(handle, SyncState::Shared, None))
    };
    let full = Err(Error::Refused {
        errno: Errno::ENOMEM,
        by: None,
    });
    let start = std::time::Instant::now();
    let mine = [1, 2, 3].map(|id| open(&one, id));
    assert_eq!(use_it(&one, mine[0]), Ok(()));
    assert_eq!(use_it(&one, mine[1]), Ok(()));
    assert_eq!(use_it(&one, mine[2]), full, "ENOMEM: handles");
    let theirs = [1, 2].map(|id| open(&two, id));
    assert_eq!(use_it(&two, theirs[0]), Ok(()));
    assert_eq!(use_it(&two, theirs[1]), full, "ENOMEM: clients");
    let ours = open(&family.leader, 2);
    assert_eq!(use_it(&family.leader, ours), full);
    assert_eq!(one.close_sync(mine[0], WAIT), Ok(()));
    assert_eq!(use_it(&two, theirs[1]), Ok(()));
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "a refusal does not wait"
    );
    // The limit of the process itself.
    let limit = one.statistics().pools.sync_handles.limit;
    while one.statistics().pools.sync_handles.now < limit {
        one.open_sync(None).unwrap();
    }
    let refused = one.open_sync(None);
    assert_eq!(refused, Err(Error::Full(Resource::SyncHandles)));
    assert_eq!(one.close_all_syncs(WAIT), Ok(()));
    assert_eq!(one.statistics().pools.sync_handles.now, 0);
}

#[test]
fn shutdown_ends_all_waits_for_values() {
    let family = Family::new();
    let (one, two) = (family.member(), family.member());
    let mine = one.share::<u64>(Some(1)).unwrap();
    let writer = mine.write(WAIT).unwrap();
    let theirs = two.share::<u64>(Some(1)).unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| theirs.write(Wait::FOREVER).err());
        while family.leader.statistics().pools.sync_clients.now < 2 {
            thread::yield_now();
        }
        two.shut_down(Duration::ZERO);
        assert_eq!(waiter.join().unwrap(), Some(Error::ShuttingDown));
    });
    let outcome = theirs.write(Wait::FOREVER).err();
    assert_eq!(outcome, Some(Error::ShuttingDown));
    drop(writer);
    drop(theirs);
}

#[test]
fn end_of_the_leader_ends_all_waits_for_values() {
    let family = Family::new();
    let (one, two) = (family.member(), family.member());
    let mine = one.share::<u64>(Some(1)).unwrap();
    let theirs = two.share::<u64>(Some(1)).unwrap();
    let writer = mine.write(WAIT).unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| theirs.write(WAIT).err());
        while family.leader.statistics().pools.sync_clients.now < 2 {
            thread::yield_now();
        }
        family.leader.shut_down(Duration::ZERO);
        assert_eq!(waiter.join().unwrap(), Some(Error::LeaderGone));
    });
    drop(writer);
    while two.statistics().disconnects == 0 || one.statistics().disconnects == 0 {
        thread::yield_now();
    }
    let connected = [&one, &two].map(|node| node.statistics().connected);
    // The leader had revoked the lease, so it cannot be used any more.
    assert_eq!(mine.write(WAIT).err(), Some(Error::LeaderGone));
    assert_eq!(theirs.write(WAIT).err(), Some(Error::LeaderGone));
    drop((mine, theirs));
    let after = [&one, &two].map(|node| node.statistics().connected);
    assert_eq!(connected, after);
}

/// A family whose leases have a limit, and the ID of a value that a member changes and does not unlock
/// before `then` returns.
fn with_holder(limit: Option<Duration>, then: impl FnOnce(&Family, &HostNode, u64)) {
    let family = Family::with(Config {
        lease_limit: limit,
        ..Config::DEFAULT
    });
    let holder = family.member();
    let value = holder.share::<u64>(None).unwrap();
    *value.write(WAIT).unwrap() = 1;
    let mut used = value.write(WAIT).unwrap();
    *used = 2;
    then(&family, &holder, value.id());
}

#[test]
fn lease_that_is_not_returned_in_time_costs_its_holder_the_connection() {
    let limit = Duration::from_millis(100);
    with_holder(Some(limit), |family, holder, id| {
        let other = family.member();
        let value = other.share::<u64>(Some(id)).unwrap();
        // No other process waits for it.
        thread::sleep(limit * 2);
        assert_eq!(family.leader.statistics().refused(Refusal::NotReturned), 0);
        let start = std::time::Instant::now();
        let taken = value.write(WAIT).unwrap();
        assert!(start.elapsed() >= limit);
        assert!(taken.status().owner_died, "the holder may have changed it");
        drop(taken);
        assert_eq!(family.leader.statistics().refused(Refusal::NotReturned), 1);
        while holder.owner_of(1, WAIT) != Err(Error::LeaderGone) {
            thread::yield_now();
        }
        assert!(family.leader.check_invariants());
    });
}

#[test]
fn lease_that_the_leader_itself_waits_for_has_the_limit() {
    with_holder(Some(Duration::from_millis(50)), |family, _, id| {
        let value = family.leader.share::<u64>(Some(id)).unwrap();
        assert!(value.read(WAIT).unwrap().status().owner_died);
        assert_eq!(family.leader.statistics().refused(Refusal::NotReturned), 1);
    });
}

#[test]
fn lease_without_a_limit_stays_as_long_as_it_is_used() {
    with_holder(None, |family, holder, id| {
        let value = family.leader.share::<u64>(Some(id)).unwrap();
        let soon = Wait::at_most(Duration::from_millis(200));
        assert!(value.write(soon).is_err());
        assert_eq!(family.leader.statistics().refused(Refusal::NotReturned), 0);
        assert!(holder.owner_of(1, WAIT).is_ok());
    });
}
