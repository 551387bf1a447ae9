//! Metadata of any pid.

use std::ffi::CString;

use libos_ipc::wire::{Message, MetaCode, ProcessState};
use libos_ipc::{Capacities, Config, Errno, Error, Invalid, PATH_MAX, Pid, Resource, Vmid};

use crate::family::{Family, NOW, WAIT, until};

#[test]
fn credentials_and_paths_of_any_pid_are_those_of_its_process() {
    let family = Family::new();
    let (one, two) = (family.child(), family.child());
    for asker in [&family.first, &one, &two] {
        for asked in [&family.first, &one, &two] {
            assert_eq!(
                asker.node.credentials(asked.pid, WAIT),
                Ok((1000 + asked.pid.get(), 100))
            );
        }
    }
    let mut path = [0; PATH_MAX];
    assert_eq!(
        one.node
            .path_of(two.pid, MetaCode::Executable, &mut path, WAIT),
        Err(Error::Refused {
            errno: Errno::ENOENT,
            by: Some(two.node.identity().vmid)
        }),
        "no path"
    );
    for length in [1, 17, 4000, PATH_MAX - 1] {
        let long = "p".repeat(length);
        *two.os.path.lock() = Some(CString::new(long.as_str()).unwrap());
        for what in [
            MetaCode::Executable,
            MetaCode::WorkingDirectory,
            MetaCode::Root,
        ] {
            for asker in [&one, &two] {
                let length = asker.node.path_of(two.pid, what, &mut path, WAIT).unwrap();
                assert_eq!(&path[..length], long.as_bytes());
            }
        }
        let mut short = vec![0; length];
        assert_eq!(
            one.node.path_of(two.pid, MetaCode::Root, &mut short, WAIT),
            Err(Error::Invalid(Invalid::PathLength)),
            "there is no room for the NUL"
        );
    }
    *two.os.path.lock() = Some(CString::new("p".repeat(PATH_MAX)).unwrap());
    assert_eq!(
        one.node.path_of(two.pid, MetaCode::Root, &mut path, WAIT),
        Err(Error::Refused {
            errno: Errno::ENAMETOOLONG,
            by: Some(two.node.identity().vmid)
        }),
        "too long"
    );
    assert_eq!(
        one.node.credentials(Pid::new(4_000_000).unwrap(), WAIT),
        Err(Error::NoSuchProcess)
    );
    assert_eq!(
        one.node
            .path_of(two.pid, MetaCode::Credentials, &mut path, WAIT),
        Err(Error::Invalid(Invalid::Metadata))
    );
}

#[test]
fn many_long_paths_requested_at_once_arrive_whole() {
    // The thread sanitizer does not see that a scope waits for its threads, so nothing is freed
    // after it.
    static LONG: [u8; 4000] = [b'q'; 4000];
    let family = Family::new();
    let (one, two) = (family.child(), family.child());
    *two.os.path.lock() = Some(CString::new(&LONG[..]).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut path = [0; PATH_MAX];
                for _ in 0..200 {
                    let length = one
                        .node
                        .path_of(two.pid, MetaCode::Root, &mut path, WAIT)
                        .unwrap();
                    assert_eq!(path[..length], LONG);
                }
            });
        }
    });
}

#[test]
fn a_listing_has_every_process_of_the_family() {
    let family = Family::new();
    let children: Vec<_> = (0..5).map(|_| family.child()).collect();
    let never = family.first.node.start_child(WAIT).unwrap();
    let mut expected = vec![family.first.pid];
    expected.extend(children.iter().map(|child| child.pid));
    expected.push(never.pid.unwrap());
    let node = &children[2].node;
    let mut listed = Vec::new();
    let mut last = None;
    while let Some(process) = node.next_process(last.as_ref(), WAIT).unwrap() {
        let starting = process.pid == never.pid.unwrap();
        assert_eq!(process.state == ProcessState::Starting, starting);
        listed.push(process.pid);
        last = Some(process);
    }
    assert_eq!(listed, expected);
    assert_eq!(
        node.process(None, WAIT).unwrap().vmid,
        Some(children[2].vmid())
    );
    let unanswered = family.while_the_leader_is_busy(&children[0], || node.process(None, NOW));
    assert_eq!(unanswered, Err(Error::TimedOut));
}

#[test]
fn a_call_without_room_leaves_no_peer_behind() {
    let capacities = Capacities {
        reply_buffers: 0,
        ..Capacities::DEFAULT
    };
    let family = Family::led_with(Config {
        capacities,
        ..Config::DEFAULT
    });
    let node = &family.first.node;
    let nobody = Vmid::new(99).unwrap();
    let id = node.take_id_for(nobody, WAIT).unwrap();
    let full = |resource| Some(Error::Full(resource));
    assert_eq!(
        node.credentials(Pid::new(id).unwrap(), WAIT).err(),
        full(Resource::ReplyBuffers)
    );
    let long = vec![1; Capacities::DEFAULT.frame_length];
    let message = Message::Response(&long);
    let too_long = full(Resource::FrameLength);
    assert_eq!(node.send(nobody, &message, WAIT).err(), too_long);
    until("it is found out that nobody is there", || {
        node.statistics().pools.peers.now == 0
    });
}
