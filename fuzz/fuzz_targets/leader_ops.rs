//! Any bytes of operations, each after its length, are no operation, or equal the bytes of the
//! operation that they decode to. A leader applies all valid operations, and its tables stay
//! consistent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libos_ipc::LockLimits;
use libos_ipc::leader::{Leader, Op, SignalLimits};
use libos_ipc::store::Arena;

const RANGES: usize = 8;
const PROCESSES: usize = 6;
const SIGNALS: SignalLimits = SignalLimits {
    targets: 6,
    queued: 6,
};
const LOCKS: LockLimits = LockLimits {
    locks: 8,
    files: 4,
    waiting: 6,
    open_files: 6,
};

fuzz_target!(|bytes: &[u8]| {
    let size = Leader::bytes(RANGES, PROCESSES, &SIGNALS, &LOCKS);
    let mut memory = [(); 2].map(|()| Box::new_uninit_slice(size));
    let [leader, replica] = memory.each_mut().map(|memory| {
        let mut arena = Arena::new(memory);
        Leader::new(&mut arena, RANGES, PROCESSES, &SIGNALS, &LOCKS, true).expect("enough")
    });
    let (mut leader, mut replica) = (leader, replica);
    let mut rest = bytes;
    while let Some((length, tail)) = rest.split_first() {
        let (op, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        rest = tail;
        let Some((op, decoded)) = Op::decode(op) else {
            continue;
        };
        assert!(decoded <= usize::from(*length), "longer than it is");
        let mut bytes = [0; 512];
        // A message with a code that is unknown has no bytes.
        if let Ok(written) = op.encode(&mut bytes) {
            assert_eq!(Op::decode(&bytes[..written]), Some((op, written)));
        }
        assert_eq!(leader.apply(&op), replica.apply(&op), "{op:?}");
        assert_eq!(leader.digest(), replica.digest(), "{op:?}");
    }
    assert_eq!(leader.digest(), leader.digest_anew());
    assert!(leader.check_invariants());
});
