use std::vec::Vec;

use core::mem::MaybeUninit;

use super::encoding::{ERRORS, MAX_LOW, limits_differ};
use super::*;
use crate::error::{ByteCount, Errno, Resource};
use crate::store::Arena;
use crate::wire::Answer;

fn events(ring: &EventRing<'_>) -> Vec<EventRecord> {
    let numbers = ring.numbers();
    let events = Events {
        ring,
        numbers,
        now: Time(u64::MAX / 3 + 5_000),
    };
    events.collect()
}

#[test]
fn a_change_of_the_leader_reads_back_with_its_epoch() {
    let mut memory = [MaybeUninit::uninit(); 4096];
    let ring = EventRing::new(&mut Arena::new(&mut memory), 8);
    let changes = [(7, 2), (u32::MAX, u32::MAX)];
    for (leader, epoch) in changes {
        ring.leader_changed(Vmid::new(leader).unwrap(), epoch);
    }
    let read: Vec<_> = events(&ring).iter().map(|event| event.kind).collect();
    let expected = changes.map(|(leader, epoch)| EventKind::LeaderChanged {
        leader: Vmid::new(leader).unwrap(),
        epoch,
    });
    assert_eq!(read, expected);
}

#[test]
fn a_call_ended_by_differing_limits_reads_back_with_that_error() {
    let mut memory = [MaybeUninit::uninit(); 4096];
    let ring = EventRing::new(&mut Arena::new(&mut memory), 8);
    for limit in [Resource::FrameLength, Resource::SyncData] {
        let error = Error::LimitsDiffer {
            limit,
            ours: ByteCount::new(512),
            theirs: ByteCount::new(256),
        };
        ring.call_ended(Vmid::LEADER, 1, 1, &Err(error));
        let last = events(&ring).pop().map(|event| event.kind);
        let Some(EventKind::CallEnded(_, outcome)) = last else {
            panic!("{last:?}");
        };
        assert_eq!(outcome, Err(limits_differ(limit)));
    }
}

#[test]
fn each_event_reads_back_as_recorded() {
    let mut memory = [MaybeUninit::uninit(); 4096];
    let ring = EventRing::new(&mut Arena::new(&mut memory), 64);
    let peer = Vmid::new(u32::MAX).unwrap();
    // This is beyond the bits of a word: the clock may count from any moment.
    let time = Time(u64::MAX / 3);
    ring.set_time(time);
    let call = Call {
        peer,
        code: 255,
        seq: u32::MAX,
    };
    let mut expected = Vec::new();
    ring.frame_in(peer, 255, u64::from(u32::MAX), usize::MAX);
    let frame = FrameInfo {
        peer,
        code: 255,
        seq: u32::MAX,
        length: MAX_LOW,
    };
    expected.push(EventKind::FrameIn(frame));
    ring.frame_out(Vmid::LEADER, 0, 0, 17);
    expected.push(EventKind::FrameOut(FrameInfo {
        peer: Vmid::LEADER,
        code: 0,
        seq: 0,
        length: 17,
    }));
    ring.connected(peer);
    ring.disconnected(peer);
    ring.call_begun(peer, 255, u64::from(u32::MAX));
    expected.extend([
        EventKind::Connected(peer),
        EventKind::Disconnected(peer),
        EventKind::CallBegun(call),
    ]);
    for reason in Refusal::all() {
        ring.refused(None, reason);
        expected.push(EventKind::Refused { peer: None, reason });
    }
    let refused = [1, 4095].map(|number| Error::Refused {
        errno: Errno::new(number).unwrap(),
        by: None,
    });
    for error in ERRORS.into_iter().take(21).chain(refused) {
        ring.call_ended(peer, 255, u64::from(u32::MAX), &Err(error));
        expected.push(EventKind::CallEnded(call, Err(error)));
    }
    ring.call_ended(
        peer,
        255,
        u64::from(u32::MAX),
        &Ok(Answer::Status(Err(Errno::EAGAIN))),
    );
    expected.push(EventKind::CallEnded(
        call,
        Err(Error::Refused {
            errno: Errno::EAGAIN,
            by: None,
        }),
    ));
    ring.call_ended(peer, 255, u64::from(u32::MAX), &Ok(Answer::DONE));
    expected.push(EventKind::CallEnded(call, Ok(())));
    let found = events(&ring);
    assert!(found.iter().all(|event| event.time == time));
    let found: Vec<_> = found.into_iter().map(|event| event.kind).collect();
    assert_eq!(found, expected);
}
