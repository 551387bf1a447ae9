//! The end of a process by `exit`: the resources that it frees, and the calls that are possible
//! after it.

use std::collections::BTreeSet;
use std::thread;

use libos_ipc::host::HostNode;
use libos_ipc::wire::{
    FileLock, IdRange, LockFamily, LockKind, Message, MetaCode, ProcessChange, ProcessState,
    SyncState,
};
use libos_ipc::{ChildSelector, Error, Exit, Pid, SyncHandle, Target, Vmid, Wait};

use crate::family::{Family, LONG, NOW, Process, WAIT, until};

fn with_code(code: u32) -> Exit {
    Exit {
        uid: 7,
        code,
        signal: 0,
    }
}

fn posix(pid: u32) -> FileLock<'static> {
    FileLock {
        family: LockFamily::Posix,
        kind: LockKind::Write,
        start: 0,
        end: u64::MAX,
        pid,
        handle: 0,
        wait: false,
        path: b"/file",
    }
}

fn flock(handle: u64) -> FileLock<'static> {
    FileLock {
        family: LockFamily::Flock,
        handle,
        pid: 0,
        ..posix(0)
    }
}

#[test]
fn exit_ends_a_process_although_its_node_still_exists() {
    let family = Family::new();
    let parent = family.child();
    for of in [&family.first, &parent] {
        let child = family.child_of(of);
        let pid = child.pid;
        assert_eq!(child.node.exit(with_code(3), WAIT), Ok(()));
        let process = family.first.node.process(Some(pid), WAIT).unwrap();
        assert_eq!(process.state, ProcessState::Zombie);
        let exit = of.node.wait_child(ChildSelector::Pid(pid), WAIT).unwrap();
        assert_eq!((exit.code, exit.signal), (3, 0));
        // Other processes may remember the owner of that pid.
        for node in [&family.first.node, &parent.node] {
            let killed = node.kill(Target::Process(pid), 0, WAIT);
            assert_eq!(killed, Err(Error::NoSuchProcess));
            assert!(node.credentials(pid, WAIT).is_err());
        }
        assert_eq!(child.signals(), []);
        assert!(child.node.shut_down(LONG));
        until("the embedder is notified", || !of.ended().is_empty());
        assert_eq!(of.ended(), [(pid, 3, 0)]);
    }
}

#[test]
fn a_second_exit_changes_nothing() {
    let family = Family::new();
    let child = family.child();
    assert_eq!(child.node.exit(with_code(3), WAIT), Ok(()));
    let again = child.node.exit(with_code(4), WAIT);
    assert_eq!(again, Err(Error::ShuttingDown));
    let exit = family
        .first
        .node
        .wait_child(ChildSelector::Any, WAIT)
        .unwrap();
    assert_eq!(exit.code, 3);
    assert!(child.node.shut_down(LONG));
    let nothing = family.first.node.wait_child(ChildSelector::Any, NOW);
    assert_eq!(nothing, Err(Error::NoChild));
}

#[test]
fn locks_and_ids_of_a_process_are_free_when_its_parent_has_reaped_it() {
    let family = Family::new();
    let (parent, other) = (family.child(), family.child());
    let value = other.node.share::<u64>(None).unwrap();
    let number = value.id();
    assert_eq!(*value.read(WAIT).unwrap(), 0);
    for round in 0..50 {
        let child = family.child_of(&parent);
        let (node, pid) = (&child.node, child.pid);
        node.set_lock(&posix(pid.get()), WAIT).unwrap();
        node.set_lock(&flock(9), WAIT).unwrap();
        let id = node.take_id(WAIT).unwrap();
        {
            let value = node.share::<u64>(Some(number)).unwrap();
            *value.write(WAIT).unwrap() = round;
        }
        let (of, named) = if round % 2 == 0 {
            (&parent, ChildSelector::Pid(pid))
        } else {
            (&parent, ChildSelector::Any)
        };
        thread::scope(|scope| {
            let waiting = scope.spawn(|| of.node.wait_child(named, WAIT));
            assert_eq!(node.exit(with_code(1), WAIT), Ok(()));
            assert_eq!(waiting.join().unwrap().unwrap().pid, pid);
        });
        // This does not wait, and the node of the dead process still exists.
        assert_eq!(other.node.set_lock(&posix(other.pid.get()), WAIT), Ok(()));
        assert_eq!(other.node.set_lock(&flock(8), WAIT), Ok(()));
        assert_eq!(other.node.owner_of(id, WAIT), Ok(None));
        assert_eq!(other.node.owner_of(pid.get(), WAIT), Ok(None));
        let read = value.read(WAIT).unwrap();
        assert_eq!((*read, read.status().owner_died), (round, false));
        drop(read);
        other.node.clear_locks(other.pid.get(), WAIT).unwrap();
        other.node.close_open_file(8, WAIT).unwrap();
        if round % 3 == 0 {
            drop(child);
        }
    }
}

#[test]
fn calls_that_wait_end_when_another_thread_ends_the_process() {
    let family = Family::new();
    let child = family.child();
    let _grandchild = family.child_of(&child);
    let holder = family.child();
    holder
        .node
        .set_lock(&posix(holder.pid.get()), WAIT)
        .unwrap();
    let waiting = FileLock {
        wait: true,
        ..posix(child.pid.get())
    };
    thread::scope(|scope| {
        let node = &child.node;
        let lock = scope.spawn(|| node.set_lock(&waiting, Wait::FOREVER));
        let wait = scope.spawn(|| node.wait_child(ChildSelector::Any, Wait::FOREVER));
        until("both wait", || node.statistics().pools.waiters.now == 2);
        assert_eq!(node.exit(with_code(0), WAIT), Ok(()));
        assert_eq!(lock.join().unwrap(), Err(Error::ShuttingDown));
        assert_eq!(wait.join().unwrap(), Err(Error::ShuttingDown));
    });
    // Its waiting request is not granted after its end.
    holder.node.clear_locks(holder.pid.get(), WAIT).unwrap();
    assert_eq!(holder.node.set_lock(&posix(holder.pid.get()), WAIT), Ok(()));
}

#[test]
fn the_first_process_can_exit_and_its_node_still_leads() {
    let family = Family::new();
    let (one, two) = (family.child(), family.child());
    let first = &family.first;
    first.node.set_lock(&posix(first.pid.get()), WAIT).unwrap();
    let id = first.node.take_id(WAIT).unwrap();
    assert_eq!(first.node.exit(with_code(1), WAIT), Ok(()));
    assert_eq!(one.node.set_lock(&posix(one.pid.get()), WAIT), Ok(()));
    assert_eq!(one.node.owner_of(id, WAIT), Ok(None));
    let gone = Err(Error::NoSuchProcess);
    assert_eq!(one.node.process(Some(first.pid), WAIT).map(drop), gone);
    assert_eq!(one.node.kill(Target::Process(first.pid), 0, WAIT), gone);
    assert_eq!(one.node.kill(Target::All, 5, WAIT), Ok(()));
    until("it is passed on", || two.signals() == [5]);
    assert_eq!(first.signals(), []);
    // The other processes start and reap children, lock, and end.
    let child = family.child_of(&two);
    assert_eq!(two.node.kill(Target::Process(child.pid), 6, WAIT), Ok(()));
    let pid = child.pid;
    child.exit(2);
    assert_eq!(
        two.node.wait_child(ChildSelector::Any, WAIT).unwrap().pid,
        pid
    );
    thread::scope(|scope| {
        let leaving = scope.spawn(|| first.node.leave(WAIT));
        one.exit(0);
        two.die();
        assert_eq!(leaving.join().unwrap(), Ok(()));
    });
    assert_eq!(first.node.release_idle_ranges(WAIT), Ok(()));
    let pools = first.node.statistics().pools;
    assert_eq!((pools.processes.now, pools.ranges.now), (0, 0));
    assert!(first.node.check_invariants());
    assert!(first.node.shut_down(LONG));
}

/// Calls that change nothing and only return information.
const QUERIES: [&str; 11] = [
    "events",
    "identity",
    "leader",
    "ids_in_use",
    "check_invariants",
    "memory",
    "pal",
    "pid",
    "statistics",
    "pending_calls",
    "new",
];
/// Calls that belong to the end itself, or have no result that could be an error.
const ENDINGS: [&str; 10] = [
    "broadcast",
    "disconnect",
    "drop",
    "flush_to",
    "release_idle_ranges",
    "leave",
    "shut_down",
    "poll",
    "poll_once",
    "work",
];

/// A call that was made: its name and its error.
type Called = (&'static str, Option<Error>);

/// Makes each call about IDs and VMIDs.
fn id_calls(node: &HostNode) -> Vec<Called> {
    let (own, other) = (node.identity().vmid, Vmid::new(99).unwrap());
    let range = IdRange { start: 1, end: 1 };
    vec![
        ("accept_id", node.accept_id(4_000_000).err()),
        ("alloc_range", node.alloc_range(WAIT).err()),
        ("change_owner", node.change_owner(1, other, WAIT).err()),
        ("transfer_id", node.transfer_id(1, other, WAIT).err()),
        ("new_vmid", node.new_vmid(WAIT).err()),
        ("owner_of", node.owner_of(1, WAIT).err()),
        ("release_id", node.release_id(1, WAIT).err()),
        ("release_range", node.release_range(range, WAIT).err()),
        ("take_id", node.take_id(WAIT).err()),
        ("take_id_for", node.take_id_for(own, WAIT).err()),
    ]
}

/// Makes each call about file locks and open files.
fn lock_calls(node: &HostNode) -> Vec<Called> {
    let (other, lock) = (Vmid::new(99).unwrap(), posix(1));
    vec![
        ("fencing_number", node.fencing_number(&lock, WAIT).err()),
        ("clear_locks", node.clear_locks(1, WAIT).err()),
        ("close_file", node.close_file(b"/other", 1, WAIT).err()),
        ("close_open_file", node.close_open_file(5, WAIT).err()),
        ("find_lock", node.find_lock(&lock, WAIT).err()),
        ("give_open_file", node.give_open_file(other, 5, WAIT).err()),
        ("hold_open_file", node.hold_open_file(5, WAIT).err()),
        ("set_lock", node.set_lock(&lock, WAIT).err()),
        (
            "take_back_open_file",
            node.take_back_open_file(other, 5, WAIT).err(),
        ),
    ]
}

/// Makes each call that connects with another process or sends it a message.
fn message_calls(node: &HostNode) -> Vec<Called> {
    let other = Vmid::new(99).unwrap();
    let message = Message::ReleaseIdRange(IdRange { start: 1, end: 1 });
    vec![
        ("announce", node.announce(other).err()),
        ("ask", node.ask(other, &Message::GetNewVmid, WAIT).err()),
        ("connect", node.connect(other).err()),
        ("queue", node.queue(other, &message, WAIT).err()),
        ("request", node.request(other, &Message::GetNewVmid).err()),
        ("send", node.send(other, &message, WAIT).err()),
    ]
}

/// Makes each call about processes.
fn process_calls(node: &HostNode) -> Vec<Called> {
    let (other, pid) = (Vmid::new(99).unwrap(), Pid::new(1).unwrap());
    let mut bytes = [0; 4096];
    vec![
        ("abandon_child", node.abandon_child(other).err()),
        ("credentials", node.credentials(pid, WAIT).err()),
        ("exit", node.exit(Exit::default(), WAIT).err()),
        ("group_of", node.group_of(None, WAIT).err()),
        ("join", node.join(WAIT).err()),
        ("kill", node.kill(Target::Process(pid), 0, WAIT).err()),
        ("kill", node.kill(Target::Group(None), 1, WAIT).err()),
        ("kill", node.kill(Target::All, 1, WAIT).err()),
        ("mark", node.mark(ProcessChange::Stopped, true, WAIT).err()),
        ("new_session", node.new_session(WAIT).err()),
        ("next_process", node.next_process(None, WAIT).err()),
        (
            "path_of",
            node.path_of(pid, MetaCode::Executable, &mut bytes, WAIT)
                .err(),
        ),
        ("process", node.process(None, WAIT).err()),
        (
            "peek_child",
            node.peek_child(ChildSelector::Any, WAIT).err(),
        ),
        (
            "peek_child",
            node.peek_child(ChildSelector::Group(None), NOW).err(),
        ),
        ("session_of", node.session_of(None, WAIT).err()),
        ("set_group", node.set_group(None, None, WAIT).err()),
        ("start_child", node.start_child(WAIT).err()),
        (
            "wait_child",
            node.wait_child(ChildSelector::Any, WAIT).err(),
        ),
        ("watch_parent", node.watch_parent(true, WAIT).err()),
        (
            "wait_child",
            node.wait_child(ChildSelector::Pid(pid), NOW).err(),
        ),
    ]
}

/// Makes each call about shared values, but for those of [`opening_calls`].
fn value_calls(node: &HostNode, handle: SyncHandle) -> Vec<Called> {
    vec![
        (
            "sync_fencing_number",
            node.sync_fencing_number(handle, WAIT).err(),
        ),
        ("close_all_syncs", node.close_all_syncs(WAIT).err()),
        ("close_sync", node.close_sync(handle, WAIT).err()),
        (
            "lock_sync",
            node.lock_sync(handle, SyncState::Shared, &mut [], WAIT)
                .err(),
        ),
        ("open_sync", node.open_sync(None).err()),
        ("share", node.share::<u64>(None).err()),
        ("sync_changes", node.sync_changes(handle).err()),
        (
            "unlock_sync",
            node.unlock_sync(handle, SyncState::Shared, None).err(),
        ),
        ("upgrade_sync", node.upgrade_sync(handle, WAIT).err()),
        ("wait_sync", node.wait_sync(handle, 0, WAIT).err()),
    ]
}

/// Tries the calls that open a value that is made of shared values.
fn opening_calls(node: &HostNode) -> [Called; 5] {
    [
        ("share_slice", node.share_slice::<u64>(None).err()),
        ("open_barrier", node.open_barrier(None, 2).err()),
        ("open_condvar", node.open_condvar(None).err()),
        ("open_queue", node.open_queue::<u64>(None, 2).err()),
        ("open_semaphore", node.open_semaphore(None, 2).err()),
    ]
}

/// Checks that each call of a node is refused, but for those that only return information or belong to the end.
fn assert_all_refused(node: &HostNode, handle: SyncHandle) {
    let mut called = [
        id_calls(node),
        lock_calls(node),
        message_calls(node),
        process_calls(node),
        value_calls(node, handle),
    ]
    .concat();
    called.extend(opening_calls(node));
    for (name, error) in &called {
        assert_eq!(*error, Some(Error::ShuttingDown), "{name}");
    }
    let all = include_str!("../../docs/public-api.txt").lines();
    let methods: BTreeSet<_> = all
        .filter_map(|line| line.split_once("fn libos_ipc::Node<'")?.1.split_once(">::"))
        .filter_map(|(_, call)| call.split(['(', '<']).next())
        .filter(|name| !name.starts_with("with_"))
        // Both forms of a call are made from one text.
        .filter(|name| !name.ends_with("_async"))
        .collect();
    assert!(methods.len() > 50, "{methods:?}");
    for name in methods {
        let is_tried = called.iter().any(|(called, _)| *called == name);
        let is_other = QUERIES.contains(&name) || ENDINGS.contains(&name);
        assert!(is_tried != is_other, "{name}");
    }
}

/// Gives a process a resource of each kind.
fn give_resources(process: &Process) -> SyncHandle {
    let node = &process.node;
    let handle = node.open_sync(None).unwrap();
    node.lock_sync(handle, SyncState::Exclusive, &mut [], WAIT)
        .unwrap();
    node.set_lock(&posix(process.pid.get()), WAIT).unwrap();
    node.take_id(WAIT).unwrap();
    node.start_child(WAIT).unwrap();
    handle
}

#[test]
fn every_call_after_exit_fails() {
    let family = Family::new();
    let child = family.child();
    for process in [&child, &family.first] {
        let handle = give_resources(process);
        assert_eq!(process.node.exit(Exit::default(), WAIT), Ok(()));
        assert_all_refused(&process.node, handle);
        // Nothing is left to release.
        assert_eq!(process.node.ids_in_use(), 0);
        assert_eq!(process.node.release_idle_ranges(WAIT), Ok(()));
        assert_eq!(process.node.broadcast(&Message::GetNewVmid, None), (0, 0));
    }
}

#[test]
fn every_call_after_shut_down_fails() {
    let family = Family::new();
    let child = family.child();
    for process in [&child, &family.first] {
        let handle = give_resources(process);
        process.node.shut_down(LONG);
        assert_all_refused(&process.node, handle);
        let too_late = Err(Error::ShuttingDown);
        assert_eq!(process.node.release_idle_ranges(WAIT), too_late);
        assert_eq!(process.node.leave(WAIT), too_late);
        assert_eq!(process.node.broadcast(&Message::GetNewVmid, None), (0, 0));
    }
}
