//! Sync handles: state that several processes share.

mod line;
mod messages;
mod open;
mod shared;
mod slots;
mod take;

pub use shared::{Reader, Shared, Writer};
pub(crate) use slots::Leases;

/// A sync handle that this process has opened.
///
/// Its number, [`SyncHandle::id`], is all another process needs to open it, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncHandle {
    place: u32,
    id: u64,
    /// Which of those that were opened in that place.
    opened: u32,
}

impl SyncHandle {
    /// The number that it goes by in all processes.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Where it is, and which of those that were opened there: in all processes but this one it has
    /// another.
    #[cfg(feature = "capi")]
    pub(crate) const fn place(&self) -> (u32, u32) {
        (self.place, self.opened)
    }
}

/// What is new about a handle that was just taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Another process has changed the data since this one last used it.
    pub changed: bool,
    /// A process died while it could change the data: it is what that process last gave back. As
    /// `EOWNERDEAD` of a robust mutex; `pthread_mutex_lock(3)`. All who take it are told until one
    /// has taken it to change it.
    pub owner_died: bool,
}
