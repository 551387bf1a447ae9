//! Calls of families whose limits are 0 or 1.

use std::time::Duration;

use libos_ipc::wire::{FileLock, LockKind, MetaCode};
use libos_ipc::{ChildSelector, Config, Error, Exit, Heirs, Pid, Target, Wait};

use crate::common::{Family, Member, vmid};
use crate::limits::LIMITS;

const SHORT: Wait<'static> = Wait::at_most(Duration::from_millis(10));

/// A name and a call.
type Call = (&'static str, fn(&Family, &Member) -> Result<(), Error>);

/// Returns a request for a write lock, by each process on a file of its own.
fn lock(node: &Member, wait: bool) -> FileLock<'static> {
    FileLock {
        wait,
        path: if node.identity().is_leader() {
            b"one"
        } else {
            b"two"
        },
        ..crate::locks::lock(node, LockKind::Write, (0, 9))
    }
}

fn pid(node: &Member) -> Pid {
    node.pid().unwrap_or(Pid::new(1).unwrap())
}

const CALLS: [Call; 33] = [
    ("take_id", |family, node| {
        let id = family.run(node.take_id_async(SHORT))?;
        family.run(node.owner_of_async(id, SHORT))?;
        family.run(node.release_id_async(id, SHORT))
    }),
    ("take_id_for", |family, node| {
        family.run(node.take_id_for_async(vmid(1), SHORT)).map(drop)
    }),
    ("owner_of", |family, node| {
        family.run(node.owner_of_async(77, SHORT)).map(drop)
    }),
    ("alloc_range", |family, node| {
        let range = family.run(node.alloc_range_async(SHORT))?;
        family.run(node.release_range_async(range, SHORT))
    }),
    ("new_vmid", |family, node| {
        family.run(node.new_vmid_async(SHORT)).map(drop)
    }),
    ("start_child", |family, node| {
        family.run(node.start_child_async(SHORT)).map(drop)
    }),
    ("wait_child", |family, node| {
        let child = node.wait_child_async(ChildSelector::Any, SHORT);
        family.run(child).map(drop)
    }),
    ("process", |family, node| {
        family.run(node.process_async(None, SHORT)).map(drop)
    }),
    ("next_process", |family, node| {
        family.run(node.next_process_async(None, SHORT)).map(drop)
    }),
    ("group_of", |family, node| {
        family.run(node.group_of_async(None, SHORT)).map(drop)
    }),
    ("set_group", |family, node| {
        family.run(node.set_group_async(None, None, SHORT))
    }),
    ("new_session", |family, node| {
        family.run(node.new_session_async(SHORT)).map(drop)
    }),
    ("watch_parent", |family, node| {
        family.run(node.watch_parent_async(true, SHORT)).map(drop)
    }),
    ("kill one", |family, node| {
        let other = Target::Process(pid(&family.nodes[usize::from(node.identity().is_leader())]));
        family.run(node.kill_async(other, 40, SHORT))
    }),
    ("kill the group", |family, node| {
        family.run(node.kill_async(Target::Group(None), 15, SHORT))
    }),
    ("kill all", |family, node| {
        family.run(node.kill_async(Target::All, 15, SHORT))
    }),
    ("credentials", |family, node| {
        let other = pid(&family.nodes[usize::from(node.identity().is_leader())]);
        family.run(node.credentials_async(other, SHORT)).map(drop)
    }),
    ("path_of", |family, node| {
        let other = pid(&family.nodes[usize::from(node.identity().is_leader())]);
        let mut path = [0; 100];
        let path = node.path_of_async(other, MetaCode::Executable, &mut path, SHORT);
        family.run(path).map(drop)
    }),
    ("set_lock", |family, node| {
        family.run(node.set_lock_async(&lock(node, false), SHORT))
    }),
    ("set_lock, waiting", |family, node| {
        family.run(node.set_lock_async(&lock(node, true), SHORT))
    }),
    ("find_lock", |family, node| {
        family
            .run(node.find_lock_async(&lock(node, false), SHORT))
            .map(drop)
    }),
    ("clear_locks", |family, node| {
        family.run(node.clear_locks_async(pid(node).get(), SHORT))
    }),
    ("hold_open_file", |family, node| {
        let file = u64::from(node.identity().vmid.get());
        family.run(node.hold_open_file_async(file, SHORT))?;
        family.run(node.close_open_file_async(file, SHORT))
    }),
    ("read", |family, node| {
        let value = node.share::<u64>(Some(2))?;
        family.run(value.read_async(SHORT)).map(drop)
    }),
    ("write", |family, node| {
        let value = node.share::<u64>(Some(3))?;
        family.run(value.write_async(SHORT)).map(drop)
    }),
    ("wait_for", |family, node| {
        let value = node.share::<u64>(Some(3))?;
        family
            .run(value.wait_for_async(SHORT, |value| *value == 0))
            .map(drop)
    }),
    ("close_sync", |family, node| {
        let handle = node.open_sync(Some(4))?;
        let held = family.run(node.lock_sync_async(
            handle,
            libos_ipc::wire::SyncState::Shared,
            &mut [],
            SHORT,
        ));
        if held.is_ok() {
            node.unlock_sync(handle, libos_ipc::wire::SyncState::Shared, None)?;
        }
        family.run(node.close_sync_async(handle, SHORT))
    }),
    ("release a semaphore", |family, node| {
        let semaphore = node.open_semaphore(Some(5), 0)?;
        family.run(semaphore.release_async(SHORT))?;
        family.run(semaphore.acquire_async(SHORT))
    }),
    ("push", |family, node| {
        let queue = node.open_queue::<u64>(Some(6), 4)?;
        family.run(queue.push_async(&1, SHORT))?;
        family.run(queue.pop_async(SHORT)).map(drop)
    }),
    ("barrier", |family, node| {
        let barrier = node.open_barrier(Some(7), 1)?;
        family.run(barrier.wait_async(SHORT)).map(drop)
    }),
    ("notify_all", |family, node| {
        let condvar = node.open_condvar(Some(8))?;
        family.run(condvar.notify_all_async(SHORT))
    }),
    ("exit", |family, node| {
        family.run(node.exit_async(Exit::default(), SHORT))
    }),
    ("shut_down", |family, node| {
        let is_clean = family.run(node.shut_down_async(Duration::from_millis(10)));
        is_clean.then_some(()).ok_or(Error::TimedOut)
    }),
];

/// Errors that name a limit, and what follows if a process could not join or has no child.
const CAUSES: [&str; 10] = [
    "Full",
    "ENOMEM",
    "ENOLCK",
    "EAGAIN",
    "NoIds",
    "NotJoined",
    "NoSuchProcess",
    "NoChild",
    "ENOSYS",
    "EPERM",
];

/// Returns the results of all calls, of a member and then of the leader.
fn results(config: Config) -> Vec<(String, Result<(), Error>)> {
    let family = Family::unjoined(2, config);
    let mut results = Vec::new();
    for node in &family.nodes {
        let joined = family.run(node.join_async(SHORT)).map(drop);
        results.push((format!("{}: join", node.identity().vmid), joined));
    }
    for node in family.nodes.iter().rev() {
        for (name, call) in CALLS {
            let name = format!("{}: {name}", node.identity().vmid);
            results.push((name, call(&family, node)));
        }
    }
    family.poll_all();
    for node in &family.nodes {
        assert!(node.check_invariants());
    }
    results
}

#[test]
fn a_call_that_fails_at_a_limit_of_0_or_1_names_a_limit_and_does_not_wait() {
    for heirs in [Heirs::None, Heirs::Any] {
        let base = Config {
            heirs,
            ..Config::DEFAULT
        };
        let expected = results(base);
        // These three are lengths.
        let lengths = ["frame_length", "send_queue", "sync_data"];
        let limits = LIMITS.iter().filter(|(name, _)| !lengths.contains(name));
        let mut wrong = Vec::new();
        for (limit, place) in limits {
            for value in [0, 1] {
                let mut config = base;
                *place(&mut config.capacities) = value;
                if let Err(error) = config.check() {
                    assert_eq!(error.field, *limit);
                    continue;
                }
                for ((call, result), (_, expected)) in results(config).iter().zip(&expected) {
                    let Err(error) = result else { continue };
                    let error = format!("{error:?}");
                    let is_cause = |cause: &&str| error.contains(*cause);
                    if result != expected && !CAUSES.iter().any(is_cause) {
                        wrong.push(format!(
                            "{limit} {value}: {call}: {error}, not {expected:?}"
                        ));
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
