//! The calls of an embedder, one file for each subject.

mod abandoned;
mod children;
mod delegations;
mod exit;
mod fencing;
mod file_locks;
mod forwarded_signals;
mod futures;
mod group_signals;
mod ids;
mod leader_request;
mod leadership;
mod metadata;
mod open_files;
mod owner_cache;
mod parent;
mod process;
mod process_table;
mod shared_state;
mod signals;
mod used_locks;
mod values;

pub use children::ChildSelector;
pub use exit::Exit;
pub use file_locks::lock_range;
pub(crate) use owner_cache::OwnerCache;
pub(crate) use parent::Parent;
pub(crate) use shared_state::SyncHandles;
pub use shared_state::{Reader, Shared, SliceReader, SliceWriter, SyncHandle, ValueStatus, Writer};
pub(crate) use used_locks::UsedLocks;
pub use values::{Arrival, Barrier, Condvar, Queue, Semaphore};
