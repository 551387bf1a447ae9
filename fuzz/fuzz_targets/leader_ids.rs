//! The leader's tables, driven by arbitrary messages from a few members: the invariants hold, and
//! no ID ever has two owners.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use libos_ipc::Vmid;
use libos_ipc::leader::{Leader, LeaderCapacities, Op, Outcome, Presence};
use libos_ipc::store::Arena;
use libos_ipc::wire::{Answer, Frame, Message};

const CAPACITIES: LeaderCapacities = LeaderCapacities {
    ranges: 24,
    wrap_ids: true,
    id_members: 5,
    ..LeaderCapacities::NONE
};

/// Applies the operations that `op` returns for what is left, until nothing is.
fn apply_portions(leader: &mut Leader<'_>, mut left: u64, op: impl Fn(u64) -> Op<'static>) {
    while left > 0 {
        let Outcome::Remaining(rest) = leader.apply(&op(left)) else {
            panic!("a portion returns what is left");
        };
        left = rest;
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut memory = Box::new_uninit_slice(Leader::bytes(&CAPACITIES));
    let mut leader = Leader::new(&mut Arena::new(&mut memory), &CAPACITIES).expect("enough");
    // These members are connected; no process has another number.
    let is_member = |vmid| (1..6).contains(&vmid);
    // The owner of an ID since it was last allocated or transferred, and the giver.
    let mut owners = BTreeMap::new();
    // Each step: a member, a code, and a payload of the length that the code has.
    let mut rest = bytes;
    while let [member, code, tail @ ..] = rest {
        let code = code % 20;
        let length = match code {
            4 | 5 => 8,
            6 | 17 => 4,
            1 | 3 => 0,
            _ => 24,
        };
        let (payload, tail) = tail.split_at(tail.len().min(length));
        rest = tail;
        let from = Vmid::new(u32::from(member % 4) + 2).expect("not 0");
        if member % 16 == 15 {
            apply_portions(&mut leader, u64::MAX, |left| Op::ReclaimLocks {
                owner: from,
                left,
            });
            while leader.apply(&Op::RevokeGrants(from)) != Outcome::Remaining(0) {}
            let ranges = leader.ranges_to_reclaim(from);
            apply_portions(&mut leader, ranges, |left| Op::ReclaimRanges {
                owner: from,
                left,
            });
            leader.apply(&Op::Left(from));
            owners.retain(|id, (owner, giver)| {
                let is_pending_grant = *giver == from.get() && !is_member(*owner);
                let stays = *owner != from.get() && !is_pending_grant;
                assert!(stays || leader.owner_of(*id).is_none(), "{id} is left");
                stays
            });
            leader.apply(&Op::Connected(from));
            apply_portions(&mut leader, u64::MAX, |left| Op::ConfirmGrants {
                to: from,
                left,
                allows_notices: false,
            });
        }
        // IDs are small, so that they collide.
        let mut small = [0; 24];
        small[..payload.len()].copy_from_slice(payload);
        for byte in [1, 2, 3, 5, 6, 7] {
            small[byte] = 0;
        }
        let frame = Frame {
            seq: 1,
            code,
            payload: &small[..length],
        };
        let Ok(message) = frame.message() else {
            continue;
        };
        let other = match message {
            Message::ChangeIdOwner { owner, .. } if is_member(owner) => Presence::Connected,
            _ => Presence::Absent,
        };
        let outcome = match leader.look_up(from, &message) {
            Some(answer) => Outcome::Answer(answer),
            None => leader.apply(&Op::Request {
                from,
                seq: 1,
                message: &message,
                other,
            }),
        };
        match (message, outcome) {
            (Message::AllocIdRange, Outcome::Answer(Answer::IdRange(range))) => {
                for id in range.start..=range.end {
                    if id != 0 {
                        let before = owners.insert(id, (from.get(), 1));
                        assert_eq!(before, None, "{id} has an owner");
                    }
                }
            }
            (Message::ReleaseIdRange(range), Outcome::Done) => {
                for id in range.start..=range.end {
                    let before = owners.remove(&id).map(|(owner, _)| owner);
                    assert_eq!(before, Some(from.get()), "{id} was not its own");
                }
            }
            (Message::ChangeIdOwner { id, owner }, Outcome::Answer(Answer::Empty)) => {
                let before = owners.insert(id, (owner, from.get()));
                let before = before.map(|(owner, _)| owner);
                assert_eq!(before, Some(from.get()), "{id} was not its own");
            }
            (Message::GetIdOwner(id), Outcome::Answer(Answer::Owner(owner))) => {
                assert_eq!(
                    owners.get(&id).map_or(0, |(owner, _)| *owner),
                    owner,
                    "owner of {id}"
                );
            }
            _ => {}
        }
    }
    assert!(leader.ranges().check_invariants());
});
