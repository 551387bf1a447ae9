//! Processes that end when their leader ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use libos_ipc::host::HostNode;
use libos_ipc::{Error, Exit, Target, Vmid};

use crate::family::{CONFIG, FOLLOWER, Family, LONG, await_heir_of, end, long, wait_until};

#[test]
fn shut_down_of_a_leader_that_has_handed_the_family_over_finds_that_all_is_sent() {
    let family = Family::new();
    let heir = family.process(CONFIG);
    await_heir_of(&family.leader, &heir);
    assert!(end(&family.leader));
    heir.take_id(long()).unwrap();
}

#[test]
fn family_goes_on_when_all_processes_that_may_lead_leave_one_after_another_at_once() {
    for _ in 0..10 {
        let family = Family::new();
        let candidates = [(); 4].map(|()| family.process(CONFIG));
        let follower = family.process(FOLLOWER);
        let last = family.process(CONFIG);
        std::thread::scope(|scope| {
            let ended = [&family.leader]
                .into_iter()
                .chain(&candidates)
                .map(|node| scope.spawn(|| end(node)))
                .collect::<Vec<_>>();
            for ended in ended {
                assert!(ended.join().unwrap());
            }
        });
        follower.take_id(long()).unwrap();
        let expected = last.identity().vmid;
        wait_until("the last one leads", || follower.leader() == expected);
    }
}

#[test]
fn heir_that_ends_first_is_replaced_before_it_has_left() {
    let family = Family::new();
    let [heir, next] = [(); 2].map(|()| family.process(CONFIG));
    await_heir_of(&family.leader, &heir);
    heir.exit(Exit::default(), long()).unwrap();
    heir.leave(long()).unwrap();
    assert_ne!(family.leader.named_heir(), Some(heir.identity().vmid));
    await_heir_of(&family.leader, &next);
}

#[test]
fn leader_without_an_heir_does_not_wait_for_a_process_that_had_left_before_it_led() {
    let family = Family::new();
    // The parent stays there, as one that waits for the end of its child.
    let parent = family.process(FOLLOWER);
    let identity = parent.start_child(long()).unwrap();
    let child = HostNode::start(&family.base, identity, CONFIG).unwrap();
    child.join(long()).unwrap();
    await_heir_of(&family.leader, &child);
    parent.exit(Exit::default(), long()).unwrap();
    assert!(end(&family.leader));
    wait_until("the child leads", || {
        child.leader() == child.identity().vmid
    });
    assert!(end(&child));
    wait_until("the parent sees that", || {
        parent.statistics().pools.peers.now == 0
    });
}

#[test]
fn changes_of_a_member_that_shuts_down_without_a_leader_reach_the_next_one() {
    for _ in 0..10 {
        let family = Family::new();
        let [heir, member] = [(); 2].map(|()| family.process(CONFIG));
        await_heir_of(&family.leader, &heir);
        let id = heir.take_id(long()).unwrap();
        let given = member.take_id(long()).unwrap();
        let Family { leader, _dir, .. } = family;
        drop(leader);
        // The member may not have noticed the end of its leader yet. Nothing answers this message.
        member
            .transfer_id(given, heir.identity().vmid, long())
            .unwrap();
        assert!(member.shut_down(LONG));
        assert_eq!(
            heir.owner_of(given, long()).unwrap(),
            Some(heir.identity().vmid)
        );
        heir.release_id(id, long()).unwrap();
    }
}

#[test]
fn leader_that_begins_to_lead_and_leaves_at_once_hands_over() {
    let family = Family::new();
    let [first, second] = [(); 2].map(|()| family.process(CONFIG));
    await_heir_of(&family.leader, &first);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| end(&first));
        assert!(end(&family.leader));
        assert!(first.join().unwrap());
    });
    // No process waits for another leader up to its limit.
    let took = begin.elapsed();
    assert!(took < CONFIG.succession_limit * 4 / 5, "{took:?}");
    second.take_id(long()).unwrap();
    assert_eq!(second.leader(), second.identity().vmid);
}

/// Takes and releases IDs and VMIDs until the end. Each of them is new.
fn request_until(node: &HostNode, is_over: &AtomicBool) -> Vec<Vmid> {
    let mut given = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        match node.new_vmid(long()) {
            Ok(vmid) => given.push(vmid),
            // Its share of the VMIDs that no process uses yet is given out.
            Err(error) => assert_eq!(error, Error::NoIds),
        }
        let id = node.take_id(long()).unwrap();
        node.release_id(id, long()).unwrap();
        node.release_idle_ranges(long()).unwrap();
    }
    given
}

#[test]
fn answer_of_a_leader_that_leaves_is_known_to_its_heir_however_close_to_its_end_it_is() {
    for _ in 0..8 {
        let family = Family::new();
        let members = [(); 4].map(|()| family.process(CONFIG));
        let [first, second, ..] = &members;
        await_heir_of(&family.leader, first);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let askers = members[2..]
                .iter()
                .map(|node| scope.spawn(|| request_until(node, &is_over)))
                .collect::<Vec<_>>();
            assert!(end(&family.leader));
            await_heir_of(first, second);
            assert!(end(first));
            wait_until("the second one leads", || {
                members[3].leader() == second.identity().vmid
            });
            is_over.store(true, Ordering::Relaxed);
            let mut given = Vec::new();
            for asker in askers {
                given.extend(asker.join().unwrap());
            }
            let count = given.len();
            given.sort_unstable();
            given.dedup();
            assert_eq!(given.len(), count, "a VMID was given twice");
        });
    }
}

#[test]
fn process_that_only_answers_signals_follows_the_heir_however_many_they_were() {
    let family = Family::new();
    let [heir, sender, silent] = [(); 3].map(|()| family.process(CONFIG));
    await_heir_of(&family.leader, &heir);
    let before = silent.statistics().frames_out;
    for count in 1..=2_000 {
        sender.kill(Target::All, 10, long()).unwrap();
        wait_until("the signal is answered", || {
            silent.statistics().frames_out >= before + count
        });
    }
    assert!(end(&family.leader));
    silent.take_id(long()).unwrap();
    assert_eq!(silent.leader(), heir.identity().vmid);
    assert_eq!(silent.statistics().broken_invariants, 0);
}
