//! Any bytes of operations, each after its length, are no operation, or equal the bytes of the
//! operation that they decode to. A leader applies all valid operations, and its tables stay
//! consistent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libos_ipc::leader::{ImageCursor, Leader, LeaderCapacities, Op, SMALLEST_SLICE, SignalLimits};
use libos_ipc::store::Arena;
use libos_ipc::{LeaseLimits, LockLimits};

const CAPACITIES: LeaderCapacities = LeaderCapacities {
    members: 3,
    id_members: 3,
    adopts: false,
    roster: 2,
    ranges: 8,
    processes: 6,
    peers: 2,
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
};

fuzz_target!(|bytes: &[u8]| {
    let mut memory = [(); 2].map(|()| Box::new_uninit_slice(Leader::bytes(&CAPACITIES)));
    let [mut leader, mut replica] = memory
        .each_mut()
        .map(|memory| Leader::new(&mut Arena::new(memory), &CAPACITIES).expect("enough"));
    let mut rest = bytes;
    while let Some((length, tail)) = rest.split_first() {
        let (op, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        rest = tail;
        let [mut request, mut reread] = [None; 2];
        let Some((op, decoded)) = Op::decode(op, &mut request) else {
            continue;
        };
        assert!(decoded <= usize::from(*length), "longer than it is");
        let mut bytes = [0; 512];
        // A message with a code that is unknown has no bytes.
        if let Ok(written) = op.encode(&mut bytes) {
            let reread = Op::decode(&bytes[..written], &mut reread);
            assert_eq!(reread, Some((op, written)));
        }
        assert_eq!(leader.apply(&op), replica.apply(&op), "{op:?}");
        assert_eq!(leader.digest(), replica.digest(), "{op:?}");
    }
    assert_eq!(leader.digest(), leader.digest_anew());
    assert!(leader.check_invariants());
    assert!(load(&leader, &mut replica, |_| ()));
    assert_eq!(replica.finish_load(), Ok(()));
    assert_eq!(leader.digest(), replica.digest_anew());
    // A slice with other bytes and the right checksum.
    if let [part, at, byte, ..] = *bytes {
        let is_loaded = load(&leader, &mut replica, |slice| {
            if slice[8] == part {
                let at = 8 + usize::from(at) % (slice.len() - 8);
                slice[at] = byte;
                Leader::seal_slice(slice);
            }
        });
        if is_loaded && replica.finish_load().is_ok() {
            replica.digest();
        }
    }
});

/// Loads the image of the leader into the replica, each slice after a change. Returns false if the replica refuses a slice.
fn load(leader: &Leader<'_>, replica: &mut Leader<'_>, change: impl Fn(&mut [u8])) -> bool {
    let mut cursor = Some(ImageCursor::START);
    while let Some(at) = cursor {
        let mut slice = [0; SMALLEST_SLICE];
        let (length, next) = leader.save_slice(at, &mut slice).expect("long enough");
        change(&mut slice[..length]);
        if replica.load_slice(&slice[..length]).is_err() {
            return false;
        }
        cursor = next;
    }
    true
}
