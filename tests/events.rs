//! The recorded events of a node, and the reasons of its waiting calls.
#![cfg(feature = "std")]
#![allow(missing_docs)]

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use libos_ipc::events::{Call, EventKind, FrameInfo};
use libos_ipc::host::HostNode;
use libos_ipc::wire::{Malformed, Message, codes};
use libos_ipc::{
    Capacities, Config, Error, Identity, PendingCall, Refusal, Vmid, Wait, WaitReason,
};

const WAIT: Wait<'static> = Wait::at_most(Duration::from_secs(20));

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

struct Family {
    dir: tempfile::TempDir,
    leader: HostNode,
    member: HostNode,
}

impl Family {
    fn new(events: usize) -> Family {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("f");
        let config = Config {
            capacities: Capacities {
                events,
                ..Capacities::DEFAULT
            },
            ..Config::DEFAULT
        };
        let leader = HostNode::start(&base, Identity::LEADER, config).unwrap();
        let child = Identity::child(vmid(2), Vmid::LEADER);
        let member = HostNode::start(&base, child, config).unwrap();
        Family {
            dir,
            leader,
            member,
        }
    }

    fn address(&self, vmid: u32) -> PathBuf {
        self.dir.path().join(format!("f.{vmid}"))
    }
}

/// Returns the events, without the greetings of the member and its leader.
fn recorded_events(node: &HostNode) -> Vec<EventKind> {
    let is_greeting = |what: &EventKind| match what {
        EventKind::FrameIn(frame) | EventKind::FrameOut(frame) => {
            [codes::HELLO, codes::LIMITS].contains(&frame.code)
        }
        _ => false,
    };
    let events = node.events().map(|event| event.kind);
    events.filter(|what| !is_greeting(what)).collect()
}

/// Waits for a condition that another thread makes true.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < limit, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_call_is_seen_from_both_sides() {
    let family = Family::new(64);
    let before = Instant::now();
    family.member.owner_of(7, WAIT).unwrap();
    let took = before.elapsed();
    let call = |seq| Call {
        peer: Vmid::LEADER,
        code: codes::GET_ID_OWNER,
        seq,
    };
    let frame = |peer, code, seq| FrameInfo {
        peer,
        code,
        seq,
        length: 21,
    };
    let seen = recorded_events(&family.member);
    let Some(EventKind::CallBegun(Call { seq, .. })) = seen.first().copied() else {
        panic!("{seen:?}")
    };
    // The time of the leader's stream does not matter.
    let seen: Vec<_> = seen
        .into_iter()
        .filter(|what| *what != EventKind::Connected(Vmid::LEADER))
        .collect();
    assert_eq!(
        seen,
        [
            EventKind::CallBegun(call(seq)),
            EventKind::FrameOut(frame(Vmid::LEADER, codes::GET_ID_OWNER, seq)),
            EventKind::FrameIn(frame(Vmid::LEADER, codes::RESP, seq)),
            EventKind::CallEnded(call(seq), Ok(())),
        ]
    );
    assert_eq!(
        recorded_events(&family.leader),
        [
            EventKind::Connected(vmid(2)),
            EventKind::FrameIn(frame(vmid(2), codes::GET_ID_OWNER, seq)),
            EventKind::FrameOut(frame(vmid(2), codes::RESP, seq)),
        ]
    );
    let events: Vec<_> = family.member.events().collect();
    assert!(events.is_sorted_by_key(|event| event.number));
    let (first, last) = (events[0].time, events[events.len() - 1].time);
    assert!(
        last > first && last - first <= took,
        "{first:?} to {last:?} in {took:?}"
    );
    let text = family.member.events().to_string();
    assert!(
        text.contains(&format!("  call 1 GET_ID_OWNER #{seq}: done\n")),
        "{text}"
    );
}

#[test]
fn a_refused_connection_is_logged_with_its_reason() {
    let family = Family::new(64);
    let mut bad = UnixStream::connect(family.address(1)).unwrap();
    bad.write_all(&9_u32.to_le_bytes()).unwrap();
    bad.write_all(&[16; 17]).unwrap();
    until("it is turned away", || {
        recorded_events(&family.leader).contains(&EventKind::Disconnected(vmid(9)))
    });
    assert_eq!(
        recorded_events(&family.leader),
        [
            EventKind::Connected(vmid(9)),
            EventKind::Refused {
                peer: Some(vmid(9)),
                reason: Refusal::Malformed(Malformed::TooLong),
            },
            EventKind::Disconnected(vmid(9)),
        ]
    );
}

#[test]
fn a_wait_is_listed_as_long_as_it_lasts() {
    let family = Family::new(64);
    // This process never answers.
    let _silent = UnixListener::bind(family.address(7)).unwrap();
    let message = Message::GetIdOwner(3);
    let limit = Wait::at_most(Duration::from_millis(20));
    assert_eq!(
        family.member.ask(vmid(7), &message, limit),
        Err(Error::TimedOut)
    );
    let call = |events: Vec<EventKind>| match events.last() {
        Some(EventKind::CallEnded(call, Err(error))) => (call.peer, *error),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        call(recorded_events(&family.member)),
        (vmid(7), Error::TimedOut)
    );

    let waits = || family.member.pending_calls().collect::<Vec<PendingCall>>();
    assert_eq!(waits(), []);
    let request = family.member.request(vmid(7), &message).unwrap();
    let [waiting] = waits()[..] else {
        panic!("{:?}", waits())
    };
    assert_eq!(waiting.what, WaitReason::Answer(codes::GET_ID_OWNER));
    assert_eq!((waiting.peer, waiting.abandoned), (vmid(7), false));
    until("it waits for longer", || {
        waits()[0].waited >= Duration::from_millis(2)
    });
    assert!(waits()[0].to_string().starts_with("GET_ID_OWNER of 7 for "));
    drop(request);
    assert_eq!(waits(), []);
    assert_eq!(
        call(recorded_events(&family.member)),
        (vmid(7), Error::Interrupted)
    );
}

/// Waits of other members for the leader's process are listed at the leader, too.
#[test]
fn a_local_wait_states_its_reason() {
    let family = Family::new(0);
    let waiting_for = |what| {
        until("a call waits", || {
            family
                .leader
                .pending_calls()
                .any(|waiting| waiting.what == what)
        });
    };
    family.member.owner_of(1, WAIT).unwrap();
    let interrupt = libos_ipc::Interrupt::new();
    std::thread::scope(|scope| {
        let leaving = scope.spawn(|| family.leader.leave(Wait::FOREVER.or_until(&interrupt)));
        waiting_for(WaitReason::Members);
        interrupt.raise(&family.leader);
        assert_eq!(leaving.join().unwrap(), Err(Error::Interrupted));
    });
    assert_eq!(family.leader.pending_calls().count(), 0);
}

#[test]
fn without_event_capacity_no_event_is_recorded() {
    let family = Family::new(0);
    family.member.owner_of(7, WAIT).unwrap();
    assert_eq!(family.member.events().count(), 0);
    assert_eq!(family.member.events().to_string(), "");
}
