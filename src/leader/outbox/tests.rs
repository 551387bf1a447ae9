use std::boxed::Box;
use std::vec::Vec;

use super::*;
use crate::error::Errno;
use crate::leader::signals::Requester;
use crate::leader::tests::KILL;
use crate::leader::{LeaderCapacities, Op, SignalLimits};
use crate::shared_state::LeaseLimits;
use crate::store::Arena;
use crate::wire::{KillTarget, PidKill, Sync, SyncCode, SyncState};

const CAPACITIES: LeaderCapacities = LeaderCapacities {
    signals: SignalLimits {
        targets: 4,
        queued: 4,
    },
    leases: LeaseLimits {
        handles: 1,
        clients: 4,
    },
    ..LeaderCapacities::NONE
};

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

fn signal(leader: &mut Leader<'_>, to: u32, signal: i32) {
    let kill = PidKill {
        sender: 1,
        pid: to,
        id: to,
        signal,
        target: KillTarget::Process,
    };
    leader.apply(&Op::Signal(vmid(to), kill));
}

fn ask(leader: &mut Leader<'_>, from: u32) {
    leader.apply(&Op::Sync {
        from: vmid(from),
        code: SyncCode::RequestUpgrade,
        sync: Sync {
            id: 7,
            state: SyncState::Shared,
            data: &[],
        },
        is_extended: true,
    });
}

/// Takes the messages of the outbox; `has_room` tells which receivers have room.
fn take_all(leader: &mut Leader<'_>, has_room: impl Fn(u32) -> bool) -> Vec<(OutgoingId, u32)> {
    let mut all = Vec::new();
    while let Some(Outgoing { to, id, .. }) = leader.poll_transmit() {
        if has_room(to.get()) {
            all.push((id, to.get()));
            leader.apply(&Op::Transmitted {
                id,
                is_extended: true,
            });
        } else {
            leader.apply(&Op::Requeued(id));
        }
        assert!(leader.check_invariants());
    }
    all
}

fn with_leader(test: impl FnOnce(&mut Leader<'_>)) {
    let mut memory = Box::new_uninit_slice(Leader::bytes(&CAPACITIES));
    test(&mut Leader::new(&mut Arena::new(&mut memory), &CAPACITIES).unwrap());
}

#[test]
fn kinds_of_messages_and_their_receivers_take_turns() {
    with_leader(|leader| {
        for number in [15, 16] {
            signal(leader, 3, number);
        }
        signal(leader, 2, 15);
        for from in [4, 5] {
            ask(leader, from);
        }
        let signal = |to| (OutgoingId::Signal(vmid(to)), to);
        let sync = |to| (OutgoingId::Sync, to);
        let expected = [signal(3), sync(4), signal(2), sync(5), signal(3)];
        assert_eq!(take_all(leader, |_| true), expected);
    });
}

#[test]
fn receiver_without_room_delays_no_other_and_gets_its_messages_in_order_later() {
    with_leader(|leader| {
        for number in [34, 35] {
            signal(leader, 2, number);
        }
        signal(leader, 3, 15);
        ask(leader, 2);
        ask(leader, 3);
        let others = take_all(leader, |to| to != 2);
        let signal_3 = (OutgoingId::Signal(vmid(3)), 3);
        assert_eq!(others, [signal_3, (OutgoingId::Sync, 3)]);
        assert!(!leader.has_output());
        // New messages for it wait, too.
        signal(leader, 2, 36);
        assert!(!leader.has_output());
        leader.apply(&Op::RetryTransmit);
        let mut signals = Vec::new();
        while let Some(Outgoing { id, content, .. }) = leader.poll_transmit() {
            if let Content::Signal(signal) = content {
                signals.push(signal.kill.signal);
            }
            leader.apply(&Op::Transmitted {
                id,
                is_extended: true,
            });
        }
        assert_eq!(signals, [34, 35, 36]);
        // Nothing is left of a receiver that is gone.
        signal(leader, 2, 15);
        let id = OutgoingId::Signal(vmid(2));
        leader.apply(&Op::Requeued(id));
        leader.apply(&Op::Left(vmid(2)));
        leader.apply(&Op::RetryTransmit);
        assert_eq!(leader.poll_transmit(), None);
    });
}

#[test]
fn answers_come_before_other_messages() {
    with_leader(|leader| {
        let requester = Requester {
            vmid: vmid(3),
            seq: 9,
        };
        assert!(
            leader
                .processes
                .signals
                .add_awaited(vmid(2), &KILL, requester)
        );
        leader.update_outbox();
        let Some(Outgoing { id, content, .. }) = leader.poll_transmit() else {
            panic!("the signal is to be sent");
        };
        let Content::Signal(sent) = content else {
            panic!("{content:?}");
        };
        leader.apply(&Op::Transmitted {
            id,
            is_extended: true,
        });
        signal(leader, 4, 15);
        leader.apply(&Op::SignalAnswered {
            from: vmid(2),
            seq: sent.seq,
            result: Err(Errno::EPERM),
        });
        let next = leader.poll_transmit().unwrap();
        let answer = Content::Answer(9, Answer::Status(Err(Errno::EPERM)));
        assert_eq!((next.to, next.content), (vmid(3), answer));
        assert!(next.id.is_answer());
        let both = take_all(leader, |_| true);
        assert_eq!(both.len(), 2);
    });
}
