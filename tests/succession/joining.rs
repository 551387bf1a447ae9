//! Processes that join while the leader dies.

use libos_ipc::host::HostNode;
use libos_ipc::{Error, Identity};

use crate::family::{CONFIG, Family, await_heir_of, end, long, vmid, wait_until};

/// Joins as that process, and checks that it follows that leader. Returns the node, which is a member of the family of that leader.
fn join_leader(family: &std::path::Path, child: Identity, leader: &HostNode) -> HostNode {
    let node = HostNode::start(family, child, CONFIG).unwrap();
    let pid = node.join(long()).unwrap();
    assert_eq!(Some(pid), child.pid);
    let id = node.take_id(long()).unwrap();
    assert_eq!(leader.owner_of(id, long()).unwrap(), Some(child.vmid));
    assert_eq!(node.leader(), leader.identity().vmid);
    node
}

#[test]
fn child_of_a_member_joins_the_successor_of_the_leader_with_which_it_was_started() {
    let family = Family::new();
    let heir = family.member(CONFIG);
    await_heir_of(&family.leader, &heir);
    let parent = family.process(CONFIG);
    let child = parent.start_child(long()).unwrap();
    assert_eq!(child.leader, Some(vmid(1)));
    let Family {
        leader, base, _dir, ..
    } = family;
    drop(leader);
    join_leader(&base, child, &heir);
}

#[test]
fn child_of_the_dead_leader_joins_its_heir() {
    let family = Family::new();
    let heir = family.member(CONFIG);
    await_heir_of(&family.leader, &heir);
    let child = family.leader.start_child(long()).unwrap();
    assert_eq!(child.heir, Some(heir.identity().vmid));
    let read: Identity = child.to_string().parse().unwrap();
    assert_eq!(read, child);
    let Family {
        leader, base, _dir, ..
    } = family;
    drop(leader);
    join_leader(&base, read, &heir);
}

#[test]
fn child_joins_after_two_successions_that_its_parent_has_seen() {
    let family = Family::new();
    let [first, second, parent] = [(); 3].map(|()| family.process(CONFIG));
    await_heir_of(&family.leader, &first);
    let child = parent.start_child(long()).unwrap();
    let Family {
        leader, base, _dir, ..
    } = family;
    drop(leader);
    wait_until("there is a next heir", || first.named_heir().is_some());
    let next = first.named_heir();
    drop(first);
    parent.take_id(long()).unwrap();
    let next = [&second, &parent]
        .into_iter()
        .find(|node| Some(node.identity().vmid) == next)
        .unwrap();
    join_leader(&base, child, next);
}

#[test]
fn process_that_joins_while_its_leader_dies_joins_the_successor() {
    for round in 0..20 {
        let family = Family::new();
        let heir = family.member(CONFIG);
        await_heir_of(&family.leader, &heir);
        let child = family.leader.start_child(long()).unwrap();
        let Family {
            leader, base, _dir, ..
        } = family;
        let node = std::thread::scope(|scope| {
            let joining = scope.spawn(|| {
                let node = HostNode::start(&base, child, CONFIG).unwrap();
                node.join(long()).unwrap();
                node
            });
            // The leader dies at another step of the join in each round.
            for _ in 0..round * 20 {
                std::thread::yield_now();
            }
            drop(leader);
            joining.join().unwrap()
        });
        let id = node.take_id(long()).unwrap();
        assert_eq!(heir.owner_of(id, long()).unwrap(), Some(child.vmid));
    }
}

#[test]
fn process_whose_leader_and_parent_are_gone_fails_to_join() {
    let family = Family::new();
    let child = family.leader.start_child(long()).unwrap();
    let Family {
        leader, base, _dir, ..
    } = family;
    drop(leader);
    let config = libos_ipc::Config {
        succession_limit: std::time::Duration::from_millis(50),
        ..CONFIG
    };
    let node = HostNode::start(&base, child, config).unwrap();
    assert_eq!(node.join(long()), Err(Error::LeaderGone));
}

#[test]
fn child_whose_leader_leaves_before_it_runs_joins_the_next_one_while_the_old_node_is_there() {
    let family = Family::new();
    let heir = family.process(CONFIG);
    await_heir_of(&family.leader, &heir);
    let identity = heir.start_child(long()).unwrap();
    assert!(end(&family.leader));
    join_leader(&family.base, identity, &heir);
}
