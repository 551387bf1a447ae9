//! Sync handles: values that several processes share.

mod acquire;
mod call_queue;
mod guards;
mod lease_limit;
mod messages;
mod open;
mod queued_wait;
mod release;
mod shared;
mod slice;
mod slots;
mod when;

pub use guards::{Reader, Writer};
pub(super) use open::misuse;
pub use shared::Shared;
pub use slice::{SliceReader, SliceWriter};
pub(in crate::node) use slots::Opened;
pub(crate) use slots::SyncHandles;

/// A sync handle that this process has opened.
///
/// Another process opens the same handle by its number, [`SyncHandle::id`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncHandle {
    slot_index: u32,
    id: u64,
    /// Counts the handles opened in that slot, so that a closed handle does not name a later one.
    generation: u32,
}

impl SyncHandle {
    /// Returns the handle's number, which is the same in all processes.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Returns the handle's slot in this process, and the generation of that slot. Other processes have other slots.
    #[cfg(feature = "capi")]
    pub(crate) const fn slot_and_generation(&self) -> (u32, u32) {
        (self.slot_index, self.generation)
    }
}

/// The changes of a value before a caller acquired it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(feature = "testing"), non_exhaustive)]
pub struct ValueStatus {
    /// Another process has changed the value since this one last used it.
    pub changed: bool,
    /// A process died while it held the lease to change the value: the value is the last one that
    /// process gave back. As `EOWNERDEAD` of a robust mutex; `pthread_mutex_lock(3)`. All callers
    /// that acquire the value see this until one of them has acquired it to change it.
    pub owner_died: bool,
}
