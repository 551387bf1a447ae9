//! Values that members share whose leader is in C.

use std::thread;
use std::time::Duration;

use libos_ipc::host::HostNode;
use libos_ipc::{Config, Error, Identity, Vmid, Wait};

use crate::leader::CLeader;

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(20));
const MEMBERS: u32 = 3;
const TIMES: u64 = 200;

/// Each reads the value before it changes it, which once lost changes.
#[test]
fn no_change_is_lost_under_a_c_leader() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("f");
    let leader = CLeader::start(&base);
    let nodes: Vec<_> = (2..2 + MEMBERS)
        .map(|vmid| {
            let identity = Identity::child(Vmid::new(vmid).unwrap(), Vmid::LEADER);
            let node = HostNode::start(&base, identity, Config::DEFAULT).unwrap();
            node.join(WAIT).unwrap();
            node
        })
        .collect();
    thread::scope(|scope| {
        for node in &nodes {
            scope.spawn(|| {
                let value = node.share::<[u64; 4]>(Some(7)).unwrap();
                for _ in 0..TIMES {
                    let seen = value.read(WAIT).unwrap()[0];
                    let mut writer = value.write(WAIT).unwrap();
                    assert!(writer[0] >= seen);
                    assert!(writer.iter().all(|word| *word == writer[0]));
                    let next = writer[0] + 1;
                    *writer = [next; 4];
                }
                let value = value.read(WAIT).unwrap();
                let upgraded = value.upgrade(WAIT);
                // The upgrade fails if the value can be changed already.
                let upgraded = upgraded.map(drop).map_err(|(_, error)| error);
                assert!(matches!(upgraded, Ok(()) | Err(Error::Unsupported)));
            });
        }
    });
    drop(nodes);
    leader.end().unwrap();
}

#[test]
fn a_value_counts_every_change_under_a_c_leader() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("f");
    let leader = CLeader::start(&base);
    let node = |vmid| {
        let identity = Identity::child(Vmid::new(vmid).unwrap(), Vmid::LEADER);
        HostNode::start(&base, identity, Config::DEFAULT).unwrap()
    };
    let nodes = [node(2), node(3)];
    let values = [0, 1].map(|at: usize| nodes[at].share::<u64>(Some(9)).unwrap());
    thread::scope(|scope| {
        for value in &values {
            scope.spawn(|| {
                for _ in 0..TIMES {
                    drop(value.read(WAIT).unwrap());
                    *value.write(WAIT).unwrap() += 1;
                }
            });
        }
    });
    for value in &values {
        assert_eq!(*value.read(WAIT).unwrap(), 2 * TIMES);
    }
    drop(values);
    drop(nodes);
    leader.end().unwrap();
}
