use super::super::{Leader, LeaderCapacities, SignalLimits};
use super::*;
use crate::file_locks::LockLimits;
use crate::shared_state::LeaseLimits;
use crate::store::Arena;

#[test]
fn any_bytes_are_no_operation_or_those_of_the_one_they_decode_to() {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut decoded = 0;
    for _ in 0..200_000 {
        let mut bytes = [0; 96];
        for byte in &mut bytes {
            *byte = if rng.u8(..4) == 0 { rng.u8(..) } else { 0 };
        }
        bytes[0] = rng.u8(..40);
        bytes[1] = rng.u8(..3);
        // The frame has a possible size and any code.
        bytes[HEADER..HEADER + 8].copy_from_slice(&rng.u64(17..70).to_le_bytes());
        let length = rng.usize(..=bytes.len());
        let [mut request, mut reread] = [None; 2];
        let Some((op, length)) = Op::decode(&bytes[..length], &mut request) else {
            continue;
        };
        let mut again = [0; 128];
        // A message with an unknown code is not encoded to its old bytes.
        if let Ok(written) = op.encode(&mut again) {
            let reread = Op::decode(&again[..written], &mut reread);
            assert_eq!(reread.map(|(op, _)| op), Some(op), "{length}");
            decoded += 1;
        }
    }
    assert!(decoded > 10_000, "{decoded}");
}

#[test]
fn any_operations_leave_two_leaders_alike_and_sound() {
    const CAPACITIES: LeaderCapacities = LeaderCapacities {
        ranges: 8,
        processes: 6,
        peers: 3,
        signals: SignalLimits {
            targets: 6,
            queued: 6,
        },
        locks: LockLimits {
            locks: 8,
            files: 4,
            waiting: 6,
            open_files: 6,
        },
        leases: LeaseLimits {
            handles: 3,
            clients: 6,
        },
        sync_data: 16,
        wrap_ids: true,
        roster: 3,
        ..LeaderCapacities::NONE
    };
    let mut rng = fastrand::Rng::with_seed(2);
    for adopts in [false, true] {
        let capacities = LeaderCapacities {
            adopts,
            ..CAPACITIES
        };
        let bytes = Leader::bytes(&capacities);
        let mut memory = [(); 2].map(|()| std::boxed::Box::new_uninit_slice(bytes));
        let [mut leader, mut replica] = memory
            .each_mut()
            .map(|memory| Leader::new(&mut Arena::new(memory), &capacities).unwrap());
        let mut applied = 0;
        while applied < 20_000 {
            let mut bytes = [0; 96];
            for byte in &mut bytes {
                *byte = if rng.u8(..6) == 0 { rng.u8(..8) } else { 0 };
            }
            // One of many says that another process leads, which may be any.
            bytes[0] = if rng.u8(..50) == 0 { 37 } else { rng.u8(1..40) };
            bytes[4] = rng.u8(1..8);
            let code = if rng.bool() {
                rng.u8(1..20)
            } else {
                rng.u8(64..90)
            };
            bytes[HEADER..HEADER + 8].copy_from_slice(&rng.u64(17..70).to_le_bytes());
            bytes[HEADER + 16] = code;
            let mut request = None;
            let Some((op, _)) = Op::decode(&bytes, &mut request) else {
                continue;
            };
            applied += 1;
            assert_eq!(leader.apply(&op), replica.apply(&op), "{op:?}");
            if applied % 64 == 0 {
                assert_eq!(leader.digest(), replica.digest(), "{op:?}");
                assert!(leader.check_invariants(), "{op:?}");
            }
        }
        assert_eq!(leader.digest(), leader.digest_anew());
        assert!(leader.epoch() > 100, "{}", leader.epoch());
    }
}
