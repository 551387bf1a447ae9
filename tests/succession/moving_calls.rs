//! Calls of processes that follow, while all that may lead leave one after another.

use std::sync::atomic::{AtomicBool, Ordering};

use libos_ipc::host::HostNode;
use libos_ipc::wire::{FileLock, LockFamily, LockKind};
use libos_ipc::{ChildSelector, Exit, SyncState, Target};

use crate::family::{CONFIG, FOLLOWER, Family, LONG, end, long, wait_until};

fn lock(node: &HostNode, family: LockFamily, kind: LockKind) -> FileLock<'static> {
    FileLock {
        family,
        kind,
        start: 0,
        end: u64::MAX,
        pid: node.pid().unwrap().get(),
        handle: u64::from(node.identity().vmid.get()),
        wait: true,
        path: b"file",
    }
}

/// Makes one of the calls that need a leader.
fn make_call(base: &std::path::Path, node: &HostNode, number: u64) {
    match number % 8 {
        0 => {
            let id = node.take_id(long()).expect("an ID");
            let owner = node.owner_of(id, long()).expect("its owner");
            assert_eq!(owner, Some(node.identity().vmid));
        }
        1 => {
            let [write, unlock] =
                [LockKind::Write, LockKind::Unlock].map(|kind| lock(node, LockFamily::Posix, kind));
            node.set_lock(&write, long()).expect("a lock");
            node.set_lock(&unlock, long()).expect("an unlock");
        }
        2 => {
            let read = lock(node, LockFamily::Flock, LockKind::Read);
            node.set_lock(&read, long())
                .expect("a lock of an open file");
            node.close_open_file(read.handle, long()).expect("a close");
        }
        3 => {
            // Signal 0 only checks that there is another process.
            node.kill(Target::All, 0, long()).expect("a signal");
        }
        4 => {
            node.new_vmid(long()).expect("a VMID");
        }
        5 => {
            node.group_of(None, long()).expect("its group");
        }
        6 => {
            let handle = node.open_sync(Some(3)).expect("a shared value");
            let state = SyncState::Exclusive;
            node.lock_sync(handle, state, &mut [0; 8], long())
                .expect("its lock");
            let value = number.to_le_bytes();
            node.unlock_sync(handle, state, Some(&value))
                .expect("its unlock");
            node.close_sync(handle, long()).expect("its close");
        }
        _ => {
            let identity = node.start_child(long()).expect("a child");
            let child = HostNode::start(base, identity, FOLLOWER).unwrap();
            let pid = child.join(long()).expect("its join");
            let exit = Exit {
                code: 5,
                ..Exit::default()
            };
            child.exit(exit, long()).expect("its exit");
            assert!(child.shut_down(LONG));
            let ended = node.wait_child(ChildSelector::Pid(pid), long());
            assert_eq!(ended.expect("its end").code, 5);
        }
    }
}

#[test]
fn calls_succeed_while_all_processes_that_may_lead_leave_one_after_another() {
    for _ in 0..3 {
        let family = Family::new();
        let candidates = [(); 4].map(|()| family.process(CONFIG));
        let followers = [(); 4].map(|()| family.process(FOLLOWER));
        let last = family.process(CONFIG);
        let have_left = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (node, first) in followers.iter().chain([&last]).zip(0..) {
                let (base, have_left) = (&family.base, &have_left);
                scope.spawn(move || {
                    for number in first.. {
                        make_call(base, node, number);
                        if have_left.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                });
            }
            let ended = [&family.leader]
                .into_iter()
                .chain(&candidates)
                .map(|node| scope.spawn(|| end(node)))
                .collect::<Vec<_>>();
            let all = ended
                .into_iter()
                .all(|ended| ended.join().is_ok_and(|is_sent| is_sent));
            have_left.store(true, Ordering::Relaxed);
            assert!(all);
        });
        let expected = last.identity().vmid;
        wait_until("the last one leads", || {
            followers.iter().all(|node| node.leader() == expected)
        });
    }
}
