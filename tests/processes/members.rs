//! The members of a family: joining, leaving, and a leader that ends first.

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::{ChildSelector, Config, Error, Identity, Invalid, Target, Vmid, Wait};

use crate::family::{Family, LONG, NOW, WAIT, until};

/// A member that never reads.
pub(crate) struct UnresponsiveMember {
    _listener: UnixListener,
    _stream: UnixStream,
}

impl UnresponsiveMember {
    pub(crate) fn join(family: &Family, vmid: u32) -> UnresponsiveMember {
        let address = |number: u32| PathBuf::from(format!("{}.{number}", family.base.display()));
        let listener = UnixListener::bind(address(vmid)).unwrap();
        let mut stream = UnixStream::connect(address(1)).unwrap();
        stream.write_all(&vmid.to_le_bytes()).unwrap();
        until("it is known", || {
            family.first.node.statistics().pools.peers.now == 1
        });
        UnresponsiveMember {
            _listener: listener,
            _stream: stream,
        }
    }
}

#[test]
fn the_embedder_of_the_leader_is_called_for_each_member_that_joins_and_leaves() {
    let family = Family::new();
    let one = family.child();
    let two = family.child_of(&one);
    let (first_vmid, second_vmid) = (one.vmid(), two.vmid());
    let recorded = || family.first.os.recorded.lock();
    until("both have joined", || recorded().joined.len() == 2);
    assert_eq!(recorded().joined, [first_vmid, second_vmid]);
    two.die();
    until("its end is reported", || !recorded().left.is_empty());
    one.exit(0);
    until("its end is reported", || recorded().left.len() == 2);
    assert_eq!(recorded().left, [second_vmid, first_vmid]);
}

#[test]
fn the_first_process_can_end_first_and_its_node_still_leads() {
    let family = Family::new();
    let (one, two) = (family.child(), family.child());
    let short = Wait::at_most(Duration::from_millis(5));
    assert_eq!(family.first.node.leave(short), Err(Error::TimedOut));
    // Its process has ended, and its node still serves.
    assert_eq!(
        one.node.process(Some(family.first.pid), WAIT),
        Err(Error::NoSuchProcess)
    );
    assert_eq!(one.node.process(None, WAIT).unwrap().parent, None);
    assert_eq!(one.node.kill(Target::Process(two.pid), 3, WAIT), Ok(()));
    let grandchild = family.child_of(&one);
    assert_eq!(
        grandchild.node.kill(Target::Process(two.pid), 4, WAIT),
        Ok(())
    );
    assert_eq!(two.signals(), [3, 4]);
    let pid = grandchild.pid;
    grandchild.exit(1);
    one.node.wait_child(ChildSelector::Pid(pid), WAIT).unwrap();
    std::thread::scope(|scope| {
        let leaving = scope.spawn(|| family.first.node.leave(WAIT));
        one.exit(0);
        two.die();
        assert_eq!(leaving.join().unwrap(), Ok(()));
    });
    family.first.node.release_idle_ranges(WAIT).unwrap();
    let pools = family.first.node.statistics().pools;
    assert_eq!((pools.processes.now, pools.ranges.now), (0, 0));
    assert!(family.first.node.shut_down(LONG));
}

#[test]
fn members_are_notified_of_the_end_of_the_leader_at_once() {
    let family = Family::new();
    let child = family.child();
    let grandchild = family.child_of(&child);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| child.node.wait_child(ChildSelector::Any, WAIT));
        family.first.node.shut_down(LONG);
        until("the leader is known to be gone", || {
            child.node.owner_of(1, WAIT) == Err(Error::LeaderGone)
        });
        assert_eq!(
            grandchild.node.take_id_for(child.vmid(), WAIT),
            Err(Error::LeaderGone)
        );
        // Calls that need no leader succeed.
        let pid = grandchild.pid;
        grandchild.exit(6);
        let exit = waiting.join().unwrap().unwrap();
        assert_eq!((exit.pid, exit.code), (pid, 6));
    });
}

#[test]
fn wait_for_a_child_that_has_not_connected_fails_when_the_family_ends() {
    let family = Family::new();
    let parent = &family.child().node;
    let child = parent.start_child(WAIT).unwrap();
    let which = ChildSelector::Pid(child.pid.unwrap());
    std::thread::scope(|scope| {
        let waits = [which, ChildSelector::Any]
            .map(|which| scope.spawn(move || parent.wait_child(which, WAIT)));
        family.first.node.shut_down(LONG);
        for wait in waits {
            assert_eq!(wait.join().unwrap(), Err(Error::LeaderGone));
        }
    });
    assert_eq!(parent.wait_child(which, NOW), Err(Error::LeaderGone));
}

#[test]
fn joining_without_an_own_pid_is_refused() {
    let family = Family::new();
    assert_eq!(
        family.first.node.join(WAIT),
        Err(Error::Invalid(Invalid::Joined)),
        "twice"
    );
    let stolen = Identity {
        pid: Some(family.first.pid),
        ..Identity::child(Vmid::new(50).unwrap(), Vmid::LEADER)
    };
    let thief = HostNode::start(&family.base, stolen, Config::DEFAULT).unwrap();
    assert!(thief.join(WAIT).is_err());
    assert_eq!(
        family.first.node.process(None, WAIT).unwrap().vmid,
        Vmid::new(1)
    );
    // Without a parent that prepared it, a process allocates its own pid.
    let unannounced = Identity::child(Vmid::new(51).unwrap(), Vmid::LEADER);
    let unannounced = HostNode::start(&family.base, unannounced, Config::DEFAULT).unwrap();
    let pid = unannounced.join(WAIT).unwrap();
    assert_eq!(
        family.first.node.owner_of(pid.get(), WAIT),
        Ok(Vmid::new(51))
    );
    let process = unannounced.process(None, WAIT).unwrap();
    assert_eq!(
        (process.parent, process.group),
        (Some(family.first.pid), family.first.pid)
    );
}
