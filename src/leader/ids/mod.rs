//! The owners of IDs.

mod pending_grants;
mod ranges;

pub(super) use pending_grants::PendingGrants;
pub use ranges::{Alloc, Ranges};
