//! An heir among nodes.

use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::wire::{FileLock, LockFamily, LockKind, SyncState};
use libos_ipc::{Config, Heirs, Vmid, Wait};

use crate::family::{CONFIG, Family, await_heir_of, long, vmid, wait_until};

/// Waits until the heir has the state of the leader.
fn await_state(family: &Family, heir: &HostNode) {
    wait_until("the heir has the state of the leader", || {
        heir.tables_state() == family.leader.tables_state()
    });
}

/// Makes one random operation of a member.
fn work(node: &HostNode, ids: &mut Vec<u32>, rng: &mut fastrand::Rng) {
    let short = Wait::at_most(Duration::from_millis(5));
    match rng.u8(..8) {
        0 => ids.push(node.take_id(long()).unwrap()),
        1 => {
            if let Some(id) = ids.pop() {
                node.release_id(id, long()).unwrap();
            }
        }
        2..5 => {
            let start = rng.u64(..4) * 10;
            let kinds = [LockKind::Read, LockKind::Write, LockKind::Unlock];
            let lock = FileLock {
                family: LockFamily::Posix,
                kind: kinds[rng.usize(..3)],
                wait: rng.bool(),
                pid: node.identity().vmid.get(),
                start,
                end: start + 9,
                handle: 0,
                path: [&b"/a"[..], b"/b"][rng.usize(..2)],
            };
            // Another member may have it.
            let _ = node.set_lock(&lock, short);
        }
        5 => {
            let handle = node.open_sync(Some(rng.u64(1..4)));
            let Ok(handle) = handle else { return };
            if node
                .lock_sync(handle, SyncState::Exclusive, &mut [0; 1024], short)
                .is_ok()
            {
                let value = rng.u64(..).to_le_bytes();
                node.unlock_sync(handle, SyncState::Exclusive, Some(&value))
                    .unwrap();
            }
            let _ = node.close_sync(handle, short);
        }
        6 => drop(node.new_vmid(long())),
        _ => drop(node.release_idle_ranges(long())),
    }
}

#[test]
fn heir_has_the_digest_of_the_leader_after_random_work_of_all_members() {
    for seed in 0..4 {
        let family = Family::new();
        let members = [(); 3].map(|()| family.member(CONFIG));
        let mut rng = fastrand::Rng::with_seed(seed);
        // Some of the work is done while the heir gets the state.
        std::thread::scope(|scope| {
            for member in &members {
                let mut rng = rng.fork();
                scope.spawn(move || {
                    let mut ids = Vec::new();
                    for _ in 0..150 {
                        work(member, &mut ids, &mut rng);
                    }
                });
            }
        });
        await_heir_of(&family.leader, &members[0]);
        let mut ids = Vec::new();
        for _ in 0..50 {
            work(&members[1], &mut ids, &mut rng);
        }
        await_state(&family, &members[0]);
        let (ops, _) = family.leader.tables_state().unwrap();
        assert!(ops > 300, "{ops}");
        assert!(family.leader.check_invariants());
    }
}

#[test]
fn member_with_the_lowest_vmid_that_can_lead_becomes_heir() {
    let family = Family::new();
    let unable = [
        Config::DEFAULT,
        Config {
            capacities: libos_ipc::Capacities {
                ranges: CONFIG.capacities.ranges + 1,
                ..CONFIG.capacities
            },
            ..CONFIG
        },
    ];
    let others = unable.map(|config| family.member(config));
    let member = family.member(CONFIG);
    let last = family.member(CONFIG);
    await_heir_of(&family.leader, &member);
    await_state(&family, &member);
    drop(member);
    await_heir_of(&family.leader, &last);
    await_state(&family, &last);
    drop(last);
    wait_until("there is no heir", || family.leader.named_heir().is_none());
    for other in &others {
        other.take_id(long()).unwrap();
    }
}

#[test]
fn first_of_the_list_that_is_there_becomes_heir() {
    let list = [Some(vmid(9)), Some(vmid(3)), None, None];
    let config = Config {
        heirs: Heirs::Listed(list),
        ..CONFIG
    };
    let family = Family::with(config);
    let _first = family.member(config);
    let second = family.member(config);
    await_heir_of(&family.leader, &second);
}

#[test]
fn family_without_heirs_has_no_tables_at_a_member_and_names_no_heir() {
    let family = Family::with(Config::DEFAULT);
    let member = family.member(Config::DEFAULT);
    let other = family.member(CONFIG);
    other.take_id(long()).unwrap();
    assert_eq!(member.tables_state(), None);
    assert_eq!(family.leader.named_heir(), None);
}

#[test]
fn calls_go_on_under_the_heir_when_the_leader_is_gone_and_again_under_the_next() {
    let family = Family::new();
    let [first, second, third] = [(); 3].map(|()| family.member(CONFIG));
    await_heir_of(&family.leader, &first);
    let mut ids = vec![third.take_id(long()).unwrap()];
    let Family {
        leader, _dir: dir, ..
    } = family;
    drop(leader);
    ids.push(third.take_id(long()).unwrap());
    let new: Vmid = first.identity().vmid;
    for node in [&first, &second, &third] {
        wait_until("each follows the new leader", || node.leader() == new);
    }
    assert_eq!(
        third.owner_of(ids[0], long()).unwrap(),
        Some(third.identity().vmid)
    );
    // One that has followed already may be chosen before the one with the lowest VMID has.
    wait_until("a next heir is named", || first.named_heir().is_some());
    let next = first.named_heir();
    drop(first);
    ids.push(third.take_id(long()).unwrap());
    for node in [&second, &third] {
        wait_until("each follows the next leader", || {
            Some(node.leader()) == next
        });
    }
    ids.push(second.take_id(long()).unwrap());
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4);
    assert!(second.check_invariants() && third.check_invariants());
    drop(dir);
}
