//! A second leader applies what the first has applied: it comes to the same outcomes and the same state.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use libos_ipc::Config;
use libos_ipc::leader::{Leader, Op, OpObserver, Outcome};
use libos_ipc::store::Arena;

use crate::simulation::world::with;

thread_local! {
    /// Memory of mirrors that are gone: it is used again.
    static MEMORY: RefCell<Vec<Box<[MaybeUninit<u8>]>>> = const { RefCell::new(Vec::new()) };
}

/// After so many operations the digests are compared: each takes a walk through all tables.
const DIGEST_EVERY: u64 = 16;

/// The memory of a mirror.
pub(crate) struct MirrorMemory(Box<[MaybeUninit<u8>]>);

impl MirrorMemory {
    pub(crate) fn new(config: &Config) -> Self {
        let limits = &config.capacities;
        let size = Leader::bytes(
            limits.ranges,
            limits.processes,
            &limits.signals(),
            &limits.locks,
        );
        let mut memory = MEMORY.with_borrow_mut(Vec::pop).unwrap_or_default();
        if memory.len() < size {
            memory = Box::new_uninit_slice(size);
        }
        MirrorMemory(memory)
    }
}

impl Drop for MirrorMemory {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.0);
        MEMORY.with_borrow_mut(|all| all.push(memory));
    }
}

/// The second leader.
pub(crate) struct Mirror<'m> {
    leader: std::sync::Mutex<Leader<'m>>,
}

impl<'m> Mirror<'m> {
    pub(crate) fn new(memory: &'m mut MirrorMemory, config: &Config) -> Self {
        let limits = &config.capacities;
        let leader = Leader::new(
            &mut Arena::new(&mut memory.0),
            limits.ranges,
            limits.processes,
            &limits.signals(),
            &limits.locks,
            config.wrap_ids,
        );
        Mirror {
            leader: std::sync::Mutex::new(leader.expect("the memory is large enough")),
        }
    }
}

impl OpObserver for Mirror<'_> {
    fn applied(&self, leader: &Leader<'_>, op: &Op<'_>, outcome: &Outcome) {
        let mut mirror = self.leader.lock().expect("no other thread has failed");
        // The mirror gets the bytes of each operation, as a replica would.
        let mut bytes = [0; 8192];
        let length = op.encode(&mut bytes).unwrap_or(0);
        let decoded = Op::decode(&bytes[..length]);
        let mirrored = mirror.apply(decoded.as_ref().map_or(op, |(decoded, _)| decoded));
        let is_same = decoded == Some((*op, length));
        let is_due = leader.ops() % DIGEST_EVERY == 0;
        let what = if !is_same {
            Err(format!("{op:?} has the bytes of {decoded:?}"))
        } else if mirrored != *outcome {
            Err(format!(
                "{op:?} comes to {outcome:?}, and in the mirror to {mirrored:?}"
            ))
        } else if mirror.ops() != leader.ops() {
            Err("the mirror has missed an operation".into())
        } else if is_due && mirror.digest() != leader.digest() {
            Err(format!("by {op:?} the mirror is in another state"))
        } else {
            Ok(())
        };
        if what.is_err() {
            with(|world| world.check("mirror", what));
        }
    }
}
