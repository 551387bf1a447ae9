//! The sources of IDs for children and threads, over many forks.

use std::collections::{HashSet, VecDeque};
use std::path::Path;

use libos_ipc::host::HostNode;
use libos_ipc::{
    Capacities, ChildSelector, Config, Error, ID_MAX, Id, Identity, Pid, Resource, Vmid,
};

use crate::c_leader::CLeader;
use crate::family::{Family, LONG, WAIT};

/// A million forks take too long without optimisation.
const FORKS: u32 = if cfg!(debug_assertions) {
    200_000
} else {
    1_000_000
};

/// IDs that live for a while: the last ones that were allocated.
struct RecentIds {
    ids: HashSet<Id>,
    order: VecDeque<Id>,
    limit: usize,
}

impl RecentIds {
    fn new(limit: usize) -> RecentIds {
        RecentIds {
            ids: HashSet::new(),
            order: VecDeque::new(),
            limit,
        }
    }

    /// Adds one; returns the oldest one if there are too many.
    fn add(&mut self, id: Id) -> Option<Id> {
        assert!(self.ids.insert(id), "{id} lives already");
        self.order.push_back(id);
        if self.order.len() <= self.limit {
            return None;
        }
        let oldest = self.order.pop_front()?;
        self.ids.remove(&oldest);
        Some(oldest)
    }
}

/// Makes a leader without members.
fn leader(base: &Path, wrap_ids: bool, own_ranges: usize) -> HostNode {
    let config = Config {
        capacities: Capacities {
            own_ranges,
            ..Capacities::DEFAULT
        },
        wrap_ids,
        ..Config::DEFAULT
    };
    let leader = HostNode::start(base, Identity::LEADER, config).unwrap();
    leader.join(WAIT).unwrap();
    leader
}

/// Allocates and releases ranges until this ID was assigned.
fn use_up_to(last: Id, leader: &HostNode) {
    while let Ok(range) = leader.alloc_range(WAIT) {
        leader.release_range(range, WAIT).unwrap();
        if range.end >= last {
            return;
        }
    }
}

#[test]
fn pids_of_many_forks_rise_and_wrap_and_differ_from_those_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let leader = leader(&directory.path().join("f"), Config::DEFAULT.wrap_ids, 128);
    // Some live from the start to the end.
    let old: HashSet<Id> = (0..64).map(|_| leader.take_id(WAIT).unwrap()).collect();
    use_up_to(ID_MAX - 10_000, &leader);
    let mut threads = RecentIds::new(100);
    let mut children = RecentIds::new(30);
    let (mut last, mut times_lower) = (0, 0);
    for _ in 0..FORKS {
        let child = leader.start_child(WAIT).unwrap();
        let pid = child.pid.unwrap().get();
        assert!(!old.contains(&pid) && !threads.ids.contains(&pid));
        times_lower += u32::from(pid < last);
        last = pid;
        children.add(pid);
        if children.order.len() == 30 {
            leader.abandon_child(child.vmid).unwrap();
            children.ids.remove(&pid);
            children.order.pop_back();
        }
        let thread = leader.take_id(WAIT).unwrap();
        assert!(!old.contains(&thread) && !children.ids.contains(&thread));
        if let Some(oldest) = threads.add(thread) {
            leader.release_id(oldest, WAIT).unwrap();
        }
    }
    // Pids fall only once, after the highest ID.
    assert_eq!(times_lower, 1);
}

#[test]
fn a_thousand_forks_with_a_thread_after_each_that_stays_take_few_ranges() {
    let family = Family::new();
    let node = &family.child().node;
    for _ in 0..1000 {
        let child = node.start_child(WAIT).unwrap();
        node.take_id(WAIT).unwrap();
        node.abandon_child(child.vmid).unwrap();
    }
    let most = node.statistics().pools.own_ranges.peak;
    assert!(most <= 1000 / 32 + 2, "{most} ranges");
}

#[test]
fn a_process_without_threads_gives_its_children_the_ids_after_its_own() {
    let family = Family::new();
    let children = [(); 3].map(|()| family.first.node.start_child(WAIT).unwrap().pid);
    assert_eq!(family.first.pid.get(), 1);
    assert_eq!(children, [2, 3, 4].map(Pid::new));
    assert_eq!(family.first.node.statistics().pools.own_ranges.now, 1);
}

#[test]
fn a_process_that_never_forks_has_no_range_for_children() {
    let family = Family::new();
    let (one, two) = (family.child(), family.child());
    for _ in 0..20 {
        one.node.take_id(WAIT).unwrap();
        let child = two.node.start_child(WAIT).unwrap();
        two.node.abandon_child(child.vmid).unwrap();
    }
    for process in [one, two] {
        assert_eq!(process.node.statistics().pools.own_ranges.peak, 1);
    }
}

#[test]
fn the_rest_of_the_range_for_children_is_free_when_their_parent_has_ended() {
    let family = Family::new();
    let ranges = || family.first.node.statistics().pools.ranges.now;
    let parent = family.child();
    let before = ranges();
    let child = family.child_of(&parent);
    assert_eq!(ranges(), before + 2, "the child's pid, and the rest");
    let (parent_pid, child_pid) = (parent.pid, child.pid);
    parent.die();
    let first = &family.first.node;
    first
        .wait_child(ChildSelector::Pid(parent_pid), WAIT)
        .unwrap();
    assert_eq!(first.owner_of(child_pid.get() + 1, WAIT), Ok(None));
    let owner = first.owner_of(child_pid.get(), WAIT);
    assert_eq!(owner, Ok(Some(child.vmid())));
    child.exit(0);
    first
        .wait_child(ChildSelector::Pid(child_pid), WAIT)
        .unwrap();
    assert_eq!(first.owner_of(child_pid.get(), WAIT), Ok(None));
}

#[test]
fn without_a_second_range_children_and_threads_share_one() {
    let directory = tempfile::tempdir().unwrap();
    let leader = leader(&directory.path().join("f"), false, 128);
    let first = leader.take_id(WAIT).unwrap();
    use_up_to(ID_MAX, &leader);
    assert_eq!(leader.alloc_range(WAIT), Err(Error::NoIds));
    for id in (first + 1..=32).step_by(2) {
        let child = leader.start_child(WAIT).unwrap();
        assert_eq!(child.pid, Pid::new(id));
        leader.abandon_child(child.vmid).unwrap();
        let thread = leader.take_id(WAIT);
        assert_eq!(
            thread,
            if id < 32 {
                Ok(id + 1)
            } else {
                Err(Error::NoIds)
            }
        );
    }
    assert_eq!(leader.start_child(WAIT), Err(Error::NoIds));
}

#[test]
fn at_the_limit_of_ranges_a_released_id_is_allocated_again() {
    let directory = tempfile::tempdir().unwrap();
    let leader = leader(&directory.path().join("f"), true, 2);
    let ids: Vec<_> = (0..).map_while(|_| leader.take_id(WAIT).ok()).collect();
    assert_eq!(
        leader.take_id(WAIT),
        Err(Error::Full(Resource::OwnRanges)),
        "{} are in use",
        ids.len()
    );
    for id in [ids[3], ids[40]] {
        leader.release_id(id, WAIT).unwrap();
        assert_eq!(leader.take_id(WAIT), Ok(id));
    }
}

#[test]
fn a_hundred_thousand_forks_under_a_leader_in_c_take_one_range_in_32() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("f");
    let forks = 100_000;
    let leader = CLeader::start(&base, 2);
    let node = leader.member(2);
    let mut threads = RecentIds::new(100);
    for number in 0..forks {
        let child = Vmid::new(1000 + number).unwrap();
        let pid = node.take_id_for(child, WAIT).unwrap();
        assert!(!threads.ids.contains(&pid));
        if let Some(oldest) = threads.add(node.take_id(WAIT).unwrap()) {
            node.release_id(oldest, WAIT).unwrap();
        }
    }
    let most = node.statistics().pools.own_ranges.peak;
    assert!(most <= 6, "{most} ranges");
    assert!(node.shut_down(LONG));
    let counts = leader.end();
    assert!(counts.allocated <= 2 * (forks / 32 + 1), "{counts:?}");
    assert!(counts.released >= forks / 32 - 5, "{counts:?}");
    assert_eq!(counts.wrong, 0, "{counts:?}");
}
