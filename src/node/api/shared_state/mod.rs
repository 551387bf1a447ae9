//! Sync handles: state that several processes share.

mod acquire;
mod messages;
mod open;
mod shared;
mod slots;
mod wait_queue;

pub use shared::{Reader, Shared, Writer};
pub(crate) use slots::SyncHandles;

/// A sync handle that this process has opened.
///
/// Its number, [`SyncHandle::id`], is all another process needs to open it, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncHandle {
    slot_index: u32,
    id: u64,
    /// Which of those that were opened in that place.
    generation: u32,
}

impl SyncHandle {
    /// The number that it goes by in all processes.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Where it is, and which of those that were opened there: in all processes but this one it has
    /// another.
    #[cfg(feature = "capi")]
    pub(crate) const fn slot_and_generation(&self) -> (u32, u32) {
        (self.slot_index, self.generation)
    }
}

/// What is new about a handle that was just taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ValueStatus {
    /// Another process has changed the data since this one last used it.
    pub changed: bool,
    /// A process died while it could change the data: it is what that process last gave back. As
    /// `EOWNERDEAD` of a robust mutex; `pthread_mutex_lock(3)`. All who take it are told until one
    /// has taken it to change it.
    pub owner_died: bool,
}
