//! The operations of a leader in a file: a run records them, and a leader alone replays them.
//!
//! A file has a line that names its format, the capacities of the leader, each operation after its
//! length, a length of 0, and the digest of the leader's state after the last operation. Numbers
//! are little-endian: lengths have 32 bits, all others 64.

use libos_ipc::leader::{Leader, LeaderCapacities, Op, SignalLimits};
use libos_ipc::store::Arena;
use libos_ipc::{LeaseLimits, LockLimits};

const FORMAT: &[u8] = b"operations of libos-ipc, 6\n";

/// Returns the capacities in the order of the file.
fn numbers(capacities: &LeaderCapacities) -> [u64; 17] {
    let LeaderCapacities {
        ranges,
        processes,
        peers,
        signals,
        locks,
        leases,
        sync_data,
        wrap_ids,
        members,
        id_members,
        roster,
        adopts,
    } = *capacities;
    [
        ranges,
        processes,
        peers,
        signals.targets,
        signals.queued,
        locks.locks,
        locks.files,
        locks.waiting,
        locks.open_files,
        leases.handles,
        leases.clients,
        sync_data,
        usize::from(wrap_ids),
        members,
        id_members,
        roster,
        usize::from(adopts),
    ]
    .map(|number| number as u64)
}

/// Takes the capacities off the file. None if it ends too early.
fn read_capacities(file: &mut &[u8]) -> Option<LeaderCapacities> {
    let mut number = || usize::try_from(take_number(file)?).ok();
    Some(LeaderCapacities {
        ranges: number()?,
        processes: number()?,
        peers: number()?,
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
        leases: LeaseLimits {
            handles: number()?,
            clients: number()?,
        },
        sync_data: number()?,
        wrap_ids: number()? != 0,
        members: number()?,
        id_members: number()?,
        roster: number()?,
        adopts: number()? != 0,
    })
}

/// A file that is being recorded.
pub(crate) struct OpLog(Vec<u8>);

impl OpLog {
    /// Begins with the capacities of the leader.
    pub(crate) fn new(capacities: &LeaderCapacities) -> Self {
        let numbers = numbers(capacities).into_iter().flat_map(u64::to_le_bytes);
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
    let capacities = read_capacities(&mut rest).ok_or(ends)?;
    let mut memory = Box::new_uninit_slice(Leader::bytes(&capacities));
    let leader = Leader::new(&mut Arena::new(&mut memory), &capacities);
    let mut leader = leader.map_err(|error| error.to_string())?;
    loop {
        let length = take(&mut rest).map(u32::from_le_bytes).ok_or(ends)? as usize;
        if length == 0 {
            break;
        }
        let (op, tail) = rest.split_at_checked(length).ok_or(ends)?;
        rest = tail;
        let number = leader.ops() + 1;
        let mut request = None;
        match Op::decode(op, &mut request) {
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

/// Takes so many bytes off the file. None if it is shorter.
fn take<const N: usize>(file: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = file.split_first_chunk()?;
    *file = rest;
    Some(*bytes)
}

fn take_number(file: &mut &[u8]) -> Option<u64> {
    take(file).map(u64::from_le_bytes)
}
