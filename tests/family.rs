//! Nodes of one family on the host, as an embedder uses them.

use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::{Config, Identity, Vmid, Wait};

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

#[test]
fn an_id_passes_from_member_to_member() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("f");
    let wait = Wait::at_most(Duration::from_secs(5));
    let leader = HostNode::start(&base, Identity::LEADER, Config::DEFAULT).unwrap();
    let member_vmid = leader.new_vmid(wait).unwrap();
    assert_eq!(member_vmid, vmid(2));
    let member = HostNode::start(
        &base,
        Identity::child(member_vmid, Vmid::LEADER),
        Config::DEFAULT,
    )
    .unwrap();
    let id = member.take_id(wait).unwrap();
    assert_eq!(id, 1);
    assert_eq!(member.owner_of(id, wait).unwrap(), Some(member_vmid));
    assert_eq!(leader.owner_of(id, wait).unwrap(), Some(member_vmid));
    let next = member.new_vmid(wait).unwrap();
    assert_eq!(next, vmid(3));
    let transferred = member.take_id_for(Vmid::LEADER, wait).unwrap();
    leader.accept_id(transferred).unwrap();
    assert_eq!(
        member.owner_of(transferred, wait).unwrap(),
        Some(Vmid::LEADER)
    );
    member.release_id(id, wait).unwrap();
    member.release_idle_ranges(wait).unwrap();
    leader.release_id(transferred, wait).unwrap();
    // A release has no answer; the answer to the next request shows that the leader has handled it.
    assert_eq!(member.owner_of(transferred, wait).unwrap(), None);
    assert_eq!(leader.statistics().pools.ranges.now, 0);
    assert!(leader.check_invariants());
}

#[test]
fn leaving_the_family_does_not_wait() {
    let wait = Wait::at_most(Duration::from_secs(5));
    // A busy machine may stop this thread once or twice.
    let times = [(); 5].map(|()| {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("f");
        let leader = HostNode::start(&base, Identity::LEADER, Config::DEFAULT).unwrap();
        let member = HostNode::start(
            &base,
            Identity::child(vmid(2), Vmid::LEADER),
            Config::DEFAULT,
        )
        .unwrap();
        member.take_id(wait).unwrap();
        let start = std::time::Instant::now();
        drop(member);
        drop(leader);
        start.elapsed()
    });
    let quick = times.iter().any(|took| *took < Duration::from_millis(400));
    assert!(quick, "{times:?}");
}
