//! A second leader applies what the first has applied: it comes to the same outcomes and the same state. Again and again it
//! is replaced by a third one, which has loaded the image of the first.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::sync::Mutex;

use libos_ipc::Config;
use libos_ipc::leader::{
    ImageCursor, Leader, MalformedImage, Op, OpObserver, Outcome, SMALLEST_SLICE,
};
use libos_ipc::store::Arena;
use libos_ipc::testing::leader_capacities;

use super::table_observer::TableObserver;
use crate::simulation::op_log::OpLog;
use crate::simulation::world::with;

thread_local! {
    /// The memory of mirrors that were dropped, for reuse.
    static MEMORY: RefCell<Vec<Box<[MaybeUninit<u8>]>>> = const { RefCell::new(Vec::new()) };
}

/// Once in about so many operations the digest is also computed anew, to check the one that is kept. The digest itself
/// chooses the operations, because few runs have as many.
const ANEW_EVERY: u64 = 1000;

/// The image is loaded about once in so many operations, in two steps.
const LOAD_EVERY: u64 = 200;

/// The longest operation in bytes.
const LONGEST_OP: usize = 8192;

/// The memory of a mirror.
pub(crate) struct MirrorMemory(Box<[MaybeUninit<u8>]>);

impl MirrorMemory {
    pub(crate) fn new(config: &Config) -> Self {
        let size = 2 * Leader::bytes(&leader_capacities(config));
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
pub(crate) struct Mirror<'m>(Mutex<Replica<'m>>, TableObserver);

struct Replica<'m> {
    leader: Leader<'m>,
    /// The leader that loads the image, and the checksum of each slice that it has loaded.
    loading: Leader<'m>,
    loaded: Vec<u64>,
    is_loading: bool,
    /// The bytes of the operation that is applied.
    bytes: Box<[u8; LONGEST_OP]>,
    log: Option<OpLog>,
}

impl<'m> Mirror<'m> {
    pub(crate) fn new(
        memory: &'m mut MirrorMemory,
        config: &Config,
        table_observer: TableObserver,
    ) -> Self {
        let capacities = leader_capacities(config);
        let mut arena = Arena::new(&mut memory.0);
        let [leader, loading] = [(); 2].map(|()| {
            let leader = Leader::new(&mut arena, &capacities);
            leader.expect("the memory is large enough")
        });
        let records = with(|world| world.ops.is_some());
        let replica = Mutex::new(Replica {
            leader,
            loading,
            loaded: Vec::new(),
            is_loading: false,
            bytes: Box::new([0; LONGEST_OP]),
            log: records.then(|| OpLog::new(&capacities)),
        });
        Mirror(replica, table_observer)
    }
}

impl Drop for Replica<'_> {
    fn drop(&mut self) {
        if let Some(log) = self.log.take() {
            let file = log.end(self.leader.digest());
            with(|world| world.ops = Some(file));
        }
    }
}

impl Replica<'_> {
    /// Loads the slices that have changed since they were loaded.
    fn load_changes(&mut self, leader: &Leader<'_>) -> Result<(), MalformedImage> {
        let mut slice = [0; SMALLEST_SLICE];
        self.loaded.resize(leader.slices(slice.len()), 0);
        let mut cursor = Some(ImageCursor::START);
        while let Some(at) = cursor {
            let (length, next) = leader
                .save_slice(at, &mut slice)
                .expect("the slice is long enough");
            let slice = &slice[..length];
            let loaded = &mut self.loaded[at.number() as usize];
            let checksum = Leader::slice_checksum(slice)?;
            if std::mem::replace(loaded, checksum) != checksum {
                self.loading.load_slice(slice)?;
            }
            cursor = next;
        }
        Ok(())
    }

    /// Begins to load the image, or loads the rest of it, and lets the leader that has it take the place of the mirror.
    fn load_image(&mut self, leader: &Leader<'_>) -> Result<(), String> {
        let malformed = |MalformedImage| "the image is malformed".to_string();
        if !self.is_loading {
            self.loaded.clear();
        }
        self.load_changes(leader).map_err(malformed)?;
        self.is_loading = !self.is_loading;
        if self.is_loading {
            return Ok(());
        }
        self.loading.finish_load().map_err(malformed)?;
        if self.loading.digest_anew() != leader.digest() {
            return Err("the image leads to another state".into());
        }
        std::mem::swap(&mut self.leader, &mut self.loading);
        Ok(())
    }
}

impl OpObserver for Mirror<'_> {
    fn applied(&self, leader: &Leader<'_>, op: &Op<'_>, outcome: &Outcome) {
        self.1.applied(leader, op, outcome);
        let mut replica = self.0.lock().expect("no other thread has failed");
        let Replica {
            leader: mirror,
            bytes,
            log,
            ..
        } = &mut *replica;
        // The mirror gets the bytes of each operation, as a replica would.
        let length = op.encode(&mut bytes[..]).unwrap_or(0);
        let bytes = &bytes[..length];
        if let Some(log) = log {
            log.add(bytes);
        }
        let mut request = None;
        let decoded = Op::decode(bytes, &mut request);
        let mirrored = mirror.apply(decoded.as_ref().map_or(op, |(decoded, _)| decoded));
        let is_same = decoded == Some((*op, length));
        let is_due = leader.digest().is_multiple_of(ANEW_EVERY);
        let what = if !is_same {
            Err(format!("{op:?} has the bytes of {decoded:?}"))
        } else if mirrored != *outcome {
            Err(format!(
                "{op:?} comes to {outcome:?}, and in the mirror to {mirrored:?}"
            ))
        } else if mirror.ops() != leader.ops() {
            Err("the mirror has missed an operation".into())
        } else if mirror.digest() != leader.digest() {
            Err(format!("by {op:?} the mirror is in another state"))
        } else if is_due && leader.digest_anew() != leader.digest() {
            Err(format!("the digest has missed a change before {op:?}"))
        } else if leader.digest().is_multiple_of(LOAD_EVERY / 2) {
            replica.load_image(leader)
        } else {
            Ok(())
        };
        if what.is_err() {
            with(|world| world.check("mirror", what));
        }
    }
}
