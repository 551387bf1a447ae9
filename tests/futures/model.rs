//! Random locks of two members, some of whose futures are dropped, against a map of bytes: a dropped request has
//! changed nothing, or has unlocked its range, as the kernel's `F_UNLCK` does.

#![allow(clippy::cast_possible_truncation)]

use libos_ipc::Wait;
use libos_ipc::wire::LockKind;

use crate::common::{Family, Member, Task, WAIT};
use crate::locks::lock;

const BYTES: u64 = 12;

/// Returns the lock on each byte, as another process sees it.
fn visible_locks(family: &Family, node: &Member) -> Vec<Option<LockKind>> {
    let leader = family.leader();
    let owner = node.pid().unwrap().get();
    let kind = |byte| {
        let probe = |kind| {
            let lock = lock(leader, kind, (byte, byte));
            let found = family.run(leader.find_lock_async(&lock, WAIT)).unwrap();
            found.filter(|found| found.pid == owner)
        };
        probe(LockKind::Write).map(|found| found.kind())
    };
    (0..BYTES).map(kind).collect()
}

#[test]
fn a_dropped_request_changes_nothing_or_unlocks_its_range() {
    let (mut unlocked, mut unchanged) = (0, 0);
    for seed in 0..20 {
        fastrand::seed(seed);
        let family = Family::new(3);
        // One process at a time has locks, so that a probe sees all of them.
        let node = family.member(2);
        let mut model = vec![None; BYTES as usize];
        for _ in 0..25 {
            let kinds = [LockKind::Read, LockKind::Write, LockKind::Unlock];
            let kind = kinds[fastrand::usize(..3)];
            let start = fastrand::u64(..BYTES);
            let range = (start, fastrand::u64(start..BYTES));
            let wanted = lock(node, kind, range);
            let mut set = Task::new(node.set_lock_async(&wanted, Wait::FOREVER));
            let steps = fastrand::usize(..10);
            let mut is_done = false;
            for step in 0..steps {
                is_done = set.poll_if_woken().is_some();
                if is_done {
                    break;
                }
                family.nodes[step % 3].poll_once();
            }
            drop(set);
            let change = |model: &mut Vec<Option<LockKind>>, kind| {
                for byte in range.0..=range.1 {
                    model[byte as usize] = kind;
                }
            };
            let held = (kind != LockKind::Unlock).then_some(kind);
            if fastrand::bool() && !is_done {
                // The next call comes at once.
                let next = lock(node, LockKind::Read, (0, 0));
                family.run(node.set_lock_async(&next, WAIT)).unwrap();
                family.poll_all();
                assert_eq!(
                    visible_locks(&family, node)[0],
                    Some(LockKind::Read),
                    "seed {seed}"
                );
                let undo = lock(node, LockKind::Unlock, (0, BYTES - 1));
                family.run(node.set_lock_async(&undo, WAIT)).unwrap();
                model.fill(None);
                continue;
            }
            family.poll_all();
            let found = visible_locks(&family, node);
            if is_done {
                change(&mut model, held);
                assert_eq!(found, model, "seed {seed}");
                continue;
            }
            let before = model.clone();
            change(&mut model, None);
            if found == before {
                unchanged += 1;
                model = before;
            } else {
                unlocked += 1;
                assert_eq!(found, model, "seed {seed}");
            }
        }
        family.assert_idle();
    }
    assert!(
        unlocked > 10 && unchanged > 10,
        "{unlocked} and {unchanged}"
    );
}
