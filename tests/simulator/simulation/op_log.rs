//! The operations of a leader in a file: a run records them, and a leader alone replays them.
//!
//! A file has a line that names its format, the limits of the leader, each operation after its
//! length, a length of 0, and the digest of the leader's state after the last operation. Numbers
//! are little-endian: lengths have 32 bits, all others 64.

use std::mem::MaybeUninit;

use libos_ipc::leader::{Leader, Op, SignalLimits};
use libos_ipc::store::Arena;
use libos_ipc::testing::signal_limits;
use libos_ipc::{Config, LockLimits};

const FORMAT: &[u8] = b"operations of libos-ipc, 1\n";

/// The limits of a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaderLimits {
    ranges: usize,
    processes: usize,
    signals: SignalLimits,
    locks: LockLimits,
    wrap_ids: bool,
}

impl LeaderLimits {
    pub(crate) fn of(config: &Config) -> Self {
        let capacities = &config.capacities;
        LeaderLimits {
            ranges: capacities.ranges,
            processes: capacities.processes,
            signals: signal_limits(capacities),
            locks: capacities.locks,
            wrap_ids: config.wrap_ids,
        }
    }

    /// The memory that the leader takes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        Leader::bytes(self.ranges, self.processes, &self.signals, &self.locks)
    }

    pub(crate) fn leader<'m>(&self, memory: &'m mut [MaybeUninit<u8>]) -> Leader<'m> {
        Leader::new(
            &mut Arena::new(memory),
            self.ranges,
            self.processes,
            &self.signals,
            &self.locks,
            self.wrap_ids,
        )
        .expect("the memory is large enough")
    }

    fn numbers(&self) -> [u64; 9] {
        let (signals, locks) = (&self.signals, &self.locks);
        [
            self.ranges,
            self.processes,
            signals.targets,
            signals.queued,
            locks.locks,
            locks.files,
            locks.waiting,
            locks.open_files,
            usize::from(self.wrap_ids),
        ]
        .map(|number| number as u64)
    }

    fn read(file: &mut &[u8]) -> Option<Self> {
        let mut number = || usize::try_from(take_number(file)?).ok();
        Some(LeaderLimits {
            ranges: number()?,
            processes: number()?,
            signals: SignalLimits {
                targets: number()?,
                queued: number()?,
            },
            locks: LockLimits {
                locks: number()?,
                files: number()?,
                waiting: number()?,
                open_files: number()?,
            },
            wrap_ids: number()? != 0,
        })
    }
}

/// A file that is being recorded.
pub(crate) struct OpLog(Vec<u8>);

impl OpLog {
    /// Begins with the limits of the leader.
    pub(crate) fn new(limits: &LeaderLimits) -> Self {
        let numbers = limits.numbers();
        let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
        OpLog(FORMAT.iter().copied().chain(numbers).collect())
    }

    /// Adds the bytes of an operation.
    pub(crate) fn add(&mut self, op: &[u8]) {
        let length = u32::try_from(op.len()).expect("an operation is short");
        self.0.extend(length.to_le_bytes());
        self.0.extend(op);
    }

    /// Ends with the digest of the leader's state. Returns the file.
    pub(crate) fn end(mut self, digest: u64) -> Vec<u8> {
        self.0.extend(0_u32.to_le_bytes());
        self.0.extend(digest.to_le_bytes());
        self.0
    }
}

/// The result of a replay.
pub(crate) struct Replayed {
    /// The number of operations.
    pub(crate) ops: u64,
    /// The digest of the state after the last one.
    pub(crate) digest: u64,
    /// The digest in the file.
    pub(crate) recorded: u64,
}

/// Applies all operations of the file to a new leader.
///
/// # Errors
/// The error text names the fault of the file.
pub(crate) fn replay(file: &[u8]) -> Result<Replayed, String> {
    let mut rest = file
        .strip_prefix(FORMAT)
        .ok_or("these are not recorded operations")?;
    let ends = "the file ends too early";
    let limits = LeaderLimits::read(&mut rest).ok_or(ends)?;
    let mut memory = Box::new_uninit_slice(limits.bytes());
    let mut leader = limits.leader(&mut memory);
    loop {
        let length = take(&mut rest).map(u32::from_le_bytes).ok_or(ends)? as usize;
        if length == 0 {
            break;
        }
        let (op, tail) = rest.split_at_checked(length).ok_or(ends)?;
        rest = tail;
        let number = leader.ops() + 1;
        match Op::decode(op) {
            Some((op, decoded)) if decoded == length => drop(leader.apply(&op)),
            _ => return Err(format!("operation {number} can't be decoded")),
        }
    }
    Ok(Replayed {
        ops: leader.ops(),
        digest: leader.digest(),
        recorded: take_number(&mut rest).ok_or(ends)?,
    })
}

fn take<const N: usize>(file: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = file.split_first_chunk()?;
    *file = rest;
    Some(*bytes)
}

fn take_number(file: &mut &[u8]) -> Option<u64> {
    take(file).map(u64::from_le_bytes)
}
